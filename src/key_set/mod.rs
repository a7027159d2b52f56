//! Key sets: the keys an issuer signs with, where they come from, and how they are kept fresh.

mod algorithm;
pub mod cache;
mod fetch;
mod jwk;
mod key;
mod pem;
mod source;

pub use algorithm::Algorithm;
pub use fetch::FetchError;
pub use key::Flaw;
pub use source::{KeySetSettings, RefreshSettings, Source};

use crate::json::{self, JsonError};
use key::Key;
use serde_json::Value;

/// The longest key set taken, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// The most keys a set may have.
pub const MAX_KEYS: usize = 100;

/// The most keys tried for one token. More than one come into question only where a `kid` is repeated or absent.
const MAX_TRIES: usize = 4;

/// The keys of one issuer. A set is never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
}

/// A key that was offered and is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its `kid`, if it has one.
    pub kid: Option<String>,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// Why a text is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`MAX_BYTES`].
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// More keys than [`MAX_KEYS`].
    #[error("it has {0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
    /// Not a strict JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A JSON object without the array `keys` (RFC 7517 section 5.1).
    #[error("it has no array `keys`")]
    NoKeys,
    /// Not one of its keys can be used; those that were offered are listed.
    #[error("none of its {} keys can be used{}", .0.len(), first_flaw(.0))]
    NoUsableKey(Vec<SkippedKey>),
}

fn first_flaw(skipped: &[SkippedKey]) -> String {
    skipped.first().map(|key| format!(": {}", key.flaw)).unwrap_or_default()
}

/// What a set says about a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A key of the set made it.
    Good,
    /// The key it names did not make it.
    Bad,
    /// The key it names is not one for this algorithm.
    WrongAlgorithm,
    /// No key has this name; `tried` if keys without a name were tried in vain.
    UnknownKey {
        /// Whether there were keys to try.
        tried: bool,
    },
}

impl KeySet {
    /// Reads a set from a file: a JWKS, or PEM public keys.
    ///
    /// # Errors
    /// [`KeySetError`] unless at least one key can be used.
    pub fn from_text(text: &[u8]) -> Result<Self, KeySetError> {
        if text.trim_ascii_start().starts_with(b"{") { Self::from_jwks(text) } else { Self::from_pem(text) }
    }

    /// Reads a JWKS (RFC 7517 section 5) key by key: what is wrong with one does not harm the others.
    ///
    /// # Errors
    /// [`KeySetError`] unless at least one key can be used.
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLong);
        }
        let document = json::object(text)?;
        let Some(Value::Array(keys)) = document.get("keys") else { return Err(KeySetError::NoKeys) };
        Self::collect(keys.iter().map(|jwk| (jwk::kid(jwk), jwk::parse(jwk))))
    }

    /// Reads every PEM public key of a text. They have no `kid`.
    ///
    /// # Errors
    /// [`KeySetError`] unless at least one key can be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLong);
        }
        Self::collect(pem::parse(text).into_iter().map(|key| (None, key)))
    }

    /// The set of one shared secret.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self { keys: vec![Key::secret(secret)], skipped: Vec::new() }
    }

    fn collect<'a>(
        offered: impl ExactSizeIterator<Item = (Option<&'a str>, Result<Key, Flaw>)>,
    ) -> Result<Self, KeySetError> {
        if offered.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(offered.len()));
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (kid, key) in offered {
            match key {
                Ok(key) if keys.contains(&key) => {}
                Ok(key) => keys.push(key),
                Err(flaw) => skipped.push(SkippedKey { kid: kid.map(ToOwned::to_owned), flaw }),
            }
        }
        if keys.is_empty() { Err(KeySetError::NoUsableKey(skipped)) } else { Ok(Self { keys, skipped }) }
    }

    /// How many keys can be used; at least one.
    pub fn size(&self) -> usize {
        self.keys.len()
    }

    /// The keys that were offered and are not used.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Whether both hold the same keys in the same order.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.keys == other.keys
    }

    /// Checks a signature over `message`. A `kid` selects the keys of that name; only if there are none are
    /// the keys without a name tried. Without a `kid` every key for the algorithm is, if they are few.
    pub fn verify(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Verdict {
        let good = |key: &&Key| key.verifies(algorithm, message, signature);
        let fitting = || self.keys.iter().filter(|key| key.fits(algorithm));
        let Some(kid) = kid else {
            return match fitting().count() {
                0 => Verdict::UnknownKey { tried: false },
                1..=MAX_TRIES if fitting().any(|key| good(&key)) => Verdict::Good,
                1..=MAX_TRIES => Verdict::Bad,
                _ => Verdict::UnknownKey { tried: false },
            };
        };
        let is_named = |key: &&Key| key.kid.as_deref() == Some(kid);
        if self.keys.iter().any(|key| is_named(&key)) {
            let mut named = fitting().filter(is_named).take(MAX_TRIES).peekable();
            if named.peek().is_none() {
                return Verdict::WrongAlgorithm;
            }
            return if named.any(|key| good(&key)) { Verdict::Good } else { Verdict::Bad };
        }
        let mut nameless = fitting().filter(|key| key.kid.is_none()).take(MAX_TRIES).peekable();
        let tried = nameless.peek().is_some();
        if nameless.any(|key| good(&key)) { Verdict::Good } else { Verdict::UnknownKey { tried } }
    }
}
