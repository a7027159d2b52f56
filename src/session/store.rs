//! The session store: whole transitions, never read-then-write. Two implementations, one contract.

use super::family::Outcome;
use super::id::{SessionId, SessionRef, UserKey};
use super::refresh_token::Presented;
use crate::clock::Timestamp;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Where the refresh token of a session travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// In an `HttpOnly` cookie.
    Cookie,
    /// In the response body.
    Body,
}

/// Why a session was ended; kept in its tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The user logged out.
    Logout,
    /// The user ended it from the session list.
    Removed,
    /// An earlier generation of its refresh token was replayed.
    Reused,
    /// The user had more than `max_per_user` sessions.
    Evicted,
    /// The directory no longer knows the user, or has disabled them.
    Disabled,
}

/// A session as stored, without anything a token could be made from.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRecord {
    /// Its identifier.
    pub id: SessionId,
    /// The user it belongs to.
    pub user: UserKey,
    /// The user's subject (`sub`).
    pub subject: String,
    /// The user's claims at login: a JSON object.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// How its refresh token travels.
    pub delivery: Delivery,
    /// When the user logged in.
    pub created: Timestamp,
    /// Last login or refresh.
    pub last_seen: Timestamp,
    /// The session ends here at the latest.
    pub absolute_expiry: Timestamp,
    /// The session ends here unless it is refreshed before.
    pub idle_expiry: Timestamp,
    /// The current generation of its refresh token.
    pub generation: u32,
    /// The user's epoch when the session was opened.
    pub epoch: u32,
    /// What the client called itself at login (`User-Agent`, shortened).
    pub device: Option<String>,
    /// The client's address at login.
    pub address: Option<String>,
}

impl SessionRecord {
    /// What an access token of this session, as it stands, says about it.
    pub const fn reference(&self) -> SessionRef {
        SessionRef { session: self.id, user: self.user, generation: self.generation, epoch: self.epoch }
    }
}

/// What a login hands to the store.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its identifier, fresh.
    pub id: SessionId,
    /// The user.
    pub user: UserKey,
    /// SHA-256 of the refresh token's secret.
    pub secret_hash: [u8; 32],
    /// The user's subject.
    pub subject: String,
    /// The user's claims.
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// How its refresh token travels.
    pub delivery: Delivery,
    /// When it ends at the latest (also inside the token).
    pub absolute_expiry: Timestamp,
    /// What the client called itself.
    pub device: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// The user's epoch as far as the gateway knows it: the store may have forgotten a logout-all.
    pub known_epoch: u32,
}

/// The answer to a login.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The session as stored: generation 0, the user's present epoch.
    pub session: SessionRecord,
    /// Sessions that were ended because the user had more than `max_per_user` (longest idle first).
    pub evicted: Vec<SessionId>,
}

/// The answer to a presented refresh token.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// What happened.
    pub outcome: Outcome,
    /// The session after the transition; present whenever the outcome grants new tokens, and of a replay as
    /// well. Its `generation` is the one whose token is to be handed out.
    pub session: Option<SessionRecord>,
    /// The user's new epoch, if a replay ended all of the user's sessions.
    pub raised: Option<u32>,
}

/// The answer to logout-all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedAll {
    /// How many sessions were alive until now.
    pub ended: u32,
    /// The user's new epoch: access tokens with a lower `uep` are refused.
    pub epoch: u32,
}

/// Something that was ended and whose access tokens are still alive somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// One session.
    Session {
        /// Which.
        session: SessionId,
        /// Whose.
        user: UserKey,
        /// No access token of it is alive after this.
        until: Timestamp,
    },
    /// Every session of a user opened under an epoch below `epoch`.
    User {
        /// Which user.
        user: UserKey,
        /// The first epoch that is good again.
        epoch: u32,
        /// No access token of an earlier epoch is alive after this.
        until: Timestamp,
    },
}

/// A place in the revocation feed, opaque to everyone but the store that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(pub String);

/// The store could not carry out an operation. Never an accusation: nothing may be concluded about
/// the session, and the transition may or may not have happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer within the deadline, or no connection.
    #[error("the session store does not answer: {0}")]
    Unavailable(String),
    /// The store answered with something this version does not understand.
    #[error("the session store holds something unexpected: {0}")]
    Corrupt(String),
}

/// Sessions, kept by whole transitions.
///
/// For implementers:
/// - Each method is one atomic step with respect to every other on the same user, across all gateways
///   that share the store. A refresh racing a logout is ordered before it (and its access token is
///   then covered by the revocation) or fails.
/// - `rotate` decides exactly as [`super::family::rotate`] does, in that order of conditions.
/// - An ended session stays as a tombstone until it would have expired, so that "missing" can mean only
///   expired or lost, never "logged out".
/// - Every method that ends something also appends to the revocation feed within the same step.
/// - Nothing stored suffices to make a token: of the secret only its SHA-256 is kept.
/// - What was acknowledged survives `kill -9` of the gateway.
/// - Each call returns within the store's own deadline; an unclear result is an error, and every
///   method may be repeated after one.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Opens a session at generation 0; ends the longest idle ones beyond `max_per_user`. If the user's epoch
    /// is below the one that the gateway knows, it is raised to that first, as by [`Self::reapply`].
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot say that it did.
    async fn open(&self, new: NewSession) -> Result<Opened, StoreError>;

    /// Presents a refresh token whose MAC was already checked.
    ///
    /// # Errors
    /// [`StoreError`] when the outcome is unknown; presenting the same token again is safe.
    async fn rotate(&self, presented: &Presented) -> Result<Rotation, StoreError>;

    /// Ends one session of `user`; `false` if it was not alive or is another user's. Idempotent.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot say that it did.
    async fn end(&self, user: UserKey, session: SessionId, why: EndReason) -> Result<bool, StoreError>;

    /// Ends all sessions of `user` by raising the user's epoch.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot say that it did.
    async fn end_all(&self, user: UserKey) -> Result<EndedAll, StoreError>;

    /// The living sessions of `user`, latest seen first.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    async fn list(&self, user: UserKey) -> Result<Vec<SessionRecord>, StoreError>;

    /// Notes that access tokens of these generations were seen in use, so that the generation before
    /// each is no longer recoverable. Best effort; unknown sessions and other generations are ignored.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    async fn confirm(&self, seen: &[SessionRef]) -> Result<(), StoreError>;

    /// What was ended after `after` (everything still alive, for the default cursor), and the place to
    /// go on from. Returns at once if there is nothing new. Nothing and the default cursor say that the feed
    /// does not go on at `after`, for the store may have become another: begin again.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    async fn revocations(&self, after: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError>;

    /// Ends again what the store may have forgotten, by a failover to a server that had not heard of it: a
    /// session as [`Self::end`] does, a user's by raising the epoch to what it was. What is in force stays as it
    /// is; what is not, or of which nothing is known, is appended to the feed.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot say that it did.
    async fn reapply(&self, known: &[Revocation]) -> Result<(), StoreError>;

    /// Whether a session is ended, or gone, as the store knows at this moment.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    async fn is_ended(&self, token: &SessionRef) -> Result<bool, StoreError>;

    /// The time by the clock of each server that answers, which sessions end by.
    ///
    /// # Errors
    /// [`StoreError`] when none does.
    async fn clocks(&self) -> Result<Vec<Timestamp>, StoreError>;
}
