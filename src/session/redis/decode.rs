//! What the scripts answer, as values; anything unexpected is an error.

use crate::clock::Timestamp;
use crate::session::family::{Family, Outcome, UserState};
use crate::session::id::{SessionId, UserKey};
use crate::session::record::Details;
use crate::session::store::{EndReason, Revocation, SessionRecord, StoreError};
use redis::{FromRedisValue, Value};
use serde::Deserialize as _;
use serde::de::value::{Error, StrDeserializer};
use std::cmp::Reverse;
use std::collections::HashMap;

/// The fields of a state, in the order in which the scripts list them.
pub(super) const FIELDS: [&str; 13] = ["h", "c", "n", "r", "t", "f", "b", "p", "e", "s", "i", "a", "x"];

/// A state as listed: one value per field.
pub(super) type State = Vec<Option<Vec<u8>>>;

/// What tells whether a session is ended: why it was, the epoch it was opened under, the user's epoch, and
/// whether it had to make room.
pub(super) type Standing = ((Option<String>, Option<u32>), Option<u32>, Option<f64>);

/// An entry of a stream: its id and its fields.
pub(super) type Entry = (String, HashMap<String, String>);

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// `None` if there is no such session.
pub(super) fn family(state: State) -> Result<Option<Family>, StoreError> {
    if state.len() != FIELDS.len() {
        return Err(corrupt("a session of the wrong shape"));
    }
    if state.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut state = state.into_iter();
    let mut next = || state.next().flatten();
    // In the order of FIELDS.
    Ok(Some(Family {
        secret_hash: next()
            .and_then(|hash| hash.try_into().ok())
            .ok_or_else(|| corrupt("a session without secret"))?,
        created: time(next())?,
        generation: number(next())?,
        rotated: time(next())?,
        handed: time(next())?,
        confirmed: number::<u8>(next())? != 0,
        recoveries: number(next())?,
        recoveries_since: time(next())?,
        epoch: number(next())?,
        last_seen: time(next())?,
        idle_expiry: time(next())?,
        absolute_expiry: time(next())?,
        ended: next().map(|why| end_reason(&why)).transpose()?,
    }))
}

pub(super) fn record(
    user: UserKey,
    id: SessionId,
    family: &Family,
    details: &[u8],
) -> Result<SessionRecord, StoreError> {
    let details: Details =
        serde_json::from_slice(details).map_err(|_| corrupt("a session with unreadable details"))?;
    Ok(details.with(id, user, family))
}

/// The living ones of a user's sessions, latest seen first, from the answers to: TIME, the user's epoch, and
/// for each session its state and its details. `clock` replaces the time that Redis says.
pub(super) fn living(
    user: UserKey,
    ids: &[SessionId],
    answers: Vec<Value>,
    clock: Option<Timestamp>,
) -> Result<Vec<SessionRecord>, StoreError> {
    let mut answers = answers.into_iter();
    let (seconds, micros): (u64, u64) = value(answers.next())?;
    let now = clock.unwrap_or(Timestamp::from_millis(seconds.saturating_mul(1000) + micros / 1000));
    let epoch: Option<u32> = value(answers.next())?;
    let user_state = UserState { epoch: epoch.unwrap_or_default() };
    let mut living = Vec::with_capacity(ids.len());
    for id in ids {
        let (state, details) = (answers.next(), answers.next());
        // Either may be gone by now: ended, or expired.
        let Some(family) = family(value(state)?)? else { continue };
        let Some(details) = value::<Option<Vec<u8>>>(details)? else { continue };
        if family.is_alive(user_state, now) {
            living.push(record(user, *id, &family, &details)?);
        }
    }
    living.sort_by_key(|session| (Reverse(session.last_seen), session.id));
    Ok(living)
}

fn value<T: FromRedisValue>(value: Option<Value>) -> Result<T, StoreError> {
    let value = value.ok_or_else(|| corrupt("an answer that is too short"))?;
    T::from_redis_value(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn outcome(word: &str) -> Result<Outcome, StoreError> {
    Ok(match word {
        "rotated" => Outcome::Rotated,
        "same" => Outcome::Same,
        "retry" => Outcome::Retry,
        "recovered" => Outcome::Recovered,
        "healed" => Outcome::Healed,
        "reused" => Outcome::Reused,
        "revoked" => Outcome::Revoked,
        "expired" => Outcome::Expired,
        "unknown" => Outcome::Unknown,
        "ahead" => Outcome::Ahead,
        "mismatch" => Outcome::Mismatch,
        _ => return Err(corrupt("an outcome this version does not know")),
    })
}

pub(super) fn session_id(text: &str) -> Result<SessionId, StoreError> {
    SessionId::parse(text).ok_or_else(|| corrupt("an identifier that is none"))
}

fn user_key(text: &str) -> Result<UserKey, StoreError> {
    UserKey::parse(text).ok_or_else(|| corrupt("a user that is none"))
}

/// The word an [`EndReason`] is stored as.
pub(super) const fn end_word(why: EndReason) -> &'static str {
    match why {
        EndReason::Logout => "logout",
        EndReason::Removed => "removed",
        EndReason::Reused => "reused",
        EndReason::Evicted => "evicted",
        EndReason::Disabled => "disabled",
    }
}

fn end_reason(word: &[u8]) -> Result<EndReason, StoreError> {
    let word = std::str::from_utf8(word).unwrap_or_default();
    EndReason::deserialize(StrDeserializer::<Error>::new(word))
        .map_err(|_| corrupt("an end for a reason this version does not know"))
}

/// `None` for an entry of a kind that a later version may add.
pub(super) fn revocation(fields: &HashMap<String, String>) -> Result<Option<Revocation>, StoreError> {
    let text = |name: &str| fields.get(name).map(|text| text.clone().into_bytes());
    let until = time(text("t"))?;
    if let Some(session) = fields.get("s") {
        let user = user_key(fields.get("u").map_or("", String::as_str))?;
        return Ok(Some(Revocation::Session { session: session_id(session)?, user, until }));
    }
    let Some(user) = fields.get("u") else { return Ok(None) };
    let user = user_key(user)?;
    Ok(Some(Revocation::User { user, epoch: number(text("e"))?, until }))
}

fn time(value: Option<Vec<u8>>) -> Result<Timestamp, StoreError> {
    number(value).map(Timestamp::from_millis)
}

fn number<T: std::str::FromStr>(value: Option<Vec<u8>>) -> Result<T, StoreError> {
    value
        .and_then(|value| String::from_utf8(value).ok()?.parse().ok())
        .ok_or_else(|| corrupt("a number that is missing or none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_back_from_its_word() {
        use EndReason::{Disabled, Evicted, Logout, Removed, Reused};
        for why in [Logout, Removed, Reused, Evicted, Disabled] {
            assert_eq!(end_reason(end_word(why).as_bytes()).unwrap(), why);
        }
        assert!(matches!(end_reason(b"\xff"), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_state_of_another_shape_is_an_error() {
        assert_eq!(family(vec![None; FIELDS.len()]).unwrap(), None);
        assert!(family(vec![None; 3]).is_err());
        let mut state = vec![Some(b"1".to_vec()); FIELDS.len()];
        assert!(family(state.clone()).is_err(), "a hash of one byte");
        state[0] = Some(vec![1; 32]);
        state[12] = None;
        assert!(family(state.clone()).unwrap().is_some());
        state[2] = Some(b"-1".to_vec());
        assert!(family(state).is_err());
    }

    #[test]
    fn a_revocation_of_an_unknown_kind_is_passed_over() {
        let fields = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(revocation(&fields(&[("t", "5"), ("k", "kid")])).unwrap(), None);
        assert!(revocation(&fields(&[("t", "5"), ("s", "?")])).is_err());
        assert!(revocation(&fields(&[("s", "AQEBAQEBAQEBAQEBAQEBAQ")])).is_err());
    }
}
