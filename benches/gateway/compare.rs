//! CPU time per request of two peers in turn.

use super::load::{self, Run};
use super::number;
use super::site::{Peer, Running, Site};
use std::process::Command;
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 32;

/// Tokens that are used in turn where many are.
const MANY: usize = 10_000;

struct Case {
    name: &'static str,
    tokens: Vec<String>,
    /// No token is used twice.
    once: bool,
    status: u16,
    /// Runs are this much shorter.
    share: usize,
    /// The length of each request's body; none if zero.
    body: usize,
    http2: bool,
}

pub fn run() {
    let (pairs, requests) = (number("PAIRS", 24), number("REQUESTS", 8000));
    // One core for who is measured, another for what drives it.
    let pinned = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let wrapper: Vec<String> = if pinned { ["taskset", "-c", "1"].map(Into::into).into() } else { vec![] };
    if pinned {
        pin_to_first_core();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let site = Site::new(runtime.block_on(load::upstream()));
    let usual =
        |name, tokens, status| Case { name, tokens, once: false, status, share: 1, body: 0, http2: false };
    let hot = usual("one token", vec![site.token(0)], 200);
    let post = Case { body: 1024, ..usual("one token, with a body of 1 KiB", hot.tokens.clone(), 200) };
    let http2 = Case { http2: true, ..usual("one token, over HTTP/2", hot.tokens.clone(), 200) };
    let many = usual("10,000 tokens in turn", (0..MANY).map(|n| site.token(n)).collect(), 200);
    let fresh = (0..(pairs + 1) * requests / 4).map(|n| site.token(MANY + n)).collect();
    let fresh = Case { once: true, share: 4, ..usual("each token once", fresh, 200) };
    let forged = (0..MANY).map(|n| site.forged(n)).collect();
    let forged = Case { share: 4, ..usual("forged", forged, 401) };
    let none = usual("no token", vec![String::new()], 401);

    println!(
        "CPU time per request, {CONNECTIONS} connections, {requests} requests a run, {pairs} pairs of runs\n"
    );
    println!("| case | a | b | a, µs | b, µs | b / a: median | quartiles | ratio of minima |");
    println!("|---|---|---|---|---|---|---|---|");
    let compare = Comparison { runtime: &runtime, site: &site, wrapper: &wrapper, pairs, requests };
    let (floor, ours) = (Peer::Passthrough, Peer::Portcullis { access_log: false });
    compare.row(&hot, [floor, floor]);
    compare.row(&hot, [floor, ours]);
    compare.row(&hot, [floor, Peer::Portcullis { access_log: true }]);
    for case in [&post, &http2, &many, &fresh, &forged, &none] {
        compare.row(case, [floor, ours]);
    }
    for (peer, program, version) in [(Peer::Haproxy, "haproxy", "-v"), (Peer::Envoy, "envoy", "--version")] {
        if Command::new(program).arg(version).output().is_ok_and(|output| output.status.success()) {
            for case in [&hot, &post, &many, &fresh, &forged, &none] {
                compare.row(case, [peer, ours]);
            }
        } else {
            println!("\n{program} is not on the path, so it is not compared.");
        }
    }
}

/// Starts this program again where it is kept to one core.
fn pin_to_first_core() {
    const PINNED: &str = "PORTCULLIS_BENCH_PINNED";
    if std::env::var_os(PINNED).is_some() {
        return;
    }
    let mut again = Command::new("taskset");
    again.args(["-c", "0"]).arg(std::env::current_exe().unwrap()).env(PINNED, "1");
    let status = again.status().expect("this needs taskset: apt-get install util-linux");
    std::process::exit(status.code().unwrap_or(1));
}

/// One row of the table.
struct Comparison<'a> {
    runtime: &'a Runtime,
    site: &'a Site,
    wrapper: &'a [String],
    pairs: usize,
    requests: usize,
}

impl Comparison<'_> {
    fn row(&self, case: &Case, peers: [Peer; 2]) {
        let running = peers.map(|peer| self.site.start(peer, self.wrapper));
        let mut costs: [Vec<f64>; 2] = Default::default();
        for pair in 0..=self.pairs {
            let mut turns = [0, 1];
            turns.rotate_left(pair % 2);
            for turn in turns {
                // Whoever lets everything through answers 200.
                let status = if peers[turn] == Peer::Passthrough { 200 } else { case.status };
                let cost = self.cost(&running[turn], case, status, pair);
                if pair > 0 {
                    costs[turn].push(cost);
                }
            }
        }
        running.into_iter().for_each(Running::stop);
        let least = |costs: &[f64]| costs.iter().copied().fold(f64::INFINITY, f64::min);
        let minima = least(&costs[1]) / least(&costs[0]);
        let ratios = costs[0].iter().zip(&costs[1]).map(|(a, b)| b / a).collect();
        let [lower, median, upper] = quartiles(ratios);
        let [a, b] = costs.map(|costs| quartiles(costs)[1]);
        let [one, other] = peers.map(name);
        println!(
            "| {} | {one} | {other} | {a:.1} | {b:.1} | {median:.3} | {lower:.3} to {upper:.3} | {minima:.3} |",
            case.name
        );
    }

    /// Microseconds of CPU time per request. The first run fills caches and pools: it has every token that comes again.
    /// Each other goes on where the one before it ended, so that all of them come in turn.
    fn cost(&self, running: &Running, case: &Case, status: u16, pair: usize) -> f64 {
        let usual = self.requests / case.share;
        let requests = if pair == 0 && !case.once { usual.max(case.tokens.len()) } else { usual };
        let first = pair * usual;
        let before = running.cpu();
        let run = Run {
            port: running.port,
            tokens: &case.tokens,
            first,
            connections: CONNECTIONS,
            requests,
            body: case.body,
            http2: case.http2,
            status,
        };
        self.runtime.block_on(run.drive());
        running.cpu().saturating_sub(before).as_secs_f64() * 1e6 / requests as f64
    }
}

fn name(peer: Peer) -> &'static str {
    match peer {
        Peer::Passthrough => "passthrough",
        Peer::Portcullis { access_log: false } => "Portcullis",
        Peer::Portcullis { access_log: true } => "Portcullis with access log",
        Peer::Haproxy => "HAProxy",
        Peer::Envoy => "Envoy",
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
