//! The recipes of `examples/recipes` do what they say, with their own files.

use crate::support::document::run;
use crate::support::person::{Tokens, logout};
use crate::support::ports::free_port;
use crate::support::recipe::Recipe;
use crate::support::script::Script;
use crate::support::{Gateway, Issuer, Request, Response, Upstream, get, post};
use serde_json::json;

/// Where the backend of a recipe listens.
const BACKEND: &str = "127.0.0.1:9001";

/// Logs one of the recipes' demo users in.
#[track_caller]
fn login(gateway: &Gateway, user: &str, password: &str) -> Tokens {
    let credentials = json!({ "username": user, "password": password });
    Tokens::from_body(post("/auth/login").json(&credentials).send(&gateway.address()))
}

#[test]
fn a_wsgi_application_reads_who_calls_and_no_client_can_say_it() {
    let port = free_port();
    let app = format!("127.0.0.1:{port}");
    let recipe = Recipe::named("legacy-wsgi").moved(BACKEND, &app);
    let mut backend = Script::start_at(&recipe.path("app.py"), &[&port.to_string()]);
    assert_eq!(backend.line(), format!("listening on {app}"));
    let gateway = Gateway::start(&recipe.config());
    run(&recipe.steps(&gateway), gateway.folder().path());

    let spellings = [
        "X-Auth-Subject",
        "x-auth-subject",
        "X_Auth_Subject",
        "X-Auth_Subject",
        "X_AUTH-SUBJECT",
        "X__Auth_Subject",
        "X-Auth--Subject",
        "X.Auth.Subject",
        "X!Auth~Subject",
        "-X-Auth-Subject",
        "X-Auth-Subject_",
    ];
    // Without the gateway the application takes the spellings for one another.
    for spelling in &spellings[..5] {
        let fooled = get("/").header(spelling, "root").send(&app).expect(200).text();
        assert_eq!(fooled, "/ for root ()\n", "{spelling}");
    }
    let tokens = login(&gateway, "alice", "wonderland");
    let says = |request: Request| request.send(&gateway.address()).expect(200).text();
    for spelling in spellings {
        let forged = |path: &str| get(path).header(spelling, "root").header("X_Auth_Roles", "admin");
        assert_eq!(says(forged("/")), "/ for nobody ()\n", "{spelling}");
        let named = says(forged("/orders/7").bearer(&tokens.access));
        assert_eq!(named, "/orders/7 for alice (clerk)\n", "{spelling}");
        let nominated = forged("/orders/7").header("Connection", &format!("close, {spelling}"));
        assert_eq!(says(nominated.bearer(&tokens.access)), named, "{spelling}");
    }
    let counted = gateway.metric("portcullis_identity_header_spoof_total", &[("route", "front-page")]);
    assert!(counted > 20.0, "{counted}");
}

#[test]
fn staff_of_keycloak_and_our_own_users_call_the_same_routes() {
    let (issuer, backend) = (Issuer::start(), Upstream::start());
    let recipe = Recipe::named("keycloak")
        .moved("https://id.example.com", &format!("http://{}", issuer.authority()))
        .moved(BACKEND, &backend.authority());
    let gateway = Gateway::start(&recipe.config());
    let call = |path: &str, token: &str| get(path).bearer(token).send(&gateway.address());
    let heard = |name: &str| backend.last().header(name).unwrap_or_default().to_owned();

    let staff = issuer.token().set("aud", json!("account"));
    let maria = staff.sign(&issuer.key);
    call("/orders/7", &maria).expect(200);
    assert_eq!([heard("x-auth-subject"), heard("x-auth-issuer")], ["f:9c1:maria".to_owned(), issuer.id()]);
    assert_eq!([heard("x-auth-name"), heard("x-auth-roles")], ["maria", "clerk,offline_access"]);

    let alice = login(&gateway, "alice", "wonderland");
    call("/orders/7", &alice.access).expect(200);
    let ours = format!("http://{}", gateway.address());
    assert_eq!([heard("x-auth-subject"), heard("x-auth-issuer")], ["alice".to_owned(), ours]);
    assert_eq!([heard("x-auth-name"), heard("x-auth-roles")], ["alice", "clerk"]);

    let refused = |answer: Response, status: u16, reason: &str| {
        assert_eq!(answer.expect(status).reason(), reason);
    };
    let roles = |roles: &[&str]| staff.clone().set("realm_access", json!({ "roles": roles }));
    let before = backend.hits();
    refused(
        call("/orders/7", &staff.clone().set("azp", json!("other")).sign(&issuer.key)),
        403,
        "claim_mismatch",
    );
    refused(call("/orders/7", &roles(&["guest"]).sign(&issuer.key)), 403, "insufficient_role");
    // Roles at other places are not those of the realm.
    refused(
        call("/orders/7", &roles(&[]).set("roles", json!(["clerk"])).sign(&issuer.key)),
        403,
        "insufficient_role",
    );
    refused(call("/audit/1", &alice.access), 401, "unknown_issuer");
    refused(call("/audit/1", &maria), 403, "insufficient_role");
    // An ID token, and a token of another realm of the same server.
    let for_client = staff.clone().set("aud", json!("shop-frontend")).set("typ", json!("ID"));
    refused(call("/orders/7", &for_client.sign(&issuer.key)), 401, "wrong_audience");
    let realm = staff.clone().set("iss", json!(issuer.id().replace("staff", "guests")));
    refused(call("/orders/7", &realm.sign(&issuer.key)), 401, "unknown_issuer");
    assert_eq!(backend.hits(), before);
    call("/audit/1", &roles(&["auditor"]).sign(&issuer.key)).expect(200);

    // Keycloak's sessions are not ours to end; ours are, and staff stay.
    post("/auth/logout-all").bearer(&maria).send(&gateway.address()).expect(401);
    logout(&gateway, &alice.refresh).expect(204);
    refused(call("/orders/7", &alice.access), 401, "revoked");
    call("/orders/7", &maria).expect(200);
}

#[test]
fn a_policy_is_observed_first_and_enforced_by_one_line() {
    let backend = Upstream::start();
    let recipe = Recipe::named("observe").moved(BACKEND, &backend.authority());
    assert_eq!(recipe.original("portcullis.yaml").matches("enforce: false").count(), 1, "one line to change");
    let gateway = Gateway::start(&recipe.config());
    run(&recipe.steps(&gateway), gateway.folder().path());
    // Three while it observed, and alice's when it enforced.
    let line = |reason: &str, status: u16| {
        gateway.log_line(|line| line["reason"] == reason && line["status"] == status)
    };
    for (reason, subject) in [("no_token", json!(null)), ("insufficient_scope", json!("bob"))] {
        assert_eq!(line(reason, 200)["subject"], subject, "{reason}");
    }
    assert_eq!(line("insufficient_scope", 403)["route"], "orders");
    let named: Vec<_> =
        backend.requests().iter().map(|got| got.header("x-auth-subject").map(str::to_owned)).collect();
    assert_eq!(named[..3], [None, Some("bob".to_owned()), Some("alice".to_owned())]);
    assert_eq!(named.last().unwrap().as_deref(), Some("alice"));
    let would = |reason: &str| {
        let labels = [("route", "orders"), ("outcome", "would_deny"), ("reason", reason)];
        gateway.metric("portcullis_auth_decisions_total", &labels)
    };
    assert!(would("insufficient_scope") > 0.5 && would("no_token") > 0.5);
    assert!(gateway.metric("portcullis_auth_decisions_total", &[("outcome", "deny")]) > 1.5);
}
