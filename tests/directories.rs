//! Who may log in is said by somebody else: a backend's own login endpoint.

use crate::support::config::PASSWORD;
use crate::support::daemon::Breakable;
use crate::support::http_server::{HttpServer, Received};
use crate::support::person::{Tokens, login_as, login_request, refresh};
use crate::support::token::parts;
use crate::support::{Config, Gateway, Reply, Response, Sessions, eventually, get, post};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn asking(backend: &HttpServer, more: &str) -> Sessions {
    let directory = format!(
        "{{ http: {{ url: \"http://{}/internal/login\", subject: user.id, claims: {{ email: user.email, \
         roles: user.roles, scope: granted }}{more} }} }}",
        backend.address()
    );
    Sessions::embedded().set("users", &directory)
}

/// A backend that knows alice, as legacy backends do it.
fn knows_alice(request: &Received) -> Reply {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if body["username"] == "alice" && body["password"] == PASSWORD {
        let user = json!({ "id": 4711, "email": "alice@example.com", "roles": ["clerk"], "password": "x" });
        Reply::json(&json!({ "user": user, "granted": "orders:read", "session": "of the backend" }))
    } else {
        Reply::status(401, "no")
    }
}

fn wrong(gateway: &Gateway, user: &str) -> Response {
    let body = json!({ "username": user, "password": "wrong", "delivery": "body" });
    post("/auth/login").json(&body).send(&gateway.address())
}

fn start(sessions: Sessions) -> Gateway {
    Gateway::start(&Config::new().sessions(sessions))
}

fn claims(token: &str) -> Value {
    parts(token).1
}

#[test]
fn a_backends_login_decides_and_its_answer_becomes_the_claims() {
    let backend = HttpServer::start(knows_alice);
    let gateway = start(asking(&backend, ""));
    let tokens = login_as(&gateway, "alice");
    let claims = claims(&tokens.access);
    assert_eq!(claims["sub"], "4711");
    assert_eq!((&claims["email"], &claims["scope"]), (&json!("alice@example.com"), &json!("orders:read")));
    assert_eq!(claims["roles"], json!(["clerk"]));
    assert_eq!(claims.get("password"), None);
    let asked = &backend.received()[0];
    assert_eq!((asked.method(), asked.target()), ("POST", "/internal/login"));
    assert_eq!(asked.header("content-type"), Some("application/json"));

    let refused = wrong(&gateway, "alice").expect(401);
    assert_eq!(refused.member("code"), "invalid_credentials");
    assert_eq!(wrong(&gateway, "nobody").expect(401).member("code"), "invalid_credentials");

    // A refresh needs no backend.
    backend.stop();
    let next = Tokens::from_body(refresh(&gateway, &tokens.refresh));
    assert_eq!(self::claims(&next.access)["email"], "alice@example.com");
    get("/auth/sessions").bearer(&next.access).send(&gateway.address()).expect(200);
}

#[test]
fn the_request_is_shaped_as_the_backend_expects_it() {
    let backend = HttpServer::start(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let good = "login=corp%2Falice&pass=correct+horse+battery+staple&realm=staff";
        if body == good { Reply::json(&json!({ "user": { "id": "a-1" } })) } else { Reply::status(422, "") }
    });
    let shape = ", format: form, refused: [422], fields: { login: \"corp/{username}\", pass: \"{password}\", \
                 realm: staff }";
    let gateway = start(asking(&backend, shape));
    let claims = claims(&login_as(&gateway, "alice").access);
    assert_eq!((&claims["sub"], claims.get("email")), (&json!("a-1"), None));
    wrong(&gateway, "alice").expect(401);
    let asked = &backend.received()[0];
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
}

/// Each of these answers is one of 503, and none counts as a failed login.
fn are_no_judgement(gateway: &Gateway, backend: &HttpServer, replies: &[Reply]) {
    for reply in replies {
        let said = format!("{reply:?}").chars().take(100).collect::<String>();
        let again = reply.clone();
        backend.handle(move |_| again.clone());
        let answer = login_request("alice").send(&gateway.address());
        assert_eq!(answer.status, 503, "{said}: {}", answer.text());
        assert_eq!(answer.member("code"), "temporarily_unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    backend.handle(knows_alice);
    let recovers = || login_request("alice").send(&gateway.address()).status == 200;
    assert!(eventually(Duration::from_secs(10), recovers));
    let counted = gateway.metric("portcullis_session_events_total", &[("event", "login_failed")]);
    assert!(counted.abs() < 0.5, "an outage counted as a failure: {counted}");
}

/// Few tries for each account, and some more for a network.
fn throttled(sessions: Sessions, network: usize) -> Sessions {
    let account = "{ burst: 2, every: 1h }";
    let network = format!("{{ burst: {network}, every: 1h }}");
    let all = format!("{{ account_network: {account}, network: {network}, account: {account} }}");
    sessions.set("throttle", &all)
}

#[test]
fn an_outage_costs_an_account_no_try() {
    let backend = HttpServer::start(knows_alice);
    let gateway = start(throttled(asking(&backend, ", timeout: 500ms"), 30));
    let outages = [
        Reply::status(500, "broken"),
        Reply::ok(vec![b' '; 70_000]),
        Reply::status(401, "late").after(Duration::from_secs(2)),
        Reply::status(503, "later"),
    ];
    are_no_judgement(&gateway, &backend, &outages);
}

#[test]
fn an_answer_that_is_no_judgement_is_503_and_counts_as_a_try() {
    let backend = HttpServer::start(knows_alice);
    let unclear = [
        Reply::status(404, "moved"),
        Reply::status(302, "").with("Location", "/"),
        Reply::ok("<html>"),
        Reply::json(&json!({ "user": {} })),
        Reply::json(&json!({ "user": { "id": true } })),
        Reply::json(&json!({ "user": { "id": "a\nb" } })),
        Reply::json(&json!({ "user": { "id": "a", "roles": "clerk" } })),
        Reply::json(&json!({ "user": { "id": "a", "email": "x".repeat(5000) } })),
    ];
    let patient = format!("{{ burst: {}, every: 1h }}", unclear.len() + 1);
    let gateway = start(asking(&backend, "").throttle(&patient));
    are_no_judgement(&gateway, &backend, &unclear);
    assert!(gateway.says("if that is its word for a wrong password, add it to `refused`"));
    // The good login gave its try back: that one is left.
    backend.handle(|_| Reply::status(404, "no such user"));
    wrong(&gateway, "alice").expect(503);
    assert_eq!(wrong(&gateway, "alice").expect(429).member("code"), "too_many_attempts");
}

#[test]
fn who_knows_a_name_that_the_backend_fails_for_has_nobody_else_refused() {
    let backend = HttpServer::start(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let name = body["username"].as_str().unwrap_or_default().to_lowercase();
        if name.trim() == "stuck" { Reply::status(503, "") } else { knows_alice(request) }
    });
    let gateway = start(throttled(asking(&backend, ""), 20));
    for name in ["stuck", "STUCK", " stuck"].into_iter().cycle().take(12) {
        wrong(&gateway, name).expect(503);
    }
    assert_eq!(backend.received().len(), 12, "the breaker is open");
    login_as(&gateway, "alice");
    // It costs the account nothing, but who asks.
    for _ in 12..20 {
        wrong(&gateway, "stuck").expect(503);
    }
    assert_eq!(wrong(&gateway, "stuck").expect(429).member("code"), "too_many_attempts");
    assert_eq!(backend.received().len(), 21);
}

#[test]
fn a_backend_that_hangs_holds_up_nobody_for_long() {
    let backend = HttpServer::start(|_| Reply::status(401, "late").after(Duration::from_secs(3)));
    let gateway = start(asking(&backend, ", timeout: 300ms"));
    for user in 0..5 {
        login_request(&format!("user-{user}")).send(&gateway.address()).expect(503);
    }
    // Now nobody waits for it, but for one who tries now and then.
    let asked = backend.received().len();
    let began = Instant::now();
    for _ in 0..20 {
        login_request("alice").send(&gateway.address()).expect(503);
    }
    println!("20 logins refused in {:?}", began.elapsed());
    let tries = backend.received().len() - asked;
    assert!(tries < 10, "{tries} of 20 were asked about");
}

/// What holds for any server that is asked who somebody is; the gateway that asked it.
#[track_caller]
pub(crate) fn dies_hangs_and_comes_back(server: &mut impl Breakable, users: &str) -> Gateway {
    let sessions = Sessions::embedded().set("users", users).throttle("{ burst: 4, every: 1h }");
    let gateway = Gateway::start(&Config::new().sessions(sessions));
    let logs_in = || login_request("alice").send(&gateway.address()).status == 200;
    assert!(logs_in());

    server.pause();
    for _ in 0..2 {
        let began = Instant::now();
        let answer = login_request("alice").send(&gateway.address()).expect(503);
        assert_eq!(answer.member("code"), "temporarily_unavailable");
        assert!(answer.header("retry-after").is_some());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert!(gateway.says("no answer in time"));
    server.resume();
    assert!(eventually(Duration::from_secs(20), logs_in));

    server.stop();
    for _ in 0..6 {
        login_request("alice").send(&gateway.address()).expect(503);
    }
    server.start_again();
    assert!(eventually(Duration::from_secs(20), logs_in));

    let failed = [("event", "login_failed")];
    assert!(gateway.metric("portcullis_session_events_total", &failed).abs() < 0.5, "an outage counted");
    let wrong = json!({ "username": "alice", "password": "wrong", "delivery": "body" });
    post("/auth/login").json(&wrong).send(&gateway.address()).expect(401);
    gateway
}
