//! The configuration file: [`Config::load`] is the only door, and it either gives settings in which nothing
//! contradicts itself, or every error of the file.

mod admin;
mod cors;
mod finding;
mod forward;
mod http_directory;
mod issuers;
mod ldap_directory;
pub mod markdown;
mod pem;
pub mod policies;
mod rate_limit;
mod reader;
mod requirement;
mod routes;
pub mod schema;
mod secrets;
mod server;
mod session_secrets;
mod sessions;
mod sql_directory;
mod store;
mod told;
mod trace;
mod units;
mod upstreams;
mod users;
mod web;
mod yaml;

pub use finding::{ConfigErrors, Finding, Mark, Severity};
pub use secrets::is_set;
pub use session_secrets::SecretPlan;
pub use sessions::SessionsConfig;
pub use store::StoreConfig;
pub use units::duration as parse_duration;
pub use users::{UsersConfig, load_users};

use crate::gateway::headers::ProtectedNames;
use crate::gateway::route::{self, Route};
use crate::gateway::settings::{
    AdminSettings, ForwardAuthSettings, LogSettings, ServerSettings, UpstreamSettings,
};
use crate::key_set::Source;
use crate::policy::forward::ForwardPlan;
use crate::policy::pattern::PathPrefix;
use crate::policy::route::RouteTable;
use crate::token::claims::GATEWAY_ISSUER;
use crate::token::verifier::IssuerSettings;
use finding::Report;
use reader::{Fields, Scope, Value};
use secrets::Environment;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trace::Trace;
use yaml::Node;

/// Everything the gateway is told, checked.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect, and what they may send.
    pub server: ServerSettings,
    /// The listener for metrics and health, if there is one.
    pub admin: Option<AdminSettings>,
    /// The `forward_auth` section; absent, nobody asks for decisions.
    pub forward_auth: Option<ForwardAuthSettings>,
    /// What is logged, and how.
    pub log: LogSettings,
    /// The collector that gets traces, as a URL; absent, nobody does.
    pub otlp: Option<String>,
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
    fixed: Fixed,
}

/// The sections that are read at start only, as they stand in the file.
struct Fixed(Vec<(&'static str, Option<Node>)>);

/// Secrets of the environment may stand in them.
impl fmt::Debug for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fixed([redacted])")
    }
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
        let config = read_tree(path, environment, &report)
            .and_then(|root| compile(path, &root, environment, &report, None));
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
        let config = config.ok_or_else(|| ConfigErrors { errors: vec![incomplete()], files: Vec::new() })?;
        Ok(Self { warnings, ..config })
    }

    /// The sections in which `other` says something else that only a restart can take over.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let sockets = |config: &Self| -> Vec<_> {
            let listeners = config.server.listeners.iter();
            listeners.map(|l| (l.address, l.http2, l.tls.is_empty(), l.proxy_protocol)).collect()
        };
        let mut sections: Vec<_> = self
            .fixed
            .0
            .iter()
            .zip(&other.fixed.0)
            .filter(|(a, b)| a != b)
            .map(|((name, _), _)| *name)
            .collect();
        if self.server.threads != other.server.threads {
            sections.push("server.threads");
        }
        if sockets(self) != sockets(other) {
            sections.push("server.listeners");
        }
        if self.server.upgrade_socket != other.server.upgrade_socket {
            sections.push("server.upgrade_socket");
        }
        sections
    }

    /// The files beside the configuration itself whose change is a change of it: key sets, trusted certificates,
    /// and those shown to upstreams. Users and listeners' certificates are followed on their own.
    pub fn files(&self) -> Vec<PathBuf> {
        let key_sets = self.issuers.iter().filter_map(|issuer| match &issuer.keys.source {
            Source::File(path) => Some(path.clone()),
            _ => None,
        });
        let tls = || self.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
        let trusted = tls().filter_map(|tls| Some(tls.ca.as_ref()?.path.clone()));
        let shown = tls().filter_map(|tls| tls.identity.as_ref());
        let shown = shown.flat_map(|identity| [identity.path.clone(), identity.key_path.clone()]);
        key_sets.chain(trusted).chain(shown).collect()
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

fn compile(
    path: &Path,
    root: &Node,
    environment: Environment<'_>,
    report: &Report,
    trace: Option<&Trace>,
) -> Option<Config> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let scope = Scope { report, folder, environment, trace };
    config(&Value { scope: &scope, node: root, path: String::new() })
}

fn config(root: &Value<'_>) -> Option<Config> {
    let known = &[
        "server",
        "admin",
        "forward_auth",
        "log",
        "telemetry",
        "issuers",
        "sessions",
        "upstreams",
        "forward",
        "routes",
    ];
    let fields = root.fields(known, &[])?;
    let names =
        |key: &str| -> Vec<&str> { fields.get(key).map(|value| value.keys().collect()).unwrap_or_default() };
    let server = server::server(fields.get("server").as_ref());
    let admin =
        fields.get("admin").and_then(|value| admin::admin(&value, &server, fields.get("sessions").is_some()));
    let forward_auth =
        fields.get("forward_auth").and_then(|value| admin::forward_auth(&value, &server, admin.as_ref()));
    let log = server::log(fields.get("log").as_ref());
    let otlp = fields.get("telemetry").and_then(|value| server::otlp(&value));
    let issuers = fields.get("issuers").map(|value| issuers::issuers(&value)).unwrap_or_default();
    let sessions = fields.get("sessions").and_then(|value| sessions::sessions(&value, &server, &issuers));
    let upstreams = fields.get("upstreams").map(|value| upstreams::upstreams(&value)).unwrap_or_default();
    let has_sessions = fields.get("sessions").is_some();
    let mut known = forward::Known { headers: Vec::new(), sessions: has_sessions };
    let forward = match fields.get("forward") {
        Some(value) => forward::forward(&value, ForwardPlan::default(), &mut known),
        None => ForwardPlan::default(),
    };
    known.headers.extend(forward.headers.iter().map(|rule| rule.name.name().clone()));
    let mut issuer_names = names("issuers");
    issuer_names.retain(|name| *name != GATEWAY_ISSUER);
    issuer_names.extend(has_sessions.then_some(GATEWAY_ISSUER));
    let around = routes::Surroundings {
        upstream_names: names("upstreams"),
        upstreams: &upstreams,
        issuer_names,
        forward: &forward,
        body_bytes: server.limits.body_bytes,
        endpoints: sessions.as_ref().and_then(|s| PathPrefix::parse(s.endpoints.prefix.as_str()).ok()),
    };
    let routes = fields.get("routes").map(|value| routes::routes(&value, &around, &mut known));
    if routes.is_none() && sessions.is_none() {
        fields.warning("nothing is served", "add routes or sessions");
    }
    // Where routes tie or headers clash, that was reported above.
    let routes = route::table(routes.unwrap_or_default()).ok()?;
    let protected = ProtectedNames::new(&known.headers).ok()?;
    let warnings = Vec::new();
    let fixed = fixed(&fields);
    Some(Config {
        server,
        admin,
        forward_auth,
        log,
        otlp,
        issuers,
        sessions,
        upstreams,
        routes,
        protected,
        warnings,
        fixed,
    })
}

/// What a running gateway does not take over, whatever else it does.
fn fixed(fields: &Fields<'_>) -> Fixed {
    let section = |name| (name, fields.get(name).map(|value| value.node.clone()));
    Fixed(vec![
        section("admin"),
        section("forward_auth"),
        section("log"),
        section("telemetry"),
        section("sessions"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::PathBuf;
    use yaml::{Entry, Kind, Scalar, Style, item, member};

    const REFERENCE: &str = "conf/reference.yaml";

    fn tree(text: &str) -> Node {
        let report = Report::new(Path::new("test.yaml"));
        let root = yaml::parse(text, &report).unwrap();
        report.conclude().unwrap();
        root
    }

    /// What a tree says, as text that is the same for the same settings.
    fn compiled(root: &Node) -> Result<String, String> {
        let report = Report::new(Path::new(REFERENCE));
        let config = compile(Path::new(REFERENCE), root, &|_| None, &report, None);
        report.conclude().map_err(|errors| errors.to_string())?;
        let Config {
            server,
            admin,
            forward_auth,
            log,
            otlp,
            issuers,
            sessions,
            upstreams,
            routes,
            protected,
            warnings: _,
            fixed: _,
        } = config.expect("settings, since there is no error");
        let routes = routes.routes();
        let mut out =
            format!("{server:#?}\n{admin:#?}\n{forward_auth:#?}\n{log:#?}\n{issuers:#?}\n{sessions:#?}\n");
        write!(out, "{upstreams:#?}\n{routes:#?}\n{protected:?}\n{otlp:?}").unwrap();
        Ok(out)
    }

    /// Every node of a tree, the root first, with the way to it.
    fn paths(node: &Node, path: &str, found: &mut Vec<String>) {
        found.push(path.to_owned());
        match &node.kind {
            Kind::Sequence(nodes) => {
                nodes.iter().enumerate().for_each(|(i, node)| paths(node, &item(path, i), found));
            }
            Kind::Mapping(entries) => {
                for entry in entries {
                    paths(&entry.value, &member(path, &entry.key), found);
                }
            }
            _ => {}
        }
    }

    fn at<'a>(node: &'a mut Node, path: &str, wanted: &str) -> Option<&'a mut Node> {
        if path == wanted {
            return Some(node);
        }
        match &mut node.kind {
            Kind::Sequence(nodes) => {
                nodes.iter_mut().enumerate().find_map(|(i, node)| at(node, &item(path, i), wanted))
            }
            Kind::Mapping(entries) => {
                entries.iter_mut().find_map(|e| at(&mut e.value, &member(path, &e.key), wanted))
            }
            _ => None,
        }
    }

    fn reference() -> (String, Vec<String>) {
        let text = fs::read_to_string(REFERENCE).unwrap();
        let mut found = Vec::new();
        paths(&tree(&text), "", &mut found);
        (text, found)
    }

    fn load(text: &str, environment: Environment<'_>) -> Result<Config, String> {
        let folder = Folder::new();
        let file = folder.0.join("test.yaml");
        fs::write(&file, text).unwrap();
        Config::load_with(&file, environment).map_err(|errors| errors.to_string())
    }

    /// A folder of its own, gone at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let name: String =
                crate::clock::random_bytes::<8>().unwrap().map(|b| format!("{b:02x}")).concat();
            let path = std::env::temp_dir().join(format!("portcullis-config-{name}"));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Whatever in the reference is the user's choice has no default.
    fn is_choice(path: &str) -> bool {
        let named =
            |parent: &str| path.strip_prefix(parent).is_some_and(|rest| rest.matches('.').count() == 1);
        let chosen = named("issuers") || named("upstreams") || path.starts_with("forward.headers");
        let sections = [
            "",
            "issuers",
            "upstreams",
            "admin",
            "sessions",
            "routes",
            "sessions.store.embedded",
            "sessions.users.file",
            "routes[0].cors",
            "routes[0].rate_limit",
        ];
        chosen || sections.contains(&path) || path.ends_with(']')
    }

    #[test]
    fn the_reference_shows_the_default_of_every_key() {
        let (text, found) = reference();
        let whole = compiled(&tree(&text)).unwrap();
        let mut defaults = 0;
        for path in found.iter().filter(|path| !is_choice(path)) {
            let mut root = tree(&text);
            let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
            let Kind::Mapping(entries) = &mut at(&mut root, "", parent).unwrap().kind else {
                panic!("{path}")
            };
            let line = entries.iter().find(|entry| entry.key == key).unwrap().mark.line;
            entries.retain(|entry| entry.key != key);
            match compiled(&root) {
                Ok(without) => {
                    assert!(without == whole, "{path}: the reference does not show the default");
                    defaults += 1;
                }
                Err(error) => {
                    if error.contains("exactly one of") {
                        continue;
                    }
                    assert!(error.contains(": missing; "), "{path}: {error}");
                    let line = text.lines().nth(line - 1).unwrap();
                    assert!(
                        line.contains("required"),
                        "{path} is required, and the reference does not say so"
                    );
                }
            }
        }
        assert!(defaults > 70, "{defaults} defaults");
    }

    #[test]
    fn the_reference_has_every_key() {
        let (text, found) = reference();
        let comments: String =
            text.lines().filter_map(|line| Some(format!("{}\n", line.split_once('#')?.1))).collect();
        for path in found {
            let mut root = tree(&text);
            let Kind::Mapping(entries) = &mut at(&mut root, "", &path).unwrap().kind else { continue };
            let present: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
            let mark = Mark { line: 1, column: 1 };
            entries.push(Entry { mark, key: "zzzzzz".to_owned(), value: Node { mark, kind: Kind::Null } });
            let errors = compiled(&root).unwrap_err();
            let Some((_, known)) = errors.split_once("unknown key; the keys here are ") else { continue };
            for key in known.lines().next().unwrap().split(", ") {
                let shown = present.iter().any(|p| p == key) || comments.contains(&format!(" {key}:"));
                assert!(shown, "{} is not in the reference", member(&path, key));
            }
        }
    }

    #[test]
    fn nothing_of_the_wrong_kind_is_dropped_in_silence() {
        let (text, found) = reference();
        let plain = |text: &str| Kind::Scalar(Scalar { text: text.to_owned(), style: Style::Plain });
        for path in &found {
            let kinds = [
                plain("\u{1}"),
                Kind::Null,
                Kind::Sequence(vec![Node { mark: Mark { line: 1, column: 1 }, kind: Kind::Null }]),
            ];
            for kind in kinds {
                let mut root = tree(&text);
                at(&mut root, "", path).unwrap().kind = kind;
                assert!(compiled(&root).is_err(), "{path} was accepted");
            }
        }
    }

    #[test]
    fn values_from_the_environment_are_of_any_type_and_never_shown() {
        let environment = |name: &str| match name {
            "THREADS" => Some("3".to_owned()),
            "ACCESS" => Some("false".to_owned()),
            "SECRET" => Some("hunter2".to_owned()),
            _ => None,
        };
        let config =
            load("server: { threads: \"${THREADS}\" }\nlog: { access: \"${ACCESS}\" }", &environment)
                .unwrap();
        assert_eq!((config.server.threads, config.log.access), (3, false));
        let secret = "\"${SECRET}\"";
        let text = format!(
            "server: {{ threads: {secret}, listeners: [{{ address: {secret} }}], trusted_proxies: [{secret}], \
             limits: {{ body_bytes: {secret}, idle_timeout: {secret} }} }}\n\
             log: {{ level: {secret}, access: {secret} }}\n\
             upstreams: {{ a: {{ endpoints: [{secret}, \"http://${{SECRET}}@a\"], host: \"/${{SECRET}}\" }} }}\n\
             routes: [{{ name: \"/${{SECRET}}\", match: {{ path: {secret}, hosts: [\"/${{SECRET}}\"], methods: [{secret}] }}, \
             upstream: {secret}, auth: {secret} }}]"
        );
        let errors = load(&text, &environment).unwrap_err();
        assert_eq!(errors.lines().count(), 16, "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }

    #[test]
    fn the_secrets_of_a_configuration_are_in_no_debug_output() {
        let folder = Folder::new();
        fs::write(folder.0.join("users.yaml"), "users: []").unwrap();
        fs::write(folder.0.join("secret"), "hunter2-hunter2-hunter2-hunter2-hunter2").unwrap();
        let text = "issuers: { a: { issuer: a, audiences: [a], algorithms: [HS256], key_set: { secret_file: secret } } }\n\
                    sessions: { issuer: b, secret_file: secret, users: { file: { path: users.yaml } }, \
                    store: { redis: { url: \"redis://u:hunter2@127.0.0.1\" } } }";
        fs::write(folder.0.join("test.yaml"), text).unwrap();
        let config = Config::load(&folder.0.join("test.yaml")).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn files_that_are_no_configuration_are_refused_as_a_whole() {
        let folder = Folder::new();
        let error = |name: &str| Config::load(&folder.0.join(name)).unwrap_err().to_string();
        assert!(error("absent").contains("there is no such file"));
        assert!(error(".").contains("it is a folder"));
        fs::write(folder.0.join("binary"), [0xff, 0xfe, 0]).unwrap();
        assert!(error("binary").contains("is not UTF-8"));
        fs::write(folder.0.join("huge"), vec![b'#'; usize::try_from(yaml::MAX_BYTES).unwrap() + 1]).unwrap();
        assert!(error("huge").contains("longer than 4194304 bytes"));
    }

    #[test]
    fn checking_creates_nothing() {
        let folder = Folder::new();
        for name in ["portcullis.yaml", "users.yaml"] {
            fs::copy(Path::new("conf").join(name), folder.0.join(name)).unwrap();
        }
        let config = Config::load(&folder.0.join("portcullis.yaml")).unwrap();
        assert!(matches!(config.sessions.unwrap().secret, SecretPlan::CreateAt(_)));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2);
    }

    #[test]
    fn the_users_file_can_be_read_again_on_its_own() {
        let users = load_users(Path::new("conf/users.yaml")).unwrap();
        assert_eq!(users.iter().map(|user| user.username.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
        let wrong = load_users(Path::new("tests/config_corpus/files/wrong-users.yaml")).unwrap_err();
        assert_eq!(wrong.errors.len(), 9);
    }

    #[test]
    fn a_certificate_needs_its_own_private_key() {
        let folder = Folder::new();
        let made = || rcgen::generate_simple_self_signed(["a.example.test".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        fs::write(folder.0.join("cert.pem"), one.cert.pem()).unwrap();
        fs::write(folder.0.join("key.pem"), one.signing_key.serialize_pem()).unwrap();
        fs::write(folder.0.join("other.pem"), other.signing_key.serialize_pem()).unwrap();
        let load = |key: &str| {
            let text = format!(
                "server: {{ listeners: [{{ address: 127.0.0.1:0, tls: {{ certificate: cert.pem, private_key: {key} }} }}] }}"
            );
            fs::write(folder.0.join("test.yaml"), text).unwrap();
            Config::load(&folder.0.join("test.yaml")).map_err(|errors| errors.to_string())
        };
        let listener = load("key.pem").unwrap().server.listeners.remove(0);
        assert!(listener.http2 && listener.tls[0].private_key.ends_with("key.pem"));
        let error = load("other.pem").unwrap_err();
        assert!(
            error.contains(
                "listeners[0].tls.private_key: the certificate and the private key do not go together"
            ),
            "{error}"
        );
    }

    #[test]
    fn no_beginning_of_the_reference_makes_it_panic() {
        let (text, _) = reference();
        let beginnings = text.char_indices().step_by(37).filter_map(|(at, _)| text.get(..at));
        for beginning in beginnings {
            let report = Report::new(Path::new(REFERENCE));
            if let Some(root) = yaml::parse(beginning, &report) {
                let config = compile(Path::new(REFERENCE), &root, &|_| None, &report, None);
                assert!(config.is_some() || report.conclude().is_err(), "{beginning}");
            }
        }
    }
}
