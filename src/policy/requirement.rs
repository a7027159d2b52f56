//! What a route asks of its callers, and what a verified token lacks of it.

use crate::json::ClaimPath;
use crate::json::is_exact;
use crate::reason::Reason;
use crate::token::claims::VerifiedClaims;
use serde_json::{Number, Value};

/// Whether a route looks at tokens at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everybody; a token is not looked at.
    Public,
    /// No token is anonymous; a token that comes must be good.
    Optional,
    /// A good token.
    Required,
}

/// How much a route waits to learn that a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationMode {
    /// Not at all: a token is good until it expires.
    Off,
    /// What this gateway already knows.
    Eventual,
    /// Asked of the session store for each request.
    Sync,
}

/// What a route asks of its callers. An empty list asks for nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirement {
    /// Whether tokens are looked at.
    pub mode: Mode,
    /// Configuration names of the issuers whose tokens are accepted; `None` is all.
    pub issuers: Option<Vec<String>>,
    /// Any of these must be in `aud`; empty is the audiences of the token's issuer.
    pub audiences: Vec<String>,
    /// All of these scopes.
    pub scopes: Vec<String>,
    /// Any of these roles.
    pub roles: Vec<String>,
    /// All of these rules.
    pub claims: Vec<ClaimRule>,
    /// `false` observes: what would be denied is forwarded and reported.
    pub enforce: bool,
    /// How ended sessions are noticed.
    pub revocation: RevocationMode,
}

/// A claim that must have one of some values.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRule {
    /// Where the claim is.
    pub path: ClaimPath,
    /// The claim, or any element of it if it is an array, equals one of these.
    pub values: Vec<ClaimValue>,
}

/// A value a claim is compared with. Types matter: `"1"`, `1` and `1.0` are three values.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimValue {
    /// Compared byte for byte.
    Text(String),
    /// An integer, compared with every digit, or a fraction.
    Number(Number),
    /// `true` or `false`.
    Bool(bool),
}

impl ClaimValue {
    /// From a JSON value; `None` for `null`, arrays and objects.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            Value::Number(number) => Some(Self::Number(number.clone())),
            Value::Bool(flag) => Some(Self::Bool(*flag)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// As a JSON value.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Bool(flag) => Value::Bool(*flag),
        }
    }

    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(ours), Value::String(theirs)) => ours == theirs,
            // Of two numbers beyond 64 bits it is not known whether they are one.
            (Self::Number(ours), Value::Number(theirs)) => ours == theirs && is_exact(theirs),
            (Self::Bool(ours), Value::Bool(theirs)) => ours == theirs,
            _ => false,
        }
    }
}

impl std::fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_json().fmt(f)
    }
}

impl ClaimRule {
    fn is_met_by(&self, claims: &VerifiedClaims) -> bool {
        let one_of = |value: &Value| self.values.iter().any(|wanted| wanted.equals(value));
        match self.path.find(claims.all()) {
            Some(Value::Array(elements)) => elements.iter().any(one_of),
            Some(value) => one_of(value),
            None => false,
        }
    }
}

/// One thing that a route asks of verified claims.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Check<'a> {
    /// An issuer that is accepted.
    Issuer,
    /// One of the audiences.
    Audience,
    /// All of the scopes.
    Scopes,
    /// One of the roles.
    Roles,
    /// A claim with one of some values.
    Claim(&'a ClaimRule),
}

impl Check<'_> {
    /// Why a request is refused that does not meet it.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Issuer => Reason::UnknownIssuer,
            Self::Audience => Reason::WrongAudience,
            Self::Scopes => Reason::InsufficientScope,
            Self::Roles => Reason::InsufficientRole,
            Self::Claim(_) => Reason::ClaimMismatch,
        }
    }
}

impl Default for Requirement {
    /// A good token of any issuer, enforced: what a route without `auth` asks for.
    fn default() -> Self {
        Self {
            mode: Mode::Required,
            issuers: None,
            audiences: Vec::new(),
            scopes: Vec::new(),
            roles: Vec::new(),
            claims: Vec::new(),
            enforce: true,
            revocation: RevocationMode::Eventual,
        }
    }
}

impl Requirement {
    /// What everybody meets.
    pub fn public() -> Self {
        Self { mode: Mode::Public, ..Self::default() }
    }

    /// The first thing these claims lack.
    pub(super) fn shortfall(&self, claims: &VerifiedClaims) -> Option<Reason> {
        self.checks().find(|check| !self.is_met(*check, claims)).map(Check::reason)
    }

    /// Everything that is asked of verified claims, in order: the issuer and the audience first, since a token that
    /// was made for somebody else says nothing here.
    pub fn checks(&self) -> impl Iterator<Item = Check<'_>> {
        let fixed = [Check::Issuer, Check::Audience, Check::Scopes, Check::Roles];
        fixed.into_iter().chain(self.claims.iter().map(Check::Claim))
    }

    /// Whether these claims have what is asked. An empty list asks for nothing.
    pub fn is_met(&self, check: Check<'_>, claims: &VerifiedClaims) -> bool {
        let has = |list: &[String], wanted: &String| list.contains(wanted);
        match check {
            Check::Issuer => {
                let accepted = self.issuers.as_ref();
                accepted.is_none_or(|accepted| accepted.iter().any(|name| name == claims.issuer()))
            }
            Check::Audience => {
                let expected = self.expected_audiences(claims);
                expected.iter().any(|audience| has(claims.audiences(), audience))
            }
            Check::Scopes => self.scopes.iter().all(|scope| has(claims.scopes(), scope)),
            Check::Roles => self.roles.is_empty() || self.roles.iter().any(|role| has(claims.roles(), role)),
            Check::Claim(rule) => rule.is_met_by(claims),
        }
    }

    /// The audiences of which a token must have one.
    pub fn expected_audiences<'a>(&'a self, claims: &'a VerifiedClaims) -> &'a [String] {
        if self.audiences.is_empty() { claims.expected_audiences() } else { &self.audiences }
    }
}

/// Whether a text can be a scope (RFC 6749 section 3.3); only such a text may stand in a challenge.
pub fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(path: &str, values: &[Value]) -> ClaimRule {
        let values = values.iter().map(|value| ClaimValue::from_json(value).unwrap()).collect();
        ClaimRule { path: ClaimPath::parse(path).unwrap(), values }
    }

    fn shortfall(requirement: &Requirement, claims: Value) -> Option<Reason> {
        let mut claims = claims;
        claims["aud"] = json!(["api"]);
        requirement.shortfall(&VerifiedClaims::sample("gateway", &claims))
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn all_scopes_are_needed_and_any_role_suffices() {
        let both = Requirement { scopes: words(&["a", "b"]), ..Requirement::default() };
        assert_eq!(shortfall(&both, json!({"scope": "b a c"})), None);
        assert_eq!(shortfall(&both, json!({"scope": "a"})), Some(Reason::InsufficientScope));
        assert_eq!(shortfall(&both, json!({"scope": "ab A,b"})), Some(Reason::InsufficientScope));
        let either = Requirement { roles: words(&["clerk", "manager"]), ..Requirement::default() };
        assert_eq!(shortfall(&either, json!({"roles": ["x", "manager"]})), None);
        assert_eq!(
            shortfall(&either, json!({"roles": ["Manager", "clerks"]})),
            Some(Reason::InsufficientRole)
        );
        assert_eq!(shortfall(&either, json!({})), Some(Reason::InsufficientRole));
    }

    #[test]
    fn a_claim_is_compared_as_a_typed_value_and_an_array_by_its_elements() {
        let cases = [
            (json!("acme"), json!(["acme", "globex"]), true),
            (json!(["x", "globex"]), json!(["acme", "globex"]), true),
            (json!("Acme"), json!(["acme"]), false),
            (json!("acme,globex"), json!(["acme"]), false),
            (json!([["acme"]]), json!(["acme"]), false),
            (json!({"acme": true}), json!(["acme"]), false),
            (json!(1), json!(["1"]), false),
            (json!("1"), json!([1]), false),
            (json!(true), json!(["true"]), false),
            (json!(true), json!([true]), true),
            (json!(0), json!([false]), false),
            (json!(9_007_199_254_740_993_u64), json!([9_007_199_254_740_992_u64]), false),
            (json!(9_007_199_254_740_993_u64), json!([9_007_199_254_740_993_u64]), true),
            (json!(null), json!(["null"]), false),
        ];
        for (claim, values, met) in cases {
            let rule = rule("tenant", values.as_array().unwrap());
            let requirement = Requirement { claims: vec![rule], ..Requirement::default() };
            let expected = (!met).then_some(Reason::ClaimMismatch);
            assert_eq!(shortfall(&requirement, json!({ "tenant": claim })), expected, "{claim} {values}");
        }
    }

    #[test]
    fn every_claim_rule_must_be_met_and_a_path_reaches_into_objects() {
        let rules = vec![rule("tenant", &[json!("acme")]), rule("address.country", &[json!("DE")])];
        let requirement = Requirement { claims: rules, ..Requirement::default() };
        let met = json!({"tenant": "acme", "address": {"country": "DE"}});
        assert_eq!(shortfall(&requirement, met), None);
        assert_eq!(shortfall(&requirement, json!({"tenant": "acme"})), Some(Reason::ClaimMismatch));
    }

    #[test]
    fn a_rule_without_values_is_never_met() {
        let requirement = Requirement { claims: vec![rule("tenant", &[])], ..Requirement::default() };
        assert_eq!(shortfall(&requirement, json!({"tenant": "acme"})), Some(Reason::ClaimMismatch));
    }

    #[test]
    fn the_routes_audiences_replace_the_issuers() {
        let of = |aud: Value| VerifiedClaims::sample("gateway", &json!({ "aud": aud }));
        let issuers = Requirement::default();
        assert_eq!(issuers.shortfall(&of(json!(["x", "api"]))), None);
        assert_eq!(issuers.shortfall(&of(json!("API"))), Some(Reason::WrongAudience));
        assert_eq!(issuers.shortfall(&of(json!([]))), Some(Reason::WrongAudience));
        let own = Requirement { audiences: words(&["orders"]), ..Requirement::default() };
        assert_eq!(own.shortfall(&of(json!("orders"))), None);
        assert_eq!(own.shortfall(&of(json!("api"))), Some(Reason::WrongAudience));
    }

    #[test]
    fn a_token_of_an_issuer_the_route_does_not_accept_is_not_looked_at_further() {
        let requirement = Requirement { issuers: Some(words(&["corp"])), ..Requirement::default() };
        let claims = json!({"aud": "other"});
        let shortfall = |issuer| requirement.shortfall(&VerifiedClaims::sample(issuer, &claims));
        assert_eq!(shortfall("gateway"), Some(Reason::UnknownIssuer));
        assert_eq!(shortfall("corp"), Some(Reason::WrongAudience));
        let nobody = Requirement { issuers: Some(Vec::new()), ..Requirement::default() };
        let claims = VerifiedClaims::sample("corp", &json!({"aud": "api"}));
        assert_eq!(nobody.shortfall(&claims), Some(Reason::UnknownIssuer));
    }

    #[test]
    fn a_scope_is_what_can_stand_in_a_challenge() {
        assert!(is_scope("orders:read") && is_scope("https://x.example/a.b"));
        for bad in ["", "a b", "a\"b", "a\\b", "é", "a\n"] {
            assert!(!is_scope(bad), "{bad:?}");
        }
    }
}
