//! The section `routes`: which requests are served, what they must show, and where they go.

use super::cors;
use super::forward;
use super::rate_limit;
use super::reader::{Fields, Value};
use super::requirement;
use super::server;
use super::units;
use super::upstreams;
use super::web;
use crate::gateway::path::{AllowedInPath, CanonicalPath, Oddity, PathError};
use crate::gateway::route::Route;
use crate::gateway::settings::UpstreamSettings;
use crate::metrics::UNROUTED;
use crate::policy::forward::ForwardPlan;
use crate::policy::pattern::{HostPattern, PathPattern, PathPrefix};
use crate::policy::requirement::Mode;
use crate::policy::route::{RouteMatch, RouteTable};
use http::Method;
use std::collections::HashSet;

/// Where our public keys are served.
const KEYS: &str = "/.well-known/jwks.json";

/// What routes refer to, and what they inherit.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// Names under `upstreams`, also of those with errors.
    pub(super) upstream_names: Vec<&'a str>,
    pub(super) upstreams: &'a [UpstreamSettings],
    /// Names under `issuers`, also of those with errors, and `gateway` if there are sessions.
    pub(super) issuer_names: Vec<&'a str>,
    pub(super) forward: &'a ForwardPlan,
    pub(super) body_bytes: Option<u64>,
    /// Where our own endpoints lie.
    pub(super) endpoints: Option<PathPrefix>,
}

pub(super) fn routes(value: &Value<'_>, around: &Surroundings<'_>, known: &mut forward::Known) -> Vec<Route> {
    let mut placed: Vec<(Value<'_>, RouteMatch)> = Vec::new();
    let mut names = HashSet::new();
    let mut routes = Vec::new();
    for item in value.items("write one `- name: …` per route") {
        let keys = &[
            "name",
            "match",
            "upstream",
            "auth",
            "forward",
            "rewrite",
            "allow_in_path",
            "upgrade",
            "cors",
            "rate_limit",
            "limits",
            "timeouts",
        ];
        let Some(fields) = item.fields(keys, &[]) else { continue };
        let (matched, route) = route(&fields, around, known);
        if let Some((place, matched)) = matched {
            if let Some(name) = fields.get("name")
                && !names.insert(matched.name.clone())
            {
                name.error(format!("two routes are called {}", name.shown()), "give each its own name");
            }
            placed.push((place, matched));
        }
        routes.extend(route);
    }
    report_ties(&placed);
    routes
}

fn report_ties(placed: &[(Value<'_>, RouteMatch)]) {
    let table = RouteTable::build(placed.iter().map(|(_, matched)| (matched.clone(), ())));
    for tie in table.err().unwrap_or_default() {
        let (first, second) = tie.routes;
        if let (Some((first, _)), Some((second, _))) = (placed.get(first), placed.get(second)) {
            let what = format!("matches the same requests as {} (route {:?})", first.path, tie.names.0);
            second.error(what, "give them different hosts, paths or methods");
        }
    }
}

/// The match with its place as soon as it is well formed, so that ties are seen beside other errors.
fn route<'a>(
    fields: &Fields<'a>,
    around: &Surroundings<'_>,
    known: &mut forward::Known,
) -> (Option<(Value<'a>, RouteMatch)>, Option<Route>) {
    let name =
        fields.require("name", "add a name: metrics, logs and errors use it").and_then(|value| name(&value));
    let place = fields.require("match", "say which requests it serves, such as match: { path: /orders/** }");
    let matched = place.as_ref().and_then(route_match);
    if let (Some(place), Some((path, ..)), Some(prefix)) = (&place, &matched, &around.endpoints)
        && (path.lies_below(prefix) || path.to_string() == KEYS)
    {
        place.warning(
            "our own endpoints are found first here",
            "serve it elsewhere, or move sessions.endpoints.prefix",
        );
    }
    let upstream = fields
        .require("upstream", "name the upstream it forwards to")
        .and_then(|value| upstream(&value, around));
    let auth = fields.get("auth");
    let requirement = auth.as_ref().map(|value| requirement::requirement(value, &around.issuer_names));
    let requirement = requirement.unwrap_or_default();
    if let Some(value) = auth.as_ref().filter(|_| requirement.mode == Mode::Public)
        && matched.as_ref().is_some_and(|(path, hosts, _)| hosts.is_empty() && path.to_string() == "/**")
    {
        value.warning("everything no other route serves is public", "make single paths public instead");
    }
    if requirement.mode == Mode::Required && around.issuer_names.is_empty() {
        fields.warning(
            "asks for a token, and no issuer is configured",
            "add issuers or sessions, or auth: public",
        );
    }
    let forward = fields.get("forward").map_or_else(
        || around.forward.clone(),
        |value| forward::forward(&value, around.forward.clone(), known),
    );
    let strip_prefix =
        fields.get("rewrite").and_then(|value| strip_prefix(&value, matched.as_ref().map(|(path, ..)| path)));
    let allow_in_path = fields.get("allow_in_path").map(|value| allowed_in_path(&value)).unwrap_or_default();
    if let (Some((path, ..)), Some(place)) = (&matched, place.as_ref().and_then(|place| place.member("path")))
    {
        check_reachable(&place, path, allow_in_path);
    }
    let cors = fields.get("cors").and_then(|value| cors::cors(&value));
    let rate_limit =
        fields.get("rate_limit").and_then(|value| rate_limit::rate_limit(&value, requirement.mode));
    let limits = fields.get("limits").and_then(|value| value.fields(&["body_bytes"], &[]));
    let body_bytes = limits
        .and_then(|limits| limits.get("body_bytes"))
        .map_or(around.body_bytes, |value| server::body_bytes(&value, around.body_bytes));
    let upgrade = fields.get("upgrade").is_some_and(|value| {
        let settings = upstream.and_then(|(_, settings)| settings);
        upgrade(&value, settings, matched.as_ref().map_or(&[], |(.., methods)| methods))
    });
    let timeouts = upstream.and_then(|(_, settings)| settings).map(|settings| settings.timeouts);
    let timeouts = match fields.get("timeouts") {
        Some(value) => {
            Some(upstreams::timeouts(&value, timeouts.unwrap_or_else(upstreams::default_timeouts)))
        }
        None => timeouts,
    };
    let (Some(name), Some(place), Some((path, hosts, methods))) = (name, place, matched) else {
        return (None, None);
    };
    let matched = RouteMatch { name, hosts, path, methods };
    let settings = upstream.zip(timeouts).map(|((upstream, _), timeouts)| Route {
        matched: matched.clone(),
        upstream: upstream.to_owned(),
        requirement,
        forward,
        strip_prefix,
        allow_in_path,
        cors,
        rate_limit,
        upgrade,
        body_bytes,
        timeouts,
    });
    (Some((place, matched)), settings)
}

fn name(value: &Value<'_>) -> Option<String> {
    let mend = "use up to 64 letters, digits, hyphens, underscores and dots";
    let name = value.parsed("a plain name", mend, |text| web::is_name(text).then(|| text.to_owned()))?;
    if name == UNROUTED {
        value.error(
            "this name means requests that no route serves, in metrics and logs",
            "choose another name",
        );
    }
    Some(name)
}

fn route_match(value: &Value<'_>) -> Option<(PathPattern, Vec<HostPattern>, Vec<Method>)> {
    let fields = value.fields(&["hosts", "path", "methods"], &[])?;
    let hosts = fields.get("hosts").map(|value| list(&value, "remove the key to serve every host", host));
    let methods =
        fields.get("methods").map(|value| list(&value, "remove the key to serve every method", method));
    let path = fields.require("path", "add the path, such as /orders/**, or /** for all").map(|v| path(&v));
    // An absent list is empty, a list with an error is none.
    Some((path??, hosts.unwrap_or(Some(Vec::new()))?, methods.unwrap_or(Some(Vec::new()))?))
}

/// Every item, or `None` if any is wrong, so that no tie is reported of half a list.
fn list<T: PartialEq>(
    value: &Value<'_>,
    mend: &str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if value.is_empty_list() {
        value.error("an empty list serves nothing", mend);
    }
    let items = value.items("write a list such as [a, b]");
    let mut found = Vec::new();
    for item in &items {
        let Some(read) = read(item) else { continue };
        if found.contains(&read) {
            item.error(format!("{} stands here twice", item.shown()), "keep one of the two");
        }
        found.push(read);
    }
    (!items.is_empty() && found.len() == items.len()).then_some(found)
}

fn host(value: &Value<'_>) -> Option<HostPattern> {
    let text = value.text()?;
    match HostPattern::parse(&text) {
        Ok(host) => Some(host),
        Err(error) => {
            value.error(format!("{} is not a host", value.shown()), error.to_string());
            None
        }
    }
}

fn path(value: &Value<'_>) -> Option<PathPattern> {
    let text = value.text()?;
    match PathPattern::parse(&text) {
        Ok(path) => Some(path),
        Err(error) => {
            value.error(format!("{} is not a path", value.shown()), error.to_string());
            None
        }
    }
}

/// The methods of RFC 9110 that are served, and PATCH.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// Methods are case-sensitive (RFC 9110 section 9.1), and every registered one is of capitals and hyphens.
fn method(value: &Value<'_>) -> Option<Method> {
    let text = value.text()?;
    if matches!(text.as_str(), "CONNECT" | "TRACE") {
        value.error(format!("{text} is never served"), "remove it");
        return None;
    }
    let capitals = text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| capitals);
    if method.is_none() {
        let mend = match text.as_str() {
            "*" => "remove the key to serve every method",
            _ => "write methods in capitals, such as GET",
        };
        value.error(format!("{} is not a method", value.shown()), mend);
    } else if !METHODS.contains(&text.as_str())
        && let Some(meant) = units::nearest(&text, METHODS.iter().copied())
    {
        value.warning(format!("{text} is an unusual method"), format!("did you mean {meant}?"));
    }
    method
}

fn upstream<'a>(
    value: &Value<'_>,
    around: &Surroundings<'a>,
) -> Option<(&'a str, Option<&'a UpstreamSettings>)> {
    let text = value.text()?;
    let Some(name) = around.upstream_names.iter().find(|name| **name == text) else {
        let mend = match units::nearest(&text, around.upstream_names.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "add it under upstreams".to_owned(),
        };
        value.error(format!("{} is not an upstream", value.shown()), mend);
        return None;
    };
    Some((name, around.upstreams.iter().find(|upstream| upstream.name == text)))
}

fn strip_prefix(value: &Value<'_>, path: Option<&PathPattern>) -> Option<PathPrefix> {
    let fields = value.fields(&["strip_prefix"], &[])?;
    let value = fields.get("strip_prefix")?;
    let text = value.text()?;
    let prefix = match PathPrefix::parse(&text) {
        Ok(prefix) => prefix,
        Err(error) => {
            value.error(format!("{} is not a prefix", value.shown()), error.to_string());
            return None;
        }
    };
    if path.is_some_and(|path| !path.lies_below(&prefix)) {
        value.error(
            "not every path of this route begins so",
            "give a prefix of match.path, in whole segments and without {…}",
        );
    }
    Some(prefix)
}

fn allowed_in_path(value: &Value<'_>) -> AllowedInPath {
    let allowed = |item: &Value<'_>| {
        let text = item.text()?;
        let oddity = Oddity::parse(&text).ok();
        if oddity.is_none() {
            let known: Vec<_> = Oddity::ALL.iter().map(|oddity| oddity.as_str()).collect();
            let mend = format!("what can be: {}", known.join(", "));
            item.error(format!("{} cannot be allowed in a path", item.shown()), mend);
        }
        oddity
    };
    value.items("write a list such as [\"%2F\"]").iter().filter_map(allowed).collect()
}

/// Reports a path whose requests are all refused before they are its route's.
fn check_reachable(value: &Value<'_>, path: &PathPattern, allowed: AllowedInPath) {
    // A `;` of the path may also come encoded.
    let (plain, encoded) = (path.example(), path.example().replace(';', "%3B"));
    let refused =
        |text: &str| CanonicalPath::parse(text.as_bytes()).and_then(|path| path.check(allowed)).err();
    let Some(error) = refused(&plain).filter(|_| refused(&encoded).is_some()) else { return };
    let mend = match error {
        PathError::NotAllowed(oddity) => {
            format!("add allow_in_path: [{:?}], if the upstream reads it as it stands", oddity.as_str())
        }
        _ => "write another path, or {name} for a segment".to_owned(),
    };
    value.error(format!("{} is never served: {error}", value.shown()), mend);
}

/// Whether the route has WebSocket connections: they begin with a GET over HTTP/1.1 (RFC 6455 section 4.1).
fn upgrade(value: &Value<'_>, upstream: Option<&UpstreamSettings>, methods: &[Method]) -> bool {
    if value.boolean() != Some(true) {
        return false;
    }
    if let Some(upstream) = upstream.filter(|upstream| upstream.http2) {
        let what = format!("{} is spoken to over HTTP/2, where no WebSocket is opened", upstream.name);
        value.error(what, "lead the route to an upstream without http2: true, or remove this key");
    }
    if !methods.is_empty() && !methods.contains(&Method::GET) {
        value.error(
            "no request of this route opens a WebSocket",
            "add GET to match.methods, or remove this key",
        );
    }
    true
}
