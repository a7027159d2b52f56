//! HTTP/1.1 on the wire: what could be read in two ways is refused, and no byte of one request is ever
//! read as another.

use crate::support::http2_client::Http2Client;
use crate::support::{Config, Connection, Gateway, Reply, Upstream, get};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

/// The request that must never arrive.
const SMUGGLED: &str = "GET /admin/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

fn start(upstream: &Upstream) -> Gateway {
    let config = Config::to(upstream)
        .server("limits", "{ body_timeout: 500ms, header_timeout: 1s, idle_timeout: 1s }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }")
        .route("{ name: admin, match: { path: /admin/** }, upstream: app }");
    Gateway::start(&config)
}

/// Sends the bytes and gives the status of the first answer, and everything else that came, after the
/// connection has ended or gone quiet.
fn battle(gateway: &Gateway, bytes: &[u8]) -> (Option<u16>, String) {
    let mut connection = Connection::open(&gateway.address()).unwrap().patience(Duration::from_secs(4));
    let _ = connection.send(bytes);
    let first = connection.read_response(false).ok().map(|response| response.status);
    let rest = connection.read_to_end().unwrap_or_default();
    (first, String::from_utf8_lossy(&rest).into_owned())
}

#[track_caller]
fn nothing_smuggled(upstream: &Upstream) {
    for received in upstream.requests() {
        assert!(!received.target().contains("smuggled"), "smuggled: {received:?}");
    }
}

#[test]
fn requests_that_are_not_one_clear_request_are_400() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for bytes in [
        // Host: RFC 9112 section 3.2.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        // The request line: RFC 9112 section 3.
        "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a?b c HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a?\"<>\x7f HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET  /a HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a  HTTP/1.1\r\nHost: x\r\n\r\n",
        // Lengths: RFC 9112 section 6.3.
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
        // Transfer codings: exactly one `chunked`, in HTTP/1.1 only.
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Header lines: RFC 9112 section 5.
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n folded: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n X-A: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX(a): 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: a\rb: c\r\n\r\n",
        // The request line.
        "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        "GET /\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let (status, _) = battle(&gateway, bytes.as_bytes());
        assert!(matches!(status, None | Some(400 | 505)), "{status:?} for {bytes:?}");
        assert_eq!(upstream.hits(), 0, "forwarded: {bytes:?} as {:?}", upstream.requests());
    }
}

#[test]
fn the_wrongs_that_the_contract_names_get_an_answer_and_not_only_a_closed_door() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for bytes in [
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(battle(&gateway, bytes.as_bytes()).0, Some(400), "{bytes:?}");
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn odd_bytes_of_a_target_arrive_in_the_form_that_was_judged_or_not_at_all() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for (target, arrives) in [
        ("/a<b>", "/a%3Cb%3E"),
        ("/a\"b", "/a%22b"),
        ("/a b", "/a%20b"),
        ("/a HTTP/1.1", "/a%20HTTP/1.1"),
        ("/a'(b)", "/a'(b)"),
        ("/admin/a b", "/admin/a%20b"),
        ("/a /admin/x", ""),
        ("/x /../admin/x", ""),
        ("/admin /x", ""),
        ("/a\tb", ""),
        ("/a\x0bb", ""),
        ("/a\x7fb", ""),
    ] {
        let before = upstream.hits();
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (status, _) = battle(&gateway, bytes.as_bytes());
        if status == Some(200) {
            assert_eq!((upstream.last().target(), upstream.hits()), (arrives, before + 1), "{target:?}");
        } else {
            assert!(matches!(status, None | Some(400 | 401)), "{target:?}: {status:?}");
            assert_eq!(upstream.hits(), before, "{target:?}: {:?}", upstream.requests());
        }
    }
}

#[test]
fn bytes_outside_ascii_in_a_value_arrive_as_they_came_and_part_nothing() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let bytes = b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x80\xff\xc4\x8a\xc4\x8dX-B: b\r\n\r\n";
    assert_eq!(battle(&gateway, bytes).0, Some(200));
    assert_eq!(upstream.last().all("x-a"), ["a\u{80}\u{ff}\u{c4}\u{8a}\u{c4}\u{8d}X-B: b"]);
    assert!(upstream.last().all("x-b").is_empty());
}

#[test]
fn lines_that_end_in_line_feeds_alone_are_sent_on_with_proper_ends_or_refused() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let (status, _) = battle(&gateway, b"GET /a HTTP/1.1\nHost: x\nX-A: 1\n\n");
    assert!(matches!(status, Some(200 | 400)), "{status:?}");
    if status == Some(200) {
        let received = upstream.last();
        assert_eq!((received.target(), received.header("x-a")), ("/a", Some("1")));
    }
}

#[test]
fn a_second_request_hidden_in_a_first_never_runs() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let length = SMUGGLED.len();
    for bytes in [
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        ),
        format!("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{length:x};ext=\"\r\n\"\r\n{SMUGGLED}\r\n0\r\n\r\n"
        ),
        format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{SMUGGLED}"),
        format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{SMUGGLED}"),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{SMUGGLED}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n{SMUGGLED}"
        ),
        // A refusal must not leave its body behind as the next request.
        format!("POST /admin/x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!("POST /../x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"),
        format!(
            "POST /admin/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
        ),
    ] {
        battle(&gateway, bytes.as_bytes());
        nothing_smuggled(&upstream);
    }
    let log = gateway.stdout();
    assert!(!log.contains("smuggled"), "a hidden request was run and logged: {log}");
}

#[test]
fn an_upgrade_that_no_route_allows_opens_no_tunnel() {
    // CVE-2026-2833: bytes after an Upgrade request were passed on before the upstream had agreed.
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for upgrade in ["websocket", "h2c", "foo", "TLS/1.0"] {
        let bytes = format!(
            "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\
             HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n{SMUGGLED}"
        );
        let (status, _) = battle(&gateway, bytes.as_bytes());
        assert_ne!(status, Some(101));
        nothing_smuggled(&upstream);
    }
    for received in upstream.requests() {
        assert!(received.all("upgrade").is_empty(), "{:?}", received.header_lines);
        assert!(
            !received
                .header_lines
                .iter()
                .any(|line| line.to_ascii_lowercase().starts_with("connection: upgrade"))
        );
    }
}

#[test]
fn an_upstream_that_switches_protocols_unasked_gets_no_tunnel() {
    let upstream = Upstream::answering(|_| {
        Reply::Raw(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        )
    });
    let gateway = start(&upstream);
    let (status, _) = battle(&gateway, format!("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n{SMUGGLED}").as_bytes());
    assert_ne!(status, Some(101));
    nothing_smuggled(&upstream);
}

#[test]
fn pipelined_requests_are_each_judged_on_their_own() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let bytes =
        format!("GET /one HTTP/1.1\r\nHost: x\r\n\r\n{SMUGGLED}GET /three HTTP/1.1\r\nHost: x\r\n\r\n");
    let (first, rest) = battle(&gateway, bytes.as_bytes());
    assert_eq!(first, Some(200));
    nothing_smuggled(&upstream);
    let (refused, served) = rest.split_once("HTTP/1.1 200").expect("an answer to the third");
    assert!(refused.starts_with("HTTP/1.1 401") && !served.contains("HTTP/1.1"), "{rest}");
}

#[test]
fn hop_by_hop_fields_end_at_the_gateway() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    get("/")
        .header("Connection", "keep-alive, X-Hop")
        .header("X-Hop", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Authorization", "Basic eDp5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers")
        .header("Trailer", "X-End")
        .send(&gateway.address())
        .expect(200);
    let received = upstream.last();
    for name in ["x-hop", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade"]
    {
        assert!(received.all(name).is_empty(), "{name} went through: {:?}", received.header_lines);
    }
    assert!(received.all("connection").iter().all(|value| !value.to_ascii_lowercase().contains("x-hop")));
}

#[test]
fn an_upstream_answer_cannot_be_split_into_two() {
    let upstream = Upstream::answering(|received| {
        if received.target() == "/extra" {
            Reply::Raw(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil".to_vec(),
            )
        } else {
            Reply::ok("fine")
        }
    });
    let gateway = start(&upstream);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    assert_eq!(connection.exchange(&get("/extra")).unwrap().expect(200).text(), "ok");
    // Whatever became of the connection, the next answer is the next answer.
    if let Ok(next) = connection.exchange(&get("/next")) {
        assert_ne!(next.text(), "evil");
    }
    assert_eq!(get("/next").send(&gateway.address()).expect(200).text(), "fine");
}

#[test]
fn random_bytes_never_bring_the_gateway_down() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    // A fixed seed: every run is the same (xorshift).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds: [&[u8]; 3] = [
        b"GET /a/b?c HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\nCookie: a=b\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ];
    for round in 0..150 {
        let mut bytes = seeds[round % seeds.len()].to_vec();
        for _ in 0..=(next() % 4) {
            let at = usize::try_from(next()).unwrap() % bytes.len();
            bytes[at] = next().to_le_bytes()[0];
        }
        let mut connection =
            Connection::open(&gateway.address()).unwrap().patience(Duration::from_millis(20));
        let _ = connection.send(&bytes);
        let _ = connection.finish_writing();
        let _ = connection.read_to_end();
    }
    get("/").send(&gateway.address()).expect(200);
    assert!(gateway.metric("portcullis_panics_total", &[]) < 0.5, "a panic was contained");
}

#[test]
fn a_body_over_http_2_that_ends_with_an_empty_piece_ends_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("{{ endpoints: [\"http://{}\"] }}", listener.local_addr().unwrap());
    let config = Config::new()
        .listener("http2: true")
        .upstream_raw("app", &endpoint)
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let upstream = std::thread::spawn(move || {
        let (mut wire, _) = listener.accept().unwrap();
        let mut seen = String::new();
        for end in ["\r\n0\r\n\r\n", "/next HTTP/1.1\r\n"] {
            while !seen.contains(end) {
                let mut piece = [0; 4096];
                let count = wire.read(&mut piece).unwrap();
                assert!(count > 0, "{seen}");
                seen.push_str(str::from_utf8(&piece[..count]).unwrap());
            }
            wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        seen
    });
    let mut client = Http2Client::connect(&gateway.address());
    let (mut exchange, mut body) = client.upload("/first", &[]);
    body.send("ten bytes.", false);
    body.send("", true);
    assert_eq!(exchange.status(), 200);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    // Forwarded by the engine, which keeps the connection.
    connection.send("GET /next HTTP/1.1\r\nHost: x\r\nKeep-Alive: timeout=5\r\n\r\n").unwrap();
    connection.read_response(false).unwrap().expect(200);
    let seen = upstream.join().unwrap();
    assert!(seen.contains("\r\nten bytes.\r\n0\r\n\r\nGET /next HTTP/1.1\r\n"), "{seen}");
}
