//! The stored form of a session's unchanging part, the same in every store.

use super::family::Family;
use super::id::{SessionId, UserKey};
use super::store::{Delivery, NewSession, SessionRecord};
use crate::json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a session was opened with and never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Details {
    #[serde(rename = "sub")]
    subject: String,
    #[serde(deserialize_with = "json::members")]
    claims: Map<String, Value>,
    delivery: Delivery,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

impl From<NewSession> for Details {
    fn from(new: NewSession) -> Self {
        let NewSession { subject, claims, delivery, device, address, .. } = new;
        Self { subject, claims, delivery, device, address }
    }
}

impl Details {
    /// The whole session, given where its family stands.
    pub(super) fn with(self, id: SessionId, user: UserKey, family: &Family) -> SessionRecord {
        SessionRecord {
            id,
            user,
            subject: self.subject,
            claims: self.claims,
            delivery: self.delivery,
            created: family.created,
            last_seen: family.last_seen,
            absolute_expiry: family.absolute_expiry,
            idle_expiry: family.idle_expiry,
            generation: family.generation,
            epoch: family.epoch,
            device: self.device,
            address: self.address,
        }
    }
}
