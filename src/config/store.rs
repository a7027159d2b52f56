//! `sessions.store`: where sessions are kept.

use super::pem;
use super::reader::{Fields, Value};
use super::web;
use crate::secret::Secret;
use crate::session::family::RotationPolicy;
use crate::session::redis::{RedisSettings, RedisStore, SettingsError};
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
    let fields = value.fields(&["url", "url_file", "timeout", "ca_file"], &["cluster", "sentinel"])?;
    let timeout = fields.duration("timeout", Duration::from_millis(300));
    if let Some(value) = fields.get("timeout").filter(Value::duration_is_zero) {
        value.warning("no operation can succeed in no time", "write a duration such as 300ms");
    }
    let (place, url) = url(&fields)?;
    let Some(Server { tls, host }) = parse(url.expose()) else {
        not_a_url(&place);
        return None;
    };
    if !tls && !web::is_loopback(&host) {
        place.warning("sessions travel to Redis over a plain connection", "use rediss:// off this machine");
    }
    let ca = fields.get("ca_file");
    if let Some(value) = ca.as_ref().filter(|_| !tls) {
        value.error("a plain redis:// connection has no certificate to verify", "use rediss://");
    }
    let ca = match ca {
        Some(value) => Some(pem::certificates(&value, &value.file()?)?.pem),
        None => None,
    };
    let settings = RedisSettings { url, timeout, ca };
    match RedisStore::connect_lazily(&settings, RotationPolicy::default()) {
        Ok(_) => return Some(StoreConfig::Redis(settings)),
        Err(SettingsError::Url) => not_a_url(&place),
        Err(error @ SettingsError::Ca(_)) => place.error(error.to_string(), "mend ca_file"),
    }
    None
}

/// The URL is not shown: it may hold a password.
fn not_a_url(place: &Value<'_>) {
    place.error("not a Redis URL", "write redis://host:6379/0, or rediss://user:password@host:6379/0");
}

/// The URL, and the key it or the name of its file stands at.
fn url<'a>(fields: &Fields<'a>) -> Option<(Value<'a>, Secret<String>)> {
    let (key, value) = fields.exactly_one(&["url", "url_file"])?;
    if key == "url" {
        let url = Secret::new(value.text()?);
        return Some((value, url));
    }
    let bytes = pem::read(&value, &value.file()?, 4096)?;
    let text = Secret::new(String::from_utf8(bytes).unwrap_or_default());
    let url = Secret::new(text.expose().trim_end_matches(['\r', '\n']).to_owned());
    Some((value, url))
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
