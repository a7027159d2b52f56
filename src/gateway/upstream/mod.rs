//! Upstreams: names resolved in the background, an endpoint picked per attempt, every timeout explicit.

mod resolve;
mod trust;

pub use trust::UpstreamError;

use super::settings::{Balance, EndpointSettings, HostHeader, Scheme, UpstreamSettings, UpstreamTimeouts};
use crate::clock::random_bytes;
use crate::metrics::UpstreamMetrics;
use arc_swap::ArcSwap;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::HttpPeer;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// HTTP/2 streams on one connection to an upstream.
const UPSTREAM_H2_STREAMS: usize = 100;

/// One address of an upstream, ready to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    endpoint: usize,
}

/// An upstream and the addresses it is reached at now.
pub struct Upstream {
    settings: UpstreamSettings,
    targets: ArcSwap<Vec<Target>>,
    next: AtomicUsize,
    ca: Option<Arc<CaType>>,
    /// Keeps connections apart that were verified against different roots: Pingora's pool key leaves the CA out.
    trust: u64,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// Prepares an upstream; endpoints that are names have no address until they were resolved.
    ///
    /// # Errors
    /// [`UpstreamError`] when the CA file holds something other than certificates.
    pub fn new(settings: &UpstreamSettings, metrics: UpstreamMetrics) -> Result<Self, UpstreamError> {
        let bundle = settings.tls.as_ref().and_then(|tls| tls.ca.as_ref());
        let ca = bundle.map(|bundle| trust::certificates(&settings.name, bundle)).transpose()?;
        let mut kept_apart = DefaultHasher::new();
        bundle.map(|bundle| &bundle.pem).hash(&mut kept_apart);
        let upstream = Self {
            settings: settings.clone(),
            targets: ArcSwap::default(),
            next: AtomicUsize::new(0),
            ca,
            trust: kept_apart.finish(),
            metrics,
        };
        let known = settings
            .endpoints
            .iter()
            .map(|endpoint| resolve::literal(endpoint).into_iter().collect())
            .collect();
        upstream.install(known);
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

    /// A place to start in the list of targets, for one request; its attempts count on from there.
    pub(super) fn draw(&self) -> usize {
        let turn = || self.next.fetch_add(1, Ordering::Relaxed);
        match self.settings.balance {
            Balance::RoundRobin => turn(),
            // Without randomness turns are as fair.
            Balance::Random => random_bytes().map_or_else(|_| turn(), usize::from_ne_bytes),
        }
    }

    /// The target of attempt number `attempt`; `None` while no name could be resolved.
    pub(super) fn target(&self, start: usize, attempt: usize) -> Option<Target> {
        let targets = self.targets.load();
        let at = start.wrapping_add(attempt).checked_rem(targets.len())?;
        targets.get(at).cloned()
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
        peer.group_key = self.trust;
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.read);
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.idle);
        options.ca.clone_from(&self.ca);
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
        }
    }

    fn upstream(settings: &UpstreamSettings) -> Upstream {
        Upstream::new(settings, Metrics::new().unwrap().upstream("u")).unwrap()
    }

    #[test]
    fn round_robin_takes_turns_and_a_retry_goes_to_another_endpoint() {
        let upstream = upstream(&settings(&[("127.0.0.1", 1), ("127.0.0.1", 2)]));
        let port = |start, attempt| upstream.target(start, attempt).unwrap().address.port();
        let (first, second) = (upstream.draw(), upstream.draw());
        assert_ne!(port(first, 0), port(second, 0));
        assert_ne!(port(first, 0), port(first, 1));
    }

    #[test]
    fn every_timeout_of_a_peer_is_set() {
        let upstream = upstream(&settings(&[("127.0.0.1", 1)]));
        let peer = upstream.peer(&upstream.target(0, 0).unwrap(), &settings(&[]).timeouts);
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
        assert_eq!(upstream.target(0, 0), None);
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
        broken.tls = Some(super::super::settings::UpstreamTls { server_name: None, ca });
        let error = Upstream::new(&broken, Metrics::new().unwrap().upstream("u")).err().unwrap();
        assert!(error.to_string().starts_with("upstreams.u.tls.ca_file: ca.pem: "), "{error}");
    }
}
