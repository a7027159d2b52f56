//! Names of sessions and users as the stores and tokens see them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;

/// A session's identifier: 128 random bits, written as 22 base64url characters (the `sid` claim).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// From its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the 22 characters that [`fmt::Display`] writes; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// How the stores name a user: a keyed hash of the subject, so that a copy of the store lists no
/// subjects as keys. All of one user's entries lie in the hash slot that `shard` names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey([u8; 12]);

impl UserKey {
    /// Number of shards; fixed for the life of a deployment.
    pub const SHARDS: u8 = 16;

    /// From its 12 bytes.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Its 12 bytes.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// The shard, below [`Self::SHARDS`], in which everything of this user lies.
    pub const fn shard(&self) -> u8 {
        let [.., last] = self.0;
        last % Self::SHARDS
    }

    /// Reads the 16 characters that [`fmt::Display`] writes; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({self})")
    }
}

/// What an access token of ours says about the session it belongs to (its private claims
/// `sid`, `gen`, `usr`, `uep`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRef {
    /// The session (`sid`).
    pub session: SessionId,
    /// The user (`usr`).
    pub user: UserKey,
    /// The refresh-token generation it was minted beside (`gen`): seeing it used confirms delivery.
    pub generation: u32,
    /// The user's epoch at issue (`uep`); logout-all raises the user's epoch.
    pub epoch: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_round_trip_and_reject_the_rest() {
        let id = SessionId::from_bytes([7; 16]);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        assert_eq!(SessionId::parse("short"), None);
        assert_eq!(SessionId::parse(&format!("{id}A")), None);
        let user = UserKey::from_bytes([9; 12]);
        assert_eq!(UserKey::parse(&user.to_string()), Some(user));
    }

    #[test]
    fn the_shard_comes_from_the_key_alone() {
        assert_eq!(UserKey::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 35]).shard(), 3);
    }
}
