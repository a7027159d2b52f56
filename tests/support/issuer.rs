//! A fake identity provider in the manner of Keycloak: discovery document, key set, tokens.

use super::http_server::{HttpServer, Received, Reply};
use super::keys::Key;
use super::token::{Token, now};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct State {
    keys: Vec<Value>,
    // In place of the key set, when something is to be wrong with it.
    instead: Option<Reply>,
    delay: Duration,
    // In place of its own address in the discovery document.
    jwks_uri: Option<String>,
    fetches: usize,
}

/// The provider; its realm lies at `/realms/staff`.
pub(crate) struct Issuer {
    server: HttpServer,
    state: Arc<Mutex<State>>,
    /// The key it signs with.
    pub(crate) key: Key,
}

impl Issuer {
    /// With one published RSA key.
    pub(crate) fn start() -> Self {
        Self::with_key(Key::rsa(0))
    }

    pub(crate) fn with_key(key: Key) -> Self {
        let state =
            State { keys: vec![key.jwk()], instead: None, delay: Duration::ZERO, jwks_uri: None, fetches: 0 };
        let state = Arc::new(Mutex::new(state));
        let serving = Arc::clone(&state);
        let server = HttpServer::start(move |received| answer(received, &serving));
        Self { server, state, key }
    }

    /// Its issuer identifier.
    pub(crate) fn id(&self) -> String {
        format!("http://{}/realms/staff", self.server.address())
    }

    pub(crate) fn key_set_url(&self) -> String {
        format!("{}/certs", self.id())
    }

    /// An `issuers:` entry that fetches its key set, for audience `orders-api`.
    pub(crate) fn settings(&self) -> String {
        self.settings_with("")
    }

    /// The same with further keys (`, leeway: 0s`).
    pub(crate) fn settings_with(&self, more: &str) -> String {
        let (id, url) = (self.id(), self.key_set_url());
        format!("{{ issuer: \"{id}\", audiences: [orders-api], key_set: {{ url: \"{url}\" }}{more} }}")
    }

    /// How often the key set was asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.state.lock().unwrap().fetches
    }

    /// Every request it got.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.server.received()
    }

    /// `host:port` of its server.
    pub(crate) fn authority(&self) -> String {
        self.server.address().to_string()
    }

    /// Names this address in its discovery document.
    pub(crate) fn discover_at(&self, url: &str) {
        self.state.lock().unwrap().jwks_uri = Some(url.to_owned());
    }

    /// Publishes exactly these keys.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        self.state.lock().unwrap().keys = keys;
    }

    /// Signs with another key from now on, and publishes that one alone.
    pub(crate) fn rotate(&mut self, key: Key) {
        self.publish(vec![key.jwk()]);
        self.key = key;
    }

    /// Answers this instead of its key set.
    pub(crate) fn break_with(&self, reply: Reply) {
        self.state.lock().unwrap().instead = Some(reply);
    }

    /// Answers with its key set again.
    pub(crate) fn mend(&self) {
        let mut state = self.state.lock().unwrap();
        state.instead = None;
        state.delay = Duration::ZERO;
    }

    /// Takes this long over each answer.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// Refuses connections from now on.
    pub(crate) fn stop(&self) {
        self.server.stop();
    }

    /// A token as Keycloak makes them, not yet signed.
    pub(crate) fn token(&self) -> Token {
        Token::new(json!({
            "iss": self.id(),
            "aud": ["orders-api", "account"],
            "sub": "f:9c1:maria",
            "exp": now() + 300,
            "iat": now(),
            "jti": "0e1f3c4a-6c2b-4b43-9f5e-2a40cf01f6de",
            "typ": "Bearer",
            "azp": "shop-frontend",
            "scope": "orders:read profile",
            "realm_access": { "roles": ["clerk", "offline_access"] },
            "preferred_username": "maria",
            "email": "maria@example.com"
        }))
    }

    /// A valid token.
    pub(crate) fn sign(&self) -> String {
        self.token().sign(&self.key)
    }
}

fn answer(received: &Received, state: &Mutex<State>) -> Reply {
    let (path, _) = received.target().split_once('?').unwrap_or((received.target(), ""));
    if path.ends_with("/.well-known/openid-configuration") {
        let issuer = format!("http://{}/realms/staff", received.header("host").unwrap_or_default());
        let elsewhere = state.lock().unwrap().jwks_uri.clone();
        return Reply::json(&json!({
            "issuer": issuer,
            "jwks_uri": elsewhere.unwrap_or_else(|| format!("{issuer}/certs")),
            "id_token_signing_alg_values_supported": ["RS256"]
        }));
    }
    if !path.ends_with("/certs") {
        return Reply::status(404, "no such page");
    }
    let (reply, delay) = {
        let mut state = state.lock().unwrap();
        state.fetches += 1;
        let reply = state.instead.clone().unwrap_or_else(|| Reply::json(&json!({ "keys": state.keys })));
        (reply, state.delay)
    };
    if delay.is_zero() { reply } else { reply.after(delay) }
}
