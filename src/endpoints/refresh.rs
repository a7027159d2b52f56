//! Refresh: a refresh token becomes a new access token, and mostly its own successor.

use super::event::{AuditAction, AuditEvent, Handled, SessionEvent};
use super::fault::Fault;
use super::fields::Fields;
use super::{Body, EndpointRequest, Endpoints, Refused};
use crate::clock::Timestamp;
use crate::directory::Standing;
use crate::session::family::Outcome;
use crate::session::id::UserKey;
use crate::session::refresh_token::Parsed;
use crate::session::store::{Delivery, EndReason, SessionRecord};
use serde_json::{Map, Value};

/// A session that goes on.
pub(super) struct Rotated {
    parsed: Parsed,
    outcome: Outcome,
    pub(super) session: SessionRecord,
    /// What is to be recorded of a token that was presented before this session's, and was replayed.
    pub(super) reused: Option<AuditEvent>,
}

impl Endpoints {
    pub(super) async fn refresh(
        &self,
        request: &EndpointRequest<'_>,
        body: &Body,
    ) -> Result<Handled, Refused> {
        let fields = Fields::read(request.headers, body)?;
        let now = self.parts.clock.now();
        let tokens = self.refresh_credentials(request, &fields, now).map_err(|fault| match fault {
            Fault::NoSession | Fault::InvalidToken | Fault::SessionExpired => refused(fault),
            other => other.into(),
        })?;
        let Rotated { parsed, outcome, session, reused } = self.rotate_living(request, tokens, now).await?;
        let claims = self.claims_now(request, &session, now).await?;
        let claims = claims.as_ref().unwrap_or(&session.claims);

        // A token that did not change is not sent to a browser again: it might overtake a newer one.
        let unchanged = outcome == Outcome::Same && parsed.delivery == Delivery::Cookie;
        let token = (!unchanged).then(|| self.parts.tokens.mint_generation(&parsed, session.generation));
        let reply = self.grant(&session, claims, token.as_ref(), now).await?;
        Ok(Handled { reply, event: Some(event(outcome)), audit: None, reused })
    }

    /// Presents the first of these whose session has not ended. Each is genuine: one of a session that ended, before
    /// one that lives, ends no session but its own.
    pub(super) async fn rotate_living(
        &self,
        request: &EndpointRequest<'_>,
        tokens: Vec<Parsed>,
        now: Timestamp,
    ) -> Result<Rotated, Refused> {
        let (mut ended, mut replayed) = (None, None);
        for parsed in tokens {
            match self.rotate(request, &parsed, now).await {
                Ok((outcome, session)) => {
                    let reused = replayed.and_then(|refused: Refused| refused.audit);
                    return Ok(Rotated { parsed, outcome, session, reused });
                }
                Err(refused) => match refused.fault {
                    Fault::SessionRevoked | Fault::SessionExpired => ended = ended.or(Some(refused)),
                    Fault::TokenReused => replayed = replayed.or(Some(refused)),
                    _ => return Err(refused),
                },
            }
        }
        Err(replayed.or(ended).unwrap_or_else(|| Fault::NoSession.into()))
    }

    /// Presents a refresh token to the store and yields the session if that grants new tokens.
    async fn rotate(
        &self,
        request: &EndpointRequest<'_>,
        parsed: &Parsed,
        now: Timestamp,
    ) -> Result<(Outcome, SessionRecord), Refused> {
        let id = parsed.presented.session;
        let rotation = self.parts.store.rotate(&parsed.presented).await.map_err(|_| Fault::Unavailable)?;
        let outcome = rotation.outcome;
        let subject = rotation.session.as_ref().map(|session| session.subject.clone());
        let audited = |fault, action| {
            let audit = Self::audit(action, request, subject, Some(id));
            Refused::noted(fault, event(outcome), Some(audit))
        };
        match outcome {
            Outcome::Rotated | Outcome::Same | Outcome::Retry | Outcome::Recovered | Outcome::Healed => {
                let session = rotation.session.ok_or(Fault::Unavailable)?;
                // After a failover the store may have forgotten what this gateway still knows.
                if self.parts.revocations.is_revoked(&session.reference()) {
                    return Err(refused(Fault::SessionRevoked));
                }
                Ok((outcome, session))
            }
            Outcome::Reused => {
                let user = parsed.presented.user;
                self.parts.revocations.session_ended(user, id, now);
                if let Some(epoch) = rotation.raised {
                    self.parts.revocations.user_ended(user, epoch, now);
                    let subject = rotation.session.as_ref().map_or("", |session| &session.subject);
                    self.end_under_other_names(user, subject, now).await;
                }
                Err(audited(Fault::TokenReused, AuditAction::TokenReused))
            }
            Outcome::Revoked => Err(refused(Fault::SessionRevoked)),
            Outcome::Expired | Outcome::Unknown => Err(refused(Fault::SessionExpired)),
            Outcome::Ahead => Err(audited(Fault::SessionExpired, AuditAction::StoreBehind)),
            Outcome::Mismatch => Err(audited(Fault::InvalidToken, AuditAction::SecretMismatch)),
        }
    }

    /// Ends what a user has under other secrets than the one of the replayed token. What the store does not
    /// take now it is told later: the replay was answered and comes no second time.
    async fn end_under_other_names(&self, user: UserKey, subject: &str, now: Timestamp) {
        for other in self.names_of(user, subject).into_iter().filter(|name| *name != user) {
            match self.parts.store.end_all(other).await {
                Ok(ended) => self.parts.revocations.user_ended(other, ended.epoch, now),
                Err(_) => drop(self.parts.deferred.end_all(other)),
            }
        }
    }

    /// The user's claims as the directory has them now; `None` to go on with those of the session. Ends the
    /// session of a user who is gone; a directory that is down ends nobody's.
    async fn claims_now(
        &self,
        request: &EndpointRequest<'_>,
        session: &SessionRecord,
        now: Timestamp,
    ) -> Result<Option<Map<String, Value>>, Refused> {
        match self.parts.directory.standing(&session.subject).await {
            Ok(Standing::Current(identity)) => Ok(Some(identity.claims)),
            Ok(Standing::Unchanged) | Err(_) => Ok(None),
            Ok(Standing::Gone) => {
                // Refused here in any case; what the store cannot record now is repeated.
                let _ = self.end(session.user, session.id, EndReason::Disabled, now).await;
                let subject = Some(session.subject.clone());
                let audit = Self::audit(AuditAction::UserGone, request, subject, Some(session.id));
                Err(Refused::noted(Fault::SessionRevoked, SessionEvent::RefreshRefused, Some(audit)))
            }
        }
    }
}

fn refused(fault: Fault) -> Refused {
    Refused::noted(fault, SessionEvent::RefreshRefused, None)
}

const fn event(outcome: Outcome) -> SessionEvent {
    match outcome {
        Outcome::Rotated => SessionEvent::RefreshRotated,
        Outcome::Same => SessionEvent::RefreshSame,
        Outcome::Retry => SessionEvent::RefreshRetry,
        Outcome::Recovered => SessionEvent::RefreshRecovered,
        Outcome::Healed => SessionEvent::RefreshHealed,
        Outcome::Reused => SessionEvent::RefreshReused,
        Outcome::Revoked | Outcome::Expired | Outcome::Unknown | Outcome::Ahead | Outcome::Mismatch => {
            SessionEvent::RefreshRefused
        }
    }
}
