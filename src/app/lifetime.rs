//! From the first signal to the end: readiness off, wait, stop accepting, drain, exit as soon as idle.

use crate::gateway::listener::Connections;
use crate::gateway::settings::ShutdownSettings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The signals the process reacts to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over; from here on none of them ends the process by itself.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits until the process is asked to stop.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Stops serving: `draining` turns readiness off at once, `stop_accepting` closes the listeners after the
/// delay, and then requests in flight have until the drain limit. A second signal ends the waiting.
pub(super) async fn wind_down(
    settings: ShutdownSettings,
    signals: &mut Signals,
    draining: &Arc<AtomicBool>,
    stop_accepting: &watch::Sender<bool>,
    connections: &Connections,
    drop_idle: impl Future<Output = ()>,
) {
    draining.store(true, Ordering::Relaxed);
    tracing::info!(delay = ?settings.delay, "stopping: no longer ready");
    let orderly = async {
        tokio::time::sleep(settings.delay).await;
        stop_accepting.send_replace(true);
        drop_idle.await;
        tracing::info!(connections = connections.open(), "stopping: no longer accepting, draining");
        if tokio::time::timeout(settings.drain, connections.drained()).await.is_err() {
            tracing::warn!(
                connections = connections.open(),
                "the drain limit has passed; closing what is left"
            );
        }
    };
    tokio::select! {
        () = orderly => {}
        () = signals.stop() => tracing::warn!("a second signal: stopping at once"),
    }
}
