//! Pages of other origins: their preflights are answered by the gateway, and they can read its answers, refusals
//! too; nobody else's pages can.

use crate::support::ports::free_port;
use crate::support::{Config, Gateway, Issuer, Reply, Request, Response, Upstream, get, post, request};
use serde_json::json;
use std::time::Duration;

const APP: &str = "https://app.example.com";
const EVIL: &str = "https://evil.test";
const CORS: &str =
    "cors: { origins: [https://app.example.com, \"http://localhost:3000\"], credentials: true }";
const EXPOSED: &str = "WWW-Authenticate, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id";

fn preflight(target: &str, origin: &str, method: &str) -> Request {
    request("OPTIONS", target).header("Origin", origin).header("Access-Control-Request-Method", method)
}

/// The fields of CORS in an answer.
fn cors_of(response: &Response) -> Vec<&str> {
    let is_cors = |name: &str| name.to_ascii_lowercase().starts_with("access-control-");
    response.headers.iter().map(|(name, _)| name.as_str()).filter(|name| is_cors(name)).collect()
}

fn varies(response: &Response) -> bool {
    response.all("vary").join(",").split(',').any(|name| name.trim().eq_ignore_ascii_case("origin"))
}

/// Asserts that a page of the application may read this answer, and one of nobody else.
#[track_caller]
fn readable(response: &Response) {
    let status = response.status;
    assert_eq!(response.header("access-control-allow-origin"), Some(APP), "{status}");
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"), "{status}");
    assert_eq!(response.header("access-control-expose-headers"), Some(EXPOSED), "{status}");
    assert!(varies(response), "{status}");
}

#[test]
fn a_preflight_is_answered_here_without_a_token_for_the_route_of_the_method_it_asks_about() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route(&format!(
            "{{ name: read, match: {{ path: /x/**, methods: [GET, HEAD] }}, upstream: app, {CORS} }}"
        ))
        .route("{ name: write, match: { path: /x/**, methods: [PUT] }, upstream: app }")
        .route(
            "{ name: all, match: { path: /all }, upstream: app, cors: { origins: [\"*\"], max_age: 1h } }",
        );
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    let asked = "authorization,content-type,x-own";
    let response = preflight("/x/1?y", APP, "GET")
        .header("Access-Control-Request-Headers", asked)
        .send(&address)
        .expect(204);
    assert_eq!(response.header("access-control-allow-origin"), Some(APP));
    assert_eq!(response.header("access-control-allow-methods"), Some("GET, HEAD"));
    assert_eq!(response.header("access-control-allow-headers"), Some(asked));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(response.header("access-control-max-age"), Some("600"));
    assert!(varies(&response) && response.header("content-length").is_none());
    let local = preflight("/x/1", "http://localhost:3000", "HEAD").send(&address).expect(204);
    assert_eq!(local.header("access-control-allow-origin"), Some("http://localhost:3000"));

    for origin in
        [EVIL, "null", "http://app.example.com", "https://app.example.com:8443", "HTTPS://app.example.com"]
    {
        let response = preflight("/x/1", origin, "GET").send(&address).expect(204);
        assert_eq!(cors_of(&response), [""; 0], "{origin}");
        assert!(varies(&response));
    }

    let all = preflight("/all", EVIL, "PATCH").send(&address).expect(204);
    assert_eq!(all.header("access-control-allow-origin"), Some("*"));
    assert_eq!(all.header("access-control-allow-methods"), Some("PATCH"));
    assert_eq!(all.header("access-control-allow-credentials"), None);
    assert_eq!(all.header("access-control-max-age"), Some("3600"));

    // The route of this method has no cors; this one does not exist; this one is never served.
    for (target, method) in [("/x/1", "PUT"), ("/x/1", "DELETE"), ("/all", "TRACE"), ("/all", "patch")] {
        let response = preflight(target, APP, method).send(&address);
        assert!(matches!(response.status, 401 | 404), "{method}: {}", response.status);
        assert_eq!(response.header("access-control-allow-methods"), None, "{method}");
    }
    // A path that is refused to the request is refused to its preflight.
    let response = preflight("/x/a%2Fb", APP, "GET").send(&address).expect(400);
    readable(&response);
    assert_eq!(upstream.hits(), 0);
    gateway
        .log_line(|line| line["route"] == "read" && line["reason"] == "preflight" && line["status"] == 204);
}

#[test]
fn any_other_options_request_is_an_ordinary_one() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route(&format!("{{ name: closed, match: {{ path: /closed }}, upstream: app, {CORS} }}"))
        .route(&format!("{{ name: open, match: {{ path: /open }}, upstream: app, auth: public, {CORS} }}"))
        .route("{ name: theirs, match: { path: /theirs }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    for almost in [
        request("OPTIONS", "/closed"),
        request("OPTIONS", "/closed").header("Origin", APP),
        request("OPTIONS", "/closed").header("Access-Control-Request-Method", "GET"),
        preflight("/closed", APP, "GET").header("Access-Control-Request-Method", "GET"),
        get("/closed").header("Origin", APP).header("Access-Control-Request-Method", "GET"),
    ] {
        almost.send(&address).expect(401);
    }
    assert_eq!(upstream.hits(), 0);
    request("OPTIONS", "/open").header("Origin", APP).send(&address).expect(200);
    assert_eq!(upstream.last().method(), "OPTIONS");
    // Without cors even a preflight is the upstream's matter.
    let response = preflight("/theirs", APP, "GET").send(&address).expect(200);
    assert_eq!(cors_of(&response), [""; 0]);
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn a_page_can_read_every_refusal_of_its_route() {
    let (upstream, issuer, silent) = (Upstream::start(), Issuer::start(), Upstream::start());
    silent.answer(|_| Reply::ok("late").after(Duration::from_secs(5)));
    let nowhere = free_port();
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .issuer(
            "down",
            &format!(
                "{{ issuer: \"https://down.test\", audiences: [api], algorithms: [RS256], \
             key_set: {{ url: \"http://127.0.0.1:{nowhere}/certs\" }}, refresh: {{ timeout: 200ms }} }}"
            ),
        )
        .upstream_with("silent", &[&silent], ", timeouts: { read: 300ms }, retries: 0")
        .upstream_raw("gone", &format!("{{ endpoints: [\"http://127.0.0.1:{nowhere}\"] }}"))
        .route(&format!(
            "{{ name: x, match: {{ path: /x/** }}, upstream: app, limits: {{ body_bytes: 10B }}, \
             auth: {{ mode: required, scopes: [b] }}, {CORS} }}"
        ))
        .route(&format!("{{ name: s, match: {{ path: /silent }}, upstream: silent, auth: public, {CORS} }}"))
        .route(&format!("{{ name: g, match: {{ path: /gone }}, upstream: gone, auth: public, {CORS} }}"));
    let gateway = Gateway::start_live(&config);
    let token = |claim: &str, value| issuer.token().set(claim, value).sign(&issuer.key);
    let of_down = issuer.token().set("iss", json!("https://down.test")).set("aud", json!("api"));
    let good = token("scope", json!("b"));
    for (asked, status) in [
        (get("/x/1"), 401),
        (get("/x/1").bearer("nonsense"), 401),
        (get("/x/1").header("Authorization", "Basic YTpi"), 400),
        (get("/x/1").bearer(&token("scope", json!("a"))), 403),
        (get("/x/a%2Fb").bearer(&good), 400),
        (post("/x/1").bearer(&good).body("more than ten bytes"), 413),
        (get("/x/1").bearer(&of_down.sign(&issuer.key)), 503),
        (get("/gone"), 502),
        (get("/silent"), 504),
        (get("/x/1").bearer(&good), 200),
    ] {
        let response = asked.clone().header("Origin", APP).send(&gateway.address()).expect(status);
        readable(&response);
        let foreign = asked.header("Origin", EVIL).send(&gateway.address()).expect(status);
        assert_eq!(cors_of(&foreign), [""; 0], "{status}");
        assert!(varies(&foreign), "{status}");
    }
    // A chunked body is cut off in the middle.
    let chunks = post("/x/1").bearer(&good).header("Transfer-Encoding", "chunked").header("Origin", APP);
    readable(&chunks.body("b\r\nhello world\r\n0\r\n\r\n").send(&gateway.address()).expect(413));
    // What is of no route has no CORS.
    let lost = get("/").header("Origin", APP).send(&gateway.address()).expect(404);
    assert_eq!(cors_of(&lost), [""; 0]);
}

#[test]
fn what_the_upstream_says_about_cors_is_replaced_where_the_route_has_it_and_kept_where_not() {
    let upstream = Upstream::answering(|_| {
        Reply::ok("x")
            .with("Access-Control-Allow-Origin", EVIL)
            .with("access-control-allow-origin", "*")
            .with("Access-Control-Allow-Credentials", "true")
            .with("Access-Control-Allow-Private-Network", "true")
            .with("Vary", "Accept")
    });
    let config = Config::to(&upstream)
        .route(&format!("{{ name: ours, match: {{ path: /ours }}, upstream: app, auth: public, {CORS} }}"))
        .route(
            "{ name: any, match: { path: /any }, upstream: app, auth: public, cors: { origins: [\"*\"] } }",
        )
        .route("{ name: theirs, match: { path: /theirs }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let send = |target: &str, origin: &str| get(target).header("Origin", origin).send(&gateway.address());
    let ours = send("/ours", APP).expect(200);
    readable(&ours);
    assert_eq!(cors_of(&ours).len(), 3);
    assert!(ours.all("vary").contains(&"Accept"));
    assert_eq!(cors_of(&send("/ours", EVIL).expect(200)), [""; 0]);
    let any = send("/any", EVIL).expect(200);
    assert_eq!(any.header("access-control-allow-origin"), Some("*"));
    assert_eq!(any.header("access-control-allow-credentials"), None);
    let theirs = send("/theirs", EVIL).expect(200);
    assert_eq!(theirs.all("access-control-allow-origin"), [EVIL, "*"]);
}
