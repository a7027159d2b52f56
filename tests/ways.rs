//! A request can go two ways: plain ones go directly, all others through the engine. Nobody can tell which.
//! And what reaches a client of a response that no client should get as it came.

use crate::support::client::{Connection, get};
use crate::support::http_server::{Received, Reply};
use crate::support::http2_client::Http2Client;
use crate::support::{Config, Gateway, Issuer, Sessions, Upstream, eventually};
use http::HeaderMap;
use std::net::TcpListener;
use std::time::Duration;

/// Makes of a plain request one for the engine. It is not passed on.
const THROUGH_THE_ENGINE: &str = "Keep-Alive: timeout=5\r\n";
const THROUGH_THE_ENGINE_OVER_HTTP_2: (&str, &str) = ("trailer", "x-sum");

/// Responses as upstreams send them, well-formed and not. After each the upstream closes its connection.
const RESPONSES: [&[u8]; 44] = [
    b"",
    b"H",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\noks",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Auth-Subject: root\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nSet-Cookie: a=1\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 205 Reset Content\r\n\r\n",
    b"HTTP/1.1 404 Nowhere To Be Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\ntunnel",
    b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-CASE: Kept\r\nX-Request-Id: theirs\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX-Bytes: \xe9\xff\r\nContent-Length: 2\r\n\r\nok",
];

/// Everything the gateway sends, but for the time.
fn all_of(gateway: &Gateway, head: &str) -> Vec<String> {
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send(format!("{head}\r\n")).unwrap();
    let answer: String = connection.read_to_end().unwrap().into_iter().map(char::from).collect();
    answer.split("\r\n").filter(|line| !line.starts_with("Date: ")).map(ToOwned::to_owned).collect()
}

#[test]
fn a_response_reaches_the_client_the_same_either_way() {
    let upstream = Upstream::answering(|request| {
        let number: usize = request.target().trim_start_matches('/').parse().unwrap();
        Reply::Raw(RESPONSES[number].to_vec())
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    let (mut answered, mut refused) = (0, 0);
    for (number, response) in RESPONSES.iter().enumerate() {
        let head =
            format!("GET /{number} HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\nConnection: close\r\n");
        let directly = all_of(&gateway, &head);
        let through = all_of(&gateway, &format!("{head}{THROUGH_THE_ENGINE}"));
        assert_eq!(directly, through, "{}", response.escape_ascii());
        let refusal = directly.iter().any(|line| line.contains("upstream_unreachable"));
        *(if refusal { &mut refused } else { &mut answered }) += 1;
    }
    assert!(answered > 20 && refused > 8, "{answered} {refused}");
    // What reached the upstream either way was the same too.
    let requests = upstream.requests();
    assert!(requests.iter().all(|request| request.header("keep-alive").is_none()));
}

#[test]
fn over_http_2_a_response_reaches_the_client_the_same_either_way() {
    let upstream = Upstream::answering(|request| {
        let number: usize = request.target().trim_start_matches('/').parse().unwrap();
        Reply::Raw(RESPONSES[number].to_vec())
    });
    let gateway = Gateway::start(&Config::public(&upstream).listener("http2: true"));
    let mut client = Http2Client::connect(&gateway.address());
    let (mut answered, mut broken) = (0, 0);
    for (number, response) in RESPONSES.iter().enumerate() {
        let path = format!("/{number}");
        let fields = [("x-request-id", "same"), THROUGH_THE_ENGINE_OVER_HTTP_2];
        let [directly, through] = [&fields[..1], &fields].map(|fields| {
            let (head, mut body, end) = client.ask("GET", &path, fields, b"").all();
            // Of a stream that is reset, HTTP/2's library drops what it has not sent by then.
            if end.is_err() {
                assert!(b"ab".starts_with(&body), "{}: {body:?}", response.escape_ascii());
                body.clear();
            }
            (head, body, end)
        });
        assert_eq!(directly, through, "{}", response.escape_ascii());
        *(if directly.2.is_ok() { &mut answered } else { &mut broken }) += 1;
    }
    assert!(answered > 20 && broken > 2, "{answered} {broken}");
}

#[test]
fn over_http_2_a_request_reaches_the_upstream_the_same_either_way() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&Config::public(&upstream).listener("http2: true"));
    let mut client = Http2Client::connect(&gateway.address());
    let usual = [
        ("x-request-id", "same"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-many", "1"),
        ("x-auth-subject", "forged"),
        ("x-many", "2"),
        ("te", "trailers"),
    ];
    for (method, length) in [
        ("GET", 0),
        ("DELETE", 0),
        ("OPTIONS", 0),
        ("POST", 0),
        ("POST", 1),
        ("PUT", 65_536),
        ("GET", 70_000),
    ] {
        let body: Vec<u8> = (0_u8..=250).cycle().take(length).collect();
        let said = length.to_string();
        // Which the client says in any case but for nothing.
        let length = (length > 0).then_some(("content-length", said.as_str()));
        let mut arrived = Vec::new();
        for more in [None, Some(THROUGH_THE_ENGINE_OVER_HTTP_2)] {
            let fields: Vec<_> = usual.into_iter().chain(length).chain(more).collect();
            let (_, echoed, end) = client.ask(method, "/a%20b/c?d=%zz&e", &fields, &body).all();
            assert_eq!((echoed, end), (body.clone(), Ok(HeaderMap::new())));
            let Received { line, header_lines, body, .. } = upstream.last();
            // The engine spells what the gateway says in small letters here.
            let mut fields: Vec<_> = header_lines.iter().map(|field| field.to_ascii_lowercase()).collect();
            fields.sort_unstable();
            arrived.push((line, fields, body));
        }
        assert_eq!(arrived[0], arrived[1], "{method}");
        let (line, fields, _) = &arrived[0];
        assert_eq!(*line, format!("{method} /a%20b/c?d=%zz&e HTTP/1.1"));
        let host = format!("host: {}", gateway.address());
        assert_eq!(fields.iter().filter(|field| field.starts_with("host:")).collect::<Vec<_>>(), [&host]);
        assert!(!fields.iter().any(|field| field.contains("forged")), "{fields:?}");
    }
}

#[test]
fn a_body_reaches_the_upstream_the_same_either_way() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    // With the header block or after it; of the length up to which the direct way takes it, and longer.
    for (length, together) in [
        (0, true),
        (1, true),
        (1, false),
        (3000, true),
        (5000, true),
        (65_536, true),
        (65_536, false),
        (65_537, true),
        (65_537, false),
    ] {
        let body: Vec<u8> = (0_u8..=250).cycle().take(length).collect();
        let mut arrived = Vec::new();
        for more in ["", THROUGH_THE_ENGINE] {
            for method in ["POST", "PUT", "DELETE", "GET"] {
                let head = format!("{method} /a?b HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\n");
                let head = format!("{head}content-LENGTH: {length}\r\nX-Last: 1\r\n{more}\r\n");
                connection.send(&head.as_bytes()[..if together { 0 } else { head.len() }]).unwrap();
                let rest = if together { head.into_bytes() } else { Vec::new() };
                connection.send([rest, body.clone()].concat()).unwrap();
                assert_eq!(connection.read_response(false).unwrap().expect(200).body, body);
                let Received { line, mut header_lines, body, .. } = upstream.last();
                header_lines.sort_unstable();
                arrived.push((line, header_lines, body));
            }
        }
        let through = arrived.split_off(4);
        assert_eq!(arrived, through, "{length} {together}");
        assert!(through[0].1.contains(&format!("content-LENGTH: {length}")), "{:?}", through[0].1);
    }
}

#[test]
fn what_follows_a_body_is_no_part_of_it() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&Config::public(&upstream));
    for more in ["", THROUGH_THE_ENGINE] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        let evil = "GET /evil HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        connection
            .send(format!("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 003\r\n{more}\r\nabc{evil}"))
            .unwrap();
        assert_eq!(connection.read_response(false).unwrap().expect(200).text(), "abc");
        let _ = connection.read_to_end();
        // The upstream's next request is one that the gateway has read as such.
        let seen = upstream.requests();
        let mut after = seen.iter().skip_while(|request| request.target() != "/a");
        assert_eq!(after.next().unwrap().body, b"abc", "{more}");
        assert!(after.all(|request| request.header("x-forwarded-for").is_some()), "{more}");
    }
}

#[test]
fn requests_sent_ahead_are_answered_in_their_order() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/slow" => Reply::ok(request.body.clone()).after(Duration::from_millis(200)),
        target => Reply::ok(target),
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    let long = "long".repeat(40_000);
    // With the first request, or while that is at its upstream.
    for (waits, head, body) in [
        (false, "", "body"),
        (true, "", "body"),
        (false, THROUGH_THE_ENGINE, "body"),
        (true, THROUGH_THE_ENGINE, "body"),
        (false, "", &long),
        (true, "", &long),
    ] {
        let more =
            (0..200).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n{head}\r\n")).collect::<String>();
        let mut connection = Connection::open(&gateway.address()).unwrap();
        let before = upstream.hits();
        let length = body.len();
        connection
            .send(format!("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{head}\r\n{body}"))
            .unwrap();
        assert!(!waits || eventually(Duration::from_secs(10), || upstream.hits() > before));
        connection.send(&more).unwrap();
        assert_eq!(connection.read_response(false).unwrap().expect(200).text(), body);
        for number in 0..200 {
            assert_eq!(connection.read_response(false).unwrap().expect(200).text(), format!("/{number}"));
        }
    }
}

#[test]
fn an_upstream_hears_of_a_short_body_when_all_of_it_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let upstream = format!("{{ endpoints: [\"http://{}\"] }}", listener.local_addr().unwrap());
    let config = Config::new()
        .listener("http2: true")
        .upstream_raw("app", &upstream)
        .server("limits", "{ body_timeout: 300ms }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    assert_eq!(connection.read_response(false).unwrap().expect(408).reason(), "body_timeout");
    let mut client = Http2Client::connect(&gateway.address());
    let (mut stalled, mut body) = client.upload("/over-http-2", &[("content-length", "10")]);
    body.send("half", false);
    assert_eq!(stalled.data(), Err("CANCEL".to_owned()), "the stream is reset");
    let nobody = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "a client that stalls occupies the upstream");
    for path in ["/", "/over-http-2"] {
        let line = gateway.log_line(|line| line["path"] == path);
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(408), Some("body_timeout")));
    }
}

#[test]
fn a_connection_is_kept_the_same_either_way() {
    let upstream = Upstream::answering(|request| match request.target() {
        "/length" => Reply::ok("text"),
        "/chunked" => Reply::Chunked(vec![b"one".to_vec(), b"two".to_vec()]),
        "/empty" => Reply::status(204, ""),
        "/end" => Reply::Raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()),
        "/cut" => Reply::CloseMidBody { promised: 9, sent: b"cut".to_vec() },
        _ => Reply::Close,
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    for (target, kept) in [
        ("/length", true),
        ("/chunked", true),
        ("/empty", true),
        ("/end", true),
        ("/cut", false),
        ("/close", false),
    ] {
        for more in [None, Some(("Keep-Alive", "timeout=5"))] {
            let mut connection = Connection::open(&gateway.address()).unwrap();
            let asked = more.into_iter().fold(get(target), |asked, (name, value)| asked.header(name, value));
            let answer = connection.exchange(&asked);
            let word = answer.as_ref().ok().and_then(|answer| answer.header("connection").map(str::to_owned));
            let again = connection.exchange(&get("/length"));
            assert_eq!(again.is_ok_and(|answer| answer.status == 200), kept, "{target} {more:?} {word:?}");
        }
    }
}

#[test]
fn what_came_of_a_response_that_breaks_off_reaches_the_client() {
    let upstream = Upstream::answering(|_| Reply::CloseMidBody { promised: 9, sent: b"cut".to_vec() });
    let gateway = Gateway::start(&Config::public(&upstream));
    let answer = all_of(&gateway, "GET / HTTP/1.1\r\nHost: x\r\n");
    assert_eq!(answer.last().unwrap(), "cut", "{answer:?}");
    assert!(answer.contains(&"Content-Length: 9".to_owned()), "{answer:?}");
}

#[test]
fn an_interim_response_is_no_answer_to_an_upstream_that_fails() {
    let upstream =
        Upstream::answering(|_| Reply::Raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec()));
    let gateway = Gateway::start(&Config::public(&upstream));
    for more in ["", THROUGH_THE_ENGINE] {
        let mut connection = Connection::open(&gateway.address()).unwrap();
        connection.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{more}\r\n")).unwrap();
        connection.read_one(false).unwrap().expect(103);
        let answer = connection.read_response(false).unwrap().expect(502);
        assert_eq!(answer.reason(), "upstream_unreachable");
    }
}

#[test]
fn a_client_of_http_1_0_gets_neither_chunks_nor_interim_responses() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for response in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\ntext",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ntext",
    ] {
        let upstream = Upstream::answering(move |_| Reply::Raw(format!("{early}{response}").into_bytes()));
        let gateway = Gateway::start(&Config::public(&upstream));
        for more in ["", "Connection: keep-alive\r\n"] {
            let mut connection = Connection::open(&gateway.address()).unwrap();
            connection.send(format!("GET / HTTP/1.0\r\nHost: x\r\n{more}\r\n")).unwrap();
            let answer = connection.read_one(false).unwrap().expect(200);
            assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("text", None));
        }
    }
}

#[test]
fn a_refusal_reads_the_same_however_it_is_written() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream).issuer("corp", &issuer.settings()).route(
        "{ name: x, match: { path: /x }, upstream: app, auth: { mode: required }, \
         cors: { origins: [\"https://page.example\"] }, rate_limit: { requests: 900, per: 1m, by: address } }",
    );
    let gateway = Gateway::start(&config);
    let head = "/x HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\nOrigin: https://page.example\r\n";
    let ask = |connection: &mut Connection, method: &str, more: &str| {
        connection.send(format!("{method} {head}{more}")).unwrap();
        let answer = connection.read_response(method == "HEAD").unwrap().expect(401);
        let counted = |name: &str| name.starts_with("ratelimit") || name == "date";
        let fields = answer.headers.iter().filter(|(name, _)| !counted(&name.to_ascii_lowercase()));
        (fields.cloned().collect::<Vec<_>>(), answer.text())
    };
    let mut connection = Connection::open(&gateway.address()).unwrap();
    // Some are written in one piece, others by the server session; all on one connection.
    let (fields, body) = ask(&mut connection, "GET", "\r\n");
    assert!(
        fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("access-control-allow-origin")),
        "{fields:?}"
    );
    for (method, more) in [("DELETE", "\r\n"), ("POST", "Content-Length: 3\r\n\r\nabc")] {
        assert_eq!(ask(&mut connection, method, more), (fields.clone(), body.clone()), "{method}");
    }
    assert_eq!(ask(&mut connection, "HEAD", "\r\n"), (fields, String::new()));
    assert!(upstream.requests().is_empty());
}

#[test]
fn nothing_that_follows_a_request_is_lost_on_a_connection_that_goes_on() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::to(&upstream).sessions(Sessions::embedded()));
    let login = "{\"username\":\"nobody\",\"password\":\"x\",\"delivery\":\"body\"}";
    let chunked = format!("{:x}\r\n{login}\r\n0\r\n\r\n", login.len());
    let more = "GET /none HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let post = "POST /auth/login HTTP/1.1\r\nContent-Type: application/json";
    for (line, body) in [
        ("GET /none HTTP/1.1".to_owned(), ""),
        (format!("{post}\r\nTransfer-Encoding: chunked"), &*chunked),
        (format!("{post}\r\nContent-Length: {}", login.len()), login),
    ] {
        // Of the header block's length depends what is read together: the parser reads up to 4096 bytes first.
        for length in [200_usize, 4000, 4094, 4095, 4096, 4097, 4100, 8192] {
            let head = format!("{line}\r\nHost: x\r\nX-Pad: ");
            let pad = "a".repeat(length.saturating_sub(head.len() + 4));
            let mut connection = Connection::open(&gateway.address()).unwrap();
            connection.send(format!("{head}{pad}\r\n\r\n{body}{more}{last}")).unwrap();
            let rest = connection.read_to_end().expect("a connection whose last request was lost stays open");
            let answers = String::from_utf8_lossy(&rest).matches("HTTP/1.1 4").count();
            assert_eq!(answers, 3, "{line} {length}: {}", String::from_utf8_lossy(&rest));
        }
    }
}

#[test]
fn a_header_that_is_no_utf_8_passes_whatever_is_logged() {
    let response = b"HTTP/1.1 200 OK\r\nX-Bytes: \xe9\xff\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::answering(|_| Reply::Raw(response.to_vec()));
    let gateway = Gateway::start(&Config::public(&upstream).set("log", "{ level: trace, access: true }"));
    for more in ["", THROUGH_THE_ENGINE] {
        let lines = all_of(&gateway, &format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}"));
        assert!(lines.contains(&"X-Bytes: \u{e9}\u{ff}".to_owned()), "{lines:?}");
    }
}
