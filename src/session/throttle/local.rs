//! The counters of one gateway: in memory, bounded.

use super::{Acquittal, Attempt, KNOWN_FOR, Name, ThrottleSettings, Verdict};
use crate::clock::Timestamp;
use crate::gcra::Ledger;
use std::sync::{Mutex, PoisonError};

/// Entries kept of each kind; beyond it those closest to their end are forgotten.
const CAPACITY: usize = 100_000;

/// Counters of tries, and the networks that accounts are known from.
#[derive(Debug, Default)]
pub struct LocalThrottle(Mutex<Tables>);

#[derive(Debug)]
struct Tables {
    networks: Ledger<Name>,
    account_networks: Ledger<Name>,
    accounts: Ledger<Name>,
    known: Ledger<Name>,
}

impl Default for Tables {
    fn default() -> Self {
        let [networks, account_networks, accounts, known] = std::array::from_fn(|_| Ledger::new(CAPACITY));
        Self { networks, account_networks, accounts, known }
    }
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
        let now = now.since_epoch();
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
    pub fn give_back(
        &self,
        attempt: &Attempt,
        stranger: bool,
        why: Acquittal,
        settings: &ThrottleSettings,
        now: Timestamp,
    ) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.since_epoch();
        if why.spares_network() {
            tables.networks.give_back(&attempt.network, settings.network, now);
        }
        tables.account_networks.give_back(&attempt.account_network, settings.account_network, now);
        if stranger {
            tables.accounts.give_back(&attempt.account, settings.account, now);
        }
    }

    /// Notes that the account was logged in to from this network.
    pub fn remember(&self, attempt: &Attempt, now: Timestamp) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.since_epoch();
        tables.known.put(attempt.account_network, now + KNOWN_FOR, now);
    }
}
