//! Names become addresses in the background: no request waits for DNS.

use super::super::settings::EndpointSettings;
use super::health::Health;
use super::idle::Idle;
use super::{Target, Upstream, balance};
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
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
    /// upstream. A name that fails, or that nobody knows any more, keeps the addresses it had.
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
            let asked = endpoints.iter().zip(&known);
            let found = join_all(asked.map(|(endpoint, known)| resolve(endpoint, servers, known))).await;
            for (((endpoint, found), known), failing) in
                endpoints.iter().zip(found).zip(&mut known).zip(&mut failing)
            {
                wait = wait.min(found.good_for.max(SOONEST));
                *known = found.addresses;
                // Told once, not once per attempt.
                let told = std::mem::replace(failing, found.trouble.is_some());
                if let Some(error) = found.trouble.filter(|_| !told) {
                    let host = endpoint.host.as_str();
                    tracing::warn!(upstream = this.name(), host, error, "cannot resolve a name");
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
                Arc::new(Target { address, endpoint, name, health: Health::new(), idle: Idle::default() })
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

/// What a name is reached at from now on.
struct Found {
    addresses: Vec<SocketAddr>,
    good_for: Duration,
    /// Why some of the addresses, or all, are the ones that were known.
    trouble: Option<String>,
}

async fn resolve(endpoint: &EndpointSettings, servers: &[SocketAddr], known: &[SocketAddr]) -> Found {
    if let Some(address) = literal(endpoint) {
        return Found { addresses: vec![address], good_for: LATEST, trouble: None };
    }
    let error = match ask(endpoint, servers, known).await {
        Ok(found) => return found,
        // What no DNS server knows, another of the system's sources may: multicast, a directory, a container's own.
        Err(_) if servers.is_empty() => {
            match tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await.map(Vec::from_iter) {
                Ok(addresses) if addresses.is_empty() => "no address".to_owned(),
                Ok(addresses) => return Found { addresses, good_for: UNTOLD, trouble: None },
                Err(error) => error.to_string(),
            }
        }
        Err(error) => error.to_string(),
    };
    Found { addresses: known.to_vec(), good_for: SOONEST, trouble: Some(error) }
}

/// Asks DNS. The library takes the addresses of one family for an answer also when the question for the other
/// family failed. So a family that was known and is not among them is asked for once more, by itself: it goes only
/// on the word that there is none.
async fn ask(
    endpoint: &EndpointSettings,
    servers: &[SocketAddr],
    known: &[SocketAddr],
) -> Result<Found, NetError> {
    let resolver = resolver(servers)?;
    let first = resolver.lookup_ip(endpoint.host.as_str()).await?;
    let mut found = read(first.as_lookup(), endpoint.port);
    for (family, is_ipv4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
        let is_of_it = |address: &&SocketAddr| address.is_ipv4() == is_ipv4;
        let before = known.iter().filter(is_of_it);
        if before.clone().next().is_none() || found.addresses.iter().any(|address| is_of_it(&address)) {
            continue;
        }
        // The name that was found: the search list might lead to another one.
        let Some(query) = first.as_lookup().message().queries.first() else { continue };
        match resolver.lookup(query.name().clone(), family).await {
            Ok(second) => {
                let second = read(&second, endpoint.port);
                found.addresses.extend(second.addresses);
                found.good_for = found.good_for.min(second.good_for);
            }
            Err(error) if error.is_no_records_found() => {}
            Err(error) => {
                found.addresses.extend(before);
                found.good_for = SOONEST;
                found.trouble = Some(format!("{family}: {error}"));
            }
        }
    }
    Ok(found)
}

fn read(answer: &Lookup, port: u16) -> Found {
    let addresses = answer.answers().iter().filter_map(|record| record.data.ip_addr());
    Found {
        addresses: addresses.map(|ip| SocketAddr::new(ip, port)).collect(),
        good_for: answer.valid_until().saturating_duration_since(Instant::now()),
        trouble: None,
    }
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
    // After the first.
    options.attempts = 1;
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build()
}
