//! What a rotation costs beside Redis's own price for it: `SessionStore::rotate`, without HTTP and signing,
//! against `redis-benchmark` sending the very command the store sends, on the same server in the same run; and so
//! the refreshes of a whole gateway, on Redis and on the embedded store. That one has a rotation on its disk before
//! the answer, so it is held against a Redis that waits for its disk too.
//!
//! Redis has the first core. What is measured, redis-benchmark or a store or a gateway, has the second; a gateway's
//! clients share the first with Redis.
//!
//! `cargo bench --bench rotate` starts servers of its own, takes pairs of short runs in alternating order and prints
//! both rates and their ratio. `PAIRS` and `CALLS` (per run) change how many; `ONLY` takes the cases that it is a
//! part of the name of.

// A bench panics to fail, and is told how long to run by the environment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::cast_precision_loss, unreachable_pub)]

use portcullis::clock::Timestamp;
use portcullis::secret::Secret;
use portcullis::session::family::{Outcome, RotationPolicy};
use portcullis::session::id::{SessionId, UserKey};
use portcullis::session::redis::{RedisSettings, RedisStore, Servers};
use portcullis::session::refresh_token::{Presented, secret_hash};
use portcullis::session::store::{Delivery, NewSession, SessionStore};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use through::Gateway;

mod through;

const CONCURRENCY: usize = 32;
const ABSOLUTE_EXPIRY: Timestamp = Timestamp::from_secs(4_000_000_000);

fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (pairs, calls) = (number("PAIRS", 24), number("CALLS", 40_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    assert!(std::thread::available_parallelism().unwrap().get() > 1, "this needs two cores");
    pin_self("1");
    println!(
        "{CONCURRENCY} at once, {calls} calls a run, {pairs} pairs of runs; per second, and milliseconds (medians)\n"
    );
    println!(
        "| case | ours | redis-benchmark | ratio: median | quartiles | ours, ms | redis-benchmark, ms |"
    );
    println!("|---|---|---|---|---|---|---|");

    let redis = Redis::start(&["--appendonly", "no"]);
    // A generation that is young is handed out again, one that is old is rotated: the same writes. Only the
    // first can be sent again and again, so redis-benchmark sends it in all cases.
    let young = redis.store(Duration::from_secs(24 * 3600));
    let mut sessions = runtime.block_on(open(&young, 0));
    let command = runtime.block_on(seen_by_redis(&redis, &young, &sessions[0]));
    let floor = || redis.benchmark(&command, calls, CONCURRENCY);
    let same = || runtime.block_on(rotate(&young, &mut sessions, calls, Outcome::Same));
    row("SessionStore::rotate, same", pairs, same, floor);
    let old = redis.store(Duration::ZERO);
    let mut sessions = runtime.block_on(open(&old, 100));
    let rotated = || runtime.block_on(rotate(&old, &mut sessions, calls, Outcome::Rotated));
    row("SessionStore::rotate, rotated", pairs, rotated, floor);

    pin_self("0");
    let gateway = Gateway::start(
        "redis",
        &format!("{{ redis: {{ url: \"redis://127.0.0.1:{}/0\", timeout: 5s }} }}", redis.port),
    );
    let mut tokens = runtime.block_on(gateway.log_in());
    row("gateway on Redis", pairs, || runtime.block_on(gateway.refresh(&mut tokens, calls)), floor);
    // What one caller waits for: nothing but the way there and back.
    let alone = || runtime.block_on(gateway.refresh(&mut tokens[..1], calls / 8));
    row("gateway on Redis, one at a time", pairs, alone, || redis.benchmark(&command, calls / 8, 1));
    drop(gateway);

    let durable = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = durable.store(Duration::from_secs(24 * 3600));
    let sessions = runtime.block_on(open(&store, 0));
    let command = runtime.block_on(seen_by_redis(&durable, &store, &sessions[0]));
    let gateway = Gateway::start("embedded", "{ embedded: { path: sessions.redb } }");
    let mut tokens = runtime.block_on(gateway.log_in());
    let ours = || runtime.block_on(gateway.refresh(&mut tokens, calls));
    row("gateway on the embedded store, Redis with `appendfsync always`", pairs, ours, || {
        durable.benchmark(&command, calls, CONCURRENCY)
    });
}

/// A program that is kept to one core.
fn pinned(program: &str, core: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core, program]);
    command
}

/// Keeps every thread of this process to one core from now on.
fn pin_self(core: &str) {
    let own = std::process::id().to_string();
    let done = Command::new("taskset").args(["-acp", core, &own]).stdout(Stdio::null()).status();
    assert!(done.expect("this needs taskset: apt-get install util-linux").success(), "no core {core}");
}

/// Rate and median time of either side, in pairs of runs in alternating order.
fn row(
    case: &str,
    pairs: usize,
    mut ours: impl FnMut() -> (f64, f64),
    mut floor: impl FnMut() -> (f64, f64),
) {
    if std::env::var("ONLY").is_ok_and(|only| !case.contains(&only)) {
        return;
    }
    let (mut our_runs, mut floor_runs) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        if pair % 2 == 0 {
            our_runs.push(ours());
            floor_runs.push(floor());
        } else {
            floor_runs.push(floor());
            our_runs.push(ours());
        }
    }
    let ratios = our_runs.iter().zip(&floor_runs).map(|(ours, floor)| ours.0 / floor.0).collect();
    let [lower, median, upper] = quartiles(ratios);
    let middle =
        |runs: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| quartiles(runs.iter().map(of).collect())[1];
    println!(
        "| {case} | {:.0} | {:.0} | {median:.2} | {lower:.2} to {upper:.2} | {:.2} | {:.2} |",
        middle(&our_runs, |run| run.0),
        middle(&floor_runs, |run| run.0),
        middle(&our_runs, |run| run.1),
        middle(&floor_runs, |run| run.1)
    );
}

/// One session each for the callers, past the first rotation, which is never put off.
async fn open(store: &RedisStore, first: u8) -> Vec<Presented> {
    let mut sessions = Vec::new();
    for number in first..first + u8::try_from(CONCURRENCY).unwrap() {
        // The command is handed to redis-benchmark as arguments, which cannot hold a NUL.
        let hash = (0..=u8::MAX)
            .map(|salt| secret_hash(&Secret::new([salt; 16])))
            .find(|hash| !hash.contains(&0))
            .unwrap();
        let (session, user) = (SessionId::from_bytes([number; 16]), UserKey::from_bytes([number; 12]));
        let new = NewSession {
            id: session,
            user,
            secret_hash: hash,
            subject: format!("user {number}"),
            claims: serde_json::Map::new(),
            delivery: Delivery::Cookie,
            absolute_expiry: ABSOLUTE_EXPIRY,
            device: Some("a browser".to_owned()),
            address: Some("192.0.2.1".to_owned()),
            known_epoch: 0,
        };
        store.open(new).await.unwrap();
        let mut presented =
            Presented { session, user, secret_hash: hash, generation: 0, absolute_expiry: ABSOLUTE_EXPIRY };
        presented.generation = store.rotate(&presented).await.unwrap().session.unwrap().generation;
        sessions.push(presented);
    }
    sessions
}

/// Rotations per second, and the median of their times in milliseconds.
async fn rotate(
    store: &Arc<RedisStore>,
    sessions: &mut [Presented],
    calls: usize,
    expected: Outcome,
) -> (f64, f64) {
    let start = Instant::now();
    let callers: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (store, mut session) = (Arc::clone(store), *session);
            tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..calls / CONCURRENCY {
                    let began = Instant::now();
                    let rotation = store.rotate(&session).await.unwrap();
                    times.push(began.elapsed().as_secs_f64() * 1000.0);
                    assert_eq!(rotation.outcome, expected);
                    session.generation = rotation.session.unwrap().generation;
                }
                (session, times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for (session, caller) in sessions.iter_mut().zip(callers) {
        let (last, times) = caller.await.unwrap();
        *session = last;
        all.extend(times);
    }
    (all.len() as f64 / start.elapsed().as_secs_f64(), quartiles(all)[1])
}

/// The words of the command that one rotation sends, as Redis saw them.
async fn seen_by_redis(redis: &Redis, store: &RedisStore, session: &Presented) -> Vec<OsString> {
    let mut monitor = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    monitor.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("+OK"));
    assert_eq!(store.rotate(session).await.unwrap().outcome, Outcome::Same);
    // Beside the command itself the monitor shows what the script calls, marked "lua".
    let line = lines.find(|line| line.contains("\"EVALSHA\"")).unwrap();
    words(&line[line.find('"').unwrap()..])
}

/// The words of a monitor's line: quoted, with escapes as in C.
fn words(line: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut bytes = line.bytes();
    while bytes.by_ref().any(|byte| byte == b'"') {
        let mut word = Vec::new();
        loop {
            match bytes.next().unwrap() {
                b'"' => break,
                b'\\' => word.push(match bytes.next().unwrap() {
                    b'x' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    other => other,
                }),
                other => word.push(other),
            }
        }
        words.push(OsString::from_vec(word));
    }
    words
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// A redis-server of this run's own, in a folder of its own.
struct Redis {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Redis {
    fn start(persistence: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("portcullis-bench-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let child = pinned("redis-server", "0")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(persistence)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("this needs redis-server: apt-get install redis-server");
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < patience, "redis-server does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, port, folder }
    }

    fn store(&self, coalesce: Duration) -> Arc<RedisStore> {
        let policy = RotationPolicy { coalesce, grace: Duration::ZERO, ..RotationPolicy::default() };
        let settings = RedisSettings {
            servers: Servers::One(Secret::new(format!("redis://127.0.0.1:{}", self.port))),
            timeout: Duration::from_secs(5),
            ca: None,
        };
        Arc::new(RedisStore::connect_lazily(&settings, policy).unwrap())
    }

    /// Calls per second that redis-benchmark reaches, and the median of their times in milliseconds.
    fn benchmark(&self, command: &[OsString], calls: usize, callers: usize) -> (f64, f64) {
        let output = pinned("redis-benchmark", "1")
            .args([
                "-p",
                &self.port.to_string(),
                "-c",
                &callers.to_string(),
                "-n",
                &calls.to_string(),
                "--csv",
            ])
            .args(command)
            .output()
            .expect("this needs redis-benchmark: apt-get install redis-tools");
        let text = String::from_utf8_lossy(&output.stdout);
        // The name of the test is the command itself, binary and all: the figures are counted from the end.
        let last = text.trim_end().rsplit('\n').next().unwrap();
        let figures: Vec<&str> = last.rsplit(',').collect();
        let figure =
            |place: usize| figures.get(place).and_then(|figure| figure.trim_matches('"').parse().ok());
        figure(6).zip(figure(3)).unwrap_or_else(|| panic!("no figures in: {text}"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
