//! Changing the secret of the sessions: both are accepted while they overlap, and afterwards only the new one.

use crate::support::config::{PASSWORD, SharedKeys};
use crate::support::person::{Tokens, call, end_session, login, login_as, refresh, sessions};
use crate::support::redis::Redis;
use crate::support::wait::let_pass;
use crate::support::{Config, Gateway, Sessions, Upstream, eventually, post};
use serde_json::json;
use std::time::Duration;

const OLD: &str = "the secret that was first, of 32 bytes and more";
const NEW: &str = "the secret that comes next, of 32 bytes and more";

fn layout(upstream: &Upstream, sessions: Sessions) -> Config {
    let sessions = sessions.set("secret_file", "old.secret").set("previous_secret_files", "[]");
    Config::to(upstream)
        .sessions(sessions)
        .route("{ name: api, match: { path: /api/** }, upstream: app }")
        .server("trusted_proxies", "[127.0.0.1/32]")
        .file("old.secret", OLD)
        .file("new.secret", NEW)
}

/// What the configuration says of secrets.
fn secrets(text: &str, current: &str, previous: &str) -> String {
    let line = |line: &str| match line.trim_start().split(':').next() {
        Some("secret_file") => format!("  secret_file: {current}\n"),
        Some("previous_secret_files") => format!("  previous_secret_files: {previous}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Starts it again under other secrets.
fn change(gateway: &mut Gateway, current: &str, previous: &str) {
    let text = gateway.folder().read("portcullis.yaml");
    gateway.folder().write("portcullis.yaml", secrets(&text, current, previous));
    gateway.restart();
}

fn rotations_asked(gateway: &Gateway) -> f64 {
    gateway.metric("portcullis_sessions_store_seconds_count", &[("operation", "rotate")])
}

#[test]
fn tokens_of_the_old_secret_live_on_under_the_new_one_and_end_with_the_overlap() {
    let upstream = Upstream::start();
    let pause = Duration::from_secs(5);
    let sessions = Sessions::embedded().set("refresh_token", "{ grace: 5s, coalesce: 5s }");
    let mut gateway = Gateway::start(&layout(&upstream, sessions));
    let (first, other, left_behind) = (login(&gateway), login(&gateway), login_as(&gateway, "bob"));

    change(&mut gateway, "new.secret", "[old.secret]");
    assert_eq!(call(&gateway, &first.access), 200);
    let second = Tokens::from_body(refresh(&gateway, &first.refresh));
    // The same session, and within grace the same successor.
    assert_eq!(second.session, first.session);
    assert_eq!(Tokens::from_body(refresh(&gateway, &first.refresh)).refresh, second.refresh);
    let kept = Tokens::from_body(refresh(&gateway, &other.refresh));
    let_pass(pause + Duration::from_millis(200));
    let third = Tokens::from_body(refresh(&gateway, &second.refresh));
    assert_ne!(third.refresh, second.refresh);
    assert_eq!(call(&gateway, &third.access), 200);
    // A replay is found out across the change.
    assert_eq!(refresh(&gateway, &first.refresh).expect(401).member("code"), "token_reused");
    assert_eq!(call(&gateway, &third.access), 401);
    assert_eq!(refresh(&gateway, &third.refresh).expect(401).member("code"), "session_revoked");

    change(&mut gateway, "new.secret", "[]");
    let asked = rotations_asked(&gateway);
    for old in [&first.refresh, &other.refresh, &left_behind.refresh] {
        assert_eq!(refresh(&gateway, old).expect(401).member("code"), "invalid_token");
    }
    assert!(
        (rotations_asked(&gateway) - asked).abs() < 0.5,
        "a token of no secret of ours reached the store"
    );
    let next = Tokens::from_body(refresh(&gateway, &kept.refresh));
    assert_eq!(next.session, other.session);
    assert_eq!(call(&gateway, &next.access), 200);
}

#[test]
fn what_a_user_does_to_all_sessions_reaches_those_of_both_secrets() {
    let upstream = Upstream::start();
    let mut gateway = Gateway::start(&layout(&upstream, Sessions::embedded()));
    let before: Vec<Tokens> = (0..3).map(|_| login(&gateway)).collect();
    change(&mut gateway, "new.secret", "[old.secret]");
    let after = login(&gateway);
    for tokens in [&before[0], &after] {
        let listed = sessions(&gateway, &tokens.access);
        assert_eq!(listed.len(), 4);
        assert_eq!(listed[0]["id"], after.session.as_str(), "latest seen first");
        let current: Vec<_> = listed.iter().filter(|entry| entry["current"] == true).collect();
        assert!(matches!(current[..], [entry] if entry["id"] == tokens.session.as_str()));
    }
    end_session(&gateway, &after.access, &before[2].session).expect(204);
    assert_eq!(call(&gateway, &before[2].access), 401);
    end_session(&gateway, &after.access, &before[2].session).expect(404);

    let answer = post("/auth/logout-all").bearer(&after.access).send(&gateway.address()).expect(200);
    assert_eq!(answer.json()["revoked"], 3);
    for tokens in before.iter().chain([&after]) {
        assert_eq!(call(&gateway, &tokens.access), 401);
        assert_eq!(refresh(&gateway, &tokens.refresh).expect(401).member("code"), "session_revoked");
    }
    assert_eq!(call(&gateway, &login(&gateway).access), 200);
}

#[test]
fn a_replay_that_ends_all_sessions_ends_those_of_both_secrets_at_once() {
    let upstream = Upstream::start();
    let rules = "{ grace: 0s, coalesce: 0s, lost_response: 0s, on_reuse: user }";
    let mut gateway = Gateway::start(&layout(&upstream, Sessions::embedded().set("refresh_token", rules)));
    let (stolen, other) = (login(&gateway), login(&gateway));
    change(&mut gateway, "new.secret", "[old.secret]");
    let after = login(&gateway);
    Tokens::from_body(refresh(&gateway, &stolen.refresh));
    assert_eq!(refresh(&gateway, &stolen.refresh).expect(401).member("code"), "token_reused");
    for tokens in [&other, &after] {
        assert_eq!(call(&gateway, &tokens.access), 401);
        assert_eq!(refresh(&gateway, &tokens.refresh).expect(401).member("code"), "session_revoked");
    }
}

#[test]
fn gateways_on_either_side_of_the_change_refresh_one_session_in_turn() {
    let (upstream, redis, keys) = (Upstream::start(), Redis::start(), SharedKeys::new());
    let strict = "{ grace: 0s, coalesce: 0s, lost_response: 0s }";
    let throttle = "{ account_network: { burst: 50, every: 1h }, network: { burst: 50, every: 1h }, \
                    account: { burst: 3, every: 1h } }";
    let sessions =
        Sessions::redis(&redis.url(), &keys).set("refresh_token", strict).set("throttle", throttle);
    let config = layout(&upstream, sessions);
    let (mut old, mut new) = (Gateway::start(&config), Gateway::start(&config));
    change(&mut old, "old.secret", "[new.secret]");
    change(&mut new, "new.secret", "[old.secret]");

    let mut tokens = login(&old);
    let first = tokens.clone();
    for gateway in [&new, &old].repeat(4) {
        let next = Tokens::from_body(refresh(gateway, &tokens.refresh));
        assert_eq!(next.session, first.session);
        assert_ne!(next.refresh, tokens.refresh);
        for gateway in [&old, &new] {
            assert_eq!(call(gateway, &next.access), 200);
        }
        tokens = next;
    }
    let opened_there = login(&new);
    let answer = post("/auth/logout-all").bearer(&tokens.access).send(&old.address()).expect(200);
    assert_eq!(answer.json()["revoked"], 2);
    assert!(eventually(Duration::from_secs(3), || call(&new, &opened_there.access) == 401));
    assert_eq!(refresh(&new, &tokens.refresh).expect(401).member("code"), "session_revoked");

    // Where a user logged in under one secret is known under the other.
    let from = |gateway: &Gateway, client: &str, password: &str| {
        let body = json!({ "username": "bob", "password": password, "delivery": "body" });
        post("/auth/login").header("X-Forwarded-For", client).json(&body).send(&gateway.address()).status
    };
    assert_eq!(from(&old, "203.0.113.7", PASSWORD), 200);
    let strangers: Vec<u16> = (0..4).map(|n| from(&new, &format!("198.51.{n}.1"), "guess")).collect();
    assert_eq!(strangers, [401, 401, 401, 429]);
    assert_eq!(from(&new, "203.0.113.7", PASSWORD), 200);
}
