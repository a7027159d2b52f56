//! Cross-site requests: which calls of the cookie endpoints a foreign page may have caused. Pure.

use super::origin::Origin;
use http::header::{self, HeaderMap, HeaderName};

/// Fetch Metadata's header.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What clients that are no browsers send with a cookie: no page can add it without a preflight.
pub const REQUEST_HEADER: HeaderName = HeaderName::from_static("x-portcullis-request");

/// Whether a request with a cookie may be a foreign page's doing.
///
/// An allowed origin is let in. Otherwise `Sec-Fetch-Site` decides; without it, or when it names no site
/// (`none`: no page caused the request), `Origin`; without that, our own header. An `Origin` that is `null`,
/// repeated or a list is refused whatever else is said.
pub fn is_cross_site(headers: &HeaderMap, own: &[Origin], allowed: &[Origin]) -> bool {
    let origin = match the_origin(headers) {
        Sent::Absent => None,
        Sent::One(origin) => Some(origin),
        Sent::Malformed => return true,
    };
    if origin.as_ref().is_some_and(|origin| allowed.contains(origin)) {
        return false;
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE).into_iter().map(http::HeaderValue::as_bytes);
    match (sites.next(), sites.next()) {
        (Some(b"same-origin"), None) => false,
        (None | Some(b"none"), None) => match origin {
            Some(origin) => !own.contains(&origin),
            None => headers.get(REQUEST_HEADER).is_none_or(|value| value != "1"),
        },
        _ => true,
    }
}

/// Whether a browser made the request: they all send one of these with a `POST`.
pub fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_FETCH_SITE) || headers.contains_key(header::ORIGIN)
}

/// The request's origin if it is one of the allowed ones, for the CORS answer.
pub fn allowed_origin<'a>(headers: &HeaderMap, allowed: &'a [Origin]) -> Option<&'a Origin> {
    match the_origin(headers) {
        Sent::One(origin) => allowed.iter().find(|one| **one == origin),
        Sent::Absent | Sent::Malformed => None,
    }
}

enum Sent {
    Absent,
    One(Origin),
    Malformed,
}

fn the_origin(headers: &HeaderMap) -> Sent {
    let mut values = headers.get_all(header::ORIGIN).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Sent::Absent,
        (Some(value), None) => match value.to_str().ok().and_then(Origin::parse) {
            Some(origin) => Sent::One(origin),
            None => Sent::Malformed,
        },
        (Some(_), Some(_)) => Sent::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const OWN: &str = "https://app.example.com";
    const ALLOWED: &str = "https://partner.example.net";
    const EVIL: &str = "https://evil.test";

    fn refused(fields: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        is_cross_site(&headers, &[Origin::parse(OWN).unwrap()], &[Origin::parse(ALLOWED).unwrap()])
    }

    #[test]
    fn calls_our_own_pages_and_allowed_origins_make_are_let_in() {
        for fields in [
            &[("sec-fetch-site", "same-origin")][..],
            &[("sec-fetch-site", "same-origin"), ("origin", OWN)],
            &[("origin", OWN)],
            &[("origin", "https://APP.example.com:443")],
            &[("sec-fetch-site", "none"), ("origin", OWN)],
            &[("sec-fetch-site", "none"), ("x-portcullis-request", "1")],
            &[("x-portcullis-request", "1")],
            &[("sec-fetch-site", "cross-site"), ("origin", ALLOWED)],
            &[("sec-fetch-site", "same-site"), ("origin", ALLOWED)],
            &[("origin", ALLOWED)],
        ] {
            assert!(!refused(fields), "{fields:?}");
        }
    }

    #[test]
    fn calls_a_foreign_page_may_have_caused_are_refused() {
        for fields in [
            &[][..],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "none"), ("origin", "chrome-extension://abcdef")],
            &[("sec-fetch-site", "cross-site"), ("origin", EVIL)],
            &[("sec-fetch-site", "cross-site"), ("origin", OWN)],
            &[("sec-fetch-site", "cross-site"), ("x-portcullis-request", "1")],
            &[("sec-fetch-site", "Same-Origin")],
            &[("sec-fetch-site", "unknown")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-origin"), ("origin", "null")],
            &[("origin", EVIL)],
            &[("origin", EVIL), ("x-portcullis-request", "1")],
            &[("origin", "null")],
            &[("origin", "null"), ("x-portcullis-request", "1")],
            &[("origin", "")],
            &[("origin", OWN), ("origin", OWN)],
            &[("origin", ALLOWED), ("origin", EVIL)],
            &[("origin", "https://app.example.com https://evil.test")],
            &[("origin", "https://app.example.com, https://evil.test")],
            &[("origin", "http://app.example.com")],
            &[("origin", "https://app.example.com:8443")],
            &[("origin", "https://app.example.com.evil.test")],
            &[("origin", "https://evil.test/https://app.example.com")],
            &[("x-portcullis-request", "0")],
            &[("x-portcullis-request", "")],
        ] {
            assert!(refused(fields), "{fields:?}");
        }
    }

    #[test]
    fn only_an_allowed_origin_gets_a_cors_answer() {
        let allowed = [Origin::parse(ALLOWED).unwrap()];
        let with =
            |value: &'static str| HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(value))]);
        assert_eq!(allowed_origin(&with(ALLOWED), &allowed), Some(&allowed[0]));
        assert_eq!(allowed_origin(&with(EVIL), &allowed), None);
        assert_eq!(allowed_origin(&with("null"), &allowed), None);
        assert_eq!(allowed_origin(&HeaderMap::new(), &allowed), None);
    }
}
