//! Login: what it grants, what it refuses, and what each attempt costs.

use super::super::Body;
use super::super::event::{AuditAction, SessionEvent};
use super::super::settings::{DeliveryRule, Naming};
use super::breakable::Overtake;
use super::rig::{Call, OWN, PARTNER, PASSWORD, Rig, call, login, post};
use serde_json::{Value, json};

fn members(body: &Value) -> Vec<&str> {
    body.as_object().unwrap().keys().map(String::as_str).collect()
}

fn wishing(delivery: &Value) -> Call {
    post("/auth/login").json(&json!({ "username": "alice", "password": PASSWORD, "delivery": delivery }))
}

#[tokio::test]
async fn an_app_gets_both_tokens_in_the_body_and_no_cookie() {
    let rig = Rig::new();
    let answer = rig.send(login("alice", PASSWORD)).await.expect(200);
    let expected = ["accessToken", "expiresIn", "refreshExpiresIn", "refreshToken", "sessionId", "tokenType"];
    assert_eq!(members(&answer.body), expected);
    assert_eq!(answer.body["tokenType"], "Bearer");
    assert_eq!((&answer.body["expiresIn"], &answer.body["refreshExpiresIn"]), (&json!(600), &json!(604_800)));
    assert!(answer.text("refreshToken").starts_with("prt_"));
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!((answer.event, answer.audit), (Some(SessionEvent::LoginOk), Some(AuditAction::LoginOk)));
    assert_eq!(answer.handled.audit.as_ref().unwrap().subject.as_deref(), Some("u-alice"));
    assert!(rig.is_good(&answer.text("accessToken")).await);
}

#[tokio::test]
async fn a_browser_gets_the_refresh_token_in_a_cookie_and_nowhere_else() {
    let rig = Rig::new();
    let answer = rig.send(login("alice", PASSWORD).same_origin()).await.expect(200);
    let token = answer.cookie().unwrap();
    let attributes = "Path=/auth; Max-Age=604800; HttpOnly; Secure; SameSite=Strict";
    assert!(answer.header("set-cookie").unwrap().ends_with(attributes));
    assert!(!answer.body.to_string().contains(&token));
    assert_eq!(answer.body.get("refreshToken"), None);
}

#[tokio::test]
async fn the_clients_wish_decides_the_delivery_only_where_the_configuration_leaves_it_to_the_client() {
    let rig = Rig::new();
    assert!(rig.send(wishing(&json!("body")).same_origin()).await.expect(200).cookie().is_none());
    let asked = wishing(&json!("cookie")).header("x-portcullis-request", "1");
    assert!(rig.send(asked).await.expect(200).cookie().is_some());
    for wrong in [json!("both"), json!(1), json!(null)] {
        rig.send(wishing(&wrong)).await.refused(400, "invalid_request");
    }
    let rig = Rig::with(|settings| settings.delivery = DeliveryRule::Body);
    assert!(rig.send(login("alice", PASSWORD).same_origin()).await.expect(200).cookie().is_none());
    rig.send(wishing(&json!("cookie")).same_origin()).await.refused(400, "invalid_request");
    let rig = Rig::with(|settings| settings.delivery = DeliveryRule::Cookie);
    let asked = login("alice", PASSWORD).header("x-portcullis-request", "1");
    assert!(rig.send(asked).await.expect(200).cookie().is_some());
    rig.send(wishing(&json!("body"))).await.refused(400, "invalid_request");
}

#[tokio::test]
async fn a_foreign_page_cannot_log_a_browser_in() {
    let rig = Rig::new();
    let cross =
        login("alice", PASSWORD).header("sec-fetch-site", "cross-site").header("origin", "https://evil.test");
    let answer = rig.send(cross).await.refused(403, "csrf_failed");
    assert_eq!(answer.header("set-cookie"), None);
    rig.send(wishing(&json!("cookie"))).await.refused(403, "csrf_failed");
    assert_eq!(rig.directory.asked(), 0);
    let partner = login("alice", PASSWORD).header("sec-fetch-site", "cross-site").header("origin", PARTNER);
    rig.send(partner).await.expect(200);
    let issuer = login("alice", PASSWORD).header("origin", "https://id.example.com");
    rig.send(issuer).await.expect(200);
}

#[tokio::test]
async fn unknown_wrong_and_disabled_get_one_answer() {
    let rig = Rig::new();
    let mut answers = Vec::new();
    for (username, password) in [("nobody", PASSWORD), ("alice", "wrong"), ("eve", PASSWORD), ("alice", "")] {
        let answer = rig.send(login(username, password)).await.refused(401, "invalid_credentials");
        assert_eq!(
            (answer.event, answer.audit),
            (Some(SessionEvent::LoginFailed), Some(AuditAction::LoginFailed))
        );
        assert_eq!(answer.handled.audit.as_ref().unwrap().subject, None);
        answers.push(answer.handled.reply);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(rig.store.asked(), 0);
}

#[tokio::test]
async fn malformed_logins_are_told_so_before_anything_is_asked() {
    let rig = Rig::new();
    let long = "x".repeat(1025);
    let json = |text: &str| post("/auth/login").header("content-type", "application/json").text(text);
    for body in [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"username":"alice"}"#.to_owned(),
        r#"{"password":"x"}"#.to_owned(),
        r#"{"username":"alice","password":1}"#.to_owned(),
        r#"{"username":["alice"],"password":"x"}"#.to_owned(),
        r#"{"username":null,"password":"x"}"#.to_owned(),
        r#"{"username":"alice","password":"x","password":"y"}"#.to_owned(),
        format!(r#"{{"username":"alice","password":"{long}"}}"#),
    ] {
        rig.send(json(&body)).await.refused(400, "invalid_request");
    }
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let body = format!(r#"{{"username":"alice","password":"{PASSWORD}"}}"#);
        let wrong = post("/auth/login").header("content-type", media_type).text(&body);
        rig.send(wrong).await.refused(415, "invalid_request");
    }
    rig.send(json("").body(Body::TooLarge)).await.refused(413, "invalid_request");
    rig.send(json("").body(Body::TimedOut)).await.refused(408, "invalid_request");
    let answer = rig.send(call("GET", "/auth/login")).await.refused(405, "invalid_request");
    assert_eq!(answer.header("allow"), Some("POST"));
    assert_eq!(rig.directory.asked(), 0);
    let body = format!(r#"{{"username":"alice","password":"{PASSWORD}","unknown":[1]}}"#);
    rig.send(json(&body)).await.expect(200);
}

#[tokio::test]
async fn after_the_burst_even_the_right_password_is_turned_away_until_the_bucket_refills() {
    let rig = Rig::new();
    for _ in 0..5 {
        rig.send(login("alice", "wrong")).await.refused(401, "invalid_credentials");
    }
    let asked = rig.directory.asked();
    let answer = rig.send(login("alice", PASSWORD)).await.refused(429, "too_many_attempts");
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(answer.event, Some(SessionEvent::LoginThrottled));
    assert_eq!(rig.directory.asked(), asked);
    rig.send(login("bob", PASSWORD)).await.expect(200);
    rig.send(login("alice", PASSWORD).from("203.0.113.5")).await.expect(200);
    rig.advance(30);
    rig.send(login("alice", PASSWORD)).await.expect(200);
}

#[tokio::test]
async fn guesses_at_once_are_counted_before_they_are_judged() {
    let rig = Rig::new();
    let guesses = (0..20).map(|n| login("alice", &format!("guess {n}")));
    let mut judged = 0;
    let mut answers = Vec::new();
    for guess in guesses {
        answers.push(Box::pin(rig.send(guess)));
    }
    for answer in join_all(answers).await {
        judged += usize::from(answer.status == 401);
    }
    assert_eq!((judged, rig.directory.asked()), (5, 5));
}

/// Polls all of them before any is finished.
async fn join_all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match std::pin::Pin::new(future).poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn successes_and_outages_use_up_no_tries() {
    let rig = Rig::new();
    for _ in 0..8 {
        rig.send(login("alice", PASSWORD)).await.expect(200);
    }
    rig.directory.down(true);
    for _ in 0..8 {
        let answer = rig.send(login("alice", "wrong")).await.refused(503, "temporarily_unavailable");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(answer.event, None);
    }
    rig.directory.down(false);
    rig.send(login("alice", "wrong")).await.refused(401, "invalid_credentials");
}

#[tokio::test]
async fn with_the_store_down_nothing_is_handed_out() {
    let rig = Rig::new();
    rig.store.down(true);
    let answer =
        rig.send(login("alice", PASSWORD).same_origin()).await.refused(503, "temporarily_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("set-cookie"), None);
}

#[tokio::test]
async fn a_login_that_a_logout_all_overtakes_comes_after_it() {
    let rig = Rig::new();
    let logout_all = Overtake::LogoutAll(rig.parts.revocations.clone());
    let earlier = rig.login("alice").await;
    let asked = rig.directory.asked();
    rig.store.overtake(1, logout_all.clone());
    let tokens = rig.login("alice").await;
    assert_eq!(rig.directory.asked(), asked + 2, "the password is judged again");
    assert!(rig.is_good(&tokens.access).await && !rig.is_good(&earlier.access).await);
    let list = rig.send(call("GET", "/auth/sessions").bearer(&tokens.access)).await.expect(200);
    assert_eq!(list.body["sessions"].as_array().unwrap().len(), 1);
    // Whoever is logged out time and again is told to try again.
    rig.store.overtake(2, logout_all);
    rig.send(login("alice", PASSWORD)).await.refused(503, "temporarily_unavailable");
    rig.send(login("alice", PASSWORD)).await.expect(200);
}

#[tokio::test]
async fn no_login_outlives_what_closed_its_account_or_removed_its_session() {
    let rig = Rig::new();
    rig.store.overtake(1, Overtake::Removal(rig.parts.revocations.clone()));
    rig.send(login("alice", PASSWORD)).await.refused(503, "temporarily_unavailable");
    rig.store.overtake(1, Overtake::Closing(rig.parts.revocations.clone(), rig.directory.clone()));
    let answer = rig.send(login("alice", PASSWORD)).await.refused(401, "invalid_credentials");
    assert_eq!(
        (answer.event, answer.audit),
        (Some(SessionEvent::LoginFailed), Some(AuditAction::LoginFailed))
    );
}

#[tokio::test]
async fn oauth_naming_spells_members_as_rfc_6749_does() {
    let rig = Rig::with(|settings| settings.naming = Naming::OAuth);
    let answer = rig.send(login("alice", PASSWORD)).await.expect(200);
    let expected =
        ["access_token", "expires_in", "refresh_expires_in", "refresh_token", "session_id", "token_type"];
    assert_eq!(members(&answer.body), expected);
    let access = answer.text("access_token");
    let list = rig.send(call("GET", "/auth/sessions").bearer(&access)).await.expect(200);
    assert!(list.body["sessions"][0]["created_at"].is_string());
}

#[tokio::test]
async fn the_session_over_the_limit_pushes_out_the_longest_idle_at_once() {
    let rig = Rig::with(|settings| settings.rotation.max_per_user = 2);
    let first = rig.login("alice").await;
    rig.advance(1);
    let second = rig.login("alice").await;
    rig.advance(1);
    rig.login("alice").await;
    assert!(!rig.is_good(&first.access).await);
    assert!(rig.is_good(&second.access).await);
}

#[tokio::test]
async fn a_page_of_the_host_it_was_sent_to_is_our_own() {
    let rig = Rig::new();
    rig.send(login("alice", PASSWORD).header("origin", OWN)).await.expect(200);
    rig.send(login("alice", PASSWORD).header("origin", "http://app.example.com"))
        .await
        .refused(403, "csrf_failed");
}
