//! Logout, logout-all and the session list.

use super::super::event::{AuditAction, SessionEvent};
use super::rig::{PASSWORD, Rig, call, login, post};
use serde_json::json;

fn in_body(path: &'static str, token: &str) -> super::rig::Call {
    post(path).json(&json!({ "refreshToken": token }))
}

#[tokio::test]
async fn each_kind_of_token_logs_out_and_is_felt_at_once() {
    let rig = Rig::new();
    let [a, b] = [rig.login("alice").await, rig.login("alice").await];
    let c = rig.login_in_browser("alice").await;
    let answer = rig.send(in_body("/auth/logout", &a.refresh)).await.expect(204);
    assert_eq!((answer.event, answer.header("set-cookie")), (Some(SessionEvent::Logout), None));
    rig.send(post("/auth/logout").bearer(&b.access)).await.expect(204);
    let answer = rig.send(post("/auth/logout").cookie(&c.refresh)).await.expect(204);
    assert!(answer.clears_cookie());
    for tokens in [a, b, c] {
        assert!(!rig.is_good(&tokens.access).await);
    }
}

#[tokio::test]
async fn a_second_logout_and_one_with_garbage_succeed_too() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    for _ in 0..2 {
        assert!(rig.send(post("/auth/logout").cookie(&tokens.refresh)).await.expect(204).clears_cookie());
    }
    let asked = rig.store.asked();
    let answer = rig.send(post("/auth/logout").cookie("garbage")).await.expect(204);
    assert!(answer.clears_cookie());
    assert_eq!((answer.event, answer.audit), (None, None));
    rig.send(in_body("/auth/logout", "garbage")).await.expect(204);
    rig.send(post("/auth/logout").bearer("garbage")).await.expect(204);
    rig.send(post("/auth/logout").header("authorization", "Basic eDp5")).await.expect(204);
    assert_eq!(rig.send(post("/auth/logout")).await.expect(204).header("set-cookie"), None);
    assert_eq!(rig.store.asked(), asked);
}

#[tokio::test]
async fn an_expired_access_token_still_logs_its_session_out() {
    let rig = Rig::new();
    let tokens = rig.login("alice").await;
    rig.advance(3600);
    assert!(!rig.is_good(&tokens.access).await);
    rig.send(post("/auth/logout").bearer(&tokens.access)).await.expect(204);
    rig.send(in_body("/auth/refresh", &tokens.refresh)).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn a_foreign_page_logs_nobody_out() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let bare = |path| post(path).bare_cookie(&tokens.refresh).header("sec-fetch-site", "cross-site");
    for path in ["/auth/logout", "/auth/logout-all"] {
        let answer = rig.send(bare(path)).await.refused(403, "csrf_failed");
        assert_eq!(answer.header("set-cookie"), None);
        rig.send(bare(path).bearer("garbage")).await.refused(403, "csrf_failed");
    }
    assert!(rig.is_good(&tokens.access).await);
    rig.send(post("/auth/logout").bare_cookie(&tokens.refresh).bearer(&tokens.access)).await.expect(204);
}

#[tokio::test]
async fn with_the_store_down_a_logout_counts_here_at_once_and_is_queued() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    rig.store.down(true);
    let answer = rig.send(post("/auth/logout").cookie(&tokens.refresh)).await.expect(202);
    assert!(answer.clears_cookie());
    assert_eq!(answer.audit, Some(AuditAction::LogoutQueued));
    rig.store.down(false);
    assert_eq!(rig.parts.deferred.len(), 1);
    assert!(!rig.is_good(&tokens.access).await);
}

#[tokio::test]
async fn logout_all_ends_every_session_of_the_user_and_nobody_elses() {
    let rig = Rig::new();
    let mine = [rig.login("alice").await, rig.login("alice").await, rig.login_in_browser("alice").await];
    let other = rig.login("bob").await;
    let by_access = post("/auth/logout-all").bearer(&mine[0].access).bare_cookie(&mine[2].refresh);
    let answer = rig.send(by_access).await.expect(200);
    assert_eq!(answer.body, json!({ "revoked": 3 }));
    assert!(answer.clears_cookie());
    assert_eq!((answer.event, answer.audit), (Some(SessionEvent::LogoutAll), Some(AuditAction::LogoutAll)));
    for tokens in &mine {
        assert!(!rig.is_good(&tokens.access).await);
    }
    assert!(rig.is_good(&other.access).await);
    let new = rig.login("alice").await;
    assert!(rig.is_good(&new.access).await);
}

#[tokio::test]
async fn logout_all_takes_a_refresh_token_by_either_way() {
    let rig = Rig::new();
    let body = rig.login("alice").await;
    rig.login("alice").await;
    let answer = rig.send(in_body("/auth/logout-all", &body.refresh)).await.expect(200);
    assert_eq!(answer.body["revoked"], 2);
    let cookie = rig.login_in_browser("alice").await;
    let answer = rig.send(post("/auth/logout-all").cookie(&cookie.refresh)).await.expect(200);
    assert_eq!(answer.body["revoked"], 1);
    assert!(answer.clears_cookie());
}

#[tokio::test]
async fn logout_all_takes_nothing_that_is_not_valid() {
    let rig = Rig::new();
    let ended = rig.login("alice").await;
    let alive = rig.login("alice").await;
    rig.send(in_body("/auth/logout", &ended.refresh)).await.expect(204);
    let answer = rig.send(post("/auth/logout-all")).await.refused(401, "no_session");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    rig.send(post("/auth/logout-all").bearer(&ended.access)).await.refused(401, "session_revoked");
    rig.send(in_body("/auth/logout-all", &ended.refresh)).await.refused(401, "session_revoked");
    rig.send(in_body("/auth/logout-all", "garbage")).await.refused(401, "invalid_token");
    rig.send(post("/auth/logout-all").bearer(&alive.refresh)).await.refused(401, "invalid_token");
    assert!(rig.is_good(&alive.access).await);
}

#[tokio::test]
async fn with_the_store_down_logout_all_promises_nothing() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    rig.store.down(true);
    let answer = rig.send(post("/auth/logout-all").cookie(&tokens.refresh)).await;
    let answer = answer.refused(503, "temporarily_unavailable");
    assert!(answer.header("retry-after").is_some() && answer.header("set-cookie").is_none());
}

#[tokio::test]
async fn a_user_sees_only_their_own_sessions() {
    let rig = Rig::new();
    let agent = login("alice", PASSWORD).header("user-agent", "Phone/1").from("2001:db8::1");
    rig.send(agent).await.expect(200);
    rig.login("bob").await;
    rig.advance(1);
    let tokens = rig.login("alice").await;
    let answer = rig.send(call("GET", "/auth/sessions").bearer(&tokens.access)).await.expect(200);
    let sessions = answer.body["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!((&sessions[0]["id"], &sessions[0]["current"]), (&json!(tokens.session), &json!(true)));
    assert_eq!((&sessions[1]["current"], &sessions[1]["device"]), (&json!(false), &json!("Phone/1")));
    assert_eq!(sessions[1]["address"], "2001:db8::1");
    assert!(
        sessions[1]["createdAt"].as_str().unwrap().ends_with('Z') && sessions[1]["lastSeenAt"].is_string()
    );
}

#[tokio::test]
async fn a_user_ends_only_their_own_sessions() {
    let rig = Rig::new();
    let [mine, other] = [rig.login("alice").await, rig.login("alice").await];
    let foreign = rig.login("bob").await;
    let delete = |session: &str| {
        let path: &'static str = format!("/auth/sessions/{session}").leak();
        call("DELETE", path).bearer(&mine.access)
    };
    rig.send(delete(&foreign.session)).await.refused(404, "not_found");
    rig.send(delete("unknown")).await.refused(404, "not_found");
    assert!(rig.is_good(&foreign.access).await);
    let answer = rig.send(delete(&other.session)).await.expect(204);
    assert_eq!(answer.audit, Some(AuditAction::SessionRemoved));
    assert!(!rig.is_good(&other.access).await);
    rig.send(delete(&other.session)).await.refused(404, "not_found");
    rig.send(delete(&mine.session)).await.expect(204);
    rig.send(delete(&mine.session)).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn the_session_list_challenges_for_a_bearer_token() {
    let rig = Rig::new();
    let tokens = rig.login_in_browser("alice").await;
    let list = || call("GET", "/auth/sessions");
    let challenge = |answer: super::rig::Answer| answer.header("www-authenticate").map(str::to_owned);
    let none = rig.send(list()).await.refused(401, "no_session");
    assert_eq!(challenge(none).as_deref(), Some("Bearer"));
    let cookie_only = rig.send(list().cookie(&tokens.refresh)).await.refused(401, "no_session");
    assert_eq!(challenge(cookie_only).as_deref(), Some("Bearer"));
    let bad = rig.send(list().bearer("garbage")).await.refused(401, "invalid_token");
    assert!(challenge(bad).unwrap().contains("error=\"invalid_token\""));
    let malformed =
        rig.send(list().header("authorization", "Basic eDp5")).await.refused(400, "invalid_request");
    assert!(challenge(malformed).unwrap().contains("error=\"invalid_request\""));
    rig.store.down(true);
    rig.send(list().bearer(&tokens.access)).await.refused(503, "temporarily_unavailable");
}
