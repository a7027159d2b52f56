//! Names become addresses in the background: no request waits for DNS.

use super::super::settings::EndpointSettings;
use super::health::Health;
use super::{Target, Upstream, balance};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How often names are resolved again, and how soon after a failure.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
const RESOLVE_RETRY: Duration = Duration::from_secs(1);

/// An address of documentation (RFC 5737).
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0));

impl Upstream {
    /// Resolves the names among the endpoints again and again, for as long as somebody else holds the
    /// upstream. A name that fails keeps the addresses it had.
    pub async fn keep_resolved(self: Arc<Self>) {
        let endpoints = self.settings.endpoints.clone();
        let mut known: Vec<_> = endpoints.iter().map(|endpoint| self.addresses(endpoint)).collect();
        let upstream = Arc::downgrade(&self);
        drop(self);
        if endpoints.iter().all(|endpoint| literal(endpoint).is_some()) {
            return;
        }
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

    /// Takes an address that leads nowhere for each endpoint that has none: for a gateway that is only tried.
    pub fn pretend_resolved(&self) {
        let known = |endpoint| match self.addresses(endpoint) {
            none if none.is_empty() => vec![SocketAddr::new(NOWHERE, endpoint.port)],
            addresses => addresses,
        };
        self.install(self.settings.endpoints.iter().map(known).collect());
    }

    /// The addresses that an endpoint with this host and port has now.
    pub(super) fn addresses(&self, endpoint: &EndpointSettings) -> Vec<SocketAddr> {
        let same = |own: &EndpointSettings| (&own.host, own.port) == (&endpoint.host, endpoint.port);
        let Some(at) = self.settings.endpoints.iter().position(same) else { return Vec::new() };
        let targets = self.targets.load();
        targets.iter().filter(|target| target.endpoint == at).map(|target| target.address).collect()
    }

    /// Takes these addresses, by endpoint, as the targets; one that is known keeps its health.
    pub(super) fn install(&self, addresses: Vec<Vec<SocketAddr>>) {
        let before = self.targets.load();
        let place = |(endpoint, list): (usize, Vec<SocketAddr>)| {
            list.into_iter().map(move |address| (endpoint, address))
        };
        let mut targets: Vec<Arc<Target>> = Vec::new();
        for (endpoint, address) in addresses.into_iter().enumerate().flat_map(place) {
            let same = |target: &&Arc<Target>| target.endpoint == endpoint && target.address == address;
            if targets.iter().any(|target| same(&target)) {
                continue;
            }
            targets.push(before.iter().find(same).cloned().unwrap_or_else(|| {
                let host =
                    self.settings.endpoints.get(endpoint).map_or("", |endpoint| endpoint.host.as_str());
                let name = balance::hash([host.as_bytes(), address.to_string().as_bytes()]);
                Arc::new(Target { address, endpoint, name, health: Health::new() })
            }));
        }
        let same = before.len() == targets.len()
            && before.iter().zip(&targets).all(|(before, target)| Arc::ptr_eq(before, target));
        if !same {
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
