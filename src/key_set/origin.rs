//! Whose keys an address may hold: an issuer's own origin, and the hosts listed beside it.

use http::Uri;

/// A host that may hold an issuer's keys although it is not the issuer's own, as the configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHost {
    host: String,
    port: Option<u16>,
}

impl KeyHost {
    /// The host as it stands in a URL (IPv6 in brackets); without a port, the scheme's own is meant.
    pub fn new(host: &str, port: Option<u16>) -> Self {
        Self { host: host.to_ascii_lowercase(), port }
    }
}

/// Scheme, host and port (RFC 6454 section 4).
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    is_https: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` if it is no `http` or `https` address, or has a user in it.
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16().unwrap_or(default_port(is_https));
        Some(Self { is_https, host: authority.host().to_ascii_lowercase(), port })
    }
}

const fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// Whether keys found at `url` may be taken for those of `issuer`. A listed host is not reached over plain
/// HTTP, unless the issuer itself is.
pub(super) fn may_hold_keys(url: &str, issuer: &str, listed: &[KeyHost]) -> bool {
    let (Some(keys), Some(own)) = (Origin::of(url), Origin::of(issuer)) else { return false };
    let names = |host: &KeyHost| {
        host.host == keys.host && host.port.unwrap_or(default_port(keys.is_https)) == keys.port
    };
    keys == own || ((keys.is_https || !own.is_https) && listed.iter().any(names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_issuers_own_origin_is_scheme_host_and_port() {
        let own = |a, b| may_hold_keys(a, b, &[]);
        assert!(own("https://A.example/x", "https://a.example:443/y?z"));
        assert!(!own("https://a.example", "https://a.example:8443"));
        assert!(!own("https://a.example", "http://a.example"));
        assert!(!own("https://a.example", "https://a.example.evil"));
        assert!(!own("https://a.example", "https://a.example@evil.example"));
        assert!(!own("/keys", "/keys"));
        assert!(!own("file:///etc/passwd", "file:///etc/passwd"));
    }

    #[test]
    fn a_listed_host_may_hold_keys_by_its_exact_name_and_port() {
        let listed = [KeyHost::new("WWW.googleapis.com", None), KeyHost::new("keys.example", Some(8443))];
        let holds = |url| may_hold_keys(url, "https://accounts.google.com", &listed);
        assert!(holds("https://www.googleapis.com/oauth2/v3/certs"));
        assert!(holds("https://www.googleapis.com:443/x"));
        assert!(holds("https://keys.example:8443/x"));
        for other in [
            "https://googleapis.com/x",
            "https://a.www.googleapis.com/x",
            "https://www.googleapis.com:444/x",
            "https://www.googleapis.com@evil.example/x",
            "https://user@www.googleapis.com/x",
            "http://www.googleapis.com/x",
            "https://keys.example/x",
            "ftp://www.googleapis.com/x",
        ] {
            assert!(!holds(other), "{other}");
        }
        let local = [KeyHost::new("127.0.0.1", Some(9)), KeyHost::new("[::1]", None)];
        assert!(may_hold_keys("http://127.0.0.1:9/x", "http://127.0.0.1:8", &local));
        assert!(may_hold_keys("http://[::1]/x", "http://127.0.0.1:8", &local));
        assert!(!may_hold_keys("http://127.0.0.1:10/x", "http://127.0.0.1:8", &local));
    }

    /// What the two readers of an address, the one that judges it and the one that asks it, might read apart.
    const PIECES: [&str; 36] = [
        "https:",
        "http:",
        "HTTPS://",
        "https://",
        "https:///",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "443",
        ":443",
        ":0443",
        ":80",
        ":+443",
        ":99999",
        ":4a",
        "#",
        "?",
        "%2e",
        "%40",
        "%00",
        "\t",
        "\n",
        " ",
        ".",
        "..",
        "a.example",
        "A.EXAMPLE",
        "evil.example",
        "\u{ff41}.example",
        "\u{ad}",
        "\u{3002}",
        "[::1]",
        "[",
        "keys",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn who_asks_for_the_keys_asks_whom_was_judged(
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..7),
            begins_well: bool,
        ) {
            let url = if begins_well { "https://a.example" } else { "" }.to_owned() + &pieces.concat();
            if may_hold_keys(&url, "https://a.example/realm", &[])
                && let Ok(asked) = reqwest::Url::parse(&url)
            {
                let told = (asked.scheme(), asked.host_str(), asked.port_or_known_default());
                prop_assert_eq!(told, ("https", Some("a.example"), Some(443)), "{:?}", url);
                prop_assert!(asked.username().is_empty() && asked.password().is_none(), "{:?}", url);
            }
        }
    }
}
