//! `POST /users/{subject}/revoke`: a backend ends all sessions of a user, as after a change of the password.

use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::endpoints::Endpoints;
use crate::endpoints::event::{AuditAction, AuditEvent, SessionEvent};
use crate::metrics::Metrics;
use crate::reply::{Challenge, Reply};
use crate::secret::Secret;
use crate::token::bearer::{self, Bearer};
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The longest token looked at, in bytes.
const TOKEN_BYTES: usize = 8 * 1024;
/// The longest subject a user can have, in bytes.
const SUBJECT_BYTES: usize = 255;
/// How long a backend is told to wait for a store that does not answer.
const RECOVERY: Duration = Duration::from_secs(2);

/// Ends users' sessions for whoever shows the token.
pub struct Revoker {
    /// What has to be shown (`admin.token_file`).
    pub token: Secret<String>,
    /// What ends sessions.
    pub endpoints: Arc<Endpoints>,
    /// Where it is told.
    pub log: AccessLog,
    /// Where it is counted.
    pub metrics: Metrics,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) address: IpAddr,
    pub(super) request_id: &'a str,
}

impl Revoker {
    /// Ends all sessions of `subject`.
    pub(super) async fn revoke(&self, subject: String, caller: Caller<'_>) -> Reply {
        let error = |status, error, code, message| {
            Reply::endpoint_error(status, error, code, message, caller.request_id)
        };
        match bearer::find(caller.headers, TOKEN_BYTES) {
            Bearer::Token(token) if self.token.equals(token.as_bytes()) => {}
            Bearer::Absent => {
                let reply =
                    error(401, "invalid_token", "no_token", "The token of admin.token_file is needed");
                return reply.challenge(&Challenge::Bare);
            }
            Bearer::Malformed => {
                let what = "The credentials must be Bearer and one token";
                let reply = error(400, "invalid_request", "malformed_credentials", what);
                return reply.challenge(&Challenge::InvalidRequest(what));
            }
            Bearer::Token(_) | Bearer::TooLarge => {
                let what = "The token is not the one of admin.token_file";
                return error(401, "invalid_token", "invalid_token", what)
                    .challenge(&Challenge::InvalidToken(what));
            }
        }
        match self.endpoints.revoke_user(&subject).await {
            Ok(revoked) => {
                let audit = AuditEvent {
                    action: AuditAction::UserRevoked,
                    subject: Some(subject),
                    session: None,
                    address: caller.address,
                    request_id: caller.request_id.to_owned(),
                };
                self.metrics.session_event(SessionEvent::LogoutAll.as_str());
                self.log.write(audit.line(&self.log, self.clock.now()));
                Reply::json(200, &json!({ "revoked": revoked }))
            }
            Err(problem) => {
                tracing::warn!(error = %problem, "a user's sessions were not ended: the store does not answer");
                let what = "The session store did not record it; repeat the call";
                let busy = "temporarily_unavailable";
                error(503, busy, busy, what).retry_after(RECOVERY)
            }
        }
    }
}

/// The subject in a path `/users/{subject}/revoke`, where it is one percent-encoded segment; `None`: another
/// path, or no subject.
pub(super) fn subject(path: &str) -> Option<String> {
    let encoded = path.strip_prefix("/users/")?.strip_suffix("/revoke")?;
    if encoded.contains('/') {
        return None;
    }
    let subject = percent_decode_str(encoded).decode_utf8().ok()?;
    let fits = (1..=SUBJECT_BYTES).contains(&subject.len()) && !subject.contains(char::is_control);
    fits.then(|| subject.into_owned())
}

#[cfg(test)]
mod tests {
    use super::subject;

    #[test]
    fn the_subject_is_one_decoded_segment() {
        for (path, expected) in [
            ("/users/alice/revoke", Some("alice")),
            ("/users/a%2Fb/revoke", Some("a/b")),
            ("/users/%C3%A9ve%40example.com/revoke", Some("éve@example.com")),
            ("/users/a+b/revoke", Some("a+b")),
            ("/users//revoke", None),
            ("/users/revoke", None),
            ("/users/a/b/revoke", None),
            ("/users/a%00b/revoke", None),
            ("/users/%ff/revoke", None),
            ("/users/alice", None),
            ("/user/alice/revoke", None),
        ] {
            assert_eq!(subject(path).as_deref(), expected, "{path}");
        }
        assert_eq!(subject(&format!("/users/{}/revoke", "x".repeat(256))), None);
    }
}
