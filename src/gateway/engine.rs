//! Pingora's proxy engine around the gateway, with everything it leaves open set.

use super::Gateway;
use super::direct::DirectWay;
use super::forward_auth::Judge;
use super::lease;
use super::proxy::Phases;
use super::settings::{Limits, Scheme, ServerSettings, UpstreamSettings};
use super::upstream::Room;
use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_core::tls::load_platform_certs_incl_env_into_store;
use pingora_proxy::{HttpProxy, ProxyHttp};
use rustls::RootCertStore;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::watch;

/// Attempts Pingora allows; an upstream's own `retries` decides long before.
const MOST_ATTEMPTS: usize = 64;

/// The decoded header list Pingora takes over HTTP/2 if nothing else is said, in bytes.
const USUAL_HEADER_LIST: usize = 64 * 1024;

/// What HTTP/2 adds to each field when it counts a header list (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// A certificate file without certificates.
const NO_CERTIFICATES: &str = "/dev/null";

/// The system's root certificates cannot be used, and an https upstream needs them.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system's root certificates cannot be used: {0}; install them (ca-certificates), or name the \
     upstream's own in upstreams.<name>.tls.ca_file"
)]
pub struct NoRoots(String);

/// What serves clients' connections: those by HTTP/1 one request after the other, those by HTTP/2 through the proxy
/// engine, which also forwards what the first cannot forward by themselves.
pub struct Engine {
    pub(super) gateway: Arc<Gateway>,
    pub(super) streams: Arc<Streams>,
    /// Turns true when connections that wait for a request are to end.
    pub(super) closing: watch::Sender<bool>,
}

impl Engine {
    /// Ends connections that wait for a request.
    pub async fn drop_idle(&self) {
        self.closing.send_replace(true);
        self.streams.http_cleanup().await;
    }
}

/// The proxy engine, and around each request of an HTTP/2 connection the lease that bounds it.
pub(super) struct Streams(pub(super) Arc<HttpProxy<Phases>>);

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        lease::hold_stream(self.0.process_new_http(session, shutdown)).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}

/// Builds the engine.
///
/// # Errors
/// [`NoRoots`] if an https upstream is verified against the system's roots and there are none.
pub fn engine(
    gateway: Gateway,
    server: &ServerSettings,
    upstreams: &[UpstreamSettings],
) -> Result<Engine, NoRoots> {
    check_roots(upstreams)?;
    // Pingora reads the system's roots however little they are needed, and panics if it cannot.
    let rootless = system_roots().is_err();
    // As the engine's own: so many for each thread.
    let options = ConnectorOptions::from_server_conf(&conf(server, rootless));
    let room = Room::new(options.keepalive_pool_size);
    let direct = Some(DirectWay { connector: TransportConnector::new(Some(options)), room });
    let gateway = Gateway { direct, ..gateway };
    let gateway = Arc::new(gateway);
    let proxy = around(Phases(Arc::clone(&gateway)), server, rootless);
    Ok(Engine { gateway, streams: Arc::new(Streams(Arc::new(proxy))), closing: watch::Sender::new(false) })
}

fn conf(server: &ServerSettings, rootless: bool) -> ServerConf {
    let ca_file = rootless.then(|| NO_CERTIFICATES.to_owned());
    ServerConf { threads: threads(server), max_retries: MOST_ATTEMPTS, ca_file, ..ServerConf::default() }
}

/// The engine around these phases, with or without the system's roots.
pub(super) fn around<P: ProxyHttp>(phases: P, server: &ServerSettings, rootless: bool) -> HttpProxy<P> {
    let mut engine = pingora_proxy::http_proxy(&Arc::new(conf(server, rootless)), phases);
    let mut options = HttpServerOptions::default();
    // Whether a plain listener takes HTTP/2 is decided before the engine sees the connection.
    options.h2c = true;
    options.h2_idle_timeout = Some(server.limits.idle_timeout);
    // Not to proxy CONNECT, but to refuse it ourselves as any other method that is not served.
    options.allow_connect_method_proxying = true;
    engine.server_options = Some(options);
    engine.h2_options = Some(h2_options(&server.limits));
    engine
}

/// The engine around a gateway that judges requests it does not forward.
pub fn judging(judge: Judge, server: &ServerSettings) -> HttpProxy<Judge> {
    around(judge, server, true)
}

/// Checks that the system has roots, if these upstreams are verified against them.
///
/// # Errors
/// [`NoRoots`] if not.
pub fn check_roots(upstreams: &[UpstreamSettings]) -> Result<(), NoRoots> {
    if upstreams.iter().any(trusts_the_system) { system_roots() } else { Ok(()) }
}

/// The threads there will be: pools of idle upstream connections are sized by them.
pub fn threads(server: &ServerSettings) -> usize {
    match server.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads,
    }
}

/// What is over our own limits has to reach us, so that it is answered and counted like any request.
fn h2_options(limits: &Limits) -> H2Options {
    let ours = limits.header_bytes + limits.target_bytes + limits.header_fields * FIELD_OVERHEAD;
    let most = ours.max(USUAL_HEADER_LIST);
    let mut options = default_h2_options();
    options.max_header_list_size(u32::try_from(most).unwrap_or(u32::MAX));
    options
}

/// For connections to one upstream beside the engine's: without the system's roots where it does not need them.
pub(super) fn connector_options(upstream: &UpstreamSettings) -> ConnectorOptions {
    let ca_file = (!trusts_the_system(upstream)).then(|| NO_CERTIFICATES.to_owned());
    ConnectorOptions::from_server_conf(&ServerConf { ca_file, ..ServerConf::default() })
}

fn trusts_the_system(upstream: &UpstreamSettings) -> bool {
    upstream.endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https)
        && upstream.tls.as_ref().is_none_or(|tls| tls.ca.is_none())
}

fn system_roots() -> Result<(), NoRoots> {
    let mut roots = RootCertStore::empty();
    load_platform_certs_incl_env_into_store(&mut roots).map_err(|error| NoRoots(error.to_string()))?;
    if roots.is_empty() { Err(NoRoots("there are none".to_owned())) } else { Ok(()) }
}
