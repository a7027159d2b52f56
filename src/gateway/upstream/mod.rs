//! Upstreams: names resolved in the background, a healthy target picked per attempt, every timeout explicit.

mod balance;
mod check;
mod health;
mod idle;
mod resolve;
mod trust;

pub(super) use balance::Order;
pub(super) use idle::Room;
use trust::Trust;
pub use trust::UpstreamError;

use health::Health;
use idle::Idle;

use super::settings::{Balance, EndpointSettings, HostHeader, Scheme, UpstreamSettings, UpstreamTimeouts};
use crate::clock::random_bytes;
use crate::metrics::UpstreamMetrics;
use crate::token::claims::VerifiedClaims;
use arc_swap::ArcSwap;
use pingora_core::upstreams::peer::HttpPeer;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// HTTP/2 streams on one connection to an upstream.
const UPSTREAM_H2_STREAMS: usize = 100;

/// One address of an upstream, ready to connect to, and what is known of its health.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    endpoint: usize,
    /// What it is called where keys choose among targets.
    name: u64,
    health: Health,
    idle: Idle,
}

/// An upstream and the addresses it is reached at now.
pub struct Upstream {
    settings: UpstreamSettings,
    targets: ArcSwap<Vec<Arc<Target>>>,
    /// Told when there are others.
    installed: Notify,
    next: AtomicUsize,
    trust: Trust,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// Prepares an upstream; endpoints that are names have the addresses they had in `previous`, else none until
    /// they were resolved.
    ///
    /// # Errors
    /// [`UpstreamError`] when a file of `tls` holds something that cannot be used.
    pub fn new(
        settings: &UpstreamSettings,
        metrics: UpstreamMetrics,
        previous: Option<&Self>,
    ) -> Result<Self, UpstreamError> {
        let upstream = Self {
            settings: settings.clone(),
            targets: ArcSwap::default(),
            installed: Notify::new(),
            next: AtomicUsize::new(0),
            trust: Trust::new(&settings.name, settings.tls.as_ref())?,
            metrics,
        };
        let known = |endpoint| match resolve::literal(endpoint) {
            Some(address) => vec![address],
            None => previous.map(|previous| previous.addresses(endpoint)).unwrap_or_default(),
        };
        upstream.install(settings.endpoints.iter().map(known).collect());
        Ok(upstream)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What it was made of.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.settings
    }

    /// How often a failed idempotent request is tried again.
    pub(super) fn retries(&self) -> usize {
        self.settings.retries
    }

    /// Where upstream times are observed.
    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// How one request orders the targets, for all its attempts: `claims` are the verified caller's.
    pub(super) fn draw(&self, claims: Option<&VerifiedClaims>, client: IpAddr) -> Order {
        let turn = || self.next.fetch_add(1, Ordering::Relaxed);
        match self.settings.balance {
            Balance::RoundRobin => Order::Turn(turn()),
            // Without randomness turns are as fair.
            Balance::Random => Order::Turn(random_bytes().map_or_else(|_| turn(), usize::from_ne_bytes)),
            Balance::ConsistentHash => Order::Key(match claims {
                Some(claims) => balance::caller_key(claims.issuer(), claims.subject()),
                None => balance::address_key(client),
            }),
        }
    }

    /// The target of the next attempt; `None` while no name could be resolved.
    ///
    /// A healthy target that was not `tried`, else a healthy one again. If none is healthy, health is ignored:
    /// the fault may lie in the check or between us and it, a wrong guess costs an error that there would be
    /// anyway, and what is left of the upstream is not buried under all requests (Envoy calls it panic mode).
    pub(super) fn target(&self, order: Order, tried: &[Arc<Target>], now: Instant) -> Option<Arc<Target>> {
        let targets = self.targets.load();
        let healthy = |target: &&Arc<Target>| target.health.admits(now);
        let fresh = |target: &&Arc<Target>| !tried.iter().any(|one| Arc::ptr_eq(one, target));
        let name = |target: &Arc<Target>| target.name;
        // As often as another request may be quicker to try a target.
        for _ in 0..targets.len() {
            let chosen = order.choose(targets.iter().filter(healthy).filter(fresh), name);
            let Some(chosen) = chosen.or_else(|| order.choose(targets.iter().filter(healthy), name)) else {
                break;
            };
            if chosen.health.enter(now) {
                return Some(Arc::clone(chosen));
            }
        }
        let any = order.choose(targets.iter().filter(fresh), name);
        any.or_else(|| order.choose(targets.iter(), name)).cloned()
    }

    /// Whether there is a healthy target besides `one` and those that were `tried`.
    pub(super) fn has_another(&self, one: &Arc<Target>, tried: &[Arc<Target>]) -> bool {
        let now = Instant::now();
        let known = |target: &Arc<Target>| tried.iter().chain([one]).any(|known| Arc::ptr_eq(known, target));
        self.targets.load().iter().any(|target| target.health.admits(now) && !known(target))
    }

    /// A target answered a request that was sent there at `picked`.
    pub(super) fn answered(&self, target: &Target, picked: Instant) {
        if target.health.answered(picked) {
            tracing::info!(upstream = self.name(), target = %target.address, "a target answers again");
        }
    }

    /// A request that was sent to a target at `picked` found no working connection.
    pub(super) fn failed(&self, target: &Target, picked: Instant) {
        if let Some(length) = target.health.failed(picked, Instant::now()) {
            let (upstream, seconds) = (self.name(), length.as_secs());
            tracing::warn!(upstream, target = %target.address, seconds, "a target fails and gets no requests for a while");
        }
    }

    /// The peer for one attempt, with the route's timeouts.
    pub(super) fn peer(&self, target: &Target, timeouts: &UpstreamTimeouts) -> HttpPeer {
        let settings = &self.settings;
        let endpoint = settings.endpoints.get(target.endpoint);
        let tls = endpoint.is_some_and(|endpoint| endpoint.scheme == Scheme::Https);
        let server_name = settings.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
        let name = match (server_name, endpoint) {
            (Some(name), _) => name.clone(),
            (None, Some(endpoint)) if tls => endpoint.host.clone(),
            _ => String::new(),
        };
        // A socket address needs no resolution, so this neither blocks nor fails.
        let mut peer = HttpPeer::new(target.address, tls, name);
        peer.group_key = self.trust.group;
        peer.client_cert_key.clone_from(&self.trust.identity);
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.read);
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.idle);
        options.ca.clone_from(&self.trust.ca);
        options.http_upstream_request_policy =
            pingora_core::upstreams::peer::HttpUpstreamRequestPolicy::deny_upgrades();
        if settings.http2 {
            if tls {
                options.set_http_version(2, 1);
            } else {
                options.set_http_version(2, 2);
            }
            options.max_h2_streams = UPSTREAM_H2_STREAMS;
        }
        peer
    }

    /// The `Host` to send instead of the client's; `None` keeps the client's.
    pub(super) fn host(&self, target: &Target) -> Option<String> {
        match &self.settings.host {
            HostHeader::Preserve => None,
            HostHeader::Literal(host) => Some(host.clone()),
            HostHeader::Upstream => self.settings.endpoints.get(target.endpoint).map(authority),
        }
    }
}

/// The authority of an endpoint, without the scheme's own port (RFC 9110 section 4.2.3).
fn authority(endpoint: &EndpointSettings) -> String {
    let host =
        if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    match (endpoint.scheme, endpoint.port) {
        (Scheme::Http, 80) | (Scheme::Https, 443) => host,
        (_, port) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::CaBundle;
    use super::*;
    use crate::metrics::Metrics;
    use std::time::Duration;

    fn settings(endpoints: &[(&str, u16)]) -> UpstreamSettings {
        let second = Duration::from_secs(1);
        UpstreamSettings {
            name: "u".to_owned(),
            endpoints: endpoints
                .iter()
                .map(|(host, port)| EndpointSettings {
                    scheme: Scheme::Http,
                    host: (*host).to_owned(),
                    port: *port,
                })
                .collect(),
            balance: Balance::RoundRobin,
            timeouts: UpstreamTimeouts { connect: second, read: second, write: second, idle: second },
            retries: 1,
            http2: false,
            tls: None,
            host: HostHeader::Upstream,
            health_check: None,
            resolvers: Vec::new(),
        }
    }

    fn upstream(settings: &UpstreamSettings) -> Upstream {
        Upstream::new(settings, Metrics::new().unwrap().upstream("u"), None).unwrap()
    }

    fn draw(upstream: &Upstream) -> Order {
        upstream.draw(None, IpAddr::from([192, 0, 2, 1]))
    }

    /// Fails until the target is out.
    fn put_out(upstream: &Upstream, target: &Target) {
        let now = Instant::now();
        while target.health.admits(now) {
            upstream.failed(target, now);
        }
    }

    #[test]
    fn the_healthy_share_the_requests_of_one_that_is_out_equally() {
        let upstream = upstream(&settings(&[("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)]));
        let out = upstream.target(draw(&upstream), &[], Instant::now()).unwrap();
        put_out(&upstream, &out);
        let mut hits = [0; 4];
        for _ in 0..100 {
            let target = upstream.target(draw(&upstream), &[], Instant::now()).unwrap();
            hits[usize::from(target.address.port())] += 1;
        }
        hits.sort_unstable();
        assert_eq!(hits, [0, 0, 50, 50]);
    }

    #[test]
    fn when_none_is_healthy_health_is_ignored() {
        let upstream = upstream(&settings(&[("127.0.0.1", 1), ("127.0.0.1", 2)]));
        for target in upstream.targets.load().iter() {
            put_out(&upstream, target);
        }
        let (one, two) = (draw(&upstream), draw(&upstream));
        let first = upstream.target(one, &[], Instant::now()).unwrap();
        assert_ne!(first.address, upstream.target(two, &[], Instant::now()).unwrap().address);
        assert_ne!(
            first.address,
            upstream.target(one, &[Arc::clone(&first)], Instant::now()).unwrap().address
        );
    }

    #[test]
    fn a_target_that_is_resolved_again_keeps_its_health() {
        let upstream = upstream(&settings(&[("backend.invalid", 1)]));
        let address = |last: u8| SocketAddr::from(([192, 0, 2, last], 1));
        upstream.install(vec![vec![address(1), address(2)]]);
        let first = Arc::clone(&upstream.targets.load()[0]);
        put_out(&upstream, &first);
        upstream.install(vec![vec![address(3), address(1)]]);
        assert!(Arc::ptr_eq(&first, &upstream.targets.load()[1]));
        for _ in 0..4 {
            assert_eq!(upstream.target(draw(&upstream), &[], Instant::now()).unwrap().address, address(3));
        }
    }

    #[test]
    fn one_caller_goes_to_one_target_wherever_from() {
        let mut settings = settings(&[("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)]);
        settings.balance = Balance::ConsistentHash;
        let (one, other) = (upstream(&settings), upstream(&settings));
        let mut used = std::collections::HashSet::new();
        for n in 0..40 {
            let claims = VerifiedClaims::sample("gateway", &serde_json::json!({ "sub": format!("u{n}") }));
            let here = one.draw(Some(&claims), IpAddr::from([192, 0, 2, n]));
            let there = other.draw(Some(&claims), IpAddr::from([198, 51, 100, n]));
            let target = one.target(here, &[], Instant::now()).unwrap();
            assert_eq!(target.address, other.target(there, &[], Instant::now()).unwrap().address);
            let second = one.target(here, &[Arc::clone(&target)], Instant::now()).unwrap();
            put_out(&other, &other.target(there, &[], Instant::now()).unwrap());
            assert_eq!(
                other.target(there, &[], Instant::now()).unwrap().address,
                second.address,
                "the next in the ranking"
            );
            for target in other.targets.load().iter() {
                other.answered(target, Instant::now());
            }
            used.insert(target.address);
        }
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn round_robin_takes_turns_and_a_retry_goes_to_another_endpoint() {
        let upstream = upstream(&settings(&[("127.0.0.1", 1), ("127.0.0.1", 2)]));
        let first = upstream.target(draw(&upstream), &[], Instant::now()).unwrap();
        let order = draw(&upstream);
        let second = upstream.target(order, &[], Instant::now()).unwrap();
        assert_ne!(first.address.port(), second.address.port());
        let third = upstream.target(order, &[Arc::clone(&second)], Instant::now()).unwrap();
        assert_ne!(third.address.port(), second.address.port());
        assert!(upstream.has_another(&first, &[]) && !upstream.has_another(&first, &[second]));
    }

    #[test]
    fn every_timeout_of_a_peer_is_set() {
        let upstream = upstream(&settings(&[("127.0.0.1", 1)]));
        let peer = upstream
            .peer(&upstream.target(draw(&upstream), &[], Instant::now()).unwrap(), &settings(&[]).timeouts);
        let options = &peer.options;
        for timeout in [
            options.connection_timeout,
            options.total_connection_timeout,
            options.read_timeout,
            options.write_timeout,
            options.idle_timeout,
        ] {
            assert_eq!(timeout, Some(Duration::from_secs(1)));
        }
    }

    #[test]
    fn an_unresolved_name_has_no_target_and_does_not_panic() {
        let upstream = upstream(&settings(&[("backend.invalid", 80)]));
        assert!(upstream.target(draw(&upstream), &[], Instant::now()).is_none());
    }

    #[tokio::test]
    async fn a_name_has_the_addresses_it_had_in_the_configuration_before_and_keeps_them_if_it_fails() {
        let before = upstream(&settings(&[("a.invalid", 80), ("b.invalid", 80), ("c.invalid", 80)]));
        let address = |last| SocketAddr::from(([192, 0, 2, last], 80));
        before.install(vec![vec![address(1)], vec![address(2), address(3)], vec![address(4)]]);
        let changed = UpstreamSettings { retries: 0, ..settings(&[("b.invalid", 80), ("c.invalid", 81)]) };
        let after = Upstream::new(&changed, Metrics::new().unwrap().upstream("u"), Some(&before)).unwrap();
        let after = Arc::new(after);
        let known = || {
            let targets = after.targets.load();
            targets.iter().map(|target| (target.endpoint, target.address)).collect::<Vec<_>>()
        };
        assert_eq!(known(), [(0, address(2)), (0, address(3))]);
        let resolving = Arc::clone(&after).keep_resolved();
        let _ = tokio::time::timeout(Duration::from_millis(500), resolving).await;
        assert_eq!(known(), [(0, address(2)), (0, address(3))]);
    }

    #[test]
    fn the_authority_leaves_out_the_default_port_and_brackets_ipv6() {
        let endpoint =
            |scheme, host: &str, port| authority(&EndpointSettings { scheme, host: host.into(), port });
        assert_eq!(endpoint(Scheme::Https, "a.example", 443), "a.example");
        assert_eq!(endpoint(Scheme::Http, "a.example", 8080), "a.example:8080");
        assert_eq!(endpoint(Scheme::Http, "::1", 80), "[::1]");
    }

    #[test]
    fn a_broken_ca_file_is_an_error_and_not_a_panic() {
        let mut broken = settings(&[("127.0.0.1", 1)]);
        let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
        let ca = Some(CaBundle { path: "ca.pem".into(), pem });
        broken.tls = Some(super::super::settings::UpstreamTls { server_name: None, ca, identity: None });
        let error = Upstream::new(&broken, Metrics::new().unwrap().upstream("u"), None).err().unwrap();
        assert!(error.to_string().starts_with("upstreams.u.tls.ca_file: ca.pem: "), "{error}");
    }
}
