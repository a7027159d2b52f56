//! What every session store must do, as claims that each store's tests run against it.

mod claims;
mod races;
mod walk;

pub(super) use claims::*;
pub(super) use races::*;
pub(super) use walk::*;

use super::family::RotationPolicy;
use super::id::{SessionId, SessionRef, UserKey};
use super::refresh_token::Presented;
use super::store::{Cursor, Delivery, NewSession, Opened, Revocation, SessionRecord, SessionStore};
use crate::clock::{Clock as _, ManualClock, SystemClock, Timestamp, random_bytes};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// A store under test, empty at first, on a clock that the test moves.
#[async_trait]
pub(super) trait Rig: Send + Sync + Sized {
    /// An empty store.
    async fn start(policy: RotationPolicy) -> Self;
    /// The store.
    fn store(&self) -> &Arc<dyn SessionStore>;
    /// The clock the store goes by.
    fn clock(&self) -> &ManualClock;
    /// Overwrites what is stored of a session with garbage.
    async fn damage(&self, user: UserKey, session: SessionId);
}

/// A clock ahead of the real one, so that a store that also goes by the real one (Redis, to expire keys)
/// removes nothing during a test.
pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(SystemClock.now().plus(Duration::from_secs(7 * 24 * 3600))))
}

/// Makes each claim a test of its own, or all of them one test where rigs are costly and share
/// something (`share` makes it, and it is there until what was returned is dropped).
macro_rules! every_store_must {
    (in_turn $rig:ty: $($claim:ident)+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn every_claim_about_stores_holds() {
            let _shared = <$rig>::share();
            $(
                println!("{}", stringify!($claim));
                $crate::session::conformance::$claim::<$rig>().await;
            )+
        }
    };
    (alone $rig:ty: $($claim:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $claim() {
            $crate::session::conformance::$claim::<$rig>().await;
        }
    )+};
    ($rig:ty) => {
        $crate::session::conformance::every_store_must! { alone $rig }
    };
    ($how:ident $rig:ty) => {
        $crate::session::conformance::every_store_must! { $how $rig:
            a_login_opens_generation_zero_and_keeps_what_it_was_given
            a_repeated_login_answers_like_the_first
            a_taken_identifier_is_refused
            a_session_of_another_user_is_unknown
            an_ended_session_is_revoked_until_it_would_have_expired
            a_session_is_ended_only_by_its_user_and_only_once
            logout_all_ends_what_there_is_and_nothing_later
            a_replay_ends_the_session_in_the_same_step
            a_replay_ends_all_sessions_of_the_user_if_so_ruled
            a_wrong_secret_changes_nothing
            the_longest_idle_session_makes_room
            the_list_shows_living_sessions_latest_seen_first
            a_used_generation_closes_recovery
            recoveries_are_three_a_day
            a_recovery_period_begun_in_the_future_counts_for_nothing
            recovery_within_a_duration_counts_from_the_rotation
            a_new_generation_is_unused_again
            a_clock_put_right_ends_grace_in_time
            a_store_behind_the_token_catches_up
            an_idle_session_expires
            the_feed_goes_on_where_it_was_left
            what_a_failover_brought_back_is_ended_again
            the_store_says_at_once_what_is_ended
            a_login_is_opened_under_the_epoch_that_the_gateway_knows
            a_damaged_session_is_an_error
            it_tells_its_time
            sixty_four_refreshes_at_once_make_one_generation
            a_refresh_never_outlives_the_logout_it_races
            a_refresh_never_outlives_the_logout_all_it_races
            logins_at_once_leave_no_more_than_allowed
            random_walks_agree_with_the_rules
        }
    };
}
pub(super) use every_store_must;

/// A user nobody else in the test has.
fn user() -> UserKey {
    UserKey::from_bytes(random_bytes().unwrap())
}

/// A session to open for `user`.
fn new_session<R: Rig>(rig: &R, user: UserKey) -> NewSession {
    NewSession {
        id: SessionId::from_bytes(random_bytes().unwrap()),
        user,
        secret_hash: random_bytes().unwrap(),
        subject: "alice".to_owned(),
        claims: serde_json::Map::new(),
        delivery: Delivery::Cookie,
        absolute_expiry: rig.clock().now().plus(RotationPolicy::default().absolute),
        device: None,
        address: None,
        known_epoch: 0,
    }
}

/// The token of `new` at `generation`.
fn token(new: &NewSession, generation: u32) -> Presented {
    Presented {
        session: new.id,
        user: new.user,
        secret_hash: new.secret_hash,
        generation,
        absolute_expiry: new.absolute_expiry,
    }
}

async fn login<R: Rig>(rig: &R, user: UserKey) -> NewSession {
    let new = new_session(rig, user);
    open(rig, &new).await;
    new
}

async fn open<R: Rig>(rig: &R, new: &NewSession) -> Opened {
    rig.store().open(new.clone()).await.unwrap()
}

/// Presents a token; the session as it is then, if granted.
async fn rotate<R: Rig>(
    rig: &R,
    new: &NewSession,
    generation: u32,
) -> (super::family::Outcome, Option<SessionRecord>) {
    let rotation = rig.store().rotate(&token(new, generation)).await.unwrap();
    let outcome = rotation.outcome;
    let known = outcome.grants() || outcome == super::family::Outcome::Reused;
    assert_eq!(rotation.session.is_some(), known, "{outcome:?}");
    (outcome, rotation.session.filter(|_| outcome.grants()))
}

fn access_token(new: &NewSession, generation: u32) -> SessionRef {
    SessionRef { session: new.id, user: new.user, generation, epoch: 0 }
}

async fn listed<R: Rig>(rig: &R, user: UserKey) -> Vec<SessionId> {
    rig.store().list(user).await.unwrap().into_iter().map(|session| session.id).collect()
}

/// Everything the feed holds.
async fn feed<R: Rig>(rig: &R) -> Vec<Revocation> {
    read_on(rig, &mut Cursor::default()).await
}

/// What the feed holds after `cursor`, which is moved to its end.
async fn read_on<R: Rig>(rig: &R, cursor: &mut Cursor) -> Vec<Revocation> {
    let mut all = Vec::new();
    loop {
        let (found, next) = rig.store().revocations(cursor).await.unwrap();
        *cursor = next;
        if found.is_empty() {
            return all;
        }
        all.extend(found);
    }
}

fn revocation_end<R: Rig>(rig: &R) -> Timestamp {
    rig.clock().now().plus(RotationPolicy::default().revocation_lifetime())
}
