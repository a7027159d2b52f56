//! Puts our own issuer together: secret, signing keys, store, directory, endpoints, and their background work.

use super::secret_file::{self, SecretFileError};
use super::watch::Watch;
use super::{signing_keys, users};
use crate::admin::{Part, PartState};
use crate::clock::{Clock, Timestamp};
use crate::config::{SecretPlan, SessionsConfig, StoreConfig, UsersConfig};
use crate::directory::file::{FileDirectory, RecordError};
use crate::directory::http::HttpDirectory;
use crate::directory::ldap::{self, LdapDirectory};
use crate::directory::password::{PasswordPool, PoolSettings};
use crate::directory::sql::SqlDirectory;
use crate::directory::{DirectoryError, UserDirectory};
use crate::endpoints::settings::Settings;
use crate::endpoints::{Endpoints, Parts};
use crate::gateway::OwnSessions;
use crate::metrics::Metrics;
use crate::outbound::OutboundError;
use crate::panics::{Place, contain, keep_up};
use crate::session::confirmation::{self, Confirmations};
use crate::session::deferred::{self, DeferredLogouts};
use crate::session::embedded::{EmbeddedStore, OpenError};
use crate::session::metered::MeteredStore;
use crate::session::redis::{RedisStore, SettingsError};
use crate::session::refresh_token::RefreshTokens;
use crate::session::revocation::{self, Revocations};
use crate::session::skew;
use crate::session::store::SessionStore;
use crate::session::throttle::{AttemptNames, SharedThrottle, Throttle};
use crate::token::signer::{Signer, SignerError};
use crate::token::verified_cache::VerifiedCache;
use crate::token::verifier::Verifier;
use std::sync::Arc;
use std::time::Duration;

/// How long the end of the process waits for logouts that the store has not taken yet.
const LAST_LOGOUTS: Duration = Duration::from_secs(2);

/// Why our own sessions cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The secret cannot be made or read.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The signing keys cannot be used.
    #[error("sessions.signing_keys: {0}")]
    Signer(#[from] SignerError),
    /// The embedded store cannot be opened.
    #[error("sessions.store.embedded: {0}")]
    Embedded(#[from] OpenError),
    /// The Redis store cannot be used as configured.
    #[error("sessions.store.redis: {0}")]
    Redis(#[from] SettingsError),
    /// A user of the users file cannot be one.
    #[error("sessions.users.file: {0}")]
    Users(#[from] RecordError),
    /// A backend's login cannot be asked.
    #[error("sessions.users.http: {0}")]
    Backend(#[from] OutboundError),
    /// An LDAP directory cannot be asked as configured.
    #[error("sessions.users.ldap: {0}")]
    Ldap(#[from] ldap::SettingsError),
    /// The directory cannot be asked.
    #[error("sessions.users: {0}")]
    Directory(#[from] DirectoryError),
    /// The system gives no threads, or no signal.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
}

/// Where passwords are hashed; a directory that judges them itself needs none.
type Pool = Option<Arc<PasswordPool>>;

/// Our own issuer, ready to serve.
pub(super) struct Sessions {
    signer: Arc<Signer>,
    tokens: Arc<RefreshTokens>,
    store: Arc<dyn SessionStore>,
    directory: Arc<dyn UserDirectory>,
    pool: Pool,
    revocations: Arc<Revocations>,
    confirmations: Arc<Confirmations>,
    deferred: Arc<DeferredLogouts>,
    throttle: Arc<Throttle>,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Sessions {
    /// Reads or makes secret and keys, opens the store, reads the users, and starts what works in the
    /// background. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`SessionsError`] names the key of the configuration.
    pub(super) fn build(
        config: SessionsConfig,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, SessionsError> {
        let secret = match config.secret {
            SecretPlan::Bytes(secret) => secret,
            SecretPlan::CreateAt(path) => secret_file::make(&path)?,
        };
        let signer = Signer::load_or_create(
            &config.signing_keys,
            config.issuer.clone(),
            config.audiences,
            config.lifetime,
            config.algorithm,
        )?;
        let (store, shared): (Arc<dyn SessionStore>, Option<Arc<dyn SharedThrottle>>) = match config.store {
            StoreConfig::Embedded { path } => {
                let store = EmbeddedStore::open(&path, config.rotation, Arc::clone(clock))?;
                // One process: it counts by itself.
                (Arc::new(MeteredStore::new(store, metrics.clone())), None)
            }
            StoreConfig::Redis(settings) => {
                let store = RedisStore::connect_lazily(&settings, config.rotation)?;
                let store = Arc::new(MeteredStore::new(store, metrics.clone()));
                (Arc::clone(&store) as _, Some(store))
            }
        };
        let mut names = AttemptNames::new(secret.expose(), &config.issuer);
        let mut tokens = RefreshTokens::new(secret.expose(), &config.issuer);
        for previous in &config.previous_secrets {
            names = names.with_previous(previous.expose());
            tokens = tokens.with_previous(previous.expose());
        }
        let throttle = Throttle::new(config.throttle, names, shared, Arc::clone(clock));
        let (directory, pool) = directory(config.users, metrics)?;
        let lifetime = config.rotation.revocation_lifetime();
        let revocations = Arc::new(Revocations::new(lifetime, clock.now()));
        let confirmations = Arc::new(Confirmations::new());
        let deferred = Arc::new(DeferredLogouts::new());
        let followed = (Arc::clone(&store), Arc::clone(&revocations), Arc::clone(clock));
        tokio::spawn(keep_up(Place::Revocations, followed, |(store, revocations, clock)| {
            Box::pin(revocation::follow(Arc::clone(store), Arc::clone(revocations), Arc::clone(clock)))
        }));
        let compared = (Arc::clone(&store), Arc::clone(clock), metrics.clone());
        tokio::spawn(keep_up(Place::StoreClock, compared, |(store, clock, metrics)| {
            Box::pin(skew::watch(Arc::clone(store), Arc::clone(clock), metrics.clone()))
        }));
        let told = (Arc::clone(&confirmations), Arc::clone(&store));
        tokio::spawn(keep_up(Place::Confirmations, told, |(confirmations, store)| {
            Box::pin(confirmation::deliver(Arc::clone(confirmations), Arc::clone(store)))
        }));
        let promised = (Arc::clone(&deferred), Arc::clone(&store));
        tokio::spawn(keep_up(Place::Logouts, promised, |(deferred, store)| {
            Box::pin(deferred::carry_out(Arc::clone(deferred), Arc::clone(store)))
        }));
        let signer = Arc::new(signer);
        let keys = (Watch::new(vec![signer.folder().to_owned()])?, Arc::clone(&signer), metrics.clone());
        tokio::spawn(keep_up(Place::SigningKeys, keys, |(keys, signer, metrics)| {
            Box::pin(signing_keys::follow(keys, signer, metrics))
        }));
        Ok(Self {
            tokens: Arc::new(tokens),
            signer,
            store,
            directory,
            pool,
            revocations,
            confirmations,
            deferred,
            throttle: Arc::new(throttle),
            settings: config.endpoints,
            clock: Arc::clone(clock),
        })
    }

    /// What makes our tokens.
    pub(super) fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// The endpoints, and what the proxy asks about sessions.
    pub(super) fn serve(&self, cache: Arc<VerifiedCache>) -> (Arc<Endpoints>, OwnSessions) {
        let parts = Parts {
            tokens: Arc::clone(&self.tokens),
            signer: Arc::clone(&self.signer),
            store: Arc::clone(&self.store),
            directory: Arc::clone(&self.directory),
            // Its own, so that it outlives a change of the configuration.
            verifier: Arc::new(Verifier::own_only(self.signer.own_issuer(), cache)),
            revocations: Arc::clone(&self.revocations),
            deferred: Arc::clone(&self.deferred),
            throttle: Arc::clone(&self.throttle),
            clock: Arc::clone(&self.clock),
        };
        let own = OwnSessions {
            revocations: Arc::clone(&self.revocations),
            store: Arc::clone(&self.store),
            confirmations: Arc::clone(&self.confirmations),
        };
        (Arc::new(Endpoints::new(self.settings.clone(), parts)), own)
    }

    /// Ready once it is known what was ended before this gateway started.
    pub(super) fn part(&self) -> impl Fn() -> Part + Send + Sync + 'static {
        let revocations = Arc::clone(&self.revocations);
        move || {
            let state = if revocations.ready() {
                PartState::Ready
            } else {
                PartState::Waiting("the first read of the revocation feed from the store".to_owned())
            };
            Part { name: "sessions".to_owned(), state }
        }
    }

    /// Sets the gauges of sessions.
    pub(super) fn gauges(&self) -> impl Fn(&Metrics, Timestamp) + Send + Sync + 'static {
        let (revocations, pool) = (Arc::clone(&self.revocations), self.pool.clone());
        move |metrics, now| {
            metrics.revocation_feed_age(revocations.feed_age(now));
            metrics.password_hash_queue(pool.as_ref().map_or(0, |pool| pool.waiting()));
        }
    }

    /// Gives logouts that were promised a last chance to reach the store.
    pub(super) async fn finish(&self) {
        let all_taken = async {
            while !self.deferred.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LAST_LOGOUTS, all_taken).await.is_err() {
            tracing::error!(
                logouts = self.deferred.len(),
                "the store never took these logouts; they are lost"
            );
        }
    }
}

/// The directory, with what keeps it current, and the pool that it hashes in.
fn directory(users: UsersConfig, metrics: &Metrics) -> Result<(Arc<dyn UserDirectory>, Pool), SessionsError> {
    match users {
        UsersConfig::File { path, records } => {
            let pool = Arc::new(PasswordPool::start(PoolSettings::default())?);
            let directory = FileDirectory::new(records, Arc::clone(&pool)).map_err(first)?;
            let (upgrade, upgrades) = tokio::sync::mpsc::unbounded_channel();
            // Fails only when nobody writes any more, which is at the end.
            let tell = move |made| drop(upgrade.send(made));
            let directory = Arc::new(directory.telling(Arc::new(tell)));
            let made = (path.clone(), upgrades);
            tokio::spawn(keep_up(Place::Users, made, |(path, upgrades)| {
                Box::pin(users::keep(path, upgrades))
            }));
            let watch = Watch::new(vec![path.clone()])?;
            let listed = (path, watch, Arc::clone(&directory), metrics.clone());
            tokio::spawn(keep_up(Place::Users, listed, |(path, watch, directory, metrics)| {
                Box::pin(users::follow(path, watch, directory, metrics))
            }));
            Ok((directory, Some(pool)))
        }
        UsersConfig::Ldap(settings) => Ok((Arc::new(LdapDirectory::new(*settings)?), None)),
        UsersConfig::Sql(settings) => {
            let pool = Arc::new(PasswordPool::start(PoolSettings::default())?);
            let directory = Arc::new(SqlDirectory::new(*settings, Arc::clone(&pool))?);
            let checked = Arc::clone(&directory);
            tokio::spawn(contain(Place::Users, async move { checked.check().await }));
            Ok((directory, Some(pool)))
        }
        UsersConfig::Http(settings) => Ok((Arc::new(HttpDirectory::new(settings)?), None)),
    }
}

/// The configuration has reported them all; here one is enough to refuse to start.
fn first(errors: Vec<RecordError>) -> SessionsError {
    match errors.into_iter().next() {
        Some(error) => error.into(),
        None => SessionsError::System(std::io::Error::other("the users file was refused without a reason")),
    }
}
