//! Counting by the generic cell rate algorithm: all that is kept of a bucket is when it is full again. Pure; times
//! are told from any fixed point.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// A bucket: `burst` at once, then one per `every`. One that is full needs no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// How much it gives at once; at least one.
    pub burst: u32,
    /// The time after which it gives one more.
    pub every: Duration,
}

impl Bucket {
    /// How long it takes to fill.
    pub fn capacity(&self) -> Duration {
        self.every.saturating_mul(self.burst.max(1))
    }

    /// How long until it gives one more; zero for now.
    pub fn wait(&self, full_at: Option<Duration>, now: Duration) -> Duration {
        self.taken(full_at, now).saturating_sub(now.saturating_add(self.capacity()))
    }

    /// When it is full again after one more was taken. What lies further ahead than two buckets was noted under
    /// a clock that was ahead, and counts for nothing: a clock set back locks nobody out for longer than that.
    #[must_use]
    pub fn taken(&self, full_at: Option<Duration>, now: Duration) -> Duration {
        let latest = now.saturating_add(self.capacity().saturating_mul(2));
        let full_at = full_at.filter(|full_at| *full_at <= latest).map_or(now, |full_at| full_at.max(now));
        full_at.saturating_add(self.every)
    }

    /// When it is full again after one was given back; `None` if it is.
    #[must_use]
    pub fn given_back(&self, full_at: Duration, now: Duration) -> Option<Duration> {
        Some(full_at.saturating_sub(self.every)).filter(|full_at| *full_at > now)
    }

    /// How many it gives at once now.
    pub fn left(&self, full_at: Option<Duration>, now: Duration) -> u32 {
        let burst = self.burst.max(1);
        let missing = full_at.unwrap_or(now).saturating_sub(now);
        // A part of one is not there yet.
        let taken = missing.as_nanos().div_ceil(self.every.as_nanos().max(1));
        u32::try_from(u128::from(burst).saturating_sub(taken)).unwrap_or(burst)
    }
}

/// Until when something matters: a bucket until it is full again, anything else until it is forgotten. What is
/// over needs no entry, and no more than `capacity` are kept.
#[derive(Debug)]
pub struct Ledger<K> {
    entries: HashMap<K, Duration>,
    capacity: usize,
}

impl<K: Eq + Hash + Copy> Ledger<K> {
    /// A ledger without an entry.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity: capacity.max(1) }
    }

    /// Until when, if there is an entry.
    pub fn until(&self, name: &K) -> Option<Duration> {
        self.entries.get(name).copied()
    }

    /// How long until the bucket of this name gives one more.
    pub fn wait(&self, name: &K, bucket: Bucket, now: Duration) -> Duration {
        bucket.wait(self.until(name), now)
    }

    /// Takes one from the bucket of this name, whether it has one or not.
    pub fn take(&mut self, name: K, bucket: Bucket, now: Duration) {
        let full_at = bucket.taken(self.until(&name), now);
        self.put(name, full_at, now);
    }

    /// Gives one back.
    pub fn give_back(&mut self, name: &K, bucket: Bucket, now: Duration) {
        let Some(full_at) = self.entries.get_mut(name) else { return };
        match bucket.given_back(*full_at, now) {
            Some(earlier) => *full_at = earlier,
            None => drop(self.entries.remove(name)),
        }
    }

    /// Notes until when this matters.
    pub fn put(&mut self, name: K, until: Duration, now: Duration) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&name) {
            self.make_room(now);
        }
        self.entries.insert(name, until);
    }

    /// Drops what is over; if that is not enough, the quarter that is closest to it. Someone who floods the
    /// ledger with single tries thus pushes out single tries, not the counters of an attack.
    fn make_room(&mut self, now: Duration) {
        self.entries.retain(|_, until| *until > now);
        if self.entries.len() >= self.capacity {
            let mut times: Vec<_> = self.entries.values().copied().collect();
            let (_, &mut limit, _) = times.select_nth_unstable(self.capacity / 4);
            self.entries.retain(|_, until| *until > limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000_000);

    proptest! {
        /// Whoever asks at any times gets, from any moment on, a burst and one per interval, and never more; and
        /// whoever waits as long as it was told gets one.
        #[test]
        fn in_any_time_it_gives_a_burst_and_one_per_interval(
            burst in 1_u32..20,
            every in 1_u64..2_000_000_000,
            gaps in prop::collection::vec(0_u64..3_000_000_000, 1..200),
        ) {
            let bucket = Bucket { burst, every: Duration::from_nanos(every) };
            let (mut now, mut full_at, mut granted) = (START, None, Vec::new());
            for gap in gaps {
                now += Duration::from_nanos(gap);
                let left = bucket.left(full_at, now);
                let wait = bucket.wait(full_at, now);
                prop_assert_eq!(left == 0, !wait.is_zero());
                if wait.is_zero() {
                    full_at = Some(bucket.taken(full_at, now));
                    prop_assert_eq!(bucket.left(full_at, now), left - 1);
                    granted.push(now);
                } else {
                    prop_assert!(bucket.wait(full_at, now + wait).is_zero());
                    let sooner = wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(!bucket.wait(full_at, now + sooner).is_zero());
                }
            }
            for (first, since) in granted.iter().enumerate() {
                for (last, until) in granted.iter().enumerate().skip(first) {
                    let passed = until.saturating_sub(*since).as_nanos();
                    let most = u128::from(burst) + passed / u128::from(every);
                    prop_assert!((last - first + 1) as u128 <= most);
                }
            }
        }
    }

    #[test]
    fn what_was_given_back_was_never_taken() {
        let bucket = Bucket { burst: 2, every: Duration::from_secs(1) };
        let once = bucket.taken(None, START);
        assert_eq!(bucket.given_back(bucket.taken(Some(once), START), START), Some(once));
        assert_eq!(bucket.given_back(once, START), None);
    }

    #[test]
    fn a_clock_set_back_locks_nobody_out() {
        let bucket = Bucket { burst: 2, every: Duration::from_secs(1) };
        assert!(bucket.wait(Some(START * 2), START).is_zero());
        assert_eq!(bucket.left(None, START), 2);
    }

    #[test]
    fn memory_stays_bounded_and_a_flood_does_not_push_out_an_attack() {
        const CAPACITY: u32 = 10_000;
        let bucket = Bucket { burst: 5, every: Duration::from_secs(30) };
        let mut counters = Ledger::new(CAPACITY as usize);
        for _ in 0..5 {
            counters.take(u32::MAX, bucket, START);
        }
        for name in 0..CAPACITY * 2 {
            counters.take(name, bucket, START);
            assert!(counters.entries.len() <= CAPACITY as usize);
        }
        assert!(!counters.wait(&u32::MAX, bucket, START).is_zero());
        // What is over is dropped first.
        counters.put(0, START * 3, START * 2);
        counters.make_room(START * 2);
        assert_eq!(counters.entries.len(), 1);
    }
}
