//! What a user's entry says, as a subject and claims. Pure.

use super::super::file::{RecordProblem, check_claims, is_name};
use crate::directory::Identity;
use serde_json::Map;
use std::collections::HashMap;

/// A claim, and the attribute it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSource {
    /// The claim.
    pub claim: String,
    /// The attribute.
    pub attribute: String,
    /// Whether it is a list even of one value.
    pub list: bool,
}

/// Why an entry names no user. Its text never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    #[error(
        "the user's entry has {count} values of {attribute}, which is the subject; name an attribute that has one"
    )]
    Subjects { attribute: String, count: usize },
    #[error("the subject, {0}, must have 1 to 255 bytes and no control character")]
    Subject(String),
    #[error("the attribute {0} holds no text")]
    Binary(String),
    #[error(transparent)]
    Claims(#[from] RecordProblem),
}

/// An entry: its attributes by their names in lower case; no values for those that hold no text.
pub(super) struct Entry(pub(super) HashMap<String, Option<Vec<String>>>);

impl Entry {
    fn values(&self, attribute: &str) -> Result<&[String], Misfit> {
        match self.0.get(&attribute.to_ascii_lowercase()) {
            Some(Some(values)) => Ok(values),
            Some(None) => Err(Misfit::Binary(attribute.to_owned())),
            None => Ok(&[]),
        }
    }

    pub(super) fn identity(&self, subject: &str, claims: &[ClaimSource]) -> Result<Identity, Misfit> {
        let found = match self.values(subject)? {
            [one] if is_name(one) => one.clone(),
            [_] => return Err(Misfit::Subject(subject.to_owned())),
            values => return Err(Misfit::Subjects { attribute: subject.to_owned(), count: values.len() }),
        };
        let mut map = Map::new();
        for ClaimSource { claim, attribute, list } in claims {
            let value = match self.values(attribute)? {
                [] => continue,
                values if claim == "scope" => values.join(" ").into(),
                [one] if !list && claim != "roles" => one.clone().into(),
                values => values.to_vec().into(),
            };
            map.insert(claim.clone(), value);
        }
        check_claims(&map)?;
        Ok(Identity { subject: found, claims: map })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn entry(attributes: &[(&str, &[&str])]) -> Entry {
        let values = |values: &[&str]| Some(values.iter().map(ToString::to_string).collect());
        Entry(attributes.iter().map(|(name, of)| ((*name).to_owned(), values(of))).collect())
    }

    fn source(claim: &str, attribute: &str, list: bool) -> ClaimSource {
        ClaimSource { claim: claim.to_owned(), attribute: attribute.to_owned(), list }
    }

    #[test]
    fn one_value_is_a_text_and_several_are_a_list() {
        let entry = entry(&[
            ("uid", &["alice"]),
            ("mail", &["a@b"]),
            ("memberof", &["clerk"]),
            ("telephonenumber", &["1", "2"]),
            ("scope", &["orders:read", "orders:write"]),
        ]);
        let claims = [
            source("email", "mail", false),
            source("mails", "mail", true),
            source("roles", "memberOf", false),
            source("phone", "telephoneNumber", false),
            source("scope", "scope", false),
            source("nick", "nick", false),
        ];
        let found = entry.identity("UID", &claims).unwrap();
        assert_eq!(found.subject, "alice");
        let claims = json!({ "email": "a@b", "mails": ["a@b"], "roles": ["clerk"], "phone": ["1", "2"], "scope": "orders:read orders:write" });
        assert_eq!(Value::Object(found.claims), claims);
    }

    #[test]
    fn an_entry_that_names_nobody_for_certain_is_refused() {
        let mut two = entry(&[("uid", &["alice", "al"]), ("cn", &[""]), ("mail", &["a@b"])]);
        two.0.insert("photo".to_owned(), None);
        let problem = |subject: &str, claim: &str, attribute: &str| {
            two.identity(subject, &[source(claim, attribute, false)]).unwrap_err()
        };
        assert_eq!(problem("uid", "a", "b"), Misfit::Subjects { attribute: "uid".to_owned(), count: 2 });
        assert_eq!(problem("none", "a", "b"), Misfit::Subjects { attribute: "none".to_owned(), count: 0 });
        assert_eq!(problem("cn", "a", "b"), Misfit::Subject("cn".to_owned()));
        assert_eq!(problem("photo", "a", "b"), Misfit::Binary("photo".to_owned()));
        assert_eq!(problem("mail", "a", "photo"), Misfit::Binary("photo".to_owned()));
        assert_eq!(
            problem("mail", "exp", "mail"),
            Misfit::Claims(RecordProblem::ReservedClaim("exp".to_owned()))
        );
    }
}
