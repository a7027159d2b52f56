//! One issuer's keys over time: a snapshot readable without a lock, refreshed ahead of its age by one
//! fetch at a time, kept through an outage, and fetched out of turn for an unknown key, but rarely.

use super::copy::{CopyError, CopyFile};
use super::fetch::{Document, FetchError, Fetched, fetch};
use super::{KeySet, KeySetSettings, RefreshSettings, Source};
use crate::clock::{Clock, Timestamp, random_bytes};
use crate::outbound::Client;
use crate::panics::{Place, contain, contain_blocking};
use arc_swap::ArcSwapOption;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The background task waits at least this long between two fetches, whatever the settings say.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// Something has become of one issuer's keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyEvent<'a> {
    /// The configuration's name of the issuer.
    pub issuer: &'a str,
    /// What it is.
    pub kind: KeyEventKind<'a>,
}

/// What has become of an issuer's keys.
#[derive(Debug, Clone, Copy)]
pub enum KeyEventKind<'a> {
    /// A fetch has ended.
    Fetched {
        /// The set it brought, or why it brought none.
        result: Result<&'a KeySet, &'a FetchError>,
        /// Whether the keys, the success or the failure are others than before.
        news: bool,
    },
    /// There are no keys yet but those of the copy on disk, which are this old.
    CopyUsed(&'a Path, Duration),
    /// There is a copy on disk that may not be believed.
    CopyIgnored(&'a Path, &'a CopyError),
    /// The copy cannot be written; told once until it can be.
    CopyNotWritten(&'a Path, &'a io::Error),
}

/// Who is told.
pub type KeyObserver = Arc<dyn Fn(KeyEvent<'_>) + Send + Sync>;

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
    pub observer: KeyObserver,
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
    /// Whether they were read from the copy on disk: the issuer is asked at once then, however young they are.
    copied: bool,
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
    copy: Option<CopyFile>,
    fetching: Fetching,
    snapshot: ArcSwapOption<Snapshot>,
    flight: Mutex<Flight>,
    retired: AtomicBool,
}

#[derive(Debug, Default)]
struct Flight {
    running: Option<Running>,
    /// When the last fetch ended that was forced or failed.
    cooling_since: Option<Timestamp>,
    failed: bool,
    /// Whether a fetch has ended, well or badly.
    attempted: bool,
    /// The failure that was last told.
    told: Option<String>,
}

/// What a fetch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A request has no keys to go by.
    Keys,
    /// A request names a key that is not among those in use.
    UnknownKey,
    /// The background keeps the keys fresh, and minds the time between fetches itself.
    Freshness,
}

impl IssuerKeys {
    /// The keys of the issuer called `name` with the exact `iss`. Nothing is fetched yet. If `previous` had
    /// its keys from the same place, they serve on, so that a reload during an outage loses nothing; else
    /// those of the copy on disk do.
    pub fn new(
        name: Arc<str>,
        issuer: String,
        settings: KeySetSettings,
        fetching: Fetching,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        let KeySetSettings { source, refresh, copy_file } = settings;
        let inherited = previous
            .filter(|previous| previous.issuer == issuer && previous.source.is_same_as(&source))
            // A file is there to be read again, and its change may be why there is a new configuration.
            .filter(|_| !matches!(source, Source::File(_)))
            .and_then(Self::latest);
        let snapshot = ArcSwapOption::new(inherited);
        let copy = copy_file.map(CopyFile::new);
        let flight = Mutex::default();
        let retired = AtomicBool::new(false);
        let this = Self { name, issuer, source, refresh, copy, fetching, snapshot, flight, retired };
        if let (Some(copy), None) = (&this.copy, this.latest()) {
            this.start_from(copy);
        }
        Arc::new(this)
    }

    fn start_from(&self, copy: &CopyFile) {
        let now = self.fetching.clock.now();
        match copy.read(&self.source, &self.issuer, now, self.refresh.longest_use()) {
            Ok(None) => {}
            Ok(Some((keys, confirmed))) => {
                let snapshot = Snapshot { keys: Arc::new(keys), generation: 1, confirmed, copied: true };
                self.snapshot.store(Some(Arc::new(snapshot)));
                self.tell(KeyEventKind::CopyUsed(copy.path(), now.since(confirmed)));
            }
            Err(error) => self.tell(KeyEventKind::CopyIgnored(copy.path(), &error)),
        }
    }

    fn tell(&self, kind: KeyEventKind<'_>) {
        (self.fetching.observer)(KeyEvent { issuer: &self.name, kind });
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
        now.since(snapshot.confirmed) <= self.refresh.longest_use()
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

    /// Whether the first fetch has ended, well or badly.
    pub fn attempted(&self) -> bool {
        self.flight().attempted
    }

    /// How long ago the issuer last gave us its keys; `None` if never.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.snapshot.load().as_ref().map(|snapshot| now.since(snapshot.confirmed))
    }

    /// Gets newer keys than `seen`: joins the fetch under way or starts one, and waits for it at most the
    /// configured timeout. All who wait share its result, and its failure. Starts none within the cooldown.
    pub async fn refresh(self: &Arc<Self>, seen: Option<&Arc<Snapshot>>) -> Refreshed {
        let now = self.fetching.clock.now();
        let has_keys = seen.is_some_and(|seen| self.is_usable(seen, now));
        let purpose = if has_keys { Purpose::UnknownKey } else { Purpose::Keys };
        self.awaited(self.join_or_start(seen, purpose)).await
    }

    /// Another configuration has taken over. Requests that began with these keys end with them, but however long
    /// that takes: nothing is fetched ahead any more, and the copy on disk is the successor's.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Keeps the keys fresh for as long as somebody else holds them and they are not retired.
    pub async fn keep_fresh(self: Arc<Self>) {
        let keys = Arc::downgrade(&self);
        drop(self);
        let mut permille = jitter();
        while let Some(this) = keys.upgrade().filter(|this| !this.is_retired()) {
            let mut wait = this.due_in(this.fetching.clock.now(), permille);
            if wait.is_zero() {
                let fetch = this.join_or_start(this.latest().as_ref(), Purpose::Freshness);
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
        let has_keys = self.has_keys(now);
        let flight = self.flight();
        let (from, wait) = match (flight.cooling_since, self.snapshot.load().as_ref()) {
            (Some(since), _) if flight.failed => {
                (since, scaled(self.refresh.retry(has_keys), permille.max(1000)))
            }
            (_, Some(snapshot)) if flight.attempted || !snapshot.copied => {
                let age = self.refresh.every.min(self.refresh.longest_use());
                (snapshot.confirmed, scaled(scaled(age, 800), permille))
            }
            _ => return Duration::ZERO,
        };
        let wait = wait.max(SHORTEST_WAIT);
        // Of a clock that was set back, believe no more than one wait.
        from.plus(wait).since(now).min(wait)
    }

    /// The fetch to wait for, or how it stands if there is none to wait for. After a failure no request waits
    /// before the cooldown is over, not even for the background's attempt: of a hanging issuer one is enough.
    /// After a fetch for an unknown key only the next such one has to wait for it.
    fn join_or_start(
        self: &Arc<Self>,
        seen: Option<&Arc<Snapshot>>,
        purpose: Purpose,
    ) -> Result<Running, Refreshed> {
        let mut flight = self.flight();
        if self.latest().as_ref().map(Arc::as_ptr) != seen.map(Arc::as_ptr) {
            return Err(Refreshed::Newer);
        }
        let now = self.fetching.clock.now();
        let cools = |since: Timestamp| since <= now && now.since(since) < self.refresh.cooldown;
        let cools = flight.cooling_since.is_some_and(cools);
        if cools && flight.failed && purpose != Purpose::Freshness {
            return Err(Refreshed::Failed);
        }
        // A closed channel without a result is a fetch whose runtime was stopped: it counts as none.
        if let Some(running) = flight.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return Ok(running.clone());
        }
        if cools && purpose == Purpose::UnknownKey {
            return Err(Refreshed::TooEarly);
        }
        let (ended, running) = watch::channel(None);
        flight.running = Some(running.clone());
        let this = Arc::clone(self);
        self.fetching.runtime.spawn(async move {
            let fetching = fetch(&this.source, &this.issuer, &this.fetching.client, this.refresh.timeout);
            let result =
                contain(Place::KeySets, fetching).await.unwrap_or_else(|panicked| Err(panicked.into()));
            let (result, document) = match result {
                Ok(Fetched { keys, document }) => (Ok(keys), document),
                Err(error) => (Err(error), None),
            };
            let (refreshed, now) = this.conclude(result, purpose);
            ended.send_replace(Some(refreshed));
            if let Some(document) = document {
                // Nobody waits for the disk.
                let _ = contain_blocking(Place::KeySets, move || this.keep_copy(&document, now)).await;
            }
        });
        Ok(running)
    }

    fn keep_copy(&self, document: &Document, fetched: Timestamp) {
        let Some(copy) = self.copy.as_ref().filter(|_| !self.is_retired()) else { return };
        if let Err(error) = copy.write(&self.source, &self.issuer, document, fetched) {
            self.tell(KeyEventKind::CopyNotWritten(copy.path(), &error));
        }
    }

    async fn awaited(&self, fetch: Result<Running, Refreshed>) -> Refreshed {
        let mut running = match fetch {
            Ok(running) => running,
            Err(known) => return known,
        };
        let ended = tokio::time::timeout(self.refresh.timeout, running.wait_for(Option::is_some)).await;
        ended.ok().and_then(|ended| ended.ok().and_then(|ended| *ended)).unwrap_or(Refreshed::Failed)
    }

    /// Takes in the result of a fetch, and says when that was.
    fn conclude(&self, result: Result<KeySet, FetchError>, purpose: Purpose) -> (Refreshed, Timestamp) {
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
            let snapshot = Snapshot { keys: Arc::clone(keys), generation, confirmed: now, copied: false };
            self.snapshot.store(Some(Arc::new(snapshot)));
        }
        let news = {
            let mut flight = self.flight();
            flight.running = None;
            flight.attempted = true;
            flight.failed = result.is_err();
            if purpose == Purpose::UnknownKey || flight.failed {
                flight.cooling_since = Some(now);
            }
            let failure = result.as_ref().err().map(ToString::to_string);
            let told = std::mem::replace(&mut flight.told, failure);
            changed || told != flight.told
        };
        self.tell(KeyEventKind::Fetched { result: result.as_deref(), news });
        (if result.is_ok() { Refreshed::Newer } else { Refreshed::Failed }, now)
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

#[cfg(test)]
mod tests {
    use super::super::copy::tests::TestFolder;
    use super::super::fixtures::{OTHER_RSA, RSA, jwks};
    use super::*;
    use crate::clock::ManualClock;
    use crate::outbound::tests::{TestServer, client, http_answer};
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::Condvar;
    use std::sync::atomic::AtomicUsize;

    /// An issuer that answers what it is told to, when it is let.
    struct TestIssuer {
        server: TestServer,
        answer: Arc<Mutex<(u16, String)>>,
        gate: Arc<(Mutex<bool>, Condvar)>,
        clock: Arc<ManualClock>,
        events: Arc<AtomicUsize>,
        copy_file: Option<PathBuf>,
    }

    impl TestIssuer {
        fn new() -> Self {
            let answer = Arc::new(Mutex::new((200, jwks(&[RSA.named("a")]))));
            let gate = Arc::new((Mutex::new(true), Condvar::new()));
            let (told, gated) = (Arc::clone(&answer), Arc::clone(&gate));
            let server = TestServer::start(move |stream, _| {
                let open = gated.1.wait_while(gated.0.lock().unwrap(), |open| !*open).unwrap();
                drop(open);
                let (status, body) = told.lock().unwrap().clone();
                let _ = stream.write_all(http_answer(status, &body).as_bytes());
            });
            let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000_000)));
            Self { server, answer, gate, clock, events: Arc::default(), copy_file: None }
        }

        fn answers(&self, status: u16, body: &str) {
            *self.answer.lock().unwrap() = (status, body.to_owned());
        }

        fn open(&self, open: bool) {
            *self.gate.0.lock().unwrap() = open;
            self.gate.1.notify_all();
        }

        fn keys(
            &self,
            change: impl FnOnce(&mut RefreshSettings),
            previous: Option<&IssuerKeys>,
        ) -> Arc<IssuerKeys> {
            let mut refresh =
                RefreshSettings { timeout: Duration::from_secs(20), ..RefreshSettings::default() };
            change(&mut refresh);
            let events = Arc::clone(&self.events);
            let fetching = Fetching {
                clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
                client: client(),
                runtime: Handle::current(),
                observer: Arc::new(move |event: KeyEvent<'_>| {
                    let fetched = matches!(event.kind, KeyEventKind::Fetched { .. });
                    events.fetch_add(usize::from(fetched), Ordering::SeqCst);
                }),
            };
            let settings = KeySetSettings {
                source: Source::Url(self.server.url("/keys")),
                refresh,
                copy_file: self.copy_file.clone(),
            };
            IssuerKeys::new("corp".into(), "https://corp.example".into(), settings, fetching, previous)
        }

        fn default_keys(&self) -> Arc<IssuerKeys> {
            self.keys(|_| (), None)
        }

        fn now(&self) -> Timestamp {
            self.clock.now()
        }
    }

    async fn refresh(keys: &Arc<IssuerKeys>) -> Refreshed {
        let seen = keys.latest();
        keys.refresh(seen.as_ref()).await
    }

    /// Starts `count` requests that all find no key, and returns when all of them wait.
    async fn waiting(keys: &Arc<IssuerKeys>, count: usize) -> Vec<tokio::task::JoinHandle<Refreshed>> {
        let seen = keys.latest();
        let spawn = |_| {
            let (keys, seen) = (Arc::clone(keys), seen.clone());
            tokio::spawn(async move { keys.refresh(seen.as_ref()).await })
        };
        let tasks = (0..count).map(spawn).collect();
        tokio::task::yield_now().await;
        tasks
    }

    async fn ended(tasks: Vec<tokio::task::JoinHandle<Refreshed>>) -> Vec<Refreshed> {
        let mut ended = Vec::new();
        for task in tasks {
            ended.push(task.await.unwrap());
        }
        ended.dedup();
        ended
    }

    #[tokio::test]
    async fn fifty_cold_requests_share_one_fetch() {
        let issuer = TestIssuer::new();
        issuer.open(false);
        let keys = issuer.default_keys();
        assert!(!keys.has_keys(issuer.now()));
        let tasks = waiting(&keys, 50).await;
        issuer.open(true);
        assert_eq!(ended(tasks).await, [Refreshed::Newer]);
        assert_eq!((issuer.server.count(), issuer.events.load(Ordering::SeqCst)), (1, 1));
        assert!(keys.has_keys(issuer.now()));
        assert_eq!(keys.age(issuer.now()), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_repeated_only_after_the_cooldown() {
        let issuer = TestIssuer::new();
        issuer.open(false);
        issuer.answers(500, "");
        let keys = issuer.default_keys();
        let tasks = waiting(&keys, 50).await;
        issuer.open(true);
        assert_eq!(ended(tasks).await, [Refreshed::Failed]);
        issuer.clock.advance(Duration::from_millis(9_999));
        assert_eq!(refresh(&keys).await, Refreshed::Failed);
        assert_eq!(issuer.server.count(), 1);
        issuer.answers(200, &jwks(&[RSA.named("a")]));
        issuer.clock.advance(Duration::from_millis(1));
        assert_eq!(refresh(&keys).await, Refreshed::Newer);
        assert_eq!(issuer.server.count(), 2);
    }

    #[tokio::test]
    async fn the_cooldown_counts_from_the_end_of_a_fetch() {
        let issuer = TestIssuer::new();
        issuer.open(false);
        issuer.answers(500, "");
        let keys = issuer.default_keys();
        let tasks = waiting(&keys, 3).await;
        issuer.clock.advance(Duration::from_secs(60));
        issuer.open(true);
        assert_eq!(ended(tasks).await, [Refreshed::Failed]);
        assert_eq!(refresh(&keys).await, Refreshed::Failed);
        assert_eq!(issuer.server.count(), 1);
    }

    #[tokio::test]
    async fn a_storm_of_unknown_keys_costs_one_fetch_per_cooldown() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        refresh(&keys).await;
        assert_eq!(refresh(&keys).await, Refreshed::Newer, "the first unknown key need not wait");
        for _ in 0..100 {
            assert_eq!(refresh(&keys).await, Refreshed::TooEarly);
        }
        assert_eq!(issuer.server.count(), 2);
        issuer.clock.advance(Duration::from_secs(10));
        issuer.open(false);
        let tasks = waiting(&keys, 100).await;
        issuer.open(true);
        assert_eq!(ended(tasks).await, [Refreshed::Newer]);
        assert_eq!(issuer.server.count(), 3);
    }

    #[tokio::test]
    async fn who_has_not_seen_the_latest_keys_is_sent_back_to_them() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        assert_eq!(keys.refresh(None).await, Refreshed::Newer);
        assert_eq!(keys.refresh(None).await, Refreshed::Newer);
        assert_eq!(issuer.server.count(), 1);
    }

    #[tokio::test]
    async fn a_request_that_goes_away_takes_no_fetch_with_it() {
        let issuer = TestIssuer::new();
        issuer.open(false);
        let keys = issuer.default_keys();
        for task in waiting(&keys, 1).await {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        let tasks = waiting(&keys, 1).await;
        issuer.open(true);
        assert_eq!(ended(tasks).await, [Refreshed::Newer]);
        assert_eq!(issuer.server.count(), 1);
    }

    #[tokio::test]
    async fn a_dead_issuer_holds_nobody_longer_than_the_timeout_and_no_other_issuer_at_all() {
        let (dead, alive) = (TestIssuer::new(), TestIssuer::new());
        dead.open(false);
        let dead_keys = dead.keys(|refresh| refresh.timeout = Duration::from_secs(1), None);
        let started = tokio::time::Instant::now();
        let tasks = waiting(&dead_keys, 30).await;
        assert_eq!(refresh(&alive.default_keys()).await, Refreshed::Newer);
        assert!(tasks.iter().all(|task| !task.is_finished()));
        assert_eq!(ended(tasks).await, [Refreshed::Failed]);
        assert!(started.elapsed() < Duration::from_secs(5), "thirty in turn would take thirty seconds");
        assert_eq!(dead.server.count(), 1);
        dead.open(true);
    }

    #[tokio::test]
    async fn a_runtime_that_stops_leaves_no_fetch_to_wait_for() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        let (ended, running) = watch::channel(None);
        keys.flight().running = Some(running);
        drop(ended);
        assert_eq!(refresh(&keys).await, Refreshed::Newer);
    }

    #[tokio::test]
    async fn the_last_good_set_serves_through_an_outage_until_it_is_stale() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        refresh(&keys).await;
        for (status, body) in [
            (500, String::new()),
            (200, "<html>".to_owned()),
            (200, r#"{"keys":[]}"#.to_owned()),
            (200, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#.to_owned()),
            (301, jwks(&[OTHER_RSA.named("a")])),
            (404, jwks(&[OTHER_RSA.named("a")])),
        ] {
            issuer.answers(status, &body);
            issuer.clock.advance(Duration::from_secs(10));
            assert_eq!(refresh(&keys).await, Refreshed::Failed, "{status} {body}");
            assert_eq!(keys.generation(issuer.now()), Some(1), "{status} {body}");
        }
        assert_eq!(keys.age(issuer.now()), Some(Duration::from_secs(60)));
        issuer.clock.advance(Duration::from_secs(24 * 3600 - 60));
        assert!(keys.has_keys(issuer.now()));
        issuer.clock.advance(Duration::from_millis(1));
        assert!(!keys.has_keys(issuer.now()));
        issuer.answers(200, &jwks(&[RSA.named("a")]));
        assert_eq!(refresh(&keys).await, Refreshed::Newer);
        assert!(keys.has_keys(issuer.now()));
    }

    #[tokio::test]
    async fn without_staleness_a_set_serves_as_long_as_it_is_fresh() {
        let issuer = TestIssuer::new();
        let keys = issuer.keys(|refresh| refresh.stale_for = Duration::ZERO, None);
        refresh(&keys).await;
        issuer.clock.advance(Duration::from_secs(600));
        assert!(keys.has_keys(issuer.now()));
        issuer.clock.advance(Duration::from_millis(1));
        assert!(!keys.has_keys(issuer.now()));
    }

    #[tokio::test]
    async fn the_generation_grows_only_when_the_keys_change() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        let mut generations = Vec::new();
        for body in [jwks(&[RSA.named("a")]), jwks(&[RSA.named("a")]), jwks(&[RSA.named("b")])] {
            issuer.answers(200, &body);
            issuer.clock.advance(Duration::from_secs(10));
            refresh(&keys).await;
            generations.push(keys.generation(issuer.now()).unwrap());
        }
        assert_eq!(generations, [1, 1, 2]);
    }

    #[tokio::test]
    async fn a_reload_keeps_the_keys_of_an_issuer_that_stays_where_it_is() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        refresh(&keys).await;
        let reloaded = issuer.keys(|refresh| refresh.every = Duration::from_secs(1), Some(&keys));
        assert_eq!(reloaded.generation(issuer.now()), Some(1));
        let elsewhere = TestIssuer::new().keys(|_| (), Some(&keys));
        assert_eq!(elsewhere.generation(issuer.now()), None);
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_does_not_stretch_the_cooldown() {
        let issuer = TestIssuer::new();
        issuer.answers(500, "");
        let keys = issuer.default_keys();
        refresh(&keys).await;
        issuer.clock.set(Timestamp::from_secs(10));
        assert!(keys.due_in(issuer.now(), 1000) <= Duration::from_secs(10));
        issuer.answers(200, &jwks(&[RSA.named("a")]));
        assert_eq!(refresh(&keys).await, Refreshed::Newer);
    }

    #[tokio::test]
    async fn the_next_fetch_is_due_ahead_of_age_or_after_the_cooldown() {
        let issuer = TestIssuer::new();
        let due = |keys: &IssuerKeys, permille| keys.due_in(issuer.now(), permille).as_secs();
        let keys = issuer.default_keys();
        assert_eq!(due(&keys, 1100), 0);
        refresh(&keys).await;
        assert_eq!((due(&keys, 900), due(&keys, 1000), due(&keys, 1100)), (432, 480, 528));
        issuer.clock.advance(Duration::from_secs(400));
        assert_eq!(due(&keys, 1000), 80);
        issuer.clock.advance(Duration::from_secs(400));
        assert_eq!(due(&keys, 1000), 0);
        issuer.answers(500, "");
        refresh(&keys).await;
        assert_eq!((due(&keys, 900), due(&keys, 1100)), (10, 11));
        let strict = issuer.keys(|refresh| refresh.stale_for = Duration::from_secs(100), Some(&keys));
        issuer.clock.set(strict.latest().unwrap().confirmed);
        assert_eq!(due(&strict, 1000), 80);
        let endless = issuer
            .keys(|refresh| (refresh.every, refresh.stale_for) = (Duration::MAX, Duration::MAX), Some(&keys));
        assert!(due(&endless, 1100) > 1_000_000);
    }

    #[tokio::test]
    async fn without_keys_the_background_asks_again_soon_and_requests_do_not_wait_for_it() {
        let mut issuer = TestIssuer::new();
        issuer.answers(500, "");
        let folder = TestFolder::new();
        issuer.copy_file = Some(folder.0.join("corp.json"));
        let keys = issuer.default_keys();
        refresh(&keys).await;
        assert_eq!(keys.due_in(issuer.now(), 1100).as_millis(), 1100);
        assert!(keys.attempted());
        issuer.open(false);
        let probe = keys.join_or_start(None, Purpose::Freshness).unwrap();
        assert_eq!(refresh(&keys).await, Refreshed::Failed, "within the cooldown the answer is immediate");
        issuer.answers(200, &jwks(&[RSA.named("a")]));
        issuer.open(true);
        assert_eq!(keys.awaited(Ok(probe)).await, Refreshed::Newer);
        issuer.answers(500, "");
        keys.awaited(keys.join_or_start(keys.latest().as_ref(), Purpose::Freshness)).await;
        assert_eq!(keys.due_in(issuer.now(), 1000).as_secs(), 10, "with keys in hand there is time");
        issuer.clock.advance(Duration::from_secs(24 * 3600 + 1));
        refresh(&keys).await;
        assert_eq!(keys.due_in(issuer.now(), 1000).as_secs(), 1, "keys too stale to use are none");
    }

    #[tokio::test]
    async fn a_cold_start_during_an_outage_serves_from_the_copy_and_asks_at_once() {
        let mut issuer = TestIssuer::new();
        let folder = TestFolder::new();
        issuer.copy_file = Some(folder.0.join("corp.json"));
        refresh(&issuer.default_keys()).await;
        let copied = async {
            while !folder.0.join("corp.json").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), copied).await.unwrap();
        issuer.answers(500, "");
        issuer.clock.advance(Duration::from_secs(100));
        let keys = issuer.default_keys();
        assert!(keys.has_keys(issuer.now()) && !keys.attempted());
        assert_eq!(keys.age(issuer.now()), Some(Duration::from_secs(100)));
        assert_eq!(keys.due_in(issuer.now(), 1000), Duration::ZERO);
        assert_eq!(refresh(&keys).await, Refreshed::Failed);
        assert_eq!(keys.generation(issuer.now()), Some(1));
        issuer.clock.advance(Duration::from_secs(24 * 3600 - 100));
        assert!(keys.has_keys(issuer.now()));
        issuer.clock.advance(Duration::from_millis(1));
        assert!(!keys.has_keys(issuer.now()));
        assert!(!issuer.default_keys().has_keys(issuer.now()), "a copy ages like the set it is of");
        issuer.copy_file = None;
        assert!(!issuer.default_keys().has_keys(issuer.now()));
    }

    #[tokio::test]
    async fn the_same_failure_is_news_once() {
        let issuer = TestIssuer::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (heard, fetching) = (Arc::clone(&told), issuer.default_keys().fetching.clone());
        let observer = move |event: KeyEvent<'_>| {
            if let KeyEventKind::Fetched { result, news } = event.kind {
                heard.lock().unwrap().push((result.is_ok(), news));
            }
        };
        let fetching = Fetching { observer: Arc::new(observer), ..fetching };
        let keys = issuer.default_keys();
        let settings =
            KeySetSettings { source: keys.source.clone(), refresh: keys.refresh.clone(), copy_file: None };
        let keys = IssuerKeys::new("corp".into(), "https://corp.example".into(), settings, fetching, None);
        for status in [200, 200, 500, 500, 404, 200, 500] {
            issuer.answers(status, &jwks(&[RSA.named("a")]));
            issuer.clock.advance(Duration::from_secs(10));
            refresh(&keys).await;
        }
        let ok = |news| (true, news);
        let failed = |news| (false, news);
        let expected =
            [ok(true), ok(false), failed(true), failed(false), failed(true), ok(true), failed(true)];
        assert_eq!(*told.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn an_unknown_key_does_not_hold_up_the_regular_refresh() {
        let issuer = TestIssuer::new();
        let keys = issuer.default_keys();
        refresh(&keys).await;
        refresh(&keys).await;
        assert!(keys.join_or_start(keys.latest().as_ref(), Purpose::UnknownKey).is_err());
        assert!(keys.join_or_start(keys.latest().as_ref(), Purpose::Freshness).is_ok());
    }

    #[tokio::test]
    async fn keys_are_kept_fresh_as_long_as_somebody_holds_them() {
        let issuer = TestIssuer::new();
        let keys = issuer.keys(|refresh| refresh.every = Duration::from_millis(1), None);
        let task = tokio::spawn(Arc::clone(&keys).keep_fresh());
        let thrice = async {
            while issuer.server.count() < 3 {
                issuer.clock.advance(Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), thrice).await.unwrap();
        drop(keys);
        tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
    }
}
