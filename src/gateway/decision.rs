//! What is to become of a request, decided before anything of it leaves: which route or endpoint it is for, who
//! calls, and whether the route's policy lets it pass.

use super::context::RequestContext;
use super::cors::{self, Cors};
use super::rate::By;
use super::snapshot::ServedRoute;
use super::{Gateway, admission, report, respond};
use crate::endpoints::{self, Endpoint};
use crate::policy::forward::WhyUnforwardable;
use crate::policy::requirement::Mode;
use crate::policy::{Caller, Decision, Denial, Permit, authorize};
use crate::reason::Reason;
use crate::token::assertion::{Addressee, AssertionError};
use crate::token::bearer::{self, Bearer};
use http::Method;
use http::header::AUTHORIZATION;
use pingora_core::protocols::http::server::Session;
use std::sync::Arc;

/// What is to become of a request.
pub(super) enum Verdict {
    /// It is for one of our own endpoints.
    Endpoint(Endpoint),
    /// It asks whether a page of another origin may use this method.
    Preflight(Method, Cors),
    /// It is answered with an error.
    Refuse(Denial),
    /// It is forwarded.
    Forward(Arc<ServedRoute>, Permit),
}

impl Verdict {
    fn refuse(reason: Reason) -> Self {
        Self::Refuse(Denial::new(reason))
    }
}

impl Gateway {
    /// Decides. Writes nothing, and waits for nothing but missing keys, a store that the route wants asked, and a
    /// slow signature.
    pub(super) async fn decide(&self, session: &Session, ctx: &mut RequestContext) -> Verdict {
        let path = match admission::admit(session, ctx) {
            Ok(path) => path,
            Err(reason) => return Verdict::refuse(reason),
        };
        path.as_str().clone_into(&mut ctx.path);
        if let Some(endpoint) =
            self.own.as_ref().and_then(|own| endpoints::find(own.prefix.as_str(), path.as_str()))
        {
            return Verdict::Endpoint(endpoint);
        }
        let request = session.req_header();
        let preflight = cors::preflight_method(&request.method, &request.headers)
            .filter(admission::is_served)
            .and_then(|asked| Some((ctx.snapshot.routes.find(&ctx.host, path.as_str(), &asked)?, asked)))
            .and_then(|(served, asked)| Some((served.route.cors.clone()?, Arc::clone(served), asked)));
        if let Some((cors, served, asked)) = preflight {
            let allowed = path.check(served.route.allow_in_path);
            ctx.route = Some(served);
            return match allowed {
                Ok(()) => Verdict::Preflight(asked, cors),
                Err(_) => Verdict::refuse(Reason::BadPath),
            };
        }
        let Some(served) = ctx.snapshot.routes.find(&ctx.host, path.as_str(), &request.method).cloned()
        else {
            return Verdict::refuse(if path.is_plain() { Reason::NoRoute } else { Reason::BadPath });
        };
        ctx.route = Some(Arc::clone(&served));
        report::count_spoofed(session, ctx, &served);
        if path.check(served.route.allow_in_path).is_err() {
            return Verdict::refuse(Reason::BadPath);
        }
        if !self.is_within_rate(ctx, &served, By::Address, None) {
            return Verdict::refuse(Reason::RateLimited);
        }
        if ctx.body_limit().zip(respond::content_length(session)).is_some_and(|(most, length)| length > most)
        {
            return Verdict::refuse(Reason::BodyTooLarge);
        }
        let caller = match &ctx.claims {
            Some(claims) => Caller::Verified(Arc::clone(claims)),
            None => self.caller(session, ctx, &served).await,
        };
        let mut decision = authorize(&served.route.requirement, &served.route.forward, caller);
        if let Decision::Allow(permit) = &decision
            && !self.is_within_rate(ctx, &served, By::Subject, permit.claims().map(Arc::as_ref))
        {
            decision = Decision::Deny(Denial::new(Reason::RateLimited));
        }
        if let Some(to) = &served.addressee {
            decision = Box::pin(self.assert(decision, to, ctx, &served)).await;
        }
        match decision {
            Decision::Deny(denial) => Verdict::Refuse(denial),
            Decision::Allow(permit) => Verdict::Forward(served, permit),
        }
    }

    /// Who calls: the token found and verified, and not known to be revoked. A public route never looks.
    async fn caller(&self, session: &Session, ctx: &mut RequestContext, served: &ServedRoute) -> Caller {
        let requirement = &served.route.requirement;
        if requirement.mode == Mode::Public {
            return Caller::Anonymous;
        }
        let headers = &session.req_header().headers;
        let unread = bearer::unread(headers);
        if unread.is_none() && !headers.contains_key(AUTHORIZATION) {
            return Caller::Anonymous;
        }
        let now = self.clock.now();
        ctx.judged = Some(now);
        // A token that was verified before, under this configuration, was also found well-formed then.
        let known = unread.and_then(|token| ctx.snapshot.verifier.known(token, now));
        let verified = match known {
            Some(claims) => Ok(claims),
            None => match bearer::find(headers, ctx.snapshot.limits.token_bytes) {
                Bearer::Absent => return Caller::Anonymous,
                Bearer::Malformed => return Caller::Refused(Reason::MalformedCredentials),
                Bearer::TooLarge => return Caller::Refused(Reason::TokenTooLarge),
                // Boxed, so that what no warm request does makes no request's future larger.
                Bearer::Token(token) => Box::pin(ctx.snapshot.verifier.verify_unknown(token, now)).await,
            },
        };
        match verified {
            Err(refusal) => {
                ctx.issuer = refusal.issuer;
                Caller::Refused(refusal.reason)
            }
            Ok(claims) => {
                ctx.issuer = Some(claims.shared_issuer());
                if let (Some(reference), Some(sessions)) = (claims.session(), &self.sessions) {
                    if let Err(reason) = sessions.check(requirement.revocation, reference).await {
                        return Caller::Refused(reason);
                    }
                    sessions.confirmations.note(reference);
                }
                ctx.claims = Some(Arc::clone(&claims));
                Caller::Verified(claims)
            }
        }
    }

    /// Adds the assertion to a permit that names a caller. Waits only for a slow signature that is not at hand.
    async fn assert(
        &self,
        decision: Decision,
        to: &Addressee,
        ctx: &RequestContext,
        served: &ServedRoute,
    ) -> Decision {
        let Decision::Allow(permit) = decision else { return decision };
        let Some(claims) = permit.claims() else { return Decision::Allow(permit) };
        let broken = Decision::Deny(Denial::new(Reason::Internal));
        let Some(assertions) = &ctx.snapshot.assertions else { return broken };
        let now = self.clock.now();
        let assertion = match assertions.at_hand(claims, to, now) {
            Some(assertion) => Ok(assertion),
            // Boxed, so that what few requests do makes no request's future larger.
            None => match Box::pin(assertions.mint(claims, to, now)).await {
                Ok(assertion) => Ok(assertion),
                Err(AssertionError::AmbiguousScope) => Err(WhyUnforwardable::AmbiguousScope),
                Err(error) => {
                    tracing::error!(request = ctx.request_id, %error, "an assertion could not be made");
                    return broken;
                }
            },
        };
        let Some(rule) = &served.route.forward.assertion else { return broken };
        permit.asserting(&served.route.requirement, &served.route.forward, rule, assertion)
    }
}
