//! What one configuration becomes: built at the start and at every reload, from what outlives them.

use super::{StartError, key_sets};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::snapshot::Snapshot;
use crate::gateway::upstream::Upstream;
use crate::key_set::cache::{Fetching, IssuerKeys, KeyEvent};
use crate::metrics::Metrics;
use crate::outbound::Client;
use crate::panics::{Place, keep_up};
use crate::token::assertion::Assertions;
use crate::token::signer::Signer;
use crate::token::verified_cache::{Lookup, VERIFIED_CACHE_BYTES, VerifiedCache};
use crate::token::verifier::{OwnIssuer, Verifier};
use futures_util::future::join_all;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long a new configuration waits for addresses.
const RESOLUTION: Duration = Duration::from_secs(5);

/// Memory of assertions, in bytes.
const ASSERTION_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// What every configuration is built with.
pub(super) struct Workshop {
    metrics: Metrics,
    fetching: Fetching,
    cache: Arc<VerifiedCache>,
    own: Option<OwnIssuer>,
    assertions: Option<Arc<Assertions>>,
}

impl Workshop {
    /// Must be called inside a Tokio runtime. `client` asks issuers for their keys; `signer` makes our own tokens.
    pub(super) fn new(
        metrics: Metrics,
        clock: &Arc<dyn Clock>,
        client: Client,
        signer: Option<&Arc<Signer>>,
    ) -> Self {
        let lookups = metrics.clone();
        let observer = Arc::new(move |lookup: Lookup| lookups.token_cache(lookup == Lookup::Hit));
        let fetches = metrics.clone();
        let fetching = Fetching {
            clock: Arc::clone(clock),
            client,
            runtime: Handle::current(),
            observer: Arc::new(move |event: KeyEvent<'_>| key_sets::tell(&fetches, &event)),
        };
        let cache = Arc::new(VerifiedCache::new(VERIFIED_CACHE_BYTES, observer));
        let own = signer.map(|signer| signer.own_issuer());
        let assertions =
            signer.map(|signer| Arc::new(Assertions::new(Arc::clone(signer), ASSERTION_CACHE_BYTES)));
        Self { metrics, fetching, cache, own, assertions }
    }

    /// The cache of verified tokens.
    pub(super) fn cache(&self) -> &Arc<VerifiedCache> {
        &self.cache
    }

    /// Builds a configuration. Upstreams that stay the same, and the keys of issuers that do, are taken over
    /// from `previous`. Nothing works in the background before [`Workshop::start`].
    ///
    /// # Errors
    /// [`StartError`] if the configuration cannot be served; nothing has changed then.
    pub(super) fn build(&self, config: &Config, previous: Option<&Snapshot>) -> Result<Snapshot, StartError> {
        let (issuers, own) = (config.issuers.clone(), self.own.clone());
        let before = previous.map(|previous| &**previous.verifier());
        let verifier = Verifier::new(issuers, own, &self.fetching, Arc::clone(&self.cache), before)?;
        let mut upstreams = HashMap::new();
        for settings in &config.upstreams {
            let before = previous.and_then(|previous| previous.upstream(&settings.name));
            let upstream = if let Some(same) = before.filter(|before| before.settings() == settings) {
                Arc::clone(same)
            } else {
                let metrics = self.metrics.upstream(&settings.name);
                Arc::new(Upstream::new(settings, metrics, before.map(|before| &**before))?)
            };
            upstreams.insert(settings.name.clone(), upstream);
        }
        Ok(Snapshot::new(
            config.routes.routes(),
            upstreams,
            config.protected.clone(),
            Arc::new(verifier),
            self.assertions.as_ref().map(|assertions| Arc::new(assertions.anew())),
            &config.server,
            &self.metrics,
        )?)
    }

    /// Starts what a configuration needs in the background, beyond what serves `previous` already. Each ends with
    /// the last holder of what it works for.
    pub(super) fn start(snapshot: &Snapshot, previous: Option<&Snapshot>) {
        for keys in snapshot.verifier().key_sets() {
            keep_up_for(Place::KeySets, keys, IssuerKeys::keep_fresh);
        }
        for upstream in snapshot.upstreams() {
            let is_new = previous
                .and_then(|previous| previous.upstream(upstream.name()))
                .is_none_or(|before| !Arc::ptr_eq(before, upstream));
            if is_new {
                keep_up_for(Place::Resolver, upstream, Upstream::keep_resolved);
                keep_up_for(Place::HealthChecks, upstream, Upstream::keep_checked);
            }
        }
    }
}

/// Waits for the addresses of names that are new, so that the first request finds its upstream; but a name that
/// nobody knows holds up the rest for a while only.
pub(super) fn reachable(snapshot: &Snapshot) -> impl Future<Output = ()> + Send + use<> {
    let upstreams: Vec<_> = snapshot.upstreams().cloned().collect();
    async move {
        join_all(upstreams.iter().map(|upstream| upstream.reachable(RESOLUTION))).await;
    }
}

/// Works for something in the background for as long as somebody else holds it, which `work` sees to.
fn keep_up_for<T, F>(place: Place, what: &Arc<T>, work: fn(Arc<T>) -> F)
where
    T: Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let held = Arc::downgrade(what);
    tokio::spawn(keep_up(place, held, move |held| {
        let what = held.upgrade();
        Box::pin(async move {
            if let Some(what) = what {
                work(what).await;
            }
        })
    }));
}
