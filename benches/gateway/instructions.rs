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
const RECORDED: f64 = 1.78;
/// By how much they may grow, or shrink, before the figure has to be written down again.
const TOLERANCE: f64 = 0.03;

struct Counter {
    runtime: Runtime,
    site: Site,
    token: Vec<String>,
    requests: usize,
}

impl Counter {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let site = Site::new(runtime.block_on(load::upstream()));
        let token = vec![site.token(0)];
        // Without optimization a request takes fifteen times as long.
        let requests = number("REQUESTS", if cfg!(debug_assertions) { 200 } else { 2000 });
        Self { runtime, site, token, requests }
    }

    /// Instructions of one warm request.
    fn count(&self, peer: Peer) -> f64 {
        let [short, long] = [1, 2].map(|times| self.total(peer, times * self.requests));
        (long - short) as f64 / self.requests as f64
    }

    /// Instructions of a process that serves so many requests in its life.
    fn total(&self, peer: Peer, requests: usize) -> u64 {
        let log = std::env::temp_dir().join(format!("portcullis-callgrind-{}", std::process::id()));
        let log_option = format!("--log-file={}", log.display());
        let wrapper = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", &log_option];
        let running = self.site.start(peer, &wrapper.map(str::to_owned));
        let run = Run {
            port: running.port,
            tokens: &self.token,
            first: 0,
            connections: CONNECTIONS,
            requests,
            status: 200,
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
    println!("| who | instructions per warm request | over the passthrough |\n|---|---|---|");
    let floor = counter.count(Peer::Passthrough);
    println!("| passthrough | {floor:.0} | |");
    for (name, access_log) in [("Portcullis", false), ("Portcullis with access log", true)] {
        let count = counter.count(Peer::Portcullis { access_log });
        println!("| {name} | {count:.0} | {:+.0} |", count - floor);
    }
}

/// Fails if a warm request costs noticeably more than what is written down, or less.
pub fn gate() {
    let is_optimized = std::hint::black_box(!cfg!(debug_assertions));
    assert!(!is_optimized, "what is written down is of `cargo bench --profile dev`");
    let counter = Counter::new();
    let ours = counter.count(Peer::Portcullis { access_log: true });
    let floor = counter.count(Peer::Passthrough);
    let ratio = ours / floor;
    let change = ratio / RECORDED - 1.0;
    println!(
        "a warm request: {ours:.0} instructions, {ratio:.4} of the passthrough's {floor:.0}; recorded is {RECORDED}"
    );
    let advice = "see `RECORDED` in benches/gateway/instructions.rs";
    assert!(change <= TOLERANCE, "the warm path has grown by {:.1} %: mend it, or {advice}", change * 100.0);
    assert!(change >= -TOLERANCE, "the warm path has shrunk by {:.1} %: {advice}", -change * 100.0);
}
