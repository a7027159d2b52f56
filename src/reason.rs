//! The closed list of reason codes: one word per decision, the same in metric labels, the access log,
//! problem bodies and `explain`.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $word:literal,)+) => {
        /// Why a request was let through or refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant,)+ }

        impl Reason {
            /// Every reason, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word users see.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

reasons! {
    /// A verified token that satisfies the route.
    Ok => "ok",
    /// No token, on a route that does not need one.
    Anonymous => "anonymous",
    /// A CORS preflight, answered here.
    Preflight => "preflight",
    /// No route matches.
    NoRoute => "no_route",
    /// A required token is absent.
    NoToken => "no_token",
    /// The `Authorization` header is not `Bearer` and one b64token (RFC 6750 section 2.1).
    MalformedCredentials => "malformed_credentials",
    /// The token is longer than `server.limits.token_bytes`.
    TokenTooLarge => "token_too_large",
    /// The token is not a JWS in compact form with a JSON object inside (RFC 7515, RFC 7519).
    MalformedToken => "malformed_token",
    /// The token's `alg` is not one this issuer may use.
    UnsupportedAlgorithm => "unsupported_algorithm",
    /// The token's `iss` is not an issuer this route accepts.
    UnknownIssuer => "unknown_issuer",
    /// The issuer's key set has no key for the token's `kid`.
    UnknownKey => "unknown_key",
    /// The signature does not verify.
    BadSignature => "bad_signature",
    /// The token's `typ` is another kind of token.
    WrongType => "wrong_type",
    /// `exp` has passed.
    Expired => "expired",
    /// `nbf` or `iat` lies ahead.
    NotYetValid => "not_yet_valid",
    /// The time from `iat` to `exp` is longer than this issuer's tokens may live.
    LifetimeTooLong => "lifetime_too_long",
    /// `aud` has none of the expected audiences.
    WrongAudience => "wrong_audience",
    /// A claim every token must have is absent.
    MissingClaim => "missing_claim",
    /// The session or the user's sessions were ended.
    Revoked => "revoked",
    /// A scope the route asks for is absent.
    InsufficientScope => "insufficient_scope",
    /// None of the roles the route asks for is present.
    InsufficientRole => "insufficient_role",
    /// A claim has none of the values the route asks for.
    ClaimMismatch => "claim_mismatch",
    /// A claim cannot be written into its header (control character, too long, or absent and rejected).
    UnforwardableClaim => "unforwardable_claim",
    /// The issuer's key set has never been obtained, or is past its staleness limit.
    KeysUnavailable => "keys_unavailable",
    /// The session store does not answer.
    StoreUnavailable => "store_unavailable",
    /// The path is ambiguous or malformed.
    BadPath => "bad_path",
    /// The request is malformed in another way (no Host, conflicting lengths).
    BadRequest => "bad_request",
    /// CONNECT, TRACE, or another method the gateway does not serve here.
    MethodNotAllowed => "method_not_allowed",
    /// The header block is over `header_bytes` or `header_fields`.
    HeaderTooLarge => "header_too_large",
    /// The request target is over `target_bytes`.
    TargetTooLong => "target_too_long",
    /// The body is over `body_bytes`.
    BodyTooLarge => "body_too_large",
    /// The client did not send its body in time.
    BodyTimeout => "body_timeout",
    /// The route's rate limit is used up.
    RateLimited => "rate_limited",
    /// No endpoint of the upstream could be reached, or it broke off.
    UpstreamUnreachable => "upstream_unreachable",
    /// The upstream did not answer in time.
    UpstreamTimeout => "upstream_timeout",
    /// A fault of the gateway itself.
    Internal => "internal_error",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_word() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        words.sort_unstable();
        let total = words.len();
        words.dedup();
        assert_eq!(words.len(), total);
        assert!(words.iter().all(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
