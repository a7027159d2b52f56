//! Login, refresh, logout: an honest user stays in, a thief is found out, an ended session is felt.

use crate::support::config::{PASSWORD, phc, users};
use crate::support::keys::b64;
use crate::support::measure::processor_time;
use crate::support::person::{
    COOKIE, Tokens, browser_login, browser_refresh, call, credentials, end_session, login, login_as,
    login_in_browser, login_request, logout, refresh, refresh_request, sessions,
};
use crate::support::token::{now, parts};
use crate::support::wait::let_pass;
use crate::support::{
    Config, Connection, Gateway, Issuer, Sessions, Upstream, delete, eventually, get, post, request,
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

struct Set {
    upstream: Upstream,
    gateway: Gateway,
}

/// Our own sessions, and one required route under `/api`.
fn layout(upstream: &Upstream, sessions: Sessions) -> Config {
    Config::to(upstream)
        .sessions(sessions)
        .set("forward", "{ headers: { X-Auth-Subject: sub, X-Auth-Roles: { claim: roles, format: csv } } }")
        .route("{ name: api, match: { path: /api/** }, upstream: app }")
}

fn start(sessions: Sessions) -> Set {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream, sessions));
    Set { upstream, gateway }
}

fn with_refresh(rules: &str) -> Set {
    start(Sessions::embedded().set("refresh_token", rules))
}

/// A chain of `count` refresh tokens after the first, each the successor of the one before. Only for
/// rules under which every refresh rotates.
fn chain(gateway: &Gateway, count: usize) -> Vec<Tokens> {
    let mut tokens = vec![login(gateway)];
    for _ in 0..count {
        let next = Tokens::from_body(refresh(gateway, &tokens[tokens.len() - 1].refresh));
        assert_ne!(next.refresh, tokens[tokens.len() - 1].refresh);
        tokens.push(next);
    }
    tokens
}

#[track_caller]
fn code(response: crate::support::Response, status: u16, code: &str) {
    let response = response.expect(status);
    let body = response.json();
    assert_eq!(body["code"], code, "{body}");
    for member in ["error", "message", "requestId"] {
        assert!(body[member].is_string(), "{member} is missing in {body}");
    }
    assert!(response.all("set-cookie").is_empty(), "an error set a cookie");
}

#[test]
fn a_login_gives_an_access_token_that_opens_the_route_and_tells_the_upstream_who_it_is() {
    let set = start(Sessions::embedded());
    let response = login_request("alice").send(&set.gateway.address()).expect(200);
    let body = response.json();
    assert_eq!(body["tokenType"], "Bearer");
    assert_eq!(body["expiresIn"], 600);
    assert_eq!(body["refreshExpiresIn"], 604_800);
    assert!(response.all("set-cookie").is_empty());
    let tokens = Tokens::from_body(response);
    assert!(tokens.refresh.starts_with("prt_") && !tokens.refresh.contains('.'), "{}", tokens.refresh);
    assert_eq!(call(&set.gateway, &tokens.access), 200);
    let received = set.upstream.last();
    assert_eq!(received.header("x-auth-subject"), Some("u-alice"));
    assert_eq!(received.header("x-auth-roles"), Some("clerk"));
    assert_eq!(call(&set.gateway, ""), 400);
    get("/api/x").send(&set.gateway.address()).expect(401);
}

#[test]
fn the_access_token_is_a_rfc_9068_token_that_the_published_keys_verify() {
    let set = start(Sessions::embedded());
    let tokens = login(&set.gateway);
    let (header, claims) = parts(&tokens.access);
    assert_eq!(header["typ"], "at+jwt");
    assert_eq!(header["alg"], "ES256");
    assert_eq!(claims["iss"], Sessions::ISSUER);
    assert_eq!(claims["sub"], "u-alice");
    assert!(claims["aud"] == "api" || claims["aud"] == json!(["api"]), "{claims}");
    assert_eq!(claims["sid"], tokens.session.as_str());
    assert_eq!(claims["scope"], "orders:read orders:write");
    assert_eq!(claims["roles"], json!(["clerk"]));
    assert_eq!(claims["email"], "alice@example.com");
    assert!(claims["jti"].as_str().is_some_and(|jti| !jti.is_empty()));
    let (issued, expires) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    assert_eq!(expires - issued, 600);
    assert!((now() - issued).abs() < 10);

    let published = get("/.well-known/jwks.json").send(&set.gateway.address()).expect(200);
    assert_eq!(published.header("cache-control"), Some("public, max-age=300"));
    let keys = published.json();
    let key =
        keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap().clone();
    let allowed = ["kty", "crv", "x", "y", "kid", "use", "alg", "key_ops"];
    assert!(key.as_object().unwrap().keys().all(|name| allowed.contains(&name.as_str())), "{key}");
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], bytes("x"), bytes("y")].concat();
    let (message, signature) = tokens.access.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .expect("the published key verifies the token");
    let thumbprint = format!(
        r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
        key["x"].as_str().unwrap(),
        key["y"].as_str().unwrap()
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, thumbprint.as_bytes());
    assert_eq!(key["kid"], b64(digest));
    assert_ne!(parts(&login(&set.gateway).access).1["jti"], claims["jti"]);
}

#[test]
fn access_tokens_are_signed_as_configured_with_the_keys_of_the_folder() {
    for (algorithm, key) in [
        ("EdDSA", crate::support::Key::ed25519("x")),
        ("RS256", crate::support::Key::rsa(0)),
        ("ES256", crate::support::Key::p256("x")),
    ] {
        let upstream = Upstream::start();
        let sessions =
            Sessions::embedded().set("access_token", &format!("{{ lifetime: 5m, algorithm: {algorithm} }}"));
        let config = layout(&upstream, sessions).file("data/keys/mine.pem", key.private_pem());
        let gateway = Gateway::start(&config);
        let tokens = login(&gateway);
        let (header, _) = parts(&tokens.access);
        assert_eq!(header["alg"], algorithm);
        if algorithm == "ES256" {
            assert_eq!(header["kid"], key.thumbprint());
        }
        assert_eq!(call(&gateway, &tokens.access), 200, "{algorithm}");
    }
}

#[test]
fn a_forged_token_of_our_own_issuer_is_refused() {
    let set = start(Sessions::embedded());
    let tokens = login(&set.gateway);
    let (header, claims) = parts(&tokens.access);
    let attacker = crate::support::Key::p256(header["kid"].as_str().unwrap());
    let forged = crate::support::Token::new(claims).header("typ", json!("at+jwt")).sign(&attacker);
    assert_eq!(call(&set.gateway, &forged), 401);
    let foreign = crate::support::Token::new(json!({
        "iss": Sessions::ISSUER, "sub": "u-alice", "aud": "api", "exp": now() + 60, "iat": now()
    }));
    assert_eq!(call(&set.gateway, &foreign.sign(&attacker.named("other"))), 401);
    assert_eq!(set.upstream.hits(), 0);
}

#[test]
fn the_first_refresh_rotates_and_a_fresh_token_is_returned_unchanged() {
    let set = start(Sessions::embedded());
    let first = login(&set.gateway);
    let second = Tokens::from_body(refresh(&set.gateway, &first.refresh));
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(second.session, first.session);
    assert_ne!(second.access, first.access);
    // Younger than `coalesce`: the same again, with a new access token.
    let same = Tokens::from_body(refresh(&set.gateway, &second.refresh));
    assert_eq!(same.refresh, second.refresh);
    // The generation before, within `grace`: the same successor, not a fork.
    let retry = Tokens::from_body(refresh(&set.gateway, &first.refresh));
    assert_eq!(retry.refresh, second.refresh);
    for tokens in [&first, &second, &same, &retry] {
        assert_eq!(call(&set.gateway, &tokens.access), 200);
    }
    for (event, count) in
        [("login_ok", 1.0), ("refresh_rotated", 1.0), ("refresh_same", 1.0), ("refresh_retry", 1.0)]
    {
        let labels = [("event", event)];
        assert!(set.gateway.metric_becomes("portcullis_session_events_total", &labels, count), "{event}");
    }
}

#[test]
fn tabs_that_race_all_get_the_same_successor() {
    let set = start(Sessions::embedded());
    let first = login(&set.gateway);
    let results: Vec<Tokens> = thread::scope(|scope| {
        let tabs: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| Tokens::from_body(refresh(&set.gateway, &first.refresh))))
            .collect();
        tabs.into_iter().map(|tab| tab.join().unwrap()).collect()
    });
    assert_ne!(results[0].refresh, first.refresh);
    for tokens in &results {
        assert_eq!(tokens.refresh, results[0].refresh);
        assert_eq!(call(&set.gateway, &tokens.access), 200);
    }
    let rotated = set.gateway.metric("portcullis_session_events_total", &[("event", "refresh_rotated")]);
    assert!((rotated - 1.0).abs() < 0.5, "{rotated} generations were made");
    assert_eq!(sessions(&set.gateway, &first.access).len(), 1);
}

#[test]
fn a_replay_of_any_earlier_generation_ends_the_session_and_its_access_tokens() {
    let set = with_refresh("{ grace: 0s, coalesce: 0s, lost_response: 0s }");
    for replayed in [0, 1, 3, 4] {
        let tokens = chain(&set.gateway, 5);
        let other = login(&set.gateway);
        code(refresh(&set.gateway, &tokens[replayed].refresh), 401, "token_reused");
        code(refresh(&set.gateway, &tokens[5].refresh), 401, "session_revoked");
        for tokens in &tokens {
            let response = get("/api/x").bearer(&tokens.access).send(&set.gateway.address()).expect(401);
            assert_eq!(response.reason(), "revoked");
        }
        // By default the session ends, not the user's others.
        assert_eq!(call(&set.gateway, &other.access), 200);
        Tokens::from_body(refresh(&set.gateway, &other.refresh));
    }
    assert!(set.gateway.metric_becomes(
        "portcullis_session_events_total",
        &[("event", "refresh_reused")],
        4.0
    ));
}

#[test]
fn a_replay_may_end_every_session_of_the_user() {
    let set = with_refresh("{ grace: 0s, coalesce: 0s, lost_response: 0s, on_reuse: user }");
    let (other, stranger) = (login(&set.gateway), login_as(&set.gateway, "bob"));
    let tokens = chain(&set.gateway, 2);
    code(refresh(&set.gateway, &tokens[0].refresh), 401, "token_reused");
    code(refresh(&set.gateway, &other.refresh), 401, "session_revoked");
    assert!(eventually(Duration::from_secs(2), || call(&set.gateway, &other.access) == 401));
    assert_eq!(call(&set.gateway, &stranger.access), 200);
    Tokens::from_body(refresh(&set.gateway, &stranger.refresh));
    assert_eq!(call(&set.gateway, &login(&set.gateway).access), 200, "a new login is good at once");
}

#[test]
fn strict_rotation_forgives_nothing() {
    let set = with_refresh("{ strict: true }");
    let tokens = chain(&set.gateway, 2);
    code(refresh(&set.gateway, &tokens[1].refresh), 401, "token_reused");
    code(refresh(&set.gateway, &tokens[2].refresh), 401, "session_revoked");
}

#[test]
fn a_lost_response_is_recovered_until_its_tokens_were_seen() {
    let set = with_refresh("{ grace: 0s, coalesce: 0s, lost_response: until_used }");
    let first = login(&set.gateway);
    let lost = Tokens::from_body(refresh(&set.gateway, &first.refresh));
    let_pass(Duration::from_millis(50));
    // The client never got it, and comes with what it has.
    let again = Tokens::from_body(refresh(&set.gateway, &first.refresh));
    assert_eq!(again.refresh, lost.refresh);
    // Now it uses what it got: the old token is a replay from here on.
    assert_eq!(call(&set.gateway, &again.access), 200);
    let confirmed = [("operation", "confirm")];
    let name = "portcullis_sessions_store_seconds_count";
    assert!(
        eventually(Duration::from_secs(10), || set.gateway.metric(name, &confirmed) >= 1.0),
        "never confirmed"
    );
    code(refresh(&set.gateway, &first.refresh), 401, "token_reused");
    code(refresh(&set.gateway, &again.refresh), 401, "session_revoked");
}

#[test]
fn sessions_run_out_idle_and_absolutely() {
    let idle = with_refresh("{ idle: 1s, grace: 0s, coalesce: 0s }");
    let tokens = login(&idle.gateway);
    let_pass(Duration::from_millis(2200));
    code(refresh(&idle.gateway, &tokens.refresh), 401, "session_expired");

    let absolute = with_refresh("{ idle: 1h, absolute: 3s, grace: 0s, coalesce: 0s }");
    let response = login_request("alice").send(&absolute.gateway.address()).expect(200);
    assert!(response.json()["refreshExpiresIn"].as_i64().unwrap() <= 3);
    let start = Instant::now();
    let mut tokens = Tokens::from_body(response);
    let mut last = None;
    while last.is_none() && start.elapsed() < Duration::from_secs(10) {
        let response = refresh(&absolute.gateway, &tokens.refresh);
        if response.status == 200 {
            tokens = Tokens::from_body(response);
            let_pass(Duration::from_millis(200));
        } else {
            last = Some(response);
        }
    }
    code(last.expect("the session never ended"), 401, "session_expired");
}

#[test]
fn a_logout_ends_the_session_at_once_and_can_be_repeated() {
    let set = start(Sessions::embedded());
    let (tokens, other) = (login(&set.gateway), login(&set.gateway));
    assert_eq!(call(&set.gateway, &tokens.access), 200);
    logout(&set.gateway, &tokens.refresh).expect(204);
    let response = get("/api/x").bearer(&tokens.access).send(&set.gateway.address()).expect(401);
    assert_eq!(response.reason(), "revoked");
    code(refresh(&set.gateway, &tokens.refresh), 401, "session_revoked");
    logout(&set.gateway, &tokens.refresh).expect(204);
    logout(&set.gateway, "prt_garbage").expect(204);
    logout(&set.gateway, "garbage").expect(204);
    assert_eq!(call(&set.gateway, &other.access), 200);

    // The access token alone ends its session as well.
    post("/auth/logout").bearer(&other.access).send(&set.gateway.address()).expect(204);
    assert_eq!(call(&set.gateway, &other.access), 401);
    code(refresh(&set.gateway, &other.refresh), 401, "session_revoked");
}

#[test]
fn logout_all_ends_every_session_of_the_user_and_no_one_elses() {
    let set = start(Sessions::embedded());
    let mine: Vec<_> = (0..3).map(|_| login(&set.gateway)).collect();
    let other = login_as(&set.gateway, "bob");
    let answer = post("/auth/logout-all").bearer(&mine[0].access).send(&set.gateway.address()).expect(200);
    assert_eq!(answer.json()["revoked"], 3);
    for tokens in &mine {
        assert_eq!(call(&set.gateway, &tokens.access), 401);
        code(refresh(&set.gateway, &tokens.refresh), 401, "session_revoked");
    }
    assert_eq!(call(&set.gateway, &other.access), 200);
    // In the same second: an epoch decides, not a time.
    let new = login(&set.gateway);
    assert_eq!(call(&set.gateway, &new.access), 200);
    let by_refresh = post("/auth/logout-all").json(&json!({ "refreshToken": new.refresh }));
    assert_eq!(by_refresh.send(&set.gateway.address()).expect(200).json()["revoked"], 1);
    assert_eq!(call(&set.gateway, &new.access), 401);
    post("/auth/logout-all").bearer(&new.access).send(&set.gateway.address()).expect(401);
    post("/auth/logout-all").send(&set.gateway.address()).expect(401);
}

#[test]
fn a_refresh_that_races_a_logout_all_never_survives_it() {
    let set = with_refresh("{ grace: 0s, coalesce: 0s }");
    for _ in 0..5 {
        let tokens: Vec<_> = (0..4).map(|_| login(&set.gateway)).collect();
        let (survivors, ended) = thread::scope(|scope| {
            let refreshing: Vec<_> =
                tokens.iter().map(|t| scope.spawn(|| refresh(&set.gateway, &t.refresh))).collect();
            let ending = post("/auth/logout-all").bearer(&tokens[0].access).send(&set.gateway.address());
            let results: Vec<_> = refreshing.into_iter().map(|thread| thread.join().unwrap()).collect();
            (results, ending)
        });
        ended.expect(200);
        for response in survivors.into_iter().filter(|response| response.status == 200) {
            let late = Tokens::from_body(response);
            assert_eq!(call(&set.gateway, &late.access), 401, "a racing refresh outlived logout-all");
            refresh(&set.gateway, &late.refresh).expect(401);
        }
    }
}

#[test]
fn another_issuers_token_with_the_same_subject_ends_nothing() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, Sessions::embedded()).issuer("corp", &issuer.settings());
    let gateway = Gateway::start(&config);
    let tokens = login(&gateway);
    let foreign =
        issuer.token().set("sub", json!("u-alice")).set("sid", json!(tokens.session)).sign(&issuer.key);
    post("/auth/logout-all").bearer(&foreign).send(&gateway.address()).expect(401);
    post("/auth/logout").bearer(&foreign).send(&gateway.address());
    get("/auth/sessions").bearer(&foreign).send(&gateway.address()).expect(401);
    end_session(&gateway, &foreign, &tokens.session).expect(401);
    assert_eq!(call(&gateway, &tokens.access), 200);
}

#[test]
fn users_see_their_sessions_and_can_end_one() {
    let set = start(Sessions::embedded());
    let agent = login_request("alice").header("User-Agent", "Phone/1.0").send(&set.gateway.address());
    let (phone, laptop) = (Tokens::from_body(agent), login(&set.gateway));
    let stranger = login_as(&set.gateway, "bob");
    let list = sessions(&set.gateway, &phone.access);
    assert_eq!(list.len(), 2, "{list:?}");
    let own: Vec<&Value> = list.iter().filter(|session| session["current"] == true).collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["id"], phone.session.as_str());
    assert!(own[0]["device"].to_string().contains("Phone"), "{}", own[0]);
    assert_eq!(own[0]["address"], "127.0.0.1");
    for member in ["createdAt", "lastSeenAt"] {
        assert!(!own[0][member].is_null(), "{member} is missing in {}", own[0]);
    }
    assert!(!format!("{list:?}").contains("prt_"));

    end_session(&set.gateway, &phone.access, &laptop.session).expect(204);
    assert_eq!(call(&set.gateway, &laptop.access), 401);
    code(refresh(&set.gateway, &laptop.refresh), 401, "session_revoked");
    assert_eq!(call(&set.gateway, &phone.access), 200);
    assert_eq!(sessions(&set.gateway, &phone.access).len(), 1);

    // Someone else's session is out of reach, and so is the list without a token.
    let status = end_session(&set.gateway, &phone.access, &stranger.session).status;
    assert!(matches!(status, 204 | 404), "{status}");
    assert_eq!(call(&set.gateway, &stranger.access), 200);
    get("/auth/sessions").send(&set.gateway.address()).expect(401);
    delete(&format!("/auth/sessions/{}", phone.session)).send(&set.gateway.address()).expect(401);
}

#[test]
fn a_user_has_at_most_so_many_sessions() {
    let set = start(Sessions::embedded().set("max_per_user", "2"));
    let tokens: Vec<_> = (0..3).map(|_| login(&set.gateway)).collect();
    code(refresh(&set.gateway, &tokens[0].refresh), 401, "session_revoked");
    assert_eq!(call(&set.gateway, &tokens[0].access), 401);
    for tokens in &tokens[1..] {
        assert_eq!(call(&set.gateway, &tokens.access), 200);
    }
    assert_eq!(sessions(&set.gateway, &tokens[2].access).len(), 2);
}

#[test]
fn malformed_calls_of_the_endpoints_get_their_own_answers() {
    let set = start(Sessions::embedded());
    let address = set.gateway.address();
    for (path, method, allowed) in [
        ("/auth/login", "GET", "POST"),
        ("/auth/refresh", "PUT", "POST"),
        ("/auth/logout", "GET", "POST"),
        ("/auth/logout-all", "DELETE", "POST"),
        ("/auth/sessions", "POST", "GET"),
        ("/auth/sessions/abc", "GET", "DELETE"),
        ("/.well-known/jwks.json", "POST", "GET"),
    ] {
        let response = request(method, path).send(&address).expect(405);
        let allow = response.header("allow").unwrap_or_default().to_owned();
        assert!(allow.contains(allowed), "{path}: {allow}");
    }
    let good = credentials("alice").to_string();
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
    {
        code(
            post("/auth/login").header("Content-Type", kind).body(good.clone()).send(&address),
            415,
            "invalid_request",
        );
    }
    code(post("/auth/login").body(good.clone()).send(&address), 415, "invalid_request");
    let with_charset =
        post("/auth/login").header("Content-Type", "Application/JSON; charset=utf-8").body(good.clone());
    with_charset.send(&address).expect(200);
    let large = json!({ "username": "alice", "password": "x".repeat(9000) });
    code(post("/auth/login").json(&large).send(&address), 413, "invalid_request");
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{}",
        "{\"username\":\"alice\"}",
        "{\"username\":1,\"password\":\"x\"}",
        "{\"username\":\"alice\",\"password\":[\"x\"]}",
        "{\"username\":\"alice\",\"password\":null}",
        "{\"username\":\"a\",\"password\":\"x\",\"delivery\":\"post\"}",
        "{\"username\":\"a\",\"password\":\"x\",\"delivery\":1}",
        "{\"username\":\"bob\",\"username\":\"alice\",\"password\":\"x\"}",
        "{\"username\":\"a\",\"password\":\"x\"}}",
    ] {
        let sent = post("/auth/login").header("Content-Type", "application/json").body(body);
        code(sent.send(&address), 400, "invalid_request");
    }
    for body in ["{", "[]", "{\"refreshToken\":1}", "{\"refreshToken\":\"a\",\"refreshToken\":\"b\"}"] {
        let sent = post("/auth/refresh").header("Content-Type", "application/json").body(body);
        code(sent.send(&address), 400, "invalid_request");
    }
    code(post("/auth/refresh").header("X-Portcullis-Request", "1").send(&address), 401, "no_session");
    assert_eq!(set.upstream.hits(), 0);
}

#[test]
fn every_answer_of_the_endpoints_forbids_storing_and_sniffing() {
    let set = start(Sessions::embedded());
    let address = set.gateway.address();
    let tokens = login(&set.gateway);
    for request in [
        login_request("alice"),
        login_request("nobody"),
        refresh_request(&tokens.refresh),
        refresh_request("prt_x"),
        post("/auth/login").body("x"),
        get("/auth/login"),
        get("/auth/sessions").bearer(&tokens.access),
        post("/auth/logout-all"),
        post("/auth/logout").json(&json!({ "refreshToken": tokens.refresh })),
    ] {
        let response = request.send(&address);
        assert_eq!(response.header("cache-control"), Some("no-store"), "{request:?}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{request:?}");
    }
}

#[test]
fn wrong_password_unknown_user_and_disabled_user_cannot_be_told_apart() {
    let set = start(Sessions::embedded());
    let attempt = |user: &str, password: &str| {
        let body = json!({ "username": user, "password": password, "delivery": "body" });
        let before = processor_time(set.gateway.process());
        let response = post("/auth/login").json(&body).send(&set.gateway.address());
        let work = processor_time(set.gateway.process()).saturating_sub(before);
        let mut text = response.clone().expect(401).json();
        assert_eq!(text["code"], "invalid_credentials");
        text["requestId"] = Value::Null;
        let mut headers: Vec<_> = response.headers.iter().map(|(name, _)| name.clone()).collect();
        headers.sort();
        (text, headers, work)
    };
    let cases = [
        ("alice", "wrong"),
        ("nobody", PASSWORD),
        ("carol", PASSWORD),
        ("carol", "wrong"),
        ("ALICE", PASSWORD),
        ("", ""),
    ];
    let first = attempt("alice", "wrong");
    for (user, password) in cases {
        let answer = attempt(user, password);
        assert_eq!((&answer.0, &answer.1), (&first.0, &first.1), "{user}");
    }
    // An unknown user costs a hash as well: in work, which a busy machine draws out but does not make more.
    let mut work = [Duration::ZERO; 3];
    for _ in 0..9 {
        for (work, user) in work.iter_mut().zip(["alice", "nobody", "carol"]) {
            *work += attempt(user, "wrong").2;
        }
    }
    let [known, others @ ..] = work;
    for other in others {
        assert!(other * 3 > known && other < known * 3, "known {known:?}, other {other:?}");
    }
}

#[test]
fn the_whole_password_counts() {
    let upstream = Upstream::start();
    let long = "0123456789".repeat(9);
    let list = format!("users:\n  - {{ username: alice, password_hash: \"{}\" }}\n", phc(&long));
    let gateway = Gateway::start(&layout(&upstream, Sessions::embedded()).file("users.yaml", list));
    let attempt = |password: &str| {
        let body = json!({ "username": "alice", "password": password, "delivery": "body" });
        post("/auth/login").json(&body).send(&gateway.address()).status
    };
    assert_eq!(attempt(&long), 200);
    assert_eq!(attempt(&long[..72]), 401);
    assert_eq!(attempt(&format!("{}x", &long[..89])), 401);
    assert_eq!(attempt(&format!("{long} ")), 401);
    assert_eq!(attempt(&format!("{long}\0")), 401);
    assert_ne!(attempt(&long.repeat(20)), 200);
}

#[test]
fn tries_beyond_the_budget_are_429_and_a_success_gives_its_try_back() {
    let tight = "{ account_network: { burst: 3, every: 1h }, network: { burst: 1000, every: 1s }, \
                 account: { burst: 1000, every: 1s } }";
    let set = start(Sessions::embedded().set("throttle", tight));
    for _ in 0..5 {
        login(&set.gateway);
    }
    let wrong = json!({ "username": "alice", "password": "wrong", "delivery": "body" });
    let attempt = || post("/auth/login").json(&wrong).send(&set.gateway.address());
    for _ in 0..3 {
        code(attempt(), 401, "invalid_credentials");
    }
    let throttled = attempt();
    let after: u64 = throttled.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!(after > 0 && after <= 3600);
    code(throttled, 429, "too_many_attempts");
    // The right password is not tried either, and an unknown user is throttled alike.
    code(login_request("alice").send(&set.gateway.address()), 429, "too_many_attempts");
    login_as(&set.gateway, "bob");
    let unknown = json!({ "username": "nobody", "password": "wrong" });
    let statuses: Vec<_> =
        (0..4).map(|_| post("/auth/login").json(&unknown).send(&set.gateway.address()).status).collect();
    assert_eq!(statuses, [401, 401, 401, 429]);
    let labels = [("event", "login_throttled")];
    assert!(set.gateway.metric_becomes("portcullis_session_events_total", &labels, 3.0));
}

#[test]
fn parallel_guesses_are_counted_before_they_are_hashed() {
    let tight = "{ account_network: { burst: 3, every: 1h }, network: { burst: 1000, every: 1s }, \
                 account: { burst: 1000, every: 1s } }";
    let set = start(Sessions::embedded().set("throttle", tight));
    let wrong = json!({ "username": "alice", "password": "wrong" });
    let statuses: Vec<u16> = thread::scope(|scope| {
        let guesses: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| post("/auth/login").json(&wrong).send(&set.gateway.address()).status))
            .collect();
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    let judged = statuses.iter().filter(|status| **status != 429).count();
    assert_eq!(judged, 3, "{statuses:?}");
}

#[test]
fn a_client_cannot_choose_its_network_by_a_header() {
    let tight = "{ account_network: { burst: 2, every: 1h }, network: { burst: 1000, every: 1s }, \
                 account: { burst: 1000, every: 1s } }";
    let set = start(Sessions::embedded().set("throttle", tight));
    let wrong = json!({ "username": "alice", "password": "wrong" });
    let statuses: Vec<u16> = (0..4)
        .map(|n| {
            let sent = post("/auth/login").header("X-Forwarded-For", &format!("203.0.{n}.7")).json(&wrong);
            sent.send(&set.gateway.address()).status
        })
        .collect();
    assert_eq!(statuses, [401, 401, 429, 429]);
}

#[test]
fn forged_and_spliced_refresh_tokens_are_invalid_and_harm_nobody() {
    let set = with_refresh("{ grace: 0s, coalesce: 0s }");
    let (tokens, other) = (login(&set.gateway), login(&set.gateway));
    let body = tokens.refresh.strip_prefix("prt_").unwrap();
    let middle = body.len() / 2;
    let mut forged = vec![
        String::new(),
        "prt_".into(),
        "x".into(),
        body.to_owned(),
        format!("PRT_{body}"),
        format!("{}A", tokens.refresh),
        format!("{}=", tokens.refresh),
        tokens.refresh[..tokens.refresh.len() - 1].to_owned(),
        format!("prt_{}{}", &body[..middle], &other.refresh[4 + middle..]),
        "prt_".to_owned() + &"A".repeat(body.len()),
    ];
    for at in (0..body.len()).step_by(5) {
        let changed = if &body[at..=at] == "A" { "B" } else { "A" };
        forged.push(format!("prt_{}{changed}{}", &body[..at], &body[at + 1..]));
    }
    for token in forged {
        let response = refresh(&set.gateway, &token);
        let kind = response.member("code");
        assert_eq!(response.status, 401, "{token}");
        assert!(kind == "invalid_token" || (token.is_empty() && kind == "no_session"), "{token}: {kind}");
    }
    Tokens::from_body(refresh(&set.gateway, &tokens.refresh));
    Tokens::from_body(refresh(&set.gateway, &other.refresh));
}

#[test]
fn a_deployment_with_another_secret_knows_nothing_of_the_token() {
    let (one, two) = (start(Sessions::embedded()), start(Sessions::embedded()));
    let tokens = login(&one.gateway);
    code(refresh(&two.gateway, &tokens.refresh), 401, "invalid_token");
    assert_eq!(call(&two.gateway, &tokens.access), 401);
}

#[test]
fn the_names_of_rfc_6749_are_spoken_if_wanted_and_both_are_understood() {
    let set = start(Sessions::embedded().set("endpoints", "{ prefix: /session, naming: oauth }"));
    let address = set.gateway.address();
    let body = post("/session/login").json(&credentials("alice")).send(&address).expect(200).json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 600);
    for member in ["access_token", "refresh_token", "session_id", "refresh_expires_in"] {
        assert!(!body[member].is_null(), "{member} is missing in {body}");
    }
    assert!(body["accessToken"].is_null() && body["refreshToken"].is_null());
    for spelling in ["refresh_token", "refreshToken"] {
        let sent = post("/session/refresh").json(&json!({ spelling: body["refresh_token"] }));
        sent.send(&address).expect(200);
    }
    post("/auth/login").json(&credentials("alice")).send(&address).expect(404);
    // A snake-case request is understood by a camelCase gateway, too.
    let camel = start(Sessions::embedded());
    let tokens = login(&camel.gateway);
    let sent = post("/auth/refresh").json(&json!({ "refresh_token": tokens.refresh }));
    Tokens::from_body(sent.send(&camel.gateway.address()));
}

#[test]
fn sessions_keys_and_secret_survive_a_restart() {
    let mut set = start(Sessions::embedded());
    let (alive, ended) = (login(&set.gateway), login(&set.gateway));
    logout(&set.gateway, &ended.refresh).expect(204);
    set.gateway.restart();
    assert_eq!(call(&set.gateway, &alive.access), 200);
    assert_eq!(call(&set.gateway, &ended.access), 401, "a logout was forgotten by the restart");
    let next = Tokens::from_body(refresh(&set.gateway, &alive.refresh));
    assert_eq!(next.session, alive.session);
    code(refresh(&set.gateway, &ended.refresh), 401, "session_revoked");
}

#[test]
fn an_access_token_is_told_from_an_ended_session_even_on_an_optional_route() {
    let upstream = Upstream::start();
    let config = layout(&upstream, Sessions::embedded())
        .route("{ name: optional, match: { path: /optional }, upstream: app, auth: optional }")
        .route(
            "{ name: lax, match: { path: /lax }, upstream: app, auth: { mode: required, revocation: off } }",
        );
    let gateway = Gateway::start(&config);
    let tokens = login(&gateway);
    for target in ["/optional", "/lax"] {
        get(target).bearer(&tokens.access).send(&gateway.address()).expect(200);
    }
    logout(&gateway, &tokens.refresh).expect(204);
    get("/optional").bearer(&tokens.access).send(&gateway.address()).expect(401);
    // `revocation: off`: until it expires.
    get("/lax").bearer(&tokens.access).send(&gateway.address()).expect(200);
}

#[test]
fn users_keep_their_claims_and_names_through_a_refresh() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream, Sessions::embedded()));
    let tokens = login_as(&gateway, "bob");
    let next = Tokens::from_body(refresh(&gateway, &tokens.refresh));
    let (_, claims) = parts(&next.access);
    // The subject is the username where the file names none.
    assert_eq!((claims["sub"].as_str(), claims["scope"].as_str()), (Some("bob"), Some("orders:read")));
    assert_eq!(claims["roles"], json!(["guest"]));
}

#[test]
fn a_changed_users_file_is_felt_and_a_broken_one_changes_nothing() {
    let set = start(Sessions::embedded());
    let folder = set.gateway.folder();
    let (alice, bob) = (login(&set.gateway), login_as(&set.gateway, "bob"));
    let disabled = users().replace("{ username: alice,", "{ disabled: true, username: alice,");
    assert_ne!(disabled, users());
    folder.write("users.yaml", disabled);
    let status = |user: &str| login_request(user).send(&set.gateway.address()).status;
    assert!(eventually(Duration::from_secs(15), || status("alice") == 401), "the change was never read");
    code(refresh(&set.gateway, &alice.refresh), 401, "session_revoked");
    Tokens::from_body(refresh(&set.gateway, &bob.refresh));

    let before = set.gateway.stderr();
    folder.write("users.yaml", "users: [");
    let told = || set.gateway.stderr().trim_start_matches(&before).contains("users.yaml");
    assert!(eventually(Duration::from_secs(15), told), "a broken file went unnoticed");
    assert_eq!((status("alice"), status("bob")), (401, 200));
}

#[test]
fn a_login_that_expects_100_continue_is_asked_for_its_body() {
    let set = start(Sessions::embedded());
    let mut connection = Connection::open(&set.gateway.address()).unwrap();
    let body = credentials("alice").to_string();
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    connection.send(head).unwrap();
    assert_eq!(connection.read_one(false).unwrap().status, 100);
    connection.send(body).unwrap();
    Tokens::from_body(connection.read_response(false).unwrap());
}

#[test]
fn a_login_whose_body_never_comes_is_given_up() {
    let upstream = Upstream::start();
    let config = layout(&upstream, Sessions::embedded()).server("limits", "{ body_timeout: 300ms }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let head = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    connection.send(head).unwrap();
    let start = Instant::now();
    match connection.read_response(false) {
        Ok(response) => assert_eq!(response.status, 408),
        Err(why) => assert_ne!(why.kind(), std::io::ErrorKind::TimedOut, "the body was waited for"),
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    login(&gateway);
}

/// A browser keeps a cookie for each path it was ever set for, and sends that of the longer path first.
#[test]
fn cookies_left_over_are_no_replay_and_hide_no_session() {
    let set =
        start(Sessions::embedded().set("refresh_token", "{ grace: 0s, coalesce: 0s, lost_response: 0s }"));
    let both = |first: &str, second: &str| {
        let cookies = format!("{COOKIE}={first}; {COOKIE}={second}");
        post("/auth/refresh").same_origin().cookie(&cookies).send(&set.gateway.address())
    };
    let old = login_in_browser(&set.gateway);
    let new = Tokens::from_cookie(browser_refresh(&old.refresh).send(&set.gateway.address()));
    let newer = Tokens::from_cookie(both(&old.refresh, &new.refresh));
    let newest = Tokens::from_cookie(both(&newer.refresh, &new.refresh));

    // Somebody else's, whose session has ended, cannot stand before one that lives.
    let theirs = Tokens::from_cookie(browser_login("bob").send(&set.gateway.address()));
    let request = post("/auth/logout").same_origin().cookie(&format!("{COOKIE}={}", theirs.refresh));
    request.send(&set.gateway.address()).expect(204);
    let last = Tokens::from_cookie(both(&theirs.refresh, &newest.refresh));
    assert_eq!(last.session, old.session);

    // Alone, what is old is a replay as ever, and ends the session for both.
    let replay = browser_refresh(&old.refresh).send(&set.gateway.address()).expect(401);
    assert_eq!(replay.member("code"), "token_reused");
    assert_eq!(both(&old.refresh, &last.refresh).expect(401).member("code"), "session_revoked");
}

#[test]
fn a_replayed_cookie_ends_its_own_session_and_not_the_one_beside_it() {
    let set =
        start(Sessions::embedded().set("refresh_token", "{ grace: 0s, coalesce: 0s, lost_response: 0s }"));
    let gateway = &set.gateway;
    let recorded = |of: u32| {
        let reused = [("event", "refresh_reused")];
        assert!(gateway.metric_becomes("portcullis_session_events_total", &reused, of.into()), "{of}");
        let is_reuse = |line: &&Value| line["log"] == "audit" && line["event"] == "token_reused";
        let lines = || gateway.log_lines().iter().filter(is_reuse).count() == of as usize;
        assert!(eventually(Duration::from_secs(10), lines), "{of}");
    };
    let mut living = login_in_browser(gateway);
    for (number, path) in [(1, "/auth/refresh"), (2, "/auth/logout-all")] {
        let old = login_in_browser(gateway);
        let new = Tokens::from_cookie(browser_refresh(&old.refresh).send(&gateway.address()));
        let cookies = format!("{COOKIE}={}; {COOKIE}={}", old.refresh, living.refresh);
        let answer = post(path).same_origin().cookie(&cookies).send(&gateway.address()).expect(200);
        recorded(number);
        let code = browser_refresh(&new.refresh).send(&gateway.address()).expect(401).member("code");
        assert_eq!(code, "session_revoked");
        if path == "/auth/refresh" {
            let next = Tokens::from_cookie(answer);
            assert_eq!(next.session, living.session);
            living = next;
        }
    }
    browser_refresh(&living.refresh).send(&gateway.address()).expect(401);
}
