//! The login throttle: three counters per try, taken before the password is hashed and given back when
//! it was right. Local to this gateway, in memory, bounded.

use crate::clock::Timestamp;
use aws_lc_rs::digest;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A bucket: `burst` tries at once, then one per `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Tries at once; at least one is always granted.
    pub burst: u32,
    /// The time after which one more try is free.
    pub every: Duration,
}

/// The three buckets every try is taken from (`sessions.throttle`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// Tries on one account from one network.
    pub account_network: Bucket,
    /// Tries from one network, a /24 (IPv4) or a /64 (IPv6).
    pub network: Bucket,
    /// Tries on one account from everywhere.
    pub account: Bucket,
}

/// Counters kept per bucket; beyond it those closest to idle are forgotten.
const CAPACITY: usize = 100_000;

/// The login throttle.
#[derive(Debug)]
pub struct Throttle {
    settings: ThrottleSettings,
    counters: Mutex<[Counters; 3]>,
}

/// One try on one account from one network, taken and not yet judged.
#[derive(Debug)]
#[must_use = "a try that turned out right is to be given back"]
pub struct Try([Key; 3]);

impl Throttle {
    /// A throttle that has counted nothing.
    pub fn new(settings: ThrottleSettings) -> Self {
        Self { settings, counters: Mutex::default() }
    }

    /// Takes one try from all three buckets, or from none.
    ///
    /// # Errors
    /// The time until all three would grant it.
    pub fn take(&self, username: &str, address: IpAddr, now: Timestamp) -> Result<Try, Duration> {
        let keys = keys(username, address);
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = self.buckets();
        let waits =
            counters.iter().zip(&keys).zip(&buckets).map(|((c, key), bucket)| c.wait(key, *bucket, now));
        let wait = waits.max().unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for ((counters, key), bucket) in counters.iter_mut().zip(&keys).zip(&buckets) {
            counters.take(*key, *bucket, now);
        }
        Ok(Try(keys))
    }

    /// Gives a try back: the password was right, or was never judged.
    pub fn give_back(&self, taken: &Try, now: Timestamp) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for ((counters, key), bucket) in counters.iter_mut().zip(&taken.0).zip(self.buckets()) {
            counters.give_back(key, bucket, now);
        }
    }

    fn buckets(&self) -> [Bucket; 3] {
        [self.settings.account_network, self.settings.network, self.settings.account]
    }
}

type Key = [u8; 16];

/// The keys of the three buckets. Names are folded, since a directory may ignore case and spaces at the
/// ends, and hashed, so that a long name takes no more memory than a short one.
fn keys(username: &str, address: IpAddr) -> [Key; 3] {
    let account = username.trim().to_lowercase();
    let network = network(address).to_string();
    let key = |parts: [&str; 2]| {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(parts.join("\n").as_bytes());
        let mut key = Key::default();
        key.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        key
    };
    [key([&network, &account]), key([&network, ""]), key(["", &account])]
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !0xff)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// GCRA: per key the "theoretical arrival time", at which the bucket is full again. A key whose time has
/// passed needs no entry.
#[derive(Debug, Default)]
struct Counters(HashMap<Key, Timestamp>);

impl Counters {
    /// How long until the bucket grants one more; zero for now.
    fn wait(&self, key: &Key, bucket: Bucket, now: Timestamp) -> Duration {
        let full_at = self.full_at(key, bucket, now);
        full_at.plus(bucket.every).since(now.plus(capacity(bucket)))
    }

    fn take(&mut self, key: Key, bucket: Bucket, now: Timestamp) {
        let full_at = self.full_at(&key, bucket, now).plus(bucket.every);
        if self.0.len() >= CAPACITY && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        self.0.insert(key, full_at);
    }

    fn give_back(&mut self, key: &Key, bucket: Bucket, now: Timestamp) {
        if let Some(full_at) = self.0.get_mut(key) {
            *full_at = full_at.minus(bucket.every);
            if *full_at <= now {
                self.0.remove(key);
            }
        }
    }

    /// Never further ahead than a whole bucket, so that a clock set back locks nobody out.
    fn full_at(&self, key: &Key, bucket: Bucket, now: Timestamp) -> Timestamp {
        self.0.get(key).copied().unwrap_or(now).clamp(now, now.plus(capacity(bucket)))
    }

    /// Drops what is idle; if that is not enough, the quarter that is closest to idle. Someone who floods
    /// the table with single tries thus pushes out single tries, not the counters of an attack.
    fn make_room(&mut self, now: Timestamp) {
        self.0.retain(|_, full_at| *full_at > now);
        if self.0.len() >= CAPACITY {
            let mut times: Vec<_> = self.0.values().copied().collect();
            let (_, &mut limit, _) = times.select_nth_unstable(CAPACITY / 4);
            self.0.retain(|_, full_at| *full_at > limit);
        }
    }
}

fn capacity(bucket: Bucket) -> Duration {
    bucket.every.saturating_mul(bucket.burst.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    fn bucket(burst: u32, secs: u64) -> Bucket {
        Bucket { burst, every: Duration::from_secs(secs) }
    }

    fn throttle() -> Throttle {
        let wide = bucket(1000, 1);
        Throttle::new(ThrottleSettings {
            account_network: bucket(5, 30),
            network: wide,
            account: bucket(8, 60),
        })
    }

    fn granted(throttle: &Throttle, name: &str, address: IpAddr, now: Timestamp) -> bool {
        throttle.take(name, address, now).is_ok()
    }

    #[test]
    fn burst_tries_then_one_per_interval() {
        let throttle = throttle();
        assert!((0..5).all(|_| granted(&throttle, "alice", HOME, at(0))));
        assert_eq!(throttle.take("alice", HOME, at(0)).unwrap_err(), Duration::from_secs(30));
        assert_eq!(throttle.take("alice", HOME, at(29)).unwrap_err(), Duration::from_secs(1));
        assert!(granted(&throttle, "alice", HOME, at(30)));
        assert!(!granted(&throttle, "alice", HOME, at(30)));
    }

    #[test]
    fn a_refused_try_is_not_counted_anywhere() {
        let throttle = throttle();
        for _ in 0..100 {
            let _ = throttle.take("alice", HOME, at(0));
        }
        assert!(granted(&throttle, "alice", HOME, at(30)));
    }

    #[test]
    fn a_success_gives_its_try_back() {
        let throttle = throttle();
        for _ in 0..50 {
            let taken = throttle.take("alice", HOME, at(0)).unwrap();
            throttle.give_back(&taken, at(0));
        }
        assert!((0..5).all(|_| granted(&throttle, "alice", HOME, at(0))));
        assert!(!granted(&throttle, "alice", HOME, at(0)));
    }

    #[test]
    fn a_try_counts_before_it_is_judged() {
        let throttle = throttle();
        let pending: Vec<_> = (0..60).filter_map(|_| throttle.take("alice", HOME, at(0)).ok()).collect();
        assert_eq!(pending.len(), 5);
    }

    #[test]
    fn neither_spelling_nor_neighbouring_address_gets_round_it() {
        let throttle = throttle();
        let spellings = ["alice", "ALICE", " alice", "alice\t", "Alice"];
        assert!(spellings.iter().all(|name| granted(&throttle, name, HOME, at(0))));
        assert!(!granted(&throttle, "aLice", "192.0.2.77".parse().unwrap(), at(0)));
        assert!(!granted(&throttle, "alice", "::ffff:192.0.2.9".parse().unwrap(), at(0)));
        assert!(granted(&throttle, "alice", "192.0.3.1".parse().unwrap(), at(0)));
        assert!(granted(&throttle, "bob", HOME, at(0)));
    }

    #[test]
    fn one_ipv6_host_has_one_network() {
        let throttle = throttle();
        let host = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, n, n, n, n));
        assert!((0..5).all(|n| granted(&throttle, "alice", host(n), at(0))));
        assert!(!granted(&throttle, "alice", host(9), at(0)));
    }

    #[test]
    fn an_account_is_guarded_against_many_networks() {
        let throttle = throttle();
        let from = |n: u8| IpAddr::V4(Ipv4Addr::new(198, 51, n, 1));
        assert_eq!((0..50).filter(|n| granted(&throttle, "alice", from(*n), at(0))).count(), 8);
    }

    #[test]
    fn a_clock_set_back_locks_out_for_no_longer_than_a_full_bucket() {
        let throttle = throttle();
        while throttle.take("alice", HOME, at(1_000_000)).is_ok() {}
        assert_eq!(throttle.take("alice", HOME, at(0)).unwrap_err(), Duration::from_secs(60));
    }

    #[test]
    fn memory_stays_bounded_and_a_flood_does_not_push_out_an_attack() {
        let mut counters = Counters::default();
        let bucket = bucket(5, 30);
        let attacked = [0xff; 16];
        for _ in 0..5 {
            counters.take(attacked, bucket, at(0));
        }
        for n in 0..(CAPACITY as u64 * 2) {
            let mut key = Key::default();
            key[..8].copy_from_slice(&n.to_le_bytes());
            counters.take(key, bucket, at(0));
        }
        assert!(counters.0.len() <= CAPACITY);
        assert!(counters.wait(&attacked, bucket, at(0)) > Duration::ZERO);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_elapsed_over_interval(steps in prop::collection::vec(0_u64..40, 1..120)) {
            let throttle = throttle();
            let (mut now, mut count) = (0, 0_u64);
            for step in steps {
                now += step;
                count += u64::from(granted(&throttle, "alice", HOME, at(now)));
                prop_assert!(count <= 5 + now / 30);
            }
        }
    }
}
