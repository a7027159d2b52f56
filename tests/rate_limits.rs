//! How often one caller may use a route: who counts as one, when it is counted, and what the refusal says.

use crate::support::{Config, Gateway, Issuer, Reply, Request, Response, Upstream, eventually, get, request};
use serde_json::json;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const APP: &str = "https://app.example.com";

fn route(name: &str, auth: &str, limit: &str) -> String {
    format!(
        "{{ name: {name}, match: {{ path: /{name} }}, upstream: app, auth: {auth}, rate_limit: {limit}, \
         cors: {{ origins: [{APP}] }} }}"
    )
}

fn layout(upstream: &Upstream, issuer: &Issuer) -> Config {
    Config::to(upstream).issuer("corp", &issuer.settings()).server("trusted_proxies", "[127.0.0.1/32]")
}

fn as_subject(issuer: &Issuer, subject: &str) -> Request {
    get("/x").bearer(&issuer.token().set("sub", json!(subject)).sign(&issuer.key))
}

fn from(target: &str, client: &str) -> Request {
    get(target).header("X-Forwarded-For", client)
}

fn statuses(asked: &Request, times: usize, gateway: &Gateway) -> Vec<u16> {
    (0..times).map(|_| asked.send(&gateway.address()).status).collect()
}

/// What is left, by the `RateLimit` field, and in how many seconds all is.
#[track_caller]
fn left(response: &Response, name: &str) -> (u64, u64) {
    let field = response.header("ratelimit").expect("RateLimit");
    let rest = field.strip_prefix(&format!("\"{name}\";r=")).unwrap_or_else(|| panic!("{field}"));
    let (left, reset) = rest.split_once(";t=").unwrap_or_else(|| panic!("{field}"));
    (left.parse().expect("a number"), reset.parse().expect("a number"))
}

#[test]
fn each_subject_has_its_own_budget_and_a_refusal_says_when_to_come_back() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let auth = "{ mode: required, scopes: [orders:read] }";
    let config = layout(&upstream, &issuer)
        .route(&route("x", auth, "{ requests: 3, per: 1h }"))
        .route(&route("y", auth, "{ requests: 3, per: 1h }"));
    let gateway = Gateway::start(&config);
    let maria = as_subject(&issuer, "maria");
    // Who is not let in uses up nothing.
    for _ in 0..5 {
        get("/x").send(&gateway.address()).expect(401);
        let other = issuer.token().set("sub", json!("maria")).set("scope", json!("other"));
        let refused = get("/x").bearer(&other.sign(&issuer.key)).send(&gateway.address()).expect(403);
        assert_eq!(refused.header("ratelimit"), None);
    }
    for expected in [2, 1, 0] {
        let response = maria.send(&gateway.address()).expect(200);
        assert_eq!(response.header("ratelimit-policy"), Some("\"subject\";q=3;w=3600"));
        let (left, reset) = left(&response, "subject");
        assert_eq!(left, expected);
        assert!(reset <= 3600 && reset > (2 - expected) * 1200, "{reset}");
    }
    let hits = upstream.hits();
    let refused = maria.clone().header("Origin", APP).send(&gateway.address()).expect(429);
    assert_eq!((refused.reason().as_str(), upstream.hits()), ("rate_limited", hits));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"subject\";q=3;w=3600"));
    assert_eq!(left(&refused, "subject").0, 0);
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(after > 1100 && after <= 1200, "{after}");
    // A page can read it.
    assert_eq!(refused.header("access-control-allow-origin"), Some(APP));
    let exposed = refused.header("access-control-expose-headers").unwrap_or_default();
    assert!(["Retry-After", "RateLimit", "RateLimit-Policy"].iter().all(|name| exposed.contains(name)));

    assert_eq!(statuses(&as_subject(&issuer, "hugo"), 4, &gateway), [200, 200, 200, 429]);
    // Another address is the same subject, another route another budget.
    maria.clone().header("X-Forwarded-For", "192.0.2.9").send(&gateway.address()).expect(429);
    let token = issuer.token().set("sub", json!("maria")).sign(&issuer.key);
    get("/y").bearer(&token).send(&gateway.address()).expect(200);
    let labels = [("route", "x"), ("outcome", "deny"), ("reason", "rate_limited")];
    assert!(gateway.metric_becomes("portcullis_auth_decisions_total", &labels, 3.0));
}

#[test]
fn what_was_used_up_comes_back() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway =
        Gateway::start(&layout(&upstream, &issuer).route(&route("x", "public", "{ requests: 1, per: 1s }")));
    // Two within a second: on a slow machine it takes a few tries to be that fast.
    assert!(eventually(SOON, || get("/x").send(&gateway.address()).status == 429));
    assert!(eventually(SOON, || get("/x").send(&gateway.address()).status == 200));
}

#[test]
fn whoever_is_nobodys_subject_counts_by_address() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config =
        layout(&upstream, &issuer).route(&route("x", "optional", "{ requests: 2, per: 1h, by: subject }"));
    let gateway = Gateway::start(&config);
    assert_eq!(statuses(&from("/x", "192.0.2.1"), 3, &gateway), [200, 200, 429]);
    assert_eq!(statuses(&from("/x", "192.0.2.2"), 3, &gateway), [200, 200, 429]);
    assert_eq!(left(&from("/x", "192.0.2.3").send(&gateway.address()), "address").0, 1);
    // Whoever shows a token from the same address has a budget of their own.
    let maria = as_subject(&issuer, "maria").header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(statuses(&maria, 3, &gateway), [200, 200, 429]);
}

#[test]
fn addresses_are_counted_before_any_token_is_looked_at_and_an_ipv6_network_is_one() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = layout(&upstream, &issuer)
        .route(&route("x", "required", "{ requests: 2, per: 1h, by: address }"))
        .route(&route("open", "public", "{ requests: 2, per: 1h, by: address }"));
    let gateway = Gateway::start(&config);
    let guess = from("/x", "192.0.2.1").bearer("guess");
    assert_eq!(statuses(&guess, 3, &gateway), [401, 401, 429]);
    let good = as_subject(&issuer, "maria").header("X-Forwarded-For", "192.0.2.1");
    good.send(&gateway.address()).expect(429);
    let told = from("/x", "192.0.2.2").send(&gateway.address()).expect(401);
    assert_eq!(left(&told, "address").0, 1);
    // A preflight is no use of the route.
    let preflight = request("OPTIONS", "/open")
        .header("X-Forwarded-For", "2001:db8::1")
        .header("Origin", APP)
        .header("Access-Control-Request-Method", "GET");
    assert_eq!(statuses(&preflight, 4, &gateway), [204; 4]);
    let one = |client| from("/open", client).send(&gateway.address()).status;
    assert_eq!([one("2001:db8::1"), one("2001:db8::2:3:4"), one("2001:db8:0:0:ffff::")], [200, 200, 429]);
    assert_eq!(one("2001:db8:0:1::1"), 200);
}

#[test]
fn many_at_once_get_no_more_than_there_is() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let limit = "{ requests: 40, per: 1h, by: address }";
    let gateway = Gateway::start(&layout(&upstream, &issuer).route(&route("x", "public", limit)));
    let granted: usize = thread::scope(|scope| {
        let client = || statuses(&get("/x"), 20, &gateway).iter().filter(|status| **status == 200).count();
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!((granted, upstream.hits()), (40, 40));
}

#[test]
fn a_reload_keeps_the_counters_of_routes_whose_limit_stays() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let limited = |x: &str, y: &str| {
        layout(&upstream, &issuer).route(&route("x", "public", x)).route(&route("y", "public", y))
    };
    let gateway = Gateway::start(&limited("{ requests: 2, per: 1h }", "{ requests: 2, per: 1h }"));
    for target in ["/x", "/y"] {
        assert_eq!(statuses(&get(target), 3, &gateway), [200, 200, 429]);
    }
    gateway.reload(&limited("{ requests: 2, per: 1h }", "{ requests: 3, per: 1h }"), "ok");
    assert_eq!(statuses(&get("/x"), 1, &gateway), [429]);
    assert_eq!(statuses(&get("/y"), 4, &gateway), [200, 200, 200, 429]);
}

#[test]
fn what_an_upstream_says_of_its_own_limits_stays() {
    let issuer = Issuer::start();
    let upstream = Upstream::answering(|_| Reply::ok("x").with("RateLimit", "\"theirs\";r=7;t=1"));
    let limit = "{ requests: 2, per: 1h, by: address }";
    let gateway = Gateway::start(&layout(&upstream, &issuer).route(&route("x", "public", limit)));
    let response = get("/x").send(&gateway.address()).expect(200);
    let told = response.all("ratelimit");
    assert_eq!(told[0], "\"theirs\";r=7;t=1");
    assert!(told.len() == 2 && told[1].starts_with("\"address\";r=1;t="), "{told:?}");
}
