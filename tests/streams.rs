//! Long answers and long uploads end with the token they were asked for, over HTTP/1.1 and HTTP/2; until then they
//! pass piece by piece.

use crate::support::config::cheap_users;
use crate::support::http2_client::Http2Client;
use crate::support::person::{login, login_as, logout};
use crate::support::tunnel::Tunnels;
use crate::support::{Config, Connection, Gateway, Issuer, Sessions, eventually, get, post};
use std::io::{Read as _, Write as _};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// A backend that begins an event stream and is silent for most of the time, unless the path says otherwise.
fn events() -> Tunnels {
    Tunnels::start(|head, mut wire| {
        if head.contains("/mute") || head.starts_with("POST") {
            return wire.read_to_end(&mut Vec::new()).map(drop);
        }
        let begins =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire.get_mut().write_all(format!("{begins}d\r\ndata: first\n\n\r\n").as_bytes())?;
        if head.contains("/busy") {
            // As fast as it is read.
            let piece = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
            while wire.get_mut().write_all(&piece).is_ok() {}
            return Ok(());
        }
        wire.read_to_end(&mut Vec::new()).map(drop)
    })
}

fn config(upstream: &Tunnels, more: &str) -> Config {
    Config::new()
        .listener("http2: true")
        .upstream_raw("app", &upstream.settings_with(", timeouts: { read: 60s }"))
        .route(&format!("{{ name: events, match: {{ path: /** }}, upstream: app{more} }}"))
}

fn with_sessions(upstream: &Tunnels) -> Gateway {
    let users = cheap_users(&["alice", "bob"]);
    Gateway::start(&config(upstream, "").sessions(Sessions::embedded()).file("users.yaml", users))
}

/// Begins to read an answer that has no end of its own.
fn begin(gateway: &Gateway, target: &str, token: &str) -> Connection {
    let mut client = Connection::open(&gateway.address()).expect("a connection");
    let host = gateway.address();
    client.send(get(target).bearer(token).bytes(&host)).expect("a request to be sent");
    let mut head = Vec::new();
    while !head.windows(5).any(|bytes| bytes == b"first") {
        let mut piece = [0; 256];
        let count = client.read(&mut piece).expect("the beginning of the answer");
        assert!(count > 0 && head.len() < 4096, "{}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&piece[..count]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    client
}

/// Asserts that the answer breaks off: an answer in chunks that has its last one would seem to be whole.
#[track_caller]
fn assert_broken_off(mut client: Connection) {
    let rest = client.read_to_end().expect("the end of the connection");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the answer seems to be whole");
}

#[test]
fn an_event_stream_ends_when_its_token_expires() {
    let (upstream, issuer) = (events(), Issuer::start());
    let settings = issuer.settings_with(", leeway: 1s");
    let gateway = Gateway::start(&config(&upstream, "").issuer("corp", &settings));
    let token = issuer.token().expires_in(3).sign(&issuer.key);
    let start = Instant::now();
    let quiet = begin(&gateway, "/quiet", &token);
    let busy = begin(&gateway, "/busy", &token);
    for client in [quiet, busy] {
        assert_broken_off(client);
        let took = start.elapsed();
        assert!(
            (Duration::from_millis(2900)..Duration::from_secs(15)).contains(&took),
            "ended after {took:?}"
        );
    }
    assert!(eventually(Duration::from_secs(5), || upstream.ended() == 2), "the upstream goes on");
    let labels = [("route", "events"), ("reason", "expired")];
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &labels, 2.0));
    let line = gateway.log_line(|line| line["path"] == "/quiet");
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"expired".into()));
    assert_eq!(line["subject"], "f:9c1:maria");
}

#[test]
fn streams_end_soon_after_their_session_and_no_others_do() {
    let upstream = events();
    let gateway = with_sessions(&upstream);
    let (alice, bob) = (login(&gateway), login_as(&gateway, "bob"));
    let over_http1 = begin(&gateway, "/quiet", &alice.access);
    let mut over_http2 = Http2Client::connect(&gateway.address());
    let mut ends = over_http2.begin("/quiet", Some(&alice.access));
    let mut stays = over_http2.begin("/other", Some(&bob.access));
    // A client that does not read holds the gateway up in writing.
    let stuck = begin(&gateway, "/busy", &alice.access);
    assert_eq!((ends.status(), stays.status()), (200, 200));
    assert_eq!(ends.data(), Ok(b"data: first\n\n".to_vec()));
    assert_eq!(stays.data(), Ok(b"data: first\n\n".to_vec()));

    logout(&gateway, &alice.refresh).expect(204);
    let start = Instant::now();
    assert_eq!(ends.data(), Err("CANCEL".to_owned()), "the stream is reset");
    assert_broken_off(over_http1);
    assert!(start.elapsed() < Duration::from_secs(5), "felt after {:?}", start.elapsed());
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[("reason", "revoked")], 3.0));
    drop(stuck);
    let cut = || gateway.log_lines().into_iter().filter(|line| line["reason"] == "revoked").count();
    assert!(eventually(Duration::from_secs(5), || cut() == 3), "{} lines for three", cut());

    assert!(stays.is_quiet_for(Duration::from_millis(600)), "another user's stream on the same connection");
    assert_eq!(cut(), 3, "one line each");
    let again = over_http2.begin("/quiet", Some(&alice.access)).status();
    assert_eq!(again, 401, "the connection goes on");
}

#[test]
fn who_waits_for_an_answer_is_told_and_an_upload_ends_too() {
    let upstream = events();
    let gateway = with_sessions(&upstream);
    let tokens = login(&gateway);
    let (address, mut waits) = (gateway.address(), Connection::open(&gateway.address()).unwrap());
    waits.send(get("/mute").bearer(&tokens.access).bytes(&address)).unwrap();
    let mut uploads = Connection::open(&address).unwrap();
    let head = post("/upload").bearer(&tokens.access).header("Transfer-Encoding", "chunked");
    uploads.send(head.bytes(&address)).unwrap();
    uploads.send("5\r\nbegun\r\n").unwrap();
    assert!(eventually(Duration::from_secs(10), || upstream.heads().len() == 2));
    logout(&gateway, &tokens.refresh).expect(204);
    let answer = waits.read_response(false).expect("an answer").expect(401);
    assert_eq!(answer.reason(), "revoked");
    assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.contains("invalid_token")));
    let answer = uploads.read_response(false).expect("an answer").expect(401);
    assert_eq!(answer.reason(), "revoked");
    assert!(eventually(Duration::from_secs(5), || upstream.ended() == 2), "the upstream goes on");
}

#[test]
fn what_no_token_was_asked_for_goes_on() {
    let (upstream, issuer) = (events(), Issuer::start());
    let settings = issuer.settings_with(", leeway: 1s");
    let observed = ", auth: { mode: required, enforce: false }";
    let gateway = Gateway::start(
        &config(&upstream, observed)
            .issuer("corp", &settings)
            .route("{ name: open, match: { path: /open }, upstream: app, auth: public }"),
    );
    let token = issuer.token().expires_in(1).sign(&issuer.key);
    let mut clients = [begin(&gateway, "/open", &token), begin(&gateway, "/observed", &token)];
    for client in &mut clients {
        assert!(!client.is_closed_within(Duration::from_millis(2200)), "an end that nobody asked for");
    }
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[], 0.0));
}

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    const EVENTS: usize = 30;
    let (step, steps) = mpsc::channel::<()>();
    let steps = Mutex::new(steps);
    let upstream = Tunnels::start(move |_, mut wire| {
        let begins =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire.get_mut().write_all(begins.as_bytes())?;
        for number in 10..10 + EVENTS {
            wire.get_mut().write_all(format!("a\r\ndata: {number}\n\n\r\n").as_bytes())?;
            let _ = steps.lock().unwrap().recv();
        }
        wire.get_mut().write_all(b"0\r\n\r\n")
    });
    let gateway = Gateway::start(&config(&upstream, ", auth: public"));
    let address = gateway.address();

    let mut over_http1 = Connection::open(&address).unwrap();
    over_http1.send(get("/events").bytes(&address)).unwrap();
    let mut arrived = Vec::new();
    for number in 10..10 + EVENTS {
        let event = format!("data: {number}\n\n");
        while !arrived.windows(event.len()).any(|bytes| bytes == event.as_bytes()) {
            let mut piece = [0; 256];
            let count = over_http1.read(&mut piece).unwrap_or_else(|why| panic!("event {number}: {why}"));
            assert!(count > 0, "the answer ends before event {number}");
            arrived.extend_from_slice(&piece[..count]);
        }
        step.send(()).unwrap();
    }

    let mut over_http2 = Http2Client::connect(&address).begin("/events", None);
    for number in 10..10 + EVENTS {
        let event = over_http2.data().unwrap_or_else(|why| panic!("event {number}: {why}"));
        assert_eq!(String::from_utf8_lossy(&event), format!("data: {number}\n\n"));
        step.send(()).unwrap();
    }
    assert_eq!(over_http2.data(), Ok(Vec::new()), "the end of the stream");
}

#[test]
fn an_upload_over_http2_that_stalls_is_ended_and_a_slow_one_or_a_conversation_is_not() {
    let upstream = Tunnels::start(|head, mut wire| {
        if head.contains("/talk") {
            let begins = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
            wire.get_mut().write_all(begins.as_bytes())?;
        }
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            let mut piece = [0; 1024];
            match wire.read(&mut piece)? {
                0 => return Ok(()),
                count => body.extend_from_slice(&piece[..count]),
            }
        }
        let ends = if head.contains("/talk") { "0\r\n\r\n" } else { "HTTP/1.1 204 All\r\n\r\n" };
        wire.get_mut().write_all(ends.as_bytes())
    });
    let gateway = Gateway::start(
        &config(&upstream, ", auth: public").server("limits", "{ body_timeout: 3s, idle_timeout: 60s }"),
    );
    let mut client = Http2Client::connect(&gateway.address());
    let (mut stalls, mut never_ends) = client.upload("/stalls", &[]);
    let (mut steady, mut trickle) = client.upload("/steady", &[]);
    let (mut talk, mut speech) = client.upload("/talk", &[]);
    let start = Instant::now();
    never_ends.send("begun", false);
    speech.send("and then ", false);
    assert_eq!(talk.data(), Ok(b"hello".to_vec()));
    speech.send("a pause", false);
    for _ in 0..9 {
        trickle.send("little by little ", false);
        crate::support::wait::let_pass(Duration::from_millis(500));
    }
    trickle.send("done", true);
    assert_eq!(steady.status(), 204, "longer than the limit as a whole, but not between its pieces");

    assert_eq!(stalls.data(), Err("CANCEL".to_owned()), "the stream is reset");
    let took = start.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(20)).contains(&took), "ended after {took:?}");
    let line = gateway.log_line(|line| line["path"] == "/stalls");
    assert_eq!((&line["status"], &line["reason"]), (&408.into(), &"body_timeout".into()));
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[("reason", "body_timeout")], 1.0));
    assert!(eventually(Duration::from_secs(5), || upstream.ended() >= 2), "the upstream goes on");

    speech.send("that is all", true);
    assert_eq!(talk.data(), Ok(Vec::new()), "the end of the conversation");
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[], 1.0));
}
