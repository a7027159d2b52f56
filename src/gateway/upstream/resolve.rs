//! Names become addresses in the background: no request waits for DNS.

use super::super::settings::EndpointSettings;
use super::{Target, Upstream};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How often names are resolved again, and how soon after a failure.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
const RESOLVE_RETRY: Duration = Duration::from_secs(1);

impl Upstream {
    /// Resolves the names among the endpoints again and again, for as long as somebody else holds the
    /// upstream. A name that fails keeps the addresses it had.
    pub async fn keep_resolved(self: Arc<Self>) {
        let endpoints = self.settings.endpoints.clone();
        let upstream = Arc::downgrade(&self);
        drop(self);
        if endpoints.iter().all(|endpoint| literal(endpoint).is_some()) {
            return;
        }
        let mut known: Vec<Vec<SocketAddr>> = vec![Vec::new(); endpoints.len()];
        let mut failing = vec![false; endpoints.len()];
        while let Some(this) = upstream.upgrade() {
            let mut wait = RESOLVE_EVERY;
            for ((endpoint, known), failing) in endpoints.iter().zip(&mut known).zip(&mut failing) {
                match resolve(endpoint).await {
                    Ok(addresses) if !addresses.is_empty() => {
                        *known = addresses;
                        *failing = false;
                    }
                    failed => {
                        wait = RESOLVE_RETRY;
                        // Told once, not once per attempt.
                        if !std::mem::replace(failing, true) {
                            let error =
                                failed.err().map_or_else(|| "no address".to_owned(), |e| e.to_string());
                            let host = endpoint.host.as_str();
                            tracing::warn!(upstream = this.name(), host, error, "cannot resolve a name");
                        }
                    }
                }
            }
            this.install(known.clone());
            drop(this);
            tokio::time::sleep(wait).await;
        }
    }

    pub(super) fn install(&self, addresses: Vec<Vec<SocketAddr>>) {
        let flat = addresses.into_iter().enumerate();
        let flat = flat
            .flat_map(|(endpoint, list)| list.into_iter().map(move |address| Target { address, endpoint }));
        let targets: Vec<_> = flat.collect();
        if **self.targets.load() != targets {
            self.targets.store(Arc::new(targets));
        }
    }
}

pub(super) fn literal(endpoint: &EndpointSettings) -> Option<SocketAddr> {
    endpoint.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, endpoint.port))
}

async fn resolve(endpoint: &EndpointSettings) -> std::io::Result<Vec<SocketAddr>> {
    match literal(endpoint) {
        Some(address) => Ok(vec![address]),
        None => Ok(tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await?.collect()),
    }
}
