//! What a try to log in is counted under: keyed hashes, so that the counters name nobody.

use crate::session::derive::{derive, leading};
use crate::session::id::UserKey;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// The name of one counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name([u8; 16]);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// One try to log in: from a network, on an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub(crate) network: Name,
    pub(crate) network_shard: u8,
    pub(crate) account: Name,
    pub(crate) account_shard: u8,
    pub(crate) account_network: Name,
    /// What `account_network` is called under earlier secrets.
    pub(crate) formerly: Vec<Name>,
}

/// Names tries under the deployment's master secret.
pub struct AttemptNames {
    deployment: String,
    current: hmac::Key,
    previous: Vec<hmac::Key>,
}

impl AttemptNames {
    /// Derives the key from the deployment's master secret.
    pub fn new(master: &[u8], deployment: &str) -> Self {
        Self { deployment: deployment.to_owned(), current: key(master, deployment), previous: Vec::new() }
    }

    /// Also knows the networks that were remembered under an earlier master secret. Counters begin anew with
    /// the secret.
    #[must_use]
    pub fn with_previous(mut self, master: &[u8]) -> Self {
        self.previous.push(key(master, &self.deployment));
        self
    }

    /// A try on `username` from `address`.
    pub fn attempt(&self, username: &str, address: IpAddr) -> Attempt {
        let account = folded(username);
        let network = network(address).to_string();
        let name = |key, network: &str, account: &str| {
            Name(leading(hmac::sign(key, format!("{network}\n{account}").as_bytes()).as_ref()))
        };
        Attempt {
            network: name(&self.current, &network, ""),
            network_shard: shard(&network),
            account: name(&self.current, "", &account),
            account_shard: shard(&account),
            account_network: name(&self.current, &network, &account),
            formerly: self.previous.iter().map(|key| name(key, &network, &account)).collect(),
        }
    }
}

impl fmt::Debug for AttemptNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptNames").finish_non_exhaustive()
    }
}

/// The name as the laxest directory reads it, so that no spelling of one is another account here: databases and LDAP
/// servers ignore case, accents, width, spaces and what cannot be seen. Names that are merged share a budget, no more.
fn folded(username: &str) -> String {
    let unseen = |c: &char| {
        matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
            || (c.is_control() && !c.is_whitespace())
            || is_combining_mark(*c)
    };
    let seen = username.nfkd().filter(|c| !unseen(c));
    let plain: String = seen.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn key(master: &[u8], deployment: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &derive(master, "login throttle", deployment)[..])
}

/// Not keyed, so that a change of the secret leaves what it names in its hash slot.
fn shard(text: &str) -> u8 {
    let [first] = leading(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    first % UserKey::SHARDS
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !0xff)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_some_directory_takes_for_one_name_are_one_account() {
        let aliases = [
            " ALICE ",
            "\u{e1}lice",
            "\u{ff41}lice",
            "al\u{2170}ce",
            "a\u{200b}lice\0",
            "\u{a0}alice",
            "ali\u{ad}ce",
        ];
        for alias in aliases {
            assert_eq!(folded(alias), "alice", "{alias:?}");
        }
        assert_eq!(folded("Stra\u{df}e  1"), "strasse 1");
        assert_ne!(folded("alice"), folded("alice2"));
    }
}
