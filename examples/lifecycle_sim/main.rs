//! A simulation of week-long sessions under the real rotation rules: how often honest users are logged out,
//! and how soon a thief is caught. `cargo run --release --example lifecycle_sim`; see docs/lifecycle.md.

mod random;
mod server;
mod table;
mod world;

use std::process::ExitCode;
use table::{false_logouts, rows, theft};
use world::{Scenario, Thief};

const USAGE: &str = "usage: lifecycle_sim [--seed N] [--weeks N]   (week i runs from seed N + i)";

/// What the run is asked for.
struct Options {
    seed: u64,
    weeks: u32,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self { seed: 1, weeks: 1000 };
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--seed" => options.seed = value.parse().ok()?,
                "--weeks" => options.weeks = value.parse().ok()?,
                _ => return None,
            }
        }
        (options.weeks > 0).then_some(options)
    }
}

fn main() -> ExitCode {
    let Some(Options { seed, weeks }) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("seed {seed}, {weeks} weeks a cell; week i of a cell alone: --seed <{seed} + i> --weeks 1");
    let kept = print_false_logouts(seed, weeks) & print_thefts(seed, weeks);
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the first half of the table; `false` if a promise is broken.
fn print_false_logouts(seed: u64, weeks: u32) -> bool {
    let mut kept = true;
    println!("\nFalse logouts, percent of weeks (recoveries and heals: of a harsh week)\n");
    println!("{:<48}{:>8}{:>8}{:>12}{:>8}", "", "harsh", "mild", "recoveries", "heals");
    for row in rows() {
        let harsh = false_logouts(row.scenario(Scenario::HARSH), row.rules, seed, weeks);
        let mild = false_logouts(row.scenario(Scenario::MILD), row.rules, seed, weeks);
        let (recoveries, heals) = (harsh.per_week(harsh.tally.recovered), harsh.per_week(harsh.tally.healed));
        let percents = (harsh.percent(), mild.percent());
        println!("{:<48}{:>8.3}{:>8.3}{recoveries:>12.2}{heals:>8.2}", row.name, percents.0, percents.1);
        if let (true, Some(seed)) = (row.promised, harsh.first.or(mild.first)) {
            println!("    {} of {weeks} harsh, {} mild; the first: seed {seed}", harsh.ended, mild.ended);
        }
        if row.promised && !(harsh.are_rare() && mild.are_rare()) {
            println!("    PROMISE BROKEN: more than one week in a thousand ends in a false logout");
            kept = false;
        }
    }
    kept
}

/// Prints the second half; `false` if a promise is broken.
fn print_thefts(seed: u64, weeks: u32) -> bool {
    let mut kept = true;
    println!("\nTheft: thieves caught within the week; minutes from copy to end of session: median, p95\n");
    println!("{:<48}{:<30}{:<30}in step with the victim", "", "ordinary", "uses no access token");
    for row in rows().into_iter().filter(|row| row.theft) {
        let [ordinary, quiet, in_step] =
            [Thief::Ordinary, Thief::Quiet, Thief::InStep].map(|thief| theft(thief, row.rules, seed, weeks));
        println!("{:<48}{ordinary:<30}{quiet:<30}{in_step}", row.name);
        if row.promised && ordinary.percentile(50).is_none_or(|minutes| minutes >= 10.0) {
            println!("    PROMISE BROKEN: half of the ordinary thieves are not caught within 10 minutes");
            kept = false;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Rules, Without};
    use crate::world::week;
    use portcullis::session::family::RotationPolicy;

    fn under(policy: RotationPolicy) -> Rules {
        Rules { policy, without: Without::Nothing }
    }

    fn defaults() -> Rules {
        under(RotationPolicy::default())
    }

    fn strict() -> Rules {
        under(RotationPolicy::default().strict())
    }

    #[test]
    fn the_default_rules_log_no_honest_user_out() {
        for weather in [Scenario::HARSH, Scenario::MILD] {
            let logouts = false_logouts(weather, defaults(), 1, 50);
            assert_eq!(logouts.ended, 0, "{weather:?}: the first is seed {:?}", logouts.first);
        }
    }

    #[test]
    fn strict_rules_log_most_honest_users_out() {
        assert!(false_logouts(Scenario::HARSH, strict(), 1, 50).percent() > 50.0);
    }

    #[test]
    fn a_single_tab_that_loses_nothing_lasts_even_under_strict_rules() {
        let calm = Scenario { tabs: 1, lost: 0, ..Scenario::HARSH };
        assert_eq!(false_logouts(calm, strict(), 1, 20).ended, 0);
    }

    #[test]
    fn half_of_the_ordinary_thieves_are_caught_within_ten_minutes_and_all_within_the_week() {
        let thefts = theft(Thief::Ordinary, defaults(), 1, 100);
        assert_eq!(thefts.caught(), 100);
        assert!(thefts.percentile(50).unwrap() < 10.0, "{thefts}");
    }

    #[test]
    fn a_thief_who_uses_no_access_token_is_mostly_caught_within_ninety_minutes() {
        let thefts = theft(Thief::Quiet, defaults(), 1, 100);
        assert!(thefts.percentile(95).unwrap() < 90.0, "{thefts}");
    }

    #[test]
    fn only_strict_rules_see_a_thief_in_step_with_the_victim() {
        assert_eq!(
            theft(Thief::InStep, strict(), 1, 20).percentile(50).map(|minutes| minutes < 10.0),
            Some(true)
        );
        assert_eq!(theft(Thief::InStep, defaults(), 1, 20).percentile(50), None);
    }

    #[test]
    fn a_seed_is_a_week() {
        let ended = |seed| week(Scenario::HARSH, strict(), seed).ended;
        assert_eq!(ended(7), ended(7));
        assert_ne!(ended(7), ended(8));
    }
}
