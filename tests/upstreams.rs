//! An upstream with several endpoints survives the loss of one, whatever way it is lost.

use crate::support::http_server::HttpServer;
use crate::support::ports::free_port;
use crate::support::tls::Authority;
use crate::support::wait::let_pass;
use crate::support::{
    Config, Connection, Gateway, Issuer, Reply, Response, Upstream, eventually, get, post, wait_for,
};
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
const ALL: &str = "{ name: all, match: { path: /** }, upstream: app, auth: public }";

/// What the log says when a target goes and comes back.
const EJECTED: &str = "a target fails and gets no requests for a while";
const RETURNED: &str = "a target answers again";
const UNHEALTHY: &str = "a target is unhealthy and gets no requests";
const HEALTHY: &str = "a target is healthy again";

/// An upstream `app` at these addresses.
fn app(addresses: &[String], more: &str) -> Config {
    let urls: Vec<_> = addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
    Config::new().upstream_raw("app", &format!("{{ endpoints: [{}]{more} }}", urls.join(", "))).route(ALL)
}

/// A process that can be killed, paused and started again on its port: a gateway of its own.
struct Backends {
    processes: Vec<Gateway>,
    _answering: Upstream,
}

impl Backends {
    fn start(count: usize) -> Self {
        let answering = Upstream::start();
        let config = Config::public(&answering);
        Self { processes: (0..count).map(|_| Gateway::start(&config)).collect(), _answering: answering }
    }

    fn addresses(&self) -> Vec<String> {
        self.processes.iter().map(Gateway::address).collect()
    }
}

/// How long a request took, and its status or why there is none.
type Answered = (Duration, Result<u16, String>);

/// Clients that ask without a pause, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Answered>>>,
}

impl Load {
    fn start(address: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, address) = (Arc::clone(&stop), address.to_owned());
            thread::spawn(move || {
                let mut answers = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let start = Instant::now();
                    let answer = get("/").try_send(&address);
                    let answer = answer.map(|answer| answer.status).map_err(|error| error.to_string());
                    answers.push((start.elapsed(), answer));
                    let_pass(Duration::from_millis(5));
                }
                answers
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    /// Ends; every single request must have been answered with 200. How many there were, and the slowest.
    #[track_caller]
    fn all_fine(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let answers: Vec<_> =
            self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        let failed: Vec<_> = answers.iter().filter(|(_, answer)| *answer != Ok(200)).collect();
        assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), answers.len());
        (answers.len(), answers.iter().map(|(took, _)| *took).max().unwrap_or_default())
    }
}

fn said(gateway: &Gateway, what: &str) -> usize {
    gateway.stderr().lines().filter(|line| line.contains(what)).count()
}

/// How long from now until the log has said it more often than `before`.
#[track_caller]
fn time_until_said(gateway: &Gateway, what: &str, before: usize) -> Duration {
    let start = Instant::now();
    assert!(eventually(SOON, || said(gateway, what) > before), "never said: {what}\n{}", gateway.stderr());
    start.elapsed()
}

#[test]
fn a_killed_process_costs_idempotent_requests_nothing() {
    let mut backends = Backends::start(3);
    let gateway = Gateway::start(&app(&backends.addresses(), ""));
    let load = Load::start(&gateway.address(), 3);
    let_pass(Duration::from_millis(300));
    backends.processes[1].kill9();
    let out = time_until_said(&gateway, EJECTED, 0);
    let_pass(Duration::from_millis(500));
    backends.processes[1].restart();
    let back = time_until_said(&gateway, RETURNED, 0);
    let (requests, slowest) = load.all_fine();
    println!(
        "killed: out after {out:.1?}, back {back:.1?} after it was; {requests} GETs, slowest {slowest:.1?}"
    );
    assert!(requests > 10, "{requests}");
}

#[test]
fn a_paused_process_costs_idempotent_requests_time_until_the_check_notices() {
    let backends = Backends::start(3);
    let check = "health_check: { path: /healthz, interval: 200ms, timeout: 2s, unhealthy: 1 }";
    let gateway =
        Gateway::start(&app(&backends.addresses(), &format!(", timeouts: {{ read: 4s }}, {check}")));
    let load = Load::start(&gateway.address(), 3);
    let_pass(Duration::from_millis(300));
    let paused = &backends.processes[1];
    paused.pause();
    let (start, address) = (Instant::now(), paused.address());
    let told = || gateway.stderr().lines().any(|line| line.contains(UNHEALTHY) && line.contains(&address));
    assert!(eventually(SOON, told), "the check never noticed");
    let out = start.elapsed();
    let start = Instant::now();
    for _ in 0..10 {
        get("/").send(&gateway.address()).expect(200);
    }
    assert!(start.elapsed() < Duration::from_secs(4), "requests wait for it: {:?}", start.elapsed());
    // Those that hang are still without an answer when it comes to their end: others give it.
    let (requests, slowest) = load.all_fine();
    assert!(slowest >= Duration::from_secs(4), "no request met the paused process");
    let before = said(&gateway, HEALTHY);
    paused.resume();
    let back = time_until_said(&gateway, HEALTHY, before);
    println!("paused: out after {out:.1?}, back after {back:.1?}; {requests} GETs, slowest {slowest:.1?}");
}

#[test]
fn an_endpoint_that_hangs_up_is_left_alone_until_it_answers() {
    let (good, bad, other) = (Upstream::start(), Upstream::start(), Upstream::start());
    bad.answer(|_| Reply::Close);
    let gateway = Gateway::start(&Config::new().upstream("app", &[&good, &bad, &other]).route(ALL));
    let ask = || get("/").send(&gateway.address()).expect(200);
    for _ in 0..60 {
        ask();
    }
    // Three failures, then a trial after 1 s, 2 s, 4 s and so on; a full share would be 20.
    let hits = bad.hits();
    assert!((3..10).contains(&hits), "it was asked {hits} times");
    time_until_said(&gateway, EJECTED, 0);
    bad.answer(|_| Reply::ok("back"));
    let start = Instant::now();
    let back =
        wait_for(SOON, || (ask().text() == "back").then(|| start.elapsed())).expect("it never came back");
    println!("hanging up: asked {hits} times of 60, back {back:.1?} after it was mended");
    let before = bad.hits();
    for _ in 0..9 {
        ask();
    }
    assert_eq!(bad.hits() - before, 3, "it gets its share again");
}

#[test]
fn an_answer_cut_in_its_middle_is_an_error_and_blames_nobody() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (good, bad) = (Upstream::named("whole"), Upstream::start());
        bad.answer(move |_| Reply::Raw(cut.as_bytes().to_vec()));
        let gateway = Gateway::start(&Config::new().upstream("app", &[&good, &bad]).route(ALL));
        let ask = || -> io::Result<Response> {
            Connection::open(&gateway.address())?.exchange(&get("/").header("Connection", "close"))
        };
        let answers: Vec<_> = (0..12).map(|_| ask()).collect();
        let whole = answers.iter().flatten().filter(|answer| answer.status == 200).collect::<Vec<_>>();
        assert_eq!(whole.len(), 6, "{answers:?}");
        assert!(whole.iter().all(|answer| answer.text() == "whole"), "{answers:?}");
        assert_eq!(
            (bad.hits(), good.hits()),
            (6, 6),
            "the cut requests were sent again, or the endpoint left"
        );
    }
}

#[test]
fn when_all_are_dead_the_answer_is_quick_and_ours() {
    let ports = [free_port(), free_port(), free_port()];
    let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    let gateway = Gateway::start(&app(&addresses, ""));
    for _ in 0..30 {
        let start = Instant::now();
        let answer = get("/").send(&gateway.address()).expect(502);
        assert_eq!(answer.reason(), "upstream_unreachable");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    // All were given up, and still each is asked: nobody waits for the time they are out.
    time_until_said(&gateway, EJECTED, 2);
    let alive = Upstream::at(ports[2]);
    assert!(eventually(SOON, || get("/").send(&gateway.address()).status == 200));
    assert!(alive.hits() > 0);
}

#[test]
fn when_all_are_silent_the_answer_is_504_after_the_attempts_allowed() {
    let silent = [Upstream::start(), Upstream::start(), Upstream::start()];
    for upstream in &silent {
        upstream.answer(|_| Reply::ok("late").after(Duration::from_secs(10)));
    }
    let endpoints: Vec<_> = silent.iter().collect();
    let gateway = Gateway::start(
        &Config::new().upstream_with("app", &endpoints, ", timeouts: { read: 300ms }").route(ALL),
    );
    let asked = || silent.iter().map(Upstream::hits).sum::<usize>();
    let start = Instant::now();
    assert_eq!(get("/").send(&gateway.address()).expect(504).reason(), "upstream_timeout");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(asked(), 2, "one retry");
    assert!(silent.iter().all(|upstream| upstream.hits() < 2), "the same was asked again");
    post("/").body("1").send(&gateway.address()).expect(504);
    assert_eq!(asked(), 3, "a POST was sent twice");
    assert_eq!(said(&gateway, EJECTED), 0, "slowness was blamed");
}

#[test]
fn checks_ask_as_a_request_would_and_decide_who_gets_requests() {
    let authority = Authority::new();
    let identity = authority.identity(&["app.internal.test"]);
    let (one, two) = (
        HttpServer::start_tls(identity.server(), |_| Reply::ok("one")),
        HttpServer::start_tls(identity.server(), |_| Reply::ok("two")),
    );
    let settings = format!(
        "{{ endpoints: [\"https://{}\", \"https://{}\"], host: app.internal.test, \
         tls: {{ server_name: app.internal.test, ca_file: ca.pem }}, \
         health_check: {{ path: \"/healthz?deep=1\", interval: 100ms, timeout: 5s, unhealthy: 2 }} }}",
        one.address(),
        two.address()
    );
    let config = Config::new().file("ca.pem", authority.pem()).upstream_raw("app", &settings).route(ALL);
    let gateway = Gateway::start(&config);
    let is_check = |line: &str| line == "GET /healthz?deep=1 HTTP/1.1";
    let checks = |server: &HttpServer| server.received().iter().filter(|got| is_check(&got.line)).count();
    assert!(eventually(SOON, || checks(&one) > 2 && checks(&two) > 2), "no checks");
    assert_eq!(two.received()[0].header("host"), Some("app.internal.test"));

    two.handle(move |got| if is_check(&got.line) { Reply::status(503, "") } else { Reply::ok("two") });
    time_until_said(&gateway, UNHEALTHY, 0);
    let answers =
        || (0..12).map(|_| get("/").send(&gateway.address()).expect(200).text()).collect::<Vec<_>>();
    assert!(answers().iter().all(|answer| answer == "one"));
    // A reload that leaves the upstream as it is keeps what is known.
    gateway
        .reload(&config.clone().route("{ name: b, match: { path: /b }, upstream: app, auth: public }"), "ok");
    assert!(answers().iter().all(|answer| answer == "one"));
    // When none is well, all are used.
    one.handle(move |got| if is_check(&got.line) { Reply::status(503, "") } else { Reply::ok("one") });
    time_until_said(&gateway, UNHEALTHY, 1);
    assert_eq!(answers().iter().filter(|answer| *answer == "two").count(), 6);
    two.handle(|_| Reply::ok("two"));
    time_until_said(&gateway, HEALTHY, 0);
    assert!(answers().iter().all(|answer| answer == "two"));
    assert_eq!((said(&gateway, UNHEALTHY), said(&gateway, HEALTHY)), (2, 1), "each change is told once");

    // Checks end with the upstream.
    let other = Upstream::start();
    gateway.reload(&Config::public(&other), "ok");
    let quiet = || {
        let before = checks(&one) + checks(&two);
        let_pass(Duration::from_secs(1));
        checks(&one) + checks(&two) == before
    };
    assert!(eventually(SOON, quiet), "the checks of an upstream that is gone go on");
}

#[test]
fn a_check_reaches_an_http2_upstream() {
    let upstream = crate::support::http2_upstream::Http2Upstream::start();
    let settings = upstream.settings();
    let settings = settings.trim_end_matches('}').to_owned()
        + ", health_check: { path: /healthz, interval: 100ms, unhealthy: 1 } }";
    let gateway = Gateway::start(&Config::new().upstream_raw("app", &settings).route(ALL));
    assert!(eventually(SOON, || upstream.seen().iter().filter(|seen| seen.path == "/healthz").count() > 2));
    get("/").send(&gateway.address()).expect(200);
    assert_eq!(said(&gateway, UNHEALTHY), 0, "{}", gateway.stderr());
}

#[test]
fn consistent_hash_keeps_a_caller_at_one_endpoint() {
    let upstreams = ["one", "two", "three"].map(Upstream::named);
    let issuer = Issuer::start();
    let endpoints: Vec<_> = upstreams.iter().collect();
    let config = Config::new()
        .server("trusted_proxies", "[127.0.0.0/8]")
        .issuer("corp", &issuer.settings())
        .upstream_with("app", &endpoints, ", balance: consistent_hash")
        .route("{ name: all, match: { path: /** }, upstream: app }")
        .route("{ name: open, match: { path: /open }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let ask = |subject: &str, from: &str| {
        let token = issuer.token().set("sub", subject.into()).sign(&issuer.key);
        let request = get("/").bearer(&token).header("X-Forwarded-For", from);
        request.send(&gateway.address()).expect(200).text()
    };
    let subjects: Vec<String> = (0..12).map(|n| format!("user-{n}")).collect();
    let homes: HashMap<_, _> = subjects.iter().map(|subject| (subject, ask(subject, "192.0.2.1"))).collect();
    for (n, subject) in subjects.iter().enumerate() {
        assert_eq!(ask(subject, &format!("198.51.100.{n}")), homes[subject], "{subject} moved");
    }
    let used: std::collections::HashSet<_> = homes.values().collect();
    assert!(used.len() > 1, "all callers at {used:?}");

    let open =
        |from: &str| get("/open").header("X-Forwarded-For", from).send(&gateway.address()).expect(200).text();
    let clients: Vec<String> = (1..16).map(|n| format!("203.0.113.{n}")).collect();
    let homes_of_clients: Vec<_> = clients.iter().map(|client| open(client)).collect();
    assert_eq!(clients.iter().map(|client| open(client)).collect::<Vec<_>>(), homes_of_clients);

    // Only those of the endpoint that goes move.
    upstreams[0].stop();
    for subject in &subjects {
        let now = ask(subject, "192.0.2.1");
        assert!(now == homes[subject] || homes[subject] == "one", "{subject} moved to {now}");
    }
}

#[test]
fn an_upstream_that_demands_a_certificate_is_shown_one_and_no_other_route_borrows_it() {
    let authority = Authority::new();
    let (server, ours, strange) = (
        authority.identity(&["app.internal.test"]),
        authority.identity(&["gateway.internal.test"]),
        Authority::new().identity(&["gateway.internal.test"]),
    );
    let server = HttpServer::start_tls(authority.server_for_its_own(&server), |_| Reply::ok("known"));
    let entry = |more: &str, top: &str| {
        format!(
            "{{ endpoints: [\"https://{}\"], retries: 0, tls: {{ server_name: app.internal.test, ca_file: ca.pem{more} }}{top} }}",
            server.address()
        )
    };
    let identity = |name: &str| format!(", client_certificate: {name}.pem, client_private_key: {name}.key");
    let check = ", health_check: { path: /healthz, interval: 100ms, timeout: 5s, unhealthy: 1 }";
    let config = |ours_pem: &str, ours_key: &str| {
        Config::new()
            .file("ca.pem", authority.pem())
            .file("ours.pem", ours_pem)
            .file("ours.key", ours_key)
            .file("strange.pem", strange.certificate_pem.as_str())
            .file("strange.key", strange.key_pem.as_str())
            .upstream_raw("ours", &entry(&identity("ours"), check))
            .upstream_raw("strange", &entry(&identity("strange"), ""))
            .upstream_raw("none", &entry("", ""))
            .route("{ name: a, match: { path: /ours }, upstream: ours, auth: public }")
            .route("{ name: b, match: { path: /strange }, upstream: strange, auth: public }")
            .route("{ name: c, match: { path: /none }, upstream: none, auth: public }")
    };
    let gateway = Gateway::start(&config(&ours.certificate_pem, &ours.key_pem));
    for _ in 0..2 {
        assert_eq!(get("/ours").send(&gateway.address()).expect(200).text(), "known");
        get("/none").send(&gateway.address()).expect(502);
        get("/strange").send(&gateway.address()).expect(502);
    }
    let checks = || server.received().iter().filter(|got| got.target() == "/healthz").count();
    assert!(eventually(SOON, || checks() > 2), "the checks show no certificate");
    assert_eq!(said(&gateway, UNHEALTHY), 0, "{}", gateway.stderr());
    // The files are followed, and what was opened as somebody else is not used any more.
    gateway.folder().write("ours.pem", &strange.certificate_pem);
    gateway.folder().write("ours.key", &strange.key_pem);
    let refused = || get("/ours").send(&gateway.address()).status == 502;
    assert!(eventually(SOON, refused), "the old certificate is still shown");
    let said = gateway.stderr() + &gateway.stdout();
    assert!(!said.contains("PRIVATE KEY"), "a private key is in the log");
}

#[test]
fn an_answer_that_comes_before_the_request_is_all_read_reaches_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("{{ endpoints: [\"http://{}\"] }}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer =
                "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlong";
            stream.read_exact(&mut [0; 100]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // Closed as by a process that is gone: nobody takes the rest.
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
    });
    let config = Config::new()
        .upstream_raw("app", &upstream)
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for number in 0..20 {
        let answer = post("/upload").body(vec![b'x'; 65_536]).send(&gateway.address());
        assert_eq!(answer.expect(413).text(), "long", "{number}");
    }
}
