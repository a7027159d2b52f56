//! The decision: what a route requires and who calls become a permit to forward, or a denial.

pub mod forward;
pub mod pattern;
pub mod requirement;
pub mod route;

use crate::reason::Reason;
use crate::token::claims::VerifiedClaims;
use forward::{AssertionRule, FieldName, ForwardPlan, Identity, Unforwardable, WhyUnforwardable};
use http::header::HeaderValue;
use requirement::{Mode, Requirement};
use std::sync::Arc;

/// Who calls, as far as the token tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// No token came, or the route does not look at tokens.
    Anonymous,
    /// A token that was verified and whose session has not ended.
    Verified(Arc<VerifiedClaims>),
    /// A token came and cannot be accepted, or could not be judged.
    Refused(Reason),
}

/// The outcome of [`authorize`].
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The request may be forwarded.
    Allow(Permit),
    /// The request must not reach an upstream.
    Deny(Denial),
}

/// Leave to forward one request, with the identity the upstream is told. Only [`authorize`] makes one,
/// and forwarding takes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Permit {
    claims: Option<Arc<VerifiedClaims>>,
    identity: Identity,
    assertion: Option<(FieldName, HeaderValue)>,
    would_deny: Option<Denial>,
}

impl Permit {
    /// The claims that are vouched for; `None` is anonymous.
    pub fn claims(&self) -> Option<&Arc<VerifiedClaims>> {
        self.claims.as_ref()
    }

    /// The identity headers to set, after every client header that could be read as one is removed.
    pub fn identity(&self) -> impl Iterator<Item = &(FieldName, HeaderValue)> {
        self.identity.iter().chain(&self.assertion)
    }

    /// Why the request is let through: `ok` or `anonymous`.
    pub fn reason(&self) -> Reason {
        if self.claims.is_some() { Reason::Ok } else { Reason::Anonymous }
    }

    /// Adds the assertion about the caller. One that cannot be made, or is too long beside the other headers,
    /// is a claim that cannot be forwarded like any other.
    pub fn asserting(
        mut self,
        requirement: &Requirement,
        plan: &ForwardPlan,
        rule: &AssertionRule,
        assertion: Result<HeaderValue, WhyUnforwardable>,
    ) -> Decision {
        let fitting = |value| forward::fits(&self.identity, &rule.header, &value).map(|()| value);
        match assertion.and_then(fitting) {
            Ok(value) => {
                self.assertion = Some((rule.header.clone(), value));
                Decision::Allow(self)
            }
            Err(why) => {
                let unforwardable = Unforwardable { header: rule.header.name().clone(), why };
                unforwarded(requirement, plan, unforwardable, self.would_deny)
            }
        }
    }

    /// On a route that only observes: the denial that enforcing would have made.
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_ref()
    }
}

/// Why a request is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason code.
    pub reason: Reason,
    /// The scopes the route asks for, separated by spaces: for the challenge of a caller who is known but
    /// lacks something. Empty otherwise.
    pub scopes: String,
    /// The identity header that cannot be written, and why, for `unforwardable_claim`.
    pub unforwardable: Option<Unforwardable>,
}

impl Denial {
    /// A denial about which there is nothing more to say than its reason.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, scopes: String::new(), unforwardable: None }
    }
}

/// Decides whether a caller may pass, and what the upstream is told about it.
///
/// - A public route does not look at the caller: the permit is anonymous.
/// - On an optional route no token is anonymous, but a token that comes must be good.
/// - A route that only observes (`enforce: false`) lets everything through. A caller who is known but lacks
///   a scope, role or claim keeps its identity; one whose token was refused, is not for this route
///   (`unknown_issuer`, `wrong_audience`) or does not fit into headers is anonymous to the upstream.
pub fn authorize(requirement: &Requirement, plan: &ForwardPlan, caller: Caller) -> Decision {
    let (claims, denial) = judge(requirement, caller);
    match denial {
        Some(denial) if requirement.enforce => Decision::Deny(denial),
        would_deny => permit(requirement, plan, claims, would_deny),
    }
}

/// The identity that may be passed on, and what speaks against forwarding.
fn judge(requirement: &Requirement, caller: Caller) -> (Option<Arc<VerifiedClaims>>, Option<Denial>) {
    match (requirement.mode, caller) {
        (Mode::Public, _) | (Mode::Optional, Caller::Anonymous) => (None, None),
        (Mode::Required, Caller::Anonymous) => (None, Some(Denial::new(Reason::NoToken))),
        (Mode::Optional | Mode::Required, Caller::Refused(reason)) => (None, Some(Denial::new(reason))),
        (Mode::Optional | Mode::Required, Caller::Verified(claims)) => match requirement.shortfall(&claims) {
            None => (Some(claims), None),
            Some(reason @ (Reason::UnknownIssuer | Reason::WrongAudience)) => {
                (None, Some(Denial::new(reason)))
            }
            Some(reason) => {
                let scopes = requirement.scopes.join(" ");
                (Some(claims), Some(Denial { reason, scopes, unforwardable: None }))
            }
        },
    }
}

fn permit(
    requirement: &Requirement,
    plan: &ForwardPlan,
    claims: Option<Arc<VerifiedClaims>>,
    would_deny: Option<Denial>,
) -> Decision {
    let Some(claims) = claims else { return anonymous(plan, would_deny) };
    match plan.identity(&claims) {
        Ok(identity) => {
            Decision::Allow(Permit { claims: Some(claims), identity, assertion: None, would_deny })
        }
        Err(unforwardable) => unforwarded(requirement, plan, unforwardable, would_deny),
    }
}

fn anonymous(plan: &ForwardPlan, would_deny: Option<Denial>) -> Decision {
    let identity = plan.anonymous_identity();
    Decision::Allow(Permit { claims: None, identity, assertion: None, would_deny })
}

/// What becomes of a caller that may pass, but of whom the upstream cannot be told.
fn unforwarded(
    requirement: &Requirement,
    plan: &ForwardPlan,
    unforwardable: Unforwardable,
    would_deny: Option<Denial>,
) -> Decision {
    let denial = Denial { unforwardable: Some(unforwardable), ..Denial::new(Reason::UnforwardableClaim) };
    if requirement.enforce { Decision::Deny(denial) } else { anonymous(plan, would_deny.or(Some(denial))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verified(claims: &Value) -> Caller {
        let mut claims = claims.clone();
        if claims["aud"].is_null() {
            claims["aud"] = json!("api");
        }
        Caller::Verified(Arc::new(VerifiedClaims::sample("gateway", &claims)))
    }

    fn mode(mode: Mode) -> Requirement {
        Requirement { mode, ..Requirement::default() }
    }

    fn decide(requirement: &Requirement, caller: Caller) -> Decision {
        authorize(requirement, &ForwardPlan::default(), caller)
    }

    #[track_caller]
    fn permit(decision: Decision) -> Permit {
        match decision {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => panic!("denied: {denial:?}"),
        }
    }

    #[track_caller]
    fn denial(decision: Decision) -> Denial {
        match decision {
            Decision::Deny(denial) => denial,
            Decision::Allow(permit) => panic!("allowed: {permit:?}"),
        }
    }

    fn header<'a>(permit: &'a Permit, name: &str) -> Option<&'a str> {
        permit.identity().find(|(n, _)| n.name() == name).map(|(_, value)| value.to_str().unwrap())
    }

    #[test]
    fn a_public_route_is_anonymous_whoever_calls() {
        let callers =
            [Caller::Anonymous, verified(&json!({"sub": "u1"})), Caller::Refused(Reason::BadSignature)];
        for caller in callers {
            let permit = permit(decide(&Requirement::public(), caller));
            assert_eq!(permit.reason(), Reason::Anonymous);
            assert!(
                permit.claims().is_none()
                    && permit.identity().next().is_none()
                    && permit.would_deny().is_none()
            );
        }
    }

    #[test]
    fn an_optional_route_takes_no_token_but_no_bad_one() {
        assert_eq!(permit(decide(&mode(Mode::Optional), Caller::Anonymous)).reason(), Reason::Anonymous);
        let good = permit(decide(&mode(Mode::Optional), verified(&json!({"sub": "u1"}))));
        assert_eq!((good.reason(), header(&good, "x-auth-subject")), (Reason::Ok, Some("u1")));
        let bad = denial(decide(&mode(Mode::Optional), Caller::Refused(Reason::Expired)));
        assert_eq!(bad, Denial::new(Reason::Expired));
        let lacking = Requirement { roles: vec!["clerk".into()], ..mode(Mode::Optional) };
        assert_eq!(permit(decide(&lacking, Caller::Anonymous)).reason(), Reason::Anonymous);
        let denied = denial(decide(&lacking, verified(&json!({"sub": "u1"}))));
        assert_eq!(denied.reason, Reason::InsufficientRole);
    }

    #[test]
    fn a_required_route_denies_who_brings_none_or_a_refused_one() {
        assert_eq!(denial(decide(&mode(Mode::Required), Caller::Anonymous)).reason, Reason::NoToken);
        for reason in [Reason::MalformedCredentials, Reason::Revoked, Reason::KeysUnavailable] {
            let denial = denial(decide(&Requirement::default(), Caller::Refused(reason)));
            assert_eq!(denial, Denial::new(reason));
        }
    }

    #[test]
    fn who_is_known_but_lacks_something_is_told_the_scopes() {
        let requirement = Requirement {
            scopes: vec!["orders:read".into(), "orders:write".into()],
            roles: vec!["clerk".into()],
            ..Requirement::default()
        };
        let lacks_scope = denial(decide(&requirement, verified(&json!({"scope": "orders:read"}))));
        assert_eq!(lacks_scope.reason, Reason::InsufficientScope);
        assert_eq!(lacks_scope.scopes, "orders:read orders:write");
        let both = json!({"scope": "orders:read orders:write"});
        assert_eq!(denial(decide(&requirement, verified(&both))).reason, Reason::InsufficientRole);
        let foreign = json!({"aud": "other"});
        assert_eq!(denial(decide(&requirement, verified(&foreign))), Denial::new(Reason::WrongAudience));
    }

    #[test]
    fn observing_forwards_and_says_what_enforcing_would_have_denied() {
        let observed = Requirement { enforce: false, scopes: vec!["a".into()], ..Requirement::default() };
        let lacking = permit(decide(&observed, verified(&json!({"sub": "u1"}))));
        assert_eq!(lacking.would_deny().unwrap().reason, Reason::InsufficientScope);
        assert_eq!(header(&lacking, "x-auth-subject"), Some("u1"));
        let good = permit(decide(&observed, verified(&json!({"sub": "u1", "scope": "a"}))));
        assert_eq!(good.would_deny(), None);
        for (caller, reason) in [
            (Caller::Anonymous, Reason::NoToken),
            (Caller::Refused(Reason::BadSignature), Reason::BadSignature),
            (verified(&json!({"sub": "u1", "aud": "other"})), Reason::WrongAudience),
            (verified(&json!({"sub": "u\n1", "scope": "a"})), Reason::UnforwardableClaim),
        ] {
            let permit = permit(decide(&observed, caller));
            assert_eq!(permit.would_deny().unwrap().reason, reason);
            assert!(permit.claims().is_none() && permit.identity().next().is_none(), "{reason}");
        }
    }

    #[test]
    fn an_assertion_is_one_more_identity_header_within_the_same_budget() {
        let rule = AssertionRule {
            header: "X-Auth-Assertion".parse().unwrap(),
            lifetime: std::time::Duration::from_secs(60),
        };
        let plan = ForwardPlan { assertion: Some(rule.clone()), ..ForwardPlan::default() };
        let asserting = |enforce, assertion| {
            let requirement = Requirement { enforce, ..Requirement::default() };
            let permit = permit(authorize(&requirement, &plan, verified(&json!({"sub": "u1"}))));
            permit.asserting(&requirement, &plan, &rule, assertion)
        };
        let value = |len: usize| Ok(HeaderValue::try_from("x".repeat(len)).unwrap());
        let fits = forward::IDENTITY_BYTES - "X-Auth-Subjectu1X-Auth-Assertion".len();
        let good = permit(asserting(true, value(fits)));
        assert_eq!(header(&good, "x-auth-assertion").unwrap().len(), fits);
        for wrong in [value(fits + 1), Err(WhyUnforwardable::AmbiguousScope)] {
            let denied = denial(asserting(true, wrong.clone()));
            assert_eq!(denied.reason, Reason::UnforwardableClaim);
            assert_eq!(denied.unforwardable.unwrap().header, "x-auth-assertion");
            let observed = permit(asserting(false, wrong));
            assert_eq!(observed.would_deny().unwrap().reason, Reason::UnforwardableClaim);
            assert!(observed.claims().is_none() && observed.identity().next().is_none());
        }
    }

    #[test]
    fn a_claim_that_fits_no_header_is_a_denial_that_names_the_header() {
        let denial = denial(decide(&Requirement::default(), verified(&json!({"sub": "a\r\nX-Admin: 1"}))));
        assert_eq!(denial.reason, Reason::UnforwardableClaim);
        assert_eq!(denial.unforwardable.unwrap().header, "x-auth-subject");
    }
}
