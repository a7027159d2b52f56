//! Takes over a changed configuration, or refuses it and goes on with the old one.

use super::StartError;
use super::generation::{self, Workshop};
use super::watch::Watch;
use crate::config::Config;
use crate::gateway::engine;
use crate::gateway::listener::{Certificates, Connections};
use crate::gateway::settings::{ListenerSettings, ShutdownSettings, TlsFiles};
use crate::gateway::snapshot::Snapshot;
use crate::metrics::Metrics;
use crate::panics::{Place, contain, keep_up};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// A running gateway, as far as a reload changes it.
pub(super) struct Running {
    pub(super) path: PathBuf,
    /// The configuration it was started with: what only a restart changes is as it says.
    pub(super) started_with: Config,
    pub(super) workshop: Workshop,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) connections: Arc<Connections>,
    /// The TLS listeners' certificates.
    pub(super) certificates: Vec<Served>,
    /// How to stop, when it comes to that.
    pub(super) shutdown: watch::Sender<ShutdownSettings>,
    pub(super) metrics: Metrics,
}

/// The certificates of the listener at an address, and the files they come from.
pub(super) struct Served {
    address: SocketAddr,
    certificates: Arc<Certificates>,
    files: watch::Sender<Vec<TlsFiles>>,
}

impl Served {
    /// From here on the certificates follow their files.
    ///
    /// # Errors
    /// When the system refuses to hand over SIGHUP.
    pub(super) fn follow(
        settings: &ListenerSettings,
        certificates: Arc<Certificates>,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (files, changed) = watch::channel(settings.tls.clone());
        let watch = Watch::new(paths(&settings.tls))?;
        let address = settings.address;
        let shown = Arc::clone(&certificates);
        let followed = Followed { address, certificates: shown, files: changed, watch, metrics };
        tokio::spawn(keep_up(Place::Certificates, followed, |followed| Box::pin(followed.follow())));
        Ok(Self { address, certificates, files })
    }
}

impl Running {
    /// Reloads when the file changes or SIGHUP comes, for as long as it is polled.
    pub(super) async fn follow(&self, watch: &mut Watch) -> Infallible {
        loop {
            watch.changed().await;
            match contain(Place::Reload, self.reload()).await.unwrap_or_else(|panicked| Err(panicked.into()))
            {
                Ok(config) => {
                    self.metrics.config_reloaded(true);
                    watch.set(files(&self.path, &config));
                }
                Err(error) => {
                    let file = self.path.display();
                    tracing::error!(%file, %error, "the new configuration is refused; the old one stays");
                    self.metrics.config_reloaded(false);
                    // A file that the new one names may come later, or be mended there.
                    if let StartError::Config(errors) = error {
                        watch.add(errors.files);
                    }
                }
            }
        }
    }

    /// All or nothing: what can fail comes before the first change.
    async fn reload(&self) -> Result<Config, StartError> {
        let config = Config::load(&self.path)?;
        engine::check_roots(&config.upstreams)?;
        let serving = self.snapshot.load();
        let snapshot = self.workshop.build(&config, Some(&serving))?;
        Workshop::start(&snapshot, Some(&serving));
        drop(serving);
        // Issuers that are new get the time to give their keys before the first token comes, and names that are new
        // the time to be resolved before the first request does.
        let without = snapshot.verifier().key_sets().filter(|keys| keys.latest().is_none());
        let keys = join_all(without.map(|keys| keys.refresh(None)));
        tokio::join!(keys, generation::reachable(&snapshot));
        let mut renewed = Vec::new();
        for served in &self.certificates {
            let listener = config.server.listeners.iter().find(|listener| listener.address == served.address);
            if let Some(listener) = listener.filter(|listener| !listener.tls.is_empty()) {
                renewed.push((served, &listener.tls, Certificates::read(&listener.tls)?));
            }
        }
        for (served, tls, certificates) in renewed {
            served.certificates.take_over(certificates);
            served.files.send_if_modified(|files| {
                let changed = files != tls;
                files.clone_from(tls);
                changed
            });
        }
        let replaced = self.snapshot.swap(Arc::new(snapshot));
        replaced.verifier().key_sets().for_each(|keys| keys.retire());
        self.connections.set_limits(&config.server.limits);
        self.shutdown.send_replace(config.server.shutdown);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let file = self.path.display();
        tracing::info!(%file, "configuration reloaded");
        let waiting = self.started_with.needs_restart(&config);
        if !waiting.is_empty() {
            let sections = waiting.join(", ");
            tracing::warn!(sections, "these sections have changed and need a restart to take effect");
        }
        Ok(config)
    }
}

/// The files whose change is a change of the configuration.
pub(super) fn files(path: &Path, config: &Config) -> Vec<PathBuf> {
    let mut files = config.files();
    files.push(path.to_owned());
    files
}

/// Certificates and their files, to be followed.
struct Followed {
    address: SocketAddr,
    certificates: Arc<Certificates>,
    files: watch::Receiver<Vec<TlsFiles>>,
    watch: Watch,
    metrics: Metrics,
}

impl Followed {
    /// Replaces a listener's certificates when their files change, for as long as it is polled: a renewal does
    /// not wait for a configuration that is broken elsewhere.
    async fn follow(&mut self) {
        let address = self.address;
        loop {
            tokio::select! {
                () = self.watch.changed() => {}
                // A reload has read the new files already, but a change of the old ones may have come in after it.
                changed = self.files.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.watch.set(paths(&self.files.borrow()));
                }
            }
            let replaced = self.certificates.replace(&self.files.borrow());
            match replaced {
                Ok(()) => tracing::info!(%address, "certificates reloaded"),
                Err(error) => {
                    tracing::error!(%address, %error, "the new certificates are refused; the old ones stay");
                    self.metrics.file_refused();
                }
            }
        }
    }
}

/// All files of some certificates.
fn paths(files: &[TlsFiles]) -> Vec<PathBuf> {
    files.iter().flat_map(|files| [files.certificate.clone(), files.private_key.clone()]).collect()
}
