//! Copies of key sets: a gateway that starts while its issuer is down still knows its keys, and believes no
//! copy that it should not.

use crate::support::gateway::command;
use crate::support::token::now;
use crate::support::{
    Config, Connection, Folder, Gateway, Issuer, Key, Reply, Response, Upstream, eventually, get,
};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const COPY: &str = "data/key_sets/corp.json";

fn layout(upstream: &Upstream, issuer: &Issuer, refresh: &str) -> Config {
    Config::to(upstream)
        .issuer("corp", &issuer.settings_with(&format!(", refresh: {{ {refresh} }}")))
        .route("{ name: api, match: { path: /** }, upstream: app }")
}

fn call(gateway: &Gateway, token: &str) -> Response {
    get("/x").bearer(token).send(&gateway.address())
}

/// The copy of a running gateway, once it is written.
fn copy(gateway: &Gateway) -> PathBuf {
    let path = gateway.folder().path().join(COPY);
    assert!(eventually(Duration::from_secs(5), || path.exists()), "no copy was written");
    path
}

/// A copy as a gateway writes it, fetched this many seconds ago.
fn written(issuer: &Issuer, keys: &[Value], seconds_ago: i64) -> Value {
    json!({
        "issuer": issuer.id(),
        "url": issuer.key_set_url(),
        "discovered": false,
        "fetched_ms": (now() - seconds_ago) * 1000,
        "jwks": json!({ "keys": keys }).to_string(),
    })
}

#[test]
fn a_cold_start_while_the_issuer_is_down_serves_from_the_copy() {
    let (upstream, mut issuer) = (Upstream::start(), Issuer::start());
    let mut gateway = Gateway::start(&layout(&upstream, &issuer, "cooldown: 100ms"));
    let token = issuer.sign();
    call(&gateway, &token).expect(200);
    let path = copy(&gateway);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    issuer.break_with(Reply::Close);
    let asked = issuer.fetches();
    gateway.restart();
    call(&gateway, &token).expect(200);
    assert!(gateway.says("starting from the copy of the key set on disk"));
    assert!(eventually(Duration::from_secs(5), || issuer.fetches() >= asked + 2), "it is not asked any more");
    let age = || gateway.metric("portcullis_key_set_age_seconds", &[("issuer", "corp")]);
    assert!(eventually(Duration::from_secs(5), || age() >= 2.0), "the age is not that of the fetch");
    // A key that the copy does not have may well be good: that is the issuer's outage, not the token's fault.
    let new = Key::p256("new");
    call(&gateway, &issuer.token().sign(&new)).expect(503);
    issuer.rotate(new);
    issuer.mend();
    assert!(eventually(Duration::from_secs(5), || call(&gateway, &issuer.sign()).status == 200));
    call(&gateway, &token).expect(401);
    let text = |name: &str| fs::read_to_string(copy(&gateway)).unwrap().contains(name);
    assert!(eventually(Duration::from_secs(5), || text("new") && !text("rsa-0")), "the copy is an old one");
}

#[test]
fn a_young_copy_does_not_put_off_the_first_fetch() {
    let (upstream, mut issuer) = (Upstream::start(), Issuer::start());
    let mut gateway = Gateway::start(&layout(&upstream, &issuer, "every: 1h"));
    copy(&gateway);
    issuer.rotate(Key::p256("new"));
    let asked = issuer.fetches();
    gateway.restart();
    assert!(eventually(Duration::from_secs(5), || issuer.fetches() > asked));
}

#[test]
fn a_copy_that_everybody_may_write_makes_nobody_an_issuer() {
    let (upstream, issuer, forged) = (Upstream::start(), Issuer::start(), Key::p256("forged"));
    issuer.break_with(Reply::Close);
    let planted = written(&issuer, &[forged.jwk()], 60).to_string();
    let mut gateway = Gateway::start(&layout(&upstream, &issuer, "cooldown: 100ms").file(COPY, planted));
    let token = issuer.token().sign(&forged);
    call(&gateway, &token).expect(200);
    let path = gateway.folder().path().join(COPY);
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    gateway.restart();
    call(&gateway, &token).expect(503);
    assert!(gateway.says("everybody may write to it"), "{}", gateway.stderr());
}

#[test]
fn a_request_that_outlives_its_configuration_keeps_no_other_copy_up() {
    let (upstream, one, two) = (Upstream::start(), Issuer::start(), Issuer::start());
    upstream.answer(|received| match received.target() {
        "/slow" => Reply::ok("late").after(Duration::from_secs(30)),
        _ => Reply::ok(""),
    });
    let config = |issuer: &Issuer| {
        let (url, refresh) = (issuer.key_set_url(), "refresh: { every: 1s }");
        let key_set = format!("audiences: [orders-api], key_set: {{ url: \"{url}\" }}, {refresh}");
        Config::public(&upstream).issuer("corp", &format!("{{ issuer: \"https://same\", {key_set} }}"))
    };
    let gateway = Gateway::start(&config(&one));
    let mut slow = Connection::open(&gateway.address()).unwrap();
    slow.send(get("/slow").bytes("x")).unwrap();
    assert!(eventually(Duration::from_secs(5), || upstream.hits() == 1));
    gateway.reload(&config(&two), "ok");
    let (ours, before) = (two.key_set_url(), two.fetches());
    // A last fetch for the old one may still be under way.
    assert!(eventually(Duration::from_secs(10), || two.fetches() >= before + 2));
    let asked = one.fetches();
    assert!(eventually(Duration::from_secs(20), || two.fetches() >= before + 6));
    assert_eq!(one.fetches(), asked, "the old address is still asked");
    assert!(fs::read_to_string(copy(&gateway)).unwrap().contains(&ours));
}

#[test]
fn a_copy_that_may_not_be_believed_is_passed_over_with_a_warning_that_says_why() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.break_with(Reply::Close);
    let token = issuer.sign();
    let keys = [issuer.key.jwk()];
    let with = |member: &str, value: Value| {
        let mut copy = written(&issuer, &keys, 60);
        copy[member] = value;
        copy.to_string().into_bytes()
    };
    let good = written(&issuer, &keys, 60).to_string().into_bytes();
    let only_oct = json!({ "keys": [{ "kty": "oct", "kid": "rsa-0", "k": "c2VjcmV0" }] }).to_string();
    let cases: [(Vec<u8>, &str); 11] = [
        (good[..good.len() / 2].to_vec(), "damaged"),
        (b"".to_vec(), "damaged"),
        (b"\xff\x00garbage".to_vec(), "damaged"),
        (b"[]".to_vec(), "damaged"),
        ([good.as_slice(), &vec![b' '; 1 << 20]].concat(), "longer than"),
        (with("fetched_ms", json!((now() + 3600) * 1000)), "in the future"),
        (with("fetched_ms", json!((now() - 2 * 3600) * 1000)), "stale_for"),
        (with("issuer", json!("https://evil.example")), "another issuer"),
        (with("url", json!("https://evil.example/certs")), "another issuer"),
        (with("jwks", json!("{\"keys\":[]}")), "no usable key set"),
        (with("jwks", json!(only_oct)), "no usable key set"),
    ];
    for (content, why) in cases {
        let config = layout(&upstream, &issuer, "stale_for: 1h").file(COPY, content);
        let gateway = Gateway::start(&config);
        call(&gateway, &token).expect(503);
        assert!(gateway.says("the copy of the key set"), "{why}");
        let said = gateway.stderr();
        let lines: Vec<_> = said.lines().filter(|line| line.contains("the copy of the key set")).collect();
        assert!(lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains(why), "{why}: {lines:?}");
    }
    let config = layout(&upstream, &issuer, "stale_for: 1h").file(COPY, good);
    call(&Gateway::start(&config), &token).expect(200);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_copy_ages_like_the_set_it_is_of() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    issuer.break_with(Reply::Close);
    let copy = written(&issuer, &[issuer.key.jwk()], 3590).to_string();
    let gateway = Gateway::start(&layout(&upstream, &issuer, "stale_for: 1h").file(COPY, copy));
    let token = issuer.sign();
    call(&gateway, &token).expect(200);
    assert!(
        eventually(Duration::from_secs(20), || call(&gateway, &token).status == 503),
        "it never got stale"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_one_warning() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    // A file in the place of the folder stops root too.
    let config = layout(&upstream, &issuer, "every: 100ms, cooldown: 100ms").file("data", "in the way");
    let gateway = Gateway::start(&config);
    let asked = issuer.fetches();
    assert!(eventually(Duration::from_secs(10), || issuer.fetches() >= asked + 4));
    call(&gateway, &issuer.sign()).expect(200);
    assert!(gateway.says("cannot be copied"));
    let said = gateway.stderr();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("cannot be copied")).collect();
    assert!(lines.len() == 1 && lines[0].contains("key_set.copy_file"), "{lines:?}");
    assert!(!said.contains("ERROR"), "{said}");
}

#[test]
fn the_copy_may_lie_elsewhere_and_check_writes_none() {
    let (upstream, issuer, elsewhere) = (Upstream::start(), Issuer::start(), Folder::new());
    let path = elsewhere.path().join("deep/copy.json");
    let settings = format!(
        "{{ issuer: \"{}\", audiences: [orders-api], key_set: {{ url: \"{}\", copy_file: {} }} }}",
        issuer.id(),
        issuer.key_set_url(),
        path.display()
    );
    let config = Config::to(&upstream)
        .issuer("corp", &settings)
        .route("{ name: api, match: { path: /** }, upstream: app }");
    let folder = Folder::new();
    folder.write("portcullis.yaml", config.render(&[8080, 9090]));
    let exit = command(&folder, &["check", "--config", "portcullis.yaml"], "");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(fs::read_dir(folder.path()).unwrap().count() == 1 && !path.exists());
    assert!(issuer.requests().is_empty());
    let gateway = Gateway::start(&config);
    assert!(eventually(Duration::from_secs(5), || path.exists()));
    assert!(!gateway.folder().path().join("data").exists());
}
