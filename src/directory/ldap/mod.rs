//! The LDAP directory: it judges the password when the gateway binds as the user, and the user's own entry says who
//! that is.

mod ber;
mod connection;
mod dn;
mod entry;
mod message;

pub use ber::Unreadable;
pub use dn::{Template, is_attribute};
pub use entry::ClaimSource;
pub use message::{Attributes, Request, Said};

use super::file::is_name;
use super::{Credentials, DirectoryError, Identity, Standing, UserDirectory};
use crate::breaker::Breaker;
use async_trait::async_trait;
use connection::{Broken, Connection};
use entry::{Entry, Misfit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Logins the directory is asked about at the same time; beyond it they are refused for now.
const AT_ONCE: usize = 64;

/// How the directory is asked, and how entries are read (`sessions.users.ldap`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapSettings {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How a connection is encrypted.
    pub encryption: Encryption,
    /// The authorities to trust in place of the system's, as PEM.
    pub ca: Option<Vec<u8>>,
    /// From the first packet to the last.
    pub timeout: Duration,
    /// The name of a user's entry.
    pub user_dn: Template,
    /// The attribute that is the subject.
    pub subject: String,
    /// The claims.
    pub claims: Vec<ClaimSource>,
}

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// Before anything else is said on it, by a request of LDAP.
    StartTls,
    /// From the first byte.
    Tls,
}

/// Why the directory cannot be asked as configured.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The authorities are none.
    #[error("ca_file: {0}")]
    Ca(String),
    /// There is no TLS.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// Users of an LDAP directory.
pub struct LdapDirectory {
    settings: LdapSettings,
    trust: Arc<ClientConfig>,
    breaker: Breaker,
    places: Semaphore,
}

impl std::fmt::Debug for LdapDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LdapDirectory").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why there is no judgement.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("no answer in time")]
    Late,
    #[error("it answered the bind with result code {0}")]
    Bind(u32),
    #[error("it answered the search of the user's own entry with result code {0}")]
    Search(u32),
    #[error("after a good login it gave no entry of the user's own name; let users read their own entry")]
    NoEntry,
    #[error("the user's own entry cannot be read: {0}")]
    Entry(Unreadable),
    #[error("{0}")]
    Misfit(#[from] Misfit),
}

impl Trouble {
    /// Whether the directory was there and said something of use. Busy and unavailable (51, 52) are an outage.
    const fn is_answer(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Late => false,
            Self::Bind(code) | Self::Search(code) => !matches!(*code, 51 | 52),
            Self::NoEntry | Self::Entry(_) | Self::Misfit(_) => true,
        }
    }
}

impl LdapDirectory {
    /// A directory that asks this server. Nothing is connected to yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(settings: LdapSettings) -> Result<Self, SettingsError> {
        let roots = match (&settings.ca, settings.encryption) {
            (Some(pem), _) => authorities(pem).map_err(SettingsError::Ca)?,
            (None, Encryption::None) => RootCertStore::empty(),
            (None, Encryption::StartTls | Encryption::Tls) => systems_authorities(),
        };
        let trust = Arc::new(trusting(roots)?);
        let places = Semaphore::new(AT_ONCE);
        Ok(Self { settings, trust, breaker: Breaker::default(), places })
    }

    async fn ask(&self, credentials: &Credentials) -> Result<Option<Identity>, Trouble> {
        let mut connection = Connection::open(&self.settings, &self.trust).await?;
        let LdapSettings { user_dn, subject, claims, .. } = &self.settings;
        let name = user_dn.fill(&credentials.username);
        let (code, _) = connection.ask(&Request::bind(&name, credentials.password.expose())).await?;
        match code {
            0 => {}
            // noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials, unwillingToPerform.
            32 | 34 | 48 | 49 | 53 => return Ok(None),
            _ => return Err(Trouble::Bind(code)),
        }
        let sources = claims.iter().map(|claim| claim.attribute.as_str());
        let read = Request::read(&name, std::iter::once(subject.as_str()).chain(sources));
        // The password was right: such an answer is about this user, and no outage.
        let found = connection.ask(&read).await.map_err(|broken| match broken {
            Broken::Unreadable(why) => Trouble::Entry(why),
            broken => broken.into(),
        })?;
        match found {
            (0, Some(entry)) => Ok(Some(Entry(entry).identity(subject, claims)?)),
            (0 | 32 | 50, _) => Err(Trouble::NoEntry),
            (code, _) => Err(Trouble::Search(code)),
        }
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// Those that can be read; a certificate of one that cannot proves nothing.
fn systems_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

#[async_trait]
impl UserDirectory for LdapDirectory {
    async fn authenticate(&self, credentials: Credentials) -> Result<Option<Identity>, DirectoryError> {
        let password = credentials.password.expose();
        // Without a password a bind is not judged but anonymous, and succeeds (RFC 4513 section 5.1.2).
        if password.is_empty() || password.contains('\0') || !is_name(&credentials.username) {
            return Ok(None);
        }
        let Ok(_place) = self.places.try_acquire() else { return Err(DirectoryError::Busy) };
        if !self.breaker.admits(Instant::now()) {
            return Err(DirectoryError::Unavailable("it did not answer the last times".to_owned()));
        }
        let asked = tokio::time::timeout(self.settings.timeout, self.ask(&credentials)).await;
        let answer = asked.unwrap_or(Err(Trouble::Late));
        if answer.as_ref().err().is_none_or(Trouble::is_answer) {
            self.breaker.answered();
        } else {
            self.breaker.failed(Instant::now());
        }
        answer.map_err(|trouble| {
            let why = trouble.to_string();
            tracing::warn!(why, "sessions.users.ldap: the directory gives no judgement");
            // The try counts where it was judged: some of these answers are given to the right password only.
            if trouble.is_answer() { DirectoryError::Unclear(why) } else { DirectoryError::Unavailable(why) }
        })
    }

    /// An entry is read as its user, with the password.
    async fn standing(&self, _subject: &str) -> Result<Standing, DirectoryError> {
        Ok(Standing::Unchanged)
    }
}
