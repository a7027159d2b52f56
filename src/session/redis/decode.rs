//! What the scripts answer, as values; anything unexpected is an error.

use crate::clock::Timestamp;
use crate::session::family::{Family, Outcome, UserState};
use crate::session::id::{SessionId, UserKey};
use crate::session::record::Details;
use crate::session::store::{EndReason, Revocation, SessionRecord, StoreError};
use redis::{FromRedisValue, Value};
use std::cmp::Reverse;
use std::collections::HashMap;

/// The length of a state: what stands behind it are the details.
pub(super) const STATE: usize = 100;

/// The version of the form that sessions are stored in; `prelude.lua` writes it.
const VERSION: u8 = 1;

/// An entry of a stream: its id and its fields.
pub(super) type Entry = (String, HashMap<String, String>);

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// The state of a stored session, and its details; an ended one has none.
pub(super) fn family(record: &[u8]) -> Result<(Family, &[u8]), StoreError> {
    read(record).ok_or_else(|| corrupt("a session that is not of the form this version writes"))
}

/// In the order of `LAYOUT` in `prelude.lua`; numbers are big-endian.
fn read(record: &[u8]) -> Option<(Family, &[u8])> {
    let (&[version, why, confirmed, recoveries], rest) = record.split_first_chunk()?;
    let (generation, rest) = rest.split_first_chunk()?;
    let (epoch, mut rest) = rest.split_first_chunk()?;
    let mut times = [Timestamp::default(); 7];
    for time in &mut times {
        let (millis, behind) = rest.split_first_chunk()?;
        (*time, rest) = (Timestamp::from_millis(u64::from_be_bytes(*millis)), behind);
    }
    let [created, rotated, handed, recoveries_since, last_seen, idle_expiry, absolute_expiry] = times;
    let (secret_hash, details) = rest.split_first_chunk()?;
    let ended = if why == 0 { None } else { Some(end_reason(why)?) };
    let family = Family {
        secret_hash: *secret_hash,
        created,
        generation: u32::from_be_bytes(*generation),
        rotated,
        handed,
        confirmed: confirmed != 0,
        recoveries,
        recoveries_since,
        epoch: u32::from_be_bytes(*epoch),
        last_seen,
        idle_expiry,
        absolute_expiry,
        ended,
    };
    (version == VERSION).then_some((family, details))
}

/// A whole session.
pub(super) fn session(user: UserKey, id: SessionId, record: &[u8]) -> Result<SessionRecord, StoreError> {
    let (family, details) = family(record)?;
    with_details(user, id, &family, details)
}

/// The same, from a state and the details it was opened with.
pub(super) fn with_details(
    user: UserKey,
    id: SessionId,
    family: &Family,
    details: &[u8],
) -> Result<SessionRecord, StoreError> {
    let details: Details =
        serde_json::from_slice(details).map_err(|_| corrupt("a session with unreadable details"))?;
    Ok(details.with(id, user, family))
}

/// What TIME says: seconds, and millionths of one.
pub(super) fn server_time((seconds, micros): (u64, u64)) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

/// The living ones of a user's sessions, latest seen first, from the answers to: TIME, the user's epoch, and
/// each session. `clock` replaces the time that Redis says.
pub(super) fn living(
    user: UserKey,
    ids: &[SessionId],
    answers: Vec<Value>,
    clock: Option<Timestamp>,
) -> Result<Vec<SessionRecord>, StoreError> {
    let mut answers = answers.into_iter();
    let said = server_time(value(answers.next())?);
    let now = clock.unwrap_or(said);
    let epoch: Option<u32> = value(answers.next())?;
    let user_state = UserState { epoch: epoch.unwrap_or_default() };
    let mut living = Vec::with_capacity(ids.len());
    for id in ids {
        // It may be gone by now: ended, or expired.
        let Some(record) = value::<Option<Vec<u8>>>(answers.next())? else { continue };
        let (family, details) = family(&record)?;
        if family.is_alive(user_state, now) {
            living.push(with_details(user, *id, &family, details)?);
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

/// The number an [`EndReason`] is stored as; zero is none.
pub(super) const fn end_code(why: EndReason) -> u8 {
    match why {
        EndReason::Logout => 1,
        EndReason::Removed => 2,
        EndReason::Reused => 3,
        EndReason::Evicted => 4,
        EndReason::Disabled => 5,
    }
}

fn end_reason(code: u8) -> Option<EndReason> {
    use EndReason::{Disabled, Evicted, Logout, Removed, Reused};
    [Logout, Removed, Reused, Evicted, Disabled].into_iter().find(|why| end_code(*why) == code)
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

    /// A state as the scripts write it, its numbers counted up from 1.
    fn state() -> Vec<u8> {
        let mut state = vec![VERSION, 0, 1, 2];
        for number in [3_u32, 4] {
            state.extend_from_slice(&number.to_be_bytes());
        }
        for time in 5_u64..12 {
            state.extend_from_slice(&time.to_be_bytes());
        }
        state.extend_from_slice(&[12; 32]);
        state
    }

    #[test]
    fn a_state_is_read_field_by_field_and_the_details_stand_behind_it() {
        let mut record = state();
        assert_eq!(record.len(), STATE);
        record.extend_from_slice(b"{}");
        let (family, details) = family(&record).unwrap();
        assert_eq!(details, b"{}");
        let at = Timestamp::from_millis;
        let expected = Family {
            secret_hash: [12; 32],
            created: at(5),
            generation: 3,
            rotated: at(6),
            handed: at(7),
            confirmed: true,
            recoveries: 2,
            recoveries_since: at(8),
            epoch: 4,
            last_seen: at(9),
            idle_expiry: at(10),
            absolute_expiry: at(11),
            ended: None,
        };
        assert_eq!(family, expected);
    }

    #[test]
    fn every_reason_is_read_back_from_its_number() {
        use EndReason::{Disabled, Evicted, Logout, Removed, Reused};
        for why in [Logout, Removed, Reused, Evicted, Disabled] {
            let mut state = state();
            state[1] = end_code(why);
            assert_eq!(family(&state).unwrap().0.ended, Some(why));
        }
    }

    #[test]
    fn a_state_of_another_form_is_an_error() {
        for length in 0..STATE {
            assert!(family(&state()[..length]).is_err(), "{length} bytes");
        }
        for (at, byte) in [(0, 0), (0, VERSION + 1), (1, 6)] {
            let mut state = state();
            state[at] = byte;
            assert!(family(&state).is_err(), "{at}: {byte}");
        }
        let (user, id) = (UserKey::from_bytes([1; 12]), SessionId::from_bytes([2; 16]));
        assert!(session(user, id, &state()).is_err(), "an alive one without details");
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
