//! The directory in a database: one query says who a user is and gives the password's hash.

mod connections;
mod row;
mod server;
mod values;

pub use row::Misfit;
pub use server::{SettingsError, SqlSettings};

use super::file::is_name;
use super::nobody::Nobody;
use super::password::PasswordPool;
use super::password_hash::PasswordHash;
use super::{Credentials, DirectoryError, Identity, Standing, UserDirectory};
use crate::breaker::Breaker;
use crate::panics::{Place, contain};
use async_trait::async_trait;
use connections::{Connections, Trouble};
use row::Found;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{error::Elapsed, timeout_at};

/// Users of a database.
pub struct SqlDirectory {
    connections: Connections,
    timeout: Duration,
    breaker: Breaker,
    pool: Arc<PasswordPool>,
    nobody: Nobody,
}

impl std::fmt::Debug for SqlDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlDirectory").finish_non_exhaustive()
    }
}

impl SqlDirectory {
    /// A directory that asks this database. Nothing is connected to yet.
    ///
    /// # Errors
    /// When there is no hash to verify for names that nobody has.
    pub fn new(settings: SqlSettings, pool: Arc<PasswordPool>) -> Result<Self, DirectoryError> {
        let none = || DirectoryError::Unavailable("no password hash can be made".to_owned());
        let SqlSettings { server, query, timeout } = settings;
        let (connections, nobody) = (Connections::new(server, query), Nobody::new().ok_or_else(none)?);
        Ok(Self { connections, timeout, breaker: Breaker::default(), pool, nobody })
    }

    /// Tells an operator early of a query that cannot be used. A database that is not there yet is told of too, and
    /// keeps nothing from starting.
    pub async fn check(&self) {
        match tokio::time::timeout(self.timeout, self.connections.check()).await {
            Ok(Ok(())) => {
                tracing::info!("sessions.users.sql: the database is there, and the query can be used");
            }
            Ok(Err(error)) if error.is_answer() => {
                tracing::error!(%error, "sessions.users.sql: the query cannot be used; every login will fail");
            }
            Ok(Err(error)) => tracing::warn!(%error, "sessions.users.sql: the database does not answer yet"),
            Err(Elapsed { .. }) => tracing::warn!("sessions.users.sql: the database does not answer yet"),
        }
    }

    async fn ask(&self, username: &str) -> Result<Option<Found>, DirectoryError> {
        let now = Instant::now();
        let deadline = (now + self.timeout).into();
        let Ok(Some(_place)) = timeout_at(deadline, self.connections.place()).await else {
            return Err(DirectoryError::Busy);
        };
        if !self.breaker.admits(now) {
            return Err(DirectoryError::Unavailable("it did not answer the last times".to_owned()));
        }
        // The library panics on some answers that are no protocol; that is an outage like any other.
        let asked = contain(Place::Users, self.connections.ask(username, now));
        let answer = timeout_at(deadline, asked).await;
        let answer = answer.map(|asked| asked.unwrap_or_else(|_| Err(Trouble::Unreadable)));
        if answer.as_ref().is_ok_and(|answer| answer.as_ref().err().is_none_or(Trouble::is_answer)) {
            self.breaker.answered();
        } else {
            self.breaker.failed(Instant::now());
        }
        match answer {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(trouble)) if trouble.is_answer() => Err(unclear(&trouble)),
            Ok(Err(trouble)) => Err(told(trouble.to_string(), DirectoryError::Unavailable)),
            Err(Elapsed { .. }) => Err(told("no answer in time".to_owned(), DirectoryError::Unavailable)),
        }
    }
}

/// Told where an operator reads it; the user hears only that it is to be tried again.
fn told(why: String, error: fn(String) -> DirectoryError) -> DirectoryError {
    tracing::warn!(why, "sessions.users.sql: the database gives no judgement");
    error(why)
}

/// An answer that is of no use. The try counts: some of these are given to the right password only.
fn unclear(why: &impl ToString) -> DirectoryError {
    told(why.to_string(), DirectoryError::Unclear)
}

#[async_trait]
impl UserDirectory for SqlDirectory {
    async fn authenticate(&self, credentials: Credentials) -> Result<Option<Identity>, DirectoryError> {
        let Credentials { username, password } = credentials;
        // Nobody has such a name, and databases disagree about what to do with some of its characters.
        let found = if is_name(&username) { self.ask(&username).await? } else { None };
        let hash = match found.as_ref().and_then(|found| found.hash.as_ref()) {
            Some(text) => PasswordHash::parse(text.expose()).inspect_err(|problem| {
                let subject = found.as_ref().and_then(|found| Some(&found.identity.as_ref().ok()?.subject));
                tracing::warn!(subject, %problem, "sessions.users.sql: a user's password hash verifies nothing");
            }),
            None => return self.nobody(password).await,
        };
        let Ok(hash) = hash else { return self.nobody(password).await };
        self.nobody.saw(hash.cost());
        if !self.pool.verify(Arc::new(hash), password).await? {
            return Ok(None);
        }
        let identity = found.map(|found| found.identity).transpose();
        identity.map_err(|misfit| unclear(&misfit))
    }

    /// The query is asked by username.
    async fn standing(&self, _subject: &str) -> Result<Standing, DirectoryError> {
        Ok(Standing::Unchanged)
    }
}

impl SqlDirectory {
    async fn nobody(
        &self,
        password: crate::secret::Secret<String>,
    ) -> Result<Option<Identity>, DirectoryError> {
        self.pool.verify(self.nobody.hash(), password).await?;
        Ok(None)
    }
}
