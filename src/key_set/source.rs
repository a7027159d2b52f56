//! Where an issuer's keys come from, and how often they are asked for.

use crate::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A JWKS at this `http` or `https` address.
    Url(String),
    /// The `jwks_uri` of the issuer's `/.well-known/openid-configuration`.
    Discovery,
    /// A file with a JWKS or with PEM public keys.
    File(PathBuf),
    /// A shared secret for HMAC; its bytes are the key.
    Secret(Secret<Vec<u8>>),
}

impl Source {
    /// Whether a set obtained from `other` could as well have come from here.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Discovery, Self::Discovery) => true,
            (Self::File(a), Self::File(b)) => a == b,
            (Self::Secret(a), Self::Secret(b)) => a.equals(b.expose()),
            _ => false,
        }
    }
}

/// How often the keys are asked for, and how long they serve when nobody answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshSettings {
    /// A set older than this is due; the refresh starts ahead of it, at 80 %.
    pub every: Duration,
    /// A set not confirmed for this long is used no more; zero: no longer than `every`.
    pub stale_for: Duration,
    /// The whole of one fetch, and the longest a request waits for it.
    pub timeout: Duration,
    /// Between two fetches forced by unknown keys, and after a failed fetch.
    pub cooldown: Duration,
}

impl Default for RefreshSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(600),
            stale_for: Duration::from_secs(24 * 3600),
            timeout: Duration::from_secs(3),
            cooldown: Duration::from_secs(10),
        }
    }
}

/// One issuer's key set, as configured.
#[derive(Debug, Clone)]
pub struct KeySetSettings {
    /// Where the keys are.
    pub source: Source,
    /// How often they are asked for.
    pub refresh: RefreshSettings,
}
