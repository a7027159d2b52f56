//! The life of a signing key: published before it signs, signing, and published for as long as what it signed is
//! good. All of it is in the names of the files, so that gateways that share or copy a folder agree without a word.

use super::key_folder::KeyFile;
use super::signing_key::SigningAlgorithm;
use crate::clock::Timestamp;
use std::time::Duration;

/// How long upstreams may keep our published keys before they ask again: the `max-age` of the key set.
pub const PUBLISHED_FOR: Duration = Duration::from_secs(300);

/// How long a new key is published before it signs: twice as long as upstreams may know only the old ones, so that
/// there is time to copy it to other gateways too.
pub const PENDING_FOR: Duration = Duration::from_secs(600);

/// Longer than any assertion, and time for clocks that differ.
const GRACE: Duration = Duration::from_secs(3600);

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Published, and not yet signing.
    Pending,
    /// Signing.
    Active,
    /// Published for what it signed, or for what verifies with another algorithm.
    Retired,
}

impl Stage {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// From when on a key of this file name signs: `20261122T041130Z.pem`, or with more behind the time. Any other name
/// says nothing about time; such a key signs from the beginning.
pub fn signs_from(name: &str) -> Timestamp {
    name.get(..16).and_then(Timestamp::from_compact).unwrap_or_default()
}

/// The file name of a key that signs from then on.
pub fn name_of(from: Timestamp) -> String {
    format!("{}.pem", from.to_compact())
}

/// The key that signs now, of those in the order of their names: the one whose time has come last. Without any whose
/// time has come, the next one does: better early than not at all.
pub fn active(files: &[KeyFile], algorithm: SigningAlgorithm, now: Timestamp) -> Option<&KeyFile> {
    let fit = || files.iter().filter(|file| file.key.algorithm() == algorithm);
    // Of equal ones the first by name.
    let latest = |one: &'_ KeyFile, other: &'_ KeyFile| other.from > one.from;
    let begun = fit().filter(|file| file.from <= now);
    let last = begun.reduce(|one, other| if latest(one, other) { other } else { one });
    last.or_else(|| fit().min_by_key(|file| file.from))
}

/// Where a key is in its life.
pub fn stage(file: &KeyFile, files: &[KeyFile], algorithm: SigningAlgorithm, now: Timestamp) -> Stage {
    let active = active(files, algorithm, now);
    if active.is_some_and(|active| active.key.kid() == file.key.kid()) {
        Stage::Active
    } else if file.from > now {
        Stage::Pending
    } else {
        Stage::Retired
    }
}

/// The keys that nobody needs any more: another of their algorithm took over so long ago that nothing they signed
/// is good. `lifetime` is that of access tokens.
pub fn spent(files: &[KeyFile], lifetime: Duration, now: Timestamp) -> Vec<&KeyFile> {
    let needed = lifetime.saturating_add(GRACE);
    let has_follower = |file: &KeyFile| {
        files.iter().any(|other| {
            other.key.algorithm() == file.key.algorithm()
                && other.from > file.from
                && other.from.plus(needed) <= now
        })
    };
    files.iter().filter(|file| has_follower(file)).collect()
}
