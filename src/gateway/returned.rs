//! The response as the client gets it: what concerns the upstream's connection only is taken out, and so is
//! what an upstream may not say.

use super::cors::{self, Cors};
use super::respond;
use crate::endpoints::cookie::CookieSettings;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;

/// Fields for one connection even where `Connection` does not name them (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 3] =
    [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), header::UPGRADE];

/// What the gateway itself says in an answer's header.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields the engine frames the body by; it replaces them itself.
const FRAMING: [HeaderName; 2] = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];

/// Takes out what the upstream said about its own connection, and about a body where none can be: 1xx and 204
/// (RFC 9110 section 8.6, RFC 9112 section 6.1). The client is spoken to in our version.
pub(super) fn drop_hop_by_hop(response: &mut ResponseHeader) {
    response.set_version(Version::HTTP_11);
    if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
        for name in &FRAMING {
            response.remove_header(name);
        }
    }
    if response.headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = response
            .headers
            .get_all(header::CONNECTION)
            .into_iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .filter(|name| !FRAMING.contains(name))
            .collect();
        for name in named {
            response.remove_header(&name);
        }
        response.remove_header(&header::CONNECTION);
    }
    if response.headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            response.remove_header(name);
        }
    }
}

/// Takes out of a trailer what belongs into a header or to us (RFC 9110 section 6.5.1): a client that merges the two
/// would take it for the upstream's.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let misplaced = |name: &HeaderName| {
        cors::is_cors(name)
            || FRAMING.contains(name)
            || HOP_BY_HOP.contains(name)
            || [header::SET_COOKIE, header::CONNECTION, X_REQUEST_ID].contains(name)
    };
    let doomed: Vec<HeaderName> = trailers.keys().filter(|name| misplaced(name)).cloned().collect();
    for name in doomed {
        trailers.remove(name);
    }
}

/// An upstream can never set our cookies.
pub(super) fn keep_own_cookies(response: &mut ResponseHeader, cookies: &CookieSettings) -> Result<()> {
    let lines: Vec<HeaderValue> = response.headers.get_all(header::SET_COOKIE).into_iter().cloned().collect();
    if !lines.iter().any(|line| cookies.is_own_set_cookie(line)) {
        return Ok(());
    }
    response.remove_header(&header::SET_COOKIE);
    for line in lines.into_iter().filter(|line| !cookies.is_own_set_cookie(line)) {
        response.append_header(header::SET_COOKIE, line)?;
    }
    Ok(())
}

/// What pages may read is ours to say: the upstream's word on it is replaced.
pub(super) fn replace_cors(response: &mut ResponseHeader, cors: &Cors, request: &HeaderMap) -> Result<()> {
    let theirs: Vec<HeaderName> =
        response.headers.keys().filter(|name| cors::is_cors(name)).cloned().collect();
    for name in theirs {
        response.remove_header(&name);
    }
    if response.status.is_informational() {
        return Ok(());
    }
    for (name, value) in cors.answer(request) {
        response.append_header(respond::spelled(&name), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("Connection", "Upgrade, X-Hop"),
            ("connection", "content-length"),
            ("Upgrade", "h2c"),
            ("Keep-Alive", "timeout=5"),
            ("X-Hop", "1"),
            ("X-End", "2"),
            ("Content-Length", "3"),
        ] {
            response.append_header(name, value).unwrap();
        }
        drop_hop_by_hop(&mut response);
        let mut left: Vec<_> = response.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-end"]);
    }

    #[test]
    fn what_has_no_body_tells_of_none() {
        for (status, kept) in [(103, false), (204, false), (200, true), (304, true)] {
            let mut response = ResponseHeader::build(status, None).unwrap();
            response.set_version(Version::HTTP_10);
            response.append_header("Content-Length", "3").unwrap();
            drop_hop_by_hop(&mut response);
            assert_eq!(response.headers.contains_key("content-length"), kept, "{status}");
            assert_eq!(response.version, Version::HTTP_11);
        }
    }

    #[test]
    fn a_trailer_keeps_what_belongs_there() {
        let names = [
            "grpc-status",
            "Set-Cookie",
            "Access-Control-Allow-Origin",
            "X-Request-Id",
            "Content-Length",
            "X-Sum",
        ];
        let mut trailers = HeaderMap::new();
        for name in names {
            trailers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("1"));
        }
        clean_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-sum"]);
    }
}
