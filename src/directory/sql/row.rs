//! What the database answered about one username, as a password hash, a subject and claims. Pure.

use super::super::file::{RecordProblem, check_claims, is_name};
use crate::directory::Identity;
use crate::json;
use crate::secret::Secret;
use serde_json::{Map, Value};

/// The columns that every query has to give.
pub(super) const REQUIRED: [&str; 2] = ["subject", "password_hash"];
/// The end of the name of a column whose text is JSON.
const JSON: &str = ":json";

/// Why an answer of the database is of no use. Its text never quotes what a column holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A column every query has to give.
    #[error("the query gives no column {0}")]
    Missing(&'static str),
    /// Another number of placeholders than one.
    #[error("the query asks for {0} values, and there is one, the username")]
    Values(usize),
    /// One username, several users.
    #[error("the query gives more than one row for a username")]
    Rows,
    /// Two columns of one name.
    #[error("the query gives the column {0:?} twice")]
    Repeated(String),
    /// A column of a type that is not understood.
    #[error("the column {column:?} is of the type {kind}; cast it to text in the query")]
    Type {
        /// Its name.
        column: String,
        /// What the database calls its type.
        kind: String,
    },
    /// A column called JSON that is none.
    #[error("the column {0:?} holds no JSON, or an object with a member twice")]
    Json(String),
    /// A subject that is none.
    #[error(
        "the column subject must hold a text of 1 to 255 bytes without control characters, or a whole number"
    )]
    Subject,
    /// A hash that is no text.
    #[error("the column password_hash must hold text")]
    Hash,
    /// Claims that cannot be in a token.
    #[error(transparent)]
    Claims(#[from] RecordProblem),
}

/// A column: its name, and what it holds, or the name of the type that is not understood. NULL is `Null`.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) value: Result<Value, String>,
}

/// A user as the database has it.
pub(super) struct Found {
    /// Absent for a user without a password.
    pub(super) hash: Option<Secret<String>>,
    /// Known only to who knows the password, so that a wrong one finds nothing out.
    pub(super) identity: Result<Identity, Misfit>,
}

/// Whether a query with these columns can be used.
pub(super) fn check<'a>(columns: impl Iterator<Item = &'a str> + Clone, values: usize) -> Result<(), Misfit> {
    if values != 1 {
        return Err(Misfit::Values(values));
    }
    for required in REQUIRED {
        match columns.clone().filter(|name| *name == required).count() {
            0 => return Err(Misfit::Missing(required)),
            1 => {}
            _ => return Err(Misfit::Repeated(required.to_owned())),
        }
    }
    let mut claims = Map::new();
    for name in columns.filter(|name| !REQUIRED.contains(name)) {
        let claim = name.strip_suffix(JSON).unwrap_or(name);
        if claims.insert(claim.to_owned(), Value::Null).is_some() {
            return Err(Misfit::Repeated(claim.to_owned()));
        }
    }
    // What they hold is looked at when they hold something.
    claims.remove("scope");
    claims.remove("roles");
    Ok(check_claims(&claims)?)
}

pub(super) fn read(columns: Vec<Column>) -> Result<Found, Misfit> {
    let (mut hash, mut subject, mut rest) = (None, None, Vec::new());
    for column in columns {
        match column.name.as_str() {
            "password_hash" => hash = Some(column.value),
            "subject" => subject = Some(column.value),
            _ => rest.push(column),
        }
    }
    let hash = match hash.ok_or(Misfit::Missing("password_hash"))? {
        Ok(Value::String(text)) => Some(Secret::new(text)),
        Ok(Value::Null) => None,
        Ok(_) => return Err(Misfit::Hash),
        Err(kind) => return Err(Misfit::Type { column: "password_hash".to_owned(), kind }),
    };
    let subject = subject.ok_or(Misfit::Missing("subject"))?;
    Ok(Found { hash, identity: identity(subject, rest) })
}

fn identity(subject: Result<Value, String>, columns: Vec<Column>) -> Result<Identity, Misfit> {
    let subject = match subject {
        Ok(Value::String(text)) => Some(text),
        Ok(Value::Number(number)) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Ok(_) => None,
        Err(kind) => return Err(Misfit::Type { column: "subject".to_owned(), kind }),
    };
    let subject = subject.filter(|subject| is_name(subject)).ok_or(Misfit::Subject)?;
    let mut claims = Map::new();
    for Column { name, value } in columns {
        let mut value = value.map_err(|kind| Misfit::Type { column: name.clone(), kind })?;
        let claim = name.strip_suffix(JSON).unwrap_or(&name);
        if claim.len() < name.len()
            && let Value::String(text) = &value
        {
            value = json::value(text.as_bytes()).map_err(|_| Misfit::Json(name.clone()))?;
        }
        if !value.is_null() {
            claims.insert(claim.to_owned(), value);
        }
    }
    check_claims(&claims)?;
    Ok(Identity { subject, claims })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(of: Value) -> Vec<Column> {
        let Value::Object(of) = of else { panic!("an object") };
        of.into_iter().map(|(name, value)| Column { name, value: Ok(value) }).collect()
    }

    fn identity_of(more: Value) -> Result<Identity, Misfit> {
        let mut all = columns(json!({ "password_hash": "$x" }));
        all.extend(columns(more));
        read(all).unwrap().identity
    }

    #[test]
    fn columns_become_claims_by_their_names() {
        let found = identity_of(json!({
            "subject": 7, "email": "a@b", "age": 7, "staff": true, "nothing": null,
            "roles:json": "[\"clerk\"]", "address:json": null, "weight": 1.5,
        }));
        let found = found.unwrap();
        assert_eq!(found.subject, "7");
        let claims = json!({ "email": "a@b", "age": 7, "staff": true, "roles": ["clerk"], "weight": 1.5 });
        assert_eq!(Value::Object(found.claims), claims);
    }

    #[test]
    fn what_is_no_user_is_named() {
        for subject in
            [json!(null), json!(""), json!("a\nb"), json!(1.5), json!(true), json!("x".repeat(256))]
        {
            assert_eq!(identity_of(json!({ "subject": subject })), Err(Misfit::Subject), "{subject}");
        }
        let wrong = |more: Value| {
            let mut all = json!({ "subject": "a" });
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            identity_of(all).unwrap_err().to_string()
        };
        for no_json in ["{", "", "1 2", "{\"a\":1,\"a\":2}"] {
            assert_eq!(
                wrong(json!({ "x:json": no_json })),
                "the column \"x:json\" holds no JSON, or an object with a member twice"
            );
        }
        for claim in crate::directory::RESERVED_CLAIMS {
            let said = wrong(json!({ *claim: "x" }));
            assert_eq!(said, format!("the claim {claim:?} is set by the gateway itself"));
            assert_eq!(wrong(json!({ format!("{claim}:json"): "1" })), said);
        }
        assert_eq!(wrong(json!({ "roles": "clerk" })), "the claim \"roles\" must be a list of strings");
        assert!(wrong(json!({ "x": "y".repeat(5000) })).starts_with("the claims take"));
        let unknown = Column { name: "since".to_owned(), value: Err("TIMESTAMP".to_owned()) };
        let mut all = columns(json!({ "password_hash": null, "subject": "a" }));
        all.push(unknown);
        let found = read(all).unwrap();
        assert!(found.hash.is_none());
        let said = found.identity.unwrap_err().to_string();
        assert_eq!(said, "the column \"since\" is of the type TIMESTAMP; cast it to text in the query");
        assert_eq!(read(columns(json!({ "password_hash": 1, "subject": "a" }))).err(), Some(Misfit::Hash));
    }

    #[test]
    fn a_query_is_judged_by_its_columns() {
        let judged = |columns: &[&str], values| check(columns.iter().copied(), values);
        assert_eq!(judged(&["subject", "password_hash", "roles", "scope", "a:json"], 1), Ok(()));
        assert_eq!(judged(&["subject", "password_hash"], 0), Err(Misfit::Values(0)));
        assert_eq!(judged(&["subject", "password_hash"], 2), Err(Misfit::Values(2)));
        assert_eq!(judged(&["id", "password_hash"], 1), Err(Misfit::Missing("subject")));
        assert_eq!(judged(&["subject"], 1), Err(Misfit::Missing("password_hash")));
        let twice = ["subject", "password_hash", "a", "a:json"];
        assert_eq!(judged(&twice, 1), Err(Misfit::Repeated("a".to_owned())));
        let reserved = judged(&["subject", "password_hash", "exp"], 1);
        assert_eq!(reserved, Err(Misfit::Claims(RecordProblem::ReservedClaim("exp".to_owned()))));
    }
}
