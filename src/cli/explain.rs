//! `portcullis explain`: what would become of a request, and why, without a running gateway.

use super::account::{self, Mark, Sent};
use super::terminal::{Ink, Paint, harmless};
use super::trial::{self, Asked};
use crate::app::rehearsal::rehearsal;
use crate::config::Config;
use crate::config::policies::Decision;
use crate::gateway::rehearsal::{Account, Outcome, Trial};
use crate::key_set::Source;
use crate::reason::Reason;
use crate::secret::Secret;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, Read as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// The most of a token that is read on standard input.
const MOST: u64 = 1024 * 1024;

/// What is asked.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The request's method
    method: String,
    /// The whole URL; what stands behind the host is sent as it is
    url: String,
    /// The access token; `-` reads it on standard input
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// A header field the client sends, as often as needed
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The address the request comes from
    #[arg(long, value_name = "ADDRESS", default_value_t = crate::config::policies::CLIENT)]
    from: IpAddr,
    /// Ask issuers for their keys; otherwise nothing is asked of the network
    #[arg(long)]
    fetch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Explains one request. The exit code is 0 if there is an explanation, whatever was decided.
pub fn run(arguments: &Arguments) -> ExitCode {
    match explain(arguments) {
        Ok(text) => super::print(&text),
        Err(error) => super::fail(&error),
    }
}

fn explain(arguments: &Arguments) -> Result<String, String> {
    let config = Config::load(&arguments.config).map_err(|errors| errors.to_string())?;
    let token = token(arguments.token.as_deref())?;
    let headers: Result<Vec<_>, _> = arguments.headers.iter().map(|text| trial::header(text)).collect();
    let headers = headers.map_err(|error| error.to_string())?;
    let asked = Asked {
        method: &arguments.method,
        url: &arguments.url,
        headers: &headers,
        token: token.as_ref().map(|token| token.expose().as_str()),
        from: arguments.from,
    };
    let trial = asked.trial(None).map_err(|error| error.to_string())?;
    let account = super::blocking(async {
        let mut rehearsal = rehearsal(&config, arguments.fetch).map_err(|error| error.to_string())?;
        rehearsal.run(trial.clone()).await.map_err(|error| error.to_string())
    })?;
    let notes = notes(&account, &config, arguments.fetch);
    if arguments.json {
        let mut told = account::json(&account, &trial);
        if let Some(members) = told.as_object_mut() {
            members.insert("notes".to_owned(), notes.into());
        }
        return Ok(format!("{told:#}\n"));
    }
    Ok(told(&asked, &account, &trial, &notes, Paint::stdout()))
}

fn token(given: Option<&str>) -> Result<Option<Secret<String>>, String> {
    if given != Some("-") {
        return Ok(given.map(|token| Secret::new(token.to_owned())));
    }
    let mut line = String::new();
    let read = io::stdin().lock().take(MOST).read_line(&mut line);
    let line = Secret::new(line);
    read.map_err(|error| format!("standard input cannot be read: {error}"))?;
    match line.expose().trim() {
        "" => Err("no token on standard input; give it on one line".to_owned()),
        token => Ok(Some(Secret::new(token.to_owned()))),
    }
}

/// What the explanation cannot know.
fn notes(account: &Account, config: &Config, fetched: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if account.reason == Reason::KeysUnavailable && !fetched {
        let issuer = config.issuers.iter().find(|issuer| issuer.name == account.issuer);
        let copy = issuer.and_then(|issuer| issuer.keys.copy_file.as_ref());
        let remote =
            issuer.is_some_and(|issuer| matches!(issuer.keys.source, Source::Url(_) | Source::Discovery(_)));
        if remote {
            let file = copy.map(|file| format!(" as {}", file.display())).unwrap_or_default();
            notes.push(format!(
                "the keys of {} that this token needs are not at hand: nothing is asked of the network, and a running \
                 gateway's copy{file} is absent, too old or without them; --fetch asks the issuer",
                account.issuer
            ));
        }
    }
    notes
}

fn told(asked: &Asked<'_>, account: &Account, trial: &Trial, notes: &[String], paint: Paint) -> String {
    let mut text = format!("{} {}\n\n", paint.ink(Ink::Strong, asked.method), harmless(asked.url));
    let steps = account::steps(account);
    let width = steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
    for step in &steps {
        let (sign, ink) = match step.mark {
            Mark::Passed => ("ok  ", Ink::Good),
            Mark::Failed => ("FAIL", Ink::Bad),
            Mark::Skipped => ("-   ", Ink::Faint),
        };
        let _ = writeln!(text, "  {}  {:width$}  {}", paint.ink(ink, sign), step.name, step.detail);
    }
    let decision = account::decision(account);
    let ink = match decision {
        Decision::Allow | Decision::Answer => Ink::Good,
        Decision::Deny => Ink::Bad,
        Decision::WouldDeny => Ink::Notable,
    };
    let status = account.status.map(|status| format!(" with status {status}")).unwrap_or_default();
    let word = paint.ink(ink, decision.as_str());
    let _ = writeln!(text, "\ndecision: {word}{status}, reason {}", account.reason);
    if decision == Decision::WouldDeny {
        text.push_str("the route only observes: the request is forwarded all the same\n");
    }
    if let (Outcome::Forwarded { upstream, .. }, Some(sent)) =
        (&account.outcome, account::sent(account, trial))
    {
        text.push_str(&forwarded(upstream, account, &sent, paint));
    }
    for note in notes {
        let _ = writeln!(text, "{} {note}", paint.ink(Ink::Notable, "note:"));
    }
    text
}

fn forwarded(upstream: &str, account: &Account, sent: &Sent, paint: Paint) -> String {
    let mut text = format!("\nthe upstream {upstream} gets\n  {}\n", harmless(&sent.line));
    let plan = account.route.as_ref().map(|route| &route.forward);
    let is_identity = |name: &str| {
        plan.is_some_and(|plan| {
            let rules = plan.headers.iter().map(|rule| &rule.name);
            let names = rules.chain(plan.assertion.as_ref().map(|rule| &rule.header));
            names.into_iter().any(|own| own.name().as_str().eq_ignore_ascii_case(name))
        })
    };
    for (name, value) in &sent.headers {
        let line = format!("{name}: {}", harmless(value));
        let line = if is_identity(name) { paint.ink(Ink::Good, line) } else { line };
        let _ = writeln!(text, "  {line}");
    }
    if !sent.removed.is_empty() {
        let _ = writeln!(text, "and does not get\n  {}", paint.ink(Ink::Faint, sent.removed.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_on_the_command_line_is_taken_as_it_is() {
        assert_eq!(token(Some("a.b.c")).unwrap().unwrap().expose(), "a.b.c");
        assert!(token(None).unwrap().is_none());
    }
}
