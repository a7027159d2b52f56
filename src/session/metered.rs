//! A session store that is watched: every operation is timed and counted, outages are told once.

use super::id::{SessionId, SessionRef, UserKey};
use super::refresh_token::Presented;
use super::store::{
    Cursor, EndReason, EndedAll, NewSession, Opened, Revocation, Rotation, SessionStore, StoreError,
};
use super::throttle::{Acquittal, Attempt, SharedThrottle, ThrottleSettings, Verdict};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Passes every operation on to `store` and tells `metrics` how long it took and whether it failed.
pub struct MeteredStore<S> {
    store: S,
    metrics: Metrics,
    /// Whether the last operation failed: an outage is one line in the log, not one per request.
    down: AtomicBool,
}

/// What is asked of a store, by the names that metrics know it by.
const OPERATIONS: [&str; 12] = [
    "open",
    "rotate",
    "end",
    "end_all",
    "list",
    "confirm",
    "revocations",
    "reapply",
    "is_ended",
    "clocks",
    "throttle_take",
    "throttle_give_back",
];

impl<S: SessionStore> MeteredStore<S> {
    /// Watches `store`.
    pub fn new(store: S, metrics: Metrics) -> Self {
        metrics.may_fail(OPERATIONS);
        Self { store, metrics, down: AtomicBool::new(false) }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = work.await;
        self.metrics.store_operation(operation, began.elapsed(), result.is_ok());
        match (&result, self.down.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(operation, %error, "the session store fails; sessions wait, known tokens go on");
            }
            (Ok(_), true) => tracing::info!(operation, "the session store answers again"),
            (Err(_), true) | (Ok(_), false) => {}
        }
        result
    }
}

#[async_trait]
impl<S: SessionStore> SessionStore for MeteredStore<S> {
    async fn open(&self, new: NewSession) -> Result<Opened, StoreError> {
        self.timed("open", self.store.open(new)).await
    }

    async fn rotate(&self, presented: &Presented) -> Result<Rotation, StoreError> {
        self.timed("rotate", self.store.rotate(presented)).await
    }

    async fn end(&self, user: UserKey, session: SessionId, why: EndReason) -> Result<bool, StoreError> {
        self.timed("end", self.store.end(user, session, why)).await
    }

    async fn end_all(&self, user: UserKey) -> Result<EndedAll, StoreError> {
        self.timed("end_all", self.store.end_all(user)).await
    }

    async fn list(&self, user: UserKey) -> Result<Vec<super::store::SessionRecord>, StoreError> {
        self.timed("list", self.store.list(user)).await
    }

    async fn confirm(&self, seen: &[SessionRef]) -> Result<(), StoreError> {
        self.timed("confirm", self.store.confirm(seen)).await
    }

    async fn revocations(&self, after: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
        self.timed("revocations", self.store.revocations(after)).await
    }

    async fn reapply(&self, known: &[Revocation]) -> Result<(), StoreError> {
        self.timed("reapply", self.store.reapply(known)).await
    }

    async fn is_ended(&self, token: &SessionRef) -> Result<bool, StoreError> {
        self.timed("is_ended", self.store.is_ended(token)).await
    }

    async fn clocks(&self) -> Result<Vec<Timestamp>, StoreError> {
        self.timed("clocks", self.store.clocks()).await
    }
}

#[async_trait]
impl<S: SharedThrottle + SessionStore> SharedThrottle for MeteredStore<S> {
    async fn take(&self, attempt: &Attempt, settings: &ThrottleSettings) -> Result<Verdict, StoreError> {
        self.timed("throttle_take", self.store.take(attempt, settings)).await
    }

    async fn give_back(
        &self,
        attempt: &Attempt,
        stranger: bool,
        why: Acquittal,
        settings: &ThrottleSettings,
    ) -> Result<(), StoreError> {
        self.timed("throttle_give_back", self.store.give_back(attempt, stranger, why, settings)).await
    }
}
