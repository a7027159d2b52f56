//! A user's own sessions: listed, and ended one by one.

use super::event::{AuditAction, Handled};
use super::fault::Fault;
use super::settings::Naming;
use super::{EndpointRequest, Endpoints, Refused};
use crate::reply::Reply;
use crate::session::id::SessionId;
use crate::session::store::{EndReason, SessionRecord};
use serde_json::{Value, json};
use std::cmp::Reverse;

impl Endpoints {
    pub(super) async fn list_sessions(&self, request: &EndpointRequest<'_>) -> Result<Handled, Refused> {
        let access = self.access(request, self.parts.clock.now()).await?;
        let mut sessions = Vec::new();
        for user in self.names_of(access.session.user, access.claims.subject()) {
            sessions.extend(self.parts.store.list(user).await.map_err(|_| Fault::Unavailable)?);
        }
        sessions.sort_by_key(|session| (Reverse(session.last_seen), session.id));
        let current = access.session.session;
        let entries: Vec<_> =
            sessions.iter().map(|session| entry(self.settings.naming, session, current)).collect();
        Ok(Reply::json(200, &json!({ "sessions": entries })).into())
    }

    pub(super) async fn remove_session(
        &self,
        request: &EndpointRequest<'_>,
        id: Option<SessionId>,
    ) -> Result<Handled, Refused> {
        let now = self.parts.clock.now();
        let access = self.access(request, now).await?;
        let id = id.ok_or(Fault::NotFound)?;
        // Whose session it is only the store knows: nothing is refused here before it has said so.
        for user in self.names_of(access.session.user, access.claims.subject()) {
            let ended = self.parts.store.end(user, id, EndReason::Removed).await;
            if ended.map_err(|_| Fault::Unavailable)? {
                self.parts.revocations.session_ended(user, id, now);
                let subject = Some(access.claims.subject().to_owned());
                let audit = Self::audit(AuditAction::SessionRemoved, request, subject, Some(id));
                return Ok(Handled {
                    reply: Reply::empty(204),
                    event: None,
                    audit: Some(audit),
                    reused: None,
                });
            }
        }
        Err(Fault::NotFound.into())
    }
}

fn entry(naming: Naming, session: &SessionRecord, current: SessionId) -> Value {
    let [created, last_seen] = match naming {
        Naming::CamelCase => ["createdAt", "lastSeenAt"],
        Naming::OAuth => ["created_at", "last_seen_at"],
    };
    json!({
        "id": session.id.to_string(),
        "current": session.id == current,
        created: session.created.to_rfc3339(),
        last_seen: session.last_seen.to_rfc3339(),
        "device": session.device,
        "address": session.address,
    })
}
