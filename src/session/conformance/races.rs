//! Claims about operations at the same time.

use super::{Rig, feed, listed, login, new_session, rotate, token, user};
use crate::session::family::{Outcome, RotationPolicy};
use crate::session::store::{EndReason, Revocation};
use std::sync::Arc;
use tokio::task::JoinSet;

pub(in crate::session) async fn sixty_four_refreshes_at_once_make_one_generation<R: Rig>() {
    let rig = R::start(RotationPolicy::default()).await;
    let new = login(&rig, user()).await;
    let mut refreshes = JoinSet::new();
    for _ in 0..64 {
        let (store, presented) = (Arc::clone(rig.store()), token(&new, 0));
        refreshes.spawn(async move { store.rotate(&presented).await.unwrap() });
    }
    let answers = refreshes.join_all().await;
    let rotated = answers.iter().filter(|answer| answer.outcome == Outcome::Rotated).count();
    let retried = answers.iter().filter(|answer| answer.outcome == Outcome::Retry).count();
    assert_eq!((rotated, retried), (1, 63));
    assert!(answers.iter().all(|answer| answer.session.as_ref().unwrap().generation == 1));
}

pub(in crate::session) async fn a_refresh_never_outlives_the_logout_it_races<R: Rig>() {
    let rig = R::start(RotationPolicy::default()).await;
    for round in 0..50 {
        let new = login(&rig, user()).await;
        let (store, presented) = (Arc::clone(rig.store()), token(&new, 0));
        let refresh = tokio::spawn(async move { store.rotate(&presented).await.unwrap().outcome });
        let store = Arc::clone(rig.store());
        let logout = tokio::spawn(async move { store.end(new.user, new.id, EndReason::Logout).await });
        let outcome = refresh.await.unwrap();
        assert!(logout.await.unwrap().unwrap(), "round {round}");
        assert!(matches!(outcome, Outcome::Rotated | Outcome::Revoked), "round {round}: {outcome:?}");
        for generation in [0, 1] {
            let store = Arc::clone(rig.store());
            let outcome = store.rotate(&token(&new, generation)).await.unwrap().outcome;
            assert_eq!(outcome, Outcome::Revoked, "round {round}");
        }
    }
}

pub(in crate::session) async fn a_refresh_never_outlives_the_logout_all_it_races<R: Rig>() {
    let rig = R::start(RotationPolicy::default()).await;
    for round in 0..20 {
        let alice = user();
        let mut sessions = Vec::new();
        for _ in 0..4 {
            sessions.push(login(&rig, alice).await);
        }
        let mut tasks = JoinSet::new();
        for new in sessions.clone() {
            let store = Arc::clone(rig.store());
            tasks.spawn(async move { drop(store.rotate(&token(&new, 0)).await.unwrap()) });
        }
        for _ in 0..4 {
            let (store, new) = (Arc::clone(rig.store()), new_session(&rig, alice));
            tasks.spawn(async move { drop(store.open(new).await.unwrap()) });
        }
        let store = Arc::clone(rig.store());
        let logout = tokio::spawn(async move { store.end_all(alice).await.unwrap() });
        tasks.join_all().await;
        let ended = logout.await.unwrap();
        for new in &sessions {
            assert_eq!(rotate(&rig, new, 0).await.0, Outcome::Revoked, "round {round}");
        }
        let left = rig.store().list(alice).await.unwrap();
        assert_eq!(u32::try_from(left.len()).unwrap(), 8 - ended.ended, "round {round}");
        assert!(left.iter().all(|session| session.epoch == ended.epoch), "round {round}");
    }
}

pub(in crate::session) async fn logins_at_once_leave_no_more_than_allowed<R: Rig>() {
    let rig = R::start(RotationPolicy { max_per_user: 5, ..RotationPolicy::default() }).await;
    let alice = user();
    let mut logins = JoinSet::new();
    for _ in 0..24 {
        let (store, new) = (Arc::clone(rig.store()), new_session(&rig, alice));
        logins.spawn(async move { store.open(new).await.unwrap().evicted });
    }
    let mut evicted: Vec<_> = logins.join_all().await.into_iter().flatten().collect();
    assert_eq!(listed(&rig, alice).await.len(), 5);
    let mut revoked: Vec<_> = feed(&rig)
        .await
        .into_iter()
        .map(|revocation| match revocation {
            Revocation::Session { session, .. } => session,
            Revocation::User { .. } => unreachable!("nobody logged out"),
        })
        .collect();
    evicted.sort_unstable();
    revoked.sort_unstable();
    assert_eq!(evicted, revoked);
    assert_eq!(evicted.len(), 24 - 5);
}
