//! `sessions.store`: where sessions are kept.

use super::pem;
use super::reader::Value;
use super::web;
use crate::secret::Secret;
use crate::session::family::RotationPolicy;
use crate::session::redis::{RedisSettings, RedisStore, Servers, SettingsError};
use std::path::PathBuf;
use std::time::Duration;

/// Where sessions are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In a file of this machine: one gateway only.
    Embedded {
        /// The file; it need not exist yet.
        path: PathBuf,
    },
    /// In Redis: any number of gateways.
    Redis(RedisSettings),
}

pub(super) fn store(value: &Value<'_>) -> Option<StoreConfig> {
    let fields = value.fields(&["embedded", "redis"], &[])?;
    let (key, value) = fields.exactly_one(&["embedded", "redis"])?;
    if key == "redis" {
        return redis(&value);
    }
    let fields = value.fields(&["path"], &[])?;
    let path = match fields.get("path") {
        Some(value) => value.file()?,
        None => fields.scope().folder.join("data/sessions.redb"),
    };
    Some(StoreConfig::Embedded { path })
}

fn redis(value: &Value<'_>) -> Option<StoreConfig> {
    let fields = value.fields(&["url", "url_file", "cluster", "sentinel", "timeout", "ca_file"], &[])?;
    let timeout = fields.duration("timeout", Duration::from_millis(300));
    if let Some(value) = fields.get("timeout").filter(Value::duration_is_zero) {
        value.warning("no operation can succeed in no time", "write a duration such as 300ms");
    }
    let (key, place) = fields.exactly_one(&["url", "url_file", "cluster", "sentinel"])?;
    let (servers, tls) = match key {
        "cluster" => list(&place).map(|(urls, tls)| (Servers::Cluster(urls), tls)),
        "sentinel" => sentinel(&place),
        "url_file" => url_file(&place).map(|(url, tls)| (Servers::One(url), tls)),
        _ => url(&place).map(|(url, tls)| (Servers::One(url), tls)),
    }?;
    let ca = fields.get("ca_file");
    if let Some(value) = ca.as_ref().filter(|_| !tls) {
        value.error("a plain redis:// connection has no certificate to verify", "use rediss://");
    }
    let ca = match ca {
        Some(value) => Some(pem::certificates(&value, &value.file()?)?.pem),
        None => None,
    };
    let settings = RedisSettings { servers, timeout, ca };
    match RedisStore::connect_lazily(&settings, RotationPolicy::default()) {
        Ok(_) => return Some(StoreConfig::Redis(settings)),
        Err(SettingsError::Url) => not_a_url(&place),
        Err(error @ SettingsError::Unlike) => place.error(error.to_string(), "give all of them the same"),
        Err(error @ SettingsError::Database) => place.error(error.to_string(), "end the URLs at the port"),
        Err(error @ SettingsError::Ca(_)) => place.error(error.to_string(), "mend ca_file"),
    }
    None
}

/// The URL is not shown: it may hold a password.
fn not_a_url(place: &Value<'_>) {
    place.error("not a Redis URL", "write redis://host:6379/0, or rediss://user:password@host:6379/0");
}

fn sentinel(value: &Value<'_>) -> Option<(Servers, bool)> {
    let fields = value.fields(&["nodes", "master"], &[])?;
    let nodes = fields.require("nodes", "list the sentinels, such as [\"redis://10.0.0.1:26379\"]");
    let nodes = nodes.and_then(|nodes| list(&nodes));
    let master = fields.require("master", "write the name the sentinels know the primary by, often mymaster");
    let master = master.and_then(|master| master.text())?;
    let (nodes, tls) = nodes?;
    Some((Servers::Sentinel { nodes, master }, tls))
}

/// A list of URLs, and whether they are of TLS.
fn list(value: &Value<'_>) -> Option<(Vec<Secret<String>>, bool)> {
    let mend = "list the servers, such as [\"redis://10.0.0.1:6379\", \"redis://10.0.0.2:6379\"]";
    if value.is_empty_list() {
        value.error("is empty", mend);
        return None;
    }
    let items = value.items(mend);
    let urls: Vec<_> = items.iter().filter_map(url).collect();
    let tls = urls.iter().any(|(_, tls)| *tls);
    // All or nothing: one that was left out may be the only one that still answers one day.
    let complete = !items.is_empty() && urls.len() == items.len();
    complete.then(|| (urls.into_iter().map(|(url, _)| url).collect(), tls))
}

fn url(value: &Value<'_>) -> Option<(Secret<String>, bool)> {
    let url = Secret::new(value.text()?);
    check(value, url)
}

fn url_file(value: &Value<'_>) -> Option<(Secret<String>, bool)> {
    check(value, pem::secret_line(value)?)
}

/// A URL, and whether it is of TLS; it stands, or the name of its file does, at `place`.
fn check(place: &Value<'_>, url: Secret<String>) -> Option<(Secret<String>, bool)> {
    let Some(Server { tls, host }) = parse(url.expose()) else {
        not_a_url(place);
        return None;
    };
    if !tls && !web::is_loopback(&host) {
        place.warning("sessions travel to Redis over a plain connection", "use rediss:// off this machine");
    }
    Some((url, tls))
}

struct Server {
    tls: bool,
    host: String,
}

/// The parts of a Redis URL that we look at; `None` if it is none.
fn parse(url: &str) -> Option<Server> {
    let (tls, rest) = match url.split_once("://")? {
        ("redis", rest) => (false, rest),
        ("rediss", rest) => (true, rest),
        _ => return None,
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = web::split_port(address)?;
    let plain = url.bytes().all(|b| b.is_ascii_graphic());
    let good = plain && web::is_host(host) && port != Some(0) && database.bytes().all(|b| b.is_ascii_digit());
    good.then(|| Server { tls, host: host.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls_are_told_from_others() {
        for (url, tls, host) in [
            ("redis://127.0.0.1:6379/0", false, "127.0.0.1"),
            ("rediss://user:p%40ss@cache.example.com", true, "cache.example.com"),
            ("redis://:secret@[::1]:6379", false, "[::1]"),
        ] {
            let server = parse(url).unwrap();
            assert_eq!((server.tls, server.host.as_str()), (tls, host), "{url}");
        }
        for url in ["127.0.0.1:6379", "http://a", "redis://", "redis://a:0", "redis://a/x", "redis://a b", ""]
        {
            assert!(parse(url).is_none(), "{url}");
        }
    }
}
