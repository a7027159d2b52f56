//! The composition root: configuration in, a running gateway out, and its orderly end.

mod key_sets;
mod lifetime;
mod logging;
mod secret_file;
mod sessions;
mod users;

use crate::access_log::AccessLog;
use crate::admin::{Admin, Part, PartState};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigErrors};
use crate::gateway::Gateway;
use crate::gateway::engine::{self, NoRoots};
use crate::gateway::listener::{self, Connections, ListenError, Listener};
use crate::gateway::settings::LogFormat;
use crate::gateway::snapshot::{Snapshot, SnapshotError};
use crate::gateway::upstream::{Upstream, UpstreamError};
use crate::key_set::cache::{Fetching, IssuerKeys, KeyEvent};
use crate::metrics::{Metrics, MetricsError};
use crate::outbound::{Client, OutboundError};
use crate::token::verified_cache::{Lookup, VerifiedCache};
use crate::token::verifier::{IssuerError, Verifier};
use lifetime::Signals;
use pingora_core::apps::HttpServerApp as _;
use sessions::Sessions;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Memory of verified tokens, in bytes.
const VERIFIED_CACHE_BYTES: u64 = 32 * 1024 * 1024;

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
    let result = runtime.block_on(serve(config));
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
async fn serve(config: Config) -> Result<(), StartError> {
    let mut signals = Signals::listen()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new()?;
    count_panics(metrics.clone());
    let log = AccessLog::start(config.log.format == LogFormat::Json, config.log.access, metrics.clone())?;
    let listeners = config.server.listeners.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
    let admin_listener =
        config.admin.as_ref().map(|admin| Listener::bind_plain(admin.address)).transpose()?;

    let sessions = match config.sessions {
        Some(settings) => Some(Sessions::build(settings, &metrics, &clock)?),
        None => None,
    };
    let lookups = metrics.clone();
    let observer = Arc::new(move |lookup: Lookup| lookups.token_cache(lookup == Lookup::Hit));
    let cache = Arc::new(VerifiedCache::new(VERIFIED_CACHE_BYTES, observer));
    let verifier = verifier(&config.issuers, sessions.as_ref(), Arc::clone(&cache), &metrics, &clock)?;
    let mut upstreams = HashMap::new();
    for settings in &config.upstreams {
        let upstream = Arc::new(Upstream::new(settings, metrics.upstream(&settings.name))?);
        tokio::spawn(Arc::clone(&upstream).keep_resolved());
        upstreams.insert(settings.name.clone(), upstream);
    }
    let snapshot = Snapshot::new(
        config.routes.routes(),
        &upstreams,
        config.protected,
        Arc::clone(&verifier),
        sessions.as_ref().map(Sessions::assertions),
        &config.server,
        &metrics,
    )?;

    let draining = Arc::new(AtomicBool::new(false));
    let (stop_accepting, stopped) = watch::channel(false);
    // The admin side answers to the very end, so that a balancer sees why nothing else does.
    let (_admin_stays, admin_stopped) = watch::channel(false);
    if let Some(listener) = admin_listener {
        let admin =
            admin(&metrics, &draining, sessions.as_ref(), verifier.key_sets().cloned().collect(), &clock);
        let connections = Connections::new(&config.server.limits, Arc::clone(&clock), None);
        tokio::spawn(listener::serve(listener, Arc::new(admin), Arc::new(connections), admin_stopped));
    }
    let own = sessions.as_ref().map(|sessions| sessions.serve(cache));
    let gateway =
        Gateway::new(snapshot, own, metrics.clone(), log.clone(), Arc::clone(&clock), Arc::clone(&draining));
    let engine = Arc::new(engine::engine(gateway, &config.server, &config.upstreams)?);
    let connections = Arc::new(Connections::new(&config.server.limits, clock, Some(metrics)));
    let mut accepting = tokio::task::JoinSet::new();
    for (listener, settings) in listeners.into_iter().zip(&config.server.listeners) {
        tracing::info!(address = %settings.address, tls = settings.tls.is_some(), "listening");
        accepting.spawn(listener::serve(
            listener,
            Arc::clone(&engine),
            Arc::clone(&connections),
            stopped.clone(),
        ));
    }

    tokio::select! {
        () = signals.stop() => {}
        // Accepting ends only on our word; anything else is a fault, and a deaf process helps nobody.
        Some(_) = accepting.join_next() => return Err(StartError::ListenerLost),
    }
    let drop_idle = async { engine.http_cleanup().await };
    let drain = config.server.shutdown;
    lifetime::wind_down(drain, &mut signals, &draining, &stop_accepting, &connections, drop_idle).await;
    if let Some(sessions) = &sessions {
        sessions.finish().await;
    }
    log.flush();
    tracing::info!("stopped");
    Ok(())
}

fn verifier(
    issuers: &[crate::token::verifier::IssuerSettings],
    sessions: Option<&Sessions>,
    cache: Arc<VerifiedCache>,
    metrics: &Metrics,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Verifier>, StartError> {
    let fetches = metrics.clone();
    let fetching = Fetching {
        clock: Arc::clone(clock),
        client: Client::new()?,
        runtime: tokio::runtime::Handle::current(),
        observer: Arc::new(move |event: KeyEvent<'_>| key_sets::tell(&fetches, &event)),
    };
    let own = sessions.map(Sessions::issuer);
    let verifier = Arc::new(Verifier::new(issuers.to_vec(), own, &fetching, cache, None)?);
    for keys in verifier.key_sets() {
        tokio::spawn(Arc::clone(keys).keep_fresh());
    }
    Ok(verifier)
}

/// The admin side: what must be ready, and the gauges that are read off something.
fn admin(
    metrics: &Metrics,
    draining: &Arc<AtomicBool>,
    sessions: Option<&Sessions>,
    key_sets: Vec<Arc<IssuerKeys>>,
    clock: &Arc<dyn Clock>,
) -> Admin {
    let draining = Arc::clone(draining);
    let state = move || {
        if draining.load(Ordering::Relaxed) {
            return PartState::Waiting("stopping".to_owned());
        }
        PartState::Ready
    };
    let mut parts = vec![Part { name: "gateway".to_owned(), state: Box::new(state) }];
    parts.extend(sessions.map(Sessions::part));
    parts.extend(key_sets.iter().map(|keys| key_sets::part(keys, clock)));
    let gauges = sessions.map(Sessions::gauges);
    let clock = Arc::clone(clock);
    let before_scrape = move |metrics: &Metrics| {
        let now = clock.now();
        for keys in &key_sets {
            if let Some(age) = keys.age(now) {
                metrics.key_set_age(keys.name(), age);
            }
        }
        if let Some(gauges) = &gauges {
            gauges(metrics, now);
        }
    };
    Admin::new(metrics.clone(), parts, Box::new(before_scrape))
}

/// A panic is a bug: it is told and counted, and ends no more than its own task.
fn count_panics(metrics: Metrics) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic was contained; please report it");
    }));
}
