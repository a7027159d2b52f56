//! The configuration file: [`Config::load`] is the only door, and it either gives settings in which nothing
//! contradicts itself, or every error of the file.

mod finding;
mod forward;
mod issuers;
mod pem;
mod reader;
mod requirement;
mod routes;
mod secrets;
mod server;
mod sessions;
mod store;
mod units;
mod upstreams;
mod users;
mod web;
mod yaml;

pub use finding::{ConfigErrors, Finding, Mark, Severity};
pub use sessions::{SecretPlan, SessionsConfig};
pub use store::StoreConfig;
pub use users::{UsersConfig, load_users};

use crate::gateway::headers::ProtectedNames;
use crate::gateway::route::{self, Route};
use crate::gateway::settings::{AdminSettings, LogSettings, ServerSettings, UpstreamSettings};
use crate::policy::forward::ForwardPlan;
use crate::policy::pattern::PathPrefix;
use crate::policy::route::RouteTable;
use crate::token::claims::GATEWAY_ISSUER;
use crate::token::verifier::IssuerSettings;
use finding::Report;
use reader::{Scope, Value};
use secrets::Environment;
use std::path::Path;
use std::sync::Arc;
use yaml::Node;

/// Everything the gateway is told, checked.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect, and what they may send.
    pub server: ServerSettings,
    /// The listener for metrics and health, if there is one.
    pub admin: Option<AdminSettings>,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Issuers beside our own; no two have one name or one `iss`, and none is called `gateway`.
    pub issuers: Vec<IssuerSettings>,
    /// Our own issuer and its endpoints, if they are served.
    pub sessions: Option<SessionsConfig>,
    /// Where requests are forwarded to.
    pub upstreams: Vec<UpstreamSettings>,
    /// What is served; the upstreams and issuers the routes name exist.
    pub routes: RouteTable<Arc<Route>>,
    /// The identity headers of all routes: removed from every request on every route.
    pub protected: ProtectedNames,
    /// What is allowed, but risky; in the order of the file.
    pub warnings: Vec<Finding>,
}

impl Config {
    /// Reads and checks a configuration file and the files it names. Creates nothing, asks no network.
    ///
    /// # Errors
    /// [`ConfigErrors`]: every error of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_with(path, &secrets::process_environment)
    }

    fn load_with(path: &Path, environment: Environment<'_>) -> Result<Self, ConfigErrors> {
        let report = Report::new(path);
        let config =
            read_tree(path, environment, &report).and_then(|root| compile(path, &root, environment, &report));
        let warnings = report.conclude()?;
        // Nothing is left out without an error; this only keeps a mistake here from becoming a panic.
        let incomplete = || Finding {
            severity: Severity::Error,
            file: path.to_owned(),
            mark: None,
            path: String::new(),
            what: "could not be understood".to_owned(),
            mend: "report this file as a bug".to_owned(),
        };
        let config = config.ok_or_else(|| ConfigErrors { errors: vec![incomplete()] })?;
        Ok(Self { warnings, ..config })
    }
}

/// Reads a file as a tree, with the environment put in.
fn read_tree(path: &Path, environment: Environment<'_>, report: &Report) -> Option<Node> {
    let bytes = match secrets::read_file(path, yaml::MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            let what = format!("cannot be read: {}", secrets::why(&error));
            report.error(None, "", what, "give the path of a readable YAML file of at most 4MiB");
            return None;
        }
    };
    let Ok(text) = String::from_utf8(bytes) else {
        report.error(None, "", "is not UTF-8 text", "save the file as UTF-8");
        return None;
    };
    let mut root = yaml::parse(&text, report)?;
    secrets::interpolate(&mut root, "", environment, report);
    Some(root)
}

fn compile(path: &Path, root: &Node, environment: Environment<'_>, report: &Report) -> Option<Config> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let scope = Scope { report, folder, environment };
    config(&Value { scope: &scope, node: root, path: String::new() })
}

fn config(root: &Value<'_>) -> Option<Config> {
    let known = &["server", "admin", "log", "issuers", "sessions", "upstreams", "forward", "routes"];
    let fields = root.fields(known, &["forward_auth", "telemetry"])?;
    let names =
        |key: &str| -> Vec<&str> { fields.get(key).map(|value| value.keys().collect()).unwrap_or_default() };
    let server = server::server(fields.get("server").as_ref());
    let admin = fields.get("admin").and_then(|value| server::admin(&value, &server));
    let log = server::log(fields.get("log").as_ref());
    let issuers = fields.get("issuers").map(|value| issuers::issuers(&value)).unwrap_or_default();
    let sessions = fields.get("sessions").and_then(|value| sessions::sessions(&value, &server, &issuers));
    let upstreams = fields.get("upstreams").map(|value| upstreams::upstreams(&value)).unwrap_or_default();
    let mut headers = Vec::new();
    let forward = match fields.get("forward") {
        Some(value) => forward::forward(&value, ForwardPlan::default(), &mut headers),
        None => ForwardPlan::default(),
    };
    headers.extend(forward.headers.iter().map(|rule| rule.name.clone()));
    let mut issuer_names = names("issuers");
    issuer_names.retain(|name| *name != GATEWAY_ISSUER);
    issuer_names.extend(fields.get("sessions").map(|_| GATEWAY_ISSUER));
    let around = routes::Surroundings {
        upstream_names: names("upstreams"),
        upstreams: &upstreams,
        issuer_names,
        forward: &forward,
        body_bytes: server.limits.body_bytes,
        endpoints: sessions.as_ref().and_then(|s| PathPrefix::parse(s.endpoints.prefix.as_str()).ok()),
    };
    let routes = fields.get("routes").map(|value| routes::routes(&value, &around, &mut headers));
    if routes.is_none() && sessions.is_none() {
        fields.warning("nothing is served", "add routes or sessions");
    }
    // Where routes tie or headers clash, that was reported above.
    let routes = route::table(routes.unwrap_or_default()).ok()?;
    let protected = ProtectedNames::new(&headers).ok()?;
    let warnings = Vec::new();
    Some(Config { server, admin, log, issuers, sessions, upstreams, routes, protected, warnings })
}
