//! Where an issuer's keys come from, and how often they are asked for.

use super::origin::KeyHost;
use crate::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A JWKS at this `http` or `https` address.
    Url(String),
    /// The `jwks_uri` of the issuer's `/.well-known/openid-configuration`, at the issuer's own origin or at
    /// one of these hosts.
    Discovery(Vec<KeyHost>),
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
            (Self::Discovery(a), Self::Discovery(b)) => a == b,
            (Self::File(a), Self::File(b)) => a == b,
            (Self::Secret(a), Self::Secret(b)) => a.equals(b.expose()),
            _ => false,
        }
    }
}

/// How often the keys are asked for, and how long they serve when nobody answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshSettings {
    /// A set older than this is due; the refresh starts ahead of it, at 80 %. It alone decides: what the
    /// answer says in `Cache-Control` is not read, so that no issuer (and nobody between) can pin an old set
    /// for a year, or have every gateway ask again each second.
    pub every: Duration,
    /// A set not confirmed for this long is used no more; zero: no longer than `every`.
    pub stale_for: Duration,
    /// The whole of one fetch, and the longest a request waits for it.
    pub timeout: Duration,
    /// Between two fetches forced by unknown keys, and after a failed fetch. While there is no key to use at
    /// all, the background asks sooner: every second, or every tenth of a cooldown longer than ten.
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

/// How soon the background asks again where every token has to be refused for want of keys.
const COLD_RETRY: Duration = Duration::from_secs(1);

impl RefreshSettings {
    /// How long a set may be used after the issuer last confirmed it.
    pub(super) fn longest_use(&self) -> Duration {
        if self.stale_for.is_zero() { self.every } else { self.stale_for }
    }

    /// How long the background waits after a failed fetch. With keys in hand: the cooldown. Without any, each
    /// second of waiting is a second of refusals after the issuer has returned: one second then, or a tenth
    /// of a cooldown that is longer than ten, and never more than the cooldown.
    pub(super) fn retry(&self, has_keys: bool) -> Duration {
        if has_keys { self.cooldown } else { self.cooldown.min(COLD_RETRY.max(self.cooldown / 10)) }
    }
}

/// One issuer's key set, as configured.
#[derive(Debug, Clone)]
pub struct KeySetSettings {
    /// Where the keys are.
    pub source: Source,
    /// How often they are asked for.
    pub refresh: RefreshSettings,
    /// Where the last good set is kept for a start while the issuer is down; only what is fetched is kept.
    pub copy_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_keys_the_background_asks_again_soon_but_never_after_more_than_the_cooldown() {
        let retry = |cooldown, has_keys| {
            let cooldown = Duration::from_millis(cooldown);
            RefreshSettings { cooldown, ..RefreshSettings::default() }.retry(has_keys).as_millis()
        };
        for (cooldown, cold) in [(0, 0), (300, 300), (1000, 1000), (10_000, 1000), (60_000, 6000)] {
            assert_eq!((retry(cooldown, true), retry(cooldown, false)), (u128::from(cooldown), cold));
        }
    }
}
