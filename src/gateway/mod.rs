//! The proxy itself: the phases of a request, and what they need.

mod admission;
mod answers;
mod attempt;
mod context;
pub mod cors;
mod decision;
mod denial;
mod direct;
pub mod engine;
pub mod forward_auth;
mod guard;
pub mod headers;
mod http1;
mod lease;
pub mod listener;
mod outgoing;
pub mod path;
mod proxy;
mod proxy_protocol;
pub mod rate;
pub mod rehearsal;
mod report;
pub mod request_id;
mod respond;
mod returned;
pub mod route;
pub mod settings;
pub mod snapshot;
mod switch;
mod tcp;
mod tls;
mod turns;
mod unparsed;
pub mod upstream;
mod websocket;

use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::endpoints::Endpoints;
use crate::endpoints::settings::Settings;
use crate::metrics::Metrics;
use crate::policy::requirement::RevocationMode;
use crate::reason::Reason;
use crate::session::id::SessionRef;
use crate::session::revocation::{Confirmations, Revocations};
use crate::session::store::SessionStore;
use crate::traces::Traces;
use arc_swap::ArcSwap;
use direct::DirectWay;
use pingora_core::protocols::http::server::Session;
use report::Reporter;
use snapshot::Snapshot;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the gateway knows of its own sessions.
#[derive(Clone)]
pub struct OwnSessions {
    /// What is known to be ended.
    pub revocations: Arc<Revocations>,
    /// Where they are kept, for routes that ask it about every request.
    pub store: Arc<dyn SessionStore>,
    /// Access tokens seen in use.
    pub confirmations: Arc<Confirmations>,
}

impl OwnSessions {
    /// Whether an access token's session is to be let pass, by what a route asks for. Only `sync` waits for the
    /// store, and only for a session of which nothing is known here.
    async fn check(&self, mode: RevocationMode, token: &SessionRef) -> Result<(), Reason> {
        if mode == RevocationMode::Off {
            return Ok(());
        }
        if self.revocations.is_revoked(token) {
            return Err(Reason::Revoked);
        }
        if mode == RevocationMode::Eventual {
            return Ok(());
        }
        match self.store.is_ended(token).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(Reason::Revoked),
            Err(_) => Err(Reason::StoreUnavailable),
        }
    }
}

/// The proxy, as Pingora drives it.
pub struct Gateway {
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where our own endpoints lie, and what their cookie is called.
    own: Option<Settings>,
    endpoints: Option<Arc<Endpoints>>,
    sessions: Option<OwnSessions>,
    reporter: Arc<Reporter>,
    clock: Arc<dyn Clock>,
    /// `None` counts nobody: no limit is ever used up.
    counters: Option<rate::Counters>,
    draining: Arc<AtomicBool>,
    /// For requests that go the direct way; `None` leaves all to the engine.
    direct: Option<DirectWay>,
}

impl Gateway {
    /// Puts the proxy together. A request sees the `snapshot` that was there at its start; `draining` turns true when the gateway is about to stop.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        sessions: Option<(Arc<Endpoints>, OwnSessions)>,
        metrics: Metrics,
        (log, traces): (AccessLog, Traces),
        clock: Arc<dyn Clock>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        let (endpoints, sessions) = sessions.unzip();
        Self {
            snapshot,
            own: endpoints.as_ref().map(|endpoints| endpoints.settings().clone()),
            endpoints,
            sessions,
            reporter: Arc::new(Reporter::new(metrics, log, traces, Arc::clone(&clock))),
            clock,
            counters: Some(rate::Counters::new()),
            draining,
            direct: None,
        }
    }

    /// A gateway that only decides: it has no endpoints and no sessions of its own, though it knows from `own`
    /// which requests are theirs, and counts nobody's requests.
    pub fn rehearsing(
        snapshot: Snapshot,
        own: Option<Settings>,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let log = AccessLog::nowhere(metrics.clone());
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let gateway = Self::new(snapshot, None, metrics, (log, Traces::default()), clock, Arc::default());
        Self { own, counters: None, ..gateway }
    }

    /// While the gateway stops, an answer says that its connection ends. Asked at the last moment: a request may
    /// have begun long before.
    fn announce_end(&self, session: &mut Session) {
        if self.draining.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SystemClock, random_bytes};
    use crate::secret::Secret;
    use crate::session::embedded::EmbeddedStore;
    use crate::session::family::RotationPolicy;
    use crate::session::id::{SessionId, UserKey};
    use crate::session::redis::{RedisSettings, RedisStore, Servers};
    use std::time::Duration;

    fn over(store: impl SessionStore) -> OwnSessions {
        OwnSessions {
            revocations: Arc::new(Revocations::new(Duration::from_secs(60), SystemClock.now())),
            store: Arc::new(store),
            confirmations: Arc::new(Confirmations::new()),
        }
    }

    fn token() -> SessionRef {
        let (session, user) = (SessionId::from_bytes([1; 16]), UserKey::from_bytes([2; 12]));
        SessionRef { session, user, generation: 0, epoch: 0 }
    }

    #[tokio::test]
    async fn only_sync_asks_the_store_what_this_gateway_has_not_heard_of() {
        let name = u64::from_be_bytes(random_bytes().unwrap());
        let folder = std::env::temp_dir().join(format!("portcullis-gateway-{name:x}"));
        let store = EmbeddedStore::open(&folder.join("s"), RotationPolicy::default(), Arc::new(SystemClock));
        let sessions = over(store.unwrap());
        // The store has no such session.
        assert_eq!(sessions.check(RevocationMode::Off, &token()).await, Ok(()));
        assert_eq!(sessions.check(RevocationMode::Eventual, &token()).await, Ok(()));
        assert_eq!(sessions.check(RevocationMode::Sync, &token()).await, Err(Reason::Revoked));
        drop(sessions);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_store_that_is_down_is_no_accusation_and_no_permit() {
        let settings = RedisSettings {
            servers: Servers::One(Secret::new("redis://127.0.0.1:1".to_owned())),
            timeout: Duration::from_secs(1),
            ca: None,
        };
        let sessions = over(RedisStore::connect_lazily(&settings, RotationPolicy::default()).unwrap());
        assert_eq!(sessions.check(RevocationMode::Eventual, &token()).await, Ok(()));
        assert_eq!(sessions.check(RevocationMode::Sync, &token()).await, Err(Reason::StoreUnavailable));
        sessions.revocations.session_ended(token().user, token().session, SystemClock.now());
        assert_eq!(sessions.check(RevocationMode::Sync, &token()).await, Err(Reason::Revoked));
        assert_eq!(sessions.check(RevocationMode::Eventual, &token()).await, Err(Reason::Revoked));
        assert_eq!(sessions.check(RevocationMode::Off, &token()).await, Ok(()));
    }
}
