//! The composition root: configuration in, a running gateway out, and its orderly end.

mod descriptors;
mod generation;
mod handover;
mod key_sets;
mod lifetime;
mod logging;
mod memory;
pub mod rehearsal;
mod reload;
mod secret_file;
mod sessions;
mod signing_keys;
mod users;
mod users_file;
mod watch;

use crate::access_log::AccessLog;
use crate::admin::revoke::Revoker;
use crate::admin::{Admin, Part, PartState};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigErrors, StoreConfig};
use crate::endpoints::Endpoints;
use crate::gateway::Gateway;
use crate::gateway::engine::{self, NoRoots};
use crate::gateway::forward_auth::Judge;
use crate::gateway::listener::{Accepting, Connections, Inherited, ListenError, Listener};
use crate::gateway::settings::{LogFormat, ServerSettings};
use crate::gateway::snapshot::{Snapshot, SnapshotError};
use crate::gateway::upstream::UpstreamError;
use crate::metrics::{Metrics, MetricsError};
use crate::outbound::{Client, OutboundError};
use crate::panics::{Panicked, Place, contain, keep_up};
use crate::token::verifier::IssuerError;
use crate::traces::{Exporting, Traces, TracesError};
use arc_swap::ArcSwap;
use generation::Workshop;
use handover::{Giver, HandoverError, Predecessor};
use lifetime::Signals;
use pingora_core::apps::{HttpServerApp as _, ServerApp};
use reload::{Running, Served};
use sessions::Sessions;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use watch::Watch;

/// Why the gateway does not start. Its text is what the person at the terminal reads.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// An address cannot be bound, or a certificate cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Routes and upstreams do not fit.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An upstream cannot be used.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// No roots to verify upstreams with.
    #[error(transparent)]
    Roots(#[from] NoRoots),
    /// An issuer cannot be used.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The client for key sets cannot be made.
    #[error("the HTTP client for key sets: {0}")]
    Outbound(#[from] OutboundError),
    /// The metrics cannot be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] MetricsError),
    /// No collector can be reached this way.
    #[error("telemetry.otlp: {0}")]
    Traces(#[from] TracesError),
    /// Our own sessions cannot be served.
    #[error(transparent)]
    Sessions(#[from] sessions::SessionsError),
    /// The system refuses a thread or a signal handler.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// `--upgrade` without a place to meet the gateway that runs.
    #[error("--upgrade needs server.upgrade_socket: where the running gateway gives its sockets away")]
    NoUpgradeSocket,
    /// The gateway that runs holds the store.
    #[error(
        "sessions.store.embedded: one process at a time can hold the file, and the running gateway does, so this \
         one cannot take over from it; stop it first, or keep sessions in Redis. It serves on"
    )]
    StoreHeld,
    /// It could not take over in time.
    #[error("not ready within {READY_WITHIN:?}, so the running gateway serves on: {0}")]
    NotReady(String),
    /// The sockets of the gateway that runs are not to be had.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// What holds all of it together panicked.
    #[error("the gateway cannot go on: {0}")]
    Panicked(#[from] Panicked),
    /// A part that must not end did.
    #[error("a listener ended unexpectedly; see the log")]
    ListenerLost,
}

/// How long a new process may take to become ready before the old one is left in peace.
const READY_WITHIN: Duration = Duration::from_secs(60);
const READY_LOOK: Duration = Duration::from_millis(20);

/// Runs the gateway with the configuration at `path` until it is told to stop; with `upgrade` it takes over from
/// the one that runs. Blocks; must not be called inside a Tokio runtime.
///
/// # Errors
/// [`StartError`] if it cannot start, or cannot go on.
pub fn run(path: &Path, upgrade: bool) -> Result<(), StartError> {
    let config = Config::load(path)?;
    logging::start(config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    descriptors::allow(config.server.limits.connections);
    let runtime = runtime(&config.server)?;
    let result = runtime.block_on(contain(Place::Process, serve(path, config, upgrade)));
    // What still runs now is past its deadline.
    runtime.shutdown_background();
    result?
}

fn runtime(server: &ServerSettings) -> std::io::Result<Runtime> {
    let mut builder = match engine::threads(server) {
        // Nobody to share work with: nothing of what sharing costs.
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if server.threads > 0 {
        builder.worker_threads(server.threads);
    }
    builder.enable_all().thread_name("portcullis").build()
}

/// Builds everything, binds everything, serves until the signal. Whatever can fail does so before the first
/// connection is accepted, and before the process to take over from, if there is one, hears of it.
async fn serve(path: &Path, mut config: Config, upgrade: bool) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let watch = Watch::new(reload::files(path, &config))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new()?;
    count_panics(metrics.clone());
    let log = AccessLog::start(config.log.format == LogFormat::Json, config.log.access, metrics.clone())?;
    let (traces, exporting) = Traces::start(config.otlp.as_deref())?;
    let predecessor = if upgrade { predecessor(&config).await? } else { None };
    let doors = Doors::bind(&config, predecessor.as_ref()).await?;

    let sessions = config.sessions.take();
    let sessions = sessions.map(|settings| Sessions::build(settings, &metrics, &clock)).transpose()?;
    let signer = sessions.as_ref().map(Sessions::signer);
    let workshop = Workshop::new(metrics.clone(), &clock, Client::new()?, signer);
    let snapshot = workshop.build(&config, None)?;
    Workshop::start(&snapshot, None);
    let resolving = tokio::spawn(contain(Place::Resolver, generation::reachable(&snapshot)));
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));

    let (unready, draining) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let parts = parts(&unready, resolving.abort_handle(), sessions.as_ref(), &snapshot, &clock);
    let own = sessions.as_ref().map(|sessions| sessions.serve(Arc::clone(workshop.cache())));
    let revoker = own.as_ref().and_then(|(endpoints, _)| revoker(&config, endpoints, &log, &metrics, &clock));
    let gateway = |own| {
        let (snapshot, clock, draining) = (Arc::clone(&snapshot), Arc::clone(&clock), Arc::clone(&draining));
        Gateway::new(snapshot, own, metrics.clone(), (log.clone(), traces.clone()), clock, draining)
    };
    let engine = Arc::new(engine::engine(gateway(own.clone()), &config.server, &config.upstreams)?);
    let judge = config
        .forward_auth
        .as_ref()
        .map(|settings| Arc::new(engine::judging(Judge::new(gateway(own), settings.proxy), &config.server)));
    if predecessor.is_some() {
        tokio::select! {
            ready = until_ready(&parts) => ready?,
            () = signals.stop() => return Ok(()),
        }
    }
    let upgrade_socket = config.server.upgrade_socket.as_deref();
    let giver = upgrade_socket.map(|path| Giver::listen(path, doors.all())).transpose()?;

    let (stop_accepting, stopped) = tokio::sync::watch::channel(false);
    let (stop_admin, admin_stopped) = tokio::sync::watch::channel(false);
    let mut accepting = JoinSet::new();
    if let Some(listener) = doors.admin {
        let admin = Arc::new(admin(&metrics, parts, sessions.as_ref(), &snapshot, &clock, revoker));
        let connections = Arc::new(Connections::new(&config.server.limits, Arc::clone(&clock), None));
        accept(&mut accepting, Accepting::new(listener, admin, connections, admin_stopped));
    }
    // Who comes meanwhile waits in the kernel's queue instead of being told that there is no upstream.
    tokio::select! { _ = resolving => {} () = signals.stop() => return Ok(()) }
    let connections =
        Arc::new(Connections::new(&config.server.limits, Arc::clone(&clock), Some(metrics.clone())));
    let mut certificates = Vec::new();
    for (listener, settings) in doors.clients.into_iter().zip(&config.server.listeners) {
        tracing::info!(address = %settings.address, tls = !settings.tls.is_empty(), "listening");
        if let Some(shown) = listener.certificates() {
            certificates.push(Served::follow(settings, Arc::clone(shown), metrics.clone())?);
        }
        let (engine, connections) = (Arc::clone(&engine), Arc::clone(&connections));
        accept(&mut accepting, Accepting::new(listener, engine, connections, stopped.clone()));
    }
    if let (Some(listener), Some(judge)) = (doors.judging, judge.clone()) {
        accept(&mut accepting, Accepting::new(listener, judge, Arc::clone(&connections), stopped.clone()));
    }
    let shutdown = tokio::sync::watch::Sender::new(config.server.shutdown);
    let running = Running {
        path: path.to_owned(),
        started_with: config,
        workshop,
        snapshot,
        connections: Arc::clone(&connections),
        certificates,
        shutdown: shutdown.clone(),
        metrics,
    };
    let reloading =
        keep_up(Place::Reload, (running, watch), |(running, watch)| Box::pin(running.follow(watch)));
    let reloading = tokio::spawn(reloading);
    tokio::spawn(memory::give_back());
    if let Some(predecessor) = predecessor {
        predecessor.relieve().await;
    }

    let relieved = until_told(&mut signals, giver, &mut accepting).await?;
    reloading.abort();
    let (mut settings, mut linger) = (*shutdown.borrow(), lifetime::LINGER);
    if relieved {
        // The new process answers on the same addresses, so nobody has to look for another gateway first.
        (settings.delay, linger) = (Duration::ZERO, lifetime::LINGER_RELIEVED);
        stop_admin.send_replace(true);
    } else {
        unready.store(true, Ordering::Relaxed);
    }
    let drop_idle = async {
        engine.drop_idle().await;
        if let Some(judge) = &judge {
            judge.http_cleanup().await;
        }
    };
    lifetime::wind_down(settings, linger, &mut signals, &draining, &stop_accepting, &connections, drop_idle)
        .await;
    finish(sessions.as_ref(), exporting, &log).await;
    Ok(())
}

/// Brings to an end what goes on beside the requests.
async fn finish(sessions: Option<&Sessions>, exporting: Exporting, log: &AccessLog) {
    if let Some(sessions) = sessions {
        sessions.finish().await;
    }
    exporting.finish().await;
    log.flush();
    tracing::info!("stopped");
}

fn accept<A: ServerApp + Send + Sync + 'static>(accepting: &mut JoinSet<()>, work: Accepting<A>) {
    accepting.spawn(keep_up(Place::Listener, work, |work| Box::pin(work.serve())));
}

/// What ends a user's sessions on the admin side, if anybody may.
fn revoker(
    config: &Config,
    endpoints: &Arc<Endpoints>,
    log: &AccessLog,
    metrics: &Metrics,
    clock: &Arc<dyn Clock>,
) -> Option<Revoker> {
    let token = config.admin.as_ref()?.token.clone()?;
    let (endpoints, clock) = (Arc::clone(endpoints), Arc::clone(clock));
    Some(Revoker { token, endpoints, log: log.clone(), metrics: metrics.clone(), clock })
}

/// The process to take over from, if one runs.
async fn predecessor(config: &Config) -> Result<Option<Predecessor>, StartError> {
    let path = config.server.upgrade_socket.as_ref().ok_or(StartError::NoUpgradeSocket)?;
    let found = Predecessor::find(path).await?;
    if found.is_none() {
        tracing::info!("no gateway runs that could be taken over from");
    } else if config.sessions.as_ref().is_some_and(|s| matches!(s.store, StoreConfig::Embedded { .. })) {
        return Err(StartError::StoreHeld);
    }
    Ok(found)
}

/// All listeners there are.
struct Doors {
    clients: Vec<Listener>,
    admin: Option<Listener>,
    judging: Option<Listener>,
}

impl Doors {
    /// On the sockets of the process to take over from where it has them.
    async fn bind(config: &Config, predecessor: Option<&Predecessor>) -> Result<Self, StartError> {
        let mut inherited = match predecessor {
            Some(predecessor) => predecessor.sockets().await?,
            None => Inherited::default(),
        };
        let mut clients = Vec::new();
        for settings in &config.server.listeners {
            clients.push(Listener::bind(settings, &mut inherited)?);
        }
        let mut plain = |address: Option<SocketAddr>| {
            address.map(|address| Listener::bind_plain(address, &mut inherited)).transpose()
        };
        let admin = plain(config.admin.as_ref().map(|admin| admin.address))?;
        let judging = plain(config.forward_auth.as_ref().map(|judge| judge.address))?;
        Ok(Self { clients, admin, judging })
    }

    fn all(&self) -> impl Iterator<Item = &Listener> {
        self.clients.iter().chain(&self.admin).chain(&self.judging)
    }
}

/// Waits until this process could take traffic.
async fn until_ready(parts: &Parts) -> Result<(), StartError> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        let missing = parts().into_iter().find_map(|part| match part.state {
            PartState::Waiting(what) => Some(format!("{} waits for {what}", part.name)),
            PartState::Ready | PartState::Impaired(_) => None,
        });
        match missing {
            None => return Ok(()),
            Some(missing) if Instant::now() >= until => return Err(StartError::NotReady(missing)),
            Some(_) => tokio::time::sleep(READY_LOOK).await,
        }
    }
}

/// Serves until a signal comes, or a new process has taken over: then `true`.
async fn until_told(
    signals: &mut Signals,
    giver: Option<Giver>,
    accepting: &mut JoinSet<()>,
) -> Result<bool, StartError> {
    let relieved = async {
        match giver {
            Some(giver) => keep_up(Place::Handover, giver, |giver| Box::pin(giver.give())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.stop() => Ok(false),
        () = relieved => Ok(true),
        // Accepting ends only on our word; anything else is a fault, and a deaf process helps nobody.
        Some(_) = accepting.join_next() => Err(StartError::ListenerLost),
    }
}

/// Says how everything stands that the gateway needs before it takes traffic.
type Parts = Box<dyn Fn() -> Vec<Part> + Send + Sync>;

fn parts(
    unready: &Arc<AtomicBool>,
    resolving: AbortHandle,
    sessions: Option<&Sessions>,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    clock: &Arc<dyn Clock>,
) -> Parts {
    let (unready, serving, now) = (Arc::clone(unready), Arc::clone(snapshot), Arc::clone(clock));
    let sessions_part = sessions.map(Sessions::part);
    Box::new(move || {
        let stopping = unready.load(Ordering::Relaxed).then(|| PartState::Waiting("stopping".to_owned()));
        let addresses = || PartState::Waiting("the addresses of upstreams".to_owned());
        let starting = || (!resolving.is_finished()).then(addresses);
        let state = stopping.or_else(starting).unwrap_or(PartState::Ready);
        let gateway = Part { name: "gateway".to_owned(), state };
        let snapshot = serving.load();
        let issuers = snapshot.verifier().key_sets().map(|keys| key_sets::part(keys, now.now()));
        std::iter::once(gateway).chain(sessions_part.as_ref().map(|part| part())).chain(issuers).collect()
    })
}

/// The admin side: what must be ready, and the gauges that are read off something. It answers to the very end, so
/// that a balancer sees why nothing else does.
fn admin(
    metrics: &Metrics,
    parts: Parts,
    sessions: Option<&Sessions>,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    clock: &Arc<dyn Clock>,
    revoker: Option<Revoker>,
) -> Admin {
    let gauges = sessions.map(Sessions::gauges);
    let (clock, snapshot) = (Arc::clone(clock), Arc::clone(snapshot));
    let before_scrape = move |metrics: &Metrics| {
        let now = clock.now();
        for keys in snapshot.load().verifier().key_sets() {
            if let Some(age) = keys.age(now) {
                metrics.key_set_age(keys.name(), age);
            }
        }
        if let Some(gauges) = &gauges {
            gauges(metrics, now);
        }
    };
    Admin::new(metrics.clone(), parts, Box::new(before_scrape), revoker)
}

/// Every panic is told and counted. Not what it says: that may quote a request.
fn count_panics(metrics: Metrics) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = Place::here();
        metrics.panicked(place);
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place = place.as_str(), at, "a panic was contained; please report it");
    }));
}
