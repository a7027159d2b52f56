//! A circuit breaker: when nothing answers, callers are told so at once, and one of them tries now and then.

use crate::clock::random_bytes;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which calls are refused.
const FAILURES: u32 = 5;
/// Shortest pause between two tries while calls are refused; up to twice this long, differently on each
/// gateway, so that a server that comes back is not met by all at once.
const PAUSE: Duration = Duration::from_millis(400);

/// One server's breaker.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// What was asked about in those failures that may have to do with it.
    about: Vec<u64>,
    next_try: Option<Instant>,
}

impl Breaker {
    /// Whether a call may go ahead now.
    pub fn admits(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.next_try {
            Some(next) if now < next => false,
            Some(_) => {
                // This one tries; the others wait for what it finds, or for the next pause to pass.
                state.next_try = Some(now + pause());
                true
            }
            None => true,
        }
    }

    /// An answer came.
    pub fn answered(&self) {
        *self.state() = State::default();
    }

    /// No answer came to a question about this, which may be the reason: a second failure about the same tells
    /// nothing of the server, so that nobody can have others refused by asking again and again about one thing.
    pub fn failed_about(&self, what: &str, now: Instant) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let what = hasher.finish();
        let mut state = self.state();
        if state.about.contains(&what) {
            return;
        }
        // More are not needed to be sure.
        if state.failures < FAILURES {
            state.about.push(what);
        }
        drop(state);
        self.failed(now);
    }

    /// No answer came. Says whether calls are refused from now on.
    pub fn failed(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let open = state.failures >= FAILURES;
        if open {
            state.next_try = Some(now + pause());
        }
        open
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause() -> Duration {
    let [chance] = random_bytes().unwrap_or([128]);
    PAUSE + PAUSE * u32::from(chance) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_refuses_after_failures_in_a_row_and_lets_one_try_after_a_pause() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for failure in 1..=FAILURES {
            assert!(breaker.admits(start));
            assert_eq!(breaker.failed(start), failure == FAILURES);
        }
        assert!(!breaker.admits(start + PAUSE.mul_f32(0.99)));
        let later = start + PAUSE * 2;
        assert!(breaker.admits(later));
        assert!(!breaker.admits(later));
        breaker.failed(later);
        assert!(!breaker.admits(later + PAUSE / 2));
        assert!(breaker.admits(later + PAUSE * 2));
        breaker.answered();
        assert!(breaker.admits(later + PAUSE * 2));
        assert!(breaker.admits(later + PAUSE * 2));
    }

    #[test]
    fn failures_about_one_thing_count_once() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            breaker.failed_about("alice", now);
        }
        assert!(breaker.admits(now));
        for other in 1..FAILURES {
            assert!(breaker.admits(now));
            breaker.failed_about(&format!("user {other}"), now);
            breaker.failed_about("alice", now);
        }
        assert!(!breaker.admits(now));
        // After an answer nothing is known to fail.
        breaker.answered();
        for other in 1..=FAILURES {
            assert!(breaker.admits(now));
            breaker.failed_about(&format!("user {other}"), now);
        }
        assert!(!breaker.admits(now));
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            for _ in 1..FAILURES {
                assert!(!breaker.failed(now));
            }
            breaker.answered();
        }
        assert!(breaker.admits(now));
    }
}
