//! Tokens verified before: what makes a signature check rare. Only good tokens are kept, each under its whole
//! text, and each hit checks again what may have changed since.

use super::claims::VerifiedClaims;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, Weighter};
use std::fmt;
use std::hash::{Hash, Hasher, RandomState};
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
    entries: Cache<Token, Entry, Weight, RandomState>,
    observer: LookupObserver,
    numbers: AtomicU64,
}

/// A token's text, compared whole. A digest of it would cost more than all the rest of a look-up.
#[derive(PartialEq, Eq)]
struct Token(Box<[u8]>);

/// A token that is looked for.
struct Sought<'a>(&'a [u8]);

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
}

#[derive(Clone)]
struct Weight;

/// What one entry costs beside the token's text, which comes up again as JSON values, strings and headers.
const ENTRY_BYTES: u64 = 700;

impl Weighter<Token, Entry> for Weight {
    fn weight(&self, token: &Token, _: &Entry) -> u64 {
        token.0.len() as u64 * 6 + ENTRY_BYTES
    }
}

/// A usual entry, by which the cache is laid out.
const USUAL_BYTES: u64 = 4096;

/// Of the end of a token this much is hashed. It is the signature's: no two good tokens have the same by
/// chance, and only who can sign good tokens could choose it.
const HASHED_BYTES: usize = 32;

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let text = self.0;
        state.write(text.get(text.len().saturating_sub(HASHED_BYTES)..).unwrap_or_default());
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Sought(&self.0).hash(state);
    }
}

impl Equivalent<Token> for Sought<'_> {
    fn equivalent(&self, token: &Token) -> bool {
        *self.0 == *token.0
    }
}

impl VerifiedCache {
    /// A cache of about `max_bytes` bytes; zero keeps nothing.
    pub fn new(max_bytes: u64, observer: LookupObserver) -> Self {
        let usual = usize::try_from(max_bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        let entries = Cache::with(usual, max_bytes, Weight, RandomState::new(), DefaultLifecycle::default());
        Self { entries, observer, numbers: AtomicU64::new(0) }
    }

    /// A number no other verifier of this cache has, and no other token.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The claims of a token that is kept, if `is_good` says that it still is. The text may be any.
    pub(super) fn get(
        &self,
        token: &[u8],
        is_good: impl FnOnce(&Entry) -> bool,
    ) -> Option<Arc<VerifiedClaims>> {
        let entry = self.entries.get(&Sought(token)).filter(is_good)?;
        (self.observer)(Lookup::Hit);
        Some(entry.claims)
    }

    /// A token has to be verified.
    pub(super) fn missed(&self) {
        (self.observer)(Lookup::Miss);
    }

    pub(super) fn insert(&self, token: &str, entry: Entry) {
        self.entries.insert(Token(token.as_bytes().into()), entry);
    }
}

impl fmt::Debug for VerifiedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedCache").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cache(max_bytes: u64) -> VerifiedCache {
        VerifiedCache::new(max_bytes, Arc::new(|_| ()))
    }

    fn entry(subject: &str) -> Entry {
        let claims = Arc::new(VerifiedClaims::sample("corp", &json!({ "sub": subject })));
        Entry { claims, verifier: 0, issuer: 0, generation: 0 }
    }

    #[test]
    fn tokens_that_end_alike_are_kept_apart() {
        let cache = cache(1 << 20);
        let end = "x".repeat(2 * HASHED_BYTES);
        for subject in ["a", "b"] {
            cache.insert(&format!("{subject}{end}"), entry(subject));
        }
        for subject in ["a", "b"] {
            assert_eq!(cache.get(format!("{subject}{end}").as_bytes(), |_| true).unwrap().subject(), subject);
        }
        for other in ["", "x", &end, &format!("c{end}"), &format!("a{end}x"), &format!("A{end}")] {
            assert!(cache.get(other.as_bytes(), |_| true).is_none(), "{other}");
        }
    }

    #[test]
    fn it_stays_within_its_bytes_and_may_have_none() {
        let small = cache(100_000);
        for number in 0..1000 {
            small.insert(&format!("{number:0500}"), entry("a"));
        }
        assert!(small.entries.weight() <= 100_000 && small.entries.len() > 10, "{small:?}");
        let none = cache(0);
        none.insert("a", entry("a"));
        assert!(none.get(b"a", |_| true).is_none());
    }
}
