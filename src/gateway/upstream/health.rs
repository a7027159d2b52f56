//! What is known of one target's health, and whether it gets requests: from active checks, and from what
//! happened to the requests themselves.
//!
//! A target that fails [`FAILURES`] requests in a row is out for a short time that doubles each time it fails
//! again. When the time is over one request tries it: an answer brings it back, a failure keeps it out longer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that put a target out.
const FAILURES: u32 = 3;

/// How long a target is out the first time, and at most.
const FIRST_OUT: Duration = Duration::from_secs(1);
const LONGEST_OUT: Duration = Duration::from_secs(30);

/// How long the one request that tries a target has it to itself.
const TRIAL: Duration = Duration::from_secs(1);

/// The health of one target. Asked without a lock; only what changes it takes one.
#[derive(Debug)]
pub(super) struct Health {
    /// Where the milliseconds below begin.
    since: Instant,
    /// What the active checks say; true without any.
    up: AtomicBool,
    /// Requests stay away until then; 0 is no matter when.
    out_until: AtomicU64,
    /// Whether an answer has anything to put right.
    suspected: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// Requests that failed in a row.
    failures: u32,
    /// Times in a row that the target was put out.
    times_out: u32,
    /// When it was put out last, and until when.
    out: Option<(Instant, Instant)>,
    /// Checks in a row that say the contrary of `up`.
    contrary: u32,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            up: AtomicBool::new(true),
            out_until: AtomicU64::new(0),
            suspected: AtomicBool::new(false),
            record: Mutex::default(),
        }
    }

    /// Whether the target may be chosen for a request.
    pub(super) fn admits(&self, now: Instant) -> bool {
        self.up.load(Ordering::Relaxed) && self.out_until.load(Ordering::Relaxed) <= self.millis(now)
    }

    /// Sends a request there. `false` if the target was to be tried and another request is doing so already.
    pub(super) fn enter(&self, now: Instant) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        let trial = self.millis(now + TRIAL);
        let claimed = || self.out_until.compare_exchange(until, trial, Ordering::Relaxed, Ordering::Relaxed);
        until == 0 || (until <= self.millis(now) && claimed().is_ok())
    }

    /// A request sent there at `picked` was answered. `true` if that brought the target back.
    pub(super) fn answered(&self, picked: Instant) -> bool {
        if !self.suspected.load(Ordering::Relaxed) {
            return false;
        }
        let mut record = self.record();
        // Whoever was sent there before says nothing about the target as it is now.
        if record.out.is_some_and(|(at, _)| picked < at) {
            return false;
        }
        self.forgive(&mut record)
    }

    /// A request sent there at `picked` found no working connection. The time the target is out for now, if
    /// this put it out.
    pub(super) fn failed(&self, picked: Instant, now: Instant) -> Option<Duration> {
        let mut record = self.record();
        // Many fail at one moment: together they count once.
        if record.out.is_some_and(|(_, until)| picked < until) {
            return None;
        }
        self.suspected.store(true, Ordering::Relaxed);
        record.failures += 1;
        if record.failures < FAILURES {
            return None;
        }
        let length = (FIRST_OUT * 2_u32.saturating_pow(record.times_out.min(16))).min(LONGEST_OUT);
        // The next failure is enough.
        record.failures = FAILURES - 1;
        record.times_out += 1;
        record.out = Some((now, now + length));
        self.out_until.store(self.millis(now + length), Ordering::Relaxed);
        Some(length)
    }

    /// An active check ended. What it changed, if `needed` checks in a row now say so.
    pub(super) fn checked(&self, well: bool, needed: u32) -> Option<bool> {
        let mut record = self.record();
        if self.up.load(Ordering::Relaxed) == well {
            record.contrary = 0;
            return None;
        }
        record.contrary += 1;
        if record.contrary < needed {
            return None;
        }
        record.contrary = 0;
        if well {
            self.forgive(&mut record);
        }
        self.up.store(well, Ordering::Relaxed);
        Some(well)
    }

    /// Forgets what requests said. `true` if the target was out.
    fn forgive(&self, record: &mut Record) -> bool {
        let was_out = record.out.is_some();
        *record = Record { contrary: record.contrary, ..Record::default() };
        self.out_until.store(0, Ordering::Relaxed);
        self.suspected.store(false, Ordering::Relaxed);
        was_out
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never 0, which means that the target is not out.
    fn millis(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.since).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Fails as often as it takes to be put out, at `now`.
    fn put_out(health: &Health, now: Instant) -> Duration {
        (0..FAILURES).find_map(|_| health.failed(now, now)).unwrap()
    }

    #[test]
    fn only_failures_in_a_row_put_a_target_out() {
        let health = Health::new();
        let now = Instant::now();
        for _ in 0..10 {
            for _ in 1..FAILURES {
                assert_eq!(health.failed(now, now), None);
            }
            assert!(!health.answered(now));
        }
        assert!(health.admits(now) && health.enter(now));
        assert_eq!(put_out(&health, now), FIRST_OUT);
        assert!(!health.admits(now + ms(999)));
    }

    #[test]
    fn when_its_time_is_over_one_request_tries_it() {
        let health = Health::new();
        let start = Instant::now();
        put_out(&health, start);
        let later = start + FIRST_OUT + ms(1);
        assert!(health.admits(later) && health.enter(later));
        assert!(!health.admits(later), "a second request goes there during the trial");
        // A trial that never ends keeps nobody waiting.
        assert!(health.admits(later + TRIAL + ms(1)));
        assert!(health.answered(later));
        assert!(health.admits(later) && health.enter(later) && health.enter(later));
        assert_eq!(health.failed(later, later), None, "the failures of before are forgotten");
    }

    #[test]
    fn two_that_chose_it_at_once_are_one_trial() {
        let health = Health::new();
        let start = Instant::now();
        put_out(&health, start);
        let later = start + FIRST_OUT + ms(1);
        assert_eq!([health.enter(later), health.enter(later)], [true, false]);
    }

    #[test]
    fn each_failed_trial_doubles_the_time_up_to_a_bound() {
        let health = Health::new();
        let mut now = Instant::now();
        let mut out = put_out(&health, now);
        let mut times = vec![out];
        for _ in 0..20 {
            now += out;
            out = health.failed(now, now).unwrap();
            times.push(out);
        }
        assert_eq!(times[..5], [1, 2, 4, 8, 16].map(Duration::from_secs));
        assert!(times[5..].iter().all(|time| *time == LONGEST_OUT));
    }

    #[test]
    fn failures_of_one_moment_count_once() {
        let health = Health::new();
        let start = Instant::now();
        put_out(&health, start);
        for _ in 0..100 {
            assert_eq!(health.failed(start, start + ms(10)), None);
        }
        assert!(health.admits(start + FIRST_OUT + ms(1)));
    }

    #[test]
    fn an_answer_to_a_request_of_before_brings_nothing_back() {
        let health = Health::new();
        let start = Instant::now();
        put_out(&health, start + ms(50));
        assert!(!health.answered(start));
        assert!(!health.admits(start + ms(60)));
        assert!(health.answered(start + ms(70)));
        assert!(health.admits(start + ms(70)));
    }

    #[test]
    fn checks_in_a_row_change_the_state_once() {
        let health = Health::new();
        let now = Instant::now();
        let verdicts = [false, false, true, false, false, false, false].map(|well| health.checked(well, 3));
        assert_eq!(verdicts, [None, None, None, None, None, Some(false), None]);
        assert!(!health.admits(now));
        // An answer does not overrule the checks.
        health.answered(now);
        assert!(!health.admits(now));
        assert_eq!([health.checked(true, 2), health.checked(true, 2)], [None, Some(true)]);
        assert!(health.admits(now));
    }

    #[test]
    fn a_check_that_brings_a_target_back_forgets_its_failures() {
        let health = Health::new();
        let now = Instant::now();
        put_out(&health, now);
        health.checked(false, 1);
        assert_eq!(health.checked(true, 1), Some(true));
        assert!(health.admits(now));
    }
}
