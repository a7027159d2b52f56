//! Names become addresses in the background: no request waits for DNS.

use super::super::settings::EndpointSettings;
use super::health::Health;
use super::{Target, Upstream, balance};
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A name is resolved again when its time to live ends, but no sooner than this, nor when it failed.
const SOONEST: Duration = Duration::from_secs(1);
/// Nor later than this: names in `/etc/hosts` have no time to live.
const LATEST: Duration = Duration::from_secs(60);
/// How soon what only the system's resolver knows is asked for again: it tells no time to live.
const UNTOLD: Duration = Duration::from_secs(10);
/// For the whole answer of a server; one that is silent is asked twice.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

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
            let mut wait = LATEST;
            let servers = &this.settings.resolvers;
            let found = join_all(endpoints.iter().map(|endpoint| resolve(endpoint, servers))).await;
            for (((endpoint, found), known), failing) in
                endpoints.iter().zip(found).zip(&mut known).zip(&mut failing)
            {
                match found {
                    Ok(found) => {
                        wait = wait.min(found.good_for.max(SOONEST));
                        *known = found.addresses;
                        *failing = false;
                    }
                    Err(error) => {
                        wait = SOONEST;
                        // Told once, not once per attempt.
                        if !std::mem::replace(failing, true) {
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

    /// Waits until there is an address to send requests to, at most for `limit`.
    pub async fn reachable(&self, limit: Duration) {
        let found = async {
            loop {
                let installed = self.installed.notified();
                if !self.targets.load().is_empty() {
                    return;
                }
                installed.await;
            }
        };
        // A name that nobody knows holds up nothing for longer.
        let _ = tokio::time::timeout(limit, found).await;
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
            self.installed.notify_waiters();
        }
    }
}

pub(super) fn literal(endpoint: &EndpointSettings) -> Option<SocketAddr> {
    endpoint.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, endpoint.port))
}

/// At least one address, and how long it is good for.
struct Found {
    addresses: Vec<SocketAddr>,
    good_for: Duration,
}

async fn resolve(endpoint: &EndpointSettings, servers: &[SocketAddr]) -> Result<Found, String> {
    if let Some(address) = literal(endpoint) {
        return Ok(Found { addresses: vec![address], good_for: LATEST });
    }
    let found = ask(endpoint, servers).await;
    // What no DNS server knows, another of the system's sources may: multicast, a directory, a container's own.
    match found {
        Err(_) if servers.is_empty() => {
            let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
            let addresses: Vec<_> = found.map_err(|error| error.to_string())?.collect();
            if addresses.is_empty() {
                Err("no address".to_owned())
            } else {
                Ok(Found { addresses, good_for: UNTOLD })
            }
        }
        found => found.map_err(|error| error.to_string()),
    }
}

async fn ask(endpoint: &EndpointSettings, servers: &[SocketAddr]) -> Result<Found, NetError> {
    let found = resolver(servers)?.lookup_ip(endpoint.host.as_str()).await?;
    let good_for = found.valid_until().saturating_duration_since(Instant::now());
    let addresses = found.iter().map(|ip| SocketAddr::new(ip, endpoint.port)).collect();
    Ok(Found { addresses, good_for })
}

/// A resolver for one question: `/etc/resolv.conf` and `/etc/hosts` may have changed since the last. It finds at
/// least one address or fails.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let server = |address: &SocketAddr| {
            let way = |mut way: ConnectionConfig| {
                way.port = address.port();
                way
            };
            let ways = vec![way(ConnectionConfig::udp()), way(ConnectionConfig::tcp())];
            NameServerConfig::new(address.ip(), true, ways)
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.timeout = DNS_TIMEOUT;
    options.attempts = 2;
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}
