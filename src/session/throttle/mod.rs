//! The login throttle: three counters per try, taken before the password is judged and given back when it was
//! right. Counted where all gateways see it if there is such a place, and here while that does not answer.

mod attempt;
mod local;

pub use crate::gcra::Bucket;
pub use attempt::{Attempt, AttemptNames};
pub use local::LocalThrottle;

pub(crate) use attempt::Name;

use crate::clock::Clock;
use crate::session::store::StoreError;
use async_trait::async_trait;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a network stays known to an account after a login from it.
pub const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// The three buckets a try is taken from (`sessions.throttle`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// Tries on one account from one network.
    pub account_network: Bucket,
    /// Tries from one network, a /24 (IPv4) or a /64 (IPv6).
    pub network: Bucket,
    /// Tries on one account from all networks it is not known from.
    pub account: Bucket,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may be judged, and is counted.
    Granted {
        /// Whether the account's bucket counts it too: the account is not known from this network.
        stranger: bool,
    },
    /// Not for so long; nothing is counted.
    Refused(Duration),
}

/// A try that was not wrong, and so does not count, or not everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquittal {
    /// The password was right: from now on the network is known to the account.
    Right,
    /// The password was not judged.
    NotJudged,
    /// Nor was it here, but the directory was asked in vain, and who knows of a name that it fails for could have it
    /// asked without end: the account is given its try back, the network is not.
    Unanswered,
}

impl Acquittal {
    /// Whether the network is given its try back.
    pub(crate) fn spares_network(self) -> bool {
        match self {
            Self::Right | Self::NotJudged => true,
            Self::Unanswered => false,
        }
    }
}

/// Counters that several gateways share.
///
/// For implementers: `take` asks the network's bucket first, so that whoever has used that up cannot touch the
/// buckets of an account; then those of the account together. Each call returns within the deadline of the
/// store, and tells a failure rather than wait.
#[async_trait]
pub trait SharedThrottle: Send + Sync + 'static {
    /// Takes one try from all buckets that apply, or from none.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot say that it did.
    async fn take(&self, attempt: &Attempt, settings: &ThrottleSettings) -> Result<Verdict, StoreError>;

    /// Gives a try back to the buckets it was taken from.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot say that it did.
    async fn give_back(
        &self,
        attempt: &Attempt,
        stranger: bool,
        why: Acquittal,
        settings: &ThrottleSettings,
    ) -> Result<(), StoreError>;
}

/// The login throttle.
pub struct Throttle {
    settings: ThrottleSettings,
    names: AttemptNames,
    local: LocalThrottle,
    shared: Option<Arc<dyn SharedThrottle>>,
    clock: Arc<dyn Clock>,
}

/// A try that was taken and is not yet judged.
#[derive(Debug)]
#[must_use = "a try that turned out right is to be given back"]
pub struct Try {
    attempt: Attempt,
    stranger: bool,
    shared: bool,
}

impl Throttle {
    /// A throttle that has counted nothing here. `shared`: where the gateways count together.
    pub fn new(
        settings: ThrottleSettings,
        names: AttemptNames,
        shared: Option<Arc<dyn SharedThrottle>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { settings, names, local: LocalThrottle::new(), shared, clock }
    }

    /// Takes one try from all buckets that apply, or from none.
    ///
    /// # Errors
    /// The time until the bucket that is empty grants one again.
    pub async fn take(&self, username: &str, address: IpAddr) -> Result<Try, Duration> {
        let attempt = self.names.attempt(username, address);
        let elsewhere = match &self.shared {
            Some(shared) => shared.take(&attempt, &self.settings).await.ok(),
            None => None,
        };
        let shared = elsewhere.is_some();
        let verdict =
            elsewhere.unwrap_or_else(|| self.local.take(&attempt, &self.settings, self.clock.now()));
        match verdict {
            Verdict::Granted { stranger } => Ok(Try { attempt, stranger, shared }),
            Verdict::Refused(wait) => Err(wait),
        }
    }

    /// Gives a try back where it was taken.
    pub async fn give_back(&self, taken: Try, why: Acquittal) {
        let Try { attempt, stranger, shared } = taken;
        let now = self.clock.now();
        if why == Acquittal::Right {
            self.local.remember(&attempt, now);
        }
        match self.shared.as_ref().filter(|_| shared) {
            // If the store does not answer now, the try stays counted until it runs out.
            Some(shared) => drop(shared.give_back(&attempt, stranger, why, &self.settings).await),
            None => self.local.give_back(&attempt, stranger, why, &self.settings, now),
        }
    }
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttle").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
