//! The one thread that writes: takes whatever operations wait, commits them together, then answers all.

use super::handle::Handle;
use super::rows::unavailable;
use super::tables::{Sweep, Tables};
use crate::clock::{Clock, Timestamp};
use crate::panics::{Place, contain_now};
use crate::session::family::RotationPolicy;
use crate::session::store::StoreError;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Operations that may wait before callers do; beyond one batch, waiting callers hold the rest back.
const WAITING: usize = 1024;
/// Operations in one commit at most.
const BATCH: usize = 256;

/// Given the error, if the commit failed.
type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;
type Job = Box<dyn FnOnce(&mut Tables<'_>, Timestamp) -> Answer + Send>;

/// Hands operations to the writing thread.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Job>);

/// What the writing thread owns.
pub(super) struct WriterThread {
    jobs: mpsc::Receiver<Job>,
    handle: Arc<Handle>,
    policy: RotationPolicy,
    clock: Arc<dyn Clock>,
}

pub(super) fn writer(
    handle: Arc<Handle>,
    policy: RotationPolicy,
    clock: Arc<dyn Clock>,
) -> (Writer, WriterThread) {
    let (sender, jobs) = mpsc::channel(WAITING);
    (Writer(sender), WriterThread { jobs, handle, policy, clock })
}

impl Writer {
    /// Runs `operation` in some commit and answers once that commit is on the disk.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tables<'_>, Timestamp) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |tables, now| {
            let result = operation(tables, now);
            Box::new(move |failure| {
                let result = failure.map_or(result, |error| Err(unavailable(error)));
                // The caller may have given up waiting; the operation stands all the same.
                drop(reply.send(result));
            })
        });
        self.0.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn stopped() -> StoreError {
    unavailable("the session file could not be written")
}

impl WriterThread {
    /// Works until every [`Writer`] is gone and what they asked for is done.
    pub(super) fn run(mut self) {
        let mut sweep = Sweep::default();
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = self.jobs.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH {
                let Ok(job) = self.jobs.try_recv() else { break };
                batch.push(job);
            }
            let mut answers = Vec::with_capacity(batch.len());
            let commit = || self.commit(&mut batch, &mut answers, &mut sweep);
            let committed = contain_now(Place::Store, commit);
            let committed = committed.unwrap_or_else(|panicked| Err(unavailable(panicked)));
            // Whoever asked for what is not done is told by that.
            batch.clear();
            if committed.is_err() {
                self.handle.close();
            }
            for answer in answers {
                answer(committed.as_ref().err());
            }
        }
    }

    fn commit(
        &self,
        batch: &mut Vec<Job>,
        answers: &mut Vec<Answer>,
        sweep: &mut Sweep,
    ) -> Result<(), StoreError> {
        // On an early return the jobs not yet run are dropped with `batch`, which tells their callers.
        let batch = std::mem::take(batch);
        let database = self.handle.get_or_reopen()?;
        let txn = database.begin_write().map_err(unavailable)?;
        let mut tables = Tables::open(&txn, self.policy)?;
        for job in batch {
            answers.push(job(&mut tables, self.clock.now()));
        }
        let changed = tables.changed;
        if changed {
            tables.sweep(sweep, self.clock.now())?;
        }
        drop(tables);
        // Nothing written means nothing to wait for: a storm of refused tokens costs no fsync.
        if changed { txn.commit().map_err(unavailable) } else { txn.abort().map_err(unavailable) }
    }
}
