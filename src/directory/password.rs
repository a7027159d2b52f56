//! The hashing pool: passwords are verified on a few threads of low priority, so that a storm of logins
//! delays logins and not the proxied traffic.

use super::DirectoryError;
use super::password_hash::{self, Memory, PasswordHash};
use crate::clock::random_bytes;
use crate::panics::{Panicked, Place, contain_now};
use crate::secret::Secret;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};
use tokio::sync::oneshot;

/// How large the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// Hashes computed at once; each takes a core and the memory its parameters ask for.
    pub threads: usize,
    /// Logins that may wait for a thread; beyond it they are turned away.
    pub queue: usize,
}

impl Default for PoolSettings {
    /// One thread per core, at most two: a gateway's cores belong to its traffic.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { threads: cores.min(2), queue: 64 }
    }
}

/// Threads that verify passwords. They end when the pool is dropped.
#[derive(Debug)]
pub struct PasswordPool {
    jobs: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Job {
    Verify { hash: Arc<PasswordHash>, password: Secret<String>, answer: oneshot::Sender<bool> },
    Make { password: Secret<String>, answer: oneshot::Sender<Option<Secret<String>>> },
}

impl PasswordPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system's, if it gives no more threads.
    pub fn start(settings: PoolSettings) -> io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel(settings.queue);
        let queue = Arc::new(Mutex::new(queue));
        let waiting = Arc::new(AtomicUsize::new(0));
        for n in 0..settings.threads.max(1) {
            let (queue, waiting) = (Arc::clone(&queue), Arc::clone(&waiting));
            thread::Builder::new().name(format!("password-{n}")).spawn(move || work(&queue, &waiting))?;
        }
        Ok(Self { jobs, waiting })
    }

    /// Whether `hash` is the hash of `password`.
    ///
    /// # Errors
    /// [`DirectoryError::Busy`] when the queue is full.
    pub async fn verify(
        &self,
        hash: Arc<PasswordHash>,
        password: Secret<String>,
    ) -> Result<bool, DirectoryError> {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Verify { hash, password, answer })?;
        answered.await.map_err(|_| stopped())
    }

    /// A new hash of `password`, as a PHC string.
    ///
    /// # Errors
    /// [`DirectoryError::Busy`] when the queue is full.
    pub async fn make(&self, password: Secret<String>) -> Result<Secret<String>, DirectoryError> {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Make { password, answer })?;
        answered.await.ok().flatten().ok_or_else(stopped)
    }

    fn send(&self, job: Job) -> Result<(), DirectoryError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.jobs.try_send(job);
        sent.map_err(|refused| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match refused {
                TrySendError::Full(_) => DirectoryError::Busy,
                TrySendError::Disconnected(_) => stopped(),
            }
        })
    }

    /// Logins that wait for a thread: the gauge `password_hash_queue`.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

fn stopped() -> DirectoryError {
    DirectoryError::Unavailable("the hashing threads have ended".to_owned())
}

fn work(queue: &Mutex<Receiver<Job>>, waiting: &AtomicUsize) {
    // Per thread on Linux. Elsewhere, or if refused, the pool still works, only less politely.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(19);
    let mut memory = Memory::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        let done = contain_now(Place::Passwords, || match job {
            // A client that has gone away needs no answer.
            Job::Verify { answer, .. } if answer.is_closed() => {}
            Job::Verify { hash, password, answer } => {
                let _ = answer.send(hash.verifies(password.expose().as_bytes(), &mut memory));
            }
            Job::Make { password, answer } => {
                let made = random_bytes()
                    .ok()
                    .and_then(|salt| password_hash::hash_password(password.expose().as_bytes(), salt).ok());
                let _ = answer.send(made.map(Secret::new));
            }
        });
        if done == Err(Panicked) {
            memory = Memory::default();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::directory::password_hash::{Cost, hash_password};

    fn password(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn the_pool_tells_right_from_wrong() {
        let pool = PasswordPool::start(PoolSettings { threads: 2, queue: 8 }).unwrap();
        let hash = Arc::new(PasswordHash::parse(&hash_password(b"right", [1; 16]).unwrap()).unwrap());
        let right = pool.verify(Arc::clone(&hash), password("right"));
        let wrong = pool.verify(hash, password("wrong"));
        let (right, wrong) = tokio::join!(right, wrong);
        assert_eq!((right.unwrap(), wrong.unwrap()), (true, false));
        assert_eq!(pool.waiting(), 0);
    }

    /// A pool whose queue nobody works on; it lasts as long as the second value.
    pub(in crate::directory) fn stalled(queue: usize) -> (PasswordPool, impl Sized) {
        let (jobs, receiver) = mpsc::sync_channel(queue);
        (PasswordPool { jobs, waiting: Arc::default() }, receiver)
    }

    #[tokio::test]
    async fn a_full_queue_turns_away_at_once() {
        let (pool, _queue) = stalled(1);
        let hash = Arc::new(PasswordHash::of_nobody(Cost::DEFAULT).unwrap());
        tokio::select! {
            biased;
            _ = pool.verify(Arc::clone(&hash), password("first")) => panic!("it waits"),
            second = pool.verify(hash, password("second")) => {
                assert!(matches!(second, Err(DirectoryError::Busy)));
            }
        }
        assert_eq!(pool.waiting(), 1);
    }

    #[tokio::test]
    async fn threads_that_ended_are_an_outage_and_not_a_wrong_password() {
        let (pool, queue) = stalled(1);
        drop(queue);
        let hash = Arc::new(PasswordHash::of_nobody(Cost::DEFAULT).unwrap());
        assert!(matches!(pool.verify(hash, password("x")).await, Err(DirectoryError::Unavailable(_))));
    }
}
