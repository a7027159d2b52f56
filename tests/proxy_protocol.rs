//! Listeners behind a proxy of the transport layer: the client is whom the PROXY header names, and without one
//! there is no connection.

use crate::support::tls::Authority;
use crate::support::{Config, Connection, Gateway, Response, Upstream, get};
use std::time::Duration;

const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";
const MISSING: &str = "portcullis_proxy_header_missing_total";

/// A header of version 2 with these addresses, and an extension behind them.
fn binary(command: u8, kind: u8, addresses: &[u8]) -> Vec<u8> {
    let rest = [addresses, &[0x04, 0x00, 0x03, 1, 2, 3]].concat();
    let length = u8::try_from(rest.len()).unwrap();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, kind, 0, length][..], &rest].concat()
}

fn over_ipv6() -> Vec<u8> {
    let mut addresses = [0; 36];
    addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    addresses[15] = 7;
    binary(1, 0x21, &addresses)
}

fn layout(upstream: &Upstream, listener: &str) -> Config {
    Config::public(upstream).listener(listener).server("limits", "{ header_timeout: 500ms }")
}

fn behind(header: &[u8], gateway: &Gateway) -> Connection {
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send(header).unwrap();
    connection
}

#[track_caller]
fn asked(connection: &mut Connection) -> Response {
    connection.exchange(&get("/x")).unwrap().expect(200)
}

#[test]
fn the_client_is_whom_the_header_names_for_the_life_of_the_connection() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream, "proxy_protocol: true"));
    for (header, client) in [
        (LINE.to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::8 1 2\r\n".to_vec(), "2001:db8::7"),
        (binary(1, 0x11, &[198, 51, 100, 9, 10, 0, 0, 1, 0, 9, 1, 187]), "198.51.100.9"),
        (over_ipv6(), "2001:db8::7"),
        // The proxy speaks for itself.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0, 0x00, &[]), "127.0.0.1"),
        (binary(0, 0x11, &[198, 51, 100, 9, 10, 0, 0, 1, 0, 9, 1, 187]), "127.0.0.1"),
    ] {
        let mut connection = behind(&header, &gateway);
        for _ in 0..2 {
            asked(&mut connection);
            assert_eq!(upstream.last().header("x-forwarded-for"), Some(client));
        }
        gateway.log_line(|line| line["client"] == client && line["path"] == "/x");
    }
    // All in one piece, and byte by byte.
    let whole = [LINE, &get("/y").bytes("x")].concat();
    behind(&whole, &gateway).read_response(false).unwrap().expect(200);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    for byte in &whole {
        connection.send([*byte]).unwrap();
    }
    connection.read_response(false).unwrap().expect(200);
    assert!(
        upstream.requests().iter().rev().take(2).all(|r| r.header("x-forwarded-for") == Some("192.0.2.1"))
    );
    assert!(gateway.metric(MISSING, &[]).abs() < 0.5);
}

#[test]
fn the_header_comes_before_tls() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let identity = authority.identity(&["gate.example.test"]);
    let listener = "tls: { certificate: cert.pem, private_key: key.pem }, proxy_protocol: true";
    let config = layout(&upstream, listener)
        .file("cert.pem", identity.certificate_pem)
        .file("key.pem", identity.key_pem);
    let gateway = Gateway::start(&config);
    let connect = |first| authority.connect_after(first, &gateway.address(), "gate.example.test");
    asked(&mut connect(LINE).unwrap());
    assert_eq!(upstream.last().header("x-forwarded-for"), Some("192.0.2.1"));
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
    assert!(connect(b"").unwrap().exchange(&get("/x")).is_err());
    assert!(gateway.metric_becomes(MISSING, &[], 1.0));
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_connection_without_the_header_is_closed_and_counted() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream, "proxy_protocol: true"));
    let mut counted = 0.0;
    for first in [
        &get("/x").bytes("x")[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n",
        // The beginning of one, or nothing, for as long as a request's header may take.
        b"PROXY TCP4 192.0.2.1",
        b"\r\n\r\n\0\r\nQUIT\n\x21",
        b"",
    ] {
        let mut connection = behind(first, &gateway);
        assert!(connection.is_closed_within(Duration::from_secs(10)), "{first:?}");
        counted += 1.0;
        assert!(gateway.metric_becomes(MISSING, &[], counted), "{first:?}");
    }
    assert_eq!(upstream.hits(), 0);
    asked(&mut behind(LINE, &gateway));
}

#[test]
fn where_the_listener_does_not_ask_for_it_nobody_is_believed() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream, "http2: false"));
    let mut connection = behind(&[LINE, &get("/x").bytes("x")].concat(), &gateway);
    connection.read_response(false).unwrap().expect(400);
    assert_eq!(upstream.hits(), 0);
}
