//! Tokens verified before: what makes a signature check rare. Only good tokens are kept, under the SHA-256
//! of the whole token, and each hit checks again what may have changed since.

use super::claims::{TokenHash, VerifiedClaims};
use aws_lc_rs::digest;
use moka::sync::Cache;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a look-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The token was verified before and is still good.
    Hit,
    /// It has to be verified.
    Miss,
}

/// Who is told of each look-up.
pub type LookupObserver = Arc<dyn Fn(Lookup) + Send + Sync>;

/// The cache. It outlives a change of the configuration; its entries do not.
pub struct VerifiedCache {
    entries: Cache<TokenHash, Entry>,
    observer: LookupObserver,
    verifiers: AtomicU64,
}

/// A verified token, and by what it was verified.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) claims: Arc<VerifiedClaims>,
    /// Which verifier, hence which configuration.
    pub(super) verifier: u64,
    /// Which of that verifier's issuers.
    pub(super) issuer: usize,
    /// Which generation of that issuer's keys.
    pub(super) generation: u64,
    pub(super) token_bytes: usize,
}

/// What one entry costs beside the token's text, which comes up again as JSON values and strings.
const ENTRY_BYTES: usize = 700;

impl VerifiedCache {
    /// A cache of about `max_bytes` bytes; zero keeps nothing.
    pub fn new(max_bytes: u64, observer: LookupObserver) -> Self {
        let weight = |_: &TokenHash, entry: &Entry| {
            let bytes = entry.token_bytes.saturating_mul(4).saturating_add(ENTRY_BYTES);
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let entries = Cache::builder().max_capacity(max_bytes).weigher(weight).build();
        Self { entries, observer, verifiers: AtomicU64::new(0) }
    }

    /// A number no other verifier of this cache has.
    pub(super) fn register(&self) -> u64 {
        self.verifiers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn key(token: &str) -> TokenHash {
        let mut key = TokenHash::default();
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        key.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        key
    }

    /// The entry, if `is_good` says that it still is.
    pub(super) fn get(
        &self,
        key: &TokenHash,
        is_good: impl FnOnce(&Entry) -> bool,
    ) -> Option<Arc<VerifiedClaims>> {
        let entry = self.entries.get(key).filter(is_good);
        (self.observer)(if entry.is_some() { Lookup::Hit } else { Lookup::Miss });
        entry.map(|entry| entry.claims)
    }

    pub(super) fn insert(&self, key: TokenHash, entry: Entry) {
        self.entries.insert(key, entry);
    }
}

impl fmt::Debug for VerifiedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedCache").field("entries", &self.entries.entry_count()).finish_non_exhaustive()
    }
}
