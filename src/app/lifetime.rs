//! From the first signal to the end: readiness off, wait, stop accepting, drain, exit as soon as idle.

use crate::gateway::listener::Connections;
use crate::gateway::settings::ShutdownSettings;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long a connection without a request is kept while the gateway stops: what is sent on it in that time is
/// answered, with word that the connection ends. Whoever stops the gateway waits for that; after a hand-over nobody
/// does.
pub(super) const LINGER: Duration = Duration::from_millis(500);
pub(super) const LINGER_RELIEVED: Duration = Duration::from_secs(5);

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

/// Stops serving. `draining` is set at once: from then on each answer says that its connection ends. After the delay `stop_accepting` closes the listeners. Then idle connections have until `linger`, and
/// requests in flight until the drain limit; the last one ends the waiting, and so does a second signal.
pub(super) async fn wind_down(
    settings: ShutdownSettings,
    linger: Duration,
    signals: &mut Signals,
    draining: &Arc<AtomicBool>,
    stop_accepting: &watch::Sender<bool>,
    connections: &Connections,
    drop_idle: impl Future<Output = ()>,
) {
    draining.store(true, Ordering::Relaxed);
    tracing::info!(delay = ?settings.delay, "stopping");
    let orderly = async {
        tokio::time::sleep(settings.delay).await;
        stop_accepting.send_replace(true);
        tracing::info!(connections = connections.open(), "stopping: no longer accepting, draining");
        let drained = async {
            let _ = tokio::time::timeout(linger, connections.drained()).await;
            connections.drop_unopened();
            drop_idle.await;
            connections.drained().await;
        };
        if tokio::time::timeout(settings.drain, drained).await.is_err() {
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
