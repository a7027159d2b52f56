//! The decision: what a route requires and who calls become a permit to forward, or a denial.

pub mod forward;
pub mod pattern;
pub mod requirement;
pub mod route;

use crate::reason::Reason;
use crate::token::claims::VerifiedClaims;
use forward::ForwardPlan;
use http::header::{HeaderName, HeaderValue};
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
    identity: Vec<(HeaderName, HeaderValue)>,
    would_deny: Option<Denial>,
}

impl Permit {
    /// The claims that are vouched for; `None` is anonymous.
    pub fn claims(&self) -> Option<&Arc<VerifiedClaims>> {
        self.claims.as_ref()
    }

    /// The identity headers to set, after every client header that could be read as one is removed.
    pub fn identity(&self) -> &[(HeaderName, HeaderValue)] {
        &self.identity
    }

    /// Why the request is let through: `ok` or `anonymous`.
    pub fn reason(&self) -> Reason {
        if self.claims.is_some() { Reason::Ok } else { Reason::Anonymous }
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
    /// The identity header that cannot be written, for `unforwardable_claim`.
    pub header: Option<HeaderName>,
}

impl Denial {
    /// A denial about which there is nothing more to say than its reason.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, scopes: String::new(), header: None }
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
                (Some(claims), Some(Denial { reason, scopes, header: None }))
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
    let anonymous = |would_deny| {
        Decision::Allow(Permit { claims: None, identity: plan.anonymous_identity(), would_deny })
    };
    let Some(claims) = claims else { return anonymous(would_deny) };
    match plan.identity(&claims) {
        Ok(identity) => Decision::Allow(Permit { claims: Some(claims), identity, would_deny }),
        Err(unforwardable) => {
            let denial = Denial {
                reason: Reason::UnforwardableClaim,
                scopes: String::new(),
                header: Some(unforwardable.header),
            };
            if requirement.enforce { Decision::Deny(denial) } else { anonymous(would_deny.or(Some(denial))) }
        }
    }
}
