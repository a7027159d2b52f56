//! What the embedded store's tables hold, and finding it.

use crate::clock::Timestamp;
use crate::session::family::{Family, UserState};
use crate::session::id::{SessionId, UserKey};
use crate::session::record::Details;
use crate::session::store::{Revocation, SessionRecord, StoreError};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

/// User key (12 bytes) and session id (16): all of one user's sessions lie side by side.
pub(super) type SessionKey = [u8; 28];

/// Those that were not ended: as many of a user as may live, so that what they are gone through for costs no more for
/// who has had many.
pub(super) const SESSIONS: TableDefinition<'_, SessionKey, &[u8]> = TableDefinition::new("sessions");
/// Those that were, kept for a replay of their tokens to be known as what it is.
pub(super) const ENDED: TableDefinition<'_, SessionKey, &[u8]> = TableDefinition::new("ended_sessions");
pub(super) const USERS: TableDefinition<'_, [u8; 12], &[u8]> = TableDefinition::new("users");
pub(super) const REVOCATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revocations");
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// In [`NUMBERS`]: the layout of everything else.
pub(super) const FORMAT: &str = "format";
/// In [`NUMBERS`]: the key of the last revocation; never goes back, so that a cursor stays good.
pub(super) const LAST_REVOCATION: &str = "last_revocation";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSession {
    pub(super) family: Family,
    pub(super) details: Details,
}

impl StoredSession {
    pub(super) fn record(self, id: SessionId, user: UserKey) -> SessionRecord {
        self.details.with(id, user, &self.family)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredUser {
    pub(super) epoch: u32,
    /// In milliseconds: no session of an earlier epoch outlives this.
    pub(super) keep_until: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredRevocation {
    Session { session: [u8; 16], user: [u8; 12], until: u64 },
    User { user: [u8; 12], epoch: u32, until: u64 },
}

pub(super) fn revocation_of(stored: &StoredRevocation) -> (Revocation, Timestamp) {
    match *stored {
        StoredRevocation::Session { session, user, until } => {
            let until = Timestamp::from_millis(until);
            let (session, user) = (SessionId::from_bytes(session), UserKey::from_bytes(user));
            (Revocation::Session { session, user, until }, until)
        }
        StoredRevocation::User { user, epoch, until } => {
            let until = Timestamp::from_millis(until);
            (Revocation::User { user: UserKey::from_bytes(user), epoch, until }, until)
        }
    }
}

pub(super) fn user_state(
    users: &impl ReadableTable<[u8; 12], &'static [u8]>,
    user: UserKey,
) -> Result<UserState, StoreError> {
    let Some(value) = users.get(*user.as_bytes()).map_err(unavailable)? else {
        return Ok(UserState::default());
    };
    let stored: StoredUser = decode(value.value())?;
    Ok(UserState { epoch: stored.epoch })
}

/// A session, ended or not.
pub(super) fn session_of(
    sessions: &impl ReadableTable<SessionKey, &'static [u8]>,
    ended: &impl ReadableTable<SessionKey, &'static [u8]>,
    user: UserKey,
    session: SessionId,
) -> Result<Option<StoredSession>, StoreError> {
    match session_in(sessions, user, session)? {
        None => session_in(ended, user, session),
        found => Ok(found),
    }
}

pub(super) fn session_in(
    table: &impl ReadableTable<SessionKey, &'static [u8]>,
    user: UserKey,
    session: SessionId,
) -> Result<Option<StoredSession>, StoreError> {
    let value = table.get(session_key(user, session)).map_err(unavailable)?;
    value.map(|value| decode(value.value())).transpose()
}

/// A session, or why it cannot be read.
pub(super) type Read = Result<StoredSession, StoreError>;

/// The sessions of a user that were not ended.
pub(super) fn sessions_of(
    sessions: &impl ReadableTable<SessionKey, &'static [u8]>,
    user: UserKey,
) -> Result<Vec<(SessionId, Read)>, StoreError> {
    let first = session_key(user, SessionId::from_bytes([0; 16]));
    let last = session_key(user, SessionId::from_bytes([u8::MAX; 16]));
    let mut found = Vec::new();
    for entry in sessions.range(first..=last).map_err(unavailable)? {
        let (key, value) = entry.map_err(unavailable)?;
        let Some(id) = key.value().last_chunk().copied() else { continue };
        found.push((SessionId::from_bytes(id), decode(value.value())));
    }
    Ok(found)
}

/// Those of them that can be read. One that cannot is of no use to anybody, and keeps nobody from logging in or out.
pub(super) fn legible_sessions_of(
    sessions: &impl ReadableTable<SessionKey, &'static [u8]>,
    user: UserKey,
) -> Result<Vec<(SessionId, StoredSession)>, StoreError> {
    let legible = |(id, stored): (SessionId, Read)| match stored {
        Ok(stored) => Some((id, stored)),
        Err(error) => {
            tracing::warn!(%error, "a session is passed over");
            None
        }
    };
    Ok(sessions_of(sessions, user)?.into_iter().filter_map(legible).collect())
}

pub(super) fn session_key(user: UserKey, session: SessionId) -> SessionKey {
    let mut key = [0; 28];
    let parts = user.as_bytes().iter().chain(session.as_bytes());
    for (to, from) in key.iter_mut().zip(parts) {
        *to = *from;
    }
    key
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
