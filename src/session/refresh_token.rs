//! The refresh token: MAC'd, counted, bound to session, user, delivery and deployment. Pure.

use super::id::{SessionId, UserKey};
use crate::clock::Timestamp;

/// A refresh token whose MAC, delivery and absolute expiry were checked; the store has not been asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// The session it claims.
    pub session: SessionId,
    /// The user it belongs to.
    pub user: UserKey,
    /// SHA-256 of the secret inside it.
    pub secret_hash: [u8; 32],
    /// Its generation.
    pub generation: u32,
    /// When the session ends at the latest.
    pub absolute_expiry: Timestamp,
}
