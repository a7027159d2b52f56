//! Whether this machine's clock agrees with the store's, which every gateway shares.
//!
//! Sessions and revocations go by the store's clock, access tokens by the clock of the gateway that makes them.
//! Where the two are far apart, other gateways take tokens for not yet valid, and a logout may be forgotten
//! before the token it ended has expired. The gateway cannot say which clock is right, so it only tells.

use super::store::SessionStore;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Time between two comparisons.
const PERIOD: Duration = Duration::from_secs(60);
/// From here on it is told: a third of what tokens are forgiven at other gateways.
const TOO_FAR: Duration = Duration::from_secs(10);

/// Compares the clocks for as long as it is polled. A store that does not answer leaves what was known.
pub async fn watch(store: Arc<dyn SessionStore>, clock: Arc<dyn Clock>, metrics: Metrics) -> Infallible {
    let mut was_far = false;
    loop {
        if let Some(difference) = measure(store.as_ref(), clock.as_ref()).await {
            let seconds = difference.seconds();
            metrics.store_clock_difference(seconds);
            let is_far = difference.by >= TOO_FAR;
            if is_far {
                tracing::warn!(
                    ahead_seconds = seconds,
                    "this machine's clock and the session store's differ: other gateways may refuse tokens made \
                     here, and logouts may be forgotten too soon; synchronize both clocks (NTP)"
                );
            } else if was_far {
                tracing::info!(
                    ahead_seconds = seconds,
                    "this machine's clock and the session store's agree again"
                );
            }
            was_far = is_far;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// How far this machine's clock is from the store's, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Difference {
    by: Duration,
    is_ahead: bool,
}

impl Difference {
    /// The store said `there` at some time between `before` and `after`: how long that took is no difference.
    fn between(before: Timestamp, there: Timestamp, after: Timestamp) -> Self {
        let (ahead, behind) = (before.since(there), there.since(after));
        Self { by: ahead.max(behind), is_ahead: ahead > behind }
    }

    /// Below zero where this machine is behind.
    fn seconds(self) -> f64 {
        let seconds = self.by.as_secs_f64();
        if self.is_ahead { seconds } else { -seconds }
    }
}

/// The largest difference from any of the store's servers; `None` if none answers.
async fn measure(store: &dyn SessionStore, clock: &dyn Clock) -> Option<Difference> {
    let before = clock.now();
    let clocks = store.clocks().await.ok()?;
    let after = clock.now();
    clocks.into_iter().map(|there| Difference::between(before, there, after)).max_by_key(|found| found.by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(before: u64, there: u64, after: u64) -> f64 {
        let [before, there, after] = [before, there, after].map(Timestamp::from_secs);
        Difference::between(before, there, after).seconds()
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "whole seconds are exact")]
    fn what_asking_takes_is_no_difference() {
        assert_eq!(seconds(100, 100, 107), 0.0);
        assert_eq!(seconds(100, 103, 107), 0.0);
        assert_eq!(seconds(100, 107, 107), 0.0);
        assert_eq!(seconds(100, 110, 107), -3.0);
        assert_eq!(seconds(100, 58, 107), 42.0);
    }
}
