//! Configurations for tests, as YAML text: each test shows the keys it is about, the rest is sane.

use super::folder::Folder;
use super::http_server::HttpServer;
use super::keys::Key;
use super::recipe;
use super::upstream::Upstream;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::fmt::Write as _;
use std::sync::OnceLock;

/// The password of every test user.
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// The secret that gateways sharing a store share.
const SECRET: &str = "0123456789abcdef0123456789abcdef-shared-by-all-gateways";

type Entries = Vec<(String, String)>;

fn put(entries: &mut Entries, key: &str, value: String) {
    entries.retain(|(name, _)| name != key);
    entries.push((key.into(), value));
}

/// A configuration to be rendered; all values are YAML in flow style.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// In place of all that follows, but for the files and the environment.
    written: Option<String>,
    listeners: Vec<String>,
    server: Entries,
    admin: Entries,
    top: Entries,
    issuers: Entries,
    sessions: Option<Sessions>,
    upstreams: Entries,
    routes: Vec<String>,
    /// Files beside the configuration.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Environment of the gateway.
    pub(crate) environment: Entries,
}

impl Config {
    /// One plain listener, no upstream, no route.
    pub(crate) fn new() -> Self {
        let mut config = Self {
            written: None,
            listeners: vec![String::new()],
            server: Vec::new(),
            admin: Vec::new(),
            top: Vec::new(),
            issuers: Vec::new(),
            sessions: None,
            upstreams: Vec::new(),
            routes: Vec::new(),
            files: Vec::new(),
            environment: Vec::new(),
        };
        config = config.server("threads", "2").set("log", "{ format: json, level: info, access: true }");
        config
    }

    /// Written by hand, with one listener and an admin listener at the addresses of recipes.
    pub(crate) fn written(text: String) -> Self {
        for address in [recipe::LISTENER, recipe::ADMIN] {
            assert!(text.contains(address), "{address} is not in the configuration");
        }
        Self { written: Some(text), ..Self::new() }
    }

    /// With an upstream called `app`.
    pub(crate) fn to(upstream: &Upstream) -> Self {
        Self::new().upstream("app", &[upstream])
    }

    /// With an upstream called `app` and one public route for everything.
    pub(crate) fn public(upstream: &Upstream) -> Self {
        Self::to(upstream).route("{ name: all, match: { path: /** }, upstream: app, auth: public }")
    }

    /// A top-level key.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        put(&mut self.top, key, value.into());
        self
    }

    /// A key under `server`.
    pub(crate) fn server(mut self, key: &str, value: &str) -> Self {
        put(&mut self.server, key, value.into());
        self
    }

    /// A key under `admin`.
    pub(crate) fn admin(mut self, key: &str, value: &str) -> Self {
        put(&mut self.admin, key, value.into());
        self
    }

    /// Further keys for the first listener (`http2: true`).
    pub(crate) fn listener(mut self, more: &str) -> Self {
        self.listeners[0] = format!(", {more}");
        self
    }

    /// Another listener, with these further keys.
    pub(crate) fn another_listener(mut self, more: &str) -> Self {
        self.listeners.push(format!(", {more}"));
        self
    }

    pub(crate) fn issuer(mut self, name: &str, settings: &str) -> Self {
        put(&mut self.issuers, name, settings.into());
        self
    }

    pub(crate) fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Other keys under `sessions.store.redis`.
    pub(crate) fn store(mut self, keys: &str) -> Self {
        let sessions = self.sessions.take().expect("sessions");
        self.sessions = Some(sessions.set("store", &format!("{{ redis: {{ {keys} }} }}")));
        self
    }

    pub(crate) fn upstream(self, name: &str, endpoints: &[&Upstream]) -> Self {
        self.upstream_with(name, endpoints, "")
    }

    /// An upstream with further keys (`, host: upstream`).
    pub(crate) fn upstream_with(self, name: &str, endpoints: &[&Upstream], more: &str) -> Self {
        let urls: Vec<_> = endpoints.iter().map(|upstream| format!("\"{}\"", upstream.url())).collect();
        self.upstream_raw(name, &format!("{{ endpoints: [{}]{more} }}", urls.join(", ")))
    }

    pub(crate) fn upstream_raw(mut self, name: &str, settings: &str) -> Self {
        put(&mut self.upstreams, name, settings.into());
        self
    }

    pub(crate) fn route(mut self, route: &str) -> Self {
        self.routes.push(route.into());
        self
    }

    /// A file beside the configuration, for relative paths in it.
    pub(crate) fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.into(), content.into()));
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        put(&mut self.environment, name, value.into());
        self
    }

    /// How many ports [`Self::render`] wants.
    pub(crate) fn ports(&self) -> usize {
        self.listeners.len() + 1
    }

    /// The YAML text; the last port is the admin listener's.
    pub(crate) fn render(&self, ports: &[u16]) -> String {
        let (admin, listeners) = ports.split_last().expect("an admin port");
        if let Some(text) = &self.written {
            let at = |port: &u16| format!("127.0.0.1:{port}");
            return text.replace(recipe::LISTENER, &at(&listeners[0])).replace(recipe::ADMIN, &at(admin));
        }
        let mut out = String::from("server:\n  listeners:\n");
        for (port, more) in listeners.iter().zip(&self.listeners) {
            let _ = writeln!(out, "    - {{ address: 127.0.0.1:{port}{more} }}");
        }
        section(&mut out, 2, &self.server);
        let _ = writeln!(out, "admin:\n  address: 127.0.0.1:{admin}");
        section(&mut out, 2, &self.admin);
        section(&mut out, 0, &self.top);
        named(&mut out, "issuers", &self.issuers);
        if let Some(sessions) = &self.sessions {
            named(&mut out, "sessions", &sessions.entries);
        }
        named(&mut out, "upstreams", &self.upstreams);
        if !self.routes.is_empty() {
            out.push_str("routes:\n");
            for route in &self.routes {
                let _ = writeln!(out, "  - {route}");
            }
        }
        out
    }

    /// Writes the files that stand beside the configuration.
    pub(crate) fn write_files(&self, folder: &Folder) {
        for (name, content) in &self.files {
            folder.write(name, content);
        }
        if self.sessions.is_some() && !self.files.iter().any(|(name, _)| name == "users.yaml") {
            folder.write("users.yaml", users());
        }
    }
}

fn section(out: &mut String, indent: usize, entries: &Entries) {
    for (key, value) in entries {
        let _ = writeln!(out, "{:indent$}{key}: {value}", "");
    }
}

fn named(out: &mut String, name: &str, entries: &Entries) {
    if !entries.is_empty() {
        let _ = writeln!(out, "{name}:");
        section(out, 2, entries);
    }
}

/// The `sessions:` part.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    entries: Entries,
}

impl Sessions {
    /// Our own issuer's name in every test.
    pub(crate) const ISSUER: &'static str = "https://gate.example.test";

    /// On the embedded store; secret and signing key are made at first start.
    pub(crate) fn embedded() -> Self {
        let mut entries = Vec::new();
        put(&mut entries, "issuer", Self::ISSUER.into());
        put(&mut entries, "audiences", "[api]".into());
        put(&mut entries, "secret_file", "data/secret".into());
        put(&mut entries, "signing_keys", "data/keys".into());
        put(&mut entries, "store", "{ embedded: { path: data/sessions.redb } }".into());
        put(&mut entries, "users", "{ file: { path: users.yaml } }".into());
        Self { entries }.throttle("{ burst: 10000, every: 1s }")
    }

    /// On a Redis, with the secret and the signing key in a folder that all its gateways share. A busy machine
    /// may hold an answer up; a test of an outage says itself how long the gateway is to wait.
    pub(crate) fn redis(url: &str, shared: &SharedKeys) -> Self {
        Self::redis_within(url, "10s", shared)
    }

    /// The same, with the time that an answer of the store may take.
    pub(crate) fn redis_within(url: &str, timeout: &str, shared: &SharedKeys) -> Self {
        Self::redis_at(&format!("url: \"{url}\", timeout: {timeout}"), shared)
    }

    /// The same, with the keys of the store as they are written in the configuration.
    pub(crate) fn redis_at(store: &str, shared: &SharedKeys) -> Self {
        Self::embedded()
            .set("secret_file", &shared.secret)
            .set("signing_keys", &shared.signing_keys)
            .set("store", &format!("{{ redis: {{ {store} }} }}"))
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        put(&mut self.entries, key, value.into());
        self
    }

    /// The same budget for all three buckets.
    pub(crate) fn throttle(self, budget: &str) -> Self {
        let all = format!("{{ account_network: {budget}, network: {budget}, account: {budget} }}");
        self.set("throttle", &all)
    }
}

/// What gateways on one store share besides it.
pub(crate) struct SharedKeys {
    _folder: Folder,
    secret: String,
    signing_keys: String,
}

impl SharedKeys {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let secret = folder.write("secret", SECRET);
        folder.write("keys/one.pem", Key::p256("shared").private_pem());
        let signing_keys = folder.path().join("keys").display().to_string();
        Self { _folder: folder, secret, signing_keys }
    }
}

/// The PHC string of [`PASSWORD`].
pub(crate) fn password_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| phc(PASSWORD))
}

/// An argon2id PHC string with the product's default cost.
pub(crate) fn phc(password: &str) -> String {
    phc_of(password, Params::DEFAULT)
}

fn phc_of(password: &str, params: Params) -> String {
    let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    let salt = b"a salt for tests";
    let mut hash = [0; 32];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password.as_bytes(), salt, &mut hash).expect("argon2");
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
}

/// The cheapest hash of [`PASSWORD`] there is, for tests that log in often.
pub(crate) fn cheap_hash() -> String {
    costly_hash(8, 1)
}

/// A hash of [`PASSWORD`] with this memory in KiB and so many passes.
pub(crate) fn costly_hash(memory: u32, passes: u32) -> String {
    phc_of(PASSWORD, Params::new(memory, passes, 1, None).expect("parameters"))
}

/// A users file with these names and the cheapest hash there is, for tests that log in by the hundred.
pub(crate) fn cheap_users<T: AsRef<str>>(names: &[T]) -> String {
    let hash = cheap_hash();
    let line = |name: &T| format!("  - {{ username: {}, password_hash: \"{hash}\" }}\n", name.as_ref());
    format!("users:\n{}", names.iter().map(line).collect::<String>())
}

/// The users: alice, a clerk who may read and write orders; bob, who may read; carol, who is disabled.
pub(crate) fn users() -> String {
    let hash = password_hash();
    let mut out = String::from("users:\n");
    for user in [
        "username: alice, subject: u-alice, claims: { email: alice@example.com, roles: [clerk], \
         scope: \"orders:read orders:write\" }",
        "username: bob, claims: { roles: [guest], scope: \"orders:read\" }",
        "username: carol, disabled: true",
    ] {
        let _ = writeln!(out, "  - {{ {user}, password_hash: \"{hash}\" }}");
    }
    out
}

/// An upstream entry for an HTTPS server of the tests.
pub(crate) fn https_upstream(server: &HttpServer, more: &str) -> String {
    format!("{{ endpoints: [\"https://{}\"]{more} }}", server.address())
}
