//! Claims about one operation after another.

use super::{
    Opened, Rig, UserKey, access_token, feed, listed, login, new_session, open, read_on, revocation_end,
    rotate, token, user,
};
use crate::clock::Clock as _;
use crate::session::family::{LostResponse, OnReuse, Outcome, RECOVERIES, RECOVERY_PERIOD, RotationPolicy};
use crate::session::id::SessionRef;
use crate::session::store::{Cursor, Delivery, EndReason, NewSession, Revocation, SessionRecord, StoreError};
use std::time::Duration;

fn policy() -> RotationPolicy {
    RotationPolicy::default()
}

pub(in crate::session) async fn a_login_opens_generation_zero_and_keeps_what_it_was_given<R: Rig>() {
    let rig = R::start(policy()).await;
    // With a name that the JSON library has a use of its own for.
    let claims = serde_json::json!({
        "email": "ä@example.com", "roles": ["clerk"], "nested": {"deep": [1, null, 2.5, {}]}, "empty": [],
        "odd": [{"$serde_json::private::RawValue": "[\"admin\"]"}, {"$serde_json::private::RawValue": "x"}],
    });
    let new = NewSession {
        claims: claims.as_object().unwrap().clone(),
        subject: "user \"1\"\n\u{0}\u{1F600}".to_owned(),
        delivery: Delivery::Body,
        device: Some("Browser".to_owned()),
        address: Some("192.0.2.1".to_owned()),
        ..new_session(&rig, user())
    };
    let now = rig.clock().now();
    let expected = SessionRecord {
        id: new.id,
        user: new.user,
        subject: new.subject.clone(),
        claims: new.claims.clone(),
        delivery: new.delivery,
        created: now,
        last_seen: now,
        absolute_expiry: new.absolute_expiry,
        idle_expiry: now.plus(policy().idle),
        generation: 0,
        epoch: 0,
        device: new.device.clone(),
        address: new.address.clone(),
    };
    let opened = open(&rig, &new).await;
    assert_eq!(opened.session, expected);
    assert_eq!(opened.evicted, []);
    assert_eq!(rig.store().list(new.user).await.unwrap(), std::slice::from_ref(&expected));

    rig.clock().advance(Duration::from_secs(5));
    let (outcome, session) = rotate(&rig, &new, 0).await;
    assert_eq!(outcome, Outcome::Rotated);
    let seen = rig.clock().now();
    let idle_expiry = seen.plus(policy().idle);
    assert_eq!(session.unwrap(), SessionRecord { generation: 1, last_seen: seen, idle_expiry, ..expected });
}

pub(in crate::session) async fn a_repeated_login_answers_like_the_first<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = new_session(&rig, user());
    let first = open(&rig, &new).await;
    assert_eq!(open(&rig, &new).await, first);
    assert_eq!(listed(&rig, new.user).await, [new.id]);
}

pub(in crate::session) async fn a_taken_identifier_is_refused<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    let intruder = NewSession { secret_hash: [0; 32], ..new.clone() };
    assert!(matches!(rig.store().open(intruder).await, Err(StoreError::Corrupt(_))));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Rotated);
}

pub(in crate::session) async fn a_session_of_another_user_is_unknown<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    let stranger = NewSession { user: user(), ..new };
    assert_eq!(rotate(&rig, &stranger, 0).await.0, Outcome::Unknown);
}

pub(in crate::session) async fn an_ended_session_is_revoked_until_it_would_have_expired<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    assert!(rig.store().end(new.user, new.id, EndReason::Logout).await.unwrap());
    let until = revocation_end(&rig);
    assert_eq!(feed(&rig).await, [Revocation::Session { session: new.id, user: new.user, until }]);
    rig.clock().advance(policy().idle.saturating_sub(Duration::from_secs(1)));
    // Other sessions come and go; the tombstone stays.
    for _ in 0..20 {
        login(&rig, new.user).await;
    }
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Revoked);
}

pub(in crate::session) async fn a_session_is_ended_only_by_its_user_and_only_once<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    assert!(!rig.store().end(user(), new.id, EndReason::Removed).await.unwrap());
    assert_eq!(feed(&rig).await, []);
    assert!(rig.store().end(new.user, new.id, EndReason::Removed).await.unwrap());
    assert!(!rig.store().end(new.user, new.id, EndReason::Removed).await.unwrap());
    assert_eq!(feed(&rig).await.len(), 1);
    assert_eq!(listed(&rig, new.user).await, []);
}

pub(in crate::session) async fn logout_all_ends_what_there_is_and_nothing_later<R: Rig>() {
    let rig = R::start(policy()).await;
    let (alice, bob) = (user(), login(&rig, user()).await);
    let (first, second) = (login(&rig, alice).await, login(&rig, alice).await);
    rig.store().end(alice, login(&rig, alice).await.id, EndReason::Logout).await.unwrap();

    let ended = rig.store().end_all(alice).await.unwrap();
    assert_eq!(ended.ended, 2);
    assert!(ended.epoch > 0);
    let (user, until) = (alice, revocation_end(&rig));
    assert!(feed(&rig).await.contains(&Revocation::User { user, epoch: ended.epoch, until }));
    for old in [&first, &second] {
        assert_eq!(rotate(&rig, old, 0).await.0, Outcome::Revoked);
        assert!(!rig.store().end(alice, old.id, EndReason::Logout).await.unwrap());
    }
    assert_eq!(listed(&rig, alice).await, []);
    assert_eq!(rotate(&rig, &bob, 0).await.0, Outcome::Rotated);

    // A login within the same moment belongs to the new epoch.
    let new = new_session(&rig, alice);
    assert_eq!(open(&rig, &new).await.session.epoch, ended.epoch);
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Rotated);
    let again = rig.store().end_all(alice).await.unwrap();
    assert_eq!(again.ended, 1);
    assert!(again.epoch > ended.epoch);
    assert_eq!(rotate(&rig, &new, 1).await.0, Outcome::Revoked);
}

pub(in crate::session) async fn a_replay_ends_the_session_in_the_same_step<R: Rig>() {
    let rig = R::start(policy()).await;
    let (new, other) = (login(&rig, user()).await, login(&rig, user()).await);
    for generation in 0..3 {
        assert_eq!(rotate(&rig, &new, generation).await.0, Outcome::Rotated);
        rig.clock().advance(Duration::from_secs(60));
    }
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Reused);
    let until = revocation_end(&rig);
    assert_eq!(feed(&rig).await, [Revocation::Session { session: new.id, user: new.user, until }]);
    assert_eq!(rotate(&rig, &new, 3).await.0, Outcome::Revoked);
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Revoked);
    assert_eq!(listed(&rig, new.user).await, []);
    assert_eq!(rotate(&rig, &other, 0).await.0, Outcome::Rotated);
}

pub(in crate::session) async fn a_replay_ends_all_sessions_of_the_user_if_so_ruled<R: Rig>() {
    let rig = R::start(RotationPolicy { on_reuse: OnReuse::User, ..policy() }.strict()).await;
    let alice = user();
    let (new, other) = (login(&rig, alice).await, login(&rig, alice).await);
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Rotated);
    let replay = rig.store().rotate(&token(&new, 0)).await.unwrap();
    assert_eq!(replay.outcome, Outcome::Reused);
    assert_eq!(replay.session.unwrap().subject, "alice");
    assert_eq!(rotate(&rig, &other, 0).await.0, Outcome::Revoked);
    assert_eq!(listed(&rig, alice).await, []);
    let epoch = replay.raised.unwrap();
    assert_eq!(login_with(&rig, alice, 0).await.session.epoch, epoch);
    assert!(feed(&rig).await.iter().any(|revocation| matches!(revocation,
        Revocation::User { user, epoch, .. } if *user == alice && *epoch > 0)));
    let later = login(&rig, alice).await;
    assert_eq!(rotate(&rig, &later, 0).await.0, Outcome::Rotated);
}

pub(in crate::session) async fn a_wrong_secret_changes_nothing<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    let wrong = NewSession { secret_hash: [1; 32], ..new.clone() };
    for generation in [0, 1, 7] {
        assert_eq!(rotate(&rig, &wrong, generation).await.0, Outcome::Mismatch);
    }
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Rotated);
}

pub(in crate::session) async fn the_longest_idle_session_makes_room<R: Rig>() {
    let rig = R::start(RotationPolicy { max_per_user: 3, ..policy() }).await;
    let alice = user();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(login(&rig, alice).await);
        rig.clock().advance(Duration::from_secs(1));
    }
    rotate(&rig, &sessions[0], 0).await;
    let fourth = new_session(&rig, alice);
    assert_eq!(open(&rig, &fourth).await.evicted, [sessions[1].id]);
    let until = revocation_end(&rig);
    assert_eq!(feed(&rig).await, [Revocation::Session { session: sessions[1].id, user: alice, until }]);
    assert_eq!(rotate(&rig, &sessions[1], 0).await.0, Outcome::Revoked);
    // The room of a session that expired or was ended is free.
    rig.store().end(alice, fourth.id, EndReason::Logout).await.unwrap();
    assert_eq!(open(&rig, &new_session(&rig, alice)).await.evicted, []);
    rig.clock().advance(policy().idle);
    assert_eq!(open(&rig, &new_session(&rig, alice)).await.evicted, []);
}

pub(in crate::session) async fn the_list_shows_living_sessions_latest_seen_first<R: Rig>() {
    let rig = R::start(policy()).await;
    let alice = user();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(login(&rig, alice).await);
        rig.clock().advance(Duration::from_secs(1));
    }
    login(&rig, user()).await;
    rotate(&rig, &sessions[0], 0).await;
    rig.store().end(alice, sessions[2].id, EndReason::Removed).await.unwrap();
    assert_eq!(listed(&rig, alice).await, [sessions[0].id, sessions[3].id, sessions[1].id]);
    rig.clock().advance(policy().idle.saturating_sub(Duration::from_secs(2)));
    assert_eq!(listed(&rig, alice).await, [sessions[0].id, sessions[3].id]);
    assert_eq!(listed(&rig, user()).await, []);
}

pub(in crate::session) async fn a_used_generation_closes_recovery<R: Rig>() {
    let rig = R::start(policy()).await;
    let (used, unused) = (login(&rig, user()).await, login(&rig, user()).await);
    rotate(&rig, &used, 0).await;
    rotate(&rig, &unused, 0).await;
    let stranger = new_session(&rig, user());
    let seen = [
        access_token(&unused, 0),
        access_token(&stranger, 0),
        access_token(&used, 1),
        access_token(&unused, 2),
        access_token(&NewSession { user: stranger.user, ..unused.clone() }, 1),
    ];
    rig.store().confirm(&seen).await.unwrap();
    rig.store().confirm(&[]).await.unwrap();
    rig.clock().advance(Duration::from_secs(31));
    assert_eq!(rotate(&rig, &unused, 0).await.0, Outcome::Recovered);
    assert_eq!(rotate(&rig, &used, 0).await.0, Outcome::Reused);
    assert_eq!(rotate(&rig, &stranger, 0).await.0, Outcome::Unknown);
}

pub(in crate::session) async fn recoveries_are_three_a_day<R: Rig>() {
    let rig = R::start(RotationPolicy { idle: policy().absolute, ..policy() }).await;
    let start = rig.clock().now();
    let (new, patient) = (login(&rig, user()).await, login(&rig, user()).await);
    rotate(&rig, &new, 0).await;
    rotate(&rig, &patient, 0).await;
    for day in 0..3 {
        rig.clock().set(start.plus(RECOVERY_PERIOD * day));
        for recovery in 0..RECOVERIES {
            // The first period begins with the login, each later one with its first recovery.
            if day == 0 {
                rig.clock().advance(Duration::from_secs(3600));
            }
            assert_eq!(rotate(&rig, &patient, 0).await.0, Outcome::Recovered, "{day}, {recovery}");
            if day == 0 {
                assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Recovered);
            } else {
                rig.clock().advance(Duration::from_secs(3600));
            }
        }
    }
    rig.clock().set(start.plus(RECOVERY_PERIOD).minus(Duration::from_millis(1)));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Reused);
}

pub(in crate::session) async fn a_recovery_period_begun_in_the_future_counts_for_nothing<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    rotate(&rig, &new, 0).await;
    rig.clock().advance(RECOVERY_PERIOD + Duration::from_secs(3600));
    for _ in 0..RECOVERIES {
        assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Recovered);
        rig.clock().advance(Duration::from_secs(31));
    }
    rig.clock().set(rig.clock().now().minus(Duration::from_secs(1800)));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Retry);
    rig.clock().advance(Duration::from_secs(31));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Recovered);
}

pub(in crate::session) async fn recovery_within_a_duration_counts_from_the_rotation<R: Rig>() {
    let lost_response = LostResponse::Within(Duration::from_secs(90));
    let rig = R::start(RotationPolicy { lost_response, ..policy() }).await;
    let new = login(&rig, user()).await;
    rotate(&rig, &new, 0).await;
    rig.clock().advance(Duration::from_secs(45));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Recovered);
    rig.clock().advance(Duration::from_secs(45));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Recovered);
    rig.clock().advance(Duration::from_secs(31));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Reused);
}

pub(in crate::session) async fn a_new_generation_is_unused_again<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    for generation in 0..3 {
        rig.store().confirm(&[access_token(&new, generation)]).await.unwrap();
        assert_eq!(rotate(&rig, &new, generation).await.0, Outcome::Rotated);
        rig.clock().advance(Duration::from_secs(61));
        assert_eq!(rotate(&rig, &new, generation).await.0, Outcome::Recovered);
        rig.clock().advance(Duration::from_secs(61));
    }
}

pub(in crate::session) async fn a_clock_put_right_ends_grace_in_time<R: Rig>() {
    let lost_response = LostResponse::Within(Duration::from_secs(90));
    let rig = R::start(RotationPolicy { lost_response, ..policy() }).await;
    let new = login(&rig, user()).await;
    rotate(&rig, &new, 0).await;
    rig.clock().set(rig.clock().now().minus(Duration::from_secs(3600)));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Retry);
    rig.clock().advance(Duration::from_secs(31));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Recovered);
    rig.clock().advance(Duration::from_secs(60));
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Reused);
}

pub(in crate::session) async fn a_store_behind_the_token_catches_up<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    assert_eq!(rotate(&rig, &new, 4).await.0, Outcome::Ahead);
    assert_eq!(rotate(&rig, &new, u32::MAX).await.0, Outcome::Ahead);
    let (outcome, session) = rotate(&rig, &new, 3).await;
    assert_eq!((outcome, session.unwrap().generation), (Outcome::Healed, 3));
}

pub(in crate::session) async fn an_idle_session_expires<R: Rig>() {
    let rig = R::start(policy()).await;
    let new = login(&rig, user()).await;
    rig.clock().advance(policy().idle);
    assert_eq!(rotate(&rig, &new, 0).await.0, Outcome::Expired);
    assert!(!rig.store().end(new.user, new.id, EndReason::Logout).await.unwrap());
    assert_eq!(listed(&rig, new.user).await, []);
}

pub(in crate::session) async fn the_feed_goes_on_where_it_was_left<R: Rig>() {
    let rig = R::start(policy()).await;
    let mut cursor = Cursor::default();
    assert_eq!(read_on(&rig, &mut cursor).await, []);
    let mut ended = Vec::new();
    for round in 0..40 {
        let new = login(&rig, user()).await;
        rig.store().end(new.user, new.id, EndReason::Logout).await.unwrap();
        let expected = Revocation::Session { session: new.id, user: new.user, until: revocation_end(&rig) };
        assert_eq!(read_on(&rig, &mut cursor).await, [expected], "round {round}");
        ended.push(expected);
    }
    let mut all = feed(&rig).await;
    assert_eq!(all.len(), ended.len());
    all.retain(|revocation| !ended.contains(revocation));
    assert_eq!(all, []);
    // A place that no store ever gave is the beginning.
    let mut nonsense = Cursor("nonsense,1-,\u{1F600}".to_owned());
    assert_eq!(read_on(&rig, &mut nonsense).await.len(), ended.len());
}

pub(in crate::session) async fn what_a_failover_brought_back_is_ended_again<R: Rig>() {
    let rig = R::start(policy()).await;
    let (new, other) = (login(&rig, user()).await, login(&rig, user()).await);
    let until = revocation_end(&rig);
    let session = Revocation::Session { session: new.id, user: new.user, until };
    let unknown = Revocation::Session { session: new_session(&rig, new.user).id, user: new.user, until };
    let all = Revocation::User { user: other.user, epoch: 7, until };
    rig.store().reapply(&[session, all]).await.unwrap();
    let mut told = feed(&rig).await;
    assert!(told.len() == 2 && told.contains(&session) && told.contains(&all), "{told:?}");
    for new in [&new, &other] {
        assert_eq!(rotate(&rig, new, 0).await.0, Outcome::Revoked);
        assert_eq!(listed(&rig, new.user).await, []);
    }
    // What is in force already is not told again.
    let later = login(&rig, other.user).await;
    let earlier = Revocation::User { user: other.user, epoch: 6, until };
    rig.store().reapply(&[session, all, earlier, unknown]).await.unwrap();
    assert_eq!(rotate(&rig, &later, 0).await.1.unwrap().epoch, 7);
    told.push(unknown);
    let again = feed(&rig).await;
    assert!(again.len() == 3 && again.iter().all(|revocation| told.contains(revocation)), "{again:?}");
}

pub(in crate::session) async fn a_login_is_opened_under_the_epoch_that_the_gateway_knows<R: Rig>() {
    let rig = R::start(policy()).await;
    let alice = user();
    let before = login(&rig, alice).await;
    // The store forgot a logout-all that the gateway knows of: it is in force again, and spares this login.
    let opened = login_with(&rig, alice, 7).await;
    assert_eq!(opened.session.epoch, 7);
    assert_eq!(rotate(&rig, &before, 0).await.0, Outcome::Revoked);
    assert_eq!(listed(&rig, alice).await, [opened.session.id]);
    let told = Revocation::User { user: alice, epoch: 7, until: revocation_end(&rig) };
    assert_eq!(feed(&rig).await, [told]);
    rig.store().reapply(&[told]).await.unwrap();
    assert_eq!(listed(&rig, alice).await, [opened.session.id]);
    // What the store knows better stays.
    for known in [6, 7] {
        assert_eq!(login_with(&rig, alice, known).await.session.epoch, 7);
    }
    assert_eq!(listed(&rig, alice).await.len(), 3);
    assert_eq!(feed(&rig).await, [told]);
    assert!(rig.store().end_all(alice).await.unwrap().epoch > 7);
    assert_eq!(listed(&rig, alice).await, []);
}

async fn login_with<R: Rig>(rig: &R, user: UserKey, known_epoch: u32) -> Opened {
    open(rig, &NewSession { known_epoch, ..new_session(rig, user) }).await
}

pub(in crate::session) async fn the_store_says_at_once_what_is_ended<R: Rig>() {
    let rig = R::start(RotationPolicy { max_per_user: 1, ..policy() }).await;
    let (alice, store) = (user(), rig.store());
    let evicted = login(&rig, alice).await;
    assert!(!store.is_ended(&access_token(&evicted, 0)).await.unwrap());
    rotate(&rig, &evicted, 0).await;
    assert!(!store.is_ended(&access_token(&evicted, 0)).await.unwrap());
    let new = login(&rig, alice).await;
    assert!(store.is_ended(&access_token(&evicted, 1)).await.unwrap());
    assert!(!store.is_ended(&access_token(&new, 0)).await.unwrap());
    store.end(alice, new.id, EndReason::Logout).await.unwrap();
    assert!(store.is_ended(&access_token(&new, 0)).await.unwrap());

    let third = login(&rig, alice).await;
    let epoch = store.end_all(alice).await.unwrap().epoch;
    assert!(store.is_ended(&access_token(&third, 0)).await.unwrap());
    let fourth = access_token(&login(&rig, alice).await, 0);
    assert!(!store.is_ended(&SessionRef { epoch, ..fourth }).await.unwrap());
    let stranger = new_session(&rig, user());
    assert!(store.is_ended(&access_token(&stranger, 0)).await.unwrap());
}

pub(in crate::session) async fn a_damaged_session_is_an_error<R: Rig>() {
    let rig = R::start(policy()).await;
    let (new, other) = (login(&rig, user()).await, login(&rig, user()).await);
    rig.damage(new.user, new.id).await;
    let presented = super::token(&new, 0);
    assert!(matches!(rig.store().rotate(&presented).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(rig.store().list(new.user).await, Err(StoreError::Corrupt(_))));
    assert_eq!(rotate(&rig, &other, 0).await.0, Outcome::Rotated);
}

pub(in crate::session) async fn it_tells_its_time<R: Rig>() {
    let rig = R::start(policy()).await;
    assert!(rig.store().clocks().await.unwrap().contains(&rig.clock().now()));
}
