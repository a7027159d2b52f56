//! What became of a request, in words and as JSON: each check with its outcome, and what the upstream gets.

use super::terminal::harmless;
use crate::config::policies::Decision;
use crate::gateway::rehearsal::{Account, Outcome, Trial};
use crate::gateway::route::Route;
use crate::policy::requirement::{Check, Mode, Requirement, RevocationMode};
use crate::reason::Reason;
use crate::token::claims::VerifiedClaims;
use serde_json::{Value, json};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Passed.
    Passed,
    /// Failed: the reason.
    Failed,
    /// Not looked at here.
    Skipped,
}

impl Mark {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check of a request.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) mark: Mark,
    pub(super) detail: String,
}

/// The request as the upstream gets it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    /// Method and target.
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    /// Fields of the client that the upstream does not get.
    pub(super) removed: Vec<String>,
}

/// What was decided.
pub(super) const fn decision(account: &Account) -> Decision {
    match account.outcome {
        Outcome::Forwarded { would_deny: false, .. } => Decision::Allow,
        Outcome::Forwarded { would_deny: true, .. } => Decision::WouldDeny,
        Outcome::Refused => Decision::Deny,
        Outcome::Preflight | Outcome::Endpoint(_) => Decision::Answer,
    }
}

/// What the upstream gets, if anything does. Whoever reads this could use a token or an assertion: neither is
/// shown.
pub(super) fn sent(account: &Account, trial: &Trial) -> Option<Sent> {
    let Outcome::Forwarded { head, .. } = &account.outcome else { return None };
    let assertion = account.route.as_ref().and_then(|route| route.forward.assertion.as_ref());
    let (line, mut headers) = parts(head);
    let (_, asked) = parts(&trial.head);
    let gets = |name: &str| headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let mut removed: Vec<String> = Vec::new();
    for (name, _) in asked {
        if !gets(&name) && !removed.contains(&name) {
            removed.push(name);
        }
    }
    for (name, value) in &mut headers {
        let credential = name.eq_ignore_ascii_case("authorization")
            || assertion.is_some_and(|rule| name.eq_ignore_ascii_case(rule.header.name().as_str()));
        if credential {
            "[redacted]".clone_into(value);
        }
    }
    Some(Sent { line: line.trim_end_matches(" HTTP/1.1").to_owned(), headers, removed })
}

/// A head's first line and its fields.
fn parts(head: &[u8]) -> (String, Vec<(String, String)>) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let field =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    (first, lines.filter_map(field).collect())
}

/// Every check on the way of the request, up to the one that ended it.
pub(super) fn steps(account: &Account) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |name, mark, detail: String| steps.push(Step { name, mark, detail });
    let because = || account.detail().unwrap_or_default().to_owned();
    if let Outcome::Endpoint(endpoint) = account.outcome {
        add("request", Mark::Passed, harmless(&account.path));
        add("endpoint", Mark::Passed, format!("{endpoint}: our own, not tried here"));
        return steps;
    }
    let Some(route) = &account.route else {
        if account.reason == Reason::NoRoute {
            add("request", Mark::Passed, harmless(&account.path));
            add("route", Mark::Failed, because());
        } else {
            add("request", Mark::Failed, because());
        }
        return steps;
    };
    add("request", Mark::Passed, harmless(&account.path));
    add("route", Mark::Passed, format!("{} ({})", route.name(), asks_for(route)));
    match account.reason {
        Reason::BadPath => add("path", Mark::Failed, because()),
        Reason::BodyTooLarge => add("body", Mark::Failed, because()),
        Reason::Preflight => add("preflight", Mark::Passed, "answered by the gateway".to_owned()),
        _ => caller_steps(account, route, &mut add),
    }
    steps
}

/// What a route serves.
pub(super) fn asks_for(route: &Route) -> String {
    let matched = &route.matched;
    let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(" "));
    let hosts = list(matched.hosts.iter().map(ToString::to_string).collect());
    let methods = list(matched.methods.iter().map(ToString::to_string).collect());
    let parts = [hosts, Some(matched.path.to_string()), methods];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn caller_steps(account: &Account, route: &Route, add: &mut impl FnMut(&'static str, Mark, String)) {
    let requirement = &route.requirement;
    if route.rate_limit.is_some() {
        add("rate limit", Mark::Skipped, "not counted here".to_owned());
    }
    if requirement.mode == Mode::Public {
        add("token", Mark::Skipped, "not looked at: the route is public".to_owned());
        return;
    }
    let Some(claims) = &account.claims else {
        let (mark, detail) = match account.reason {
            Reason::Anonymous => (Mark::Passed, "none: anonymous".to_owned()),
            reason => (Mark::Failed, format!("{reason}: {}", account.detail().unwrap_or_default())),
        };
        add("token", mark, detail);
        return;
    };
    let subject = harmless(claims.subject());
    add("token", Mark::Passed, format!("good: issuer {}, subject {subject}", claims.issuer()));
    if claims.session().is_some() && requirement.revocation != RevocationMode::Off {
        add("revocation", Mark::Skipped, "not known here: the session store is not asked".to_owned());
    }
    for check in requirement.checks().filter(|check| is_asked(*check, requirement)) {
        let met = requirement.is_met(check, claims);
        let (name, detail) = told(check, requirement, claims);
        add(name, if met { Mark::Passed } else { Mark::Failed }, detail);
        // An enforcing route looks no further either.
        if !met {
            return;
        }
    }
    match (&account.unforwardable, account.reason) {
        (Some(unforwardable), _) => add("headers", Mark::Failed, unforwardable.to_string()),
        (None, Reason::Ok) => add("headers", Mark::Passed, "every claim fits its header".to_owned()),
        (None, _) => add("gateway", Mark::Failed, account.detail().unwrap_or_default().to_owned()),
    }
}

fn is_asked(check: Check<'_>, requirement: &Requirement) -> bool {
    match check {
        Check::Issuer => requirement.issuers.is_some(),
        Check::Audience | Check::Claim(_) => true,
        Check::Scopes => !requirement.scopes.is_empty(),
        Check::Roles => !requirement.roles.is_empty(),
    }
}

/// A check's name, what it asks for, and what the token has of it.
fn told(check: Check<'_>, requirement: &Requirement, claims: &VerifiedClaims) -> (&'static str, String) {
    let has = |wanted: &str, list: &[String], had: &[String]| {
        format!("{wanted} {}; the token has {}", list.join(" "), or_none(&had.join(" ")))
    };
    match check {
        Check::Issuer => {
            let accepted = requirement.issuers.as_deref().unwrap_or_default().join(" ");
            ("issuer", format!("any of {accepted}; the token is from {}", claims.issuer()))
        }
        Check::Audience => {
            ("audience", has("any of", requirement.expected_audiences(claims), claims.audiences()))
        }
        Check::Scopes => ("scopes", has("all of", &requirement.scopes, claims.scopes())),
        Check::Roles => ("roles", has("any of", &requirement.roles, claims.roles())),
        Check::Claim(rule) => {
            let wanted: Vec<String> = rule.values.iter().map(ToString::to_string).collect();
            let had = rule.path.find(claims.all()).map_or_else(String::new, ToString::to_string);
            let path = rule.path.as_str();
            ("claim", format!("{path} is any of {}; the token has {}", wanted.join(" "), or_none(&had)))
        }
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { harmless(text) }
}

/// All of it for programs.
pub(super) fn json(account: &Account, trial: &Trial) -> Value {
    let (upstream, endpoint) = match &account.outcome {
        Outcome::Forwarded { upstream, .. } => (Some(upstream.as_str()), None),
        Outcome::Endpoint(endpoint) => (None, Some(*endpoint)),
        Outcome::Refused | Outcome::Preflight => (None, None),
    };
    let caller = account.claims.as_ref().map(|claims| {
        json!({
            "issuer": claims.issuer(), "subject": claims.subject(), "audiences": claims.audiences(),
            "scopes": claims.scopes(), "roles": claims.roles(),
        })
    });
    let steps: Vec<Value> = steps(account)
        .iter()
        .map(|step| json!({ "check": step.name, "outcome": step.mark.as_str(), "detail": step.detail }))
        .collect();
    let forward = sent(account, trial).map(|Sent { line, headers, removed }| {
        let (method, target) = line.split_once(' ').unwrap_or((&line, ""));
        json!({ "upstream": upstream, "method": method, "target": target, "headers": headers, "removed": removed })
    });
    json!({
        "decision": decision(account).as_str(),
        "reason": account.reason.as_str(),
        "detail": account.detail(),
        "unforwardable": account.unforwardable.as_ref().map(ToString::to_string),
        "status": account.status,
        "route": account.route.as_ref().map(|route| route.name()),
        "endpoint": endpoint,
        "path": account.path,
        "client": account.client.map(|client| client.to_string()),
        "caller": caller,
        "checks": steps,
        "forward": forward,
    })
}
