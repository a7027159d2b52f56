//! What the upstream reads in an identity header was put there by the gateway.

use crate::support::frames::RawRequest;
use crate::support::http2_upstream::Http2Upstream;
use crate::support::{Config, Connection, Gateway, Issuer, Reply, Upstream, get, request};
use serde_json::json;

const HEADERS: &str = "{ headers: { X-Auth-Subject: sub, X-Auth-Issuer: iss, X-Auth-Scopes: scope, \
                       X-Auth-Roles: { claim: roles, format: csv } } }";

/// A required, an optional and a public route, each for everything below its name.
fn layout(upstream: &Upstream, issuer: &Issuer) -> Config {
    Config::to(upstream)
        .issuer("corp", &issuer.settings())
        .set("forward", HEADERS)
        .route("{ name: required, match: { path: /required/** }, upstream: app, auth: required }")
        .route("{ name: optional, match: { path: /optional/** }, upstream: app, auth: optional }")
        .route("{ name: public, match: { path: /public/** }, upstream: app, auth: public }")
}

/// Spellings that some backend reads as `X-Auth-Subject`.
const ALIASES: &[&str] = &[
    "X-Auth-Subject",
    "x-auth-subject",
    "X-AUTH-SUBJECT",
    "X_Auth_Subject",
    "x_auth_subject",
    "X-Auth_Subject",
    "X.Auth.Subject",
    "X~Auth~Subject",
    "X!Auth!Subject",
    "X--Auth--Subject",
    "X-_Auth._Subject",
    "X__Auth__Subject",
    "X..Auth..Subject",
    "x-auth.subject",
    "X'Auth'Subject",
    "X*Auth*Subject",
    "X|Auth|Subject",
    "X`Auth^Subject",
];

#[test]
fn no_spelling_of_an_identity_header_survives_on_any_route() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    let token = issuer.sign();
    for alias in ALIASES {
        for (target, with_token) in [
            ("/public/x", false),
            ("/public/x", true),
            ("/optional/x", false),
            ("/optional/x", true),
            ("/required/x", true),
        ] {
            let mut spoof =
                get(target).header(alias, "root").header(&alias.replace("ubject", "copes"), "admin");
            if with_token {
                spoof = spoof.bearer(&token);
            }
            let response = spoof.send(&gateway.address());
            assert!(matches!(response.status, 200 | 400), "{alias} on {target}: {}", response.status);
            if response.status == 400 {
                continue;
            }
            let received = upstream.last();
            let lines = received.header_lines.join("\n");
            assert!(!lines.contains("root") && !lines.contains("admin"), "{alias} on {target}:\n{lines}");
            let subjects = received.folded("x-auth-subject");
            let expected = usize::from(with_token && target != "/public/x");
            assert_eq!(subjects.len(), expected, "{alias} on {target}: {subjects:?}");
        }
    }
    assert!(upstream.hits() > 30, "most spellings are valid field names and must pass without the header");
}

#[test]
fn repeated_identity_headers_are_all_removed() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    get("/required/x")
        .header("X-Auth-Subject", "root")
        .header("X-Auth-Subject", "root2")
        .header("X_Auth_Subject", "root3")
        .bearer(&issuer.sign())
        .send(&gateway.address())
        .expect(200);
    let received = upstream.last();
    assert_eq!(received.folded("x-auth-subject").len(), 1, "{:?}", received.header_lines);
    assert_eq!(received.header("x-auth-subject"), Some("f:9c1:maria"));
}

#[test]
fn a_connection_header_cannot_remove_what_the_gateway_adds() {
    // CVE-2021-32813, CVE-2022-31813, CVE-2024-45410 of other proxies.
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    for nominated in [
        "close, x-auth-subject",
        "X-Auth-Subject",
        "keep-alive, X-AUTH-SUBJECT, X-Auth-Roles",
        "x-auth-issuer",
    ] {
        let response = get("/required/x")
            .header("Connection", nominated)
            .bearer(&issuer.sign())
            .send(&gateway.address());
        assert!(matches!(response.status, 200 | 400), "{nominated}: {}", response.status);
        if response.status == 200 {
            let received = upstream.last();
            assert_eq!(received.header("x-auth-subject"), Some("f:9c1:maria"), "{nominated}");
            assert_eq!(received.header("x-auth-issuer"), Some(issuer.id().as_str()), "{nominated}");
        }
    }
    assert!(upstream.hits() > 0);
    // Neither can it take the token out of sight, so that the request passes as anonymous.
    get("/optional/x")
        .header("Connection", "authorization")
        .header("Authorization", "Bearer not.a.token")
        .send(&gateway.address())
        .expect(401);
}

#[test]
fn verified_claims_arrive_as_configured() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream).issuer("corp", &issuer.settings()).set(
        "forward",
        "{ headers: { X-Auth-Subject: sub, X-Auth-Issuer: iss, X-Auth-Scopes: scope, \
         X-Roles: { claim: roles, format: csv }, X-Json: { claim: realm_access, format: json }, \
         X-B64: { claim: realm_access, format: base64url-json }, X-Mail: { claim: email, format: text }, \
         X-Deep: { claim: address.country } } }",
    );
    let config = config.route("{ name: all, match: { path: /** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let token = issuer.token().set("address", json!({ "country": "DE" }));
    get("/").bearer(&token.sign(&issuer.key)).send(&gateway.address()).expect(200);
    let received = upstream.last();
    assert_eq!(received.header("x-auth-subject"), Some("f:9c1:maria"));
    assert_eq!(received.header("x-auth-issuer"), Some(issuer.id().as_str()));
    assert_eq!(received.header("x-auth-scopes"), Some("orders:read profile"));
    assert_eq!(received.header("x-roles"), Some("clerk,offline_access"));
    assert_eq!(received.header("x-mail"), Some("maria@example.com"));
    assert_eq!(received.header("x-deep"), Some("DE"));
    let document = r#"{"roles":["clerk","offline_access"]}"#;
    assert_eq!(received.header("x-json"), Some(document));
    let encoded = crate::support::keys::b64(document);
    assert_eq!(received.header("x-b64"), Some(encoded.as_str()));
}

#[test]
fn no_two_claims_share_a_header_value() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .set("forward", "{ headers: { X-Auth-Subject: sub, X-Auth-Roles: { claim: roles, format: csv } } }")
        .route("{ name: all, match: { path: /** }, upstream: app }");
    let gateway = Gateway::start(&config);
    for (subject, wanted) in [("café", "caf%C3%A9"), ("100%", "100%25"), ("a%20b", "a%2520b"), ("a,b", "a,b")]
    {
        let token = issuer.token().set("sub", json!(subject)).sign(&issuer.key);
        get("/").bearer(&token).send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().header("x-auth-subject"), Some(wanted));
    }
    let token = issuer.token().set("roles", json!(["user,admin", "x%2Cy", "plain"])).without("realm_access");
    get("/").bearer(&token.sign(&issuer.key)).send(&gateway.address()).expect(200);
    assert_eq!(upstream.last().header("x-auth-roles"), Some("user%2Cadmin,x%252Cy,plain"));
}

#[test]
fn a_claim_with_a_control_character_refuses_the_request() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    for subject in ["a\r\nX-Auth-Roles: admin", "a\nb", "a\0b", "a\tb", "a\u{7f}b", "a\u{85}b"] {
        let token = issuer.token().set("sub", json!(subject)).sign(&issuer.key);
        let response = get("/required/x").bearer(&token).send(&gateway.address());
        // U+0085 is a control character too, but one that percent-encoding makes harmless.
        if subject.contains('\u{85}') && response.status == 200 {
            assert_eq!(upstream.last().header("x-auth-subject"), Some("a%C2%85b"));
            continue;
        }
        let response = response.expect(403);
        assert_eq!(response.reason(), "unforwardable_claim", "{subject:?}");
    }
    assert!(upstream.hits() <= 1);
}

#[test]
fn an_absent_claim_is_omitted_empty_or_refused_and_a_long_one_is_refused() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .route(
            "{ name: soft, match: { path: /soft }, upstream: app, forward: { headers: { \
             X-A: { claim: nothing, absent: omit }, X-B: { claim: nothing, absent: empty }, X-C: nothing } } }",
        )
        .route(
            "{ name: hard, match: { path: /hard }, upstream: app, forward: { headers: { \
             X-A: { claim: nothing, absent: reject } } } }",
        )
        .route(
            "{ name: tight, match: { path: /tight }, upstream: app, forward: { headers: { \
             X-A: { claim: note, max_bytes: 8B } } } }",
        );
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    get("/soft")
        .header("X-A", "mine")
        .header("X-B", "mine")
        .bearer(&issuer.sign())
        .send(&address)
        .expect(200);
    let received = upstream.last();
    assert_eq!(
        (received.header("x-a"), received.header("x-b"), received.header("x-c")),
        (None, Some(""), None)
    );

    let refused = get("/hard").bearer(&issuer.sign()).send(&address).expect(403);
    assert_eq!(refused.reason(), "unforwardable_claim");
    let note = |text: &str| issuer.token().set("note", json!(text)).sign(&issuer.key);
    get("/tight").bearer(&note("12345678")).send(&address).expect(200);
    get("/tight").bearer(&note("123456789")).send(&address).expect(403);
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn a_route_that_replaces_the_map_still_removes_every_configured_name() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer).route(
        "{ name: other, match: { path: /other/** }, upstream: app, forward: { headers: { X-User: sub } } }",
    );
    let gateway = Gateway::start(&config);
    get("/other/x")
        .header("X-Auth-Subject", "root")
        .header("X_User", "root")
        .bearer(&issuer.sign())
        .send(&gateway.address())
        .expect(200);
    let received = upstream.last();
    assert_eq!(received.header("x-user"), Some("f:9c1:maria"));
    assert!(received.folded("x-auth-subject").is_empty(), "{:?}", received.header_lines);
    // The name that only the other route sets is removed here as well.
    get("/public/x").header("x.user", "root").send(&gateway.address()).expect(200);
    assert!(upstream.last().folded("x-user").is_empty(), "{:?}", upstream.last().header_lines);
}

#[test]
fn the_token_itself_is_forwarded_only_where_a_route_says_so() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer)
        .route("{ name: pass, match: { path: /pass }, upstream: app, forward: { authorization: pass } }");
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    for target in ["/required/x", "/optional/x"] {
        get(target).bearer(&token).send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().header("authorization"), None, "{target}");
    }
    get("/pass").bearer(&token).send(&gateway.address()).expect(200);
    assert_eq!(upstream.last().header("authorization"), Some(format!("Bearer {token}").as_str()));
    assert_eq!(
        upstream.last().header("x-auth-subject"),
        Some("f:9c1:maria"),
        "the rest of `forward` is kept"
    );
}

#[test]
fn headers_that_rewrite_the_request_behind_the_gateway_are_removed_in_every_spelling() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    for name in [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "x_original_url",
        "X.Rewrite.Url",
        "X_HTTP_METHOD_OVERRIDE",
        "X--Method--Override",
        "X~Original~URL",
        "Content_Length",
        "Transfer_Encoding",
        "transfer.encoding",
    ] {
        get("/public/x").header(name, "/marked").send(&gateway.address()).expect(200);
        let lines = upstream.last().header_lines.join("\n");
        assert!(!lines.contains("/marked"), "{name} went through:\n{lines}");
    }
}

#[test]
fn an_identity_never_carries_over_to_the_next_request() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let signed_in = get("/optional/x").bearer(&issuer.sign());
    for _ in 0..3 {
        connection.exchange(&signed_in).unwrap().expect(200);
        assert_eq!(upstream.last().header("x-auth-subject"), Some("f:9c1:maria"));
        connection.exchange(&get("/optional/x")).unwrap().expect(200);
        assert!(upstream.last().folded("x-auth-subject").is_empty());
        connection.exchange(&get("/required/x")).unwrap().expect(401);
    }
    assert_eq!(upstream.hits(), 6);
}

#[test]
fn trailers_cannot_carry_an_identity() {
    let (upstream, modern, issuer) = (Upstream::start(), Http2Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer)
        .listener("http2: true")
        .upstream_raw("modern", &modern.settings())
        .route("{ name: modern, match: { path: /modern/** }, upstream: modern, auth: public }");
    let gateway = Gateway::start(&config);
    for target in ["/public/x", "/modern/x"] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        connection
            .send(format!(
                "POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Auth-Subject\r\n\r\n\
                 2\r\nhi\r\n0\r\nX-Auth-Subject: root\r\n\r\n"
            ))
            .unwrap();
        connection.read_response(false).unwrap().expect(200);
        let request = RawRequest::new("POST", "x", target).body(b"hi").trailer("x-auth-subject", "root");
        assert_eq!(request.send(&gateway.address()).unwrap().status, Some(200));
    }
    assert_eq!((upstream.hits(), modern.seen().len()), (2, 2));
    for received in upstream.requests() {
        assert_eq!(received.body, b"hi");
        assert!(received.trailers.is_empty(), "{:?}", received.trailers);
        assert!(!received.header_lines.join("\n").contains("root"), "{:?}", received.header_lines);
    }
    for seen in modern.seen() {
        assert!(seen.body == b"hi" && seen.trailers.is_none() && !seen.text().contains("root"), "{seen:?}");
    }
}

#[test]
fn an_http_2_upstream_reads_no_identity_but_ours() {
    let (upstream, modern, issuer) = (Upstream::start(), Http2Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer)
        .listener("http2: true")
        .upstream_raw("modern", &modern.settings())
        .route("{ name: modern, match: { path: /modern/** }, upstream: modern, auth: optional }");
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    for alias in ALIASES {
        for token in [None, Some(&token)] {
            let mut request = get("/modern/1")
                .header(alias, "root")
                .header("Connection", &format!("close, {alias}, x-auth-issuer"));
            let lower = alias.to_lowercase();
            let mut raw =
                RawRequest::new("GET", "x", "/modern/2").field(&lower, "root").field(&lower, "root2");
            if let Some(token) = token {
                request = request.bearer(token);
                raw = raw.field("authorization", &format!("Bearer {token}"));
            }
            request.send(&gateway.address()).expect(200);
            assert_eq!(raw.send(&gateway.address()).unwrap().status, Some(200), "{alias}");
            for seen in modern.seen().iter().rev().take(2) {
                assert!(!seen.text().contains("root"), "{alias}: {seen:?}");
                let told = |name| seen.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
                let expected: Vec<&str> = token.map(|_| "f:9c1:maria").into_iter().collect();
                assert_eq!(told("x-auth-subject"), expected, "{alias} on {}", seen.path);
                assert_eq!(told("x-auth-issuer").len(), expected.len(), "{alias} on {}", seen.path);
                assert!(told("connection").is_empty());
            }
        }
    }
    assert_eq!(modern.seen().len(), ALIASES.len() * 4);
    // One field of each HTTP/1 request, two of each over HTTP/2.
    #[allow(clippy::cast_precision_loss)]
    let expected = (ALIASES.len() * 6) as f64;
    let name = "portcullis_identity_header_spoof_total";
    assert!(gateway.metric_becomes(name, &[("route", "modern")], expected), "{}", gateway.metrics());
}

#[test]
fn connection_specific_fields_over_http_2_remove_nothing() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer).listener("http2: true"));
    let request = RawRequest::new("GET", "x", "/required/x")
        .field("authorization", &format!("Bearer {}", issuer.sign()))
        .field("x-auth-roles", "root");
    // RFC 9113 section 8.2.2: malformed, and no upstream hears of it.
    let refused = request.clone().field("connection", "x-auth-subject").send(&gateway.address()).unwrap();
    assert_ne!(refused.status, Some(200));
    assert_eq!(upstream.hits(), 0);
    assert_eq!(request.send(&gateway.address()).unwrap().status, Some(200));
    assert_eq!(upstream.last().header("x-auth-subject"), Some("f:9c1:maria"));
    assert_eq!(upstream.last().header("x-auth-roles"), Some("clerk,offline_access"));
}

#[test]
fn another_attempt_carries_the_same_identity_and_nothing_of_the_clients() {
    let (dead, alive) = (Upstream::answering(|_| Reply::Close), Upstream::start());
    let issuer = Issuer::start();
    let config = Config::new()
        .upstream("app", &[&dead, &alive])
        .issuer("corp", &issuer.settings())
        .set("forward", HEADERS)
        .route("{ name: all, match: { path: /** }, upstream: app, auth: optional }");
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    for with_token in [true, false, true, false] {
        let mut request = get("/x")
            .header("X_Auth_Subject", "root")
            .header("X-Auth-Roles", "root")
            .header("Connection", "X-Auth-Subject, X-Auth-Issuer");
        if with_token {
            request = request.bearer(&token);
        }
        let (before, after) = (dead.hits(), alive.hits());
        request.send(&gateway.address()).expect(200);
        let tried = dead.requests().into_iter().skip(before).chain(alive.requests().into_iter().skip(after));
        for received in tried {
            let lines = received.header_lines.join("\n");
            assert!(!lines.contains("root"), "{lines}");
            let expected: Vec<&str> = if with_token { vec!["f:9c1:maria"] } else { Vec::new() };
            assert_eq!(received.all("x-auth-subject"), expected, "{lines}");
            assert_eq!(received.all("x-auth-issuer").len(), expected.len(), "{lines}");
        }
    }
    assert!(dead.hits() >= 2 && alive.hits() == 4, "{} {}", dead.hits(), alive.hits());
}

#[test]
fn an_upgrade_is_no_way_round() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    for upgrade in ["websocket", "h2c", "x"] {
        for (target, subject) in [("/public/x", None), ("/required/x", Some("f:9c1:maria"))] {
            get(target)
                .bearer(&issuer.sign())
                .header("Connection", "Upgrade, X-Auth-Subject, HTTP2-Settings")
                .header("Upgrade", upgrade)
                .header("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("Sec-WebSocket-Version", "13")
                .header("X.Auth.Subject", "root")
                .send(&gateway.address())
                .expect(200);
            let received = upstream.last();
            assert_eq!(received.header("x-auth-subject"), subject, "{upgrade} on {target}");
            let lines = received.header_lines.join("\n").to_lowercase();
            assert!(!lines.contains("root") && !lines.contains("upgrade"), "{upgrade} on {target}:\n{lines}");
        }
    }
}

#[test]
fn numbers_are_told_with_every_digit_or_not_at_all() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let formats: String = [("A", "text"), ("B", "csv"), ("C", "json"), ("D", "base64url-json")]
        .map(|(name, format)| format!("X-{name}: {{ claim: n, format: {format} }}, "))
        .concat();
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .set("forward", &format!("{{ headers: {{ {formats} }} }}"))
        .route("{ name: all, match: { path: /** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let send = |number: &str| {
        let claims = issuer.token().set("n", json!(0)).claims_text();
        let claims = claims.replace("\"n\":0", &format!("\"n\":{number}"));
        assert!(claims.contains(number));
        let header = json!({ "alg": "RS256", "kid": issuer.key.kid, "typ": "JWT" }).to_string();
        let token = crate::support::token::signed(&header, &claims, "RS256", &issuer.key);
        get("/").bearer(&token).send(&gateway.address())
    };
    for number in ["9007199254740993", "18446744073709551615", "-9223372036854775808", "0.1", "-2.5", "0"] {
        send(number).expect(200);
        let received = upstream.last();
        for name in ["x-a", "x-b", "x-c"] {
            assert_eq!(received.header(name), Some(number), "{name}");
        }
        assert_eq!(received.header("x-d"), Some(crate::support::keys::b64(number).as_str()));
    }
    let hits = upstream.hits();
    for number in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"] {
        assert_eq!(send(number).expect(403).reason(), "unforwardable_claim", "{number}");
    }
    assert_eq!(upstream.hits(), hits);
}

#[test]
fn more_identity_than_upstreams_take_is_refused_by_the_gateway() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .set("forward", "{ headers: { X-A: a, X-B: b } }")
        .route("{ name: all, match: { path: /** }, upstream: app }");
    let gateway = Gateway::start(&config.server("limits", "{ token_bytes: 20KiB }"));
    let send = |one: usize, other: usize| {
        let token = issuer.token().set("a", json!("x".repeat(one))).set("b", json!("x".repeat(other)));
        get("/").bearer(&token.sign(&issuer.key)).send(&gateway.address())
    };
    // 8 KiB for names and values together.
    send(4096, 4090).expect(200);
    let received = upstream.last();
    assert_eq!((received.header("x-a").unwrap().len(), received.header("x-b").unwrap().len()), (4096, 4090));
    assert_eq!(send(4096, 4091).expect(403).reason(), "unforwardable_claim");
    assert_eq!(send(9000, 1).expect(403).reason(), "unforwardable_claim");
    assert_eq!(upstream.hits(), 1);
    // Who runs the gateway is told which header it was.
    for name in ["x-b", "x-a"] {
        let detail = format!("the claim for {name} cannot be forwarded: it is too long");
        gateway.log_line(|line| line["reason"] == "unforwardable_claim" && line["detail"] == detail.as_str());
    }
}

#[test]
fn attempts_to_spoof_are_counted_by_route() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&layout(&upstream, &issuer));
    request("GET", "/public/x").header("X_Auth_Subject", "root").send(&gateway.address()).expect(200);
    request("GET", "/public/x").send(&gateway.address()).expect(200);
    let name = "portcullis_identity_header_spoof_total";
    assert!(gateway.metric_becomes(name, &[("route", "public")], 1.0), "{}", gateway.metrics());
    assert!(gateway.metric(name, &[("route", "required")]) < 0.5);
}
