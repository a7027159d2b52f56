//! What surrounds the endpoints: paths, methods, keys, and what every answer carries.

use super::super::{Endpoint, find};
use super::rig::{PARTNER, PASSWORD, Rig, call, login, post};
use crate::session::id::SessionId;

#[test]
fn the_paths_below_the_prefix_are_all_ours_and_no_others_are() {
    let id = SessionId::from_bytes([7; 16]);
    for (path, endpoint) in [
        ("/auth/login", Some(Endpoint::Login)),
        ("/auth/refresh", Some(Endpoint::Refresh)),
        ("/auth/logout", Some(Endpoint::Logout)),
        ("/auth/logout-all", Some(Endpoint::LogoutAll)),
        ("/auth/sessions", Some(Endpoint::Sessions)),
        (&format!("/auth/sessions/{id}"), Some(Endpoint::Session(Some(id)))),
        ("/auth/sessions/x", Some(Endpoint::Session(None))),
        ("/auth/sessions/", Some(Endpoint::Unknown)),
        ("/auth/sessions/a/b", Some(Endpoint::Unknown)),
        ("/auth/login/", Some(Endpoint::Unknown)),
        ("/auth/LOGIN", Some(Endpoint::Unknown)),
        ("/auth", Some(Endpoint::Unknown)),
        ("/auth/", Some(Endpoint::Unknown)),
        ("/auth/x", Some(Endpoint::Unknown)),
        ("/.well-known/jwks.json", Some(Endpoint::Keys)),
        ("/.well-known/jwks", None),
        ("/authors", None),
        ("/Auth/login", None),
        ("/", None),
    ] {
        assert_eq!(find("/auth", path), endpoint, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_for_every_method() {
    let rig = Rig::new();
    for method in ["GET", "POST", "OPTIONS", "DELETE"] {
        rig.send(call(method, "/auth/x")).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn wrong_methods_learn_the_right_ones() {
    let rig = Rig::new();
    for (method, path, allow) in [
        ("GET", "/auth/refresh", "POST"),
        ("PUT", "/auth/logout", "POST"),
        ("OPTIONS", "/auth/login", "POST"),
        ("POST", "/auth/sessions", "GET"),
        ("GET", "/auth/sessions/x", "DELETE"),
        ("POST", "/.well-known/jwks.json", "GET, HEAD"),
    ] {
        let answer = rig.send(call(method, path)).await.refused(405, "invalid_request");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn the_public_keys_may_be_cached_and_hold_nothing_private() {
    let rig = Rig::new();
    for method in ["GET", "HEAD"] {
        let answer = rig.send(call(method, "/.well-known/jwks.json")).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
        let key = answer.body["keys"][0].as_object().unwrap();
        assert!(key.contains_key("kid") && !key.contains_key("d"));
    }
}

#[tokio::test]
async fn every_other_answer_is_neither_stored_nor_sniffed() {
    let rig = Rig::new();
    for call in [
        login("alice", PASSWORD),
        login("alice", "wrong"),
        post("/auth/logout"),
        post("/auth/refresh"),
        call("GET", "/auth/x"),
        call("GET", "/auth/login"),
    ] {
        let answer = rig.send(call).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_the_answers_and_others_may_not() {
    let rig = Rig::new();
    let preflight = |origin: &str| {
        let call = call("OPTIONS", "/auth/refresh").header("origin", origin);
        call.header("access-control-request-method", "POST")
    };
    let answer = rig.send(preflight(PARTNER)).await.expect(204);
    assert_eq!(answer.header("access-control-allow-origin"), Some(PARTNER));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("Content-Type"));
    let foreign = rig.send(preflight("https://evil.test")).await;
    assert!(foreign.headers.keys().all(|name| !name.as_str().starts_with("access-control-")));

    let answer = rig.send(post("/auth/refresh").header("origin", PARTNER)).await.refused(401, "no_session");
    assert_eq!(answer.header("access-control-allow-origin"), Some(PARTNER));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let answer = rig.send(post("/auth/refresh").header("origin", "https://evil.test")).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), Some("Origin"));
}

#[tokio::test]
async fn only_bearer_endpoints_challenge() {
    let rig = Rig::new();
    for call in [login("alice", "wrong"), post("/auth/refresh")] {
        assert_eq!(rig.send(call).await.expect(401).header("www-authenticate"), None);
    }
}
