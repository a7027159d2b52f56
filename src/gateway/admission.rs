//! The first look at a request: size, framing, host and path, before any rule is asked.

use super::context::RequestContext;
use super::guard::Guarded;
use super::headers::{self, ForwardedClaims};
use super::path::CanonicalPath;
use super::request_id;
use crate::reason::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use pingora_core::protocols::http::server::Session;
use pingora_core::protocols::http::v1::server::HttpSession as Http1Session;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

/// Checks what can be checked without a route and fills in what the request is known by.
///
/// # Errors
/// The reason why the request is malformed on every route.
pub(super) fn admit(session: &Session, ctx: &mut RequestContext) -> Result<CanonicalPath, Reason> {
    let request = session.req_header();
    identify(session, ctx)?;
    let limits = &ctx.snapshot.limits;
    if request.raw_path().len() > limits.target_bytes {
        return Err(Reason::TargetTooLong);
    }
    let block: usize =
        request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if block > limits.header_bytes || request.headers.len() > limits.header_fields {
        return Err(Reason::HeaderTooLarge);
    }
    if !is_served(&request.method) {
        return Err(Reason::MethodNotAllowed);
    }
    framing(session)?;
    if !Guarded::has_clear_request_line(session.stream()) {
        return Err(Reason::BadRequest);
    }
    if !is_whole_target(session) {
        return Err(Reason::BadPath);
    }
    ctx.host = host(session)?;
    CanonicalPath::parse(request.uri.path().as_bytes()).map_err(|_| Reason::BadPath)
}

/// Who asks, and the identifier the answer and the log line carry.
fn identify(session: &Session, ctx: &mut RequestContext) -> Result<(), Reason> {
    let headers = &session.req_header().headers;
    ctx.request_id = request_id::of(headers);
    let peer = peer(session).ok_or(Reason::Internal)?;
    let trusted = &ctx.snapshot.trusted_proxies;
    (ctx.client, ctx.https) = forwarded_claims(headers, headers::is_trusted(peer, trusted), |came| {
        let client = headers::client_address(peer, came.addresses.iter().copied(), trusted);
        (client, came.is_https(is_tls(session)))
    });
    Ok(())
}

/// What a proxy says about the client, the protocol and the host.
const FORWARDED: [HeaderName; 3] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
];

/// Passes on what came in the forwarded fields; of a stranger nothing is read.
pub(super) fn forwarded_claims<T>(
    headers: &HeaderMap,
    peer_is_trusted: bool,
    tell: impl FnOnce(ForwardedClaims<'_>) -> T,
) -> T {
    if !peer_is_trusted {
        return tell(ForwardedClaims::default());
    }
    let [of_for, of_proto, of_host] = FORWARDED;
    let addresses: Vec<_> = values(headers, &of_for).collect();
    let addresses: Vec<&str> = addresses.iter().map(|list| &**list).collect();
    let (proto, host) = (values(headers, &of_proto).last(), values(headers, &of_host).last());
    tell(ForwardedClaims { addresses: &addresses, proto: proto.as_deref(), host: host.as_deref() })
}

/// The address at the other end of the connection.
pub(super) fn peer(session: &Session) -> Option<IpAddr> {
    session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip)
}

/// Whether the client's connection is TLS.
pub(super) fn is_tls(session: &Session) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

/// The values of a field, in order. None is left out, since what a proxy says counts by its place: what is no text
/// in one becomes a sign that stands for nothing.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl DoubleEndedIterator<Item = Cow<'a, str>> {
    headers.get_all(name).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Methods are case-sensitive (RFC 9110 section 9.1) and none that is in use has small letters: `delete` is
/// no method that a route names, but some upstreams would take it for `DELETE`.
pub(super) fn is_served(method: &Method) -> bool {
    !matches!(*method, Method::TRACE | Method::CONNECT)
        && !method.as_str().bytes().any(|b| b.is_ascii_lowercase())
}

/// Whether the path that is judged is the whole of the target: in origin or absolute form, or `*` (RFC 9112
/// section 3.2), and without a fragment. The parser makes `/` of any other form, and drops a fragment, which
/// only the raw request line still shows.
fn is_whole_target(session: &Session) -> bool {
    let target = session.req_header().raw_path();
    let scheme = target.split(|b| *b == b':').next().unwrap_or_default();
    let known = target.starts_with(b"/")
        || target == b"*"
        || scheme.eq_ignore_ascii_case(b"http")
        || scheme.eq_ignore_ascii_case(b"https");
    let raw = session.as_http1().map(Http1Session::get_headers_raw_bytes).unwrap_or_default();
    known && !has_fragment(&raw)
}

/// Whether the request line has a fragment. Empty lines may come before it (RFC 9112 section 2.2).
fn has_fragment(raw: &[u8]) -> bool {
    let mut lines = raw.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines.next().is_some_and(|line| line.contains(&b'#'))
}

/// A body of one unmistakable length (RFC 9112 section 6.3): one `Content-Length` of digits alone, or a
/// `Transfer-Encoding` that is `chunked` and nothing else, never beside `Content-Length`, never in HTTP/1.0.
/// The parser has dropped a contradicting `Content-Length` already, so the raw header block is asked.
fn framing(session: &Session) -> Result<(), Reason> {
    let request = session.req_header();
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).into_iter();
    let is_number = |value: &HeaderValue| value.as_bytes().trim_ascii().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some_and(|length| !is_number(length)) || lengths.next().is_some() {
        return Err(Reason::BadRequest);
    }
    let mut encodings = request.headers.get_all(header::TRANSFER_ENCODING).into_iter();
    let Some(encoding) = encodings.next() else { return Ok(()) };
    let chunked =
        encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
    let raw = session.as_http1().map(Http1Session::get_headers_raw_bytes).unwrap_or_default();
    let has_length = request.headers.contains_key(header::CONTENT_LENGTH) || names_content_length(&raw);
    if chunked && !has_length && request.version == Version::HTTP_11 {
        Ok(())
    } else {
        Err(Reason::BadRequest)
    }
}

fn names_content_length(raw: &[u8]) -> bool {
    raw.split(|b| *b == b'\n').any(|line| {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    })
}

/// The host the client asked for: required in HTTP/1.1 (RFC 9112 section 3.2), and an authority without
/// userinfo, path or anything that some reader takes for more, or drops.
fn host(session: &Session) -> Result<String, Reason> {
    let request = session.req_header();
    let named = match request.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => match single(&request.headers, &header::HOST) {
            Some(host) => Some(host),
            None if request.headers.contains_key(header::HOST) => return Err(Reason::BadRequest),
            None => None,
        },
    };
    match named {
        Some(host) if is_authority(host) => Ok(host.to_owned()),
        None if request.version == Version::HTTP_10 => Ok(String::new()),
        _ => Err(Reason::BadRequest),
    }
}

fn is_authority(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]~".contains(&b);
    let Some((name, port)) = name_and_port(text) else { return false };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !name.is_empty() && !name.starts_with('.') && !name.contains([':', '[', ']']),
    };
    // An empty label, as in `example.com..`: a reader that takes all dots away has the host of another route.
    is_name
        && !name.contains("..")
        && text.bytes().all(good)
        && (port.is_empty() || port.parse::<u16>().is_ok_and(|_| port.bytes().all(|b| b.is_ascii_digit())))
}

/// Parts `host` and `host:port`, where an IPv6 address stands in brackets; without a port it is empty. `None`
/// if what follows the brackets is no port.
fn name_and_port(text: &str) -> Option<(&str, &str)> {
    let end = if text.starts_with('[') {
        text.find(']')?.checked_add(1)?
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (name, rest) = text.split_at_checked(end)?;
    Some((name, if rest.is_empty() { rest } else { rest.strip_prefix(':')? }))
}

/// Whether the client takes HTML and nothing a problem document could be: a browser without script.
pub(super) fn wants_html_only(session: &Session) -> bool {
    let accepts = |what: &[&str]| {
        values(&session.req_header().headers, &header::ACCEPT).any(|line| {
            // What has the weight 0 is not taken (RFC 9110 section 12.4.2).
            let mut ranges = line.split(',').filter(|range| !weighs_nothing(range));
            ranges.any(|range| {
                let range = range.split(';').next().unwrap_or_default().trim();
                what.iter().any(|what| range.eq_ignore_ascii_case(what))
            })
        })
    };
    accepts(&["text/html"]) && !accepts(&["application/json", "application/problem+json", "application/*"])
}

fn weighs_nothing(range: &str) -> bool {
    let mut parameters = range.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    parameters.any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("q") && value.trim().bytes().all(|b| matches!(b, b'0' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_length_is_seen_in_any_spelling_of_the_raw_block() {
        assert!(names_content_length(b"POST / HTTP/1.1\r\nCONTENT-length : 3\r\n\r\n"));
        assert!(!names_content_length(b"POST / HTTP/1.1\r\nX: content-length: 3\r\n\r\n"));
    }

    #[test]
    fn a_fragment_is_seen_in_the_request_line_whatever_comes_before_it() {
        for (raw, has) in [
            ("GET /a#b HTTP/1.1\r\n\r\n", true),
            ("\r\n\r\nGET /a#b HTTP/1.1\r\n\r\n", true),
            ("\nGET /a HTTP/1.1\r\nX: #\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(has_fragment(raw.as_bytes()), has, "{raw:?}");
        }
    }

    #[test]
    fn authorities_with_userinfo_or_paths_are_refused() {
        for bad in [
            "",
            "a@b",
            "a/b",
            "a b",
            "a,b",
            "a\\b",
            "a?b",
            "a#b",
            "a%2fb",
            "a:b:c",
            "a:b",
            "a:+1",
            "a:65536",
            "a..",
            "a..b",
            ".a",
            ".",
            ":80",
            "[::1",
            "[::1]x",
            "[a.example]",
            "::1",
        ] {
            assert!(!is_authority(bad), "{bad:?}");
        }
        for good in [
            "example.com",
            "example.com:8080",
            "example.com.",
            "a:",
            "[::1]",
            "[::1]:80",
            "10.0.0.1",
            "a_b.example",
        ] {
            assert!(is_authority(good), "{good:?}");
        }
    }

    #[test]
    fn methods_in_small_letters_are_not_served() {
        for (method, served) in [
            ("GET", true),
            ("M-SEARCH", true),
            ("TRACE", false),
            ("CONNECT", false),
            ("trace", false),
            ("Get", false),
        ] {
            assert_eq!(is_served(&method.parse().unwrap()), served, "{method}");
        }
    }
}
