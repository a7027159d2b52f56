//! Decisions for a proxy that forwards by itself: nginx `auth_request`, Traefik `forwardAuth`, Envoy `ext_authz`.
//! The request that is judged takes the place of the one that asks; all that follows is what judges any request.

use super::context::RequestContext;
use super::decision::Verdict;
use super::{Gateway, denial, request_id, respond};
use crate::panics::{Place, contain};
use crate::policy::{Denial, Permit};
use crate::reason::Reason;
use crate::reply::Reply;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use pingora_core::protocols::http::server::Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{FailToProxy, ProxyHttp, Session as EngineSession};
use std::sync::Arc;

/// The proxy that asks, each with its own way to say what it asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// `X-Original-Method`, and `X-Original-URI` (a target) or `X-Original-URL` (with scheme and host).
    Nginx,
    /// `X-Forwarded-Method`, `X-Forwarded-Uri` and `X-Forwarded-Host`.
    Traefik,
    /// The request itself is the one to judge.
    Envoy,
}

const ORIGINAL_METHOD: &str = "x-original-method";
const ORIGINAL_URI: &str = "x-original-uri";
const ORIGINAL_URL: &str = "x-original-url";
const FORWARDED_METHOD: &str = "x-forwarded-method";
const FORWARDED_URI: &str = "x-forwarded-uri";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// What Envoy takes away from the request before it adds what we answered with.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// The request to be judged.
#[derive(Debug, PartialEq, Eq)]
struct Original {
    method: Method,
    target: String,
    /// Absent: the one the question was sent to.
    host: Option<HeaderValue>,
}

/// The gateway as a judge: it decides and forwards nothing.
pub struct Judge {
    gateway: Gateway,
    asker: Option<Asker>,
}

impl Judge {
    /// A judge for this kind of proxy; `None` tells by each question which it is.
    pub fn new(gateway: Gateway, asker: Option<Asker>) -> Self {
        Self { gateway, asker }
    }

    async fn answer(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        mut reply: Reply,
    ) -> Result<bool> {
        // Traefik asks by GET about a HEAD too. One without a body is answered alike.
        if session.req_header().method == Method::HEAD {
            reply.body = Bytes::new();
        }
        ctx.status = Some(reply.status);
        respond::send(session, &reply, &ctx.request_id).await.map_err(Error::into_down)?;
        Ok(true)
    }

    async fn judge(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
        let headers = &session.req_header().headers;
        let question = asker(self.asker, headers).and_then(|asker| Ok((asker, original(asker, headers)?)));
        let asker = match question {
            Err(why) => {
                ctx.request_id = request_id::of(headers);
                ctx.reason = Reason::BadRequest;
                // Whoever set up the proxy has to read it.
                let reply = Reply::problem(403, Reason::BadRequest, why, &ctx.request_id, false);
                return self.answer(session, ctx, reply).await;
            }
            Ok((asker, original)) => {
                if let Some(original) = original {
                    put(original, session.req_header_mut())?;
                }
                asker
            }
        };
        let refused = match self.gateway.decide(session, ctx).await {
            Verdict::Forward(served, permit) => {
                ctx.allow(&served, &permit);
                let reply = allowed(&permit, session.req_header(), ctx, asker);
                ctx.permit = Some(permit);
                return self.answer(session, ctx, reply).await;
            }
            Verdict::Refuse(denial) => denial,
            // The proxy that asks sends these to us, and does not ask about them.
            Verdict::Endpoint(_) => Denial::new(Reason::NoRoute),
            // Only the route's own gateway could answer it; nobody else is told that it may pass unseen.
            Verdict::Preflight(..) => Denial::new(Reason::Preflight),
        };
        // nginx knows only 401 and 403 as refusals. An outage is none.
        let status = match denial::status(refused.reason) {
            status @ (401 | 429 | 503) => status,
            _ => 403,
        };
        let reply = Gateway::refusal(session, ctx, &refused, status);
        self.answer(session, ctx, reply).await
    }
}

#[async_trait]
impl ProxyHttp for Judge {
    type CTX = Box<RequestContext>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(self.gateway.context(Arc::default()))
    }

    async fn early_request_filter(&self, session: &mut EngineSession, ctx: &mut Self::CTX) -> Result<()> {
        self.gateway.begin(session, ctx);
        Ok(())
    }

    async fn request_filter(&self, session: &mut EngineSession, ctx: &mut Self::CTX) -> Result<bool> {
        let answered = contain(Place::Request, self.judge(session, ctx)).await;
        answered.unwrap_or_else(|panicked| Error::e_explain(ErrorType::InternalError, panicked.to_string()))
    }

    async fn upstream_peer(
        &self,
        _session: &mut EngineSession,
        _ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "a judge forwards nothing")
    }

    async fn fail_to_proxy(
        &self,
        session: &mut EngineSession,
        error: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        self.gateway.fail(session, error, ctx).await
    }

    async fn logging(&self, session: &mut EngineSession, error: Option<&Error>, ctx: &mut Self::CTX) {
        self.gateway.conclude(session, error, ctx).await;
    }

    fn request_summary(&self, session: &EngineSession, ctx: &Self::CTX) -> String {
        ctx.summary(session)
    }
}

/// Who asks. Where nobody says so, the fields tell, and those of two proxies are refused: one of them may be a
/// client's, who would have something else judged than what it gets.
fn asker(pinned: Option<Asker>, headers: &HeaderMap) -> Result<Asker, &'static str> {
    if let Some(asker) = pinned {
        return Ok(asker);
    }
    let has = |names: &[&str]| names.iter().any(|name| headers.contains_key(*name));
    match (has(&[ORIGINAL_METHOD, ORIGINAL_URI, ORIGINAL_URL]), has(&[FORWARDED_METHOD, FORWARDED_URI])) {
        (true, true) => {
            Err("X-Original-* and X-Forwarded-Uri or -Method came together: set forward_auth.proxy")
        }
        (true, false) => Ok(Asker::Nginx),
        (false, true) => Ok(Asker::Traefik),
        (false, false) => Ok(Asker::Envoy),
    }
}

/// The request that is asked about; `None`: the one that asks.
fn original(asker: Asker, headers: &HeaderMap) -> Result<Option<Original>, &'static str> {
    let (method, (target, host)) = match asker {
        Asker::Envoy => return Ok(None),
        Asker::Nginx => {
            let method = one(headers, ORIGINAL_METHOD)?
                .ok_or("X-Original-Method is missing: proxy_set_header X-Original-Method $request_method;")?;
            let place = match (one(headers, ORIGINAL_URI)?, one(headers, ORIGINAL_URL)?) {
                (Some(_), Some(_)) => {
                    return Err("X-Original-URI and X-Original-URL came together: send one");
                }
                (Some(target), None) => (target, None),
                (None, Some(url)) => parted(url).ok_or("X-Original-URL is no URL")?,
                (None, None) => {
                    return Err("X-Original-URI is missing: proxy_set_header X-Original-URI $request_uri;");
                }
            };
            (method, place)
        }
        Asker::Traefik => {
            let method = one(headers, FORWARDED_METHOD)?.ok_or("X-Forwarded-Method is missing")?;
            let target = one(headers, FORWARDED_URI)?.ok_or("X-Forwarded-Uri is missing")?;
            (method, (target, one(headers, FORWARDED_HOST)?))
        }
    };
    let method = method.parse().map_err(|_| "the method that is asked about is none")?;
    if !target.starts_with('/') || target.contains('#') || !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the target that is asked about is no path: send it as the client did");
    }
    let host =
        host.map(HeaderValue::from_str).transpose().map_err(|_| "the host that is asked about is none")?;
    Ok(Some(Original { method, target: target.to_owned(), host }))
}

/// The value of a field that must not be there twice.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, &'static str> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| "a field that says what is asked is no text")
        }
        _ => Err("a field that says what is asked came twice"),
    }
}

/// The target and the host of `http://host/target`.
fn parted(url: &str) -> Option<(&str, Option<&str>)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let (host, target) = rest.split_at_checked(rest.find('/')?)?;
    Some((target, Some(host)))
}

/// Puts the request that is asked about in the place of the one that asks.
fn put(original: Original, request: &mut RequestHeader) -> Result<()> {
    for name in [ORIGINAL_METHOD, ORIGINAL_URI, ORIGINAL_URL, FORWARDED_METHOD, FORWARDED_URI] {
        request.remove_header(name);
    }
    request.set_method(original.method);
    request.set_raw_path(original.target.as_bytes())?;
    match original.host {
        Some(host) => request.insert_header(header::HOST, host),
        None => Ok(()),
    }
}

/// The identity headers, for the proxy to set.
fn allowed(permit: &Permit, request: &RequestHeader, ctx: &RequestContext, asker: Asker) -> Reply {
    let mut reply = Reply::empty(200).with_static(header::CACHE_CONTROL, "no-store");
    for (name, value) in permit.identity() {
        reply.headers.push((name.name().clone(), value.clone()));
    }
    if asker == Asker::Envoy {
        let protected = &ctx.snapshot.protected;
        let rules = ctx.route.iter().flat_map(|served| served.route.forward.headers.iter());
        let mut gone: Vec<&str> = rules.map(|rule| rule.name.name().as_str()).collect();
        // Envoy need not have shown us every field that it has from its client.
        gone.extend(protected.plain());
        let sent = request.headers.keys().map(HeaderName::as_str);
        gone.extend(sent.filter(|name| protected.is_protected(name)));
        gone.retain(|name| !reply.headers.iter().any(|(set, _)| set.as_str() == *name));
        gone.sort_unstable();
        gone.dedup();
        if !gone.is_empty() {
            reply = reply.with(TO_REMOVE, &gone.join(","));
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn read(fields: &[(&'static str, &'static str)]) -> Result<Option<Original>, &'static str> {
        let headers = headers(fields);
        original(asker(None, &headers)?, &headers)
    }

    fn judged(method: Method, target: &str, host: Option<&'static str>) -> Original {
        Original { method, target: target.to_owned(), host: host.map(HeaderValue::from_static) }
    }

    #[test]
    fn each_proxy_is_understood_by_its_own_fields() {
        let nginx = [(ORIGINAL_METHOD, "POST"), (ORIGINAL_URI, "/a%2Fb?c=d")];
        assert_eq!(read(&nginx), Ok(Some(judged(Method::POST, "/a%2Fb?c=d", None))));
        let ingress = [(ORIGINAL_METHOD, "PUT"), (ORIGINAL_URL, "https://api.example.com:8443/a?b")];
        assert_eq!(read(&ingress), Ok(Some(judged(Method::PUT, "/a?b", Some("api.example.com:8443")))));
        let traefik = [(FORWARDED_METHOD, "GET"), (FORWARDED_URI, "/a"), (FORWARDED_HOST, "api.example.com")];
        assert_eq!(read(&traefik), Ok(Some(judged(Method::GET, "/a", Some("api.example.com")))));
        assert_eq!(read(&[(FORWARDED_HOST, "api.example.com")]), Ok(None));
    }

    #[test]
    fn what_is_missing_double_or_of_two_proxies_is_refused() {
        for fields in [
            &[(ORIGINAL_URI, "/a")][..],
            &[(ORIGINAL_METHOD, "GET")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "/a")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "/a"), (ORIGINAL_URI, "/b")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "/a"), (ORIGINAL_URL, "http://x/a")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "/a"), (FORWARDED_URI, "/public")],
            &[(FORWARDED_METHOD, "GET"), (FORWARDED_URI, "/a"), (ORIGINAL_URL, "http://x/public")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "a")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "http://x/a")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "/a#b")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URI, "/a b")],
            &[(ORIGINAL_METHOD, "G T"), (ORIGINAL_URI, "/a")],
            &[(ORIGINAL_METHOD, "GET"), (ORIGINAL_URL, "/a")],
            &[(FORWARDED_METHOD, "GET")],
            &[(FORWARDED_URI, "/a")],
        ] {
            assert!(read(fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn one_that_is_named_is_not_told_by_fields_a_client_can_send() {
        let both = headers(&[
            (ORIGINAL_METHOD, "GET"),
            (ORIGINAL_URI, "/a"),
            (FORWARDED_METHOD, "GET"),
            (FORWARDED_URI, "/public"),
        ]);
        assert_eq!(asker(Some(Asker::Envoy), &both), Ok(Asker::Envoy));
        assert_eq!(original(Asker::Nginx, &both), Ok(Some(judged(Method::GET, "/a", None))));
        assert_eq!(original(Asker::Envoy, &both), Ok(None));
    }
}
