//! What the configuration decides about the endpoints, already sensible by construction.

use super::cookie::CookieSettings;
use super::origin::Origin;
use crate::session::family::RotationPolicy;

/// Everything the endpoints are told at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the endpoints lie.
    pub prefix: Prefix,
    /// How the members of answers are spelled.
    pub naming: Naming,
    /// Where refresh tokens travel.
    pub delivery: DeliveryRule,
    /// The refresh-token cookie.
    pub cookie: CookieSettings,
    /// Origins beside our own whose pages may call the endpoints with credentials.
    pub allowed_origins: Vec<Origin>,
    /// The origin of `sessions.issuer`, which counts as our own; `None` if the issuer is no web URL.
    pub issuer_origin: Option<Origin>,
    /// How long sessions and access tokens live.
    pub rotation: RotationPolicy,
}

/// The path below which the endpoints lie: at least one segment of plain characters, no slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// From text like `/auth`; a slash at the end is ignored. `None` if it has no segment, an empty one, a
    /// dot segment, or a character that clients may write in more than one way.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        let good =
            |segment: &str| !segment.is_empty() && segment.bytes().all(plain) && !segment.ends_with('.');
        text.strip_prefix('/')?.split('/').all(good).then(|| Self(text.to_owned()))
    }

    /// The text, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How the members of answers are spelled. Requests may use either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// `accessToken`.
    #[default]
    CamelCase,
    /// `access_token` (RFC 6749).
    OAuth,
}

/// Where refresh tokens travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeliveryRule {
    /// What the login asks for; if it does not, browsers get a cookie and others the body.
    #[default]
    Client,
    /// Always in a cookie.
    Cookie,
    /// Always in the body.
    Body,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_plain_segments_and_no_slash_at_its_end() {
        assert_eq!(Prefix::parse("/auth/").unwrap().as_str(), "/auth");
        assert_eq!(Prefix::parse("/api/v1/auth").unwrap().as_str(), "/api/v1/auth");
        for bad in ["", "/", "//", "auth", "/auth//x", "/a%2Fb", "/a b", "/../a", "/{x}", "/a?b"] {
            assert_eq!(Prefix::parse(bad), None, "{bad}");
        }
    }
}
