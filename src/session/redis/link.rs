//! The connection to Redis: made when first needed, made anew when lost, every call within one deadline.

use super::breaker::Breaker;
use super::{RedisSettings, SettingsError};
use crate::session::store::StoreError;
use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult, ScriptInvocation, ServerErrorKind, TlsCertificates,
};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// One connection that all callers share. It belongs to the runtime of whoever needed it first; should that
/// runtime end, the next caller makes another.
pub(super) struct Link {
    client: Client,
    timeout: Duration,
    live: ArcSwapOption<MultiplexedConnection>,
    connecting: Mutex<()>,
    breaker: Breaker,
}

impl Link {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, SettingsError> {
        Ok(Self {
            client: client(settings)?,
            timeout: settings.timeout,
            live: ArcSwapOption::empty(),
            connecting: Mutex::new(()),
            breaker: Breaker::default(),
        })
    }

    /// Runs a script; loads it first where it is not known.
    pub(super) async fn script<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        self.call(|mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    /// Sends commands together and waits for all their answers.
    pub(super) async fn pipeline<T: FromRedisValue + Send>(&self, pipe: &Pipeline) -> Result<T, StoreError> {
        self.call(|mut connection| async move { pipe.query_async(&mut connection).await }).await
    }

    /// The client's own timeouts do not cover connecting and loading a script, so one deadline of ours
    /// covers everything. Nothing is sent twice: whether to repeat is for the caller to decide.
    async fn call<T, F>(&self, send: impl FnOnce(MultiplexedConnection) -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>> + Send,
    {
        if !self.breaker.admits(Instant::now()) {
            return Err(StoreError::Unavailable("Redis did not answer lately".to_owned()));
        }
        let mut used = None;
        let attempt = async {
            let connection = self.connection().await?;
            used = Some(Arc::clone(&connection));
            send(MultiplexedConnection::clone(&connection)).await
        };
        let result = tokio::time::timeout(self.timeout, attempt).await;
        match result {
            Ok(Ok(value)) => {
                self.breaker.answered();
                Ok(value)
            }
            Ok(Err(error)) if is_answer(&error) => {
                self.breaker.answered();
                if is_wrong_server(&error) {
                    self.discard(used.as_ref());
                }
                Err(store_error(&error))
            }
            Ok(Err(error)) => {
                self.breaker.failed(Instant::now());
                self.discard(used.as_ref());
                Err(store_error(&error))
            }
            Err(_) => {
                // One slow answer is no reason to drop what others wait for on this connection; silence is.
                if self.breaker.failed(Instant::now()) {
                    self.discard(used.as_ref());
                }
                Err(StoreError::Unavailable(format!("Redis did not answer within {:?}", self.timeout)))
            }
        }
    }

    async fn connection(&self) -> RedisResult<Arc<MultiplexedConnection>> {
        if let Some(live) = self.live.load_full() {
            return Ok(live);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(live) = self.live.load_full() {
            return Ok(live);
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let made = Arc::new(self.client.get_multiplexed_async_connection_with_config(&config).await?);
        self.live.store(Some(Arc::clone(&made)));
        Ok(made)
    }

    /// Forgets a connection, unless another has taken its place.
    fn discard(&self, used: Option<&Arc<MultiplexedConnection>>) {
        if let Some(used) = used {
            self.live.compare_and_swap(used, None);
        }
    }
}

fn client(settings: &RedisSettings) -> Result<Client, SettingsError> {
    // What the client says of a URL may quote it, password and all.
    let info = settings.url.expose().as_str().into_connection_info().map_err(|_| SettingsError::Url)?;
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    if !settings.url.expose().starts_with("rediss:") {
        return Client::open(info).map_err(|_| SettingsError::Url);
    }
    // Without a provider of cryptography for the process the client would panic; a second is refused.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let certificates = TlsCertificates { client_tls: None, root_cert: settings.ca.clone() };
    Client::build_with_tls(info, certificates).map_err(|error| SettingsError::Ca(error.to_string()))
}

/// Whether Redis itself said this, so that it is there.
fn is_answer(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => true,
        _ => error.code().is_some(),
    }
}

/// Whether the server at the other end is not, or no longer, the one that takes writes: the name may lead
/// to another by now.
fn is_wrong_server(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

fn store_error(error: &RedisError) -> StoreError {
    let unreadable = matches!(error.code(), Some("CORRUPT" | "WRONGTYPE"))
        || matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse)
        || error.detail().is_some_and(|detail| detail.contains("WRONGTYPE"));
    if unreadable {
        StoreError::Corrupt(error.to_string())
    } else {
        StoreError::Unavailable(error.to_string())
    }
}
