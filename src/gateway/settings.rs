//! What the gateway needs to know before it starts: listeners, limits, shutdown, upstreams, admin and log.
//!
//! Plain data, filled by the configuration; every value here was checked by it.

use super::forward_auth::Asker;
use crate::secret::Secret;
use http::uri::PathAndQuery;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The `server` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where clients connect; at least one, no address twice.
    pub listeners: Vec<ListenerSettings>,
    /// Worker threads; 0 is one per core.
    pub threads: usize,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What a client may send, and how slowly.
    pub limits: Limits,
    /// How the gateway stops.
    pub shutdown: ShutdownSettings,
    /// The Unix socket where a new process asks for the listening sockets.
    pub upgrade_socket: Option<PathBuf>,
}

/// One place where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// The address to bind.
    pub address: SocketAddr,
    /// The certificates of a TLS listener, chosen by the name the client asks for, else the first; none on a
    /// plain one.
    pub tls: Vec<TlsFiles>,
    /// HTTP/2: by ALPN on a TLS listener, by prior knowledge on a plain one.
    pub http2: bool,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// A certificate chain and its key: PEM files that were read, parsed and matched at load, and are read
/// again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub private_key: PathBuf,
}

/// What a client may send, and how slowly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at one time.
    pub connections: usize,
    /// Bytes of the whole header block; 431 beyond.
    pub header_bytes: usize,
    /// Header fields; 431 beyond.
    pub header_fields: usize,
    /// Bytes of the request target; 414 beyond.
    pub target_bytes: usize,
    /// Bytes of a Bearer token; a longer one is malformed.
    pub token_bytes: usize,
    /// Bytes of a request body, 413 beyond; `None` is no limit. A route may have its own.
    pub body_bytes: Option<u64>,
    /// Time for the whole header block to arrive.
    pub header_timeout: Duration,
    /// Time between two reads of a body.
    pub body_timeout: Duration,
    /// How long a connection is kept without a request.
    pub idle_timeout: Duration,
}

/// How the gateway stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// Readiness is off for this long before anything is closed.
    pub delay: Duration,
    /// Requests in flight get at most this long; the gateway exits as soon as it is idle.
    pub drain: Duration,
}

/// One entry of `upstreams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Its name, which routes and metrics use.
    pub name: String,
    /// Where it can be reached; at least one, all with the same scheme.
    pub endpoints: Vec<EndpointSettings>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// Timeouts of a request to it; a route may have its own.
    pub timeouts: UpstreamTimeouts,
    /// Further attempts for idempotent methods, before the first byte of a response.
    pub retries: usize,
    /// HTTP/2 to the upstream.
    pub http2: bool,
    /// How https endpoints are verified; `None` is by their host name against the system's roots.
    pub tls: Option<UpstreamTls>,
    /// The `Host` it is sent.
    pub host: HostHeader,
    /// How its targets are asked whether they are well; `None` is not at all.
    pub health_check: Option<HealthCheck>,
    /// The DNS servers that are asked for the names of its endpoints; none: as the system is set up.
    pub resolvers: Vec<SocketAddr>,
}

/// Requests of our own that tell whether a target is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path and query that is asked for; a 2xx is well.
    pub path: PathAndQuery,
    /// From one check to the next, give or take a tenth; not zero.
    pub interval: Duration,
    /// For the whole check, from connecting to the response header.
    pub timeout: Duration,
    /// Good checks in a row that bring a target back.
    pub healthy: u32,
    /// Bad checks in a row that put it out.
    pub unhealthy: u32,
}

/// One endpoint of an upstream: a URL without a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointSettings {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port; the scheme's own if the URL named none.
    pub port: u16,
}

/// The scheme of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// Any, with equal chance.
    Random,
    /// Always the same one for a verified caller, or for a client's address where nobody is verified.
    ConsistentHash,
}

/// Timeouts towards an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// Until connected, TLS included.
    pub connect: Duration,
    /// Between two reads.
    pub read: Duration,
    /// Between two writes.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

/// How https endpoints of an upstream are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name the certificate must carry, also sent as SNI; `None` is each endpoint's own host name,
    /// which then is no IP address.
    pub server_name: Option<String>,
    /// The certificates trusted instead of the system's roots.
    pub ca: Option<CaBundle>,
    /// What the gateway shows an upstream that asks for a certificate.
    pub identity: Option<ClientIdentity>,
}

/// The gateway's own certificate and private key, read at load; they belong together.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// The file the certificates were read from.
    pub path: PathBuf,
    /// The file the private key was read from.
    pub key_path: PathBuf,
    /// The certificate chain in DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key in DER.
    pub key: Secret<Vec<u8>>,
}

impl PartialEq for ClientIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.chain == other.chain && self.key.equals(other.key.expose())
    }
}

impl Eq for ClientIdentity {}

/// Trusted certificates, read at load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaBundle {
    /// The file they were read from.
    pub path: PathBuf,
    /// Its content: PEM, at least one certificate.
    pub pem: Vec<u8>,
}

/// The `Host` an upstream is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The endpoint's own authority.
    Upstream,
    /// Always this one.
    Literal(String),
}

/// The `admin` section: a listener of its own for metrics and health.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// The address to bind; never a client listener's.
    pub address: SocketAddr,
    /// What a backend shows to end a user's sessions; `None`: nobody can.
    pub token: Option<Secret<String>>,
}

/// The `forward_auth` section: a listener of its own for proxies that ask for decisions.
#[derive(Debug, Clone)]
pub struct ForwardAuthSettings {
    /// The address to bind.
    pub address: SocketAddr,
    /// The proxy that asks; `None` tells by each question.
    pub proxy: Option<Asker>,
}

/// The `log` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
    /// One line per request.
    pub access: bool,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Severity of a log line, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something needs attention.
    Warn,
    /// What happens in normal operation.
    Info,
    /// For finding a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in the configuration, which is also a directive of a log filter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
