//! Instructions per request in user space, as callgrind counts them: what two counts of runs of different
//! length differ by, so that starting and stopping are not in it.

use super::load::{self, Run};
use super::number;
use super::site::{Peer, Site};
use std::fs;
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 8;

/// Instructions of a warm request, in parts of those of the passthrough, when they were last written down
/// here. What is compared is a ratio of one run, so that what machines differ in cancels out; and it is one of
/// programs that were not optimized, because the tests have built those anyway.
const RECORDED: f64 = 0.945;
/// By how much they may grow before the gate fails. What has shrunk as much should be written down again.
const TOLERANCE: f64 = 0.03;

struct Counter {
    runtime: Runtime,
    site: Site,
    requests: usize,
}

/// What is asked again and again.
struct Case {
    name: &'static str,
    /// Taken in turn.
    tokens: Vec<String>,
    status: u16,
    /// The length of each request's body; none if zero.
    body: usize,
    http2: bool,
}

impl Counter {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let site = Site::new(runtime.block_on(load::upstream()));
        // Without optimization a request takes fifteen times as long.
        let requests = number("REQUESTS", if cfg!(debug_assertions) { 200 } else { 2000 });
        Self { runtime, site, requests }
    }

    fn warm(&self) -> Case {
        Case { name: "one token", tokens: vec![self.site.token(0)], status: 200, body: 0, http2: false }
    }

    fn with_body(&self, body: usize) -> Case {
        Case { name: "with a body of 1 KiB", body, ..self.warm() }
    }

    fn over_http2(&self) -> Case {
        Case { name: "over HTTP/2", http2: true, ..self.warm() }
    }

    fn others(&self) -> Vec<Case> {
        // No token comes twice in the life of a process.
        let most = 2 * self.requests;
        let once = (0..most).map(|number| self.site.token(number)).collect();
        let forged = (0..most).map(|number| self.site.forged(number)).collect();
        let refused = |name, token| Case { name, tokens: vec![token], status: 401, body: 0, http2: false };
        vec![
            Case { name: "each token once", tokens: once, status: 200, body: 0, http2: false },
            Case { name: "forged, each once", tokens: forged, status: 401, body: 0, http2: false },
            refused("unknown key", self.site.of_unknown_key()),
            refused("no JWT", "x".repeat(790)),
            refused("no token", String::new()),
        ]
    }

    /// Instructions of one request.
    fn count(&self, peer: Peer, case: &Case) -> f64 {
        let [short, long] = [1, 2].map(|times| self.total(peer, case, times * self.requests));
        (long - short) as f64 / self.requests as f64
    }

    /// Instructions of a process that serves so many requests in its life.
    fn total(&self, peer: Peer, case: &Case, requests: usize) -> u64 {
        let log = std::env::temp_dir().join(format!("portcullis-callgrind-{}", std::process::id()));
        let log_option = format!("--log-file={}", log.display());
        let wrapper = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", &log_option];
        let running = self.site.start(peer, &wrapper.map(str::to_owned));
        let run = Run {
            port: running.port,
            tokens: &case.tokens,
            first: 0,
            connections: CONNECTIONS,
            requests,
            body: case.body,
            http2: case.http2,
            // Whoever lets everything through answers 200.
            status: if peer == Peer::Passthrough { 200 } else { case.status },
        };
        self.runtime.block_on(run.drive());
        running.stop();
        let text = fs::read_to_string(&log).unwrap();
        let _ = fs::remove_file(&log);
        let (_, count) = text.rsplit_once("Collected : ").unwrap_or_else(|| panic!("no count in: {text}"));
        count.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// Prints the counts.
pub fn run() {
    let counter = Counter::new();
    println!("| who | case | instructions per request | over the passthrough | in parts of it |");
    println!("|---|---|---|---|---|");
    let warm = counter.warm();
    let passthrough = |case: &Case| {
        let floor = counter.count(Peer::Passthrough, case);
        println!("| passthrough | {} | {floor:.0} | | |", case.name);
        floor
    };
    let row = |name: &str, case: &Case, access_log: bool, floor: f64| {
        let count = counter.count(Peer::Portcullis { access_log }, case);
        let (over, ratio) = (count - floor, count / floor);
        println!("| {name} | {} | {count:.0} | {over:+.0} | {ratio:.3} |", case.name);
    };
    let floor = passthrough(&warm);
    row("Portcullis", &warm, false, floor);
    row("Portcullis with access log", &warm, true, floor);
    if number("WARM_ONLY", 0) == 0 {
        counter.others().iter().for_each(|case| row("Portcullis", case, false, floor));
        for case in [counter.with_body(1024), counter.over_http2()] {
            row("Portcullis", &case, false, passthrough(&case));
        }
    }
}

/// Fails if a warm request costs noticeably more than what is written down.
pub fn gate() {
    let is_optimized = std::hint::black_box(!cfg!(debug_assertions));
    assert!(!is_optimized, "what is written down is of `cargo bench --profile dev`");
    let counter = Counter::new();
    let warm = counter.warm();
    let ours = counter.count(Peer::Portcullis { access_log: true }, &warm);
    let floor = counter.count(Peer::Passthrough, &warm);
    let ratio = ours / floor;
    let change = ratio / RECORDED - 1.0;
    println!(
        "a warm request: {ours:.0} instructions, {ratio:.4} of the passthrough's {floor:.0}; recorded is {RECORDED}"
    );
    let advice = "see `RECORDED` in benches/gateway/instructions.rs";
    assert!(change <= TOLERANCE, "the warm path has grown by {:.1} %: mend it, or {advice}", change * 100.0);
    if change < -TOLERANCE {
        println!("the warm path has shrunk by {:.1} %: {advice}", -change * 100.0);
    }
}
