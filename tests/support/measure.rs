//! How much a test does, how long what it did took, and how much memory.

use std::time::Duration;

/// How much a test does: the number in this environment variable, so that `make soak` can ask for more.
pub(crate) fn scale(name: &str, otherwise: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => otherwise,
    }
}

/// How much memory a process has, in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// At the moment.
    pub(crate) now: u64,
    /// At most, so far.
    pub(crate) peak: u64,
}

impl Memory {
    pub(crate) fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the status");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        Self { now: field("VmRSS:"), peak: field("VmHWM:") }
    }
}

/// The processor time that a process has used so far.
pub(crate) fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    // The name of the program may hold anything, and ends at the last bracket.
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Times, in order, to be asked for their percentiles.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    #[track_caller]
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort();
        Self(times)
    }

    /// The time that this share of all does not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [min, median, p99, max] = [0, 50, 99, 100].map(|percent| self.percentile(percent));
        write!(f, "{} times: min {min:.1?}, median {median:.1?}, p99 {p99:.1?}, max {max:.1?}", self.0.len())
    }
}
