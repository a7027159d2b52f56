//! One issuer's keys over time: a snapshot readable without a lock, refreshed ahead of its age by one
//! fetch at a time, kept through an outage, and fetched out of turn for an unknown key, but rarely.

use super::fetch::{FetchError, fetch};
use super::{KeySet, KeySetSettings, RefreshSettings, Source};
use crate::clock::{Clock, Timestamp, random_bytes};
use crate::outbound::Client;
use arc_swap::ArcSwapOption;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The background task waits at least this long between two fetches, whatever the settings say.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// A fetch has ended.
#[derive(Debug, Clone, Copy)]
pub struct FetchEvent<'a> {
    /// The configuration's name of the issuer.
    pub issuer: &'a str,
    /// The set it brought, or why it brought none.
    pub result: Result<&'a KeySet, &'a FetchError>,
    /// Whether the keys differ from those before.
    pub changed: bool,
}

/// Who is told when a fetch has ended.
pub type FetchObserver = Arc<dyn Fn(FetchEvent<'_>) + Send + Sync>;

/// What fetching needs from its surroundings.
#[derive(Clone)]
pub struct Fetching {
    /// The time by which sets age.
    pub clock: Arc<dyn Clock>,
    /// The client that asks issuers.
    pub client: Client,
    /// Where fetches run, so that a request that goes away takes no fetch with it.
    pub runtime: Handle,
    /// Who is told of each fetch.
    pub observer: FetchObserver,
}

impl fmt::Debug for Fetching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetching").finish_non_exhaustive()
    }
}

/// A set as it was at its last fetch.
#[derive(Debug)]
pub struct Snapshot {
    /// The keys.
    pub keys: Arc<KeySet>,
    /// Grows whenever the keys change.
    pub generation: u64,
    /// When the issuer last gave us these keys.
    pub confirmed: Timestamp,
}

/// How an attempt to get newer keys ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// There is a newer snapshot.
    Newer,
    /// The fetch failed, or the last one did and it is too early for another.
    Failed,
    /// The last fetch went well, and it is too early for another.
    TooEarly,
}

/// A fetch under way; `Some` in it is how it ended.
type Running = watch::Receiver<Option<Refreshed>>;

/// One issuer's keys.
#[derive(Debug)]
pub struct IssuerKeys {
    name: Arc<str>,
    issuer: String,
    source: Source,
    refresh: RefreshSettings,
    fetching: Fetching,
    snapshot: ArcSwapOption<Snapshot>,
    flight: Mutex<Flight>,
}

#[derive(Debug, Default)]
struct Flight {
    running: Option<Running>,
    /// When the last fetch ended that was forced or failed.
    cooling_since: Option<Timestamp>,
    failed: bool,
}

impl IssuerKeys {
    /// The keys of the issuer called `name` with the exact `iss`. Nothing is fetched yet. If `previous` had
    /// its keys from the same place, they serve on, so that a reload during an outage loses nothing.
    pub fn new(
        name: Arc<str>,
        issuer: String,
        settings: KeySetSettings,
        fetching: Fetching,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        let KeySetSettings { source, refresh } = settings;
        let inherited = previous
            .filter(|previous| previous.issuer == issuer && previous.source.is_same_as(&source))
            .and_then(Self::latest);
        let snapshot = ArcSwapOption::new(inherited);
        Arc::new(Self { name, issuer, source, refresh, fetching, snapshot, flight: Mutex::default() })
    }

    /// The configuration's name of the issuer.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The last set obtained, however old.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Whether a snapshot may still be used.
    pub fn is_usable(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        now.since(snapshot.confirmed) <= self.longest_use()
    }

    /// The generation of the set in use; `None` if there is none or it is too old.
    pub fn generation(&self, now: Timestamp) -> Option<u64> {
        let snapshot = self.snapshot.load();
        snapshot.as_ref().filter(|snapshot| self.is_usable(snapshot, now)).map(|snapshot| snapshot.generation)
    }

    /// Whether there are keys that may be used now.
    pub fn has_keys(&self, now: Timestamp) -> bool {
        self.generation(now).is_some()
    }

    /// How long ago the issuer last gave us its keys; `None` if never.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.snapshot.load().as_ref().map(|snapshot| now.since(snapshot.confirmed))
    }

    /// Gets newer keys than `seen`: joins the fetch under way or starts one, and waits for it at most the
    /// configured timeout. All who wait share its result, and its failure. Starts none within the cooldown.
    pub async fn refresh(self: &Arc<Self>, seen: Option<&Arc<Snapshot>>) -> Refreshed {
        let now = self.fetching.clock.now();
        let forced = seen.is_some_and(|seen| self.is_usable(seen, now));
        self.awaited(self.join_or_start(seen, forced)).await
    }

    /// Keeps the keys fresh for as long as somebody else holds them.
    pub async fn keep_fresh(self: Arc<Self>) {
        let keys = Arc::downgrade(&self);
        drop(self);
        let mut permille = jitter();
        while let Some(this) = keys.upgrade() {
            let mut wait = this.due_in(this.fetching.clock.now(), permille);
            if wait.is_zero() {
                let fetch = this.join_or_start(this.latest().as_ref(), false);
                this.awaited(fetch).await;
                permille = jitter();
                wait = SHORTEST_WAIT;
            }
            drop(this);
            tokio::time::sleep(wait).await;
        }
    }

    /// The time until the next fetch of the background task, stretched by `permille` thousandths.
    fn due_in(&self, now: Timestamp, permille: u32) -> Duration {
        let flight = self.flight();
        let (from, wait) = match (flight.cooling_since, self.snapshot.load().as_ref()) {
            (Some(since), _) if flight.failed => (since, scaled(self.refresh.cooldown, permille.max(1000))),
            (_, Some(snapshot)) => {
                let age = self.refresh.every.min(self.longest_use());
                (snapshot.confirmed, scaled(scaled(age, 800), permille))
            }
            _ => return Duration::ZERO,
        };
        let wait = wait.max(SHORTEST_WAIT);
        // Of a clock that was set back, believe no more than one wait.
        from.plus(wait).since(now).min(wait)
    }

    fn longest_use(&self) -> Duration {
        let RefreshSettings { every, stale_for, .. } = self.refresh;
        if stale_for.is_zero() { every } else { stale_for }
    }

    /// The fetch to wait for, or how it stands if there is none to wait for. After a failure every fetch has
    /// to wait for the cooldown, after a forced one only a forced one.
    fn join_or_start(
        self: &Arc<Self>,
        seen: Option<&Arc<Snapshot>>,
        forced: bool,
    ) -> Result<Running, Refreshed> {
        let mut flight = self.flight();
        if self.latest().as_ref().map(Arc::as_ptr) != seen.map(Arc::as_ptr) {
            return Err(Refreshed::Newer);
        }
        // A closed channel without a result is a fetch whose runtime was stopped: it counts as none.
        if let Some(running) = flight.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return Ok(running.clone());
        }
        let now = self.fetching.clock.now();
        let cools = |since: Timestamp| since <= now && now.since(since) < self.refresh.cooldown;
        if (flight.failed || forced) && flight.cooling_since.is_some_and(cools) {
            return Err(if flight.failed { Refreshed::Failed } else { Refreshed::TooEarly });
        }
        let (ended, running) = watch::channel(None);
        flight.running = Some(running.clone());
        let this = Arc::clone(self);
        self.fetching.runtime.spawn(async move {
            let result = fetch(&this.source, &this.issuer, &this.fetching.client, this.refresh.timeout).await;
            ended.send_replace(Some(this.conclude(result, forced)));
        });
        Ok(running)
    }

    async fn awaited(&self, fetch: Result<Running, Refreshed>) -> Refreshed {
        let mut running = match fetch {
            Ok(running) => running,
            Err(known) => return known,
        };
        let ended = tokio::time::timeout(self.refresh.timeout, running.wait_for(Option::is_some)).await;
        ended.ok().and_then(|ended| ended.ok().and_then(|ended| *ended)).unwrap_or(Refreshed::Failed)
    }

    /// Takes in the result of a fetch.
    fn conclude(&self, result: Result<KeySet, FetchError>, forced: bool) -> Refreshed {
        let now = self.fetching.clock.now();
        let result = result.map(Arc::new);
        let latest = self.latest();
        let changed = match (&result, &latest) {
            (Ok(keys), Some(latest)) => !latest.keys.has_same_keys(keys),
            (Ok(_), None) => true,
            (Err(_), _) => false,
        };
        if let Ok(keys) = &result {
            let generation = latest.map_or(0, |latest| latest.generation) + u64::from(changed);
            let snapshot = Snapshot { keys: Arc::clone(keys), generation, confirmed: now };
            self.snapshot.store(Some(Arc::new(snapshot)));
        }
        {
            let mut flight = self.flight();
            flight.running = None;
            flight.failed = result.is_err();
            if forced || flight.failed {
                flight.cooling_since = Some(now);
            }
        }
        let event = FetchEvent { issuer: &self.name, result: result.as_deref(), changed };
        (self.fetching.observer)(event);
        if result.is_ok() { Refreshed::Newer } else { Refreshed::Failed }
    }

    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between 900 and 1100 thousandths, so that many gateways do not ask an issuer in step.
fn jitter() -> u32 {
    let [byte] = random_bytes::<1>().unwrap_or([128]);
    900 + u32::from(byte) * 200 / 255
}

fn scaled(duration: Duration, permille: u32) -> Duration {
    (duration / 1000).saturating_mul(permille)
}
