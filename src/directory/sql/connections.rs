//! A few connections to the database: each question has one to itself, and one that was not answered to the end is
//! closed. What is kept of them is a list, so that nothing waits in the background for a server that is gone.

use super::row::{self, Column, Found, Misfit};
use super::server::Server;
use super::values;
use futures_util::TryStreamExt as _;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Database, Decode, Either, Encode, Executor,
    IntoArguments, MySql, MySqlConnection, PgConnection, Postgres, Row, SqlSafeStr as _, Sqlite,
    SqliteConnection, Statement as _, Type,
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Connections at the same time.
const MOST: usize = 8;
/// How long an unused connection is kept.
const UNUSED: Duration = Duration::from_secs(60);
/// How long a connection is used, so that a database that moved is found again.
const USED: Duration = Duration::from_secs(600);

/// Why there is no answer to be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("cannot connect: {}", told(.0))]
    Connect(sqlx::Error),
    #[error("{}", told(.0))]
    Query(#[from] sqlx::Error),
    #[error("its answer cannot be read")]
    Unreadable,
    #[error(transparent)]
    Misfit(#[from] Misfit),
}

impl Trouble {
    /// Whether the database was there and said something.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Unreadable => false,
            Self::Query(error) => error.as_database_error().is_some_and(|error| !is_outage(error)),
            Self::Misfit(_) => true,
        }
    }
}

/// Whether the database had no time, no room or no leave to look: the next question may be answered. By SQLSTATE
/// (connection, transaction, resources, intervention, system, lock), and where MySQL has none by its own number.
fn is_outage(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
    ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || code == "55P03"
        // Lock wait timeout, interrupted, statement timeout of MariaDB and of MySQL.
        || matches!(number, Some(1205 | 1317 | 1969 | 3024))
}

/// Whether the database found characters in the username that its own character set does not have. MySQL tells it as
/// collations that do not mix, in one of three forms, or as a conversion that is impossible.
fn is_inexpressible(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    match error.try_downcast_ref::<MySqlDatabaseError>() {
        Some(error) => matches!(error.number(), 1267 | 1270 | 1271 | 3854 | 3988),
        // Of PostgreSQL.
        None => matches!(error.code().as_deref(), Some("22021" | "22P05")),
    }
}

/// What an operator reads. Errors about data (SQLSTATE class 22) quote it, and what a client calls its username may be
/// its password.
fn told(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(DatabaseError::code);
    match code.filter(|code| code.starts_with("22")) {
        Some(code) => format!("the database cannot convert a value (SQLSTATE {code})"),
        None => error.to_string(),
    }
}

pub(super) struct Connections {
    server: Server,
    query: String,
    places: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    opened: Instant,
    since: Instant,
}

enum Connection {
    Postgres(Box<PgConnection>),
    MySql(Box<MySqlConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl Connections {
    pub(super) fn new(server: Server, query: String) -> Self {
        Self { server, query, places: Semaphore::new(MOST), idle: Mutex::default() }
    }

    /// A place to ask from; to be waited for.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// The user of this name.
    pub(super) async fn ask(&self, username: &str, now: Instant) -> Result<Option<Found>, Trouble> {
        if let Some(Idle { mut connection, opened, .. }) = self.take(now) {
            match connection.ask(&self.query, Some(username)).await {
                Ok(found) => {
                    self.keep(connection, opened, now);
                    return Ok(found);
                }
                Err(Trouble::Misfit(misfit)) => return Err(misfit.into()),
                // The server has closed it, or knows another table now: a new connection tells. The others are as old.
                Err(_) => self.idle().clear(),
            }
        }
        let mut connection = self.server.connect().await.map_err(Trouble::Connect)?;
        let found = connection.ask(&self.query, Some(username)).await?;
        self.keep(connection, now, now);
        Ok(found)
    }

    /// Whether the query can be used, without asking it.
    pub(super) async fn check(&self) -> Result<(), Trouble> {
        let mut connection = self.server.connect().await.map_err(Trouble::Connect)?;
        connection.ask(&self.query, None).await.map(drop)
    }

    fn take(&self, now: Instant) -> Option<Idle> {
        let mut idle = self.idle();
        let fresh =
            |idle: &Idle| now.duration_since(idle.since) < UNUSED && now.duration_since(idle.opened) < USED;
        idle.retain(fresh);
        idle.pop()
    }

    fn keep(&self, connection: Connection, opened: Instant, since: Instant) {
        self.idle().push(Idle { connection, opened, since });
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Ok(match self {
            Self::Postgres(options) => Connection::Postgres(Box::new(options.connect().await?)),
            Self::MySql(options) => Connection::MySql(Box::new(options.connect().await?)),
            Self::Sqlite(options) => Connection::Sqlite(Box::new(options.connect().await?)),
        })
    }
}

impl Connection {
    /// The user of this name; without a name, only whether the query could find one.
    async fn ask(&mut self, query: &str, username: Option<&str>) -> Result<Option<Found>, Trouble> {
        match self {
            Self::Postgres(connection) => {
                ask::<Postgres>(connection, query, username, values::postgres).await
            }
            Self::MySql(connection) => ask::<MySql>(connection, query, username, values::mysql).await,
            Self::Sqlite(connection) => ask::<Sqlite>(connection, query, username, values::sqlite).await,
        }
    }
}

async fn ask<DB: Database>(
    connection: &mut DB::Connection,
    query: &str,
    username: Option<&str>,
    value: fn(&DB::Row, usize) -> Result<serde_json::Value, String>,
) -> Result<Option<Found>, Trouble>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    String: Type<DB> + for<'q> Encode<'q, DB> + for<'r> Decode<'r, DB>,
{
    // The operator's own text; what a client sends is bound, as text whatever the query compares it with.
    let query = AssertSqlSafe(query.to_owned()).into_sql_str();
    let types = [<String as Type<DB>>::type_info()];
    let statement = connection.prepare_with(query, &types).await?;
    let values = match statement.parameters() {
        Some(Either::Left(types)) => types.len(),
        Some(Either::Right(count)) => count,
        None => 1,
    };
    row::check(statement.columns().iter().map(sqlx::Column::name), values)?;
    let Some(username) = username else { return Ok(None) };
    let mut rows = statement.query().bind(username.to_owned()).fetch(connection);
    let first = match rows.try_next().await {
        // A name that the database cannot write down, no user has.
        Err(error) if !username.is_ascii() && is_inexpressible(&error) => return Ok(None),
        first => first?,
    };
    let Some(first) = first else { return Ok(None) };
    if rows.try_next().await?.is_some() {
        return Err(Misfit::Rows.into());
    }
    let columns = first.columns().iter().enumerate();
    let columns =
        columns.map(|(at, column)| Column { name: column.name().to_owned(), value: value(&first, at) });
    Ok(Some(row::read(columns.collect())?))
}
