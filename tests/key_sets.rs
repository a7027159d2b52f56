//! Key sets: fetched once for everybody, kept through an outage, never replaced by rubbish.

use crate::support::keys::b64;
use crate::support::token::signed;
use crate::support::wait::let_pass;
use crate::support::{Config, Gateway, Issuer, Key, Reply, Response, Upstream, eventually, get};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

fn layout(upstream: &Upstream, issuer: &Issuer, refresh: &str) -> Config {
    Config::to(upstream)
        .issuer("corp", &issuer.settings_with(&format!(", refresh: {{ {refresh} }}")))
        .route("{ name: api, match: { path: /** }, upstream: app }")
}

fn call(gateway: &Gateway, token: &str) -> Response {
    get("/x").bearer(token).send(&gateway.address())
}

/// The answers to `count` calls made at the same time.
fn together(gateway: &Gateway, token: &str, count: usize) -> Vec<Response> {
    thread::scope(|scope| {
        let calls: Vec<_> = (0..count).map(|_| scope.spawn(|| call(gateway, token))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

#[test]
fn a_cold_start_under_load_makes_one_fetch_that_everybody_waits_for() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.delay(Duration::from_millis(700));
    let gateway = Gateway::start_live(&layout(&upstream, &issuer, "timeout: 5s, cooldown: 10s"));
    let token = issuer.sign();
    for response in together(&gateway, &token, 20) {
        response.expect(200);
    }
    assert_eq!(issuer.fetches(), 1);
}

#[test]
fn waiters_share_the_failure_of_a_hanging_fetch() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.delay(Duration::from_secs(60));
    let gateway = Gateway::start_live(&layout(&upstream, &issuer, "timeout: 2s, cooldown: 60s"));
    let token = issuer.sign();
    let start = Instant::now();
    for response in together(&gateway, &token, 10) {
        let response = response.expect(503);
        assert_eq!(response.reason(), "keys_unavailable");
        assert!(response.header("retry-after").is_some());
        assert!(response.header("www-authenticate").is_none(), "an outage accused the client");
    }
    assert!(start.elapsed() < Duration::from_secs(8), "one after the other: {:?}", start.elapsed());
    assert_eq!(issuer.fetches(), 1);
    // Within the cooldown the answer is immediate.
    let start = Instant::now();
    call(&gateway, &token).expect(503);
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
}

#[test]
fn an_issuer_that_was_never_reached_is_503_and_recovers_after_the_cooldown() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.break_with(Reply::status(500, "no"));
    let gateway = Gateway::start_live(&layout(&upstream, &issuer, "timeout: 1s, cooldown: 300ms"));
    let token = issuer.sign();
    let response = call(&gateway, &token).expect(503);
    assert_eq!(response.reason(), "keys_unavailable");
    assert!(response.header("retry-after").is_some());
    assert_eq!(upstream.hits(), 0);
    issuer.mend();
    assert!(eventually(Duration::from_secs(5), || call(&gateway, &token).status == 200));
}

#[test]
fn nothing_wrong_with_an_answer_is_taken_for_an_empty_key_set() {
    let upstream = Upstream::start();
    let huge = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(20 << 20));
    for broken in [
        Reply::status(500, "no"),
        Reply::status(404, "no"),
        Reply::ok(""),
        Reply::ok("<html>maintenance</html>"),
        Reply::ok("{"),
        Reply::ok("[]"),
        Reply::ok("{}"),
        Reply::json(&json!({ "keys": [] })),
        Reply::json(&json!({ "keys": "x" })),
        Reply::json(&json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "rsa-0" }] })),
        Reply::ok(huge),
        Reply::CloseMidBody { promised: 500, sent: b"{\"keys\":[".to_vec() },
        Reply::Close,
    ] {
        let issuer = Issuer::start();
        let gateway =
            Gateway::start(&layout(&upstream, &issuer, "every: 200ms, timeout: 2s, cooldown: 100ms"));
        let token = issuer.sign();
        call(&gateway, &token).expect(200);
        issuer.break_with(broken.clone());
        let asked = issuer.fetches();
        assert!(eventually(Duration::from_secs(8), || issuer.fetches() >= asked + 2), "no refresh was tried");
        let response = call(&gateway, &token);
        assert_eq!(response.status, 200, "{} after {}", response.text(), short(&broken));
    }
}

fn short(reply: &Reply) -> String {
    format!("{reply:?}").chars().take(120).collect()
}

#[test]
fn keys_outlive_an_issuer_that_is_gone_until_they_are_too_stale() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer, "every: 200ms, stale_for: 4s, timeout: 500ms, cooldown: 100ms");
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    call(&gateway, &token).expect(200);
    issuer.stop();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        call(&gateway, &token).expect(200);
    }
    let mut last = 200;
    assert!(eventually(Duration::from_secs(15), || {
        last = call(&gateway, &token).status;
        last != 200
    }));
    assert_eq!(last, 503, "staleness is an outage, not an accusation");
}

#[test]
fn an_unknown_kid_triggers_one_fetch_per_cooldown() {
    let (upstream, mut issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 1h, cooldown: 60s"));
    call(&gateway, &issuer.sign()).expect(200);
    assert_eq!(issuer.fetches(), 1);
    issuer.rotate(Key::p256("new"));
    // The rotation is seen at once: the unknown kid fetches.
    for response in together(&gateway, &issuer.sign(), 10) {
        response.expect(200);
    }
    assert_eq!(issuer.fetches(), 2);
    // Noise does not.
    for round in 0..20 {
        let noise = issuer.token().sign(&issuer.key.named(&format!("noise-{round}")));
        let response = call(&gateway, &noise).expect(401);
        assert_eq!(response.reason(), "unknown_key");
    }
    assert_eq!(issuer.fetches(), 2, "noise made the gateway fetch");
}

#[test]
fn a_rotation_is_found_after_the_cooldown_although_noise_came_first() {
    let (upstream, mut issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 1h, cooldown: 400ms"));
    call(&gateway, &issuer.sign()).expect(200);
    let noise = issuer.token().sign(&issuer.key.named("noise"));
    assert!(eventually(Duration::from_secs(5), || {
        call(&gateway, &noise).expect(401);
        issuer.fetches() == 2
    }));
    issuer.rotate(Key::p256("new"));
    let token = issuer.sign();
    assert!(eventually(Duration::from_secs(5), || call(&gateway, &token).status == 200));
}

#[test]
fn a_key_taken_out_of_the_set_is_refused_after_the_next_refresh() {
    let (upstream, mut issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 200ms, cooldown: 100ms"));
    let old = issuer.sign();
    call(&gateway, &old).expect(200);
    issuer.rotate(Key::p256("new"));
    assert!(
        eventually(Duration::from_secs(5), || call(&gateway, &old).status == 401),
        "the verdict on a token outlived its key"
    );
    call(&gateway, &issuer.sign()).expect(200);
}

#[test]
fn a_replaced_key_under_the_same_kid_is_seen_and_the_old_one_forgotten() {
    let upstream = Upstream::start();
    let mut issuer = Issuer::with_key(Key::p256("same"));
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 200ms, cooldown: 100ms"));
    let old = issuer.sign();
    call(&gateway, &old).expect(200);
    issuer.rotate(Key::p256("same"));
    let new = issuer.sign();
    assert!(eventually(Duration::from_secs(5), || call(&gateway, &new).status == 200));
    assert!(eventually(Duration::from_secs(5), || call(&gateway, &old).status == 401));
}

#[test]
fn bad_keys_are_skipped_and_do_not_spoil_the_good_ones() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let weak = json!({ "kty": "RSA", "kid": "weak", "n": b64([0xc1; 128]), "e": "AQAB" });
    let one = json!({ "kty": "RSA", "kid": "e1", "n": issuer.key.jwk()["n"], "e": "AQ" });
    let (encryption, wrapping, other) = (Key::rsa(1), Key::rsa(2), Key::p256("mixed"));
    let mut for_encryption = encryption.jwk();
    for_encryption["use"] = json!("enc");
    let mut for_wrapping = wrapping.jwk();
    for_wrapping["key_ops"] = json!(["wrapKey"]);
    let mut wrong_algorithm = other.jwk();
    wrong_algorithm["alg"] = json!("RS256");
    let off_curve =
        json!({ "kty": "EC", "crv": "P-256", "kid": "off", "x": b64([1; 32]), "y": b64([2; 32]) });
    issuer.publish(vec![
        json!(null),
        json!(1),
        json!({}),
        json!({ "kty": "new-kind", "kid": "x" }),
        json!({ "kty": "RSA", "kid": 7 }),
        weak,
        one,
        off_curve,
        for_encryption,
        for_wrapping,
        wrong_algorithm,
        json!({ "kty": "oct", "kid": "oct", "k": b64(b"secret") }),
        json!({ "kty": "EC", "crv": "P-521", "kid": "p521", "x": "AA", "y": "AA" }),
        issuer.key.jwk(),
    ]);
    let gateway = Gateway::start(&layout(&upstream, &issuer, "cooldown: 60s"));
    call(&gateway, &issuer.sign()).expect(200);
    let forged_with_e1 = {
        // With e = 1 the padded digest is its own signature.
        let header = r#"{"alg":"RS256","kid":"e1"}"#;
        let message = format!("{}.{}", b64(header), b64(issuer.token().claims_text()));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message.as_bytes());
        let info = [
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
            0x00, 0x04, 0x20,
        ];
        let padding = vec![0xff; 256 - 3 - info.len() - 32];
        let block = [&[0, 1][..], &padding, &[0], &info, digest.as_ref()].concat();
        format!("{message}.{}", b64(block))
    };
    let oct = Key::secret("oct", b"secret");
    for token in [
        forged_with_e1,
        issuer.token().sign(&encryption),
        issuer.token().sign(&wrapping),
        issuer.token().sign(&other),
        issuer.token().sign(&oct),
        signed(r#"{"alg":"ES256","kid":"off"}"#, &issuer.token().claims_text(), "ES256", &Key::p256("off")),
    ] {
        call(&gateway, &token).expect(401);
    }
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_dead_issuer_does_not_hold_up_another() {
    let upstream = Upstream::start();
    let (alive, dead) = (Issuer::start(), Issuer::with_key(Key::p256("dead")));
    dead.delay(Duration::from_secs(30));
    let config = layout(&upstream, &alive, "timeout: 5s")
        .issuer("dead", &dead.settings_with(", refresh: { timeout: 5s, cooldown: 100ms }"));
    let gateway = Gateway::start_live(&config);
    let (good, bad) = (alive.sign(), dead.sign());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| call(&gateway, &bad));
        let start = Instant::now();
        for _ in 0..10 {
            call(&gateway, &good).expect(200);
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        waiting.join().unwrap().expect(503);
    });
}

#[test]
fn a_key_set_is_not_fetched_through_a_redirect() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let elsewhere = Issuer::with_key(Key::rsa(1));
    issuer.break_with(Reply::status(302, "").with("Location", &elsewhere.key_set_url()));
    let gateway = Gateway::start_live(&layout(&upstream, &issuer, "cooldown: 100ms"));
    call(&gateway, &issuer.token().sign(&elsewhere.key)).expect(503);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_fetch_tells_the_issuer_nothing_of_the_client() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    get("/x")
        .bearer(&issuer.sign())
        .header("X-Private", "client")
        .cookie("a=client")
        .send(&gateway.address())
        .expect(200);
    for request in issuer.requests() {
        let lines = request.header_lines.join("\n").to_ascii_lowercase();
        assert!(
            !lines.contains("client") && !lines.contains("authorization") && !lines.contains("cookie"),
            "{lines}"
        );
    }
}

#[test]
fn fetches_and_the_age_of_the_keys_are_measured() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 200ms, cooldown: 100ms"));
    call(&gateway, &issuer.sign()).expect(200);
    let ok = [("issuer", "corp"), ("result", "ok")];
    assert!(
        eventually(Duration::from_secs(5), || gateway.metric("portcullis_key_set_fetch_total", &ok) >= 2.0)
    );
    issuer.break_with(Reply::status(500, "no"));
    let error = [("issuer", "corp"), ("result", "error")];
    assert!(eventually(Duration::from_secs(5), || gateway.metric("portcullis_key_set_fetch_total", &error)
        >= 1.0));
    let_pass(Duration::from_millis(1100));
    assert!(gateway.metric("portcullis_key_set_age_seconds", &[("issuer", "corp")]) >= 1.0);
}
