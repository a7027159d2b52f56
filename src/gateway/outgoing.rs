//! The request as the upstream gets it: what the client may not say is taken out, what the gateway says is
//! put in. Only the outgoing header is touched.

use super::admission;
use super::context::RequestContext;
use super::headers::{self, Forwarded};
use crate::endpoints::cookie::{CookieSettings, Stripped};
use crate::policy::Permit;
use crate::policy::forward::AuthorizationHeader;
use crate::traces::{RequestSpan, TRACEPARENT, TRACESTATE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

/// Prepares one attempt. Without a permit nothing leaves.
pub(super) fn prepare(
    session: &Session,
    outgoing: &mut RequestHeader,
    ctx: &RequestContext,
    cookies: Option<&CookieSettings>,
) -> Result<()> {
    let (Some(permit), Some(served), Some(target)) = (&ctx.permit, &ctx.route, &ctx.attempt.target) else {
        return Error::e_explain(ErrorType::InternalError, "no permit");
    };
    let client = session.req_header();
    let peer = admission::peer(session)
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "no peer address"))?;
    let trusted = &ctx.snapshot.trusted_proxies;
    let is_trusted = headers::is_trusted(peer, trusted);
    drop_client_fields(outgoing, |name| ctx.snapshot.protected.is_dropped(name, is_trusted));
    if served.route.forward.authorization == AuthorizationHeader::Strip {
        outgoing.remove_header(&header::AUTHORIZATION);
    }
    set_cookies(outgoing, cookies)?;
    let path = match &served.route.strip_prefix {
        None => ctx.path.as_str(),
        Some(prefix) => prefix.strip(&ctx.path).ok_or_else(|| {
            Error::explain(ErrorType::InternalError, "the route's prefix is not on the path")
        })?,
    };
    set_path(outgoing, path)?;
    let forwarded = admission::forwarded_claims(&client.headers, is_trusted, |came| {
        Forwarded::rebuild(peer, admission::is_tls(session), &ctx.host, came, trusted)
    });
    outgoing.insert_header("X-Forwarded-For", forwarded.addresses)?;
    outgoing.insert_header("X-Forwarded-Proto", HeaderValue::from_static(forwarded.proto))?;
    outgoing.insert_header("X-Forwarded-Host", forwarded.host)?;
    outgoing.insert_header("X-Request-Id", ctx.request_id.as_str())?;
    if let Some(span) = &ctx.span {
        continue_trace(outgoing, span)?;
    }
    if let Some(host) = served.upstream.host(target) {
        outgoing.insert_header(header::HOST, host)?;
    }
    set_identity(outgoing, permit)
}

/// The upstream's span belongs below the request's own. State is of the trace it came with.
fn continue_trace(outgoing: &mut RequestHeader, span: &RequestSpan) -> Result<()> {
    if span.is_root() {
        outgoing.remove_header(TRACESTATE);
    }
    span.traceparent().map_or(Ok(()), |value| outgoing.insert_header(TRACEPARENT, value))
}

fn drop_client_fields(outgoing: &mut RequestHeader, drops: impl Fn(&str) -> bool) {
    let doomed: Vec<HeaderName> =
        outgoing.headers.keys().filter(|name| drops(name.as_str())).cloned().collect();
    for name in doomed {
        outgoing.remove_header(&name);
    }
}

fn set_identity(outgoing: &mut RequestHeader, permit: &Permit) -> Result<()> {
    for (name, value) in permit.identity() {
        outgoing.insert_header(name.spelled().clone(), value.clone())?;
    }
    Ok(())
}

/// The path that was authorised, less the route's prefix, with the client's query as it came.
fn set_path(outgoing: &mut RequestHeader, path: &str) -> Result<()> {
    let is_same = || {
        outgoing.raw_path().strip_prefix(path.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'?', ..]))
    };
    if outgoing.uri.authority().is_none() && is_same() {
        return Ok(());
    }
    let target = match outgoing.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if outgoing.uri.authority().is_none() || outgoing.version != http::Version::HTTP_2 {
        // Absolute-form becomes origin-form (RFC 9112 section 3.2.1); `Host` was checked to be the same.
        return outgoing.set_raw_path(target.as_bytes());
    }
    let mut parts = outgoing.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse::<PathAndQuery>().or_err(ErrorType::InternalError, "path")?);
    outgoing.set_uri(Uri::from_parts(parts).or_err(ErrorType::InternalError, "target")?);
    Ok(())
}

/// Our own cookies are ours alone: no upstream sees them. The others leave in one field: HTTP/2 clients send
/// them in several, which means nothing in HTTP/1.1 (RFC 9113 section 8.2.3).
fn set_cookies(outgoing: &mut RequestHeader, own: Option<&CookieSettings>) -> Result<()> {
    let lines: Vec<HeaderValue> = outgoing.headers.get_all(header::COOKIE).into_iter().cloned().collect();
    let strip = |line: &HeaderValue| own.map_or(Stripped::Unchanged, |own| own.strip_own_cookies(line));
    if lines.len() < 2 && lines.iter().all(|line| strip(line) == Stripped::Unchanged) {
        return Ok(());
    }
    let mut kept: Vec<HeaderValue> = Vec::with_capacity(lines.len());
    for line in lines {
        match strip(&line) {
            Stripped::Unchanged => kept.push(line),
            Stripped::Rest(rest) => kept.push(rest),
            Stripped::Nothing => {}
        }
    }
    outgoing.remove_header(&header::COOKIE);
    if kept.is_empty() {
        return Ok(());
    }
    let joined = kept.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(b"; ".as_slice());
    let joined = HeaderValue::from_bytes(&joined).or_err(ErrorType::InternalError, "cookies")?;
    outgoing.insert_header(header::COOKIE, joined)
}

/// How many fields of the client's request would be read as identity.
pub(super) fn forged(headers: &HeaderMap, is_identity: impl Fn(&str) -> bool) -> u64 {
    headers
        .keys()
        .filter(|name| is_identity(name.as_str()))
        .map(|name| headers.get_all(name).iter().count() as u64)
        .sum()
}
