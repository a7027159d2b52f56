//! `portcullis test`: the policy held against the cases that a team wrote down, by the code that serves requests.

use super::account::{self, Sent};
use super::junit::{self, Suite};
use super::terminal::{Ink, Paint, harmless};
use super::trial::Asked;
use crate::app::rehearsal::rehearsal;
use crate::config::Config;
use crate::config::policies::{self, Caller, Case, Expectation};
use crate::gateway::rehearsal::{Account, Rehearsal, Trial};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What is asked.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The file with the cases
    policies: PathBuf,
    /// Write the results for a build server too, as XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Ask issuers for their keys; otherwise nothing is asked of the network
    #[arg(long)]
    fetch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something that came out otherwise than expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// What.
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) found: String,
}

/// A case that was tried.
pub(super) struct Tried<'a> {
    pub(super) case: &'a Case,
    pub(super) differences: Vec<Difference>,
    pub(super) account: Account,
    trial: Trial,
}

/// Runs the cases. The exit code is 0 if every case came out as expected.
pub fn run(arguments: &Arguments) -> ExitCode {
    match test(arguments) {
        Ok((text, true)) => super::print(&text),
        Ok((text, false)) => {
            super::print(&text);
            ExitCode::FAILURE
        }
        Err(error) => super::fail(&error),
    }
}

fn test(arguments: &Arguments) -> Result<(String, bool), String> {
    let config = Config::load(&arguments.config).map_err(|errors| errors.to_string())?;
    let cases = policies::load(&arguments.policies, &config).map_err(|errors| errors.to_string())?;
    let tried = super::blocking(async {
        let mut rehearsal = rehearsal(&config, arguments.fetch).map_err(|error| error.to_string())?;
        let mut tried = Vec::with_capacity(cases.len());
        for case in &cases {
            tried.push(attempt(case, &mut rehearsal).await?);
        }
        Ok::<_, String>(tried)
    })?;
    if let Some(file) = &arguments.junit {
        let suite = Suite { file: &arguments.policies, tried: &tried };
        std::fs::write(file, junit::xml(&suite)).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let passed = tried.iter().all(|tried| tried.differences.is_empty());
    let text = if arguments.json { json(&tried) } else { told(&arguments.policies, &tried, Paint::stdout()) };
    Ok((text, passed))
}

async fn attempt<'a>(case: &'a Case, rehearsal: &mut Rehearsal) -> Result<Tried<'a>, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("case {:?} in line {}: {error}", case.name, case.line);
    let (token, claims) = match &case.caller {
        Caller::Anonymous => (None, None),
        Caller::Token(token) => (Some(token.expose().as_str()), None),
        Caller::Claims(claims) => (None, Some(Arc::clone(claims))),
    };
    let request = &case.request;
    let asked = Asked {
        method: &request.method,
        url: &request.url,
        headers: &request.headers,
        token,
        from: request.from,
    };
    let trial = asked.trial(claims).map_err(|error| failed(&error))?;
    let account = rehearsal.run(trial.clone()).await.map_err(|error| failed(&error))?;
    let sent = account::sent(&account, &trial);
    let differences = differences(&case.expect, &account, sent.as_ref());
    Ok(Tried { case, differences, account, trial })
}

fn differences(expect: &Expectation, account: &Account, sent: Option<&Sent>) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, expected: Option<String>, found: String| {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            differences.push(Difference { what: what.to_owned(), expected, found });
        }
    };
    let decision = account::decision(account).as_str();
    compare("decision", expect.decision.map(|decision| decision.as_str().to_owned()), decision.to_owned());
    let route = account.route.as_ref().map_or("none", |route| route.name());
    compare("route", expect.route.clone(), route.to_owned());
    let status = account.status.map_or_else(|| "the upstream's own".to_owned(), |status| status.to_string());
    // What is let through is answered by the upstream: 200 says no more than that.
    let expected = expect.status.filter(|status| account.status.is_some() || *status != 200);
    compare("status", expected.map(|status| status.to_string()), status);
    compare("reason", expect.reason.map(|reason| reason.to_string()), account.reason.to_string());
    let headers = sent.map(|sent| sent.headers.as_slice()).unwrap_or_default();
    for (name, expected) in &expect.headers {
        let values =
            headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let values: Vec<&str> = values.collect();
        let shown =
            |value: Option<String>| value.map_or_else(|| "no such header".to_owned(), |v| format!("{v:?}"));
        let found = (!values.is_empty()).then(|| values.join(", "));
        let found = match sent {
            Some(_) => shown(found),
            None => "no request to an upstream".to_owned(),
        };
        compare(&format!("header {name}"), Some(shown(expected.clone())), found);
    }
    differences
}

fn json(tried: &[Tried<'_>]) -> String {
    let failed = tried.iter().filter(|tried| !tried.differences.is_empty()).count();
    let cases: Vec<Value> = tried
        .iter()
        .map(|tried| {
            let difference =
                |d: &Difference| json!({ "what": d.what, "expected": d.expected, "found": d.found });
            json!({
                "name": tried.case.name,
                "line": tried.case.line,
                "passed": tried.differences.is_empty(),
                "differences": tried.differences.iter().map(difference).collect::<Vec<_>>(),
                "result": account::json(&tried.account, &tried.trial),
            })
        })
        .collect();
    let whole = json!({ "passed": tried.len() - failed, "failed": failed, "cases": cases });
    format!("{whole:#}\n")
}

fn told(file: &Path, tried: &[Tried<'_>], paint: Paint) -> String {
    let mut text = String::new();
    let mut failed = 0;
    for Tried { case, differences, account, .. } in tried {
        if differences.is_empty() {
            let _ = writeln!(text, "{}  {}", paint.ink(Ink::Good, "ok  "), case.name);
            continue;
        }
        failed += 1;
        let _ = writeln!(text, "{}  {}", paint.ink(Ink::Bad, "FAIL"), paint.ink(Ink::Strong, &case.name));
        let place = format!("{}:{}", file.display(), case.line);
        let request = format!("{} {}", case.request.method, harmless(&case.request.url));
        let _ = writeln!(text, "      {}", paint.ink(Ink::Faint, format!("{place}: {request}")));
        for Difference { what, expected, found } in differences {
            let _ = writeln!(text, "      {what}");
            let _ = writeln!(text, "        {}", paint.ink(Ink::Good, format!("- expected {expected}")));
            let _ =
                writeln!(text, "        {}", paint.ink(Ink::Bad, format!("+ found    {}", harmless(found))));
        }
        let steps = account::steps(account);
        if let Some(step) = steps.iter().find(|step| step.mark == account::Mark::Failed) {
            let _ = writeln!(text, "      because: {}: {}", step.name, step.detail);
        }
    }
    let count = |number: usize, what: &str| format!("{number} {what}");
    let passed = count(tried.len() - failed, "passed");
    let failed = if failed == 0 { count(0, "failed") } else { paint.ink(Ink::Bad, count(failed, "failed")) };
    let _ = writeln!(text, "\n{passed}, {failed}");
    text
}
