//! The request as the upstream gets it: what the client may not say is taken out, what the gateway says is
//! put in. The client's own header is left as it came.

use super::admission;
use super::context::RequestContext;
use super::headers::{self, Forwarded};
use super::snapshot::ServedRoute;
use crate::endpoints::cookie::{CookieSettings, Stripped};
use crate::policy::Permit;
use crate::policy::forward::AuthorizationHeader;
use crate::traces::{RequestSpan, TRACEPARENT, TRACESTATE};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};
use pingora_core::protocols::http::server::Session;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{HeaderNameVariant, RequestHeader};

/// Room for a usual header with a token.
const USUAL_HEAD: usize = 2048;

/// What one attempt changes of the client's header.
struct Changes<'a> {
    ctx: &'a RequestContext,
    served: &'a ServedRoute,
    client: &'a RequestHeader,
    peer_is_trusted: bool,
    /// The path that was authorised, less the route's prefix.
    path: &'a str,
    /// What takes the place of the client's `Host`.
    host: Option<HeaderValue>,
    cookies: Cookies,
}

/// What becomes of the client's `Cookie` fields.
enum Cookies {
    Unchanged,
    /// They leave as this one, or not at all.
    Replaced(Option<HeaderValue>),
}

impl<'a> Changes<'a> {
    /// Without a permit nothing leaves.
    fn new(session: &'a Session, ctx: &'a RequestContext, cookies: Cookies) -> Result<(Self, &'a Permit)> {
        let (Some(permit), Some(served), Some(target)) = (&ctx.permit, &ctx.route, &ctx.attempt.target)
        else {
            return Error::e_explain(ErrorType::InternalError, "no permit");
        };
        let client = session.req_header();
        let path = match &served.route.strip_prefix {
            None => ctx.path.as_str(),
            Some(prefix) => prefix.strip(&ctx.path).ok_or_else(|| {
                Error::explain(ErrorType::InternalError, "the route's prefix is not on the path")
            })?,
        };
        let changes = Self {
            ctx,
            served,
            client,
            peer_is_trusted: headers::is_trusted(peer(session)?, &ctx.snapshot.trusted_proxies),
            path,
            host: served.upstream.host(target).map(value).transpose()?,
            cookies,
        };
        Ok((changes, permit))
    }

    /// Whether the client's fields of this name do not leave as they came.
    fn drops(&self, name: &HeaderName) -> bool {
        match *name {
            header::AUTHORIZATION => self.served.route.forward.authorization == AuthorizationHeader::Strip,
            header::COOKIE => matches!(self.cookies, Cookies::Replaced(_)),
            _ => {
                self.ctx.snapshot.protected.is_dropped(name.as_str(), self.peer_is_trusted)
                    || self.ctx.span.as_ref().is_some_and(|span| {
                        // State is of the trace it came with.
                        name == TRACEPARENT || (span.is_root() && name == TRACESTATE)
                    })
            }
        }
    }

    /// Tells every field that is put in, in its spelling.
    fn put_in(
        self,
        session: &Session,
        permit: &Permit,
        mut put: impl FnMut(Bytes, HeaderValue) -> Result<()>,
    ) -> Result<()> {
        let ctx = self.ctx;
        let mut known = |name: &'static str, value| put(Bytes::from_static(name.as_bytes()), value);
        if let Cookies::Replaced(Some(cookies)) = self.cookies {
            known("Cookie", cookies)?;
        }
        let peer = peer(session)?;
        let forwarded = admission::forwarded_claims(&self.client.headers, self.peer_is_trusted, |came| {
            let trusted = &ctx.snapshot.trusted_proxies;
            Forwarded::rebuild(peer, admission::is_tls(session), &ctx.host, came, trusted)
        });
        known("X-Forwarded-For", value(forwarded.addresses)?)?;
        known("X-Forwarded-Proto", HeaderValue::from_static(forwarded.proto))?;
        known("X-Forwarded-Host", value(forwarded.host)?)?;
        known("X-Request-Id", value(ctx.request_id.as_str())?)?;
        // The upstream's span belongs below the request's own.
        if let Some(parent) = ctx.span.as_ref().and_then(RequestSpan::traceparent) {
            known(TRACEPARENT, parent)?;
        }
        permit.identity().try_for_each(|(name, value)| put(name.spelled().clone(), value.clone()))
    }
}

fn peer(session: &Session) -> Result<std::net::IpAddr> {
    admission::peer(session).ok_or_else(|| Error::explain(ErrorType::InternalError, "no peer address"))
}

fn value(text: impl TryInto<HeaderValue, Error = http::header::InvalidHeaderValue>) -> Result<HeaderValue> {
    text.try_into().or_err(ErrorType::InvalidHTTPHeader, "the value of a field")
}

/// Prepares one attempt of the engine's, whose copy of the client's header `outgoing` is.
pub(super) fn prepare(
    session: &Session,
    outgoing: &mut RequestHeader,
    ctx: &RequestContext,
    own: Option<&CookieSettings>,
) -> Result<()> {
    let (changes, permit) = Changes::new(session, ctx, cookies(&outgoing.headers, own)?)?;
    let doomed: Vec<HeaderName> =
        outgoing.headers.keys().filter(|name| changes.drops(name)).cloned().collect();
    for name in doomed {
        outgoing.remove_header(&name);
    }
    set_path(outgoing, changes.path)?;
    if let Some(host) = &changes.host {
        outgoing.insert_header(header::HOST, host.clone())?;
    }
    changes.put_in(session, permit, |name, value| outgoing.insert_header(name, value))
}

/// One attempt as it is sent, of a request that [`is_plain`] and has this body. Its length is that of what is sent, not
/// what the client said.
pub(super) fn whole(
    session: &Session,
    ctx: &RequestContext,
    own: Option<&CookieSettings>,
    body: &[u8],
) -> Result<Vec<u8>> {
    let cookies = cookies(&session.req_header().headers, own)?;
    let (changes, permit) = Changes::new(session, ctx, cookies)?;
    let client = changes.client;
    let mut request = Vec::with_capacity(USUAL_HEAD + body.len());
    request.extend_from_slice(client.method.as_str().as_bytes());
    request.push(b' ');
    let target = client.raw_path();
    if rest_of_target(target, changes.path).is_some() {
        request.extend_from_slice(target);
    } else {
        request.extend_from_slice(changes.path.as_bytes());
        if let Some(query) = client.uri.query() {
            request.push(b'?');
            request.extend_from_slice(query.as_bytes());
        }
    }
    request.extend_from_slice(b" HTTP/1.1\r\n");
    // HTTP/2 names the host elsewhere (RFC 9113 section 8.3.1).
    let authority = || client.uri.authority().map(|authority| value(authority.as_str())).transpose();
    let host = changes.host.clone().map_or_else(authority, |host| Ok(Some(host)))?;
    if let Some(host) = &host {
        put_field(&mut request, b"Host", host);
    }
    // Told in the order of the names, each with its spelling.
    let mut names = client.headers.iter().map(|(name, _)| name);
    client.map(|spelled, value| {
        let spelled = match &spelled {
            HeaderNameVariant::Case(spelled) => spelled.as_slice(),
            HeaderNameVariant::Titled(spelled) => spelled.as_bytes(),
        };
        match names.next() {
            None | Some(&header::CONNECTION | &header::TE) => {}
            Some(&header::HOST) if host.is_some() => {}
            Some(&header::CONTENT_LENGTH) => put_field(&mut request, spelled, &body.len().into()),
            Some(name) if changes.drops(name) => {}
            Some(_) => put_field(&mut request, spelled, value),
        }
        Ok(())
    })?;
    changes.put_in(session, permit, |name, value| {
        put_field(&mut request, &name, &value);
        Ok(())
    })?;
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    Ok(request)
}

fn put_field(head: &mut Vec<u8>, name: &[u8], value: &HeaderValue) {
    head.extend_from_slice(name);
    head.extend_from_slice(b": ");
    head.extend_from_slice(value.as_bytes());
    head.extend_from_slice(b"\r\n");
}

/// Whether a request has a body of a known length or none, and asks nothing of the connection but to be kept or closed, or
/// to be told trailers: then [`whole`] is all that has to be sent.
pub(super) fn is_plain(request: &RequestHeader) -> bool {
    [Version::HTTP_11, Version::HTTP_2].contains(&request.version)
        && request.method != http::Method::HEAD
        && request.raw_path().starts_with(b"/")
        && request.raw_path().iter().all(u8::is_ascii_graphic)
        && request.headers.iter().all(|(name, value)| asks_nothing(name, value))
}

fn asks_nothing(name: &HeaderName, value: &HeaderValue) -> bool {
    match *name {
        header::CONNECTION => {
            let word = value.as_bytes().trim_ascii();
            word.eq_ignore_ascii_case(b"keep-alive") || word.eq_ignore_ascii_case(b"close")
        }
        header::TRANSFER_ENCODING
        | header::EXPECT
        | header::TRAILER
        | header::UPGRADE
        | header::PROXY_AUTHENTICATE
        | header::PROXY_AUTHORIZATION => false,
        _ => !["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str()),
    }
}

/// What follows the path in the client's target, if that begins with just this path.
fn rest_of_target<'a>(target: &'a [u8], path: &str) -> Option<&'a [u8]> {
    target.strip_prefix(path.as_bytes()).filter(|rest| matches!(rest, [] | [b'?', ..]))
}

/// The path that was authorised, less the route's prefix, with the client's query as it came.
fn set_path(outgoing: &mut RequestHeader, path: &str) -> Result<()> {
    if outgoing.uri.authority().is_none() && rest_of_target(outgoing.raw_path(), path).is_some() {
        return Ok(());
    }
    let target = match outgoing.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if outgoing.uri.authority().is_none() || outgoing.version != Version::HTTP_2 {
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
fn cookies(client: &HeaderMap, own: Option<&CookieSettings>) -> Result<Cookies> {
    let strip = |line: &HeaderValue| own.map_or(Stripped::Unchanged, |own| own.strip_own_cookies(line));
    let mut lines = client.get_all(header::COOKIE).into_iter();
    match (lines.next(), lines.next()) {
        (None, _) => return Ok(Cookies::Unchanged),
        (Some(line), None) => match strip(line) {
            Stripped::Unchanged => return Ok(Cookies::Unchanged),
            Stripped::Rest(rest) => return Ok(Cookies::Replaced(Some(rest))),
            Stripped::Nothing => return Ok(Cookies::Replaced(None)),
        },
        _ => {}
    }
    let kept: Vec<HeaderValue> = client
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|line| match strip(line) {
            Stripped::Unchanged => Some(line.clone()),
            Stripped::Rest(rest) => Some(rest),
            Stripped::Nothing => None,
        })
        .collect();
    if kept.is_empty() {
        return Ok(Cookies::Replaced(None));
    }
    let joined = kept.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(b"; ".as_slice());
    let joined = HeaderValue::from_bytes(&joined).or_err(ErrorType::InternalError, "cookies")?;
    Ok(Cookies::Replaced(Some(joined)))
}

/// How many fields of the client's request would be read as identity.
pub(super) fn forged(headers: &HeaderMap, is_identity: impl Fn(&str) -> bool) -> u64 {
    headers
        .keys()
        .filter(|name| is_identity(name.as_str()))
        .map(|name| headers.get_all(name).iter().count() as u64)
        .sum()
}
