//! Which access tokens were seen in use, on its way to the store: that is how it learns that the tokens of
//! a generation have arrived.

use super::id::SessionRef;
use super::store::SessionStore;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Time in which notes gather before they are sent together.
const GATHER: Duration = Duration::from_millis(200);
/// Notes that may wait; more are dropped, to be taken when their token is next seen.
const WAITING: usize = 8192;
/// Notes in one call to the store.
const BATCH: usize = 256;
/// Marks of what was noted lately. Two generations may share a mark's place: the one that lost it is noted
/// once more, which is harmless.
const MARKS: usize = 1 << 14;

/// Notes of access tokens seen in use; each generation is told to the store about once per gateway.
pub struct Confirmations {
    noted: Vec<AtomicU64>,
    waiting: Mutex<Vec<SessionRef>>,
    arrived: Notify,
}

impl Default for Confirmations {
    fn default() -> Self {
        Self::new()
    }
}

impl Confirmations {
    /// With nothing noted.
    pub fn new() -> Self {
        Self {
            noted: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            waiting: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// Notes that an access token was verified. Called for every request: one that was noted before costs
    /// one read of memory.
    pub fn note(&self, seen: &SessionRef) {
        let (Some(place), mark) = self.place(seen) else { return };
        if place.load(Ordering::Relaxed) == mark {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.len() < WAITING {
            place.store(mark, Ordering::Relaxed);
            waiting.push(*seen);
            drop(waiting);
            self.arrived.notify_one();
        }
    }

    /// How many notes wait.
    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<SessionRef>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, seen: &[SessionRef]) {
        for seen in seen {
            if let (Some(place), _) = self.place(seen) {
                place.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Where the mark of `seen` belongs, and the mark, which is never 0. Session ids are random, so half of
    /// one is as good as a hash.
    fn place(&self, seen: &SessionRef) -> (Option<&AtomicU64>, u64) {
        let (head, _) = seen.session.as_bytes().split_at(8);
        let head = head.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let mark = head.wrapping_add(u64::from(seen.generation)).max(1);
        let place = usize::try_from(mark % MARKS as u64).unwrap_or_default();
        (self.noted.get(place), mark)
    }
}

impl std::fmt::Debug for Confirmations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Confirmations").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Sends what was noted for as long as it is polled. What the store does not take is noted anew when its
/// token is next seen.
pub async fn deliver(confirmations: Arc<Confirmations>, store: Arc<dyn SessionStore>) -> Infallible {
    loop {
        confirmations.arrived.notified().await;
        tokio::time::sleep(GATHER).await;
        let gathered = std::mem::take(&mut *confirmations.waiting());
        for batch in gathered.chunks(BATCH) {
            if store.confirm(batch).await.is_err() {
                confirmations.forget(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::id::{SessionId, UserKey};
    use crate::session::scripted::ScriptedStore;

    fn seen(session: [u8; 16], generation: u32) -> SessionRef {
        SessionRef {
            session: SessionId::from_bytes(session),
            user: UserKey::from_bytes([2; 12]),
            generation,
            epoch: 0,
        }
    }

    #[test]
    fn a_generation_is_noted_once() {
        let confirmations = Confirmations::new();
        for _ in 0..3 {
            confirmations.note(&seen([1; 16], 4));
            confirmations.note(&seen([1; 16], 5));
            confirmations.note(&seen([0; 16], 0));
        }
        assert_eq!(*confirmations.waiting(), [seen([1; 16], 4), seen([1; 16], 5), seen([0; 16], 0)]);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for_and_the_rest_may_come_again() {
        let confirmations = Confirmations::new();
        let late = seen([9; 16], 1);
        for generation in 0..u32::try_from(WAITING).unwrap() {
            confirmations.note(&seen([1; 16], generation));
        }
        confirmations.note(&late);
        assert_eq!(confirmations.len(), WAITING);
        confirmations.waiting().clear();
        confirmations.note(&late);
        assert_eq!(*confirmations.waiting(), [late]);
    }

    #[tokio::test]
    async fn what_the_store_did_not_take_is_told_again_when_seen_again() {
        let (store, _asked) = ScriptedStore::new();
        let mut confirmed = store.confirmed();
        let store = Arc::new(store);
        let confirmations = Arc::new(Confirmations::new());
        let task = tokio::spawn(deliver(Arc::clone(&confirmations), store.clone()));
        let (first, second) = (seen([1; 16], 4), seen([7; 16], 5));

        store.refuse_confirmations(true);
        confirmations.note(&first);
        confirmations.note(&second);
        assert_eq!(confirmed.recv().await.unwrap(), [first, second]);
        store.refuse_confirmations(false);
        // The refusal is worked in before the next batch is gathered.
        while confirmations.is_empty() {
            tokio::task::yield_now().await;
            confirmations.note(&first);
        }
        assert_eq!(confirmed.recv().await.unwrap(), [first]);
        confirmations.note(&first);
        assert!(confirmations.is_empty());
        task.abort();
    }
}
