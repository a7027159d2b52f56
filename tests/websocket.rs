//! WebSocket connections: only where a route says so, with a token, and no longer than the token.

use crate::support::config::cheap_users;
use crate::support::person::{Tokens, login, login_as, login_request, logout, refresh};
use crate::support::tls::Authority;
use crate::support::tunnel::{
    ACCEPTED, CLOSE, PING, PONG, TEXT, Tunnels, frame, handshake, masked, open, read_frame,
};
use crate::support::{
    Config, Connection, Gateway, Issuer, Reply, Sessions, Token, Upstream, eventually, get, post,
};
use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// 1008: policy violation.
const POLICY: [u8; 2] = 1008_u16.to_be_bytes();

fn config(upstream: &Tunnels) -> Config {
    Config::new().upstream_raw("app", &upstream.settings())
}

/// A route for WebSocket connections with these further keys.
fn route(more: &str) -> String {
    format!("{{ name: ws, match: {{ path: /ws }}, upstream: app, upgrade: true{more} }}")
}

/// With people who can log in, and a short grace, so that a replay is found out soon.
fn with_sessions(config: Config) -> Config {
    let sessions =
        Sessions::embedded().set("refresh_token", "{ grace: 0s, coalesce: 0s, lost_response: 0s }");
    config.sessions(sessions).file("users.yaml", cheap_users(&["alice", "bob"]))
}

/// Says a text and hears it again.
#[track_caller]
fn assert_alive(client: &mut Connection, text: &str) {
    client.send(masked(TEXT, text.as_bytes())).expect("a frame to be sent");
    assert_eq!(read_frame(client).expect("its echo"), (TEXT, text.as_bytes().to_vec()));
}

/// What the client is told at the end, which comes in good order.
#[track_caller]
fn assert_closed(client: &mut Connection) {
    assert_eq!(read_frame(client).expect("a goodbye"), (CLOSE, POLICY.to_vec()));
    assert_eq!(client.read_to_end().expect("the end of the connection"), b"");
}

#[test]
fn frames_and_pings_pass_both_ways_and_the_upstream_is_told_who_it_is() {
    let (upstream, issuer) = (Tunnels::echoing(), Issuer::start());
    let gateway = Gateway::start(
        &config(&upstream)
            .issuer("corp", &issuer.settings())
            .set("forward", "{ headers: { X-Auth-Subject: sub } }")
            .route(&route(", auth: { scopes: [orders:read] }")),
    );
    let request =
        handshake("/ws?room=1").bearer(&issuer.sign()).header("X_Auth_Subject", "root").header("X-Hop", "1");
    let mut client = open(&gateway.address(), &request);
    assert_alive(&mut client, "hello");
    assert_alive(&mut client, &"long ".repeat(10_000));
    client.send(masked(PING, b"are you there")).unwrap();
    assert_eq!(read_frame(&mut client).unwrap(), (PONG, b"are you there".to_vec()));
    client.send(masked(CLOSE, &[3, 0xe8])).unwrap();
    assert_eq!(read_frame(&mut client).unwrap(), (CLOSE, vec![3, 0xe8]), "the upstream's own goodbye");
    drop(client);

    let head = upstream.heads().pop().unwrap().to_ascii_lowercase();
    for line in ["get /ws?room=1 http/1.1", "x-auth-subject: f:9c1:maria", "upgrade: websocket"] {
        assert!(head.contains(line), "{line} is missing in\n{head}");
    }
    assert!(!head.contains("root") && !head.contains("authorization"), "{head}");
    let line = gateway.log_line(|line| line["route"] == "ws");
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"ok".into()));
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "ws"), ("code", "101")], 1.0));
    assert!(
        eventually(Duration::from_secs(5), || upstream.ended() == 1),
        "the upstream's connection is kept"
    );
}

#[test]
fn without_a_good_token_nothing_is_upgraded_and_nothing_reaches_the_upstream() {
    let (upstream, issuer) = (Tunnels::echoing(), Issuer::start());
    let gateway = Gateway::start(
        &config(&upstream).issuer("corp", &issuer.settings()).route(&route(", auth: { scopes: [admin] }")),
    );
    let address = gateway.address();
    handshake("/ws").send(&address).expect(401);
    handshake("/ws").bearer("nonsense").send(&address).expect(401);
    handshake("/ws").bearer(&issuer.sign()).send(&address).expect(403);
    // Where people put tokens when a browser cannot send a header.
    handshake(&format!("/ws?access_token={}", issuer.sign())).send(&address).expect(401);
    let in_protocol = format!("bearer, {}", issuer.sign());
    handshake("/ws").header("Sec-WebSocket-Protocol", &in_protocol).send(&address).expect(401);
    assert_eq!(upstream.heads(), Vec::<String>::new());
}

#[test]
fn what_is_no_whole_handshake_is_an_ordinary_request_without_upgrade() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream).route(&route(", auth: public"));
    let gateway =
        Gateway::start(&config.route("{ name: no, match: { path: /no }, upstream: app, auth: public }"));
    let asks = |target: &str, upgrade: &str| {
        get(target)
            .header("Connection", "Upgrade")
            .header("Upgrade", upgrade)
            .header("Sec-WebSocket-Version", "13")
    };
    let key = crate::support::tunnel::KEY;
    for request in [
        asks("/ws", "h2c").header("Sec-WebSocket-Key", key),
        asks("/ws", "websocket, h2c").header("Sec-WebSocket-Key", key),
        asks("/ws", "websocket").header("Upgrade", "h2c").header("Sec-WebSocket-Key", key),
        asks("/ws", "websocket"),
        asks("/ws", "websocket").header("Sec-WebSocket-Key", "short"),
        asks("/ws", "websocket").header("Sec-WebSocket-Key", key).body("x"),
        get("/ws").header("Upgrade", "websocket").header("Sec-WebSocket-Key", key),
        handshake("/no"),
    ] {
        request.send(&gateway.address()).expect(200);
        let received = upstream.last();
        assert!(received.all("upgrade").is_empty(), "{request:?}\n{:?}", received.header_lines);
    }
    // An upstream that switches to something else, or was not asked to.
    for (target, to) in [("/ws", "h2c"), ("/no", "websocket")] {
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n");
        upstream.answer(move |_| Reply::Raw(answer.clone().into_bytes()));
        handshake(target).send(&gateway.address()).expect(502);
    }
    upstream.answer(|_| Reply::status(403, "not you"));
    let refused = handshake("/ws").send(&gateway.address()).expect(403);
    assert_eq!(refused.text(), "not you", "the upstream may refuse");
}

#[test]
fn a_websocket_is_closed_with_1008_when_its_token_expires() {
    let (upstream, issuer) = (Tunnels::echoing(), Issuer::start());
    let settings = issuer.settings_with(", leeway: 1s");
    let gateway = Gateway::start(&config(&upstream).issuer("corp", &settings).route(&route("")));
    let token = |token: Token| token.expires_in(3).sign(&issuer.key);
    let start = Instant::now();
    let mut client = open(&gateway.address(), &handshake("/ws").bearer(&token(issuer.token())));
    assert_alive(&mut client, "while the token is good");
    assert_closed(&mut client);
    let took = start.elapsed();
    // `exp` has whole seconds.
    assert!((Duration::from_millis(2900)..Duration::from_secs(12)).contains(&took), "ended after {took:?}");
    let line = gateway.log_line(|line| line["route"] == "ws");
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"expired".into()));
    let labels = [("route", "ws"), ("reason", "expired")];
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &labels, 1.0));
    assert!(
        eventually(Duration::from_secs(5), || upstream.ended() == 1),
        "the upstream's connection is kept"
    );
}

/// A way to end a session.
type End = fn(&Gateway, &Tokens);

#[test]
fn a_websocket_is_closed_with_1008_when_its_session_ends() {
    let upstream = Tunnels::echoing();
    let gateway = Gateway::start(&with_sessions(config(&upstream)).route(&route("")));
    let address = gateway.address();
    let ends: [(&str, End); 3] = [
        ("logout", |gateway, tokens| drop(logout(gateway, &tokens.refresh).expect(204))),
        ("logout-all", |gateway, tokens| {
            post("/auth/logout-all").bearer(&tokens.access).send(&gateway.address()).expect(200);
        }),
        ("replay", |gateway, tokens| {
            let next = refresh(gateway, &tokens.refresh).expect(200).member("refreshToken");
            refresh(gateway, &next).expect(200);
            refresh(gateway, &tokens.refresh).expect(401);
        }),
    ];
    for (name, end) in ends {
        let (tokens, other) = (login(&gateway), login_as(&gateway, "bob"));
        let mut client = open(&address, &handshake("/ws").bearer(&tokens.access));
        let mut stays = open(&address, &handshake("/ws").bearer(&other.access));
        assert_alive(&mut client, "before");
        end(&gateway, &tokens);
        let start = Instant::now();
        assert_closed(&mut client);
        assert!(start.elapsed() < Duration::from_secs(5), "{name} was felt after {:?}", start.elapsed());
        assert_alive(&mut stays, "another session goes on");
    }
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[("reason", "revoked")], 3.0));
}

#[test]
fn a_goodbye_never_cuts_into_a_frame() {
    let (step, steps) = mpsc::channel::<()>();
    let steps = std::sync::Mutex::new(steps);
    let upstream = Tunnels::start(move |_, mut wire| {
        let text = frame(TEXT, b"in two halves");
        wire.get_mut().write_all(&[ACCEPTED.as_bytes(), &text[..5]].concat())?;
        let _ = steps.lock().unwrap().recv();
        wire.get_mut().write_all(&text[5..])?;
        wire.get_mut().write_all(&frame(TEXT, b"after the end"))?;
        wire.read_to_end(&mut Vec::new()).map(drop)
    });
    let gateway = Gateway::start(&with_sessions(config(&upstream)).route(&route("")));
    let address = gateway.address();
    let begun = || {
        let tokens = login(&gateway);
        let mut client = open(&address, &handshake("/ws").bearer(&tokens.access));
        let mut half = [0; 5];
        client.read_exact(&mut half).expect("half a frame");
        logout(&gateway, &tokens.refresh).expect(204);
        (client, half)
    };

    // The rest comes in time.
    let (mut client, half) = begun();
    crate::support::wait::let_pass(Duration::from_millis(700));
    step.send(()).unwrap();
    let mut whole = &half[..];
    let (opcode, payload) = read_frame(&mut (&mut whole).chain(&mut client)).expect("the rest of the frame");
    assert_eq!((opcode, payload), (TEXT, b"in two halves".to_vec()));
    assert_closed(&mut client);

    // It does not: nothing is said then, the connection just ends.
    let (mut client, _) = begun();
    let start = Instant::now();
    assert_eq!(client.read_to_end().expect("the end of the connection"), b"");
    assert!(start.elapsed() < Duration::from_secs(8), "ended after {:?}", start.elapsed());
    step.send(()).unwrap();
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[("reason", "revoked")], 2.0));
    let lines = || gateway.log_lines().into_iter().filter(|line| line["reason"] == "revoked").count();
    assert!(eventually(Duration::from_secs(5), || lines() == 2), "{} lines for two", lines());
}

#[test]
fn what_a_client_says_after_its_session_ended_is_not_passed_on() {
    let (heard, hears) = mpsc::channel();
    let upstream = Tunnels::start(move |_, mut wire| {
        wire.get_mut().write_all(ACCEPTED.as_bytes())?;
        loop {
            let _ = heard.send(read_frame(&mut wire)?.1);
        }
    });
    let gateway = Gateway::start(&with_sessions(config(&upstream)).route(&route("")));
    let tokens = login(&gateway);
    let mut client = open(&gateway.address(), &handshake("/ws").bearer(&tokens.access));
    client.send(masked(TEXT, b"before")).unwrap();
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)).unwrap(), b"before");
    logout(&gateway, &tokens.refresh).expect(204);
    assert_eq!(read_frame(&mut client).unwrap(), (CLOSE, POLICY.to_vec()));
    client.send(masked(TEXT, b"after")).unwrap();
    drop(client);
    assert!(
        eventually(Duration::from_secs(10), || upstream.ended() == 1),
        "the upstream's connection is kept"
    );
    assert_eq!(hears.try_recv(), Err(mpsc::TryRecvError::Empty));
}

#[test]
fn a_quiet_websocket_stays_but_an_upstream_that_does_not_answer_is_slow() {
    let upstream = Tunnels::start(|head, mut wire| {
        if head.contains("/ws?mute") {
            return wire.read_to_end(&mut Vec::new()).map(drop);
        }
        wire.get_mut().write_all(ACCEPTED.as_bytes())?;
        loop {
            let (opcode, payload) = read_frame(&mut wire)?;
            wire.get_mut().write_all(&frame(opcode, &payload))?;
        }
    });
    let short = config(&upstream)
        .server("limits", "{ body_timeout: 1s, idle_timeout: 1s, header_timeout: 1s, body_bytes: 10B }");
    let gateway =
        Gateway::start(&short.route(&route(", auth: public, timeouts: { connect: 500ms, read: 1s }")));
    let mut client = open(&gateway.address(), &handshake("/ws"));
    let answer = handshake("/ws?mute").send(&gateway.address()).expect(504);
    assert_eq!(answer.reason(), "upstream_timeout");
    assert!(!client.is_closed_within(Duration::from_secs(3)), "closed though nothing is wrong");
    assert_alive(&mut client, "still here, and longer than a body may be");
}

#[test]
fn an_upstream_that_speaks_at_once_is_heard_and_goes_on() {
    let upstream = Tunnels::start(|_, mut wire| {
        wire.get_mut().write_all(&[ACCEPTED.as_bytes(), &frame(TEXT, b"welcome")].concat())?;
        loop {
            let (opcode, payload) = read_frame(&mut wire)?;
            wire.get_mut().write_all(&frame(opcode, &payload))?;
        }
    });
    let gateway = Gateway::start(&config(&upstream).route(&route(", auth: public")));
    for turn in 0..100 {
        let mut client = open(&gateway.address(), &handshake("/ws"));
        assert_eq!(read_frame(&mut client).unwrap(), (TEXT, b"welcome".to_vec()), "in turn {turn}");
        assert_alive(&mut client, "and then");
    }
}

#[test]
fn over_tls_a_websocket_ends_in_good_order_too() {
    let (upstream, authority) = (Tunnels::echoing(), Authority::new());
    let shown = authority.identity(&["gate.example.test"]);
    let gateway = Gateway::start(
        &with_sessions(config(&upstream))
            .listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: true")
            .file("cert.pem", shown.certificate_pem.clone())
            .file("key.pem", shown.key_pem.clone())
            .route(&route("")),
    );
    let connect = || authority.connect(&gateway.address(), "gate.example.test").expect("a TLS connection");
    let tokens = Tokens::from_body(connect().exchange(&login_request("alice")).unwrap());
    let mut client = connect();
    client.exchange(&handshake("/ws").bearer(&tokens.access)).unwrap().expect(101);
    assert_alive(&mut client, "hello");
    connect().exchange(&post("/auth/logout").bearer(&tokens.access)).unwrap().expect(204);
    // A TLS connection that is cut instead of closed is an error here.
    assert_closed(&mut client);
}

#[test]
fn websockets_do_not_hold_up_the_end_of_the_process() {
    let upstream = Tunnels::echoing();
    let stopping = config(&upstream).server("shutdown", "{ delay: 0s, drain: 2s }");
    let mut gateway = Gateway::start(&stopping.route(&route(", auth: public")));
    let mut client = open(&gateway.address(), &handshake("/ws"));
    gateway.terminate();
    assert_alive(&mut client, "until the drain limit");
    let ended = gateway.ended_within(Duration::from_secs(12)).expect("it does not end");
    assert!(ended.success(), "{ended:?}");
}
