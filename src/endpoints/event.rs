//! What an endpoint reports about itself, as plain data: for the metrics and for the audit log.

use crate::access_log::{AccessLog, Line};
use crate::clock::Timestamp;
use crate::reply::Reply;
use crate::session::id::SessionId;
use std::net::IpAddr;

/// An endpoint's answer and what is to be counted and recorded of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Handled {
    /// The answer. For `HEAD`, send its header fields and `Content-Length` without the body.
    pub reply: Reply,
    /// A line for the audit log.
    pub audit: Option<AuditEvent>,
    /// The event for `session_events_total`.
    pub event: Option<SessionEvent>,
    /// A replay among several cookies, of which another served: a line for the audit log, and counted as
    /// [`SessionEvent::RefreshReused`].
    pub reused: Option<AuditEvent>,
}

impl From<Reply> for Handled {
    fn from(reply: Reply) -> Self {
        Self { reply, audit: None, event: None, reused: None }
    }
}

/// The closed list of `session_events_total{event}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEvent {
    /// A login succeeded.
    LoginOk,
    /// A username or password was wrong.
    LoginFailed,
    /// A login was refused before it was judged.
    LoginThrottled,
    /// A refresh made a successor.
    RefreshRotated,
    /// A refresh got the current token again.
    RefreshSame,
    /// A refresh repeated within the grace time.
    RefreshRetry,
    /// A refresh whose earlier answer was lost.
    RefreshRecovered,
    /// A refresh after the store lost a write.
    RefreshHealed,
    /// An earlier generation was replayed.
    RefreshReused,
    /// A refresh was refused for another reason.
    RefreshRefused,
    /// A session was ended by its user.
    Logout,
    /// All sessions of a user were ended by that user.
    LogoutAll,
}

impl SessionEvent {
    /// Every event.
    pub const ALL: &'static [Self] = &[
        Self::LoginOk,
        Self::LoginFailed,
        Self::LoginThrottled,
        Self::RefreshRotated,
        Self::RefreshSame,
        Self::RefreshRetry,
        Self::RefreshRecovered,
        Self::RefreshHealed,
        Self::RefreshReused,
        Self::RefreshRefused,
        Self::Logout,
        Self::LogoutAll,
    ];

    /// The word in the metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoginOk => "login_ok",
            Self::LoginFailed => "login_failed",
            Self::LoginThrottled => "login_throttled",
            Self::RefreshRotated => "refresh_rotated",
            Self::RefreshSame => "refresh_same",
            Self::RefreshRetry => "refresh_retry",
            Self::RefreshRecovered => "refresh_recovered",
            Self::RefreshHealed => "refresh_healed",
            Self::RefreshReused => "refresh_reused",
            Self::RefreshRefused => "refresh_refused",
            Self::Logout => "logout",
            Self::LogoutAll => "logout_all",
        }
    }
}

/// One line of the audit log. Never holds a token, a password, or what a stranger typed as a username
/// (people type passwords there).
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// What happened.
    pub action: AuditAction,
    /// Whose session, where that is known.
    pub subject: Option<String>,
    /// Which session, where there is one.
    pub session: Option<SessionId>,
    /// The client's address.
    pub address: IpAddr,
    /// The request it happened in.
    pub request_id: String,
}

impl AuditEvent {
    /// The line that is written about it.
    pub fn line(&self, log: &AccessLog, now: Timestamp) -> Line {
        let mut line = log.line("audit", now);
        line.text("event", self.action.as_str());
        line.text("requestId", &self.request_id);
        line.text("client", &self.address.to_string());
        if let Some(subject) = &self.subject {
            line.text("subject", subject);
        }
        if let Some(session) = &self.session {
            line.text("sessionId", &session.to_string());
        }
        line
    }
}

/// What an audit line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// A login succeeded.
    LoginOk,
    /// A login failed.
    LoginFailed,
    /// A login was refused before it was judged.
    LoginThrottled,
    /// A refresh token was replayed and its session ended.
    TokenReused,
    /// A refresh token with the right MAC and a wrong secret: the MAC key may have leaked.
    SecretMismatch,
    /// A refresh token was further ahead of the store than lost writes explain: the store lost data.
    StoreBehind,
    /// The directory no longer knows the user, or has disabled them; the session was ended.
    UserGone,
    /// A session was ended by its user.
    Logout,
    /// A session is ended here, and elsewhere as soon as the store answers.
    LogoutQueued,
    /// All sessions of a user were ended by that user.
    LogoutAll,
    /// A session was ended from the session list.
    SessionRemoved,
    /// All sessions of a user were ended by a backend, on the admin listener.
    UserRevoked,
}

impl AuditAction {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoginOk => "login_ok",
            Self::LoginFailed => "login_failed",
            Self::LoginThrottled => "login_throttled",
            Self::TokenReused => "token_reused",
            Self::SecretMismatch => "secret_mismatch",
            Self::StoreBehind => "store_behind",
            Self::UserGone => "user_gone",
            Self::Logout => "logout",
            Self::LogoutQueued => "logout_queued",
            Self::LogoutAll => "logout_all",
            Self::SessionRemoved => "session_removed",
            Self::UserRevoked => "user_revoked",
        }
    }
}
