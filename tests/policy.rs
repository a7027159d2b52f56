//! What a route asks of verified claims, and what a refusal says.

use crate::support::{Config, Gateway, Issuer, Response, Token, Upstream, get};
use serde_json::{Value, json};

struct Set {
    upstream: Upstream,
    issuer: Issuer,
    gateway: Gateway,
}

/// One route under `/x` with this `auth`.
fn with_auth(auth: &str) -> Set {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .route(&format!("{{ name: x, match: {{ path: /x }}, upstream: app, auth: {auth} }}"));
    let gateway = Gateway::start(&config);
    Set { upstream, issuer, gateway }
}

impl Set {
    fn call(&self, token: &Token) -> Response {
        get("/x").bearer(&token.sign(&self.issuer.key)).send(&self.gateway.address())
    }

    fn with(&self, claim: &str, value: Value) -> Response {
        self.call(&self.issuer.token().set(claim, value))
    }
}

#[track_caller]
fn refused(response: Response, reason: &str) -> Response {
    let response = response.expect(403);
    assert_eq!(response.reason(), reason);
    let challenge = response.header("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with("Bearer error=\"insufficient_scope\""), "{challenge}");
    response
}

#[test]
fn all_scopes_of_the_route_are_needed_and_the_refusal_names_them() {
    let set = with_auth("{ mode: required, scopes: [orders:read, orders:write] }");
    for scope in [
        json!("orders:read orders:write"),
        json!("x orders:write y orders:read"),
        json!(["orders:read", "orders:write"]),
    ] {
        set.with("scope", scope).expect(200);
    }
    for scope in [
        json!("orders:read"),
        json!(""),
        json!("orders:read orders:writer"),
        json!("orders:readorders:write"),
        json!("ORDERS:READ ORDERS:WRITE"),
        json!("orders:read,orders:write"),
        json!(["orders:read"]),
        json!({ "orders:read": 1, "orders:write": 1 }),
        json!(1),
        json!(null),
    ] {
        let response = set.with("scope", scope);
        if response.status == 401 {
            // A scope of the wrong type may be a malformed token; it is never a permit.
            continue;
        }
        let response = refused(response, "insufficient_scope");
        let challenge = response.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("scope=\"orders:read orders:write\""), "{challenge}");
    }
    refused(set.call(&set.issuer.token().without("scope")), "insufficient_scope");
    assert_eq!(set.upstream.hits(), 3);
}

#[test]
fn scopes_are_read_from_scp_as_well() {
    let set = with_auth("{ mode: required, scopes: [orders:read] }");
    let token = set.issuer.token().without("scope");
    set.call(&token.clone().set("scp", json!(["orders:read"]))).expect(200);
    set.call(&token.clone().set("scp", json!("orders:read x"))).expect(200);
    refused(set.call(&token), "insufficient_scope");
}

#[test]
fn any_role_of_the_route_is_enough_and_keycloak_roles_are_found() {
    let set = with_auth("{ mode: required, roles: [clerk, manager] }");
    let with = |roles: Value| set.with("realm_access", json!({ "roles": roles }));
    with(json!(["clerk"])).expect(200);
    with(json!(["x", "manager"])).expect(200);
    for roles in
        [json!([]), json!(["clerks"]), json!(["Clerk"]), json!(["clerk,manager"]), json!(["clerk manager"])]
    {
        refused(with(roles), "insufficient_role");
    }
    let bare = set.issuer.token().without("realm_access");
    refused(set.call(&bare), "insufficient_role");
    set.call(&bare.clone().set("roles", json!(["clerk"]))).expect(200);
    assert_eq!(set.upstream.hits(), 3);
}

#[test]
fn each_claim_needs_one_of_its_values() {
    let set = with_auth("{ mode: required, claims: { tenant: [acme, globex], \"address.country\": [DE] } }");
    let token = set.issuer.token();
    let good = token.clone().set("tenant", json!("acme")).set("address", json!({ "country": "DE" }));
    set.call(&good).expect(200);
    set.call(&good.clone().set("tenant", json!("globex"))).expect(200);
    for (claim, value) in [
        ("tenant", json!("acme2")),
        ("tenant", json!(null)),
        ("tenant", json!({ "acme": 1 })),
        ("tenant", json!("ACME")),
        ("address", json!({ "country": "AT" })),
        ("address", json!("DE")),
        ("address", json!({})),
    ] {
        refused(set.call(&good.clone().set(claim, value)), "claim_mismatch");
    }
    refused(
        set.call(&token.set("tenant", json!("acme")).set("address.country", json!("FR"))),
        "claim_mismatch",
    );
    assert_eq!(set.upstream.hits(), 2);
}

#[test]
fn a_route_may_ask_for_an_audience_of_its_own() {
    let set = with_auth("{ mode: required, audiences: [account] }");
    set.with("aud", json!(["account"])).expect(200);
    let response = set.with("aud", json!("orders-api")).expect(401);
    assert_eq!(response.reason(), "wrong_audience");
}

#[test]
fn an_observed_route_forwards_and_counts_what_it_would_have_refused() {
    let set = with_auth("{ mode: required, scopes: [never:granted], enforce: false }");
    let name = "portcullis_auth_decisions_total";
    set.call(&set.issuer.token()).expect(200);
    assert_eq!(set.upstream.hits(), 1);
    let labels = [("route", "x"), ("outcome", "would_deny"), ("reason", "insufficient_scope")];
    assert!(set.gateway.metric_becomes(name, &labels, 1.0), "{}", set.gateway.metrics());
    get("/x").send(&set.gateway.address()).expect(200);
    let labels = [("route", "x"), ("outcome", "would_deny"), ("reason", "no_token")];
    assert!(set.gateway.metric_becomes(name, &labels, 1.0), "{}", set.gateway.metrics());
    let line = set.gateway.log_line(|line| line["reason"] == "insufficient_scope");
    assert_eq!(line["status"], 200);
}

#[test]
fn an_observed_route_does_not_forward_the_claims_of_a_token_it_could_not_verify() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .set("forward", "{ headers: { X-Auth-Subject: sub } }")
        .route("{ name: x, match: { path: /x }, upstream: app, auth: { mode: required, enforce: false } }");
    let gateway = Gateway::start(&config);
    let forged = issuer.token().set("sub", json!("root")).sign(&crate::support::Key::rsa(1).named("rsa-0"));
    get("/x").bearer(&forged).header("X-Auth-Subject", "root").send(&gateway.address()).expect(200);
    assert!(upstream.last().folded("x-auth-subject").is_empty(), "{:?}", upstream.last().header_lines);
}

#[test]
fn a_route_without_auth_is_required() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .route("{ name: x, match: { path: /x }, upstream: app }");
    let gateway = Gateway::start(&config);
    get("/x").send(&gateway.address()).expect(401);
    get("/x").bearer(&issuer.sign()).send(&gateway.address()).expect(200);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn scopes_and_roles_are_found_where_the_issuer_keeps_them() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let settings =
        issuer.settings_with(", claims: { scopes: [permissions], roles: [resource_access.shop.roles] }");
    let config = Config::to(&upstream).issuer("corp", &settings).route(
        "{ name: x, match: { path: /x }, upstream: app, auth: { mode: required, scopes: [a], roles: [r] } }",
    );
    let gateway = Gateway::start(&config);
    let call = |token: Token| get("/x").bearer(&token.sign(&issuer.key)).send(&gateway.address());
    let token = issuer.token().set("permissions", json!(["a", "b"]));
    let good = token.clone().set("resource_access", json!({ "shop": { "roles": ["r"] } }));
    call(good).expect(200);
    // The usual places no longer count.
    let usual = issuer.token().set("scope", json!("a")).set("roles", json!(["r"]));
    refused(call(usual), "insufficient_scope");
    refused(call(token.set("roles", json!(["r"]))), "insufficient_role");
    assert_eq!(upstream.hits(), 1);
}
