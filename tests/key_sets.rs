//! Key sets: fetched once for everybody, kept through an outage, never replaced by rubbish.

use crate::support::keys::b64;
use crate::support::token::signed;
use crate::support::wait::let_pass;
use crate::support::{
    Config, Connection, Gateway, Issuer, Key, Reply, Response, Upstream, eventually, get, wait_for,
};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
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
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let elsewhere = Issuer::with_key(Key::p256("elsewhere"));
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 200ms, timeout: 2s, cooldown: 100ms"));
    call(&gateway, &issuer.sign()).expect(200);
    let good = json!({ "keys": [issuer.key.jwk()] }).to_string();
    let many: Vec<_> = (0..10_000).map(|n| json!({ "kty": "RSA", "kid": n.to_string() })).collect();
    let mut for_encryption = Key::p256("enc").jwk();
    for_encryption["use"] = json!("enc");
    let mut private = Key::p256("private").jwk();
    private["d"] = json!(b64([7; 32]));
    let unusable =
        json!({ "keys": [for_encryption, private, { "kty": "oct", "k": "c2VjcmV0", "kid": "rsa-0" }] });
    for broken in [
        Reply::status(500, "no"),
        Reply::status(404, "no"),
        // A status that is not 200, with keys that must not be taken.
        Reply::status(503, json!({ "keys": [elsewhere.key.jwk()] }).to_string()),
        Reply::status(302, "").with("Location", &elsewhere.key_set_url()),
        Reply::ok(""),
        Reply::ok("<html>maintenance</html>"),
        Reply::ok("{"),
        Reply::ok(&good.as_bytes()[..good.len() - 1]),
        Reply::ok("[]"),
        Reply::ok("{}"),
        Reply::ok(format!("{good}{good}")),
        Reply::json(&json!({ "keys": [] })),
        Reply::json(&json!({ "keys": "x" })),
        Reply::json(&json!({ "keys": many })),
        Reply::json(&unusable),
        Reply::ok(format!("{}{good}", " ".repeat(10 << 20))),
        Reply::Chunked(vec![vec![b' '; 1 << 20]; 10]),
        Reply::CloseMidBody { promised: good.len() + 1, sent: good.clone().into_bytes() },
        Reply::Close,
    ] {
        issuer.break_with(broken.clone());
        let failed = || gateway.metric("portcullis_key_set_fetch_total", &[("result", "error")]);
        let before = failed();
        assert!(eventually(Duration::from_secs(8), || failed() >= before + 2.0), "taken: {}", short(&broken));
        let response = call(&gateway, &issuer.sign());
        assert_eq!(response.status, 200, "{} after {}", response.text(), short(&broken));
        call(&gateway, &issuer.token().sign(&elsewhere.key)).expect(503);
        issuer.mend();
        let age = || gateway.metric("portcullis_key_set_age_seconds", &[("issuer", "corp")]);
        let fetched = issuer.fetches();
        assert!(eventually(Duration::from_secs(8), || issuer.fetches() > fetched && age() < 1.0));
    }
    assert!(elsewhere.requests().is_empty(), "a redirect was followed");
}

fn short(reply: &Reply) -> String {
    format!("{reply:?}").chars().take(120).collect()
}

#[test]
fn an_issuer_that_is_gone_for_its_whole_staleness_limit_costs_no_valid_request() {
    const LIMIT: Duration = Duration::from_secs(4);
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer, "every: 300ms, stale_for: 4s, timeout: 500ms, cooldown: 100ms");
    let gateway = Gateway::start(&config);
    let tokens: Vec<_> = (0..200).map(|n| issuer.token().set("jti", json!(n)).sign(&issuer.key)).collect();
    let fetched = issuer.fetches();
    assert!(eventually(Duration::from_secs(5), || issuer.fetches() > fetched));
    // What the keys were confirmed by at the latest; the fetch just seen may be cut off.
    issuer.stop();
    let gone = Instant::now();
    let mut served = 0;
    let refused = loop {
        let response = call(&gateway, &tokens[served % tokens.len()]);
        if response.status != 200 {
            break response;
        }
        served += 1;
        assert!(gone.elapsed() < LIMIT + Duration::from_secs(4), "the limit does not hold");
    };
    let lasted = gone.elapsed();
    println!("{served} requests in the {lasted:?} after the issuer was gone, none refused");
    // The last answer may be older than the moment it was gone by one interval and a busy machine.
    assert!(lasted + Duration::from_secs(2) > LIMIT && served > 100, "{served} served in {lasted:?}");
    assert_eq!((refused.status, refused.reason()), (503, "keys_unavailable".into()));
    assert!(refused.header("retry-after").is_some() && refused.header("www-authenticate").is_none());
    call(&gateway, &tokens[0]).expect(503);
}

#[test]
fn ten_thousand_random_kids_cost_the_issuer_two_fetches() {
    const REQUESTS: usize = 10_000;
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 1h"));
    call(&gateway, &issuer.sign()).expect(200);
    let (claims, signature) = (b64(issuer.token().claims_text()), b64([7; 256]));
    let start = Instant::now();
    let refused: usize = thread::scope(|scope| {
        let (claims, signature, address) = (&claims, &signature, gateway.address());
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let address = address.clone();
                scope.spawn(move || {
                    let mut connection = Connection::open(&address).unwrap();
                    let send = |n: usize| {
                        let header = format!(r#"{{"alg":"RS256","kid":"noise-{sender}-{n}"}}"#);
                        let token = format!("{}.{claims}.{signature}", b64(header));
                        let response = connection.exchange(&get("/x").bearer(&token)).unwrap();
                        assert_eq!((response.status, response.reason().as_str()), (401, "unknown_key"));
                    };
                    (0..REQUESTS / 8).map(send).count()
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).sum()
    });
    let (took, fetches) = (start.elapsed(), issuer.fetches());
    println!("{refused} random kids in {took:?}: {fetches} fetches");
    assert_eq!((refused, upstream.hits()), (REQUESTS, 1));
    // One at the start, one forced, and one more for each cooldown of 10s that a slow machine took.
    let most = 2 + usize::try_from(took.as_secs() / 10).unwrap();
    assert!((2..=most).contains(&fetches), "{fetches} fetches in {took:?}");
    call(&gateway, &issuer.token().set("sub", json!("other")).sign(&issuer.key)).expect(200);
}

#[test]
fn a_rotation_under_load_is_seen_at_the_first_token_and_refuses_nobody() {
    let (upstream, mut issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, "every: 1h"));
    let old = issuer.key.clone();
    let tokens: Vec<_> = (0..50).map(|n| issuer.token().set("jti", json!(n)).sign(&old)).collect();
    call(&gateway, &tokens[0]).expect(200);
    let (fetched, stop) = (issuer.fetches(), AtomicBool::new(false));
    thread::scope(|scope| {
        let load = || {
            let mut connection = Connection::open(&gateway.address()).unwrap();
            let mut statuses = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let token = &tokens[statuses.len() % tokens.len()];
                statuses.push(connection.exchange(&get("/x").bearer(token)).unwrap().status);
            }
            statuses
        };
        let users: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let_pass(Duration::from_millis(300));
        let new = Key::p256("new");
        issuer.publish(vec![old.jwk(), new.jwk()]);
        issuer.delay(Duration::from_millis(300));
        issuer.key = new;
        let first = call(&gateway, &issuer.sign());
        let_pass(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let statuses: Vec<_> = users.into_iter().flat_map(|user| user.join().unwrap()).collect();
        assert_eq!(first.status, 200, "{}", first.text());
        println!("{} requests during the rotation", statuses.len());
        assert!(statuses.len() > 100 && statuses.iter().all(|status| *status == 200), "{statuses:?}");
    });
    assert_eq!(issuer.fetches(), fetched + 1);
}

#[test]
fn a_gateway_that_started_without_its_issuer_serves_within_two_seconds_of_its_return() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.break_with(Reply::Close);
    // With the default settings: a cooldown of ten seconds is for issuers whose keys are known.
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let token = issuer.sign();
    for _ in 0..20 {
        let response = call(&gateway, &token).expect(503);
        assert_eq!(response.reason(), "keys_unavailable");
        assert!(response.header("retry-after").is_some() && response.header("www-authenticate").is_none());
    }
    let asked = issuer.fetches();
    assert!(asked < 5, "twenty requests asked {asked} times");
    assert!(eventually(Duration::from_secs(5), || issuer.fetches() >= asked + 2), "it is not asked again");
    issuer.mend();
    let returned = Instant::now();
    assert!(eventually(Duration::from_secs(5), || call(&gateway, &token).status == 200));
    let took = returned.elapsed();
    println!("served {took:?} after the issuer's return");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn readiness_waits_for_the_first_fetch_and_not_for_its_success() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.delay(Duration::from_secs(60));
    let gateway = Gateway::start_live(&layout(&upstream, &issuer, "timeout: 3s"));
    let ready = || get("/readyz").send(&gateway.admin());
    let waiting = ready().expect(503).json();
    assert_eq!(waiting["parts"]["issuer corp"], "the first fetch of its key set");
    assert!(eventually(Duration::from_secs(10), || ready().status == 200));
    let impaired = ready().json()["parts"]["issuer corp"].clone();
    assert!(impaired.as_str().unwrap().starts_with("without keys"), "{impaired}");
    issuer.mend();
    assert!(eventually(Duration::from_secs(10), || ready().json()["parts"]["issuer corp"] == "ready"));
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
fn an_issuer_that_hangs_holds_up_neither_another_nor_its_own_known_keys() {
    let upstream = Upstream::start();
    let (alive, hanging) = (Issuer::start(), Issuer::with_key(Key::p256("known")));
    let config = layout(&upstream, &alive, "every: 1h")
        .issuer("hanging", &hanging.settings_with(", refresh: { every: 1h, timeout: 6s, cooldown: 60s }"));
    let gateway = Gateway::start(&config);
    hanging.delay(Duration::from_secs(30));
    let asked = hanging.fetches();
    let unknown = hanging.token().sign(&Key::p256("unknown"));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20).map(|_| scope.spawn(|| call(&gateway, &unknown))).collect();
        assert!(eventually(Duration::from_secs(5), || hanging.fetches() > asked), "nobody waits");
        let (mut slowest, start) = (Duration::ZERO, Instant::now());
        for n in 0..20 {
            for issuer in [&alive, &hanging] {
                let token = issuer.token().set("jti", json!(n)).sign(&issuer.key);
                let sent = Instant::now();
                call(&gateway, &token).expect(200);
                slowest = slowest.max(sent.elapsed());
            }
        }
        let waited = waiting.iter().filter(|call| !call.is_finished()).count();
        println!("{waited} requests wait for the hanging issuer; 40 others took {slowest:?} at most");
        assert!(waited == 20 || start.elapsed() > Duration::from_secs(5), "{waited} of 20 still wait");
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        for call in waiting {
            call.join().unwrap().expect(503);
        }
    });
    assert_eq!(hanging.fetches(), asked + 1);
}

#[test]
fn discovered_keys_are_taken_from_the_issuers_own_origin_or_from_a_listed_host() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let elsewhere = Issuer::with_key(issuer.key.clone());
    issuer.discover_at(&elsewhere.key_set_url());
    let start = |more: &str| {
        let settings = format!(
            "{{ issuer: \"{}\", audiences: [orders-api], key_set: {{ discovery: true{more} }} }}",
            issuer.id()
        );
        let config = Config::to(&upstream)
            .issuer("corp", &settings)
            .route("{ name: api, match: { path: /** }, upstream: app }");
        Gateway::start(&config)
    };
    let closed = start("");
    call(&closed, &issuer.sign()).expect(503);
    assert!(elsewhere.requests().is_empty());
    let line = wait_for(Duration::from_secs(10), || {
        closed.stderr().lines().find(|line| line.contains("key_set.jwks_hosts")).map(str::to_owned)
    });
    let line = line.expect("a line in the log");
    assert!(line.contains("ERROR") && line.contains("corp"), "{line}");
    let open = start(&format!(", jwks_hosts: [keys.example.com, \"{}\"]", elsewhere.authority()));
    call(&open, &issuer.sign()).expect(200);
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
