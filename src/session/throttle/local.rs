//! The counters of one gateway: in memory, bounded.

use super::{Attempt, Bucket, KNOWN_FOR, Name, ThrottleSettings, Verdict};
use crate::clock::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Entries kept of each kind; beyond it those closest to their end are forgotten.
const CAPACITY: usize = 100_000;

/// Counters of tries, and the networks that accounts are known from.
#[derive(Debug, Default)]
pub struct LocalThrottle(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    networks: Entries,
    account_networks: Entries,
    accounts: Entries,
    known: Entries,
}

impl LocalThrottle {
    /// Counters that have counted nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one try from all buckets that apply, or from none.
    pub fn take(&self, attempt: &Attempt, settings: &ThrottleSettings, now: Timestamp) -> Verdict {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Tables { networks, account_networks, accounts, known } = &mut *tables;
        let mut names = attempt.formerly.iter().chain([&attempt.account_network]);
        let stranger = !names.any(|name| known.until(name) > Some(now));

        // In the order of the shared counters, so that both lead to the same.
        let wait = networks.wait(&attempt.network, settings.network, now);
        if !wait.is_zero() {
            return Verdict::Refused(wait);
        }
        networks.take(attempt.network, settings.network, now);
        let mut wait = account_networks.wait(&attempt.account_network, settings.account_network, now);
        if stranger {
            wait = wait.max(accounts.wait(&attempt.account, settings.account, now));
        }
        if !wait.is_zero() {
            networks.give_back(&attempt.network, settings.network, now);
            return Verdict::Refused(wait);
        }
        account_networks.take(attempt.account_network, settings.account_network, now);
        if stranger {
            accounts.take(attempt.account, settings.account, now);
        }
        Verdict::Granted { stranger }
    }

    /// Gives a try back to the buckets it was taken from.
    pub fn give_back(&self, attempt: &Attempt, stranger: bool, settings: &ThrottleSettings, now: Timestamp) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.networks.give_back(&attempt.network, settings.network, now);
        tables.account_networks.give_back(&attempt.account_network, settings.account_network, now);
        if stranger {
            tables.accounts.give_back(&attempt.account, settings.account, now);
        }
    }

    /// Notes that the account was logged in to from this network.
    pub fn remember(&self, attempt: &Attempt, now: Timestamp) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.known.put(attempt.account_network, now.plus(KNOWN_FOR), now);
    }
}

/// Until when something matters: a bucket until it is full again, a known network until it is forgotten. What
/// is over needs no entry.
#[derive(Debug, Default)]
struct Entries(HashMap<Name, Timestamp>);

impl Entries {
    fn until(&self, name: &Name) -> Option<Timestamp> {
        self.0.get(name).copied()
    }

    fn wait(&self, name: &Name, bucket: Bucket, now: Timestamp) -> Duration {
        bucket.wait(self.until(name), now)
    }

    fn take(&mut self, name: Name, bucket: Bucket, now: Timestamp) {
        let full_at = bucket.taken(self.until(&name), now);
        self.put(name, full_at, now);
    }

    fn give_back(&mut self, name: &Name, bucket: Bucket, now: Timestamp) {
        let Some(full_at) = self.0.get_mut(name) else { return };
        match bucket.given_back(*full_at, now) {
            Some(earlier) => *full_at = earlier,
            None => drop(self.0.remove(name)),
        }
    }

    fn put(&mut self, name: Name, until: Timestamp, now: Timestamp) {
        if self.0.len() >= CAPACITY && !self.0.contains_key(&name) {
            self.make_room(now);
        }
        self.0.insert(name, until);
    }

    /// Drops what is over; if that is not enough, the quarter that is closest to it. Someone who floods the
    /// table with single tries thus pushes out single tries, not the counters of an attack.
    fn make_room(&mut self, now: Timestamp) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() >= CAPACITY {
            let mut times: Vec<_> = self.0.values().copied().collect();
            let (_, &mut limit, _) = times.select_nth_unstable(CAPACITY / 4);
            self.0.retain(|_, until| *until > limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_bounded_and_a_flood_does_not_push_out_an_attack() {
        let now = Timestamp::from_secs(1_000_000);
        let bucket = Bucket { burst: 5, every: Duration::from_secs(30) };
        let mut counters = Entries::default();
        let attacked = Name::from_bytes([0xff; 16]);
        for _ in 0..5 {
            counters.take(attacked, bucket, now);
        }
        for n in 0..(CAPACITY as u64 * 2) {
            let mut name = [0; 16];
            name[..8].copy_from_slice(&n.to_le_bytes());
            counters.take(Name::from_bytes(name), bucket, now);
        }
        assert!(counters.0.len() <= CAPACITY);
        assert!(counters.wait(&attacked, bucket, now) > Duration::ZERO);
    }
}
