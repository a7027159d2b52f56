//! The LDAP directory: it judges the password when the gateway binds as the user, and the user's own entry says who
//! that is.

mod dn;
mod entry;

pub use dn::{Template, is_attribute};
pub use entry::ClaimSource;

use super::file::is_name;
use super::{Credentials, DirectoryError, Identity, Standing, UserDirectory};
use crate::breaker::Breaker;
use crate::panics::{Place, contain};
use async_trait::async_trait;
use entry::{Entry, Misfit};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Logins the directory is asked about at the same time; beyond it they are refused for now.
const AT_ONCE: usize = 64;

/// How the directory is asked, and how entries are read (`sessions.users.ldap`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapSettings {
    /// `ldaps://host:636`, or `ldap://host:389`.
    pub url: String,
    /// Whether a connection of `ldap` is encrypted before anything is said on it.
    pub start_tls: bool,
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

/// Why the directory cannot be asked as configured.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The authorities are none.
    #[error("ca_file: {0}")]
    Ca(String),
}

/// Users of an LDAP directory.
pub struct LdapDirectory {
    settings: LdapSettings,
    connecting: LdapConnSettings,
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
    #[error("{0}")]
    Ldap(#[from] LdapError),
    #[error("it closed the connection")]
    Closed,
    #[error("no answer in time")]
    Late,
    #[error("its answer cannot be read")]
    Unreadable,
    #[error("it answered {what} with result code {code}")]
    Code { what: &'static str, code: u32 },
    #[error("after a good login it gave no entry of the user's own name; let users read their own entry")]
    NoEntry,
    #[error("{0}")]
    Misfit(#[from] Misfit),
}

impl Trouble {
    /// Whether the directory was there and said something of use. Busy and unavailable (51, 52) are an outage.
    const fn is_answer(&self) -> bool {
        match self {
            Self::Ldap(_) | Self::Closed | Self::Late | Self::Unreadable => false,
            Self::Code { code, .. } => !matches!(*code, 51 | 52),
            Self::NoEntry | Self::Misfit(_) => true,
        }
    }
}

impl LdapDirectory {
    /// A directory that asks this server. Nothing is connected to yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(settings: LdapSettings) -> Result<Self, SettingsError> {
        let mut connecting = LdapConnSettings::new().set_starttls(settings.start_tls);
        if let Some(pem) = &settings.ca {
            connecting = connecting.set_config(Arc::new(trusting(pem).map_err(SettingsError::Ca)?));
        }
        let places = Semaphore::new(AT_ONCE);
        Ok(Self { settings, connecting, breaker: Breaker::default(), places })
    }

    async fn ask(&self, credentials: &Credentials) -> Result<Option<Identity>, Trouble> {
        // One task drives the connection and talks on it, so that a deadline ends both. The library panics on some
        // answers; that is an outage like any other.
        let talk = async {
            let connected = LdapConnAsync::with_settings(self.connecting.clone(), &self.settings.url);
            let (connection, ldap) = connected.await?;
            let mut driven = std::pin::pin!(connection.drive());
            tokio::select! {
                biased;
                answer = self.judge(ldap, credentials) => answer,
                ended = &mut driven => Err(ended.err().map_or(Trouble::Closed, Trouble::Ldap)),
            }
        };
        let talk = contain(Place::Users, talk);
        let answered = tokio::time::timeout(self.settings.timeout, talk).await.map_err(|_| Trouble::Late)?;
        answered.map_err(|_| Trouble::Unreadable)?
    }

    async fn judge(&self, mut ldap: Ldap, credentials: &Credentials) -> Result<Option<Identity>, Trouble> {
        let LdapSettings { user_dn, subject, claims, .. } = &self.settings;
        let name = user_dn.fill(&credentials.username);
        match ldap.simple_bind(&name, credentials.password.expose()).await?.rc {
            0 => {}
            // noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials, unwillingToPerform.
            32 | 34 | 48 | 49 | 53 => return Ok(None),
            code => return Err(Trouble::Code { what: "the bind", code }),
        }
        let attributes: Vec<&str> = [subject.as_str()]
            .into_iter()
            .chain(claims.iter().map(|claim| claim.attribute.as_str()))
            .collect();
        let found = ldap.search(&name, Scope::Base, "(objectClass=*)", attributes).await?;
        let entry =
            match (found.1.rc, found.0.into_iter().find(|found| !found.is_ref() && !found.is_intermediate()))
            {
                (0, Some(entry)) => SearchEntry::construct(entry),
                (0 | 32 | 50, _) => return Err(Trouble::NoEntry),
                (code, _) => return Err(Trouble::Code { what: "the search of the user's own entry", code }),
            };
        let texts = entry.attrs.into_iter().map(|(name, values)| (name, Some(values)));
        let bytes = entry.bin_attrs.into_keys().map(|name| (name, None));
        let attributes: HashMap<_, _> =
            texts.chain(bytes).map(|(name, values)| (name.to_ascii_lowercase(), values)).collect();
        Ok(Some(Entry(attributes).identity(subject, claims)?))
    }
}

fn trusting(pem: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| error.to_string())?;
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
        let answer = self.ask(&credentials).await;
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
