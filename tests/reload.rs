//! A changed configuration is taken over whole or not at all, and no connection, key or session is lost by it.

use crate::support::keys::Key;
use crate::support::load::Load;
use crate::support::person::{login, refresh};
use crate::support::tls::Authority;
use crate::support::{Config, Connection, Gateway, Issuer, Reply, Sessions, Upstream, eventually, get};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

fn route(name: &str, more: &str) -> String {
    format!("{{ name: {name}, match: {{ path: /{name}/** }}, upstream: app, auth: public{more} }}")
}

#[test]
fn sighup_takes_over_routes_upstreams_forwarding_limits_and_proxies() {
    let (old, new, issuer) = (Upstream::start(), Upstream::start(), Issuer::start());
    let config = Config::to(&old).route(&route("a", "")).route(&route("b", ""));
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    get("/a/1").send(&address).expect(200);
    get("/c/1").bearer(&issuer.sign()).send(&address).expect(404);

    let config = Config::to(&new)
        .issuer("corp", &issuer.settings())
        .set("forward", "{ headers: { X-Who: sub } }")
        .server("limits", "{ target_bytes: 100B }")
        .server("trusted_proxies", "[127.0.0.0/8]")
        .route(&route("a", ""))
        .route("{ name: c, match: { path: /c/** }, upstream: app }");
    gateway.reload(&config, "ok");
    get("/a/1").header("X-Who", "root").header("X-Forwarded-For", "192.0.2.7").send(&address).expect(200);
    get("/b/1").send(&address).expect(404);
    get(&format!("/a/{}", "x".repeat(200))).send(&address).expect(414);
    get("/c/1").send(&address).expect(401);
    get("/c/1").bearer(&issuer.sign()).send(&address).expect(200);

    assert_eq!(old.requests().len(), 1);
    let received = new.requests();
    assert_eq!(received[0].all("x-who"), Vec::<&str>::new());
    assert!(received[0].header("x-forwarded-for").is_some_and(|list| list.starts_with("192.0.2.7")));
    assert!(received[1].header("x-who").is_some());
}

#[test]
fn a_request_under_way_sees_the_configuration_it_began_with() {
    let upstream = Upstream::start();
    upstream.answer(|_| Reply::ok("late").after(Duration::from_secs(2)));
    let gateway = Gateway::start(&Config::to(&upstream).route(&route("a", "")));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send(get("/a/1").bytes("x")).unwrap();
    assert!(eventually(SOON, || upstream.requests().len() == 1), "the request never arrived");

    gateway.reload(&Config::to(&upstream).route(&route("b", "")), "ok");
    assert_eq!(connection.read_response(false).unwrap().expect(200).text(), "late");
    // The same connection, the next request.
    assert_eq!(connection.exchange(&get("/a/1")).unwrap().status, 404);
    upstream.answer(|_| Reply::ok("now"));
    assert_eq!(connection.exchange(&get("/b/1")).unwrap().expect(200).text(), "now");
}

#[test]
fn a_change_of_the_file_is_noticed_without_a_signal() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::to(&upstream).route(&route("a", "")));
    gateway.rewrite(&Config::to(&upstream).route(&route("b", "")));
    assert!(gateway.has_reloaded("ok", 0.0), "{}", gateway.stderr());
    get("/b/1").send(&gateway.address()).expect(200);
    get("/a/1").send(&gateway.address()).expect(404);
}

#[test]
fn a_mounted_config_map_that_swaps_its_folder_is_noticed() {
    let upstream = Upstream::start();
    let first = Config::to(&upstream).route(&route("a", ""));
    let gateway = Gateway::start(&first);
    let folder = gateway.folder().path();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    // `portcullis.yaml -> ..data/portcullis.yaml`, `..data -> ..1`, and then `..data -> ..2` by a rename.
    for (version, text) in
        [("..1", read("portcullis.yaml")), ("..2", read("portcullis.yaml").replace("/a/", "/b/"))]
    {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("portcullis.yaml"), text).unwrap();
    }
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/portcullis.yaml", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), folder.join("portcullis.yaml")).unwrap();
    assert!(gateway.has_reloaded("ok", 0.0), "{}", gateway.stderr());
    get("/a/1").send(&gateway.address()).expect(200);

    symlink("..2", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    assert!(gateway.has_reloaded("ok", 1.0), "{}", gateway.stderr());
    get("/b/1").send(&gateway.address()).expect(200);
}

#[test]
fn a_broken_file_changes_nothing_is_told_with_its_place_and_counted() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream).route(&route("a", ""));
    let gateway = Gateway::start(&config);
    let broken = [
        config.clone().route("{ name: x, match: { path: /x }, upstream: nowhere }"),
        config.clone().set("no_such_section", "{}"),
        config.clone().route("["),
    ];
    for (count, broken) in (1_u8..).zip(&broken) {
        gateway.reload(broken, "error");
        let refused = gateway.metric("portcullis_config_reloads_total", &[("result", "error")]);
        assert!((refused - f64::from(count)).abs() < 0.1);
        get("/a/1").send(&gateway.address()).expect(200);
    }
    for told in ["routes[1].upstream", "no_such_section", "portcullis.yaml:"] {
        assert!(eventually(SOON, || gateway.stderr().contains(told)), "{told}\n{}", gateway.stderr());
    }
    // And it recovers.
    gateway.reload(&Config::to(&upstream).route(&route("b", "")), "ok");
    get("/b/1").send(&gateway.address()).expect(200);
}

#[test]
fn a_file_that_comes_after_the_configuration_that_names_it_is_waited_for() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream).route(&route("a", ""));
    let gateway = Gateway::start(&config);
    let key_set = "{ issuer: \"https://id.test\", audiences: [orders-api], key_set: { file: later.json } }";
    gateway.reload(&config.clone().issuer("later", key_set).route(&route("b", "")), "error");
    get("/b/1").send(&gateway.address()).expect(404);
    let accepted = gateway.metric("portcullis_config_reloads_total", &[("result", "ok")]);
    let url = issuer.key_set_url();
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    gateway.folder().write("later.json", get(&format!("/{path}")).send(host).expect(200).text());
    assert!(gateway.has_reloaded("ok", accepted), "{}", gateway.stderr());
    get("/b/1").send(&gateway.address()).expect(200);
}

#[test]
fn keys_sessions_and_upstream_connections_survive() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .sessions(Sessions::embedded())
        .route("{ name: api, match: { path: /api/** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    let (theirs, ours) = (issuer.sign(), login(&gateway));
    get("/api/1").bearer(&theirs).send(&address).expect(200);
    get("/api/1").bearer(&ours.access).send(&address).expect(200);
    let kept_alive = || {
        let before = upstream.connections();
        get("/api/1").bearer(&theirs).send(&address).expect(200);
        upstream.connections() == before
    };
    assert!(eventually(SOON, kept_alive), "no connection to the upstream is used twice");
    issuer.stop();

    gateway.reload(&config.clone().route(&route("b", "")), "ok");
    assert!(kept_alive(), "connections to the upstream were thrown away");
    get("/api/1").bearer(&theirs).send(&address).expect(200);
    get("/api/1").bearer(&ours.access).send(&address).expect(200);
    get("/b/1").send(&address).expect(200);
    refresh(&gateway, &ours.refresh).expect(200);
}

#[test]
fn a_key_set_file_is_read_again() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let other = Issuer::with_key(Key::p256("other"));
    let text = |issuer: &Issuer| {
        let url = issuer.key_set_url();
        let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
        get(&format!("/{path}")).send(host).expect(200).text()
    };
    let settings =
        format!("{{ issuer: \"{}\", audiences: [orders-api], key_set: {{ file: keys.json }} }}", issuer.id());
    let config = Config::to(&upstream)
        .issuer("corp", &settings)
        .route("{ name: api, match: { path: /** }, upstream: app }")
        .file("keys.json", text(&issuer));
    let gateway = Gateway::start(&config);
    let token = issuer.sign();
    get("/1").bearer(&token).send(&gateway.address()).expect(200);

    // No signal: the file is followed.
    gateway.folder().write("keys.json", text(&other));
    assert!(gateway.has_reloaded("ok", 0.0), "{}", gateway.stderr());
    get("/1").bearer(&token).send(&gateway.address()).expect(401);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_taken_over() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream).sessions(Sessions::embedded());
    let gateway = Gateway::start(&config);
    let changed = Config::to(&upstream)
        .sessions(Sessions::embedded().set("max_per_user", "7"))
        .set("log", "{ format: json, level: warn, access: true }")
        .server("threads", "3")
        .route(&route("b", ""));
    gateway.reload(&changed, "ok");
    get("/b/1").send(&gateway.address()).expect(200);
    let told = || gateway.stderr().lines().any(|line| line.contains("log, sessions, server.threads"));
    assert!(eventually(SOON, told), "{}", gateway.stderr());
}

#[test]
fn what_cannot_be_served_without_a_restart_is_refused() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream).route(&route("a", ""));
    let gateway = Gateway::start(&config);
    let proof = ", forward: { assertion: { lifetime: 60s } }";
    gateway.reload(&config.clone().sessions(Sessions::embedded()).route(&route("b", proof)), "error");
    let told = || gateway.stderr().contains("restart the gateway");
    assert!(eventually(SOON, told), "{}", gateway.stderr());
    get("/a/1").send(&gateway.address()).expect(200);
    get("/b/1").send(&gateway.address()).expect(404);
}

#[test]
fn a_change_while_a_reload_waits_for_an_issuer_is_not_lost() {
    let (upstream, hanging) = (Upstream::start(), Issuer::start());
    hanging.delay(Duration::from_secs(30));
    let gateway = Gateway::start(&Config::to(&upstream).route(&route("a", "")));
    // Another file to follow, and an issuer that the reload waits for.
    let filed = "{ issuer: \"https://filed\", audiences: [x], key_set: { file: keys.json } }";
    let keys = serde_json::json!({ "keys": [Key::p256("k").jwk()] }).to_string();
    let next = Config::to(&upstream)
        .issuer("corp", &hanging.settings())
        .issuer("filed", filed)
        .file("keys.json", keys)
        .route(&route("b", ""));
    gateway.rewrite(&next);
    assert!(eventually(SOON, || hanging.fetches() > 0), "{}", gateway.stderr());
    gateway.rewrite(&next.route(&route("c", "")));
    let taken = || get("/c/1").send(&gateway.address()).status == 200;
    assert!(eventually(SOON, taken), "{}", gateway.stderr());
}

#[test]
fn a_reload_that_one_listeners_certificate_spoils_changes_no_other_listener() {
    let (upstream, hanging) = (Upstream::start(), Issuer::start());
    let (before, after) = (Authority::new(), Authority::new());
    hanging.delay(Duration::from_secs(30));
    let (one, two, new) =
        (before.identity(&["localhost"]), before.identity(&["localhost"]), after.identity(&["localhost"]));
    let config = |first: &str| {
        Config::public(&upstream)
            .listener(&format!("tls: {{ certificate: {first}.pem, private_key: {first}.key }}, http2: false"))
            .another_listener("tls: { certificate: b.pem, private_key: b.key }, http2: false")
    };
    let old = config("a")
        .file("a.pem", one.certificate_pem)
        .file("a.key", one.key_pem)
        .file("b.pem", two.certificate_pem)
        .file("b.key", two.key_pem)
        .file("c.pem", new.certificate_pem)
        .file("c.key", new.key_pem.clone());
    let gateway = Gateway::start(&old);
    let shows = |authority: &Authority| {
        let connection = authority.connect(&gateway.address(), "localhost");
        connection.and_then(|mut connection| connection.exchange(&get("/"))).is_ok()
    };
    // The file is checked and good; while the reload waits for an issuer, the other listener's key changes.
    gateway.rewrite(&config("c").issuer("corp", &hanging.settings()));
    assert!(eventually(SOON, || hanging.fetches() > 0), "{}", gateway.stderr());
    gateway.folder().write("b.key", new.key_pem);
    let refused = || gateway.stderr().contains("the new configuration is refused");
    assert!(eventually(SOON, refused), "{}", gateway.stderr());
    assert!(shows(&before) && !shows(&after));
}

#[test]
fn certificates_are_replaced_without_dropping_a_connection_and_a_mismatch_is_refused() {
    let (upstream, before, after) = (Upstream::start(), Authority::new(), Authority::new());
    let (first, second) = (before.identity(&["localhost"]), after.identity(&["localhost"]));
    let config = Config::public(&upstream)
        .listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: false")
        .file("cert.pem", first.certificate_pem)
        .file("key.pem", first.key_pem);
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    let mut kept = before.connect(&address, "localhost").unwrap();
    assert_eq!(kept.exchange(&get("/")).unwrap().status, 200);

    // A renewal is written file by file: between the two the old pair serves on.
    gateway.folder().write("cert.pem", &second.certificate_pem);
    let refused = || gateway.stderr().contains("the new certificates are refused");
    assert!(eventually(SOON, refused), "{}", gateway.stderr());
    let mut still = before.connect(&address, "localhost").unwrap();
    assert_eq!(still.exchange(&get("/")).unwrap().status, 200);
    gateway.folder().write("key.pem", &second.key_pem);
    let renewed = || {
        let connected = after.connect(&address, "localhost");
        connected.and_then(|mut connection| connection.exchange(&get("/"))).is_ok()
    };
    assert!(eventually(SOON, renewed), "{}", gateway.stderr());
    assert_eq!(kept.exchange(&get("/")).unwrap().status, 200);
}

#[test]
fn a_followed_file_that_is_broken_is_counted_and_one_that_is_mended_is_no_reload() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let identity = authority.identity(&["localhost"]);
    let config = Config::public(&upstream)
        .sessions(Sessions::embedded())
        .another_listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: false")
        .file("cert.pem", &*identity.certificate_pem)
        .file("key.pem", identity.key_pem);
    let gateway = Gateway::start(&config);
    let users = std::fs::read(gateway.folder().path().join("users.yaml")).unwrap();
    let reloads = |result: &str| gateway.metric("portcullis_config_reloads_total", &[("result", result)]);
    let (refused, accepted) = (reloads("error"), reloads("ok"));
    for (count, (file, told)) in (1_u8..).zip([
        ("users.yaml", "the new users file is refused"),
        ("cert.pem", "the new certificates are refused"),
        ("data/keys/odd.pem", "the new signing keys are refused"),
    ]) {
        gateway.folder().write(file, "nonsense");
        assert!(gateway.says(told), "{}", gateway.stderr());
        let counted = || (reloads("error") - refused - f64::from(count)).abs() < 0.1;
        assert!(eventually(SOON, counted), "{file}: {}", reloads("error"));
    }
    gateway.folder().write("users.yaml", users);
    gateway.folder().write("cert.pem", identity.certificate_pem);
    for told in ["users reloaded", "certificates reloaded"] {
        assert!(gateway.says(told), "{}", gateway.stderr());
    }
    assert!((reloads("ok") - accepted).abs() < 0.1 && (reloads("error") - refused - 3.0).abs() < 0.1);
}

#[test]
fn one_listener_shows_the_certificate_of_the_name_asked_for() {
    let (upstream, one, two) = (Upstream::start(), Authority::new(), Authority::new());
    let (first, second) = (one.identity(&["a.example"]), two.identity(&["b.example", "*.c.example"]));
    let list =
        "tls: [{ certificate: a.pem, private_key: a.key }, { certificate: b.pem, private_key: b.key }]";
    let config = Config::public(&upstream)
        .listener(&format!("{list}, http2: false"))
        .file("a.pem", first.certificate_pem)
        .file("a.key", first.key_pem)
        .file("b.pem", second.certificate_pem)
        .file("b.key", second.key_pem);
    let gateway = Gateway::start(&config);
    let answered = |authority: &Authority, name: &str| {
        let connection = authority.connect(&gateway.address(), name);
        connection.and_then(|mut connection| connection.exchange(&get("/"))).is_ok()
    };
    assert!(answered(&one, "a.example"));
    assert!(answered(&two, "b.example"));
    assert!(answered(&two, "x.c.example"));
    assert!(!answered(&two, "a.example"));
    assert!(!answered(&one, "other.example"), "the first certificate is not for that name");
}

#[test]
fn no_request_fails_while_configuration_certificates_and_process_change_under_load() {
    let (upstream, authority) = (Upstream::start(), Arc::new(Authority::new()));
    let config = || {
        let identity = authority.identity(&["localhost"]);
        Config::public(&upstream)
            .listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: false")
            .another_listener("http2: true")
            .server("upgrade_socket", "run.sock")
            .file("cert.pem", identity.certificate_pem)
            .file("key.pem", identity.key_pem)
    };
    let mut gateway = Gateway::start(&config());
    let (address, plain) = (gateway.address(), gateway.another_address());
    let connect = {
        let authority = Arc::clone(&authority);
        move || authority.connect(&address, "localhost")
    };
    let load = Load::start(16, connect, 16, &plain);
    load.answers(200);
    for round in 0..20 {
        let route = route(&format!("r{round}"), "");
        // Every fourth time with a new certificate; else the files stay as they are.
        let mut next = config().route(&route);
        if round % 4 != 0 {
            next.files.clear();
        }
        gateway.reload(&next, "ok");
        if round == 10 {
            let status = gateway.hand_over();
            assert!(status.success(), "{status}");
        }
    }
    load.answers(200);
    let tally = load.stop();
    println!("20 reloads, 5 certificates, a new process: {tally}");
    assert_eq!(tally.failures, Vec::<String>::new());
    // Those over HTTP/2 at least were never closed by the client.
    assert!(tally.announced >= 16, "{tally}");
    get("/r19/1").send(&plain).expect(200);
}
