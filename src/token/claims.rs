//! Claims of a verified token: typed access by path, nothing unverified.

use super::registered::{self, Claimed, Registered};
use crate::clock::Timestamp;
use crate::json::ClaimPath;
use crate::session::id::SessionRef;
use serde_json::{Map, Value};
use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The configuration's name of the issuer that is this gateway itself.
pub const GATEWAY_ISSUER: &str = "gateway";

/// What the verifier vouches for. On the way of a request only the verifier makes one: holding it proves
/// that signature, issuer, times and type were checked. The audience is checked by the policy, where a route may ask for its own.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedClaims {
    pub(super) issuer: Arc<str>,
    pub(super) expected_audiences: Arc<[String]>,
    pub(super) claims: Map<String, Value>,
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) roles: Vec<String>,
    pub(super) expires: Timestamp,
    /// When it is no longer accepted: `exp` with the issuer's leeway.
    pub(super) good_until: Timestamp,
    pub(super) session: Option<SessionRef>,
    /// No other verified token of this process has it.
    pub(super) number: u64,
    pub(super) kept: Kept,
}

/// What somebody made of the claims and wants at hand when the same token comes again. It is no claim: a copy
/// begins without it, and it does not count in comparisons.
#[derive(Default)]
pub(super) struct Kept(OnceLock<Box<dyn Any + Send + Sync>>);

impl Clone for Kept {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl VerifiedClaims {
    /// Claims taken on trust, without a token: for policy checks that meet no request (`portcullis test`).
    /// Without an `aud` they have the expected one, without an `exp` they never expire. `None` if a claim
    /// has a type that no verified token's has.
    pub fn assumed(
        issuer: &str,
        expected_audiences: &[String],
        scopes: &[ClaimPath],
        roles: &[ClaimPath],
        mut claims: Map<String, Value>,
    ) -> Option<Self> {
        claims.entry("aud").or_insert_with(|| expected_audiences.into());
        claims.entry("exp").or_insert_with(|| u64::MAX.into());
        let payload = serde_json::to_vec(&claims).ok()?;
        let Registered { subject, audiences, expires, .. } = Claimed::find(&payload).ok()?.read().ok()?;
        Some(Self {
            issuer: issuer.into(),
            expected_audiences: expected_audiences.into(),
            scopes: registered::collect(&claims, scopes, true).ok()?,
            roles: registered::collect(&claims, roles, false).ok()?,
            claims,
            subject,
            audiences,
            expires,
            good_until: expires,
            session: None,
            number: 0,
            kept: Kept::default(),
        })
    }

    /// The configuration's name of the issuer (`gateway` for our own tokens).
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The same, to be kept beyond the claims.
    pub fn shared_issuer(&self) -> Arc<str> {
        Arc::clone(&self.issuer)
    }

    /// The audiences this issuer's tokens are expected to have, unless the route asks for others.
    pub fn expected_audiences(&self) -> &[String] {
        &self.expected_audiences
    }

    /// The token's `aud`, as a list.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Whether the token is meant for one of `expected` (RFC 7519 section 4.1.3).
    pub fn audience_matches(&self, expected: &[String]) -> bool {
        self.audiences.iter().any(|audience| expected.contains(audience))
    }

    /// The token's `sub`; empty if it has none.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Scopes, from the places where this issuer keeps them.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Roles, from the places where this issuer keeps them.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// The token's `exp`.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// When the token is no longer accepted: `exp` with the issuer's leeway.
    pub fn good_until(&self) -> Timestamp {
        self.good_until
    }

    /// The session an own token belongs to; `None` for other issuers.
    pub fn session(&self) -> Option<&SessionRef> {
        self.session.as_ref()
    }

    /// What was kept with the claims, if it is of this type.
    pub fn kept<T: Any>(&self) -> Option<&T> {
        self.kept.0.get()?.downcast_ref()
    }

    /// Keeps a value with the claims. The first stays.
    pub fn keep<T: Any + Send + Sync>(&self, value: T) {
        let _ = self.kept.0.set(Box::new(value));
    }

    /// All claims.
    pub fn all(&self) -> &Map<String, Value> {
        &self.claims
    }
}

#[cfg(test)]
impl VerifiedClaims {
    /// What a verifier makes of these claims, for the tests of those who read it: `scope` and `roles` are
    /// in their usual places, the expected audience is `api`.
    pub(crate) fn sample(issuer: &str, claims: &Value) -> Self {
        let words = |name: &str| match &claims[name] {
            Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Self {
            issuer: issuer.into(),
            expected_audiences: Arc::new(["api".to_owned()]),
            claims: claims.as_object().cloned().unwrap_or_default(),
            subject: claims["sub"].as_str().unwrap_or_default().to_owned(),
            audiences: words("aud"),
            scopes: words("scope"),
            roles: words("roles"),
            expires: Timestamp::MAX,
            good_until: Timestamp::MAX,
            session: None,
            number: 0,
            kept: Kept::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_prefers_the_literal_name_and_else_walks_objects() {
        let claims = json!({"realm_access": {"roles": ["a"]}, "https://x.example/roles": 1, "n": null});
        let claims = claims.as_object().unwrap();
        let find = |path: &str| ClaimPath::parse(path).unwrap().find(claims).cloned();
        assert_eq!(find("realm_access.roles"), Some(json!(["a"])));
        assert_eq!(find("https://x.example/roles"), Some(json!(1)));
        assert_eq!(find("n"), None);
        assert_eq!(find("realm_access.missing"), None);
        assert_eq!(ClaimPath::parse("a..b"), None);
    }
}
