//! Which database is asked, as its URL says.

use crate::secret::Secret;
use sqlx::ConnectOptions as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::SqliteConnectOptions;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// How the database and its users are asked (`sessions.users.sql`).
#[derive(Clone)]
pub struct SqlSettings {
    pub(super) server: Server,
    pub(super) query: String,
    pub(super) timeout: Duration,
}

/// The database, with what it takes to connect to it.
#[derive(Clone)]
pub(super) enum Server {
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

/// Why a database cannot be asked so. The URL is never quoted: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The URL is none of a database.
    #[error("not the URL of a database")]
    Url,
    /// The URL has a parameter that means nothing to us.
    #[error("the URL has the parameter {name:?}, which is not known here")]
    Parameter {
        /// Its name.
        name: String,
        /// Those that are known for such a database.
        known: &'static [&'static str],
    },
    /// The query has no place for the username.
    #[error("the query does not use the username: it has no {0}")]
    Placeholder(&'static str),
    /// A file has no certificate to verify.
    #[error("a file of this machine has no certificate to verify")]
    CaOfFile,
}

impl SqlSettings {
    /// From the URL of the database, the PEM text of an authority to trust besides the public ones, and the query that
    /// is asked with the username as its one value. The file of a relative `sqlite:` URL lies in `folder`.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(
        url: &Secret<String>,
        ca: Option<Vec<u8>>,
        folder: &Path,
        query: String,
        timeout: Duration,
    ) -> Result<Self, SettingsError> {
        let server = Server::new(url.expose(), ca, folder, timeout)?;
        let (used, placeholder) = match &server {
            Server::Postgres(_) => (query.contains("$1"), "$1"),
            Server::MySql(_) | Server::Sqlite(_) => (query.contains('?'), "?"),
        };
        if !used {
            return Err(SettingsError::Placeholder(placeholder));
        }
        Ok(Self { server, query, timeout })
    }

    /// The host the database runs on; `None` for a file, or a socket of this machine.
    pub fn host(&self) -> Option<&str> {
        match &self.server {
            Server::Postgres(options) => options.get_socket().is_none().then(|| options.get_host()),
            Server::MySql(options) => options.get_socket().is_none().then(|| options.get_host()),
            Server::Sqlite(_) => None,
        }
    }

    /// Whether the connection is encrypted to a server whose certificate was verified.
    pub fn verifies_server(&self) -> bool {
        match &self.server {
            Server::Postgres(options) => {
                matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull)
            }
            Server::MySql(options) => {
                matches!(options.get_ssl_mode(), MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity)
            }
            Server::Sqlite(_) => true,
        }
    }
}

impl fmt::Debug for SqlSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self.server {
            Server::Postgres(_) => "postgres",
            Server::MySql(_) => "mysql",
            Server::Sqlite(_) => "sqlite",
        };
        f.debug_struct("SqlSettings")
            .field("server", &server)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

const POSTGRES: &[&str] = &["sslmode", "sslcert", "sslkey", "host", "port", "user", "password", "dbname"];
const MYSQL: &[&str] = &["ssl-mode", "ssl-cert", "ssl-key", "socket", "charset", "collation"];
const SQLITE: &[&str] = &["immutable"];

impl Server {
    fn new(url: &str, ca: Option<Vec<u8>>, folder: &Path, timeout: Duration) -> Result<Self, SettingsError> {
        // A `#` would hide what follows it, such as the rest of a password.
        if !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(SettingsError::Url);
        }
        let (scheme, rest) = url.split_once(':').ok_or(SettingsError::Url)?;
        let parameters = |known| parameters(rest, known);
        let unusable = |_| SettingsError::Url;
        match scheme {
            "postgres" | "postgresql" if rest.starts_with("//") => {
                let given = parameters(POSTGRES)?;
                let mut options: PgConnectOptions = url.parse().map_err(unusable)?;
                options = options.application_name("portcullis").disable_statement_logging();
                if let Some(pem) = ca {
                    options = options.ssl_root_cert_from_pem(pem);
                    if !given.contains(&"sslmode") {
                        options = options.ssl_mode(PgSslMode::VerifyFull);
                    }
                }
                Ok(Self::Postgres(Box::new(options)))
            }
            "mysql" | "mariadb" if rest.starts_with("//") => {
                let given = parameters(MYSQL)?;
                let mut options: MySqlConnectOptions = url.parse().map_err(unusable)?;
                options = options.disable_statement_logging();
                if let Some(pem) = ca {
                    options = options.ssl_ca_from_pem(pem);
                    if !given.contains(&"ssl-mode") {
                        options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
                    }
                }
                Ok(Self::MySql(Box::new(options)))
            }
            "sqlite" => {
                parameters(SQLITE)?;
                if ca.is_some() {
                    return Err(SettingsError::CaOfFile);
                }
                let options: SqliteConnectOptions = url.parse().map_err(unusable)?;
                let file = folder.join(options.get_filename());
                // It belongs to somebody else: it is only read, and waited for no longer than for any database.
                let options = options.filename(file).read_only(true).create_if_missing(false);
                Ok(Self::Sqlite(Box::new(options.busy_timeout(timeout).disable_statement_logging())))
            }
            _ => Err(SettingsError::Url),
        }
    }
}

/// The names of the URL's parameters; an unknown one would be ignored, or logged with its value.
fn parameters<'a>(url: &'a str, known: &'static [&'static str]) -> Result<Vec<&'a str>, SettingsError> {
    let (_, query) = url.split_once('?').unwrap_or_default();
    let names = query.split('&').filter(|pair| !pair.is_empty());
    let names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let checked = names.map(|name| {
        known
            .contains(&name)
            .then_some(name)
            .ok_or_else(|| SettingsError::Parameter { name: name.chars().take(40).collect(), known })
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str, ca: bool, query: &str) -> Result<SqlSettings, SettingsError> {
        let ca = ca.then(|| b"x".to_vec());
        let url = Secret::new(url.to_owned());
        SqlSettings::new(&url, ca, Path::new("/conf"), query.to_owned(), Duration::from_secs(3))
    }

    #[test]
    fn a_url_says_which_database_and_how_it_is_trusted() {
        for (url, ca, host, verified) in [
            ("postgres://u:p%40ss@db.internal:5433/users", false, Some("db.internal"), false),
            ("postgresql://u@db.internal/users?sslmode=require", false, Some("db.internal"), false),
            ("postgres://u@db.internal/users?sslmode=verify-full", false, Some("db.internal"), true),
            ("postgres://u@db.internal/users", true, Some("db.internal"), true),
            ("postgres://u@db.internal/users?sslmode=require", true, Some("db.internal"), false),
            ("postgres://u@%2Frun%2Fpostgresql/users", false, None, false),
        ] {
            let settings = settings(url, ca, "select $1").unwrap();
            assert_eq!((settings.host(), settings.verifies_server()), (host, verified), "{url}");
        }
        for (url, ca, host, verified) in [
            ("mysql://u:p@db.internal/users", false, Some("db.internal"), false),
            ("mariadb://u:p@db.internal/users?ssl-mode=VERIFY_IDENTITY", false, Some("db.internal"), true),
            ("mysql://u:p@db.internal/users", true, Some("db.internal"), true),
            ("sqlite:users.db", false, None, true),
        ] {
            let settings = settings(url, ca, "select ?").unwrap();
            assert_eq!((settings.host(), settings.verifies_server()), (host, verified), "{url}");
        }
    }

    #[test]
    fn a_file_lies_beside_the_configuration() {
        for (url, file) in [
            ("sqlite:users.db", "/conf/users.db"),
            ("sqlite://data/users.db", "/conf/data/users.db"),
            ("sqlite:///var/lib/users.db", "/var/lib/users.db"),
        ] {
            let Server::Sqlite(options) = settings(url, false, "?").unwrap().server else { panic!("{url}") };
            assert_eq!(options.get_filename(), Path::new(file), "{url}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused_and_not_quoted() {
        for url in [
            "",
            "users.db",
            "redis://a",
            "http://a",
            "postgres:users",
            "postgres://u:pa#ss@a/b",
            "postgres://u:p ss@a/b",
            "postgres://u@a:port/b",
            "postgres://u@a/b?sslmode=maybe",
            "mysql:a",
        ] {
            assert_eq!(settings(url, false, "$1 ?").err(), Some(SettingsError::Url), "{url}");
        }
        for (url, name) in [
            ("postgres://u@a/b?passwd=secret", "passwd"),
            ("mysql://u@a/b?ssl-mode=REQUIRED&x=secret", "x"),
            ("sqlite:a?mode=rwc", "mode"),
        ] {
            let error = settings(url, false, "$1 ?").err();
            assert!(
                matches!(error, Some(SettingsError::Parameter { name: found, .. }) if found == name),
                "{url}"
            );
        }
        assert_eq!(settings("sqlite:a", true, "?").err(), Some(SettingsError::CaOfFile));
        assert_eq!(settings("sqlite:a", false, "x").err(), Some(SettingsError::Placeholder("?")));
        assert_eq!(settings("postgres://a/b", false, "?").err(), Some(SettingsError::Placeholder("$1")));
    }

    #[test]
    fn debug_shows_no_password() {
        for url in ["postgres://u:hunter2@a/b", "mysql://u:hunter2@a/b"] {
            let shown = format!("{:?}", settings(url, false, "$1 ?").unwrap());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
