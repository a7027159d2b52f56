//! The sections `server` and `log`.

use super::pem;
use super::reader::Value;
use super::web;
use crate::gateway::settings::{
    Limits, ListenerSettings, LogFormat, LogLevel, LogSettings, ServerSettings, ShutdownSettings, TlsFiles,
};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const DEFAULT_LISTENER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn default_limits() -> Limits {
    Limits {
        connections: 20_000,
        header_bytes: 32 * 1024,
        header_fields: 100,
        target_bytes: 8 * 1024,
        token_bytes: 8 * 1024,
        body_bytes: Some(10 * 1024 * 1024),
        header_timeout: secs(10),
        body_timeout: secs(30),
        idle_timeout: secs(60),
    }
}

pub(super) fn server(value: Option<&Value<'_>>) -> ServerSettings {
    let mut settings = ServerSettings {
        listeners: vec![ListenerSettings {
            address: DEFAULT_LISTENER,
            tls: Vec::new(),
            http2: false,
            proxy_protocol: false,
        }],
        threads: 0,
        trusted_proxies: Vec::new(),
        limits: default_limits(),
        shutdown: ShutdownSettings { delay: Duration::ZERO, drain: secs(30) },
        upgrade_socket: None,
    };
    let known = &["listeners", "threads", "trusted_proxies", "limits", "shutdown", "upgrade_socket"];
    let Some(fields) = value.and_then(|value| value.fields(known, &[])) else { return settings };
    fields.told_default("listeners", || format!("[{{ address: {DEFAULT_LISTENER} }}]"));
    if let Some(value) = fields.get("listeners") {
        settings.listeners = listeners(&value);
    }
    settings.threads = fields.number("threads", 0, 0, 1024);
    if let Some(value) = fields.get("trusted_proxies") {
        settings.trusted_proxies =
            value.items("write a list such as [10.0.0.0/8]").iter().filter_map(trusted_proxy).collect();
    }
    if let Some(value) = fields.get("limits") {
        settings.limits = limits(&value);
    }
    if let Some(fields) = fields.get("shutdown").and_then(|value| value.fields(&["delay", "drain"], &[])) {
        settings.shutdown.delay = fields.duration("delay", settings.shutdown.delay);
        settings.shutdown.drain = fields.duration("drain", settings.shutdown.drain);
    }
    settings.upgrade_socket = fields.get("upgrade_socket").and_then(|value| value.file());
    settings
}

fn listeners(value: &Value<'_>) -> Vec<ListenerSettings> {
    let items = value.items("write one `- address: …` per listener");
    if value.is_empty_list() {
        value.error("no listener", "add at least one, such as - address: 127.0.0.1:8080");
    }
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for item in items {
        let Some(fields) = item.fields(&["address", "tls", "http2", "proxy_protocol"], &[]) else { continue };
        let address_value = fields.require("address", "add the address to bind, such as 127.0.0.1:8080");
        let address = address_value.as_ref().and_then(address);
        let tls = fields.get("tls");
        let http2 = fields.boolean("http2", tls.is_some());
        let proxy_protocol = fields.boolean("proxy_protocol", false);
        let tls = tls.as_ref().map(certificates).unwrap_or_default();
        if let Some(value) = fields.get("proxy_protocol").filter(|_| proxy_protocol)
            && address.is_some_and(|address| !address.ip().is_loopback())
        {
            value.warning(
                "whoever reaches this address can claim any client address",
                "close the port to all but the proxies in front of this gateway",
            );
        }
        if let (Some(address), Some(value)) = (address, address_value) {
            if listeners.iter().any(|other| overlap(other.address, address)) {
                value.error(format!("{address} is already bound by a listener above"), "use another port");
            }
            listeners.push(ListenerSettings { address, tls, http2, proxy_protocol });
        }
    }
    listeners
}

pub(super) fn address(value: &Value<'_>) -> Option<SocketAddr> {
    let mend = "write an IP address and a port, such as 127.0.0.1:8080 or [::]:8443";
    value.parsed("an address", mend, |text| text.parse().ok())
}

/// Whether binding both would fail; addresses of port 0 are never the same.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    // `[::]` takes IPv4 too, unless the whole system is set up otherwise.
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (one == other || covers(one, other) || covers(other, one))
}

/// One certificate, or a list of them for several names on one listener.
fn certificates(value: &Value<'_>) -> Vec<TlsFiles> {
    if !value.is_list() {
        return tls_files(value).into_iter().collect();
    }
    let items = value.items("write one { certificate: …, private_key: … } per certificate");
    if items.is_empty() {
        value.error("no certificate", "add { certificate: tls/cert.pem, private_key: tls/key.pem }");
    }
    items.iter().filter_map(tls_files).collect()
}

fn tls_files(value: &Value<'_>) -> Option<TlsFiles> {
    let fields = value.fields(&["certificate", "private_key"], &[])?;
    let certificate = fields.require("certificate", "name the PEM file of the certificate chain");
    let private_key = fields.require("private_key", "name the PEM file of the private key");
    let (certificate, private_key) = (certificate?, private_key?);
    let files = TlsFiles { certificate: certificate.file()?, private_key: private_key.file()? };
    let chain = pem::certificates(&certificate, &files.certificate);
    let key = pem::private_key(&private_key, &files.private_key);
    if let (Some(chain), Some(key)) = (chain, key) {
        pem::check_pair(&private_key, chain.certificates, key);
    }
    Some(files)
}

fn trusted_proxy(value: &Value<'_>) -> Option<IpNet> {
    let mend = "write a network such as 10.0.0.0/8";
    let network = value.parsed("a network", mend, |text| {
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    })?;
    if network.prefix_len() == 0 {
        value.warning(
            "believes X-Forwarded-For of everyone",
            "list the networks of the proxies in front of this gateway",
        );
    }
    Some(network)
}

fn limits(value: &Value<'_>) -> Limits {
    let mut limits = default_limits();
    let known = &[
        "connections",
        "header_bytes",
        "header_fields",
        "target_bytes",
        "token_bytes",
        "body_bytes",
        "header_timeout",
        "body_timeout",
        "idle_timeout",
    ];
    let Some(fields) = value.fields(known, &[]) else { return limits };
    limits.connections = fields.number("connections", limits.connections, 1, 10_000_000);
    limits.header_bytes = fields.header_size("header_bytes", limits.header_bytes);
    // 256 fields are all that is ever parsed.
    limits.header_fields = fields.number("header_fields", limits.header_fields, 1, 256);
    limits.target_bytes = fields.header_size("target_bytes", limits.target_bytes);
    limits.token_bytes = fields.header_size("token_bytes", limits.token_bytes);
    if let Some(value) = fields.get("body_bytes") {
        limits.body_bytes = body_bytes(&value, limits.body_bytes);
    }
    limits.header_timeout = fields.duration("header_timeout", limits.header_timeout);
    limits.body_timeout = fields.duration("body_timeout", limits.body_timeout);
    limits.idle_timeout = fields.duration("idle_timeout", limits.idle_timeout);
    for key in ["header_timeout", "body_timeout"] {
        if let Some(value) = fields.get(key).filter(Value::duration_is_zero) {
            value.warning("gives clients no time at all", "write a duration such as 10s");
        }
    }
    limits
}

/// A limit for bodies, of the server or of a route; `None` is no limit.
pub(super) fn body_bytes(value: &Value<'_>, default: Option<u64>) -> Option<u64> {
    let Some(size) = value.size() else { return default };
    if size == 0 {
        value.warning("bodies of any size are let through", "set a limit, such as 10MiB");
    }
    (size > 0).then_some(size)
}

/// The collector of `telemetry`: a URL without a path, which gRPC has no use for.
pub(super) fn otlp(value: &Value<'_>) -> Option<String> {
    let fields = value.fields(&["otlp"], &[])?;
    let value = fields.require("otlp", "add the URL of a collector, such as http://127.0.0.1:4317")?;
    let url = web::url(&value, "write a URL such as http://127.0.0.1:4317")?;
    if url.path_and_query().is_some_and(|path| path.as_str() != "/") {
        value.error(
            "a collector's URL with a path",
            "write scheme, host and port only: spans are sent over gRPC, usually to port 4317",
        );
        return None;
    }
    value.text()
}

pub(super) fn log(value: Option<&Value<'_>>) -> LogSettings {
    let default = LogSettings { format: LogFormat::Json, level: LogLevel::Info, access: true };
    let Some(fields) = value.and_then(|value| value.fields(&["format", "level", "access"], &[])) else {
        return default;
    };
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]
        .map(|level| (level.as_str(), level));
    LogSettings {
        format: fields.word(
            "format",
            &[("json", LogFormat::Json), ("text", LogFormat::Text)],
            default.format,
        ),
        level: fields.word("level", &levels, default.level),
        access: fields.boolean("access", default.access),
    }
}
