//! The file of policy tests (`portcullis test`): requests, who sends them, and what is expected to become of them.

use super::Config;
use super::finding::{ConfigErrors, Report};
use super::reader::{Fields, Scope, Value};
use super::secrets;
use super::users;
use super::yaml::Kind;
use crate::json::ClaimPath;
use crate::reason::Reason;
use crate::secret::Secret;
use crate::token::claims::{GATEWAY_ISSUER, VerifiedClaims};
use http::{HeaderName, HeaderValue};
use serde_json::Value as Json;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

/// Where requests come from if nothing is said.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One policy test.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// The line it begins in.
    pub line: usize,
    /// What is sent.
    pub request: Request,
    /// Who sends it.
    pub caller: Caller,
    /// What is expected.
    pub expect: Expectation,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The whole URL; what is sent of it is sent byte for byte.
    pub url: String,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// The address it comes from.
    pub from: IpAddr,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody who shows a token, unless the header fields have one.
    Anonymous,
    /// Who shows this token.
    Token(Secret<String>),
    /// Whoever has these claims, on trust.
    Claims(Arc<VerifiedClaims>),
}

/// What is expected to become of a request; what is `None` is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// What is decided.
    pub decision: Option<Decision>,
    /// The name of the route.
    pub route: Option<String>,
    /// The status of a refusal.
    pub status: Option<u16>,
    /// The reason code.
    pub reason: Option<Reason>,
    /// Header fields the upstream gets, or does not get; no other is looked at.
    pub headers: Vec<(String, Option<String>)>,
}

/// What can be decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is forwarded.
    Allow,
    /// It is refused.
    Deny,
    /// It is forwarded by a route that only observes, and would be refused by one that enforces.
    WouldDeny,
    /// The gateway answers it by itself: one of our own endpoints, or a preflight.
    Answer,
}

impl Decision {
    /// Every decision.
    pub const ALL: &'static [Self] = &[Self::Allow, Self::Deny, Self::WouldDeny, Self::Answer];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would_deny",
            Self::Answer => "answer",
        }
    }
}

/// Reads a file of policy tests for a configuration.
///
/// # Errors
/// [`ConfigErrors`]: every error of the file.
pub fn load(path: &Path, config: &Config) -> Result<Vec<Case>, ConfigErrors> {
    let report = Report::new(path);
    let environment = &secrets::process_environment;
    let cases = super::read_tree(path, environment, &report).map(|root| {
        let folder = path.parent().unwrap_or(Path::new(""));
        let scope = Scope { report: &report, folder, environment, trace: None };
        cases(&Value { scope: &scope, node: &root, path: String::new() }, config)
    });
    report.conclude()?;
    Ok(cases.unwrap_or_default())
}

fn cases(root: &Value<'_>, config: &Config) -> Vec<Case> {
    let Some(fields) = root.fields(&["cases"], &[]) else { return Vec::new() };
    let Some(list) = fields.require("cases", "add a list of cases") else { return Vec::new() };
    if list.is_empty_list() {
        list.error("tests nothing", "add a case: `- name: …`");
    }
    let mut cases: Vec<Case> = Vec::new();
    for item in list.items("write one `- name: …` per case") {
        let Some(case) = case(&item, config) else { continue };
        if let Some(other) = cases.iter().find(|other| other.name == case.name) {
            let what = format!("the case in line {} has this name too", other.line);
            item.error(what, "give each case a name of its own");
        }
        cases.push(case);
    }
    cases
}

fn case(value: &Value<'_>, config: &Config) -> Option<Case> {
    let fields = value.fields(&["name", "request", "claims", "token", "expect"], &[])?;
    let name = fields.require("name", "say in a few words what it shows").and_then(|value| value.text());
    let request = fields
        .require("request", "add request: { method: GET, url: \"https://…\" }")
        .and_then(|value| request(&value));
    let expect =
        fields.require("expect", "add expect: { decision: allow }").and_then(|value| expectation(&value));
    let caller = caller(&fields, config);
    Some(Case {
        name: name?,
        line: value.node.mark.line,
        request: request?,
        caller: caller?,
        expect: expect?,
    })
}

fn caller(fields: &Fields<'_>, config: &Config) -> Option<Caller> {
    match (fields.get("claims"), fields.get("token")) {
        (None, None) => Some(Caller::Anonymous),
        (None, Some(token)) => token.text().map(|token| Caller::Token(Secret::new(token))),
        (Some(claims), None) => assumed(&claims, config).map(|claims| Caller::Claims(Arc::new(claims))),
        (Some(_), Some(token)) => {
            token.error("one too many", "give claims or a token, or neither for a request without one");
            None
        }
    }
}

/// Claims as if a token of their issuer had been verified.
fn assumed(value: &Value<'_>, config: &Config) -> Option<VerifiedClaims> {
    let mut claims = users::claims_of(value);
    let mend = "give the name of an issuer of the configuration, such as gateway, or its exact `iss`";
    let Some(Json::String(named)) = claims.get("iss") else {
        let place = value.member("iss").unwrap_or_else(|| value.clone());
        place.error("says not whose claims these are", mend);
        return None;
    };
    let own = config.sessions.as_ref().filter(|own| named == GATEWAY_ISSUER || *named == own.issuer);
    let other = config.issuers.iter().find(|other| *named == other.name || *named == other.issuer);
    let ours = |name| ClaimPath::parse(name).into_iter().collect::<Vec<_>>();
    let (name, iss, audiences, scopes, roles) = match (own, other) {
        (Some(own), _) => (GATEWAY_ISSUER, &own.issuer, &own.audiences, ours("scope"), ours("roles")),
        (None, Some(other)) => {
            let (scopes, roles) = (other.scopes.clone(), other.roles.clone());
            (other.name.as_str(), &other.issuer, &other.audiences, scopes, roles)
        }
        (None, None) => {
            let place = value.member("iss").unwrap_or_else(|| value.clone());
            place.error(format!("{named:?} is no issuer of the configuration"), mend);
            return None;
        }
    };
    claims.insert("iss".to_owned(), Json::String(iss.clone()));
    let assumed = VerifiedClaims::assumed(name, audiences, &scopes, &roles, claims);
    if assumed.is_none() {
        let mend =
            "write sub as text, aud, scopes and roles as text or lists of text, exp, nbf and iat as numbers";
        value.error("a claim has a type that no verified token's has", mend);
    }
    assumed
}

fn request(value: &Value<'_>) -> Option<Request> {
    let fields = value.fields(&["method", "url", "headers", "from"], &[])?;
    let method = match fields.get("method") {
        Some(value) => value.parsed("a method", "write one such as GET", |text| {
            text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned())
        }),
        None => Some("GET".to_owned()),
    };
    let url = fields.require("url", "give the whole URL, such as https://api.example.com/orders");
    let url = url.and_then(|value| {
        let mend = "give the whole URL, such as https://api.example.com/orders";
        value.parsed("an http or https URL", mend, |text| is_whole_url(text).then(|| text.to_owned()))
    });
    let headers = fields.get("headers").map(|value| header_fields(&value)).unwrap_or_default();
    let from = match fields.get("from") {
        Some(value) => {
            value.parsed("an address", "write an IP address such as 192.0.2.1", |text| text.parse().ok())
        }
        None => Some(CLIENT),
    };
    Some(Request { method: method?, url: url?, headers, from: from? })
}

/// Whether a text is an absolute URL as far as it matters for sending it: the rest is for the gateway to judge.
pub fn is_whole_url(text: &str) -> bool {
    let known = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    known.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#']))
        && !text.contains(char::is_control)
}

fn header_fields(value: &Value<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (name, value) in value.named("write one `Name: value` per header field") {
        if HeaderName::try_from(name).is_err() {
            value.error("not the name of a header field", "use letters, digits and hyphens");
            continue;
        }
        let values = if value.is_list() { value.items("") } else { vec![value] };
        let good = |text: &str| HeaderValue::from_str(text).is_ok().then(|| text.to_owned());
        let read = |value: &Value<'_>| match &value.node.kind {
            Kind::Scalar(scalar) if scalar.text.is_empty() => Some(String::new()),
            _ => value.parsed("the value of a header field", "write it on one line", good),
        };
        headers.extend(values.iter().filter_map(read).map(|value| (name.to_owned(), value)));
    }
    headers
}

fn expectation(value: &Value<'_>) -> Option<Expectation> {
    let known = &["decision", "route", "status", "reason", "headers"];
    let fields = value.fields(known, &[])?;
    if value.keys().next().is_none() {
        value.error("expects nothing", "add decision, route, status, reason or headers");
        return None;
    }
    let decisions: Vec<_> = Decision::ALL.iter().map(|decision| (decision.as_str(), *decision)).collect();
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| (reason.as_str(), *reason)).collect();
    Some(Expectation {
        decision: fields.get("decision").and_then(|value| value.word(&decisions)),
        route: fields.get("route").and_then(|value| value.text()),
        status: fields.get("status").and_then(|value| value.number(100, 599)).and_then(|s| s.try_into().ok()),
        reason: fields.get("reason").and_then(|value| value.word(&reasons)),
        headers: fields.get("headers").map(|value| expected_headers(&value)).unwrap_or_default(),
    })
}

/// The fields that are looked at; one without a value must not be there.
fn expected_headers(value: &Value<'_>) -> Vec<(String, Option<String>)> {
    let named =
        value.named("write one `Name: value` per header field; `Name: null` for one that must be absent");
    let read = |(name, value): (&str, Value<'_>)| {
        let expected = match &value.node.kind {
            Kind::Null => None,
            Kind::Scalar(scalar) if scalar.text.is_empty() => Some(String::new()),
            _ => Some(value.text()?),
        };
        Some((name.to_owned(), expected))
    };
    named.into_iter().filter_map(read).collect()
}
