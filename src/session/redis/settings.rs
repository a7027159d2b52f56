//! Where Redis is, as configured, and how its servers are reached.

use crate::secret::Secret;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use std::time::Duration;

/// Where Redis is (`sessions.store.redis`). Redis 6.2 or later, or Valkey.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// Its servers.
    pub servers: Servers,
    /// Deadline of every call, connecting included.
    pub timeout: Duration,
    /// Certificates (PEM) that are trusted instead of the system's, for `rediss://`.
    pub ca: Option<Vec<u8>>,
}

/// How to find the server that takes a write. Each URL is `redis://` or `rediss://`, with user, password and
/// database number as needed; all URLs of one Redis agree in these.
#[derive(Debug, Clone)]
pub enum Servers {
    /// It is always this one.
    One(Secret<String>),
    /// Redis Cluster: these know all the others.
    Cluster(Vec<Secret<String>>),
    /// Sentinel: these know which server is the primary at present. User and password of the URLs are the
    /// primary's, and the sentinels' own where they ask for any.
    Sentinel {
        /// The sentinels.
        nodes: Vec<Secret<String>>,
        /// The name they know the primary by.
        master: String,
    },
}

/// Why settings are no use, whatever Redis may say.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A URL cannot be read, or there is none.
    #[error("this is not a Redis URL: it looks like redis://user:password@host:6379/0")]
    Url,
    /// One of several URLs has another user, password, database or scheme than the first.
    #[error("the servers of one Redis share scheme, user, password and database")]
    Unlike,
    /// A cluster has no other database than 0.
    #[error("Redis Cluster has only the database 0")]
    Database,
    /// The certificates cannot be read.
    #[error("the certificates to trust for Redis cannot be read: {0}")]
    Ca(String),
}

/// A host and a port.
pub(super) type Address = (String, u16);

/// What the servers of one Redis have in common: everything but their address.
pub(super) struct Access {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
}

impl Access {
    /// The common part of `urls`, and their addresses.
    pub(super) fn new(
        urls: &[Secret<String>],
        ca: Option<&Vec<u8>>,
    ) -> Result<(Self, Vec<Address>), SettingsError> {
        let mut infos = urls.iter().map(parse).collect::<Result<Vec<_>, _>>()?.into_iter();
        let (info, first) = infos.next().ok_or(SettingsError::Url)?;
        let mut addresses = vec![first];
        for (other, address) in infos {
            let (a, b) = (info.redis_settings(), other.redis_settings());
            let same_user = (a.username(), a.password(), a.db()) == (b.username(), b.password(), b.db());
            if !same_user || is_tls(&info) != is_tls(&other) {
                return Err(SettingsError::Unlike);
            }
            addresses.push(address);
        }
        let certificates =
            is_tls(&info).then(|| TlsCertificates { client_tls: None, root_cert: ca.cloned() });
        if certificates.is_some() {
            // Without a provider of cryptography for the process the client would panic; a second is refused.
            drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        }
        let access = Self { info, certificates };
        for address in &addresses {
            access.client(address)?;
        }
        Ok((access, addresses))
    }

    pub(super) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// The same for the sentinels, who have no databases; the second one names no user.
    pub(super) fn of_sentinels(&self) -> (Self, Self) {
        let with = |settings| Self {
            info: self.info.clone().set_redis_settings(settings),
            certificates: self.certificates.clone(),
        };
        (with(self.info.redis_settings().clone().set_db(0)), with(redis::RedisConnectionInfo::default()))
    }

    /// For the server at an address. Connects to nothing yet.
    pub(super) fn client(&self, (host, port): &Address) -> Result<Client, SettingsError> {
        let (host, port) = (host.clone(), *port);
        let Some(certificates) = &self.certificates else {
            let info = self.info.clone().set_addr(ConnectionAddr::Tcp(host, port));
            return Client::open(info).map_err(|_| SettingsError::Url);
        };
        let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        let info = self.info.clone().set_addr(address);
        Client::build_with_tls(info, certificates.clone())
            .map_err(|error| SettingsError::Ca(error.to_string()))
    }
}

/// What the client says of a URL may quote it, password and all; so nothing of that is passed on.
fn parse(url: &Secret<String>) -> Result<(ConnectionInfo, Address), SettingsError> {
    let info = url.expose().as_str().into_connection_info().map_err(|_| SettingsError::Url)?;
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            (host.clone(), *port)
        }
        _ => return Err(SettingsError::Url),
    };
    Ok((info, address))
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}
