//! `sessions.users.sql`: users of a database.

use super::pem;
use super::reader::{Fields, Value};
use super::units;
use super::web;
use crate::directory::sql::{SettingsError, SqlSettings};
use crate::secret::Secret;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn sql(value: &Value<'_>) -> Option<SqlSettings> {
    let fields = value.fields(&["url", "url_file", "query", "timeout", "ca_file"], &[])?;
    let timeout = timeout(&fields, TIMEOUT);
    let mend = "write one that gives subject and password_hash, such as select id as subject, password_hash from users \
                where login = $1; MySQL and SQLite write ? for $1";
    let query = fields.require("query", mend).and_then(|value| Some((value.text()?, value)));
    let (key, place) = fields.exactly_one(&["url", "url_file"])?;
    let url = if key == "url" { place.text().map(Secret::new) } else { pem::secret_line(&place) };
    let ca = match fields.get("ca_file") {
        Some(value) => Some((pem::certificates(&value, &value.file()?)?.pem, value)),
        None => None,
    };
    let url = url?;
    let (query, asked) = query?;
    let (ca, authority) = ca.unzip();
    let settings = match SqlSettings::new(&url, ca, fields.scope().folder, query, timeout) {
        Ok(settings) => settings,
        Err(error) => {
            let meant;
            let (place, mend) = match &error {
                SettingsError::Url => (
                    &place,
                    "write postgres://user:password@host/database, mysql://… or sqlite:file.db; a character that means \
                     something in a URL is written as %40 for @, %23 for #",
                ),
                SettingsError::Parameter { name, known } => {
                    let nearest = units::nearest(name, known.iter().copied());
                    meant = nearest.map(|meant| format!("did you mean {meant}?"));
                    (&place, meant.as_deref().unwrap_or("remove it"))
                }
                SettingsError::Placeholder(_) => {
                    (&asked, "write it where the username belongs, without quotes")
                }
                SettingsError::CaOfFile => (authority.as_ref().unwrap_or(&place), "remove it"),
            };
            place.error(error.to_string(), mend);
            return None;
        }
    };
    if settings.host().is_some_and(|host| !web::is_loopback(host)) && !settings.verifies_server() {
        place.warning(
            "whoever sits between can read the password hashes, and answer in the place of the database",
            "add ?sslmode=verify-full to the URL (MySQL: ?ssl-mode=VERIFY_IDENTITY), and ca_file for an authority of \
             your own",
        );
    }
    Some(settings)
}

/// How long a directory may take; the same for all that are asked over the network.
pub(super) fn timeout(fields: &Fields<'_>, usual: Duration) -> Duration {
    if let Some(value) = fields.get("timeout").filter(Value::duration_is_zero) {
        value.warning("gives the directory no time at all", "write a duration such as 3s");
    }
    fields.duration("timeout", usual)
}
