//! Which access tokens are accepted, and what the others are told.

use crate::support::keys::b64;
use crate::support::person::{login, refresh};
use crate::support::token::{now, signed};
use crate::support::{
    Config, Connection, Gateway, Issuer, Key, Request, Response, Sessions, Token, Upstream, eventually, get,
};
use serde_json::json;
use std::time::Duration;

fn layout(upstream: &Upstream, issuer: &Issuer, more: &str) -> Config {
    Config::to(upstream)
        .issuer("corp", &issuer.settings_with(more))
        .set("forward", "{ headers: { X-Auth-Subject: sub } }")
        .route("{ name: api, match: { path: /api/** }, upstream: app, auth: required }")
        .route("{ name: optional, match: { path: /optional/** }, upstream: app, auth: optional }")
}

fn api(token: &str) -> Request {
    get("/api/x").bearer(token)
}

#[track_caller]
fn refused(response: Response, reason: &str) {
    let response = response.expect(401);
    assert_eq!(response.reason(), reason, "{}", response.text());
    let challenge = response.header("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with("Bearer error=\"invalid_token\", error_description=\""), "{challenge}");
}

#[test]
fn a_keycloak_token_and_one_of_our_own_login_pass_where_both_are_listed_and_nowhere_else() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let other = Issuer::with_key(Key::p256("other"));
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .issuer("other", &other.settings_with(", algorithms: [ES256]"))
        .sessions(Sessions::embedded())
        .set("forward", "{ headers: { X-Auth-Subject: sub, X-Auth-Issuer: iss } }")
        .route(
            "{ name: both, match: { path: /both }, upstream: app, \
             auth: { mode: required, issuers: [gateway, corp], roles: [clerk] } }",
        )
        .route("{ name: any, match: { path: /any }, upstream: app }")
        .route(
            "{ name: one, match: { path: /one }, upstream: app, auth: { mode: required, issuers: [other] } }",
        );
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    let ours = login(&gateway).access;
    let theirs = issuer.sign();
    for (token, subject, name) in
        [(&ours, "u-alice", Sessions::ISSUER.to_owned()), (&theirs, "f:9c1:maria", issuer.id())]
    {
        for target in ["/both", "/any"] {
            get(target).bearer(token).send(&address).expect(200);
            let received = upstream.last();
            assert_eq!(received.header("x-auth-subject"), Some(subject));
            assert_eq!(received.header("x-auth-issuer"), Some(name.as_str()));
        }
        refused(get("/one").bearer(token).send(&address), "unknown_issuer");
    }
    get("/one").bearer(&other.sign()).send(&address).expect(200);
    refused(get("/both").bearer(&other.sign()).send(&address), "unknown_issuer");
}

#[test]
fn without_a_token_the_challenge_is_bare() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let response = get("/api/x").send(&gateway.address()).expect(401);
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    assert_eq!(response.reason(), "no_token");
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn credentials_that_are_not_one_bearer_token_are_400() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let token = issuer.sign();
    for value in [
        "Basic dXNlcjpwYXNz".to_owned(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {token} {token}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer \"{token}\""),
        format!("Bearer={token}"),
        format!("Bearer {token};x"),
        format!("Bearer\t{token}"),
        token.clone(),
        "Bearer a=b".to_owned(),
        // A b64token has its padding at the end only.
        format!("Bearer {}", token.replacen('.', "=.", 1)),
    ] {
        for target in ["/api/x", "/optional/x"] {
            let response = get(target).header("Authorization", &value).send(&gateway.address());
            let response = response.expect(400);
            assert_eq!(response.reason(), "malformed_credentials", "{value}");
            let challenge = response.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer error=\"invalid_request\""), "{challenge}");
        }
    }
    for second in [format!("Bearer {token}"), "Basic dXNlcjpwYXNz".to_owned()] {
        let response = api(&token).header("Authorization", &second).send(&gateway.address()).expect(400);
        assert_eq!(response.reason(), "malformed_credentials");
    }
    assert_eq!(upstream.hits(), 0);
    // The scheme's case does not matter (RFC 9110 section 11.1), neither do several spaces.
    get("/api/x").header("Authorization", &format!("bearer {token}")).send(&gateway.address()).expect(200);
}

#[test]
fn on_an_optional_route_no_token_is_anonymous_but_a_bad_one_is_401() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let address = gateway.address();
    get("/optional/x").header("X-Auth-Subject", "root").send(&address).expect(200);
    assert!(upstream.last().folded("x-auth-subject").is_empty());
    get("/optional/x").bearer(&issuer.sign()).send(&address).expect(200);
    assert_eq!(upstream.last().header("x-auth-subject"), Some("f:9c1:maria"));
    let bad = issuer.token().expires_in(-120).sign(&issuer.key);
    refused(get("/optional/x").bearer(&bad).send(&address), "expired");
    refused(get("/optional/x").bearer("garbage").send(&address), "malformed_token");
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn every_algorithm_of_the_list_verifies_and_no_other() {
    let upstream = Upstream::start();
    let keys = [
        (Key::rsa(0), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (Key::p256("p256"), &["ES256"][..]),
        (Key::p384("p384"), &["ES384"][..]),
        (Key::ed25519("ed"), &["EdDSA"][..]),
    ];
    let issuer = Issuer::start();
    issuer.publish(keys.iter().map(|(key, _)| key.jwk()).collect());
    let all = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
    let config = layout(&upstream, &issuer, &format!(", algorithms: [{all}]"));
    let gateway = Gateway::start(&config);
    let defaults = Gateway::start(&layout(&upstream, &issuer, ""));
    for (key, algorithms) in &keys {
        for algorithm in *algorithms {
            let token = issuer.token().header("alg", json!(algorithm)).sign(key);
            let response = api(&token).send(&gateway.address());
            assert_eq!(response.status, 200, "{algorithm}: {}", response.text());
            let response = api(&token).send(&defaults.address());
            if ["RS256", "PS256", "ES256", "EdDSA"].contains(algorithm) {
                assert_eq!(response.status, 200, "{algorithm}: {}", response.text());
            } else {
                refused(response, "unsupported_algorithm");
            }
        }
    }
}

#[test]
fn a_token_without_a_real_signature_is_refused() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let address = gateway.address();
    let claims = issuer.token().claims_text();
    for none in ["none", "None", "NONE", "nOnE", "none ", ""] {
        let header = json!({ "alg": none, "typ": "JWT", "kid": "rsa-0" }).to_string();
        for signature in ["", "AA", "."] {
            let token = format!("{}.{}.{signature}", b64(&header), b64(&claims));
            api(&token).send(&address).expect(401);
        }
    }
    let good = issuer.sign();
    let (message, _) = good.rsplit_once('.').unwrap();
    for signature in [String::new(), b64([0; 256]), b64([255; 256]), b64([0; 8]), "A".into()] {
        api(&format!("{message}.{signature}")).send(&address).expect(401);
    }
    api(message).send(&address).expect(401);
    refused(api(&issuer.token().sign(&Key::rsa(1).named("rsa-0"))).send(&address), "bad_signature");
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let other = issuer.token().set("sub", json!("root")).claims_text();
    refused(api(&format!("{head}.{}.{signature}", b64(other))).send(&address), "bad_signature");
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_public_key_is_never_used_as_an_hmac_secret() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let jwk = issuer.key.jwk();
    let modulus = jwk["n"].as_str().unwrap().to_owned();
    let pem = issuer.key.public_pem();
    let der: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    for secret in [&pem, pem.trim_end(), &der, &jwk.to_string(), &modulus, "", "rsa-0"].map(str::to_owned) {
        let key = Key::secret("rsa-0", if secret.is_empty() { b"" } else { secret.as_bytes() });
        for algorithm in ["HS256", "HS384", "HS512"] {
            let token = issuer.token().header("alg", json!(algorithm)).sign(&key);
            refused(api(&token).send(&gateway.address()), "unsupported_algorithm");
        }
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_key_that_comes_with_the_token_is_not_believed() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let attacker = Issuer::with_key(Key::rsa(1));
    let own = attacker.key.named("rsa-0");
    let url = attacker.key_set_url();
    for (member, value) in
        [("jwk", own.jwk()), ("jku", json!(url)), ("x5u", json!(url)), ("x5c", json!(["MIIB"]))]
    {
        let token = issuer.token().header(member, value).sign(&own);
        api(&token).send(&gateway.address()).expect(401);
    }
    for kid in
        [json!(url), json!("../../etc/passwd"), json!("' or 1=1"), json!("a\r\nb"), json!("k".repeat(2000))]
    {
        let token = issuer.token().header("kid", kid).sign(&own);
        api(&token).send(&gateway.address()).expect(401);
    }
    let foreign = issuer.token().set("iss", json!(attacker.id())).sign(&own);
    refused(api(&foreign).send(&gateway.address()), "unknown_issuer");
    assert!(attacker.requests().is_empty(), "the attacker's server was asked: {:?}", attacker.requests());
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn critical_header_extensions_are_refused() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    for crit in [json!(["exp"]), json!(["b64"]), json!(["x"]), json!([]), json!("x"), json!({})] {
        let token = issuer.token().header("crit", crit).header("b64", json!(false)).sign(&issuer.key);
        api(&token).send(&gateway.address()).expect(401);
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn times_are_checked_with_the_leeway_and_wrong_types_are_refused() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ", leeway: 30s"));
    let address = gateway.address();
    let token = || issuer.token();
    api(&token().expires_in(-20).sign(&issuer.key)).send(&address).expect(200);
    api(&token().set("nbf", json!(now() + 20)).sign(&issuer.key)).send(&address).expect(200);
    api(&token().set("exp", json!(now().to_string().parse::<f64>().unwrap() + 60.5)).sign(&issuer.key))
        .send(&address)
        .expect(200);
    refused(api(&token().expires_in(-32).sign(&issuer.key)).send(&address), "expired");
    refused(api(&token().set("exp", json!(0)).sign(&issuer.key)).send(&address), "expired");
    refused(api(&token().set("nbf", json!(now() + 35)).sign(&issuer.key)).send(&address), "not_yet_valid");
    refused(api(&token().without("exp").sign(&issuer.key)).send(&address), "missing_claim");
    let hits = upstream.hits();
    // CVE-2025-54576's kin: a claim of the wrong type must not count as absent.
    for wrong in [
        json!("9999999999"),
        json!(null),
        json!([9_999_999_999_i64]),
        json!({}),
        json!(true),
        json!(-1),
        json!(1e300),
    ] {
        for claim in ["exp", "nbf", "iat"] {
            let token = token().set(claim, wrong.clone()).sign(&issuer.key);
            let status = api(&token).send(&address).status;
            let fine = (claim != "exp" && wrong == json!(-1)) || (claim == "exp" && wrong == json!(1e300));
            assert!(status == 401 || fine, "{claim}: {wrong} gave {status}");
        }
    }
    assert!(upstream.hits() <= hits + 3);
}

#[test]
fn a_token_made_for_longer_than_its_issuer_may_is_refused() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ", max_lifetime: 1h, leeway: 0s"));
    let token = |from: i64, to: i64| issuer.token().set("iat", json!(now() + from)).expires_in(to);
    api(&token(-60, 3540).sign(&issuer.key)).send(&gateway.address()).expect(200);
    api(&token(0, 3000).without("iat").sign(&issuer.key)).send(&gateway.address()).expect(200);
    for long in [token(-60, 3545), token(-86_400, 60), token(0, 4000).without("iat")] {
        refused(api(&long.sign(&issuer.key)).send(&gateway.address()), "lifetime_too_long");
    }
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn an_expired_token_is_refused_although_it_was_accepted_a_moment_ago() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ", leeway: 0s"));
    let token = issuer.token().expires_in(3).sign(&issuer.key);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.exchange(&api(&token)).unwrap().expect(200);
    connection.exchange(&api(&token)).unwrap().expect(200);
    let mut status = 0;
    assert!(eventually(Duration::from_secs(10), || {
        status = connection.exchange(&api(&token)).unwrap().status;
        status != 200
    }));
    assert_eq!(status, 401);
    refused(api(&token).send(&gateway.address()), "expired");
}

#[test]
fn the_issuer_and_the_audience_match_exactly() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let address = gateway.address();
    let with = |claim: &str, value| issuer.token().set(claim, value).sign(&issuer.key);
    for audience in [json!("orders-api"), json!(["orders-api"]), json!(["x", "orders-api"])] {
        api(&with("aud", audience)).send(&address).expect(200);
    }
    for audience in
        [json!("orders"), json!("orders-api "), json!("Orders-API"), json!(["orders", "-api"]), json!([])]
    {
        refused(api(&with("aud", audience)).send(&address), "wrong_audience");
    }
    for audience in
        [json!(null), json!(1), json!({ "orders-api": 1 }), json!([["orders-api"]]), json!(["orders-api", 1])]
    {
        api(&with("aud", audience)).send(&address).expect(401);
    }
    refused(api(&issuer.token().without("aud").sign(&issuer.key)).send(&address), "missing_claim");
    let id = issuer.id();
    for name in
        [format!("{id}/"), id.to_uppercase(), id[..id.len() - 1].to_owned(), format!("{id}#"), String::new()]
    {
        refused(api(&with("iss", json!(name))).send(&address), "unknown_issuer");
    }
    for name in [json!([id]), json!(null), json!(1), json!({})] {
        api(&with("iss", name)).send(&address).expect(401);
    }
    api(&issuer.token().without("iss").sign(&issuer.key)).send(&address).expect(401);
    assert_eq!(upstream.hits(), 3);
}

#[test]
fn one_issuers_key_does_not_sign_for_another() {
    let upstream = Upstream::start();
    let (one, two) = (Issuer::start(), Issuer::with_key(Key::rsa(1)));
    let config = layout(&upstream, &one, "").issuer("two", &two.settings());
    let gateway = Gateway::start(&config);
    let forged = one.token().set("iss", json!(two.id())).sign(&one.key);
    api(&forged).send(&gateway.address()).expect(401);
    let same_kid = two.token().sign(&one.key.named("rsa-1"));
    refused(api(&same_kid).send(&gateway.address()), "bad_signature");
    api(&one.sign()).send(&gateway.address()).expect(200);
    api(&two.sign()).send(&gateway.address()).expect(200);
}

#[test]
fn only_access_tokens_pass_where_the_type_is_asked_for() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let loose = Gateway::start(&layout(&upstream, &issuer, ""));
    let strict = Gateway::start(&layout(&upstream, &issuer, ", token_type: at+jwt"));
    for (kind, any, only) in [
        (json!(null), true, false),
        (json!("JWT"), true, false),
        (json!("jwt"), true, false),
        (json!("at+jwt"), true, true),
        (json!("AT+JWT"), true, true),
        (json!("application/at+jwt"), true, true),
        (json!("Application/JWT"), true, false),
        (json!("logout+jwt"), false, false),
        (json!("dpop+jwt"), false, false),
        (json!("at+jwt2"), false, false),
        (json!(""), false, false),
    ] {
        let token = issuer.token().header("typ", kind.clone()).sign(&issuer.key);
        for (gateway, accepted) in [(&loose, any), (&strict, only)] {
            let response = api(&token).send(&gateway.address());
            if accepted {
                assert_eq!(response.status, 200, "{kind}: {}", response.text());
            } else {
                refused(response, "wrong_type");
            }
        }
    }
    for kind in [json!(1), json!(["JWT"])] {
        let token = issuer.token().header("typ", kind).sign(&issuer.key);
        api(&token).send(&loose.address()).expect(401);
    }
}

#[test]
fn what_is_not_one_strict_jwt_is_malformed() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let address = gateway.address();
    let good = issuer.sign();
    let key = &issuer.key;
    let head = r#"{"alg":"RS256","kid":"rsa-0"}"#;
    let claims = issuer.token().claims_text();
    let inner = &claims[1..claims.len() - 1];
    let parts: Vec<_> = good.split('.').collect();
    for token in [
        "x".to_owned(),
        "a.b".into(),
        "a.b.c".into(),
        "..".into(),
        format!("{good}.{}", parts[2]),
        format!("{}.{}.{}.{}.{}", parts[0], parts[0], parts[0], parts[1], parts[2]),
        format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
        signed("[]", &claims, "RS256", key),
        signed("not json", &claims, "RS256", key),
        signed(head, "not json", "RS256", key),
        signed(head, "[]", "RS256", key),
        signed(head, &format!("{claims}{{}}"), "RS256", key),
        signed(head, &format!("\u{feff}{claims}"), "RS256", key),
        // A repeated member is malformed in tokens too.
        signed(head, &format!("{{{inner},\"sub\":\"root\"}}"), "RS256", key),
        signed(head, &format!("{{{inner},\"\\u0073ub\":\"root\"}}"), "RS256", key),
        signed(r#"{"alg":"RS256","alg":"RS256","kid":"rsa-0"}"#, &claims, "RS256", key),
        signed(r#"{"alg":"RS256","kid":"x","kid":"rsa-0"}"#, &claims, "RS256", key),
        signed(head, &format!("{}{}", "[".repeat(2000), "]".repeat(2000)), "RS256", key),
    ] {
        refused(api(&token).send(&address), "malformed_token");
    }
    // A JWE, and bits after the last byte: one token must not have two spellings.
    let jwe = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.OKOawDo13gRp.48V1_ALb6US04U3b.5eym8TW_c8.XFBoMYUZodetZdvTiFvSkQ";
    api(jwe).send(&address).expect(401);
    let mut loose = good.clone();
    let last = loose.pop().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    loose.push(alphabet.chars().nth(at ^ 1).unwrap());
    api(&loose).send(&address).expect(401);
    assert_eq!(upstream.hits(), 0);
    api(&good).send(&address).expect(200);
}

#[test]
fn a_token_beyond_its_size_limit_is_refused_unread() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer, "").server("limits", "{ token_bytes: 2KiB }");
    let gateway = Gateway::start(&config);
    let long = issuer.token().set("note", json!("x".repeat(3000))).sign(&issuer.key);
    let response = api(&long).send(&gateway.address());
    assert_eq!(response.reason(), "token_too_large", "{}", response.status);
    assert!(matches!(response.status, 400 | 401), "{}", response.status);
    assert_eq!((upstream.hits(), issuer.fetches() < 2), (0, true));
    api(&issuer.sign()).send(&gateway.address()).expect(200);
}

#[test]
fn a_refresh_token_is_no_bearer_token_and_an_access_token_no_refresh_token() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .sessions(Sessions::embedded())
        .route("{ name: api, match: { path: /api/** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let tokens = login(&gateway);
    api(&tokens.refresh).send(&gateway.address()).expect(401);
    let response = refresh(&gateway, &tokens.access).expect(401);
    assert_eq!(response.member("code"), "invalid_token");
    api(&tokens.access).send(&gateway.address()).expect(200);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_token_in_the_query_or_a_cookie_is_not_seen() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let token = issuer.sign();
    let query = get(&format!("/api/x?access_token={token}")).send(&gateway.address()).expect(401);
    assert_eq!(query.reason(), "no_token");
    let cookie = get("/api/x").cookie(&format!("access_token={token}")).send(&gateway.address()).expect(401);
    assert_eq!(cookie.reason(), "no_token");
}

#[test]
fn nothing_of_a_refused_token_is_echoed() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let token = issuer.token().set("sub", json!("echo-me")).expires_in(-100).header("kid", json!("echo-kid"));
    for token in [token.clone().sign(&issuer.key), token.header("kid", json!("rsa-0")).sign(&issuer.key)] {
        let response = api(&token).send(&gateway.address()).expect(401);
        let everything = format!("{:?} {}", response.headers, response.text());
        assert!(!everything.contains("echo-"), "{everything}");
    }
}

#[test]
fn keys_come_from_a_jwks_file_a_pem_file_or_a_secret_too() {
    let upstream = Upstream::start();
    let (one, two) = (Key::p256("one"), Key::rsa(1));
    let secret = b"an hmac secret of more than 32 bytes, as RFC 7518 wants it at HS256";
    let jwks = json!({ "keys": [one.jwk()] }).to_string();
    let issuer = |file: &str, algorithms: &str| {
        format!(
            "{{ issuer: \"https://{file}.test\", audiences: [orders-api], algorithms: [{algorithms}], key_set: {{ "
        )
    };
    let config = Config::to(&upstream)
        .file("keys/one.jwks.json", jwks)
        .file("keys/two.pem", two.public_pem())
        .file("keys/secret", *secret)
        .issuer("jwks", &format!("{}file: keys/one.jwks.json }} }}", issuer("jwks", "ES256")))
        .issuer("pem", &format!("{}file: keys/two.pem }} }}", issuer("pem", "RS256")))
        .issuer("hmac", &format!("{}secret_file: keys/secret }} }}", issuer("hmac", "HS256")))
        .route("{ name: api, match: { path: /api/** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let token = |name: &str| {
        let claims = json!({ "iss": format!("https://{name}.test"), "aud": "orders-api", "sub": "u", "exp": now() + 60, "iat": now() });
        Token::new(claims)
    };
    let hmac = Key::secret("any", secret);
    api(&token("jwks").sign(&one)).send(&gateway.address()).expect(200);
    // A PEM file names no `kid`: any, or none, will do.
    api(&token("pem").sign(&two)).send(&gateway.address()).expect(200);
    api(&token("pem").header("kid", json!(null)).sign(&two)).send(&gateway.address()).expect(200);
    api(&token("hmac").header("kid", json!(null)).sign(&hmac)).send(&gateway.address()).expect(200);
    refused(api(&token("hmac").sign(&Key::secret("any", b"another secret of more than 32 bytes, which is wrong"))).send(&gateway.address()), "bad_signature");
    refused(
        api(&token("pem").header("alg", json!("HS256")).sign(&hmac)).send(&gateway.address()),
        "unsupported_algorithm",
    );
    assert_eq!(upstream.hits(), 4);
}

#[test]
fn keys_are_found_through_the_discovery_document() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let settings =
        format!("{{ issuer: \"{}\", audiences: [orders-api], key_set: {{ discovery: true }} }}", issuer.id());
    let config = Config::to(&upstream)
        .issuer("corp", &settings)
        .route("{ name: api, match: { path: /api/** }, upstream: app }");
    let gateway = Gateway::start(&config);
    api(&issuer.sign()).send(&gateway.address()).expect(200);
    let asked: Vec<_> = issuer.requests().iter().map(|r| r.target().to_owned()).collect();
    assert!(asked[0].ends_with("/realms/staff/.well-known/openid-configuration"), "{asked:?}");
}

#[test]
fn a_token_without_a_kid_is_verified_if_the_key_is_beyond_doubt() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer, ""));
    let token = issuer.token().header("kid", json!(null)).sign(&issuer.key);
    api(&token).send(&gateway.address()).expect(200);
    let forged = issuer.token().header("kid", json!(null)).sign(&Key::rsa(1));
    api(&forged).send(&gateway.address()).expect(401);
}
