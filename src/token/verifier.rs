//! Whose tokens are accepted, and on what terms.

use super::claims::ClaimPath;
use crate::key_set::{Algorithm, KeySetSettings};
use std::time::Duration;

/// Which `typ` header values an issuer's access tokens may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenType {
    /// None, `JWT` or `at+jwt`, with or without `application/`, in any case.
    #[default]
    Any,
    /// Only `at+jwt` (RFC 9068 section 4).
    AtJwt,
}

/// One issuer beside ourselves, as configured.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// The configuration's name for it: what routes and metrics call it.
    pub name: String,
    /// The exact `iss`.
    pub issuer: String,
    /// The `aud` values meant for us, at least one; checked by the policy, where a route may ask for its own.
    pub audiences: Vec<String>,
    /// The `alg` values it may use.
    pub algorithms: Vec<Algorithm>,
    /// Its keys.
    pub keys: KeySetSettings,
    /// The clock difference forgiven in `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// The `typ` values it may use.
    pub token_type: TokenType,
    /// Where it keeps scopes: strings split at spaces, or arrays of strings.
    pub scopes: Vec<ClaimPath>,
    /// Where it keeps roles: one string, or arrays of strings.
    pub roles: Vec<ClaimPath>,
}
