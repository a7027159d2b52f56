//! The edges of a connection: what is answered when a request cannot be parsed, a body is not wanted, one
//! side goes away or says what it may not, and how a start without root certificates ends.

use crate::support::ports::free_port;
use crate::support::{Config, Connection, Gateway, Reply, Upstream, get, http2, post, request};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Everything that comes back for these bytes.
fn answer_to(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> String {
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send(bytes).unwrap();
    String::from_utf8_lossy(&connection.read_to_end().unwrap()).into_owned()
}

#[test]
fn a_request_that_cannot_be_parsed_is_refused_in_our_words_and_counted() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    for malformed in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Space : b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "no request\r\n\r\n",
    ] {
        let answer = answer_to(&gateway, malformed);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{malformed:?}: {answer}");
        assert!(answer.contains("\"reason\":\"bad_request\""), "{malformed:?}: {answer}");
        assert!(!answer.contains("Pingora") && answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    let many: String = (0..300).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer = answer_to(&gateway, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(answer.contains("\"reason\":\"header_too_large\""), "{answer}");
    assert_eq!(upstream.hits(), 0);
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "none"), ("code", "400")], 4.0));
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "none"), ("code", "431")], 1.0));
}

#[test]
fn a_request_that_cannot_be_parsed_on_a_kept_connection_is_refused_too() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.exchange(&get("/")).unwrap().expect(200);
    connection.send("no request\r\n\r\n").unwrap();
    let answer = connection.read_response(false).unwrap().expect(400);
    assert_eq!((answer.reason().as_str(), answer.header("Server")), ("bad_request", None));
}

#[test]
fn connect_is_refused_like_any_method_that_is_not_served() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    let answer =
        answer_to(&gateway, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\nearly data");
    assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
    assert!(answer.contains("\r\nAllow: GET"), "{answer}");
    assert!(answer.contains("\"reason\":\"method_not_allowed\"") && !answer.contains("Pingora"), "{answer}");
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn names_of_fields_are_spelled_as_people_know_them() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .issuer(
            "corp",
            "{ issuer: \"https://id.test\", audiences: [api], key_set: { url: \"http://127.0.0.1:9/\" } }",
        )
        .route("{ name: r, match: { path: /r }, upstream: app, auth: required }")
        .route(
            "{ name: p, match: { path: /p }, upstream: app, auth: public, \
             forward: { headers: { X-Odd-CASE: { claim: sub, absent: empty } } } }",
        );
    let gateway = Gateway::start(&config);
    let answer = answer_to(&gateway, "GET /r HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{answer}");
    get("/p").header("x-odd-case", "forged").send(&gateway.address()).expect(200);
    assert_eq!(upstream.last().folded("x-odd-case"), ["X-Odd-CASE: "]);
}

#[test]
fn the_answer_to_a_body_that_is_not_wanted_reaches_a_client_that_sends_all_of_it_first() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("limits", "{ body_bytes: 10KiB }");
    let gateway = Gateway::start(&config);
    // More than the system's buffers take, so that a client whose connection is reset cannot send it all.
    let declared = post("/").body(vec![b'x'; 16_000_000]).bytes("x");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(250);
    let chunked = format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    for request in [declared, chunked.into_bytes()] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        connection.send(&request).expect("nobody resets the connection");
        assert_eq!(connection.read_response(false).unwrap().expect(413).reason(), "body_too_large");
    }
}

#[test]
fn an_upstreams_answer_to_a_body_it_does_not_read_reaches_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (answered, done) = std::sync::mpsc::channel::<()>();
    let upstream = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        socket.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
        // Open, but not read from, until the client has its answer.
        let _ = done.recv_timeout(Duration::from_secs(20));
    });
    let timeouts = "timeouts: { write: 300ms }";
    let config = Config::new()
        .upstream_raw("app", &format!("{{ endpoints: [\"http://{address}\"], {timeouts} }}"))
        .server("limits", "{ body_bytes: 0 }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send(post("/").body(vec![b'x'; 16_000_000]).bytes("x")).expect("nobody resets the connection");
    assert_eq!(connection.read_response(false).unwrap().expect(403).text(), "no");
    answered.send(()).unwrap();
    upstream.join().unwrap();
}

#[test]
fn a_body_that_is_sent_again_is_not_counted_twice() {
    let dead = Upstream::answering(|_| Reply::Close);
    let alive = Upstream::echo();
    let config = Config::new()
        .upstream("app", &[&dead, &alive])
        .server("limits", "{ body_bytes: 40KiB }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for _ in 0..2 {
        let answer = request("PUT", "/").body(vec![b'x'; 30_000]).send(&gateway.address()).expect(200);
        assert_eq!(answer.body.len(), 30_000);
    }
    assert_eq!((dead.hits(), alive.hits()), (1, 2));
}

#[test]
fn what_an_upstream_says_about_its_own_connection_stays_there() {
    let upstream = Upstream::answering(|_| {
        Reply::ok("x")
            .with("Keep-Alive", "timeout=5")
            .with("Connection", "keep-alive, X-Hop")
            .with("X-Hop", "1")
            .with("Upgrade", "h2c")
            .with("X-End", "2")
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    let answer = get("/").send(&gateway.address()).expect(200);
    for name in ["Keep-Alive", "X-Hop", "Upgrade"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!((answer.header("X-End"), answer.text().as_str()), (Some("2"), "x"));
}

#[test]
fn an_upstream_cannot_switch_protocols_unasked() {
    let upstream = Upstream::answering(|_| {
        Reply::Raw(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\ntunnel".into(),
        )
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    let upgrade = get("/").header("Connection", "Upgrade").header("Upgrade", "websocket");
    for asking in [get("/"), upgrade] {
        let answer = asking.send(&gateway.address()).expect(502);
        assert_eq!(answer.reason(), "upstream_unreachable");
    }
}

#[test]
fn interim_answers_are_no_answers() {
    let upstream = Upstream::answering(|_| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        Reply::Raw(format!("{early}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").into_bytes())
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let early = connection.read_one(false).unwrap().expect(103);
    assert_eq!(early.header("X-Request-Id"), None);
    assert_eq!(connection.read_response(false).unwrap().expect(200).text(), "ok");
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("code", "200")], 1.0));
}

#[test]
fn a_client_that_goes_away_is_counted_as_499_and_is_nobodys_fault() {
    let upstream = Upstream::answering(|_| Reply::ok("late").after(Duration::from_secs(2)));
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(crate::support::eventually(Duration::from_secs(5), || upstream.hits() == 1));
    drop(connection);
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "all"), ("code", "499")], 1.0));
    let line = gateway.log_line(|line| line["path"] == "/slow");
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(499), Some("anonymous")));
}

#[test]
fn an_upstream_that_waits_for_a_stalled_body_is_not_called_slow() {
    let upstream = Upstream::echo();
    let config = Config::to(&upstream)
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public, timeouts: { read: 400ms } }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    // So long that it is sent on as it comes.
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\npart").unwrap();
    let answer = connection.read_response(false).unwrap().expect(408);
    assert_eq!((answer.reason().as_str(), answer.header("Connection")), ("body_timeout", Some("close")));
}

#[test]
fn an_error_without_a_body_is_a_whole_answer_over_http_2() {
    let config = Config::new()
        .listener("http2: true")
        .upstream_raw("app", &format!("{{ endpoints: [\"http://127.0.0.1:{}\"], retries: 0 }}", free_port()))
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let url = format!("http://{}/", gateway.address());
    assert_eq!(http2::head(&url), 502);
}

#[test]
fn connections_that_ask_for_nothing_do_not_hold_up_the_end() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).listener("http2: true").server("shutdown", "{ drain: 30s }");
    let mut gateway = Gateway::start(&config);
    let silent = Connection::open(&gateway.address()).unwrap();
    let mut hesitant = Connection::open(&gateway.address()).unwrap();
    hesitant.send("PRI * HT").unwrap();
    assert!(gateway.metric_becomes("portcullis_connections", &[], 2.0));
    let start = Instant::now();
    gateway.terminate();
    assert!(gateway.ended_within(Duration::from_secs(20)).expect("still running").success());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop((silent, hesitant));
}

#[test]
fn a_system_without_roots_matters_only_to_upstreams_verified_by_them() {
    let bare = |config: Config| {
        config.environment("SSL_CERT_FILE", "/nonexistent").environment("SSL_CERT_DIR", "/nonexistent")
    };
    let upstream = Upstream::start();
    let gateway = Gateway::start(&bare(Config::public(&upstream)));
    get("/").send(&gateway.address()).expect(200);

    let https = Config::new()
        .upstream_raw("app", "{ endpoints: [\"https://backend.test\"] }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let exit = Gateway::fail(&bare(https));
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains("system's root certificates") && !exit.stderr.contains("panic"), "{exit:?}");
}

#[test]
fn a_header_that_cannot_be_parsed_is_not_quoted_in_the_log() {
    let upstream = Upstream::answering(|_| {
        Reply::Raw(b"HTTP/1.1 200 OK\r\nSet-Cookie: s=upstreams-secret\r\nno colon\r\n\r\n".into())
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    get("/").send(&gateway.address()).expect(502);
    let mut admin = Connection::open(&gateway.admin()).unwrap();
    admin.send("GET /metrics HTTP/1.1\r\nAuthorization: Bearer admins-secret\r\nno colon\r\n\r\n").unwrap();
    let _ = admin.read_to_end();
    let warned = || gateway.stderr().contains("a request could not be proxied");
    assert!(crate::support::eventually(Duration::from_secs(5), warned));
    let said = gateway.stdout() + &gateway.stderr();
    assert!(!said.contains("upstreams-secret") && !said.contains("admins-secret"), "{said}");
}

#[test]
fn a_header_block_that_does_not_end_is_refused_long_before_the_parser_gives_up() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    // The limits are 32 KiB and 8 KiB by default; all that was sent is heard, so that the answer arrives.
    for (start, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", 431, "header_too_large"),
        ("GET /", 414, "target_too_long"),
    ] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        connection.send(start).unwrap();
        connection.send("a".repeat(200 * 1024)).unwrap();
        let answer = connection.read_response(false).unwrap().expect(status);
        assert_eq!((answer.reason().as_str(), answer.header("connection")), (reason, Some("close")));
    }
    assert_eq!(upstream.hits(), 0);
}
