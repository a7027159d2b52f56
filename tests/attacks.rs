//! Attacks that once got further than they should: each holds what was mended.

use crate::support::http2::fetch;
use crate::support::{Config, Connection, Gateway, Sessions, Upstream};
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
