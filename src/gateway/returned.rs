//! The response as the client gets it: what concerns the upstream's connection only is taken out, and so is
//! what an upstream may not say.

use super::cors::{self, Cors};
use super::respond;
use crate::endpoints::cookie::CookieSettings;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;

/// Fields for one connection even where `Connection` does not name them (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 3] =
    [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), header::UPGRADE];

/// Fields the engine frames the body by; it replaces them itself.
const FRAMING: [HeaderName; 2] = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];

/// Takes out what the upstream said about its own connection.
pub(super) fn drop_hop_by_hop(response: &mut ResponseHeader) {
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
}
