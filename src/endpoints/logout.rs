//! Logout of one session, and of all of a user's.

use super::access::Access;
use super::event::{AuditAction, Handled, SessionEvent};
use super::fault::Fault;
use super::fields::Fields;
use super::refresh::Rotated;
use super::{Body, EndpointRequest, Endpoints, Refused};
use crate::clock::Timestamp;
use crate::reply::Reply;
use crate::session::id::{SessionId, SessionRef, UserKey};
use crate::session::store::{Delivery, EndReason, StoreError};
use http::header;
use serde_json::json;

/// How a session was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The store has recorded it.
    Recorded,
    /// Refused here; the store is asked again until it answers.
    Queued,
}

impl Endpoints {
    /// Ends every session the request has a genuine token of; tokens that are none of ours, or whose session
    /// has run out, end nothing, and that is a success too.
    pub(super) async fn logout(
        &self,
        request: &EndpointRequest<'_>,
        body: &Body,
    ) -> Result<Handled, Refused> {
        let fields = Fields::read(request.headers, body)?;
        let now = self.parts.clock.now();
        let bearer = self.genuine_access(request, now).await;
        let cookie = self.brings_cookie(request);
        // No foreign page can send our access token: with it the cookie needs no further proof.
        if cookie && bearer.is_none() {
            self.check_same_site(request)?;
        }
        let in_body = fields.refresh_token()?.map(|token| (token, Delivery::Body));
        let cookies = self.settings.cookie.values(request.headers).map(|value| (value, Delivery::Cookie));
        let refresh =
            cookies.chain(in_body).filter_map(|(token, way)| self.parts.tokens.parse(token, way, now).ok());
        let mut sessions: Vec<(UserKey, SessionId)> =
            refresh.map(|parsed| (parsed.presented.user, parsed.presented.session)).collect();
        sessions.extend(bearer.as_ref().map(|access| (access.session.user, access.session.session)));
        sessions.sort_unstable();
        sessions.dedup();

        let mut reply = Reply::empty(204);
        let mut action = AuditAction::Logout;
        for &(user, session) in &sessions {
            match self.end(user, session, EndReason::Logout, now).await? {
                Ended::Recorded => {}
                Ended::Queued => {
                    action = AuditAction::LogoutQueued;
                    reply = Reply::json(202, &json!({ "revocation": "pending" }));
                }
            }
        }
        if cookie {
            reply = reply.with(header::SET_COOKIE, &self.settings.cookie.clear());
        }
        let Some(&(_, session)) = sessions.first() else { return Ok(reply.into()) };
        let subject = bearer.map(|access| access.claims.subject().to_owned());
        let audit = Self::audit(action, request, subject, Some(session));
        Ok(Handled { reply, event: Some(SessionEvent::Logout), audit: Some(audit), reused: None })
    }

    /// Ends all sessions of the user a valid access or refresh token belongs to.
    pub(super) async fn logout_all(
        &self,
        request: &EndpointRequest<'_>,
        body: &Body,
    ) -> Result<Handled, Refused> {
        let fields = Fields::read(request.headers, body)?;
        let now = self.parts.clock.now();
        let cookie = self.brings_cookie(request);
        let refresh_token = cookie || fields.refresh_token()?.is_some();
        let (user, subject, session, reused) = match self.access(request, now).await {
            Ok(Access { claims, session: SessionRef { user, session, .. } }) => {
                (user, claims.subject().to_owned(), session, None)
            }
            Err(fault) if !refresh_token => return Err(fault.into()),
            Err(_) => {
                // Presented like at a refresh, so that a replay is found out here as well.
                let tokens = self.refresh_credentials(request, &fields, now)?;
                let Rotated { session, reused, .. } = self.rotate_living(request, tokens, now).await?;
                (session.user, session.subject, session.id, reused)
            }
        };
        let revoked =
            self.end_all(self.names_of(user, &subject), now).await.map_err(|_| Fault::Unavailable)?;
        let mut reply = Reply::json(200, &json!({ "revoked": revoked }));
        if cookie {
            reply = reply.with(header::SET_COOKIE, &self.settings.cookie.clear());
        }
        let audit = Self::audit(AuditAction::LogoutAll, request, Some(subject), Some(session));
        Ok(Handled { reply, event: Some(SessionEvent::LogoutAll), audit: Some(audit), reused })
    }

    /// Ends all sessions of a user because a backend says so, and says how many there were.
    ///
    /// # Errors
    /// [`StoreError`] if the store did not record it: some may be ended, and the call can be repeated.
    pub async fn revoke_user(&self, subject: &str) -> Result<u32, StoreError> {
        self.end_all(self.parts.tokens.user_keys(subject), self.parts.clock.now()).await
    }

    async fn end_all(
        &self,
        names: impl IntoIterator<Item = UserKey>,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let mut revoked: u32 = 0;
        for user in names {
            let ended = self.parts.store.end_all(user).await?;
            self.parts.revocations.user_ended(user, ended.epoch, now);
            revoked = revoked.saturating_add(ended.ended);
        }
        Ok(revoked)
    }

    /// Every name the store may know a user by: `user`, and those under each secret that is accepted.
    pub(super) fn names_of(&self, user: UserKey, subject: &str) -> Vec<UserKey> {
        let mut names = vec![user];
        names.extend(self.parts.tokens.user_keys(subject).filter(|other| *other != user));
        names
    }

    /// Ends a session: its access tokens are refused here before anything else happens.
    pub(super) async fn end(
        &self,
        user: UserKey,
        session: SessionId,
        why: EndReason,
        now: Timestamp,
    ) -> Result<Ended, Fault> {
        self.parts.revocations.session_ended(user, session, now);
        match self.parts.store.end(user, session, why).await {
            Ok(_) => Ok(Ended::Recorded),
            Err(_) if self.parts.deferred.end(user, session, why) => Ok(Ended::Queued),
            Err(_) => Err(Fault::Unavailable),
        }
    }
}
