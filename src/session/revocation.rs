//! What this gateway knows to be ended, and the feed that tells it.

use super::id::{SessionId, SessionRef, UserKey};
use super::store::{Cursor, Revocation, SessionStore, StoreError};
use crate::clock::{Clock, Timestamp};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use super::confirmation::Confirmations;

/// Pause between two looks at the feed; half of it on average is how late a revocation is felt elsewhere.
const POLL: Duration = Duration::from_millis(100);
/// Longest pause while the store does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Revocations that are handed to the store at once, so that its deadline is enough.
const AT_ONCE: usize = 64;
/// Time between two removals of what no access token can match any more.
const PURGE: Duration = Duration::from_secs(5);

/// Ended sessions and users whose access tokens may still be alive. Asked for every request: a look-up
/// takes no lock.
pub struct Revocations {
    /// Whose each ended session is, and until when its access tokens may be alive.
    sessions: Sharded<SessionId, (UserKey, Timestamp)>,
    /// The first good epoch of each user who logged out everywhere, and until when that matters.
    users: Sharded<UserKey, (u32, Timestamp)>,
    lifetime: Duration,
    ready: AtomicBool,
    /// In milliseconds: when the feed was last read to its end.
    read: AtomicU64,
}

impl Revocations {
    /// Knows nothing yet. `lifetime` is how long a revocation matters
    /// ([`RotationPolicy::revocation_lifetime`](super::family::RotationPolicy::revocation_lifetime)).
    pub fn new(lifetime: Duration, now: Timestamp) -> Self {
        Self {
            sessions: Sharded::new(),
            users: Sharded::new(),
            lifetime,
            ready: AtomicBool::new(false),
            read: AtomicU64::new(now.as_millis()),
        }
    }

    /// Whether the session an access token belongs to is known to be ended.
    pub fn is_revoked(&self, token: &SessionRef) -> bool {
        self.sessions.get(token.session.as_bytes(), &token.session).is_some()
            || self.users.get(token.user.as_bytes(), &token.user).is_some_and(|(good, _)| token.epoch < good)
    }

    /// The first good epoch of a user, as far as it is known.
    pub fn known_epoch(&self, user: UserKey) -> u32 {
        self.users.get(user.as_bytes(), &user).map_or(0, |(good, _)| good)
    }

    /// Takes note of what was ended elsewhere; the same thing twice is once.
    pub fn apply(&self, revocations: &[Revocation]) {
        let sessions = revocations.iter().filter_map(|revocation| match *revocation {
            Revocation::Session { session, user, until } => {
                Some((*session.as_bytes(), session, (user, until)))
            }
            Revocation::User { .. } => None,
        });
        self.sessions.merge(sessions, |known, new| (known.0, known.1.max(new.1)));
        let users = revocations.iter().filter_map(|revocation| match *revocation {
            Revocation::User { user, epoch, until } => Some((*user.as_bytes(), user, (epoch, until))),
            Revocation::Session { .. } => None,
        });
        self.users.merge(users, |known, new| (known.0.max(new.0), known.1.max(new.1)));
    }

    /// Takes note that this gateway itself ended a session, before anyone is told that it is done.
    pub fn session_ended(&self, user: UserKey, session: SessionId, now: Timestamp) {
        self.apply(&[Revocation::Session { session, user, until: now.plus(self.lifetime) }]);
    }

    /// Takes note that this gateway itself ended a user's sessions below `epoch`.
    pub fn user_ended(&self, user: UserKey, epoch: u32, now: Timestamp) {
        self.apply(&[Revocation::User { user, epoch, until: now.plus(self.lifetime) }]);
    }

    /// Forgets what no living access token can match.
    pub fn purge(&self, now: Timestamp) {
        self.sessions.retain(|(_, until)| *until >= now);
        self.users.retain(|(_, until)| *until >= now);
    }

    /// Whether the feed was read to its end at least once; until then a token ended before this gateway
    /// started is not recognised.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// How long ago the feed was last read to its end (before the first time: how long this exists).
    pub fn feed_age(&self, now: Timestamp) -> Duration {
        now.since(Timestamp::from_millis(self.read.load(Ordering::Relaxed)))
    }

    /// How many entries are kept.
    pub fn len(&self) -> usize {
        self.sessions.len() + self.users.len()
    }

    /// Whether nothing is known to be ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known, still matters and is not among `heard`.
    fn missing(&self, heard: &[Revocation], now: Timestamp) -> Vec<Revocation> {
        let heard_all = Self::new(self.lifetime, now);
        heard_all.apply(heard);
        let mut missing = Vec::new();
        self.sessions.each(|session, (user, until)| {
            if until >= now && heard_all.sessions.get(session.as_bytes(), &session).is_none() {
                missing.push(Revocation::Session { session, user, until });
            }
        });
        self.users.each(|user, (epoch, until)| {
            let known = heard_all.users.get(user.as_bytes(), &user).map(|(epoch, _)| epoch);
            if until >= now && known < Some(epoch) {
                missing.push(Revocation::User { user, epoch, until });
            }
        });
        missing
    }

    fn read_to_end(&self, now: Timestamp) {
        self.read.store(now.as_millis(), Ordering::Relaxed);
        self.ready.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").field("len", &self.len()).field("ready", &self.ready()).finish()
    }
}

/// Follows the store's feed for as long as it is polled.
///
/// While the store does not answer, what is known stays. Once all of it answers, or if its feed does not go on
/// where it was left, it may have become another, by a failover for one: then everything is read again from the
/// beginning, and what is known here but not there is ended there again. So a logout survives the loss of the
/// server that took it, as long as one gateway lives that heard of it.
pub async fn follow(
    store: Arc<dyn SessionStore>,
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
) -> Infallible {
    let mut cursor = Cursor::default();
    let mut interrupted = false;
    // What was heard since the beginning, while everything is read again.
    let mut heard: Option<Vec<Revocation>> = None;
    let mut pause = POLL;
    let mut purged = clock.now();
    loop {
        match store.revocations(&cursor).await {
            // There may be more than the store gives at once.
            Ok((found, next)) if !found.is_empty() => {
                revocations.apply(&found);
                if let Some(heard) = &mut heard {
                    heard.extend(found);
                }
                cursor = next;
                continue;
            }
            Ok((_, next)) if interrupted || (next == Cursor::default() && cursor != next) => {
                interrupted = false;
                heard = Some(Vec::new());
                cursor = Cursor::default();
                continue;
            }
            Ok((_, next)) => {
                cursor = next;
                let now = clock.now();
                let missing = heard.take().map(|heard| revocations.missing(&heard, now)).unwrap_or_default();
                if reapply(store.as_ref(), &missing).await.is_ok() {
                    pause = POLL;
                    revocations.read_to_end(now);
                } else {
                    // It gives, and does not take. All that it gave is read again, but not ten times a second.
                    interrupted = true;
                    pause = POLL * 4;
                }
                if now.since(purged) >= PURGE || now < purged {
                    revocations.purge(now);
                    purged = now;
                }
            }
            Err(_) => {
                interrupted = true;
                heard = None;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn reapply(store: &dyn SessionStore, missing: &[Revocation]) -> Result<(), StoreError> {
    if !missing.is_empty() {
        tracing::warn!(count = missing.len(), "the session store forgot what was ended; it is ended again");
    }
    for some in missing.chunks(AT_ONCE) {
        store.reapply(some).await?;
    }
    Ok(())
}

/// A map of immutable pieces: a reader takes a piece as it is, a writer replaces one piece.
struct Sharded<K, V>(Vec<ArcSwap<HashMap<K, V>>>);

/// Enough that replacing a piece copies little even with a million entries.
const PIECES: usize = 256;

impl<K: Copy + Eq + Hash, V: Copy> Sharded<K, V> {
    fn new() -> Self {
        Self((0..PIECES).map(|_| ArcSwap::default()).collect())
    }

    /// Both kinds of key are random or keyed-hash bytes: any one byte spreads them evenly.
    fn piece<const N: usize>(&self, bytes: &[u8; N]) -> Option<&ArcSwap<HashMap<K, V>>> {
        self.0.get(usize::from(*bytes.first()?))
    }

    fn get<const N: usize>(&self, bytes: &[u8; N], key: &K) -> Option<V> {
        self.piece(bytes)?.load().get(key).copied()
    }

    fn merge<const N: usize>(
        &self,
        entries: impl Iterator<Item = ([u8; N], K, V)>,
        both: impl Fn(&V, V) -> V,
    ) {
        let mut by_piece: HashMap<u8, Vec<(K, V)>> = HashMap::new();
        for (bytes, key, value) in entries {
            by_piece.entry(bytes.first().copied().unwrap_or_default()).or_default().push((key, value));
        }
        for (piece, entries) in by_piece {
            let Some(piece) = self.0.get(usize::from(piece)) else { continue };
            piece.rcu(|known| {
                let mut known = HashMap::clone(known);
                for (key, value) in &entries {
                    known.entry(*key).and_modify(|old| *old = both(old, *value)).or_insert(*value);
                }
                known
            });
        }
    }

    fn retain(&self, keep: impl Fn(&V) -> bool) {
        for piece in &self.0 {
            if piece.load().values().all(&keep) {
                continue;
            }
            piece.rcu(|known| {
                known
                    .iter()
                    .filter(|(_, value)| keep(value))
                    .map(|(key, value)| (*key, *value))
                    .collect::<HashMap<_, _>>()
            });
        }
    }

    fn each(&self, mut tell: impl FnMut(K, V)) {
        for piece in &self.0 {
            piece.load().iter().for_each(|(key, value)| tell(*key, *value));
        }
    }

    fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.load().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::session::scripted::ScriptedStore;

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    const LIFETIME: Duration = Duration::from_secs(660);

    fn session(n: u8) -> SessionId {
        SessionId::from_bytes([n; 16])
    }

    fn token(n: u8, epoch: u32) -> SessionRef {
        SessionRef { session: session(n), user: UserKey::from_bytes([n; 12]), generation: 0, epoch }
    }

    fn ended(n: u8) -> Revocation {
        Revocation::Session {
            session: session(n),
            user: UserKey::from_bytes([n; 12]),
            until: NOW.plus(LIFETIME),
        }
    }

    #[test]
    fn only_the_ended_session_is_revoked() {
        let revocations = Revocations::new(LIFETIME, NOW);
        assert!(!revocations.is_revoked(&token(1, 0)));
        revocations.session_ended(UserKey::from_bytes([1; 12]), session(1), NOW);
        assert!(revocations.is_revoked(&token(1, 9)));
        assert!(!revocations.is_revoked(&token(2, 0)));
    }

    #[test]
    fn only_earlier_epochs_of_the_user_are_revoked_and_the_epoch_never_falls() {
        let revocations = Revocations::new(LIFETIME, NOW);
        let user = UserKey::from_bytes([1; 12]);
        revocations.user_ended(user, 5, NOW);
        revocations.apply(&[Revocation::User { user, epoch: 3, until: NOW }]);
        assert!(revocations.is_revoked(&token(1, 4)));
        assert!(!revocations.is_revoked(&token(1, 5)));
        assert!(!revocations.is_revoked(&token(2, 0)));
    }

    #[test]
    fn an_entry_is_kept_to_its_end_and_no_longer() {
        let revocations = Revocations::new(LIFETIME, NOW);
        revocations.apply(&[ended(1), ended(1), ended(2)]);
        revocations.user_ended(UserKey::from_bytes([1; 12]), 5, NOW);
        assert_eq!(revocations.len(), 3);
        revocations.purge(NOW.plus(LIFETIME));
        assert_eq!(revocations.len(), 3);
        revocations.purge(NOW.plus(LIFETIME).plus(Duration::from_millis(1)));
        assert!(revocations.is_empty());
    }

    #[test]
    fn writers_at_once_lose_nothing() {
        let revocations = Revocations::new(LIFETIME, NOW);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let revocations = &revocations;
                scope.spawn(move || {
                    for n in 0..200_u8 {
                        let mut id = [0; 16];
                        id[1] = thread;
                        id[2] = n;
                        revocations.session_ended(
                            UserKey::from_bytes([1; 12]),
                            SessionId::from_bytes(id),
                            NOW,
                        );
                    }
                });
            }
        });
        assert_eq!(revocations.len(), 1600);
    }

    #[tokio::test]
    async fn the_feed_is_read_to_its_end_before_it_is_called_ready() {
        let (store, mut asked) = ScriptedStore::new();
        let clock = Arc::new(ManualClock::at(NOW));
        let revocations = Arc::new(Revocations::new(LIFETIME, NOW));
        let task = tokio::spawn(follow(Arc::new(store), Arc::clone(&revocations), clock.clone()));

        let first = asked.recv().await.unwrap();
        assert_eq!(first.after, Cursor::default());
        clock.advance(Duration::from_secs(3));
        assert!(!revocations.ready());
        assert_eq!(revocations.feed_age(clock.now()), Duration::from_secs(3));
        first.answer(Ok((vec![ended(1)], Cursor("1".to_owned()))));

        let second = asked.recv().await.unwrap();
        assert_eq!(second.after, Cursor("1".to_owned()));
        assert!(revocations.is_revoked(&token(1, 0)));
        assert!(!revocations.ready());
        second.answer(Ok((vec![], Cursor("1".to_owned()))));

        let third = asked.recv().await.unwrap();
        assert!(revocations.ready());
        assert_eq!(revocations.feed_age(clock.now()), Duration::ZERO);
        third.answer(Ok((vec![ended(2)], Cursor("2".to_owned()))));
        asked.recv().await.unwrap();
        assert!(revocations.is_revoked(&token(2, 0)));
        task.abort();
    }

    #[tokio::test]
    async fn after_a_failure_everything_is_read_again_and_nothing_was_forgotten() {
        let (store, mut asked) = ScriptedStore::new();
        let clock = Arc::new(ManualClock::at(NOW));
        let revocations = Arc::new(Revocations::new(LIFETIME, NOW));
        let task = tokio::spawn(follow(Arc::new(store), Arc::clone(&revocations), clock.clone()));
        asked.recv().await.unwrap().answer(Ok((vec![ended(1)], Cursor("1".to_owned()))));
        asked.recv().await.unwrap().answer(Ok((vec![], Cursor("1".to_owned()))));
        asked.recv().await.unwrap().fail();
        // Part of the store may answer while another part does not: what that part says is heard.
        let part = asked.recv().await.unwrap();
        assert_eq!(part.after, Cursor("1".to_owned()));
        part.answer(Ok((vec![ended(2)], Cursor("2".to_owned()))));
        asked.recv().await.unwrap().fail();
        assert!(revocations.is_revoked(&token(2, 0)));
        let back = asked.recv().await.unwrap();
        assert_eq!(back.after, Cursor("2".to_owned()));
        back.answer(Ok((vec![], Cursor("2".to_owned()))));
        let again = asked.recv().await.unwrap();
        assert_eq!(again.after, Cursor::default());
        assert!(revocations.is_revoked(&token(1, 0)));
        assert!(revocations.ready());
        clock.advance(Duration::from_secs(7));
        assert_eq!(revocations.feed_age(clock.now()), Duration::from_secs(7));
        task.abort();
    }

    #[tokio::test]
    async fn what_the_store_forgot_is_ended_there_again_before_the_feed_counts_as_read() {
        let (store, mut asked) = ScriptedStore::new();
        let reapplied = Arc::clone(&store.reapplied);
        let clock = Arc::new(ManualClock::at(NOW));
        let revocations = Arc::new(Revocations::new(LIFETIME, NOW));
        let task = tokio::spawn(follow(Arc::new(store), Arc::clone(&revocations), clock.clone()));
        let user = UserKey::from_bytes([9; 12]);
        let all = |epoch| Revocation::User { user, epoch, until: NOW.plus(LIFETIME) };
        let old = Revocation::Session { session: session(3), user, until: NOW };
        let known = vec![ended(1), ended(2), all(5), old];
        asked.recv().await.unwrap().answer(Ok((known, Cursor("4".to_owned()))));
        asked.recv().await.unwrap().answer(Ok((vec![], Cursor("4".to_owned()))));
        clock.advance(Duration::from_secs(1));
        // The feed does not go on at 4.
        asked.recv().await.unwrap().answer(Ok((vec![], Cursor::default())));
        let again = asked.recv().await.unwrap();
        assert_eq!(again.after, Cursor::default());
        again.answer(Ok((vec![all(4), ended(2)], Cursor("2".to_owned()))));
        let end = asked.recv().await.unwrap();
        assert!(reapplied.lock().unwrap().is_empty());
        end.answer(Ok((vec![], Cursor("2".to_owned()))));
        let next = asked.recv().await.unwrap();
        assert_eq!(next.after, Cursor("2".to_owned()));
        assert_eq!(*reapplied.lock().unwrap(), [ended(1), all(5)]);
        assert_eq!(revocations.feed_age(clock.now()), Duration::ZERO);
        task.abort();
    }

    #[tokio::test]
    async fn following_forgets_what_has_run_out() {
        let (store, mut asked) = ScriptedStore::new();
        let clock = Arc::new(ManualClock::at(NOW));
        let revocations = Arc::new(Revocations::new(LIFETIME, NOW));
        revocations.session_ended(UserKey::from_bytes([1; 12]), session(1), NOW);
        let task = tokio::spawn(follow(Arc::new(store), Arc::clone(&revocations), clock.clone()));
        let question = asked.recv().await.unwrap();
        clock.advance(LIFETIME + Duration::from_secs(1));
        question.answer(Ok((vec![], Cursor::default())));
        asked.recv().await.unwrap();
        assert!(revocations.is_empty());
        task.abort();
    }
}
