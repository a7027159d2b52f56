//! The composition root: configuration in, a running gateway out, and its orderly end.

mod generation;
mod key_sets;
mod lifetime;
mod logging;
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
use crate::config::{Config, ConfigErrors};
use crate::gateway::Gateway;
use crate::gateway::engine::{self, NoRoots};
use crate::gateway::forward_auth::Judge;
use crate::gateway::listener::{self, Connections, ListenError, Listener};
use crate::gateway::settings::LogFormat;
use crate::gateway::snapshot::{Snapshot, SnapshotError};
use crate::gateway::upstream::UpstreamError;
use crate::metrics::{Metrics, MetricsError};
use crate::outbound::{Client, OutboundError};
use crate::token::verifier::IssuerError;
use arc_swap::ArcSwap;
use generation::Workshop;
use lifetime::Signals;
use pingora_core::apps::HttpServerApp as _;
use reload::{Running, Served};
use sessions::Sessions;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
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
    /// Our own sessions cannot be served.
    #[error(transparent)]
    Sessions(#[from] sessions::SessionsError),
    /// The system refuses a thread or a signal handler.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// A part that must not end did.
    #[error("a listener ended unexpectedly; see the log")]
    ListenerLost,
}

/// Runs the gateway with the configuration at `path` until it is told to stop. Blocks; must not be called
/// inside a Tokio runtime.
///
/// # Errors
/// [`StartError`] if it cannot start, or cannot go on.
pub fn run(path: &Path) -> Result<(), StartError> {
    let config = Config::load(path)?;
    logging::start(config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = runtime(config.server.threads)?;
    let result = runtime.block_on(serve(path, config));
    // What still runs now is past its deadline.
    runtime.shutdown_background();
    result
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("portcullis").build()
}

/// Builds everything, binds everything, serves until the signal. Whatever can fail does so before the first
/// connection is accepted.
async fn serve(path: &Path, mut config: Config) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let watch = Watch::new(reload::files(path, &config))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new()?;
    count_panics(metrics.clone());
    let log = AccessLog::start(config.log.format == LogFormat::Json, config.log.access, metrics.clone())?;
    let listeners = config.server.listeners.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
    let admin_listener =
        config.admin.as_ref().map(|admin| Listener::bind_plain(admin.address)).transpose()?;
    let judging =
        config.forward_auth.as_ref().map(|judge| Listener::bind_plain(judge.address)).transpose()?;

    let sessions = match config.sessions.take() {
        Some(settings) => Some(Sessions::build(settings, &metrics, &clock)?),
        None => None,
    };
    let signer = sessions.as_ref().map(Sessions::signer);
    let workshop = Workshop::new(metrics.clone(), &clock, Client::new()?, signer);
    let snapshot = workshop.build(&config, None)?;
    Workshop::start(&snapshot, None);
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));

    let draining = Arc::new(AtomicBool::new(false));
    let (stop_accepting, stopped) = tokio::sync::watch::channel(false);
    // The admin side answers to the very end, so that a balancer sees why nothing else does.
    let (_admin_stays, admin_stopped) = tokio::sync::watch::channel(false);
    let own = sessions.as_ref().map(|sessions| sessions.serve(Arc::clone(workshop.cache())));
    if let Some(listener) = admin_listener {
        let revoker = own.as_ref().and_then(|(endpoints, _)| {
            let token = config.admin.as_ref()?.token.clone()?;
            let (endpoints, clock) = (Arc::clone(endpoints), Arc::clone(&clock));
            Some(Revoker { token, endpoints, log: log.clone(), metrics: metrics.clone(), clock })
        });
        let admin = admin(&metrics, &draining, sessions.as_ref(), &snapshot, &clock, revoker);
        let connections = Connections::new(&config.server.limits, Arc::clone(&clock), None);
        tokio::spawn(listener::serve(listener, Arc::new(admin), Arc::new(connections), admin_stopped));
    }
    let gateway = |own| {
        let (snapshot, clock, draining) = (Arc::clone(&snapshot), Arc::clone(&clock), Arc::clone(&draining));
        Gateway::new(snapshot, own, metrics.clone(), log.clone(), clock, draining)
    };
    let engine = Arc::new(engine::engine(gateway(own.clone()), &config.server, &config.upstreams)?);
    let judge = config
        .forward_auth
        .as_ref()
        .map(|settings| Arc::new(engine::judging(Judge::new(gateway(own), settings.proxy), &config.server)));
    let connections =
        Arc::new(Connections::new(&config.server.limits, Arc::clone(&clock), Some(metrics.clone())));
    let mut accepting = JoinSet::new();
    let mut certificates = Vec::new();
    for (listener, settings) in listeners.into_iter().zip(&config.server.listeners) {
        tracing::info!(address = %settings.address, tls = !settings.tls.is_empty(), "listening");
        if let Some(shown) = listener.certificates() {
            certificates.push(Served::follow(settings, Arc::clone(shown))?);
        }
        let (engine, connections) = (Arc::clone(&engine), Arc::clone(&connections));
        accepting.spawn(listener::serve(listener, engine, connections, stopped.clone()));
    }
    if let (Some(listener), Some(judge)) = (judging, judge) {
        accepting.spawn(listener::serve(listener, judge, Arc::clone(&connections), stopped.clone()));
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
    let reloading = tokio::spawn(running.follow(watch));

    tokio::select! {
        () = signals.stop() => {}
        // Accepting ends only on our word; anything else is a fault, and a deaf process helps nobody.
        Some(_) = accepting.join_next() => return Err(StartError::ListenerLost),
    }
    reloading.abort();
    let drop_idle = async { engine.http_cleanup().await };
    let drain = *shutdown.borrow();
    lifetime::wind_down(drain, &mut signals, &draining, &stop_accepting, &connections, drop_idle).await;
    if let Some(sessions) = &sessions {
        sessions.finish().await;
    }
    log.flush();
    tracing::info!("stopped");
    Ok(())
}

/// The admin side: what must be ready, and the gauges that are read off something.
fn admin(
    metrics: &Metrics,
    draining: &Arc<AtomicBool>,
    sessions: Option<&Sessions>,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    clock: &Arc<dyn Clock>,
    revoker: Option<Revoker>,
) -> Admin {
    let (draining, serving, now) = (Arc::clone(draining), Arc::clone(snapshot), Arc::clone(clock));
    let sessions_part = sessions.map(Sessions::part);
    let parts = move || {
        let stopping = draining.load(Ordering::Relaxed).then(|| PartState::Waiting("stopping".to_owned()));
        let gateway = Part { name: "gateway".to_owned(), state: stopping.unwrap_or(PartState::Ready) };
        let snapshot = serving.load();
        let issuers = snapshot.verifier().key_sets().map(|keys| key_sets::part(keys, now.now()));
        std::iter::once(gateway).chain(sessions_part.as_ref().map(|part| part())).chain(issuers).collect()
    };
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
    Admin::new(metrics.clone(), Box::new(parts), Box::new(before_scrape), revoker)
}

/// A panic is a bug: it is told and counted, and ends no more than its own task.
fn count_panics(metrics: Metrics) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic was contained; please report it");
    }));
}
