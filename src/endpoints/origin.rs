//! A web origin (RFC 6454): scheme, host and port, as browsers write it in `Origin`.

use std::fmt;

/// The scheme, host and port of a web page. Two origins are equal exactly if browsers call them same-origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// Reads `https://host[:port]`, with nothing after it. `None` for anything else, `null` included.
    pub fn parse(text: &str) -> Option<Self> {
        let (https, authority) = if let Some(rest) = strip_prefix_ignoring_case(text, "https://") {
            (true, rest)
        } else {
            (false, strip_prefix_ignoring_case(text, "http://")?)
        };
        Self::of_authority(https, authority)
    }

    /// The origin of a URL: its scheme, host and port, whatever path follows.
    pub fn of_url(url: &str) -> Option<Self> {
        let start = url.find("://")?.checked_add(3)?;
        let end = url.get(start..)?.find(['/', '?', '#']).map_or(url.len(), |at| start + at);
        Self::parse(url.get(..end)?)
    }

    /// The origin that a request was sent to, from its `Host` and whether it came over TLS.
    pub fn of_authority(https: bool, authority: &str) -> Option<Self> {
        let (host, port) = split_port(authority)?;
        let port = match port {
            None if https => 443,
            None => 80,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']');
        let valid = !host.is_empty() && host.bytes().all(plain);
        valid.then(|| Self { https, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Origin {
    /// As a browser serialises it: the port only if it is not the scheme's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default) = if self.https { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == default { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Parts `host` and `host:port`; the colons inside `[…]` belong to an IPv6 address.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')?.checked_add(1)?;
        let (host, rest) = authority.split_at_checked(end)?;
        return if rest.is_empty() {
            Some((host, None))
        } else {
            Some((host, Some(rest.strip_prefix(':')?)))
        };
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_origins_are_those_browsers_call_same_origin() {
        let origin = |text| Origin::parse(text).unwrap();
        assert_eq!(origin("https://App.example.com"), origin("https://app.example.com:443"));
        assert_eq!(origin("http://[::1]"), origin("HTTP://[::1]:80"));
        assert_ne!(origin("https://app.example.com"), origin("http://app.example.com"));
        assert_ne!(origin("https://app.example.com"), origin("https://app.example.com:8443"));
        assert_ne!(origin("https://app.example.com"), origin("https://app.example.com.evil.test"));
    }

    #[test]
    fn what_is_not_one_origin_is_none() {
        for bad in [
            "null",
            "",
            "https://",
            "https://a/",
            "https://a https://b",
            "https://a,https://b",
            "https://user@a",
            "https://a:",
            "https://a:+80",
            "https://a:99999",
            "https://[::1]x",
            "ftp://a",
            "chrome-extension://abc",
            "app.example.com",
        ] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_url_has_the_origin_before_its_path() {
        assert_eq!(
            Origin::of_url("https://id.example.com/realms/a?b").unwrap().to_string(),
            "https://id.example.com"
        );
        assert_eq!(Origin::of_url("http://127.0.0.1:8080").unwrap().to_string(), "http://127.0.0.1:8080");
        assert_eq!(Origin::of_url("urn:issuer"), None);
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        assert_eq!(Origin::of_authority(true, "A.example:443").unwrap().to_string(), "https://a.example");
        assert_eq!(
            Origin::of_authority(false, "a.example:8080").unwrap().to_string(),
            "http://a.example:8080"
        );
    }
}
