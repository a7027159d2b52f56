//! Names, hosts, URLs and header names as the sections share them.

use super::reader::Value;
use crate::endpoints::origin::Origin;
use crate::gateway::settings::{EndpointSettings, Scheme};
use http::Uri;
use std::net::IpAddr;

/// Names of the user's choice become metric labels and log fields: they are kept short and plain.
pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Reports a name that is not plain, at what it names.
pub(super) fn check_name(value: &Value<'_>, name: &str) {
    if !is_name(name) {
        value.error("this name is not plain", "use up to 64 letters, digits, hyphens, underscores and dots");
    }
}

/// A DNS name or an IP address (IPv6 with or without brackets), without a port.
pub(super) fn is_host(host: &str) -> bool {
    unbracketed(host).parse::<IpAddr>().is_ok() || is_dns_name(host)
}

/// A DNS name as RFC 1123 section 2.1 has it; underscores are common in private names.
pub(super) fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let all_digits = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !all_digits
}

/// An address of IPv6 as it stands outside of URLs.
pub(super) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// `host` or `host:port`; `None` if the port is no number. IPv6 addresses stand in brackets.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
    let tail = text.get(after_bracket..)?;
    match tail.split_once(':') {
        None if tail.is_empty() || after_bracket == 0 => Some((text, None)),
        Some((before, port)) if after_bracket == 0 || before.is_empty() => {
            let host = text.get(..after_bracket + before.len())?;
            Some((host, Some(port.parse().ok()?)))
        }
        _ => None,
    }
}

/// Whether a URL's host is this machine's own.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = unbracketed(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a URL's traffic can be read and changed on its way.
pub(super) fn is_plain_off_loopback(url: &Uri) -> bool {
    url.scheme_str() == Some("http") && !url.host().is_some_and(is_loopback)
}

/// An http or https URL without credentials and fragment. Its text is never shown: it may hold a password.
pub(super) fn url(value: &Value<'_>, mend: &str) -> Option<Uri> {
    let text = value.text()?;
    let Ok(uri) = text.parse::<Uri>() else {
        value.error("not a URL", mend);
        return None;
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    if !matches!(scheme, "http" | "https") {
        value.error("not an http or https URL", mend);
        return None;
    }
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    if authority.contains('@') {
        value.error("a URL with credentials", "remove what stands before the @");
        return None;
    }
    let good = split_port(authority).is_some_and(|(host, port)| is_host(host) && port != Some(0));
    if !good || text.contains('#') {
        value.error("not a URL with a valid host", mend);
        return None;
    }
    Some(uri)
}

/// A URL without path and query: the endpoint of an upstream.
pub(super) fn origin(value: &Value<'_>) -> Option<EndpointSettings> {
    let uri = url(value, "write scheme, host and port, such as http://127.0.0.1:9001")?;
    let has_path = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
    if has_path {
        let mend = "write scheme, host and port only; a route's rewrite changes paths";
        value.error("an endpoint with a path", mend);
        return None;
    }
    let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let port = uri.port_u16().unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
    Some(EndpointSettings { scheme, host: unbracketed(uri.host()?).to_ascii_lowercase(), port })
}

/// The origin of pages, as browsers write it.
pub(super) fn page_origin(value: &Value<'_>) -> Option<Origin> {
    let mend = "write scheme, host and port as browsers do, such as https://app.example.com";
    let text = value.text()?;
    let origin = value.parsed("an origin", mend, Origin::parse)?;
    if text.parse().is_ok_and(|uri| is_plain_off_loopback(&uri)) {
        value.warning(
            "whoever sits between a browser and this plain http page can act as the page",
            "serve the page over https",
        );
    }
    Some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for host in
            ["api.example.com", "localhost", "10.0.0.1", "[::1]", "::1", "a_b.internal", "3com.example"]
        {
            assert!(is_host(host), "{host}");
        }
        for host in
            ["", "a..b", "-a", "a-", "a b", "api.example.com:80", "1.2.3", "256.1.1.1", "*", "a/b", "ä.de"]
        {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn a_port_is_split_off_behind_brackets_only() {
        assert_eq!(split_port("a:80"), Some(("a", Some(80))));
        assert_eq!(split_port("[::1]:80"), Some(("[::1]", Some(80))));
        assert_eq!(split_port("[::1]"), Some(("[::1]", None)));
        assert_eq!(split_port("a"), Some(("a", None)));
        for text in ["a:", "a:b", "a:70000", "[::1]x", "[::1]x:1", "::1"] {
            assert_eq!(split_port(text), None, "{text}");
        }
    }
}
