//! `sessions.users`, and the users file.

use super::finding::{ConfigErrors, Report};
use super::http_directory;
use super::ldap_directory;
use super::reader::{Fields, Scope, Value};
use super::secrets::{self, Environment};
use super::sql_directory;
use super::yaml::{Entry, Kind, Node, Scalar, Style};
use crate::directory::file::{RecordError, RecordProblem, UserRecord, check};
use crate::directory::http::HttpSettings;
use crate::directory::ldap::LdapSettings;
use crate::directory::sql::SqlSettings;
use crate::secret::Secret;
use serde_json::{Map, Number, Value as Json};
use std::path::{Path, PathBuf};

/// Who may log in.
#[derive(Debug)]
pub enum UsersConfig {
    /// Those of a users file.
    File {
        /// The file, for when it changes.
        path: PathBuf,
        /// What it held; every record can be a user.
        records: Vec<UserRecord>,
    },
    /// Those a backend lets in.
    Http(HttpSettings),
    /// Those of a database.
    Sql(Box<SqlSettings>),
    /// Those of an LDAP directory.
    Ldap(Box<LdapSettings>),
}

/// Reads the users file again.
///
/// # Errors
/// [`ConfigErrors`]: every error of the file.
pub fn load_users(path: &Path) -> Result<Vec<UserRecord>, ConfigErrors> {
    let report = Report::new(path);
    let records = read(path, &secrets::process_environment, &report);
    report.conclude()?;
    Ok(records)
}

pub(super) fn users(value: &Value<'_>) -> Option<UsersConfig> {
    let fields = value.fields(&["file", "http", "sql", "ldap"], &[])?;
    match fields.exactly_one(&["file", "http", "sql", "ldap"])? {
        ("http", value) => http_directory::http(&value).map(UsersConfig::Http),
        ("sql", value) => sql_directory::sql(&value).map(|settings| UsersConfig::Sql(Box::new(settings))),
        ("ldap", value) => ldap_directory::ldap(&value).map(|settings| UsersConfig::Ldap(Box::new(settings))),
        (_, value) => file(&value),
    }
}

fn file(value: &Value<'_>) -> Option<UsersConfig> {
    let fields = value.fields(&["path"], &[])?;
    let value = fields.require("path", "name the users file, such as users.yaml")?;
    let path = value.file()?;
    if let Err(error) = std::fs::metadata(&path) {
        let what = format!("cannot read {}: {}", path.display(), secrets::why(&error));
        value.error(what, "give the path of the users file, relative to this configuration");
        return None;
    }
    let report = Report::new(&path);
    let records = read(&path, fields.scope().environment, &report);
    value.scope.report.absorb(report);
    Some(UsersConfig::File { path, records })
}

fn read(path: &Path, environment: Environment<'_>, report: &Report) -> Vec<UserRecord> {
    let Some(root) = super::read_tree(path, environment, report) else { return Vec::new() };
    let scope = Scope { report, folder: Path::new(""), environment, trace: None };
    let root = Value { scope: &scope, node: &root, path: String::new() };
    let Some(fields) = root.fields(&["users"], &[]) else { return Vec::new() };
    let Some(list) = fields.require("users", "add a list of users; an empty one is []") else {
        return Vec::new();
    };
    let items = list.items("write one `- username: …` per user");
    let read: Vec<(&Value<'_>, UserRecord)> =
        items.iter().filter_map(|item| Some((item, record(item)?))).collect();
    let records: Vec<UserRecord> = read.iter().map(|(_, record)| record.clone()).collect();
    for error in check(&records).err().unwrap_or_default() {
        if let Some((item, _)) = read.get(error.index) {
            report_record(item, &error);
        }
    }
    records
}

fn record(value: &Value<'_>) -> Option<UserRecord> {
    let known = &["username", "password_hash", "subject", "claims", "disabled"];
    let fields = value.fields(known, &[])?;
    let username = fields.require("username", "add the login name").and_then(|value| value.text());
    let hash = fields
        .require("password_hash", "add what `portcullis hash-password` prints")
        .and_then(|value| value.text());
    Some(UserRecord {
        username: username?,
        password_hash: Secret::new(hash?),
        subject: fields.get("subject").and_then(|value| value.text()),
        claims: claims(&fields),
        disabled: fields.boolean("disabled", false),
    })
}

fn claims(fields: &Fields<'_>) -> Map<String, Json> {
    fields.get("claims").map(|value| claims_of(&value)).unwrap_or_default()
}

/// Claims as JSON, one for each key of a mapping.
pub(super) fn claims_of(value: &Value<'_>) -> Map<String, Json> {
    let named = value.named("write one `name: value` per claim");
    named.into_iter().map(|(name, value)| (name.to_owned(), json(value.node))).collect()
}

/// The JSON value that a tree stands for.
fn json(node: &Node) -> Json {
    match &node.kind {
        Kind::Null | Kind::Broken => Json::Null,
        Kind::Sequence(nodes) => nodes.iter().map(json).collect(),
        Kind::Mapping(entries) => {
            entries.iter().map(|Entry { key, value, .. }| (key.clone(), json(value))).collect()
        }
        Kind::Scalar(Scalar { text, style: Style::Plain }) => match text.as_str() {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            text => text.parse::<Number>().map_or_else(|_| Json::String(text.to_owned()), Json::Number),
        },
        Kind::Scalar(Scalar { text, .. }) => Json::String(text.clone()),
    }
}

/// Reports at the key of the record that is wrong.
fn report_record(item: &Value<'_>, error: &RecordError) {
    let (key, mend) = match &error.problem {
        RecordProblem::Name(key) => (*key, "write a shorter name, on one line"),
        RecordProblem::RepeatedUsername => ("username", "give each user a name of their own"),
        RecordProblem::RepeatedSubject(_) => ("subject", "give each user a subject of their own"),
        RecordProblem::Hash(_) => ("password_hash", "write what `portcullis hash-password` prints"),
        RecordProblem::ReservedClaim(_) => ("claims", "remove it"),
        RecordProblem::ClaimType(..) => ("claims", "mend its type"),
        RecordProblem::ClaimsTooLarge(_) => ("claims", "keep only what upstreams need"),
    };
    // The path says that it is the hash.
    let what = match &error.problem {
        RecordProblem::Hash(problem) => problem.to_string(),
        problem => problem.to_string(),
    };
    let place = item.member(key).unwrap_or_else(|| item.clone());
    place.error(what, mend);
}
