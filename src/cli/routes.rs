//! `portcullis routes`: which routes there are, and what each asks of its callers.

use super::terminal::{Paint, table};
use crate::config::Config;
use crate::gateway::route::Route;
use crate::policy::requirement::{ClaimValue, Mode, Requirement, RevocationMode};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// What is asked.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only routes that let a request without a token pass
    #[arg(long)]
    public: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists the routes. The exit code is 1 if the configuration is not valid.
pub fn run(arguments: &Arguments) -> ExitCode {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(errors) => return super::fail(&errors.to_string()),
    };
    let routes =
        config.routes.routes().iter().filter(|route| !arguments.public || is_open(&route.requirement));
    let routes: Vec<&Arc<Route>> = routes.collect();
    if arguments.json {
        let list: Vec<Value> = routes.iter().map(|route| json(route)).collect();
        return super::print(&format!("{:#}\n", Value::from(list)));
    }
    let mut rows =
        vec![["ROUTE", "HOSTS", "PATH", "METHODS", "UPSTREAM", "ASKS FOR"].map(str::to_owned).to_vec()];
    rows.extend(routes.iter().map(|route| row(route)));
    super::print(&table(&rows, Paint::stdout()))
}

/// Whether a request without a token passes: the route is public, takes anonymous callers, or only observes.
fn is_open(requirement: &Requirement) -> bool {
    requirement.mode != Mode::Required || !requirement.enforce
}

fn row(route: &Route) -> Vec<String> {
    let matched = &route.matched;
    let list = |items: Vec<String>| if items.is_empty() { "any".to_owned() } else { items.join(" ") };
    vec![
        route.name().to_owned(),
        list(matched.hosts.iter().map(ToString::to_string).collect()),
        matched.path.to_string(),
        list(matched.methods.iter().map(ToString::to_string).collect()),
        route.upstream.clone(),
        asks(&route.requirement),
    ]
}

/// What a route asks for, in words.
fn asks(requirement: &Requirement) -> String {
    let mut parts = vec![match requirement.mode {
        Mode::Public => return "nothing".to_owned(),
        Mode::Optional => "no token, or a good one".to_owned(),
        Mode::Required => "a token".to_owned(),
    }];
    let mut add = |what: &str, list: &[String]| {
        if !list.is_empty() {
            parts.push(format!("{what} {}", list.join(" ")));
        }
    };
    add("of", requirement.issuers.as_deref().unwrap_or_default());
    add("for", &requirement.audiences);
    add("all scopes of", &requirement.scopes);
    add("any role of", &requirement.roles);
    for rule in &requirement.claims {
        let values: Vec<_> = rule.values.iter().map(ToString::to_string).collect();
        parts.push(format!("{} any of {}", rule.path.as_str(), values.join(" ")));
    }
    if !requirement.enforce {
        parts.push("only observed".to_owned());
    }
    parts.join("; ")
}

fn json(route: &Route) -> Value {
    let Requirement { mode, issuers, audiences, scopes, roles, claims, enforce, revocation } =
        &route.requirement;
    let strings = |items: Vec<String>| Value::from(items);
    let claims: serde_json::Map<String, Value> = claims
        .iter()
        .map(|rule| (rule.path.as_str().to_owned(), rule.values.iter().map(ClaimValue::to_json).collect()))
        .collect();
    json!({
        "name": route.name(),
        "hosts": strings(route.matched.hosts.iter().map(ToString::to_string).collect()),
        "path": route.matched.path.to_string(),
        "methods": strings(route.matched.methods.iter().map(ToString::to_string).collect()),
        "upstream": route.upstream,
        "mode": match mode {
            Mode::Public => "public",
            Mode::Optional => "optional",
            Mode::Required => "required",
        },
        "open": is_open(&route.requirement),
        "enforce": enforce,
        "issuers": issuers,
        "audiences": audiences,
        "scopes": scopes,
        "roles": roles,
        "claims": claims,
        "revocation": match revocation {
            RevocationMode::Off => "off",
            RevocationMode::Eventual => "eventual",
            RevocationMode::Sync => "sync",
        },
    })
}
