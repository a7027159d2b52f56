//! The refresh-token cookie: written, found among others, and kept away from upstreams. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use std::time::Duration;

/// The `SameSite` attribute (RFC 6265bis section 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// Only with requests from our own site.
    #[default]
    Strict,
    /// Also when the user follows a link to us.
    Lax,
    /// With every request.
    None,
}

impl SameSite {
    /// The attribute's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// The name and attributes of the refresh-token cookie; what browsers would refuse cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieSettings {
    name: String,
    path: String,
    same_site: SameSite,
}

/// Why a browser would not keep such a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    /// The name is empty or has a character outside RFC 9110's `token`.
    #[error("the cookie's name may have only letters, digits and !#$%&'*+-.^_`|~")]
    Name,
    /// The path does not start with a slash or has a `;` or a character that cannot stand in a header.
    #[error("the cookie's path must start with '/' and have no ';' and no control character")]
    Path,
    /// `__Host-` demands `Path=/` (RFC 6265bis section 4.1.3.2).
    #[error("a cookie whose name starts with __Host- must have the path '/'")]
    HostPrefixPath,
}

impl CookieSettings {
    /// From the configuration's words.
    ///
    /// # Errors
    /// [`CookieError`] for a cookie that browsers would refuse or read in another way.
    pub fn new(name: &str, path: &str, same_site: SameSite) -> Result<Self, CookieError> {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(CookieError::Name);
        }
        if !path.starts_with('/') || !path.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b';') {
            return Err(CookieError::Path);
        }
        let host_bound = name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("__Host-"));
        if host_bound && path != "/" {
            return Err(CookieError::HostPrefixPath);
        }
        Ok(Self { name: name.to_owned(), path: path.to_owned(), same_site })
    }

    /// The cookie's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a browser sends the cookie to `path` (RFC 6265bis section 5.1.4).
    pub fn reaches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.path.as_str()) else { return false };
        rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/')
    }

    /// A `Set-Cookie` value that hands out `token` for `max_age`, rounded down to seconds.
    pub fn set(&self, token: &str, max_age: Duration) -> String {
        self.line(token, max_age.as_secs())
    }

    /// A `Set-Cookie` value that removes the cookie: the same attributes, or browsers would keep it.
    pub fn clear(&self) -> String {
        self.line("", 0)
    }

    /// `Secure` always: browsers make their own exception for loopback, and nothing else may carry it.
    fn line(&self, value: &str, max_age: u64) -> String {
        let Self { name, path, same_site } = self;
        let same_site = same_site.as_str();
        format!("{name}={value}; Path={path}; Max-Age={max_age}; HttpOnly; Secure; SameSite={same_site}")
    }

    /// Every value that the request's cookies give our name, in the order sent. Browsers send several when
    /// cookies of the same name were set for other paths or domains.
    pub fn values<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
        let lines = headers.get_all(header::COOKIE).into_iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|&b| b == b';'));
        pairs.filter_map(move |pair| {
            let (name, value) = name_and_value(pair)?;
            if name != self.name.as_bytes() {
                return None;
            }
            std::str::from_utf8(value).ok()
        })
    }

    /// Takes our cookie out of one `Cookie` field on its way to an upstream, however it is spelled.
    pub fn strip_own_cookies(&self, line: &HeaderValue) -> Stripped {
        let pairs = || line.as_bytes().split(|&b| b == b';');
        if !pairs().any(|pair| self.is_own(pair)) {
            return Stripped::Unchanged;
        }
        let mut kept = Vec::with_capacity(line.len());
        for pair in
            pairs().filter(|pair| !self.is_own(pair)).map(<[u8]>::trim_ascii).filter(|p| !p.is_empty())
        {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
        match HeaderValue::from_bytes(&kept) {
            Ok(rest) if !kept.is_empty() => Stripped::Rest(rest),
            _ => Stripped::Nothing,
        }
    }

    /// Whether an upstream's `Set-Cookie` would set our cookie in some browser.
    pub fn is_own_set_cookie(&self, line: &HeaderValue) -> bool {
        line.as_bytes().split(|&b| b == b';').next().is_some_and(|pair| self.is_own(pair))
    }

    /// By any spelling: upstreams may ignore case, and browsers send the nameless cookie `=name=value` back
    /// as `name=value`.
    fn is_own(&self, pair: &[u8]) -> bool {
        let skip = |b: &u8| *b == b'=' || b.is_ascii_whitespace();
        let start = pair.iter().position(|b| !skip(b)).unwrap_or(pair.len());
        let named = pair.get(start..).unwrap_or_default();
        let name = named.split(|&b| b == b'=').next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(self.name.as_bytes())
    }
}

/// What is left of a `Cookie` field without our cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stripped {
    /// Ours was not in it.
    Unchanged,
    /// These cookies.
    Rest(HeaderValue),
    /// No cookie: the field is to be removed.
    Nothing,
}

fn name_and_value(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|&b| b == b'=')?;
    let (name, value) = pair.split_at_checked(at)?;
    Some((name.trim_ascii(), value.get(1..)?.trim_ascii()))
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cookie() -> CookieSettings {
        CookieSettings::new("__Secure-refresh_token", "/auth", SameSite::Strict).unwrap()
    }

    fn strip(line: &str) -> Stripped {
        cookie().strip_own_cookies(&HeaderValue::from_str(line).unwrap())
    }

    fn rest(line: &str) -> Stripped {
        Stripped::Rest(HeaderValue::from_str(line).unwrap())
    }

    #[test]
    fn clearing_repeats_the_attributes_of_setting() {
        let set = cookie().set("prt_x", Duration::from_millis(604_800_999));
        let attributes = "Path=/auth; Max-Age=604800; HttpOnly; Secure; SameSite=Strict";
        assert_eq!(set, format!("__Secure-refresh_token=prt_x; {attributes}"));
        let cleared = attributes.replace("604800", "0");
        assert_eq!(cookie().clear(), format!("__Secure-refresh_token=; {cleared}"));
    }

    #[test]
    fn a_cookie_browsers_would_refuse_cannot_be_made() {
        let make = |name, path| CookieSettings::new(name, path, SameSite::Lax).map(|_| ());
        assert_eq!(make("__Host-rt", "/auth"), Err(CookieError::HostPrefixPath));
        assert_eq!(make("__host-rt", "/auth"), Err(CookieError::HostPrefixPath));
        assert_eq!(make("__Host-rt", "/"), Ok(()));
        for name in ["", "a b", "a=b", "a;b", "ä", "a\"b"] {
            assert_eq!(make(name, "/"), Err(CookieError::Name), "{name}");
        }
        for path in ["", "auth", "/a;b", "/a\nb"] {
            assert_eq!(make("rt", path), Err(CookieError::Path), "{path:?}");
        }
    }

    #[test]
    fn the_cookie_reaches_its_path_and_below() {
        assert!(cookie().reaches("/auth") && cookie().reaches("/auth/refresh"));
        assert!(!cookie().reaches("/authors") && !cookie().reaches("/"));
        assert!(CookieSettings::new("rt", "/", SameSite::Strict).unwrap().reaches("/auth/refresh"));
    }

    #[test]
    fn all_values_of_our_name_are_found_in_order() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; __Secure-refresh_token=x;b=2"));
        headers.append(header::COOKIE, HeaderValue::from_static(" __Secure-refresh_token = y ; c"));
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("__secure-refresh_token=case; x__Secure-refresh_token=z"),
        );
        assert_eq!(cookie().values(&headers).collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn our_cookie_is_stripped_in_every_spelling_and_the_rest_kept() {
        assert_eq!(strip("a=1; b=2"), Stripped::Unchanged);
        assert_eq!(strip("__Secure-refresh_token=x"), Stripped::Nothing);
        assert_eq!(strip("a=1; __Secure-refresh_token=x; b=\"q\""), rest("a=1; b=\"q\""));
        assert_eq!(strip("a=1;__SECURE-REFRESH_TOKEN =x;;b=2"), rest("a=1; b=2"));
        assert_eq!(strip("=__Secure-refresh_token=x; a=1"), rest("a=1"));
        assert_eq!(strip("__Secure-refresh_token; a=1"), rest("a=1"));
        assert_eq!(strip("a=__Secure-refresh_token=x"), Stripped::Unchanged);
        assert_eq!(strip("__Secure-refresh_token2=x"), Stripped::Unchanged);
    }

    #[test]
    fn an_upstream_cannot_set_our_cookie_in_any_spelling() {
        let own = |line: &str| cookie().is_own_set_cookie(&HeaderValue::from_str(line).unwrap());
        for line in [
            "__Secure-refresh_token=evil; Path=/auth; Secure",
            "  __secure-refresh_TOKEN\t= evil",
            "=__Secure-refresh_token=evil",
            "= =\t__Secure-refresh_token=evil",
            "__Secure-refresh_token",
        ] {
            assert!(own(line), "{line}");
        }
        for line in [
            "sid=__Secure-refresh_token=x",
            "sid=1; __Secure-refresh_token=x",
            "",
            "x__Secure-refresh_token=1",
        ] {
            assert!(!own(line), "{line}");
        }
    }

    proptest! {
        #[test]
        fn after_stripping_no_reader_finds_our_cookie(
            parts in prop::collection::vec(
                prop_oneof![
                    "[a-zA-Z_=\" -]{0,12}",
                    Just("__Secure-refresh_token=x".to_owned()),
                    Just(" __SECURE-refresh_token = y".to_owned()),
                    Just("==__Secure-refresh_token".to_owned()),
                ],
                0..6,
            )
        ) {
            let line = HeaderValue::from_str(&parts.join(";")).unwrap();
            let left = match cookie().strip_own_cookies(&line) {
                Stripped::Unchanged => line,
                Stripped::Rest(rest) => rest,
                Stripped::Nothing => HeaderValue::from_static(""),
            };
            prop_assert_eq!(cookie().strip_own_cookies(&left), Stripped::Unchanged);
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, left);
            prop_assert_eq!(cookie().values(&headers).count(), 0);
        }

        #[test]
        fn what_is_set_is_read_back(token in "[A-Za-z0-9_-]{1,120}", before in "[a-z]{1,5}=[a-z]{0,5}") {
            let set = cookie().set(&token, Duration::from_secs(1));
            let pair = set.split(';').next().unwrap();
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, HeaderValue::from_str(&format!("{before}; {pair}")).unwrap());
            let cookie = cookie();
            prop_assert_eq!(cookie.values(&headers).collect::<Vec<_>>(), [token.as_str()]);
        }

        #[test]
        fn any_bytes_are_read_without_panic(line in prop::collection::vec(0x20_u8..=0xff, 0..64)) {
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                let _ = cookie().strip_own_cookies(&line);
                let _ = cookie().is_own_set_cookie(&line);
                let mut headers = HeaderMap::new();
                headers.append(header::COOKIE, line);
                let _ = cookie().values(&headers).count();
            }
        }
    }
}
