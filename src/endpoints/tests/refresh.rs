//! Refresh: every outcome, by both ways of delivery.

use super::super::event::{AuditAction, SessionEvent};
use super::rig::{COOKIE, PASSWORD, Rig, call, disabled, login, post, user};
use crate::session::deferred::carry_out;
use crate::session::family::{OnReuse, RotationPolicy};
use crate::session::id::SessionId;
use crate::session::store::SessionStore;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn refresh(token: &str) -> super::rig::Call {
    post("/auth/refresh").json(&json!({ "refreshToken": token }))
}

#[tokio::test]
async fn a_browsers_refresh_rotates_the_cookie() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let answer = rig.send(post("/auth/refresh").cookie(&tokens.refresh)).await.expect(200);
    assert_eq!(answer.event, Some(SessionEvent::RefreshRotated));
    assert_ne!(answer.cookie().unwrap(), tokens.refresh);
    assert_eq!(answer.text("sessionId"), tokens.session);
    assert_eq!(answer.body.get("refreshToken"), None);
    assert!(rig.is_good(&answer.text("accessToken")).await);
}

#[tokio::test]
async fn an_apps_refresh_answers_in_the_body_and_accepts_both_spellings() {
    let rig = Rig::new();
    let tokens = rig.login("alice").await;
    let second = rig.send(refresh(&tokens.refresh)).await.expect(200);
    assert_eq!(second.header("set-cookie"), None);
    rig.advance(61);
    let snake = post("/auth/refresh").json(&json!({ "refresh_token": second.text("refreshToken") }));
    let third = rig.send(snake).await.expect(200);
    assert_eq!(third.event, Some(SessionEvent::RefreshRotated));
}

#[tokio::test]
async fn a_young_token_is_returned_unchanged_and_no_cookie_is_sent_again() {
    let rig = Rig::new();
    let cookie = rig.login_in_browser("alice").await;
    let cookie = rig.send(post("/auth/refresh").cookie(&cookie.refresh)).await.cookie().unwrap();
    let again = rig.send(post("/auth/refresh").cookie(&cookie)).await.expect(200);
    assert_eq!((again.event, again.header("set-cookie")), (Some(SessionEvent::RefreshSame), None));

    let body = rig.login("alice").await;
    let body = rig.send(refresh(&body.refresh)).await.text("refreshToken");
    let again = rig.send(refresh(&body)).await.expect(200);
    assert_eq!((again.event, again.text("refreshToken")), (Some(SessionEvent::RefreshSame), body));
}

#[tokio::test]
async fn tabs_that_race_get_the_same_successor() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let first = rig.send(post("/auth/refresh").cookie(&tokens.refresh)).await.expect(200);
    rig.advance(29);
    let second = rig.send(post("/auth/refresh").cookie(&tokens.refresh)).await.expect(200);
    assert_eq!(second.event, Some(SessionEvent::RefreshRetry));
    assert_eq!(first.cookie(), second.cookie());
}

#[tokio::test]
async fn a_lost_answer_is_recovered_until_the_new_generation_was_used() {
    let rig = Rig::new();
    let tokens = rig.login("alice").await;
    rig.send(refresh(&tokens.refresh)).await.expect(200);
    rig.advance(3600);
    let recovered = rig.send(refresh(&tokens.refresh)).await.expect(200);
    assert_eq!(recovered.event, Some(SessionEvent::RefreshRecovered));
}

#[tokio::test]
async fn a_replay_ends_the_session_here_at_once() {
    let rig = Rig::new();
    let first = rig.login("alice").await;
    let other = rig.login("alice").await;
    let second = rig.send(refresh(&first.refresh)).await.text("refreshToken");
    rig.advance(61);
    let third = rig.send(refresh(&second)).await.expect(200);
    rig.advance(61);
    let replay = rig.send(refresh(&first.refresh)).await.refused(401, "token_reused");
    assert_eq!(
        (replay.event, replay.audit),
        (Some(SessionEvent::RefreshReused), Some(AuditAction::TokenReused))
    );
    assert_eq!(replay.body["error"], "invalid_grant");
    assert!(!rig.is_good(&third.text("accessToken")).await);
    assert!(rig.is_good(&other.access).await);
    rig.send(refresh(&third.text("refreshToken"))).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn what_is_not_ours_never_reaches_the_store() {
    let rig = Rig::new();
    let body = rig.login("alice").await.refresh;
    let cookie = rig.login_in_browser("alice").await.refresh;
    let asked = rig.store.asked();
    let mut forged = body.clone();
    forged.replace_range(40..41, if &body[40..41] == "A" { "B" } else { "A" });
    for bad in ["", "x", "prt_", &forged, &body[..99], &cookie, "eyJhbGciOiJub25lIn0.e30."] {
        let answer = rig.send(refresh(bad)).await.refused(401, "invalid_token");
        assert_eq!(answer.event, Some(SessionEvent::RefreshRefused));
    }
    for bad in ["x", &forged, &body] {
        rig.send(post("/auth/refresh").cookie(bad)).await.refused(401, "invalid_token");
    }
    rig.send(post("/auth/refresh").same_origin()).await.refused(401, "no_session");
    rig.send(post("/auth/refresh").cookie("")).await.refused(401, "no_session");
    rig.send(post("/auth/refresh").json(&json!({}))).await.refused(401, "no_session");
    assert_eq!(rig.store.asked(), asked);
}

#[tokio::test]
async fn sessions_end_by_idleness_and_by_age() {
    let rig = Rig::new();
    let idle = rig.login("alice").await.refresh;
    rig.clock.advance(RotationPolicy::default().idle + Duration::from_secs(1));
    rig.send(refresh(&idle)).await.refused(401, "session_expired");
    let old = rig.login("alice").await.refresh;
    rig.clock.advance(RotationPolicy::default().absolute + Duration::from_secs(1));
    let asked = rig.store.asked();
    rig.send(refresh(&old)).await.refused(401, "session_expired");
    assert_eq!(rig.store.asked(), asked);
}

#[tokio::test]
async fn a_store_that_is_down_accuses_nobody_and_touches_no_cookie() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    rig.store.down(true);
    let answer = rig.send(post("/auth/refresh").cookie(&tokens.refresh)).await;
    let answer = answer.refused(503, "temporarily_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!((answer.header("set-cookie"), answer.event), (None, None));
    rig.store.down(false);
    rig.send(post("/auth/refresh").cookie(&tokens.refresh)).await.expect(200);
}

#[tokio::test]
async fn no_failure_clears_a_cookie() {
    let rig = Rig::new();
    let ended = rig.login_in_browser("alice").await;
    rig.send(post("/auth/logout").cookie(&ended.refresh)).await.expect(204);
    let calls = [
        post("/auth/refresh").cookie(&ended.refresh),
        post("/auth/refresh").cookie("garbage"),
        post("/auth/refresh").bare_cookie(&ended.refresh),
        post("/auth/refresh").cookie(&ended.refresh).json(&json!({ "refreshToken": "other" })),
        post("/auth/refresh").cookie(&ended.refresh).header("content-type", "text/plain").text("x"),
        call("GET", "/auth/refresh").cookie(&ended.refresh),
    ];
    for call in calls {
        let answer = rig.send(call).await;
        assert!(answer.status >= 400);
        assert_eq!(answer.header("set-cookie"), None, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_cookie_from_a_foreign_page_refreshes_nothing() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let asked = rig.store.asked();
    let bare = || post("/auth/refresh").bare_cookie(&tokens.refresh);
    for cross in [
        bare(),
        bare().header("sec-fetch-site", "cross-site"),
        bare().header("sec-fetch-site", "same-site").header("origin", "https://blog.example.com"),
        bare().header("origin", "null"),
    ] {
        rig.send(cross).await.refused(403, "csrf_failed");
    }
    assert_eq!(rig.store.asked(), asked);
    rig.send(bare().header("x-portcullis-request", "1")).await.expect(200);
}

#[tokio::test]
async fn a_cookie_needs_no_body_but_a_body_must_be_json() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let form = || post("/auth/refresh").cookie(&tokens.refresh).header("content-type", "text/plain");
    rig.send(form()).await.expect(200);
    rig.send(form().text("{}")).await.refused(415, "invalid_request");
    rig.send(post("/auth/refresh").cookie(&tokens.refresh).json(&json!({}))).await.expect(200);
    rig.send(post("/auth/refresh").cookie(&tokens.refresh).json(&json!({ "refreshToken": 1 })))
        .await
        .refused(400, "invalid_request");
}

#[tokio::test]
async fn two_tokens_that_differ_are_ambiguous() {
    let rig = Rig::new();
    let cookie = rig.login_in_browser("alice").await.refresh;
    let body = rig.login("alice").await.refresh;
    let both = |token: &str| post("/auth/refresh").cookie(&cookie).json(&json!({ "refreshToken": token }));
    rig.send(both(&body)).await.refused(400, "invalid_request");
    rig.send(both(&cookie)).await.expect(200);
}

#[tokio::test]
async fn of_several_cookies_the_genuine_one_counts() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let line = format!("{COOKIE}=planted; {COOKIE}={}; {COOKIE}=", tokens.refresh);
    rig.send(post("/auth/refresh").header("cookie", &line).same_origin()).await.expect(200);
}

#[tokio::test]
async fn a_user_who_is_gone_or_disabled_is_refused_and_the_session_ended() {
    for left in [vec![user("bob")], vec![disabled("alice")]] {
        let rig = Rig::new();
        let tokens = rig.login("alice").await;
        rig.directory.inner().replace(left).unwrap();
        let answer = rig.send(refresh(&tokens.refresh)).await.refused(401, "session_revoked");
        assert_eq!(answer.audit, Some(AuditAction::UserGone));
        assert!(!rig.is_good(&tokens.access).await);
        rig.directory.inner().replace(vec![user("alice")]).unwrap();
        rig.send(refresh(&tokens.refresh)).await.refused(401, "session_revoked");
    }
}

#[tokio::test]
async fn what_this_gateway_knows_to_be_ended_stays_so_though_the_store_forgot() {
    let rig = Rig::new();
    let (ended, other) = (rig.login("alice").await, rig.login("alice").await);
    let user = rig.parts.tokens.user_key("u-alice");
    let id = SessionId::parse(&ended.session).unwrap();
    rig.parts.revocations.session_ended(user, id, rig.now());
    let answer = rig.send(refresh(&ended.refresh)).await.refused(401, "session_revoked");
    assert_eq!(answer.event, Some(SessionEvent::RefreshRefused));
    rig.send(refresh(&other.refresh)).await.expect(200);

    rig.parts.revocations.user_ended(user, 1, rig.now());
    rig.send(refresh(&other.refresh)).await.refused(401, "session_revoked");
    // Whoever logs in now does so after that logout-all.
    let answer = rig.send(login("alice", PASSWORD)).await.expect(200);
    rig.send(refresh(&answer.text("refreshToken"))).await.expect(200);
    assert!(rig.is_good(&answer.text("accessToken")).await);
    rig.login("bob").await;
}

#[tokio::test]
async fn a_replay_that_ends_all_sessions_of_the_user_is_felt_here_at_once() {
    let rig = Rig::with(|settings| {
        settings.rotation = RotationPolicy { on_reuse: OnReuse::User, ..settings.rotation.strict() };
    });
    let (stolen, other, bobs) = (rig.login("alice").await, rig.login("alice").await, rig.login("bob").await);
    rig.send(refresh(&stolen.refresh)).await.expect(200);
    let answer = rig.send(refresh(&stolen.refresh)).await.refused(401, "token_reused");
    let audit = answer.handled.audit.unwrap();
    assert_eq!((audit.action, audit.subject.as_deref()), (AuditAction::TokenReused, Some("u-alice")));
    assert!(!rig.is_good(&other.access).await);
    assert!(rig.is_good(&bobs.access).await);
    assert!(rig.is_good(&rig.login("alice").await.access).await);
}

#[tokio::test]
async fn sessions_under_another_secret_that_a_replay_could_not_end_are_ended_later() {
    let mut rig = Rig::with(|settings| {
        settings.rotation = RotationPolicy { on_reuse: OnReuse::User, ..settings.rotation.strict() };
    });
    let stolen = rig.login("alice").await;
    rig.change_secret();
    let other = rig.login("alice").await;
    rig.send(refresh(&stolen.refresh)).await.expect(200);
    // It takes the replay, and then nothing more.
    rig.store.down_after(1);
    rig.send(refresh(&stolen.refresh)).await.refused(401, "token_reused");
    assert_eq!(rig.parts.deferred.len(), 1);
    rig.store.down_after(usize::MAX);
    let store: Arc<dyn SessionStore> = rig.store.clone();
    let carried_out = carry_out(Arc::clone(&rig.parts.deferred), store);
    let all = async {
        while !rig.parts.deferred.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = carried_out => {}
        () = all => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it is not carried out"),
    }
    rig.send(refresh(&other.refresh)).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn a_directory_that_is_down_ends_nobodys_session() {
    let rig = Rig::new();
    let tokens = rig.login("alice").await;
    rig.directory.down(true);
    rig.send(refresh(&tokens.refresh)).await.expect(200);
}

#[tokio::test]
async fn new_claims_of_the_directory_appear_with_the_next_refresh() {
    let rig = Rig::new();
    let tokens = rig.login("alice").await;
    let mut promoted = user("alice");
    promoted.claims.insert("roles".to_owned(), json!(["manager"]));
    rig.directory.inner().replace(vec![promoted]).unwrap();
    let answer = rig.send(refresh(&tokens.refresh)).await.expect(200);
    let token = answer.text("accessToken");
    let claims = rig.parts.verifier.verify_own(&token, rig.now()).await.unwrap();
    assert_eq!(claims.roles(), ["manager"]);
    assert_eq!(claims.all().get("sid"), Some(&Value::from(tokens.session)));
}
