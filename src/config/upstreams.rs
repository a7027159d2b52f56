//! The section `upstreams`: where requests are forwarded to.

use super::pem;
use super::reader::{Fields, Value};
use super::units;
use super::web;
use crate::gateway::settings::{
    Balance, CaBundle, ClientIdentity, EndpointSettings, HealthCheck, HostHeader, Scheme, UpstreamSettings,
    UpstreamTimeouts, UpstreamTls,
};
use crate::secret::Secret;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BALANCE: &[(&str, Balance)] = &[
    ("round_robin", Balance::RoundRobin),
    ("random", Balance::Random),
    ("consistent_hash", Balance::ConsistentHash),
];

pub(super) fn upstreams(value: &Value<'_>) -> Vec<UpstreamSettings> {
    let named = value.named("write one `name: { endpoints: […] }` per upstream");
    named.into_iter().filter_map(|(name, value)| upstream(name, &value)).collect()
}

fn upstream(name: &str, value: &Value<'_>) -> Option<UpstreamSettings> {
    web::check_name(value, name);
    let known =
        &["endpoints", "balance", "health_check", "timeouts", "retries", "http2", "tls", "host", "resolvers"];
    let fields = value.fields(known, &[])?;
    let endpoints = endpoints(&fields);
    let tls = fields.get("tls").and_then(|value| tls(&value, &endpoints));
    for (value, endpoint) in &endpoints {
        let named = tls.as_ref().is_some_and(|tls| tls.server_name.is_some());
        if endpoint.scheme == Scheme::Https && !named && endpoint.host.parse::<IpAddr>().is_ok() {
            let mend = "add tls: { server_name: … }, the name the certificate carries";
            value.error("an https endpoint by IP address has no name to verify its certificate by", mend);
        }
    }
    Some(UpstreamSettings {
        name: name.to_owned(),
        endpoints: endpoints.into_iter().map(|(_, endpoint)| endpoint).collect(),
        balance: fields.word("balance", BALANCE, Balance::RoundRobin),
        timeouts: fields
            .get("timeouts")
            .map_or_else(default_timeouts, |value| timeouts(&value, default_timeouts())),
        retries: fields.number("retries", 1, 0, 10),
        http2: fields.boolean("http2", false),
        tls,
        host: fields.get("host").and_then(|value| host(&value)).unwrap_or(HostHeader::Preserve),
        health_check: fields.get("health_check").and_then(|value| health_check(&value)),
        resolvers: fields.get("resolvers").map(|value| resolvers(&value)).unwrap_or_default(),
    })
}

fn resolvers(value: &Value<'_>) -> Vec<SocketAddr> {
    let mend = "write a list of addresses such as [10.0.0.53, \"127.0.0.1:8600\"]";
    let server = |item: Value<'_>| {
        item.parsed("the address of a DNS server", mend, |text| {
            text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)))
        })
    };
    value.items(mend).into_iter().filter_map(server).collect()
}

fn endpoints<'a>(fields: &Fields<'a>) -> Vec<(Value<'a>, EndpointSettings)> {
    let mend = "write a list such as [\"http://127.0.0.1:9001\"]";
    let Some(value) = fields.require("endpoints", mend) else { return Vec::new() };
    if value.is_empty_list() {
        value.error("no endpoint", mend);
    }
    let mut endpoints: Vec<(Value<'a>, EndpointSettings)> = Vec::new();
    for item in value.items(mend) {
        let Some(endpoint) = web::origin(&item) else { continue };
        if endpoints.iter().any(|(_, other)| *other == endpoint) {
            item.error("this endpoint stands here twice", "keep one of the two");
        } else if endpoints.first().is_some_and(|(_, first)| first.scheme != endpoint.scheme) {
            item.error(
                "the endpoints of one upstream are all http or all https",
                "use one scheme, or make two upstreams",
            );
        } else {
            endpoints.push((item, endpoint));
        }
    }
    endpoints
}

fn health_check(value: &Value<'_>) -> Option<HealthCheck> {
    let fields = value.fields(&["path", "interval", "timeout", "healthy", "unhealthy"], &[])?;
    let mend = "write a path such as /healthz";
    let path = fields.require("path", mend).and_then(|value| {
        value.parsed("a path", mend, |text| {
            (text.starts_with('/') && !text.contains('#')).then(|| text.parse().ok())?
        })
    });
    if let Some(value) = fields.get("interval").filter(Value::duration_is_zero) {
        value.error("leaves no time between two checks", "write a duration such as 5s");
    }
    if let Some(value) = fields.get("timeout").filter(Value::duration_is_zero) {
        value.warning("gives the upstream no time at all", "write a duration such as 1s");
    }
    let times = |key, default| u32::try_from(fields.number(key, default, 1, 100)).unwrap_or(1);
    Some(HealthCheck {
        path: path?,
        interval: fields.duration("interval", Duration::from_secs(5)),
        timeout: fields.duration("timeout", Duration::from_secs(1)),
        healthy: times("healthy", 1),
        unhealthy: times("unhealthy", 3),
    })
}

pub(super) fn default_timeouts() -> UpstreamTimeouts {
    UpstreamTimeouts {
        connect: Duration::from_secs(2),
        read: Duration::from_secs(30),
        write: Duration::from_secs(30),
        idle: Duration::from_secs(60),
    }
}

/// Timeouts of an upstream, or of a route, which overrides its upstream's one by one.
pub(super) fn timeouts(value: &Value<'_>, default: UpstreamTimeouts) -> UpstreamTimeouts {
    let Some(fields) = value.fields(&["connect", "read", "write", "idle"], &[]) else { return default };
    for key in ["connect", "read", "write"] {
        if let Some(value) = fields.get(key).filter(Value::duration_is_zero) {
            value.warning("gives the upstream no time at all", "write a duration such as 30s");
        }
    }
    UpstreamTimeouts {
        connect: fields.duration("connect", default.connect),
        read: fields.duration("read", default.read),
        write: fields.duration("write", default.write),
        idle: fields.duration("idle", default.idle),
    }
}

fn tls(value: &Value<'_>, endpoints: &[(Value<'_>, EndpointSettings)]) -> Option<UpstreamTls> {
    if endpoints.iter().any(|(_, endpoint)| endpoint.scheme == Scheme::Http) {
        value.warning(
            "has no effect on plain http endpoints",
            "write https:// in endpoints, or remove tls: nothing between here and them is secret",
        );
    }
    let fields =
        value.fields(&["server_name", "ca_file", "client_certificate", "client_private_key"], &[])?;
    let server_name = fields.get("server_name").and_then(|value| {
        value.parsed("a host name", "write a name such as orders.internal", |text| {
            web::is_host(text).then(|| text.to_owned())
        })
    });
    let ca = fields.get("ca_file").and_then(|value| ca_bundle(&value));
    Some(UpstreamTls { server_name, ca, identity: identity(&fields) })
}

fn identity(fields: &Fields<'_>) -> Option<ClientIdentity> {
    let (certificate, key) = (fields.get("client_certificate"), fields.get("client_private_key"));
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(lone), None) => {
            lone.error("a certificate is nothing without its private key", "add client_private_key");
            return None;
        }
        (None, Some(lone)) => {
            lone.error("a private key is nothing without its certificate", "add client_certificate");
            return None;
        }
        (None, None) => return None,
    };
    let (path, key_path) = (certificate.file(), key.file());
    let chain = path.as_ref().and_then(|path| pem::certificates(&certificate, path));
    let private = key_path.as_ref().and_then(|path| pem::private_key(&key, path));
    let (chain, private) = (chain?.certificates, private?);
    let identity = ClientIdentity {
        path: path?,
        key_path: key_path?,
        chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        key: Secret::new(private.secret_der().to_vec()),
    };
    pem::check_pair(&key, chain, private);
    Some(identity)
}

fn ca_bundle(value: &Value<'_>) -> Option<CaBundle> {
    let path = value.file()?;
    let pem = pem::certificates(value, &path)?.pem;
    Some(CaBundle { path, pem })
}

fn host(value: &Value<'_>) -> Option<HostHeader> {
    let mend = "write preserve, upstream, or a host such as orders.internal:8080";
    let host = value.parsed("a host", mend, |text| match text {
        "preserve" => Some(HostHeader::Preserve),
        "upstream" => Some(HostHeader::Upstream),
        literal => {
            let (host, port) = web::split_port(literal)?;
            (web::is_host(host) && port != Some(0)).then(|| HostHeader::Literal(literal.to_owned()))
        }
    })?;
    if let HostHeader::Literal(literal) = &host
        && !literal.contains(['.', ':'])
        && !literal.bytes().any(|b| b.is_ascii_digit())
        && let Some(meant) = units::nearest(literal, ["preserve", "upstream"])
    {
        let mend = format!("did you mean {meant}? A host of this name is written with its port");
        value.error(format!("{} would be sent as the Host itself", value.shown()), mend);
        return None;
    }
    Some(host)
}
