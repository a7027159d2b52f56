//! Directories: who a username and password belong to.

pub mod file;
pub mod http;
pub mod ldap;
mod nobody;
pub mod password;
pub mod password_hash;
pub mod sql;
pub mod stored;

use crate::secret::Secret;
use async_trait::async_trait;
use serde_json::{Map, Value};

/// A username and password as the client sent them.
#[derive(Debug)]
pub struct Credentials {
    /// The login name.
    pub username: String,
    /// The password, at most 1024 bytes, never shortened.
    pub password: Secret<String>,
}

/// Claims the gateway sets itself; no directory may supply them.
pub const RESERVED_CLAIMS: &[&str] =
    &["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "gen", "usr", "uep", "client_id"];

/// Who a user is, as the directory says.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The subject (`sub`).
    pub subject: String,
    /// Further claims: a JSON object. Never holds one of [`RESERVED_CLAIMS`].
    pub claims: Map<String, Value>,
}

/// Whether a user who logged in earlier is still good for a refresh.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Still known, with these claims now.
    Current(Identity),
    /// This directory cannot tell without a password: what it said at login stays.
    Unchanged,
    /// No longer known, or disabled.
    Gone,
}

/// The directory or the password pool could not answer. Never counted as a wrong password.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Every hashing worker is busy and the queue is full.
    #[error("too many logins at once")]
    Busy,
    /// The directory does not answer.
    #[error("the user directory does not answer: {0}")]
    Unavailable(String),
    /// It was asked, and it may be this very name that it does not answer. The account is spared, but not who asked.
    #[error("the user directory does not answer when asked about this user: {0}")]
    Unanswered(String),
    /// It answers, but not in a way that says whether the password is right. It may have judged it, so the try
    /// counts.
    #[error("the user directory's answer is no judgement: {0}")]
    Unclear(String),
}

/// Where users come from.
///
/// For implementers: unknown user, wrong password and disabled user are all `Ok(None)` and take the
/// same time; an outage is an error.
#[async_trait]
pub trait UserDirectory: Send + Sync + 'static {
    /// Checks a password.
    ///
    /// # Errors
    /// [`DirectoryError`] when the question could not be answered.
    async fn authenticate(&self, credentials: Credentials) -> Result<Option<Identity>, DirectoryError>;

    /// What the directory says now of a user it identified earlier.
    ///
    /// # Errors
    /// [`DirectoryError`] when the question could not be answered; the refresh goes on with what was known.
    async fn standing(&self, subject: &str) -> Result<Standing, DirectoryError>;
}
