//! One server: a connection that is made when first needed and made anew when lost, each question asked
//! within its deadline.

use super::call::Question;
use super::prudence;
use super::sentinel::Sentinels;
use super::settings::Address;
use crate::breaker::Breaker;
use crate::panics::{self, contain};
use crate::session::store::StoreError;
use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// One connection that all callers share. It belongs to the runtime of whoever needed it first; should that
/// runtime end, the next caller makes another.
pub(super) struct Node {
    place: Place,
    live: ArcSwapOption<MultiplexedConnection>,
    connecting: Mutex<()>,
    breaker: Breaker,
    /// Only for waiting until a replica has followed.
    waiting: Mutex<Option<MultiplexedConnection>>,
}

const PATIENCE_MILLIS: u64 = 100;
/// The longest that is waited for a replica.
const PATIENCE: Duration = Duration::from_millis(PATIENCE_MILLIS);

/// Where the server is.
pub(super) enum Place {
    /// Always here.
    Fixed(Client, Address),
    /// Wherever the sentinels say.
    Watched(Sentinels),
}

/// Why there is no answer to use.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server did not answer lately and was not asked.
    NotAsked,
    /// No answer in time; whether the connection was given up.
    Late(bool),
    /// The connection broke, or could not be made.
    Broken(RedisError),
    /// The server answered that it will not.
    Refused(RedisError),
}

impl Node {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            live: ArcSwapOption::empty(),
            connecting: Mutex::new(()),
            breaker: Breaker::default(),
            waiting: Mutex::default(),
        }
    }

    /// The host it was made for, if that is fixed.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.place {
            Place::Fixed(_, (host, _)) => Some(host),
            Place::Watched(_) => None,
        }
    }

    /// The client's own timeouts do not cover connecting, so one deadline of ours covers everything. Nothing
    /// is sent twice: whether to repeat is for the caller to decide.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<T, Failure> {
        if !self.breaker.admits(Instant::now()) {
            return Err(Failure::NotAsked);
        }
        let mut used = None;
        let attempt = async {
            let connection = self.connection().await?;
            used = Some(Arc::clone(&connection));
            question.ask(MultiplexedConnection::clone(&connection)).await
        };
        let result = tokio::time::timeout_at(deadline.into(), attempt).await;
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
                Err(Failure::Refused(error))
            }
            Ok(Err(error)) => {
                self.breaker.failed(Instant::now());
                self.discard(used.as_ref());
                Err(Failure::Broken(error))
            }
            Err(_) => {
                // One slow answer is no reason to drop what others wait for on this connection; silence is.
                let given_up = self.breaker.failed(Instant::now());
                if given_up {
                    self.discard(used.as_ref());
                }
                Err(Failure::Late(given_up))
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
        let made = Arc::new(self.connect().await?);
        tokio::spawn(contain(panics::Place::Store, prudence::inspect(MultiplexedConnection::clone(&made))));
        self.live.store(Some(Arc::clone(&made)));
        Ok(made)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        match &self.place {
            Place::Fixed(client, _) => connect(client).await,
            Place::Watched(sentinels) => sentinels.connect().await,
        }
    }

    /// Returns when a replica has everything that was written until now; at once if there is no replica, and in
    /// any case after [`PATIENCE`]. `WAIT` speaks of its own connection's writes and holds that connection up,
    /// so it gets one to itself and something to write, under `key`.
    pub(super) async fn replicated(&self, key: &str) {
        let waited = async {
            let mut own = self.waiting.lock().await;
            // If this is given up half-way, the connection is gone with it.
            let mut connection = match own.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            if matches!(role.get(2), Some(Value::Array(replicas)) if !replicas.is_empty()) {
                let mut pipe = Pipeline::new();
                pipe.cmd("SET").arg(key).arg(1).arg("PX").arg(PATIENCE_MILLIS).ignore();
                pipe.cmd("WAIT").arg(1).arg(PATIENCE_MILLIS).ignore();
                let () = pipe.query_async(&mut connection).await?;
            }
            *own = Some(connection);
            RedisResult::Ok(())
        };
        match tokio::time::timeout(PATIENCE, waited).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a revocation may not be on a replica yet"),
            Err(_) => tracing::debug!("a revocation may not be on a replica yet"),
        }
    }

    /// Forgets a connection, unless another has taken its place.
    fn discard(&self, used: Option<&Arc<MultiplexedConnection>>) {
        if let Some(used) = used {
            self.live.compare_and_swap(used, None);
        }
    }
}

pub(super) async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotAsked => Self::Unavailable("Redis did not answer lately".to_owned()),
            Failure::Late(_) => Self::Unavailable("Redis did not answer within the deadline".to_owned()),
            Failure::Broken(error) | Failure::Refused(error) if is_unreadable(&error) => {
                Self::Corrupt(error.to_string())
            }
            Failure::Broken(error) | Failure::Refused(error) => Self::Unavailable(error.to_string()),
        }
    }
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
pub(super) fn is_wrong_server(error: &RedisError) -> bool {
    use ServerErrorKind::{ClusterDown, MasterDown, ReadOnly};
    matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown | ClusterDown))
}

fn is_unreadable(error: &RedisError) -> bool {
    matches!(error.code(), Some("CORRUPT" | "WRONGTYPE"))
        || matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Parse)
        || error.detail().is_some_and(|detail| detail.contains("WRONGTYPE"))
}
