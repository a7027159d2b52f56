//! What operators see: metrics, probes, logs, exit codes, and how a gateway stops.

use crate::support::config::PASSWORD;
use crate::support::gateway::Exit;
use crate::support::person::{login, logout, refresh};
use crate::support::ports::free_port;
use crate::support::{
    Config, Connection, Gateway, Issuer, Reply, Sessions, Upstream, eventually, get, post, request,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Everything at once: both issuers, sessions, and a route of each kind.
fn whole(upstream: &Upstream, issuer: &Issuer) -> Config {
    Config::to(upstream)
        .issuer("corp", &issuer.settings())
        .sessions(Sessions::embedded())
        .set("forward", "{ headers: { X-Auth-Subject: sub } }")
        .route("{ name: api, match: { path: /api/** }, upstream: app }")
        .route("{ name: open, match: { path: /open/** }, upstream: app, auth: public }")
}

/// Some traffic of every kind.
fn traffic(gateway: &Gateway, issuer: &Issuer) {
    let address = gateway.address();
    let tokens = login(gateway);
    get("/api/x?secret=in-the-query").bearer(&tokens.access).send(&address).expect(200);
    get("/api/x").bearer(&issuer.sign()).send(&address).expect(200);
    get("/api/x").send(&address).expect(401);
    get("/api/x").bearer(&issuer.token().expires_in(-100).sign(&issuer.key)).send(&address).expect(401);
    get("/open/x").header("X-Auth-Subject", "root").send(&address).expect(200);
    get("/nowhere").send(&address).expect(404);
    refresh(gateway, &tokens.refresh).expect(200);
    let wrong = json!({ "username": "alice", "password": "a wrong password", "delivery": "body" });
    post("/auth/login").json(&wrong).send(&address).expect(401);
    logout(gateway, &tokens.refresh).expect(204);
}

#[test]
fn metrics_have_the_promised_names_and_labels() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&whole(&upstream, &issuer));
    traffic(&gateway, &issuer);
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "api"), ("code", "401")], 2.0));
    let metrics = gateway.metrics();
    let types: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    for name in [
        "requests_total",
        "request_seconds",
        "upstream_seconds",
        "auth_decisions_total",
        "token_cache_total",
        "key_set_fetch_total",
        "key_set_age_seconds",
        "session_events_total",
        "sessions_store_seconds",
        "revocation_feed_age_seconds",
        "identity_header_spoof_total",
        "connections",
        "password_hash_queue",
    ] {
        assert!(types.contains(format!("portcullis_{name}").as_str()), "{name} is missing in {types:?}");
    }
    for (name, labels, count) in [
        ("requests_total", &[("route", "api"), ("code", "200")][..], 2.0),
        (
            "auth_decisions_total",
            &[("route", "api"), ("issuer", "gateway"), ("outcome", "allow"), ("reason", "ok")],
            1.0,
        ),
        (
            "auth_decisions_total",
            &[("route", "api"), ("issuer", "corp"), ("outcome", "allow"), ("reason", "ok")],
            1.0,
        ),
        ("auth_decisions_total", &[("route", "api"), ("outcome", "deny"), ("reason", "no_token")], 1.0),
        ("auth_decisions_total", &[("route", "api"), ("outcome", "deny"), ("reason", "expired")], 1.0),
        ("session_events_total", &[("event", "login_ok")], 1.0),
        ("session_events_total", &[("event", "login_failed")], 1.0),
        ("session_events_total", &[("event", "refresh_rotated")], 1.0),
        ("session_events_total", &[("event", "logout")], 1.0),
        ("request_seconds_count", &[("route", "api")], 4.0),
    ] {
        assert!(
            gateway.metric_becomes(&format!("portcullis_{name}"), labels, count),
            "{name} {labels:?}\n{metrics}"
        );
    }
    assert!(gateway.metric("portcullis_upstream_seconds_count", &[("upstream", "app")]) >= 3.0);
}

#[test]
fn what_no_route_serves_and_a_preflight_are_counted_with_their_reason() {
    let upstream = Upstream::start();
    let cors = "cors: { origins: [\"https://app.example.com\"] }";
    let config = Config::to(&upstream)
        .server("limits", "{ header_bytes: 2KiB, target_bytes: 200B }")
        .route(&format!("{{ name: api, match: {{ path: /api }}, upstream: app, {cors} }}"));
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    get("/elsewhere").send(&address).expect(404);
    get("/a%2Fb").send(&address).expect(400);
    get(&format!("/{}", "x".repeat(300))).send(&address).expect(414);
    request("TRACE", "/api").send(&address).expect(405);
    get("/api").header("X-Long", &"x".repeat(3000)).send(&address).expect(431);
    request("OPTIONS", "/api")
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "GET")
        .send(&address)
        .expect(204);
    let mut connection = Connection::open(&address).unwrap();
    connection.send(b"no request\r\n\r\n").unwrap();
    connection.read_response(false).unwrap().expect(400);
    let name = "portcullis_auth_decisions_total";
    for reason in
        ["no_route", "bad_path", "target_too_long", "method_not_allowed", "header_too_large", "bad_request"]
    {
        let labels = [("route", "none"), ("issuer", ""), ("outcome", "deny"), ("reason", reason)];
        assert!(gateway.metric_becomes(name, &labels, 1.0), "{reason}\n{}", gateway.metrics());
    }
    let labels = [("route", "api"), ("outcome", "allow"), ("reason", "preflight")];
    assert!(gateway.metric_becomes(name, &labels, 1.0), "{}", gateway.metrics());
    assert!(gateway.metric_becomes(name, &[], 7.0), "{}", gateway.metrics());
}

#[test]
fn promtool_accepts_the_metrics() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&whole(&upstream, &issuer));
    traffic(&gateway, &issuer);
    let response = get("/metrics").send(&gateway.admin()).expect(200);
    assert!(
        response.header("content-type").unwrap_or_default().starts_with("text/plain"),
        "{:?}",
        response.headers
    );
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: apt-get install prometheus");
    promtool.stdin.take().unwrap().write_all(&response.body).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn no_request_can_make_a_new_label() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&whole(&upstream, &issuer));
    traffic(&gateway, &issuer);
    request("WEIRD", "/marked-by-client").header("Host", "marked-by-client").send(&gateway.address());
    let token = issuer.token().set("iss", json!("marked-by-client")).header("kid", json!("marked-by-client"));
    get("/api/marked-by-client").bearer(&token.sign(&issuer.key)).send(&gateway.address()).expect(401);
    let wrong = json!({ "username": "marked-by-client", "password": "x" });
    post("/auth/login").json(&wrong).send(&gateway.address()).expect(401);
    assert!(!gateway.metrics().contains("marked-by-client"));
}

#[test]
fn probes_tell_alive_from_ready_and_are_not_on_the_client_listener() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&whole(&upstream, &issuer));
    get("/livez").send(&gateway.admin()).expect(200);
    get("/readyz").send(&gateway.admin()).expect(200);
    get("/").send(&gateway.admin()).expect(404);
    get("/users/alice/revoke").send(&gateway.admin());
    post("/users/alice/revoke").send(&gateway.admin()).expect(404);
    for target in ["/livez", "/readyz", "/metrics"] {
        get(target).send(&gateway.address()).expect(404);
    }
    get("/open/x").send(&gateway.admin()).expect(404);
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn every_request_is_one_json_line_with_its_reason_code() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&whole(&upstream, &issuer));
    let address = gateway.address();
    let send =
        |id: &str, request: crate::support::Request| request.header("X-Request-Id", id).send(&address).status;
    send("id-allow", get("/api/x").bearer(&issuer.sign()));
    send("id-none", get("/api/x"));
    send("id-expired", get("/api/x").bearer(&issuer.token().expires_in(-100).sign(&issuer.key)));
    send("id-open", get("/open/x"));
    send("id-lost", get("/nowhere"));
    send("id-path", get("/open/../x"));
    for (id, status, route, reason) in [
        ("id-allow", 200, Some("api"), "ok"),
        ("id-none", 401, Some("api"), "no_token"),
        ("id-expired", 401, Some("api"), "expired"),
        ("id-open", 200, Some("open"), "anonymous"),
        ("id-lost", 404, None, "no_route"),
        ("id-path", 400, None, "bad_path"),
    ] {
        let line = gateway.log_line(|line| line.to_string().contains(id));
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        if let Some(route) = route {
            assert_eq!(line["route"], route, "{line}");
        }
        assert_eq!(line["method"], "GET", "{line}");
        for field in ["time", "path"] {
            assert!(line[field].is_string(), "{field} is missing in {line}");
        }
        let count = gateway.stdout().lines().filter(|line| line.contains(id)).count();
        assert_eq!(count, 1, "{id} has {count} lines");
    }
    let line = gateway.log_line(|line| line.to_string().contains("id-allow"));
    assert!(line.to_string().contains("f:9c1:maria"), "who it was is not in {line}");
}

#[test]
fn session_events_leave_audit_lines() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway = Gateway::start(&whole(&upstream, &issuer));
    traffic(&gateway, &issuer);
    for event in ["login_ok", "login_failed", "logout"] {
        let line = gateway.log_line(|line| line["event"] == event);
        assert_ne!(line["log"], "access", "{line}");
    }
    assert!(gateway.log_line(|line| line["event"] == "login_ok").to_string().contains("u-alice"));
}

#[test]
fn no_token_password_or_query_ever_comes_into_a_log() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let gateway =
        Gateway::start(&whole(&upstream, &issuer).set("log", "{ format: json, level: debug, access: true }"));
    let address = gateway.address();
    traffic(&gateway, &issuer);
    let tokens = login(&gateway);
    let foreign = issuer.sign();
    get(&format!("/api/x?access_token={foreign}"))
        .bearer(&foreign)
        .cookie(&format!("a={}", tokens.refresh))
        .send(&address);
    get("/api/x").header("Authorization", &format!("Bearer {foreign} {foreign}")).send(&address);
    refresh(&gateway, &tokens.refresh);
    gateway.log_line(|line| line["reason"] == "malformed_credentials");
    let said = gateway.stdout() + &gateway.stderr();
    for secret in [
        PASSWORD,
        "a wrong password",
        "prt_",
        &tokens.access,
        &foreign,
        foreign.rsplit('.').next().unwrap(),
        tokens.access.rsplit('.').next().unwrap(),
        "in-the-query",
    ] {
        let line = said.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in {line:?}");
    }
}

#[test]
fn a_client_cannot_write_a_log_line_of_its_own() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    for format in ["json", "text"] {
        let log = format!("{{ format: {format}, level: info, access: true }}");
        let gateway = Gateway::start(&whole(&upstream, &issuer).set("log", &log));
        let mut connection = Connection::open(&gateway.address()).unwrap();
        let head = "GET /open/%0aforged HTTP/1.1\r\nHost: x\r\nUser-Agent: a\\nforged\"\u{85}\r\nX-Request-Id: b\"forged\r\n\r\n";
        connection.send(head).unwrap();
        connection.read_response(false).unwrap();
        let user = json!({ "username": "x\nforged\r\nforged", "password": "x" });
        post("/auth/login").json(&user).send(&gateway.address());
        assert!(eventually(Duration::from_secs(5), || gateway.stdout().lines().count() >= 2));
        for line in gateway.stdout().lines() {
            assert!(!line.trim_start().starts_with("forged"), "{line}");
        }
    }
}

#[test]
fn the_access_log_can_be_turned_off() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream).set("log", "{ access: false }"));
    get("/marked").send(&gateway.address()).expect(200);
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "all")], 1.0));
    assert!(!gateway.stdout().contains("/marked"));
}

#[track_caller]
fn failed_because(exit: &Exit, words: &[&str]) {
    assert_eq!(exit.code, Some(1), "{exit:?}");
    for word in words {
        assert!(exit.stderr.contains(word), "{word} is not among the reasons: {exit:?}");
    }
    assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_the_reason() {
    let upstream = Upstream::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let start = Instant::now();
    let exit = Gateway::fail_on(&Config::public(&upstream), &[port, free_port()]);
    failed_because(&exit, &[&port.to_string(), "in use"]);
    let exit = Gateway::fail_on(&Config::public(&upstream), &[free_port(), port]);
    failed_because(&exit, &[&port.to_string(), "in use"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_certificate_or_key_that_does_not_work_ends_the_start_with_the_reason() {
    let upstream = Upstream::start();
    let authority = crate::support::tls::Authority::new();
    let (one, two) = (authority.identity(&["localhost"]), authority.identity(&["localhost"]));
    let listener = "tls: { certificate: cert.pem, private_key: key.pem }";
    let config = Config::public(&upstream).listener(listener);
    failed_because(&Gateway::fail(&config), &["cert.pem"]);
    let garbage = config.clone().file("cert.pem", "no certificate").file("key.pem", "no key");
    failed_because(&Gateway::fail(&garbage), &[".pem"]);
    let mixed = config.file("cert.pem", one.certificate_pem).file("key.pem", two.key_pem);
    failed_because(&Gateway::fail(&mixed), &["key"]);
}

#[test]
fn a_signing_key_or_secret_that_does_not_work_ends_the_start_with_the_reason() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).sessions(Sessions::embedded());
    let broken = config
        .clone()
        .file("data/keys/mine.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    failed_because(&Gateway::fail(&broken), &["mine.pem"]);
    let short = config.clone().file("data/secret", "too short");
    failed_because(&Gateway::fail(&short), &["secret", "32"]);
    // Gateways on a shared store must share the secret, so none is made up.
    let shared = Sessions::embedded().set("store", "{ redis: { url: \"redis://127.0.0.1:1/0\" } }");
    failed_because(&Gateway::fail(&Config::public(&upstream).sessions(shared)), &["secret"]);
}

#[test]
fn a_broken_configuration_ends_the_start_with_every_error_and_its_place() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .server("limits", "{ header_byte: 1KiB, body_bytes: 10 MB }")
        .route("{ name: a, match: { path: /a }, upstream: missing }");
    let exit = Gateway::fail(&config);
    failed_because(
        &exit,
        &["portcullis.yaml:", "server.limits.header_byte", "server.limits.body_bytes", "routes[0].upstream"],
    );
}

#[test]
fn sigterm_lets_requests_finish_and_ends_as_soon_as_idle() {
    let upstream = Upstream::answering(|_| Reply::ok("finished").after(Duration::from_millis(1200)));
    let mut gateway =
        Gateway::start(&Config::public(&upstream).server("shutdown", "{ delay: 0s, drain: 30s }"));
    let address = gateway.address();
    let running = {
        let address = address.clone();
        thread::spawn(move || get("/slow").try_send(&address))
    };
    assert!(eventually(Duration::from_secs(5), || upstream.hits() == 1));
    let start = Instant::now();
    gateway.terminate();
    let status = gateway.ended_within(Duration::from_secs(15)).expect("still running");
    let answer = running.join().unwrap().expect("the request was cut").expect(200);
    // It began before anybody knew, and the client hears of it all the same.
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("finished", Some("close")));
    assert!(status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(get("/").try_send(&address).is_err());
}

#[test]
fn an_idle_gateway_ends_at_once_on_sigterm_even_with_open_connections() {
    let upstream = Upstream::start();
    let mut gateway = Gateway::start(&Config::public(&upstream));
    let mut kept = Connection::open(&gateway.address()).unwrap();
    kept.exchange(&get("/")).unwrap().expect(200);
    let start = Instant::now();
    gateway.terminate();
    assert!(gateway.ended_within(Duration::from_secs(15)).expect("still running").success());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_drain_that_takes_too_long_is_ended() {
    let upstream = Upstream::answering(|_| Reply::ok("never").after(Duration::from_secs(30)));
    let mut gateway = Gateway::start(&Config::public(&upstream).server("shutdown", "{ drain: 500ms }"));
    let address = gateway.address();
    let running = thread::spawn(move || get("/slow").try_send(&address));
    assert!(eventually(Duration::from_secs(5), || upstream.hits() == 1));
    let start = Instant::now();
    gateway.terminate();
    gateway.ended_within(Duration::from_secs(15)).expect("still running");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(!running.join().unwrap().is_ok_and(|response| response.status == 200));
}

#[test]
fn during_the_delay_it_is_not_ready_but_serves() {
    let upstream = Upstream::start();
    let mut gateway =
        Gateway::start(&Config::public(&upstream).server("shutdown", "{ delay: 8s, drain: 5s }"));
    gateway.terminate();
    assert!(eventually(Duration::from_secs(7), || get("/readyz")
        .try_send(&gateway.admin())
        .is_ok_and(|r| r.status == 503)));
    get("/").send(&gateway.address()).expect(200);
    get("/livez").send(&gateway.admin()).expect(200);
    assert!(gateway.ended_within(Duration::from_secs(30)).expect("still running").success());
}
