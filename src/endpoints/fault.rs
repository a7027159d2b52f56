//! Why an endpoint refuses, and the answer each refusal gets: one closed table.

use super::event::{AuditEvent, SessionEvent};
use crate::reply::{Challenge, Reply};
use http::header;
use std::time::Duration;

/// How long a client is told to wait while the store, the directory or the hashing pool recovers.
pub(super) const RECOVERY: Duration = Duration::from_secs(2);

/// Why an endpoint refuses a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such endpoint, or no such session.
    NotFound,
    /// The endpoint does not know the method; these it knows.
    MethodNotAllowed(&'static str),
    /// A body that is not `application/json`.
    UnsupportedMediaType,
    /// A body over the limit.
    BodyTooLarge,
    /// The body did not come in time, or broke off.
    BodyTimeout,
    /// The body or a field in it is malformed.
    Malformed(&'static str),
    /// A foreign page may have caused the request.
    CrossSite,
    /// Unknown user, wrong password or disabled user.
    InvalidCredentials,
    /// Too many logins were tried; this long until the next.
    TooManyAttempts(Duration),
    /// The store, the directory or the hashing pool cannot answer.
    Unavailable,
    /// The system's random generator or a signing key failed.
    Internal,
    /// No refresh token came.
    NoSession,
    /// A refresh token that is not one of ours, or came by the wrong way.
    InvalidToken,
    /// The session ran out.
    SessionExpired,
    /// The session was ended.
    SessionRevoked,
    /// The refresh token was replayed.
    TokenReused,
    /// An access token is needed and none came.
    NoAccessToken,
    /// The credentials are not `Bearer` and one token.
    MalformedCredentials,
    /// The access token is not good, with the description its challenge gets.
    BadAccessToken(&'static str),
    /// The access token's session was ended.
    AccessTokenRevoked,
}

impl Fault {
    /// The answer: status, RFC 6749 or RFC 6750 error, our code, and a sentence for people.
    pub(super) fn reply(&self, request_id: &str) -> Reply {
        let (status, error, code, message) = self.row();
        let reply = Reply::endpoint_error(status, error, code, message, request_id);
        match self {
            Self::MethodNotAllowed(allow) => reply.with_static(header::ALLOW, allow),
            Self::TooManyAttempts(wait) => reply.retry_after(*wait),
            Self::Unavailable => reply.retry_after(RECOVERY),
            Self::NoAccessToken => reply.challenge(&Challenge::Bare),
            Self::MalformedCredentials => reply.challenge(&Challenge::InvalidRequest(message)),
            Self::BadAccessToken(_) | Self::AccessTokenRevoked => {
                reply.challenge(&Challenge::InvalidToken(message))
            }
            Self::NotFound
            | Self::UnsupportedMediaType
            | Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::Malformed(_)
            | Self::CrossSite
            | Self::InvalidCredentials
            | Self::Internal
            | Self::NoSession
            | Self::InvalidToken
            | Self::SessionExpired
            | Self::SessionRevoked
            | Self::TokenReused => reply,
        }
    }

    const fn row(&self) -> (u16, &'static str, &'static str, &'static str) {
        const BAD: &str = "invalid_request";
        const GRANT: &str = "invalid_grant";
        const BUSY: &str = "temporarily_unavailable";
        const TOKEN: &str = "invalid_token";
        match self {
            Self::NotFound => (404, BAD, "not_found", "There is nothing here"),
            Self::MethodNotAllowed(_) => (405, BAD, BAD, "The method is not allowed here"),
            Self::UnsupportedMediaType => (415, BAD, BAD, "The body must be application/json"),
            Self::BodyTooLarge => (413, BAD, BAD, "The body is too large"),
            Self::BodyTimeout => (408, BAD, BAD, "The body did not arrive in time"),
            Self::Malformed(what) => (400, BAD, BAD, what),
            Self::CrossSite => (403, "access_denied", "csrf_failed", "Cross-site requests are refused"),
            Self::InvalidCredentials => {
                (401, GRANT, "invalid_credentials", "The username or the password is wrong")
            }
            Self::TooManyAttempts(_) => {
                (429, BUSY, "too_many_attempts", "Too many attempts; try again later")
            }
            Self::Unavailable => (503, BUSY, BUSY, "The service cannot answer now; try again soon"),
            Self::Internal => (500, "server_error", "server_error", "The gateway failed"),
            Self::NoSession => (401, GRANT, "no_session", "No refresh token was sent"),
            Self::InvalidToken => (401, GRANT, TOKEN, "The refresh token is not valid"),
            Self::SessionExpired => (401, GRANT, "session_expired", "The session has expired"),
            Self::SessionRevoked => (401, GRANT, "session_revoked", "The session was ended"),
            Self::TokenReused => {
                (401, GRANT, "token_reused", "The refresh token was used before; the session was ended")
            }
            Self::NoAccessToken => (401, TOKEN, "no_session", "An access token is needed"),
            Self::MalformedCredentials => (400, BAD, BAD, "The credentials must be Bearer and one token"),
            Self::BadAccessToken(what) => (401, TOKEN, TOKEN, what),
            Self::AccessTokenRevoked => (401, TOKEN, "session_revoked", "The session was ended"),
        }
    }
}

/// A refusal and what is to be counted and recorded of it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) fault: Fault,
    pub(super) event: Option<SessionEvent>,
    pub(super) audit: Option<AuditEvent>,
}

impl Refused {
    /// A refusal that counts as `event`.
    pub(super) const fn noted(fault: Fault, event: SessionEvent, audit: Option<AuditEvent>) -> Self {
        Self { fault, event: Some(event), audit }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { fault, event: None, audit: None }
    }
}
