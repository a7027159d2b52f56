//! The proxy itself: the phases of a request, and what they need.

mod admission;
mod context;
mod denial;
pub mod engine;
mod guard;
pub mod headers;
pub mod listener;
mod outgoing;
pub mod path;
mod proxy;
mod report;
mod respond;
mod returned;
pub mod route;
pub mod settings;
pub mod snapshot;
mod tcp;
mod tls;
mod unparsed;
pub mod upstream;

use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::session::revocation::{Confirmations, Revocations};
use arc_swap::ArcSwap;
use snapshot::Snapshot;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the gateway knows of its own sessions.
pub struct OwnSessions {
    /// What is known to be ended.
    pub revocations: Arc<Revocations>,
    /// Access tokens seen in use.
    pub confirmations: Arc<Confirmations>,
}

/// The proxy, as Pingora drives it.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    endpoints: Option<Arc<Endpoints>>,
    sessions: Option<OwnSessions>,
    metrics: Metrics,
    endpoint_metrics: report::EndpointMetrics,
    log: AccessLog,
    clock: Arc<dyn Clock>,
    draining: Arc<AtomicBool>,
}

impl Gateway {
    /// Puts the proxy together. `draining` turns true when the gateway is about to stop.
    pub fn new(
        snapshot: Snapshot,
        sessions: Option<(Arc<Endpoints>, OwnSessions)>,
        metrics: Metrics,
        log: AccessLog,
        clock: Arc<dyn Clock>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        let (endpoints, sessions) = sessions.unzip();
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            endpoints,
            sessions,
            endpoint_metrics: report::EndpointMetrics::new(&metrics),
            metrics,
            log,
            clock,
            draining,
        }
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
