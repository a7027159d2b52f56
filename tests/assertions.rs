//! The signed assertion: an upstream can check who calls with the keys that are published, and nobody can use
//! it for anything else.

use crate::support::person::login;
use crate::support::token::{now, parts};
use crate::support::{Config, Gateway, Issuer, Key, Sessions, Upstream, eventually, get, post};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use std::time::Duration;

const HEADER: &str = "x-auth-assertion";

fn config(upstream: &Upstream, issuer: &Issuer, algorithm: &str) -> Config {
    Config::to(upstream)
        .issuer("corp", &issuer.settings())
        .sessions(Sessions::embedded().set("access_token", &format!("{{ algorithm: {algorithm} }}")))
        .set("forward", "{ assertion: { header: X-Auth-Assertion, lifetime: 60s } }")
        .route("{ name: required, match: { path: /required/** }, upstream: app, auth: required }")
        .route("{ name: optional, match: { path: /optional/** }, upstream: app, auth: optional }")
        .route("{ name: public, match: { path: /public/** }, upstream: app, auth: public }")
}

/// The claims, checked as an upstream does: a library of others, our published keys, its own name.
#[track_caller]
fn verified(gateway: &Gateway, assertion: &str, algorithm: &str, audience: &str) -> Value {
    let keys: JwkSet =
        serde_json::from_value(get("/.well-known/jwks.json").send(&gateway.address()).expect(200).json())
            .unwrap();
    let header = decode_header(assertion).unwrap();
    assert_eq!(header.typ.as_deref(), Some("assertion+jwt"));
    let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).expect("a published key")).unwrap();
    let mut validation = Validation::new(algorithm.parse().unwrap());
    validation.set_audience(&[audience]);
    validation.set_issuer(&[Sessions::ISSUER]);
    validation.leeway = 0;
    decode::<Value>(assertion, &key, &validation).unwrap().claims
}

fn assertion(upstream: &Upstream) -> String {
    upstream.last().header(HEADER).expect("an assertion").to_owned()
}

#[test]
fn an_upstream_checks_who_calls_with_the_published_keys() {
    for algorithm in ["ES256", "EdDSA", "RS256"] {
        let (upstream, issuer) = (Upstream::start(), Issuer::start());
        let gateway = Gateway::start(&config(&upstream, &issuer, algorithm));
        get("/required/x").bearer(&issuer.sign()).send(&gateway.address()).expect(200);
        let claims = verified(&gateway, &assertion(&upstream), algorithm, "app");
        let issued = claims["iat"].as_i64().unwrap();
        assert!((now() - issued).abs() <= 5, "{claims}");
        let expected = json!({
            "iss": Sessions::ISSUER, "aud": "app", "sub": "f:9c1:maria", "iat": issued, "exp": issued + 60,
            "orig_iss": issuer.id(), "scope": "orders:read profile", "roles": ["clerk", "offline_access"]
        });
        assert_eq!(claims, expected, "a closed list");

        let tokens = login(&gateway);
        get("/required/x").bearer(&tokens.access).send(&gateway.address()).expect(200);
        let claims = verified(&gateway, &assertion(&upstream), algorithm, "app");
        assert_eq!((&claims["sub"], &claims["sid"]), (&json!("u-alice"), &json!(tokens.session)));
        assert_eq!(claims["orig_iss"], Sessions::ISSUER);
    }
}

#[test]
fn an_assertion_is_no_access_token_anywhere() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&config(&upstream, &issuer, "ES256"));
    let tokens = login(&gateway);
    get("/required/x").bearer(&tokens.access).send(&gateway.address()).expect(200);
    let assertion = assertion(&upstream);
    for target in ["/required/x", "/optional/x"] {
        let refused = get(target).bearer(&assertion).send(&gateway.address()).expect(401);
        assert_eq!(refused.reason(), "wrong_type", "{target}");
    }
    get("/auth/sessions").bearer(&assertion).send(&gateway.address()).expect(401);
    for target in ["/auth/logout", "/auth/logout-all"] {
        let answer = post(target).bearer(&assertion).json(&json!({})).send(&gateway.address());
        assert!(matches!(answer.status, 401 | 204), "{target}: {}", answer.status);
    }
    get("/required/x").bearer(&tokens.access).send(&gateway.address()).expect(200);

    // Another gateway that takes this one's tokens, of any type, and even for that audience.
    let elsewhere = Upstream::start();
    let ours = format!(
        "{{ issuer: \"{}\", audiences: [app, api], token_type: any, key_set: {{ url: \"http://{}/.well-known/jwks.json\" }} }}",
        Sessions::ISSUER,
        gateway.address()
    );
    let other = Gateway::start(
        &Config::to(&elsewhere)
            .issuer("first", &ours)
            .route("{ name: all, match: { path: /** }, upstream: app }"),
    );
    get("/").bearer(&tokens.access).send(&other.address()).expect(200);
    assert_eq!(get("/").bearer(&assertion).send(&other.address()).expect(401).reason(), "wrong_type");
    assert_eq!(elsewhere.hits(), 1);
}

#[test]
fn nobody_but_the_gateway_sets_it_and_nobody_unknown_gets_one() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = config(&upstream, &issuer, "ES256").route(
        "{ name: other, match: { path: /other }, upstream: app, auth: required, \
         forward: { assertion: { header: X-Proof } } }",
    );
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    for (target, with_token, name) in [
        ("/public/x", false, None),
        ("/public/x", true, None),
        ("/optional/x", false, None),
        ("/optional/x", true, Some(HEADER)),
        ("/required/x", true, Some(HEADER)),
        ("/other", true, Some("x-proof")),
    ] {
        for forged in ["X-Auth-Assertion", "x_auth_assertion", "X.Auth--Assertion", "X_Proof", "x-PROOF"] {
            let mut request = get(target).header(forged, "forged").header("Connection", forged);
            if with_token {
                request = request.bearer(&token);
            }
            request.send(&gateway.address()).expect(200);
            let received = upstream.last();
            let lines = received.header_lines.join("\n");
            assert!(!lines.contains("forged"), "{forged} on {target}:\n{lines}");
            for own in [HEADER, "x-proof"] {
                let expected = usize::from(name == Some(own));
                assert_eq!(received.folded(own).len(), expected, "{forged} on {target}:\n{lines}");
            }
        }
    }
    let spoofed = gateway.metric("portcullis_identity_header_spoof_total", &[("route", "public")]);
    assert!((spoofed - 10.0).abs() < 0.5, "{spoofed}");
}

#[test]
fn it_is_made_once_for_many_requests_and_for_each_upstream_its_own() {
    let (upstream, shop, issuer) = (Upstream::start(), Upstream::start(), Issuer::start());
    let config = config(&upstream, &issuer, "ES256").upstream("shop", &[&shop]).route(
        "{ name: shop, match: { path: /shop }, upstream: shop, auth: required, \
         forward: { assertion: { lifetime: 2s } } }",
    );
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    let send = |target: &str| get(target).bearer(&token).send(&gateway.address()).expect(200);
    send("/required/x");
    let first = assertion(&upstream);
    send("/required/y");
    assert_eq!(assertion(&upstream), first);

    let mut all = Vec::new();
    // Two seconds long, so that there is a second one after the first.
    assert!(eventually(Duration::from_secs(10), || {
        send("/shop");
        let assertion = assertion(&shop);
        let claims = verified(&gateway, &assertion, "ES256", "shop");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 2);
        all.push(assertion);
        all.dedup();
        all.len() == 2
    }));
    assert!(shop.hits() > 2, "one assertion serves many requests");
}

#[test]
fn it_never_outlives_the_clients_token() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&config(&upstream, &issuer, "ES256"));
    let token = issuer.token().expires_in(20).sign(&issuer.key);
    get("/required/x").bearer(&token).send(&gateway.address()).expect(200);
    let claims = verified(&gateway, &assertion(&upstream), "ES256", "app");
    assert_eq!(claims["exp"], parts(&token).1["exp"]);
}

#[test]
fn one_that_does_not_fit_refuses_the_request_and_names_the_gateway_not_the_upstream() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = config(&upstream, &issuer, "ES256").server("limits", "{ token_bytes: 16KiB }").route(
        "{ name: bare, match: { path: /bare }, upstream: app, auth: required, forward: { headers: {} } }",
    );
    let gateway = Gateway::start(&config);
    let roles = |count: usize| {
        let roles: Vec<_> = (0..count).map(|n| format!("role-{n:07}")).collect();
        issuer.token().set("roles", json!(roles)).sign(&issuer.key)
    };
    get("/bare").bearer(&roles(300)).send(&gateway.address()).expect(200);
    let refused = get("/bare").bearer(&roles(500)).send(&gateway.address()).expect(403);
    assert_eq!(refused.reason(), "unforwardable_claim");
    let scopes = issuer.token().without("scope").set("scp", json!(["orders:read admin"])).sign(&issuer.key);
    let refused = get("/bare").bearer(&scopes).send(&gateway.address()).expect(403);
    assert_eq!(refused.reason(), "unforwardable_claim", "two scopes in the assertion, one in the token");
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn all_gateways_that_share_signing_keys_sign_with_the_same_one() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let (first, second) = (Key::p256("1"), Key::p256("2"));
    let config = config(&upstream, &issuer, "ES256")
        .file("data/keys/1-active.pem", first.private_pem())
        .file("data/keys/2-next.pem", second.private_pem());
    let gateway = Gateway::start(&config);
    get("/required/x").bearer(&issuer.sign()).send(&gateway.address()).expect(200);
    let kid = parts(&assertion(&upstream)).0["kid"].clone();
    let access = parts(&login(&gateway).access).0["kid"].clone();
    assert_eq!(kid, access, "the active key signs both");
}
