//! Attacks that once got further than they should: each holds what was mended.

use crate::support::http2::fetch;
use crate::support::tls::Authority;
use crate::support::{Config, Connection, Gateway, Sessions, Upstream, eventually, get};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn start(upstream: &Upstream) -> Gateway {
    let config = Config::to(upstream)
        .listener("http2: true")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }")
        .route("{ name: secret, match: { hosts: [secret.example], path: /** }, upstream: app }");
    Gateway::start(&config)
}

/// Sends a request without a body and gives the status of its answer.
fn status(gateway: &Gateway, head: &str) -> u16 {
    let mut connection = Connection::open(&gateway.address()).unwrap().patience(Duration::from_secs(4));
    connection.send(format!("{head}\r\n\r\n")).unwrap();
    connection.read_response(false).unwrap().status
}

#[test]
fn a_host_that_only_some_readers_understand_reaches_no_route() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for host in [
        "secret.example..",
        "secret.example:x",
        "secret.example:+1",
        "secret.example:99999",
        "[secret.example]",
    ] {
        assert_eq!(status(&gateway, &format!("GET /x HTTP/1.1\r\nHost: {host}")), 400, "{host}");
    }
    for host in ["secret.example", "SECRET.example.", "secret.example:80", "secret.example:"] {
        assert_eq!(status(&gateway, &format!("GET /x HTTP/1.1\r\nHost: {host}")), 401, "{host}");
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_method_in_small_letters_is_405() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for method in ["trace", "connect", "get", "Delete"] {
        assert_eq!(status(&gateway, &format!("{method} /x HTTP/1.1\r\nHost: x")), 405, "{method}");
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_target_that_is_more_than_a_path_and_a_query_is_400() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for target in ["/x#/../y", "/x?a#b", "/#", " /x", "x", "ftp://x/y", "localhost:80", "?"] {
        assert_eq!(status(&gateway, &format!("GET {target} HTTP/1.1\r\nHost: x")), 400, "{target}");
    }
    assert_eq!(status(&gateway, "\r\nGET /x#/../y HTTP/1.1\r\nHost: x"), 400);
    assert_eq!(status(&gateway, "GET http://x/y HTTP/1.1\r\nHost: x"), 200);
    assert_eq!(upstream.last().target(), "/y");
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_length_given_twice_is_400_and_no_fault_of_the_upstream() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for length in ["5, 5", "5,5", "5\r\nContent-Length: 5"] {
        let head = format!("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nhello");
        assert_eq!(status(&gateway, &head), 400, "{length}");
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn cookies_of_an_http2_client_leave_in_one_field() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let url = format!("http://{}/x", gateway.address());
    let answer = fetch(&url, &[("cookie", "a=1"), ("cookie", "b=2; c=3")], None);
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.last().all("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn a_login_that_comes_byte_by_byte_is_given_up() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .server("limits", "{ body_timeout: 600ms }")
        .sessions(Sessions::embedded())
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let head = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8000\r\n\r\n";
    let mut connection = Connection::open(&gateway.address()).unwrap().patience(Duration::from_millis(100));
    connection.send(head).unwrap();
    let start = Instant::now();
    let response = loop {
        assert!(start.elapsed() < Duration::from_secs(5), "it is still being read");
        let sent = connection.send(" ");
        match connection.read_response(false) {
            Ok(response) => break response,
            Err(error) => assert!(sent.is_ok(), "ended without an answer: {error}"),
        }
        // The attack itself: a byte now and then.
        sleep(Duration::from_millis(50));
    };
    assert_eq!(response.status, 408);
}

#[test]
fn a_forwarded_address_behind_bytes_that_are_no_text_is_the_one_the_proxy_wrote() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("trusted_proxies", "[127.0.0.0/8]");
    let gateway = Gateway::start(&config);
    // A proxy that adds the address it sees to the last line it got.
    for came in [
        b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: \xff, 198.51.100.4".as_slice(),
        b"X-Forwarded-For: 203.0.113.7, \xff, 198.51.100.4",
        b"X-Forwarded-For: \xc3\xa4, 198.51.100.4",
    ] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        let head = [b"GET / HTTP/1.1\r\nHost: x\r\n", came, b"\r\n\r\n"].concat();
        connection.send(head).unwrap();
        assert_eq!(connection.read_response(false).unwrap().status, 200);
        assert_eq!(upstream.last().header("x-forwarded-for"), Some("198.51.100.4, 127.0.0.1"), "{came:?}");
    }
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let unread = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Proto: \xff\r\n\r\n";
    connection.send(unread).unwrap();
    assert_eq!(connection.read_response(false).unwrap().status, 200);
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("http"));
}

/// A `ClientHello` of TLS 1.2 that asks for this name and is good otherwise.
fn hello(name: &[u8]) -> Vec<u8> {
    let with_length = |width: usize, of: &[u8]| {
        let length = u32::try_from(of.len()).unwrap().to_be_bytes();
        [&length[4 - width..], of].concat()
    };
    let entry = [&[0_u8][..], &with_length(2, name)].concat();
    let extensions = [&[0_u8, 0][..], &with_length(2, &with_length(2, &entry))].concat();
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0], &with_length(2, &extensions)].concat();
    let handshake = [&[1][..], &with_length(3, &hello)].concat();
    [&[22, 3, 1][..], &with_length(2, &handshake)].concat()
}

#[test]
fn names_in_tls_handshakes_that_are_none_write_nothing_into_the_log() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let identity = authority.identity(&["localhost"]);
    let config = Config::public(&upstream)
        .listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: false")
        .file("cert.pem", identity.certificate_pem)
        .file("key.pem", identity.key_pem);
    let gateway = Gateway::start(&config);
    for name in [&b"\xff\xff"[..], b"\x00", b"a..b", b".", b"*.x", b"", &[b'a'; 300]] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        connection.send(hello(name)).unwrap();
        connection.read_to_end().unwrap();
    }
    let served = authority.connect(&gateway.address(), "localhost").and_then(|mut c| c.exchange(&get("/")));
    assert_eq!(served.unwrap().status, 200);
    // What comes after them is there, so they would be too.
    gateway.reload(&config, "ok");
    assert!(eventually(Duration::from_secs(5), || gateway.stderr().contains("configuration reloaded")));
    assert!(!gateway.stderr().contains("rustls"), "{}", gateway.stderr());
}
