//! Every transition as one step on the embedded store's tables.

use super::rows::{
    ENDED, LAST_REVOCATION, NUMBERS, REVOCATIONS, SESSIONS, SessionKey, StoredRevocation, StoredSession,
    StoredUser, USERS, decode, encode, legible_sessions_of, revocation_of, session_in, session_key,
    session_of, sessions_of, unavailable, user_state,
};
use crate::clock::Timestamp;
use crate::session::family::{self, Family, LINGER, Outcome, RotationPolicy, UserState};
use crate::session::id::{SessionId, SessionRef, UserKey};
use crate::session::refresh_token::Presented;
use crate::session::store::{
    Cursor, EndReason, EndedAll, NewSession, Opened, Revocation, Rotation, SessionRecord, StoreError,
};
use redb::{ReadableTable, Table, WriteTransaction};

/// Entries of each table looked at for expiry per commit.
const SWEPT: usize = 16;

/// Where the sweep goes on at the next commit.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    session: Option<SessionKey>,
    ended: Option<SessionKey>,
    user: Option<[u8; 12]>,
}

/// The tables, open for writing.
pub(super) struct Tables<'txn> {
    sessions: Table<'txn, SessionKey, &'static [u8]>,
    ended: Table<'txn, SessionKey, &'static [u8]>,
    users: Table<'txn, [u8; 12], &'static [u8]>,
    revocations: Table<'txn, u64, &'static [u8]>,
    numbers: Table<'txn, &'static str, u64>,
    policy: RotationPolicy,
    /// Whether there is anything to commit.
    pub(super) changed: bool,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction, policy: RotationPolicy) -> Result<Self, StoreError> {
        Ok(Self {
            sessions: txn.open_table(SESSIONS).map_err(unavailable)?,
            ended: txn.open_table(ENDED).map_err(unavailable)?,
            users: txn.open_table(USERS).map_err(unavailable)?,
            revocations: txn.open_table(REVOCATIONS).map_err(unavailable)?,
            numbers: txn.open_table(NUMBERS).map_err(unavailable)?,
            policy,
            changed: false,
        })
    }

    pub(super) fn open_session(&mut self, new: NewSession, now: Timestamp) -> Result<Opened, StoreError> {
        let (user, id) = (new.user, new.id);
        let mut state = user_state(&self.users, user)?;
        // Repeated after an answer that got lost.
        if let Some(stored) = self.session(user, id)? {
            return if stored.family.secret_hash == new.secret_hash {
                Ok(Opened { session: stored.record(id, user), evicted: Vec::new() })
            } else {
                Err(StoreError::Corrupt("the identifier of a new session is taken".to_owned()))
            };
        }
        if state.epoch < new.known_epoch {
            state = UserState { epoch: new.known_epoch };
            self.raise(user, state, now)?;
        }
        let mut alive = Vec::new();
        for (id, stored) in legible_sessions_of(&self.sessions, user)? {
            if stored.family.is_alive(state, now) {
                alive.push((id, stored));
            } else if stored.family.is_revoked(state) {
                // Left here by a version that had one table for all.
                self.put_away(user, id, &stored)?;
            }
        }
        alive.sort_by_key(|(id, stored)| (stored.family.last_seen, *id));
        let room = usize::try_from(self.policy.max_per_user.max(1) - 1).unwrap_or(usize::MAX);
        let excess = alive.len().saturating_sub(room);
        let mut evicted = Vec::with_capacity(excess);
        for (id, stored) in alive.into_iter().take(excess) {
            self.end_stored(user, id, stored, EndReason::Evicted, now)?;
            evicted.push(id);
        }

        let family = Family::open(new.secret_hash, state, new.absolute_expiry, now, &self.policy);
        let stored = StoredSession { family, details: new.into() };
        self.put_session(user, id, &stored)?;
        Ok(Opened { session: stored.record(id, user), evicted })
    }

    pub(super) fn rotate(&mut self, presented: &Presented, now: Timestamp) -> Result<Rotation, StoreError> {
        let Presented { user, session, .. } = *presented;
        let state = user_state(&self.users, user)?;
        let stored = self.session(user, session)?;
        let family = stored.as_ref().map(|stored| &stored.family);
        let step = family::rotate(family, state, presented, now, &self.policy);

        if let Some(state) = step.user {
            self.raise(user, state, now)?;
        }
        let (Some(stored), Some(family)) = (stored, step.family) else {
            return Ok(Rotation { outcome: step.outcome, session: None, raised: None });
        };
        let stored = StoredSession { family, ..stored };
        self.put_session(user, session, &stored)?;
        if step.outcome == Outcome::Reused {
            self.revoke_session(user, session, now)?;
        }
        let raised = step.user.map(|state| state.epoch);
        Ok(Rotation { outcome: step.outcome, session: Some(stored.record(session, user)), raised })
    }

    pub(super) fn end(
        &mut self,
        user: UserKey,
        session: SessionId,
        why: EndReason,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let state = user_state(&self.users, user)?;
        match self.session(user, session)? {
            Some(stored) if stored.family.is_alive(state, now) => {
                self.end_stored(user, session, stored, why, now)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn end_all(&mut self, user: UserKey, now: Timestamp) -> Result<EndedAll, StoreError> {
        let state = user_state(&self.users, user)?;
        let sessions = legible_sessions_of(&self.sessions, user)?;
        let alive = sessions.iter().filter(|(_, stored)| stored.family.is_alive(state, now)).count();
        let raised = state.raised(now);
        self.raise(user, raised, now)?;
        Ok(EndedAll { ended: u32::try_from(alive).unwrap_or(u32::MAX), epoch: raised.epoch })
    }

    pub(super) fn confirm(&mut self, seen: &[SessionRef]) -> Result<(), StoreError> {
        for seen in seen {
            let Some(stored) = session_in(&self.sessions, seen.user, seen.session)? else { continue };
            let Some(family) = stored.family.confirmed_by(seen) else { continue };
            self.put_session(seen.user, seen.session, &StoredSession { family, ..stored })?;
        }
        Ok(())
    }

    pub(super) fn reapply(&mut self, known: &Revocation, now: Timestamp) -> Result<(), StoreError> {
        match *known {
            Revocation::Session { session, user, .. } => {
                let state = user_state(&self.users, user)?;
                match self.session(user, session)? {
                    None => self.revoke_session(user, session, now),
                    Some(stored) if stored.family.is_revoked(state) => Ok(()),
                    Some(stored) => self.end_stored(user, session, stored, EndReason::Logout, now),
                }
            }
            Revocation::User { user, epoch, .. } if user_state(&self.users, user)?.epoch < epoch => {
                self.raise(user, UserState { epoch }, now)
            }
            Revocation::User { .. } => Ok(()),
        }
    }

    /// Removes a bounded number of entries that nobody can need any more.
    pub(super) fn sweep(&mut self, sweep: &mut Sweep, now: Timestamp) -> Result<(), StoreError> {
        let gone = |until: Timestamp| now > until.plus(LINGER);
        sweep_sessions(&mut self.sessions, &mut sweep.session, gone)?;
        sweep_sessions(&mut self.ended, &mut sweep.ended, gone)?;

        let mut dead = Vec::new();
        let from = sweep.user.take().unwrap_or([0; 12]);
        for entry in self.users.range(from..).map_err(unavailable)?.take(SWEPT) {
            let (key, value) = entry.map_err(unavailable)?;
            sweep.user = Some(key.value());
            let until = |user: StoredUser| Timestamp::from_millis(user.keep_until);
            if decode(value.value()).is_ok_and(|user| gone(until(user))) {
                dead.push(key.value());
            }
        }
        sweep.user = sweep.user.filter(|last| *last != from);
        for key in dead {
            self.users.remove(key).map_err(unavailable)?;
        }

        let mut dead = Vec::new();
        for entry in self.revocations.iter().map_err(unavailable)?.take(SWEPT) {
            let (key, value) = entry.map_err(unavailable)?;
            if !decode(value.value()).is_ok_and(|revocation| gone(revocation_of(&revocation).1)) {
                break;
            }
            dead.push(key.value());
        }
        for key in dead {
            self.revocations.remove(key).map_err(unavailable)?;
        }
        Ok(())
    }

    fn end_stored(
        &mut self,
        user: UserKey,
        session: SessionId,
        stored: StoredSession,
        why: EndReason,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let family = Family { ended: Some(why), ..stored.family };
        self.put_session(user, session, &StoredSession { family, ..stored })?;
        self.revoke_session(user, session, now)
    }

    fn put_session(
        &mut self,
        user: UserKey,
        session: SessionId,
        stored: &StoredSession,
    ) -> Result<(), StoreError> {
        if stored.family.ended.is_some() {
            return self.put_away(user, session, stored);
        }
        let value = encode(stored)?;
        self.sessions.insert(session_key(user, session), value.as_slice()).map_err(unavailable)?;
        self.changed = true;
        Ok(())
    }

    /// Puts a session that is ended where it is in nobody's way.
    fn put_away(
        &mut self,
        user: UserKey,
        session: SessionId,
        stored: &StoredSession,
    ) -> Result<(), StoreError> {
        let (key, value) = (session_key(user, session), encode(stored)?);
        self.sessions.remove(key).map_err(unavailable)?;
        self.ended.insert(key, value.as_slice()).map_err(unavailable)?;
        self.changed = true;
        Ok(())
    }

    fn session(&self, user: UserKey, session: SessionId) -> Result<Option<StoredSession>, StoreError> {
        session_of(&self.sessions, &self.ended, user, session)
    }

    fn raise(&mut self, user: UserKey, to: UserState, now: Timestamp) -> Result<(), StoreError> {
        let until = now.plus(self.policy.revocation_lifetime());
        let before = self.users.get(*user.as_bytes()).map_err(unavailable)?;
        let before = before.map(|user| decode::<StoredUser>(user.value())).transpose()?;
        let before = before.map_or(Timestamp::default(), |user| Timestamp::from_millis(user.keep_until));
        let mut last = before.max(until.plus(self.policy.absolute));
        for (id, stored) in legible_sessions_of(&self.sessions, user)? {
            last = last.max(stored.family.absolute_expiry);
            // The epoch is what ends them.
            self.put_away(user, id, &stored)?;
        }
        let value = encode(&StoredUser { epoch: to.epoch, keep_until: last.as_millis() })?;
        self.users.insert(*user.as_bytes(), value.as_slice()).map_err(unavailable)?;
        let (user, until) = (*user.as_bytes(), until.as_millis());
        self.append(&StoredRevocation::User { user, epoch: to.epoch, until })
    }

    fn revoke_session(
        &mut self,
        user: UserKey,
        session: SessionId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let until = now.plus(self.policy.revocation_lifetime()).as_millis();
        self.append(&StoredRevocation::Session {
            session: *session.as_bytes(),
            user: *user.as_bytes(),
            until,
        })
    }

    fn append(&mut self, revocation: &StoredRevocation) -> Result<(), StoreError> {
        let value = encode(revocation)?;
        let last = self.numbers.get(LAST_REVOCATION).map_err(unavailable)?.map_or(0, |last| last.value());
        let next = last.saturating_add(1);
        self.numbers.insert(LAST_REVOCATION, next).map_err(unavailable)?;
        self.revocations.insert(next, value.as_slice()).map_err(unavailable)?;
        self.changed = true;
        Ok(())
    }
}

/// The living sessions of `user`, latest seen first.
pub(super) fn list(
    sessions: &impl ReadableTable<SessionKey, &'static [u8]>,
    users: &impl ReadableTable<[u8; 12], &'static [u8]>,
    user: UserKey,
    now: Timestamp,
) -> Result<Vec<SessionRecord>, StoreError> {
    let state = user_state(users, user)?;
    let mut alive = Vec::new();
    for (id, stored) in sessions_of(sessions, user)? {
        let stored = stored?;
        if stored.family.is_alive(state, now) {
            alive.push(stored.record(id, user));
        }
    }
    alive.sort_by_key(|session| (std::cmp::Reverse(session.last_seen), session.id));
    Ok(alive)
}

/// Whether a session is ended or gone.
pub(super) fn is_ended(
    sessions: &impl ReadableTable<SessionKey, &'static [u8]>,
    ended: &impl ReadableTable<SessionKey, &'static [u8]>,
    users: &impl ReadableTable<[u8; 12], &'static [u8]>,
    token: &SessionRef,
) -> Result<bool, StoreError> {
    let state = user_state(users, token.user)?;
    let stored = session_of(sessions, ended, token.user, token.session)?;
    let alive = stored.is_some_and(|stored| stored.family.ended.is_none());
    Ok(!alive || token.epoch < state.epoch)
}

/// The revocations after `cursor`, and the cursor after them.
pub(super) fn revocations(
    table: &impl ReadableTable<u64, &'static [u8]>,
    cursor: &Cursor,
) -> Result<(Vec<Revocation>, Cursor), StoreError> {
    let mut last: u64 = cursor.0.parse().unwrap_or(0);
    let mut found = Vec::new();
    for entry in table.range(last.saturating_add(1)..).map_err(unavailable)? {
        let (key, value) = entry.map_err(unavailable)?;
        found.push(revocation_of(&decode(value.value())?).0);
        last = key.value();
    }
    Ok((found, Cursor(last.to_string())))
}

/// Looks at some more sessions of a table, and removes those that are gone.
fn sweep_sessions(
    table: &mut Table<'_, SessionKey, &'static [u8]>,
    swept: &mut Option<SessionKey>,
    gone: impl Fn(Timestamp) -> bool,
) -> Result<(), StoreError> {
    let mut dead = Vec::new();
    let from = swept.take().unwrap_or([0; 28]);
    for entry in table.range(from..).map_err(unavailable)?.take(SWEPT) {
        let (key, value) = entry.map_err(unavailable)?;
        *swept = Some(key.value());
        if decode::<StoredSession>(value.value()).is_ok_and(|stored| gone(stored.family.idle_expiry)) {
            dead.push(key.value());
        }
    }
    // Came to the end: begin again, next time.
    *swept = swept.filter(|last| *last != from);
    for key in dead {
        table.remove(key).map_err(unavailable)?;
    }
    Ok(())
}
