//! Who may log in is said by an LDAP directory: the gateway binds as the user and reads the user's own entry.

mod answers;

use crate::directories::dies_hangs_and_comes_back;
use crate::support::config::PASSWORD;
use crate::support::daemon::Breakable;
use crate::support::person::{login_as, login_request, refresh};
use crate::support::slapd::Slapd;
use crate::support::tls::Authority;
use crate::support::token::parts;
use crate::support::{Config, Folder, Gateway, Response, Sessions, Upstream, eventually, get, post};
use serde_json::json;
use std::time::Duration;

fn login(gateway: &Gateway, user: &str, password: &str) -> Response {
    let body = json!({ "username": user, "password": password, "delivery": "body" });
    post("/auth/login").json(&body).send(&gateway.address())
}

/// alice with two roles; ben with one, whose password is another; carol, who has none; two names for dora; somebody with
/// every character that means something in a name; blind, who cannot read their own entry.
fn people() -> String {
    let person = |rdn: &str, uid: &str, more: &str| {
        format!(
            "dn: {rdn},ou=people,dc=example,dc=com\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid}\nsn: {uid}\n{more}\n"
        )
    };
    let password = format!("userPassword: {PASSWORD}\n");
    [
        person(
            "uid=alice",
            "alice",
            &format!("{password}mail: alice@example.com\nemployeeType: clerk\nemployeeType: lead\nou: north\njpegPhoto:: /9j/4A==\n"),
        ),
        person("uid=ben", "ben", "userPassword: another\nemployeeType: guest\nou: south\nou: west\n"),
        person("uid=carol", "carol", ""),
        person("uid=dora", "dora", &password).replace("uid: dora\n", "uid: dora\nuid: dorothea\n"),
        person("uid=a\\2c ou\\3dadmins\\2b\\22\\3c", "a, ou=admins+\"<", &password),
        person("uid=blind", "blind", &password),
    ]
    .concat()
}

const NAME: &str = "user_dn: \"uid={username},ou=people,dc=example,dc=com\"";

fn asking(url: &str, more: &str) -> Config {
    let users = format!("{{ ldap: {{ url: \"{url}\", {NAME}{more} }} }}");
    Config::new().sessions(Sessions::embedded().set("users", &users))
}

#[test]
fn binding_as_the_user_judges_and_the_entry_becomes_the_claims() {
    let authority = Authority::new();
    let server = Slapd::start(&authority.identity(&["localhost"]), &people());
    let upstream = Upstream::start();
    let claims = "claims: { email: mail, roles: employeeType, offices: [ou], office: ou, nick: displayName }";
    let users = format!("{{ ldap: {{ url: \"{}\", ca_file: ca.pem, {NAME}, {claims} }} }}", server.url());
    let config = Config::to(&upstream)
        .sessions(Sessions::embedded().set("users", &users))
        .file("ca.pem", authority.pem())
        .set("forward", "{ headers: { X-Auth-Subject: sub, X-Auth-Email: email } }")
        .route("{ name: api, match: { path: /api/** }, upstream: app, auth: required }");
    let gateway = Gateway::start(&config);
    let tokens = login_as(&gateway, "alice");
    let alice = parts(&tokens.access).1;
    assert_eq!((&alice["sub"], &alice["email"]), (&json!("alice"), &json!("alice@example.com")));
    assert_eq!((&alice["roles"], &alice["office"]), (&json!(["clerk", "lead"]), &json!("north")));
    assert_eq!((&alice["offices"], alice.get("nick")), (&json!(["north"]), None));
    get("/api/x").bearer(&tokens.access).send(&gateway.address()).expect(200);
    let got = upstream.last();
    assert_eq!(
        (got.header("x-auth-subject"), got.header("x-auth-email")),
        (Some("alice"), Some("alice@example.com"))
    );
    let ben = parts(&login(&gateway, "ben", "another").expect(200).member("accessToken")).1;
    assert_eq!((&ben["roles"], &ben["office"]), (&json!(["guest"]), &json!(["south", "west"])));

    // However the directory lets the name be written, it is one subject.
    for spelling in ["ALICE", "Alice", " alice ", "alice "] {
        let subject = &parts(&login_as(&gateway, spelling).access).1["sub"];
        assert_eq!(subject, &json!("alice"), "{spelling:?}");
    }

    // Wrong, unknown, without a password: all the same to who asks.
    for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD), ("carol", PASSWORD), ("ben", PASSWORD)]
    {
        let refused = login(&gateway, user, password).expect(401);
        assert_eq!(refused.member("code"), "invalid_credentials", "{user}");
    }
    // An empty password would be a bind that always succeeds: the server is not even asked, nor about what no name is.
    let asked = server.binds();
    for (user, password) in
        [("alice", ""), ("alice", "\u{0}"), ("", PASSWORD), ("alice\u{0}", PASSWORD), ("a\nb", PASSWORD)]
    {
        login(&gateway, user, password).expect(401);
    }
    login(&gateway, "alice", "wrong again").expect(401);
    assert!(eventually(Duration::from_secs(5), || server.binds() > asked));
    assert_eq!(server.binds(), asked + 1, "{}", server.said());

    // What is in a name is only ever a value.
    for name in [
        "alice,ou=people,dc=example,dc=com",
        "alice,ou=people",
        "*",
        "alice)(uid=*",
        "alice+cn=alice",
        "alice\\",
        "\"alice\"",
        "#616c696365",
        "alice;x=y",
        "{username}",
    ] {
        login_request(name).send(&gateway.address()).expect(401);
    }
    let odd = parts(&login_as(&gateway, "a, ou=admins+\"<").access).1;
    assert_eq!(odd["sub"], json!("a, ou=admins+\"<"));

    // What cannot be judged is no judgement.
    for (user, said) in [("dora", "2 values of uid"), ("blind", "let users read their own entry")] {
        login_request(user).send(&gateway.address()).expect(503);
        assert!(gateway.says(said), "{user}: {}", gateway.stderr());
    }
    // A refresh goes on without the directory.
    drop(server);
    refresh(&gateway, &tokens.refresh).expect(200);
}

#[test]
fn a_directory_is_asked_only_over_a_connection_that_proves_it() {
    let authority = Authority::new();
    let server = Slapd::start(&authority.identity(&["localhost"]), &people());
    // StartTLS, with a subject that stays when the user is renamed.
    let more = ", start_tls: true, ca_file: ca.pem, subject: entryUUID";
    let gateway = Gateway::start(&asking(&server.plain_url(), more).file("ca.pem", authority.pem()));
    let subject = parts(&login_as(&gateway, "alice").access).1["sub"].as_str().unwrap().to_owned();
    assert_eq!(subject.len(), 36, "{subject}");
    assert_eq!(parts(&login_as(&gateway, "ALICE").access).1["sub"], json!(subject));
    assert!(server.said().contains("STARTTLS"), "{}", server.said());
    // Plain, on this machine only.
    let gateway = Gateway::start(&asking(&server.plain_url(), ""));
    login_as(&gateway, "alice");
    // Another authority, another name: it is not asked.
    let asked = server.binds();
    let strangers = Authority::new();
    for (url, more) in
        [(server.url(), ", ca_file: ca.pem"), (server.plain_url(), ", ca_file: ca.pem, start_tls: true")]
    {
        let gateway = Gateway::start(&asking(&url, more).file("ca.pem", strangers.pem()));
        login_request("alice").send(&gateway.address()).expect(503);
        assert!(gateway.says("certificate"), "{}", gateway.stderr());
    }
    let by_address = server.url().replace("localhost", "127.0.0.1");
    let gateway = Gateway::start(&asking(&by_address, ", ca_file: ca.pem").file("ca.pem", authority.pem()));
    login_request("alice").send(&gateway.address()).expect(503);
    // The system's authorities do not know it either.
    let gateway = Gateway::start(&asking(&server.url(), ""));
    login_request("alice").send(&gateway.address()).expect(503);
    assert_eq!(server.binds(), asked, "{}", server.said());
    // Unless it is one of them.
    let folder = Folder::new();
    let its = folder.write("ca.pem", authority.pem());
    let gateway = Gateway::start(&asking(&server.url(), "").environment("SSL_CERT_FILE", &its));
    login_as(&gateway, "alice");
}

#[test]
fn a_directory_that_dies_or_hangs_costs_no_try_and_comes_back() {
    let mut server = Slapd::start(&Authority::new().identity(&["localhost"]), &people());
    let users = format!("{{ ldap: {{ url: \"{}\", {NAME}, timeout: 3s }} }}", server.plain_url());
    dies_hangs_and_comes_back(&mut server, &users);
}
