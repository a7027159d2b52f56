//! What the tests of the endpoints stand on.

use super::super::cookie::{CookieSettings, SameSite};
use super::super::event::{AuditAction, Handled, SessionEvent};
use super::super::origin::Origin;
use super::super::settings::{DeliveryRule, Naming, Prefix, Settings};
use super::super::{Body, EndpointRequest, Endpoints, Parts, find};
use super::breakable::Breakable;
use crate::clock::{Clock, ManualClock, SystemClock, Timestamp, random_bytes};
use crate::directory::file::{FileDirectory, UserRecord};
use crate::directory::password::{PasswordPool, PoolSettings};
use crate::directory::password_hash::hash_password;
use crate::secret::Secret;
use crate::session::deferred::DeferredLogouts;
use crate::session::embedded::EmbeddedStore;
use crate::session::family::RotationPolicy;
use crate::session::id::SessionId;
use crate::session::refresh_token::RefreshTokens;
use crate::session::revocation::Revocations;
use crate::session::throttle::{AttemptNames, Bucket, Throttle, ThrottleSettings};
use crate::token::signer::{Signer, SigningAlgorithm};
use crate::token::verified_cache::VerifiedCache;
use crate::token::verifier::Verifier;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(super) const PASSWORD: &str = "correct horse battery staple";
pub(super) const COOKIE: &str = "__Secure-refresh_token";
pub(super) const HOST: &str = "app.example.com";
pub(super) const OWN: &str = "https://app.example.com";
pub(super) const PARTNER: &str = "https://partner.example.net";

/// Endpoints in their normal surroundings.
pub(super) struct Rig {
    pub(super) endpoints: Endpoints,
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<Breakable<EmbeddedStore>>,
    pub(super) directory: Arc<Breakable<FileDirectory>>,
    pub(super) parts: Parts,
    _folder: Folder,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let folder = Folder::new();
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let path = folder.0.join("sessions.redb");
        let store = EmbeddedStore::open(&path, settings.rotation, clock.clone()).unwrap();
        let store = Arc::new(Breakable::new(store));
        let pool = Arc::new(PasswordPool::start(PoolSettings { threads: 2, queue: 64 }).unwrap());
        let directory = FileDirectory::new(vec![user("alice"), user("bob"), disabled("eve")], pool).unwrap();
        let directory = Arc::new(Breakable::new(directory));
        let (signer, verifier) = own_keys(&folder, settings.rotation.access_token_lifetime);
        let revocations = Revocations::new(settings.rotation.revocation_lifetime(), clock.now());
        let parts = Parts {
            store: store.clone(),
            directory: directory.clone(),
            tokens: Arc::new(RefreshTokens::new(&[7; 32], OWN)),
            revocations: Arc::new(revocations),
            throttle: Arc::new(throttle(clock.clone())),
            deferred: Arc::new(DeferredLogouts::new()),
            signer,
            verifier,
            clock: clock.clone(),
        };
        let endpoints = Endpoints::new(settings, parts.clone());
        Self { endpoints, clock, store, directory, parts, _folder: folder }
    }

    /// Changes the secret; tokens of the one until now are still good.
    pub(super) fn change_secret(&mut self) {
        self.parts.tokens = Arc::new(RefreshTokens::new(&[9; 32], OWN).with_previous(&[7; 32]));
        self.endpoints = Endpoints::new(self.endpoints.settings().clone(), self.parts.clone());
    }

    /// Sends a request and reads the answer.
    pub(super) async fn send(&self, call: Call) -> Answer {
        let endpoint =
            find(self.endpoints.settings().prefix.as_str(), call.path).expect("a path of the endpoints");
        let request = EndpointRequest {
            method: &call.method,
            headers: &call.headers,
            peer: call.peer,
            https: true,
            host: HOST,
            request_id: "r-1",
            token_bytes: 8 * 1024,
        };
        Answer::from(self.endpoints.handle(endpoint, request, call.body).await)
    }

    /// Logs in without a browser.
    pub(super) async fn login(&self, username: &str) -> Tokens {
        let answer = self.send(login(username, PASSWORD)).await.expect(200);
        Tokens {
            access: answer.text("accessToken"),
            refresh: answer.text("refreshToken"),
            session: answer.text("sessionId"),
        }
    }

    /// Logs in from a page of our own.
    pub(super) async fn login_in_browser(&self, username: &str) -> Tokens {
        let answer = self.send(login(username, PASSWORD).same_origin()).await.expect(200);
        Tokens {
            access: answer.text("accessToken"),
            refresh: answer.cookie().unwrap(),
            session: answer.text("sessionId"),
        }
    }

    /// Whether an access token is still good at the endpoints.
    pub(super) async fn is_good(&self, access: &str) -> bool {
        self.send(call("GET", "/auth/sessions").bearer(access)).await.status == 200
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn advance(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }
}

/// A signer with a key of its own, and a verifier of its tokens.
fn own_keys(folder: &Folder, lifetime: Duration) -> (Arc<Signer>, Arc<Verifier>) {
    let (issuer, audiences) = (OWN.to_owned(), vec!["api".to_owned()]);
    let keys = folder.0.join("keys");
    let signer = Signer::load_or_create(&keys, issuer, audiences, lifetime, SigningAlgorithm::Es256).unwrap();
    let cache = Arc::new(VerifiedCache::new(1 << 20, Arc::new(|_| {})));
    let verifier = Verifier::own_only(signer.own_issuer(), cache);
    (Arc::new(signer), Arc::new(verifier))
}

pub(super) struct Tokens {
    pub(super) access: String,
    pub(super) refresh: String,
    pub(super) session: String,
}

fn throttle(clock: Arc<ManualClock>) -> Throttle {
    let bucket = |burst, secs| Bucket { burst, every: Duration::from_secs(secs) };
    let settings =
        ThrottleSettings { account_network: bucket(5, 30), network: bucket(30, 2), account: bucket(20, 60) };
    Throttle::new(settings, AttemptNames::new(&[7; 32], OWN), None, clock)
}

fn settings() -> Settings {
    Settings {
        prefix: Prefix::parse("/auth").unwrap(),
        naming: Naming::CamelCase,
        delivery: DeliveryRule::Client,
        cookie: CookieSettings::new(COOKIE, "/auth", SameSite::Strict).unwrap(),
        allowed_origins: vec![Origin::parse(PARTNER).unwrap()],
        issuer_origin: Origin::of_url("https://id.example.com/realm"),
        rotation: RotationPolicy::default(),
    }
}

pub(super) fn user(username: &str) -> UserRecord {
    static HASH: OnceLock<String> = OnceLock::new();
    let hash = HASH.get_or_init(|| hash_password(PASSWORD.as_bytes(), [1; 16]).unwrap());
    UserRecord {
        username: username.to_owned(),
        password_hash: Secret::new(hash.clone()),
        subject: Some(format!("u-{username}")),
        claims: Map::from_iter([("roles".to_owned(), json!(["clerk"]))]),
        disabled: false,
    }
}

pub(super) fn disabled(username: &str) -> UserRecord {
    UserRecord { disabled: true, ..user(username) }
}

/// A request to be.
#[derive(Clone)]
pub(super) struct Call {
    method: Method,
    path: &'static str,
    headers: HeaderMap,
    body: Body,
    peer: IpAddr,
}

pub(super) fn call(method: &'static str, path: &'static str) -> Call {
    Call {
        method: method.parse().unwrap(),
        path,
        headers: HeaderMap::new(),
        body: Body::Bytes(Bytes::new()),
        peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    }
}

pub(super) fn post(path: &'static str) -> Call {
    call("POST", path)
}

pub(super) fn login(username: &str, password: &str) -> Call {
    post("/auth/login").json(&json!({ "username": username, "password": password }))
}

impl Call {
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub(super) fn text(self, body: &str) -> Self {
        self.body(Body::Bytes(Bytes::copy_from_slice(body.as_bytes())))
    }

    pub(super) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").text(&body.to_string())
    }

    pub(super) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With our cookie and nothing else.
    pub(super) fn bare_cookie(self, token: &str) -> Self {
        self.header("cookie", &format!("theme=dark; {COOKIE}={token}"))
    }

    /// With our cookie, from a page of our own.
    pub(super) fn cookie(self, token: &str) -> Self {
        self.bare_cookie(token).same_origin()
    }

    pub(super) fn same_origin(self) -> Self {
        self.header("sec-fetch-site", "same-origin").header("origin", OWN)
    }

    pub(super) fn from(mut self, peer: &str) -> Self {
        self.peer = peer.parse().unwrap();
        self
    }
}

/// An answer, read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
    pub(super) event: Option<SessionEvent>,
    pub(super) audit: Option<AuditAction>,
    pub(super) handled: Handled,
}

impl From<Handled> for Answer {
    fn from(handled: Handled) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &handled.reply.headers {
            headers.append(name.clone(), value.clone());
        }
        let body = if handled.reply.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&handled.reply.body).unwrap()
        };
        Self {
            status: handled.reply.status,
            headers,
            body,
            event: handled.event,
            audit: handled.audit.as_ref().map(|audit| audit.action),
            handled,
        }
    }
}

impl Answer {
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// Expects an error of this status and code.
    #[track_caller]
    pub(super) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.body["code"], code);
        assert_eq!(answer.body["requestId"], "r-1");
        assert!(answer.body["error"].is_string() && answer.body["message"].is_string());
        answer
    }

    #[track_caller]
    pub(super) fn text(&self, member: &str) -> String {
        self.body[member].as_str().unwrap_or_else(|| panic!("no {member} in {}", self.body)).to_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The value `Set-Cookie` gives our cookie.
    pub(super) fn cookie(&self) -> Option<String> {
        let line = self.header("set-cookie")?;
        let (name, value) = line.split(';').next()?.split_once('=')?;
        assert_eq!(name, COOKIE);
        Some(value.to_owned())
    }

    pub(super) fn clears_cookie(&self) -> bool {
        let cleared = format!("{COOKIE}=; Path=/auth; Max-Age=0; HttpOnly; Secure; SameSite=Strict");
        self.header("set-cookie") == Some(cleared.as_str())
    }
}

/// A folder of its own for each test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = SessionId::from_bytes(random_bytes().unwrap());
        let path = std::env::temp_dir().join(format!("portcullis-endpoints-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
