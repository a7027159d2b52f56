//! The rows of the table: which rules are compared, and how their weeks are summed up.

use crate::server::{Rules, Tally, Without};
use crate::world::{Scenario, Thief, week};
use portcullis::session::family::{LostResponse, RotationPolicy};
use std::fmt;
use std::time::Duration;

/// Rules, and the circumstances they are tried in.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) rules: Rules,
    /// Failovers that lose the last rotation.
    failovers: bool,
    /// The longest a message stalls, in seconds.
    stall: u64,
    /// Whether theft is simulated too.
    pub(crate) theft: bool,
    /// Whether the published claim rests on it.
    pub(crate) promised: bool,
}

impl Row {
    const fn new(name: &'static str, policy: RotationPolicy) -> Self {
        let rules = Rules { policy, without: Without::Nothing };
        Self { name, rules, failovers: false, stall: 10, theft: false, promised: false }
    }

    const fn without(self, without: Without) -> Self {
        Self { rules: Rules { without, ..self.rules }, ..self }
    }

    const fn failing_over(self) -> Self {
        Self { failovers: true, ..self }
    }

    const fn stalling(self, stall: u64) -> Self {
        Self { stall, ..self }
    }

    const fn with_theft(self) -> Self {
        Self { theft: true, ..self }
    }

    const fn promised(self) -> Self {
        Self { promised: true, ..self }
    }

    /// `weather` under this row's circumstances.
    pub(crate) const fn scenario(&self, weather: Scenario) -> Scenario {
        Scenario { failovers: self.failovers, stall: self.stall, ..weather }
    }
}

/// All rows, in the order they are printed.
pub(crate) fn rows() -> Vec<Row> {
    let defaults = RotationPolicy::default();
    let seconds = Duration::from_secs;
    let recovering = |limit| RotationPolicy { lost_response: LostResponse::Within(limit), ..defaults };
    let coalescing = |coalesce| RotationPolicy { coalesce, ..defaults };
    let grace_only = RotationPolicy { coalesce: Duration::ZERO, ..recovering(Duration::ZERO) };
    vec![
        Row::new("strict", defaults.strict()).with_theft(),
        Row::new("grace 30s", grace_only).with_theft(),
        Row::new("grace 30s, coalesce 60s", recovering(Duration::ZERO)),
        Row::new("grace, coalesce, recovery within 10m", recovering(seconds(600))),
        Row::new("grace, coalesce, recovery within 1h", recovering(seconds(3600))),
        Row::new("defaults", defaults).with_theft().promised(),
        Row::new("defaults, failovers", defaults).failing_over().promised(),
        Row::new("defaults, failovers, no healing", defaults).failing_over().without(Without::Healing),
        Row::new("defaults, but recovery does not restart grace", defaults).without(Without::Restart),
        Row::new("defaults, but no budget of recoveries", defaults).without(Without::Budget).with_theft(),
        Row::new("defaults, but coalesce 0s", coalescing(Duration::ZERO)),
        Row::new("defaults, stalls of up to 15s", defaults).stalling(15),
        Row::new("the same, but coalesce 10s", coalescing(seconds(10))).stalling(15),
        Row::new("defaults, stalls of up to 30s", defaults).stalling(30),
        Row::new("defaults, stalls of up to 60s", defaults).stalling(60),
    ]
}

/// The seeds of `weeks` weeks.
fn seeds(seed: u64, weeks: u32) -> impl Iterator<Item = u64> {
    (0..u64::from(weeks)).map(move |index| seed.wrapping_add(index))
}

/// The false logouts of some weeks.
pub(crate) struct FalseLogouts {
    weeks: u32,
    pub(crate) ended: u32,
    /// The seed of the first week that ended in one.
    pub(crate) first: Option<u64>,
    pub(crate) tally: Tally,
}

impl FalseLogouts {
    /// Percent of the weeks.
    pub(crate) fn percent(&self) -> f64 {
        100.0 * f64::from(self.ended) / f64::from(self.weeks)
    }

    /// Whether no more than one week in a thousand ended in one.
    pub(crate) fn are_rare(&self) -> bool {
        self.ended <= (self.weeks / 1000).max(1)
    }

    /// `count` as of one week.
    pub(crate) fn per_week(&self, count: u32) -> f64 {
        f64::from(count) / f64::from(self.weeks)
    }
}

/// Runs `weeks` weeks without a thief, from `seed` on.
pub(crate) fn false_logouts(scenario: Scenario, rules: Rules, seed: u64, weeks: u32) -> FalseLogouts {
    let mut sum = FalseLogouts { weeks, ended: 0, first: None, tally: Tally::default() };
    for seed in seeds(seed, weeks) {
        let course = week(scenario, rules, seed);
        if course.ended.is_some() {
            sum.ended += 1;
            sum.first = sum.first.or(Some(seed));
        }
        sum.tally.recovered += course.tally.recovered;
        sum.tally.healed += course.tally.healed;
    }
    sum
}

/// How long thieves went unnoticed.
pub(crate) struct Spread {
    weeks: u32,
    /// Minutes from the copy to the end of the session, ascending; only of thieves who were caught.
    minutes: Vec<f64>,
}

impl Spread {
    /// The time by which this share of all thieves was caught; `None` if fewer ever were.
    pub(crate) fn percentile(&self, percent: u32) -> Option<f64> {
        let rank = (self.weeks.saturating_mul(percent)).div_ceil(100).max(1);
        self.minutes.get(usize::try_from(rank - 1).ok()?).copied()
    }

    /// How many were caught at all.
    pub(crate) fn caught(&self) -> usize {
        self.minutes.len()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes =
            |percent| self.percentile(percent).map_or("never".to_owned(), |time| format!("{time:.1}"));
        f.pad(&format!("{} of {}, {}, {}", self.caught(), self.weeks, minutes(50), minutes(95)))
    }
}

/// Runs `weeks` weeks with a thief, from `seed` on.
pub(crate) fn theft(thief: Thief, rules: Rules, seed: u64, weeks: u32) -> Spread {
    let times = seeds(seed, weeks).filter_map(|seed| {
        let course = week(Scenario::theft(thief), rules, seed);
        Some(course.ended?.saturating_sub(course.stolen?))
    });
    let mut minutes: Vec<f64> = times.map(|time| Duration::from_millis(time).as_secs_f64() / 60.0).collect();
    minutes.sort_by(f64::total_cmp);
    Spread { weeks, minutes }
}
