//! Names of keys. All of one user's lie in the hash slot of the user's shard, so that each transition is
//! one script also on a cluster.

use crate::session::id::{SessionId, UserKey};
use crate::session::throttle::Name;

/// A session: where its family stands, and what it was opened with (a string; see decode.rs).
pub(super) fn session(user: UserKey, session: SessionId) -> String {
    format!("rs:{{{}}}:{user}:{session}", user.shard())
}

/// A user's epoch (a number).
pub(super) fn user(user: UserKey) -> String {
    format!("us:{{{}}}:{user}", user.shard())
}

/// A user's sessions, by when they idle out (a sorted set).
pub(super) fn index(user: UserKey) -> String {
    format!("ux:{{{}}}:{user}", user.shard())
}

/// A user's sessions that had to make room for others, by when they would have expired (a sorted set).
pub(super) fn evicted(user: UserKey) -> String {
    format!("ue:{{{}}}:{user}", user.shard())
}

/// The revocations of a shard (a stream).
pub(super) fn stream(shard: u8) -> String {
    format!("rv:{{{shard}}}")
}

/// What is written last to a shard, to see when a replica has it.
pub(super) fn written(shard: u8) -> String {
    format!("rw:{{{shard}}}")
}

/// When the throttle's bucket of a network is full again (a time).
pub(super) fn network(shard: u8, name: Name) -> String {
    format!("tn:{{{shard}}}:{name}")
}

/// The same of an account.
pub(super) fn account(shard: u8, name: Name) -> String {
    format!("ta:{{{shard}}}:{name}")
}

/// The same of an account and a network; in the slot of the account.
pub(super) fn account_network(shard: u8, name: Name) -> String {
    format!("tp:{{{shard}}}:{name}")
}

/// Until when a network is known to an account (a time); in the slot of the account.
pub(super) fn known_network(shard: u8, name: Name) -> String {
    format!("tk:{{{shard}}}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_keys_share_one_hash_tag() {
        let (alice, id) = (UserKey::from_bytes([18; 12]), SessionId::from_bytes([1; 16]));
        let keys = [session(alice, id), user(alice), index(alice), evicted(alice), stream(alice.shard())];
        assert!(keys.iter().all(|key| key.contains("{2}")), "{keys:?}");
    }
}
