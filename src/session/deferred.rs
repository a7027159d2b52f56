//! Logouts that the store could not take: they are kept in memory and carried out once it is back.

use super::id::{SessionId, UserKey};
use super::store::{EndReason, SessionStore, StoreError};
use futures_util::future::select_all;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

const SHARDS: usize = UserKey::SHARDS as usize;
/// Logouts that may wait.
const WAITING: usize = 65_536;
/// Pause before a failed one is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Logouts to be carried out as soon as the store answers.
#[derive(Debug, Default)]
pub struct DeferredLogouts {
    /// By the shard of their users: of a store of several servers one may be gone, and the others' do not wait.
    waiting: Mutex<[VecDeque<Logout>; SHARDS]>,
    arrived: [Notify; SHARDS],
}

/// What is to be ended.
#[derive(Debug, Clone, Copy)]
enum Logout {
    Session(UserKey, SessionId, EndReason),
    All(UserKey),
}

impl Logout {
    fn user(self) -> UserKey {
        match self {
            Self::Session(user, ..) | Self::All(user) => user,
        }
    }
}

impl DeferredLogouts {
    /// With none waiting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a logout; `false` if the queue is full, and nothing may be promised to the user.
    pub fn end(&self, user: UserKey, session: SessionId, why: EndReason) -> bool {
        self.queue(Logout::Session(user, session, why))
    }

    /// Queues the end of all sessions of a user; `false` if the queue is full.
    pub fn end_all(&self, user: UserKey) -> bool {
        self.queue(Logout::All(user))
    }

    fn queue(&self, logout: Logout) -> bool {
        let shard = usize::from(logout.user().shard());
        let mut waiting = self.waiting();
        let room = waiting.iter().map(VecDeque::len).sum::<usize>() < WAITING;
        let (Some(lane), Some(arrived), true) = (waiting.get_mut(shard), self.arrived.get(shard), room)
        else {
            return false;
        };
        lane.push_back(logout);
        arrived.notify_one();
        true
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting().iter().map(VecDeque::len).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn waiting(&self) -> MutexGuard<'_, [VecDeque<Logout>; SHARDS]> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries the logouts out, those of each shard in order, for as long as it is polled; one leaves the queue when
/// the store has taken it.
pub async fn carry_out(deferred: Arc<DeferredLogouts>, store: Arc<dyn SessionStore>) -> Infallible {
    let lanes = deferred.arrived.iter().enumerate().map(|(shard, arrived)| {
        let (deferred, store) = (&deferred, &store);
        Box::pin(async move {
            loop {
                let first = deferred.waiting().get(shard).and_then(|lane| lane.front().copied());
                let Some(logout) = first else {
                    arrived.notified().await;
                    continue;
                };
                let taken = match logout {
                    Logout::Session(user, session, why) => store.end(user, session, why).await.map(drop),
                    Logout::All(user) => store.end_all(user).await.map(drop),
                };
                match taken {
                    Err(StoreError::Unavailable(_)) => tokio::time::sleep(PAUSE).await,
                    // What the store cannot read it cannot refresh either: that session is as good as ended.
                    Ok(()) | Err(StoreError::Corrupt(_)) => {
                        if let Some(lane) = deferred.waiting().get_mut(shard) {
                            lane.pop_front();
                        }
                    }
                }
            }
        })
    });
    let (never, ..) = select_all(lanes).await;
    never
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::scripted::ScriptedStore;

    #[tokio::test]
    async fn a_logout_waits_until_the_store_has_taken_it() {
        let (store, _asked) = ScriptedStore::new();
        let mut tried = store.ended();
        let store = Arc::new(store);
        store.refuse_ends(true);
        let deferred = Arc::new(DeferredLogouts::new());
        let (user, session) = (UserKey::from_bytes([1; 12]), SessionId::from_bytes([2; 16]));
        assert!(deferred.end(user, session, EndReason::Logout));
        let task = tokio::spawn(carry_out(Arc::clone(&deferred), store.clone()));

        assert_eq!(tried.recv().await.unwrap(), session);
        assert_eq!(deferred.len(), 1);
        store.refuse_ends(false);
        assert_eq!(tried.recv().await.unwrap(), session);
        while !deferred.is_empty() {
            tokio::task::yield_now().await;
        }
        task.abort();
    }

    #[test]
    fn a_full_queue_promises_nothing() {
        let deferred = DeferredLogouts::new();
        let (user, session) = (UserKey::from_bytes([1; 12]), SessionId::from_bytes([2; 16]));
        for _ in 0..WAITING {
            assert!(deferred.end(user, session, EndReason::Logout));
        }
        assert!(!deferred.end(user, session, EndReason::Logout));
    }
}
