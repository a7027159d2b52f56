//! What gateways that stand side by side have in common: store, keys, users, one upstream.

use super::config::{Config, Sessions, SharedKeys, cheap_users};
use super::gateway::Gateway;
use super::upstream::Upstream;

/// A store deadline for tests that are not about it, so that a busy machine is no outage.
const PATIENT: &str = "timeout: 10s";

/// Gateways to be started on one store.
pub(crate) struct Site {
    _upstream: Upstream,
    _keys: SharedKeys,
    config: Config,
}

impl Site {
    /// On the store under `redis:` in the configuration, with these rules for refresh tokens.
    pub(crate) fn new(store: &str, rules: &str) -> Self {
        Self::with_users(store, rules, &["alice", "bob"])
    }

    /// On one Redis that may take its time.
    pub(crate) fn on(port: u16, rules: &str) -> Self {
        Self::new(&format!("url: \"redis://127.0.0.1:{port}\", {PATIENT}"), rules)
    }

    pub(crate) fn with_users<T: AsRef<str>>(store: &str, rules: &str, users: &[T]) -> Self {
        let (upstream, keys) = (Upstream::start(), SharedKeys::new());
        let sessions = Sessions::redis_at(store, &keys).set("refresh_token", rules);
        let config = Config::to(&upstream)
            .sessions(sessions)
            .file("users.yaml", cheap_users(users))
            .route("{ name: api, match: { path: /api/** }, upstream: app }");
        Self { _upstream: upstream, _keys: keys, config }
    }

    /// With something else in the configuration.
    pub(crate) fn configured(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.config = change(self.config);
        self
    }

    /// Another gateway, ready.
    #[track_caller]
    pub(crate) fn gateway(&self) -> Gateway {
        Gateway::start(&self.config)
    }
}
