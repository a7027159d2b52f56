//! The directory behind a backend's own login: it judges the password and says who that is.

use super::file::{check_claims, is_name};
use super::{Credentials, DirectoryError, Identity, Standing, UserDirectory};
use crate::breaker::Breaker;
use crate::json::{self, ClaimPath};
use crate::outbound::{Answer, Client, Limits, OutboundError};
use async_trait::async_trait;
use serde_json::{Map, Value};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The longest answer read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Logins the backend is asked about at the same time; beyond it they are refused for now.
const AT_ONCE: usize = 64;

/// How the backend is asked, and how its answer is read (`sessions.users.http`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Its login endpoint, `http` or `https`.
    pub url: String,
    /// From the look-up of its name to the last byte of its answer.
    pub timeout: Duration,
    /// The form of the request's body.
    pub format: Format,
    /// The members of the body; `{username}` and `{password}` in a value stand for what the client sent.
    pub fields: Vec<(String, String)>,
    /// The statuses that mean a wrong name or password. 200 to 299 is a login; every other is an outage.
    pub refused: Vec<u16>,
    /// Where the answer has the subject: a text or a whole number.
    pub subject: ClaimPath,
    /// Claims, and where the answer has them; what is not there is left out.
    pub claims: Vec<(String, ClaimPath)>,
}

/// The form of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// `application/x-www-form-urlencoded`, as an HTML form sends it.
    Form,
}

/// Users of a backend.
#[derive(Debug)]
pub struct HttpDirectory {
    settings: HttpSettings,
    client: Client,
    breaker: Breaker,
    places: Semaphore,
}

impl HttpDirectory {
    /// A directory that asks the backend.
    ///
    /// # Errors
    /// [`OutboundError`] if there can be no client.
    pub fn new(settings: HttpSettings) -> Result<Self, OutboundError> {
        let places = Semaphore::new(AT_ONCE);
        Ok(Self { settings, client: Client::new()?, breaker: Breaker::default(), places })
    }

    async fn ask(&self, credentials: &Credentials) -> Result<Answer, DirectoryError> {
        let Ok(_place) = self.places.try_acquire() else { return Err(DirectoryError::Busy) };
        if !self.breaker.admits(Instant::now()) {
            return Err(DirectoryError::Unavailable("it did not answer the last times".to_owned()));
        }
        let (url, limits) = (&*self.settings.url, self.limits());
        let fields = self.fields(credentials);
        let answer = match self.settings.format {
            Format::Json => {
                let body: Map<String, Value> =
                    fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
                self.client.post_json(url, Value::Object(body).to_string().into_bytes(), limits).await
            }
            Format::Form => self.client.post_form(url, &fields, limits).await,
        };
        match answer {
            Ok(answer) if !matches!(answer.status, 502..=504) => {
                self.breaker.answered();
                Ok(answer)
            }
            Ok(answer) => {
                Err(self.unanswered(credentials, format!("it answered with status {}", answer.status)))
            }
            Err(error @ OutboundError::Timeout(_)) => Err(self.unanswered(credentials, error.to_string())),
            // It was asked. What it does not like in one name is no reason to ask it about no other, and if it were
            // to cost nothing to be asked like that again and again, a stranger would.
            Err(error @ OutboundError::TooLarge(_)) => {
                self.breaker.answered();
                Err(unclear(error.to_string()))
            }
            Err(error @ OutboundError::Broken(_)) => {
                self.failed_about(credentials);
                Err(unclear(error.to_string()))
            }
            // Nobody was asked about anything.
            Err(error) => {
                self.breaker.failed(Instant::now());
                Err(told(error.to_string(), DirectoryError::Unavailable))
            }
        }
    }

    /// It was asked, so the name may be the reason.
    fn unanswered(&self, credentials: &Credentials, why: String) -> DirectoryError {
        self.failed_about(credentials);
        told(why, DirectoryError::Unanswered)
    }

    fn failed_about(&self, credentials: &Credentials) {
        // Spellings that the backend may take for one name.
        self.breaker.failed_about(&credentials.username.trim().to_lowercase(), Instant::now());
    }

    fn limits(&self) -> Limits {
        Limits { timeout: self.settings.timeout, max_bytes: MAX_ANSWER }
    }

    fn fields(&self, credentials: &Credentials) -> Vec<(&str, String)> {
        let (username, password) = (&credentials.username, credentials.password.expose());
        let fill = |template: &str| fill(template, username, password);
        self.settings.fields.iter().map(|(name, template)| (name.as_str(), fill(template))).collect()
    }

    fn identity(&self, answer: &Answer) -> Result<Identity, DirectoryError> {
        let body = json::object(&answer.body)
            .map_err(|error| unclear(format!("its answer to a good login cannot be read: {error}")))?;
        let HttpSettings { subject, claims, .. } = &self.settings;
        let found = match subject.find(&body) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) if number.is_u64() || number.is_i64() => Some(number.to_string()),
            _ => None,
        };
        let Some(found) = found.filter(|subject| is_name(subject)) else {
            let what = format!("its answer to a good login has no subject at {}", subject.as_str());
            return Err(unclear(what));
        };
        let claims = claims.iter().filter_map(|(name, path)| Some((name.clone(), path.find(&body)?.clone())));
        let claims: Map<String, Value> = claims.collect();
        check_claims(&claims).map_err(|problem| unclear(format!("its answer to a good login: {problem}")))?;
        Ok(Identity { subject: found, claims })
    }
}

/// Told where an operator reads it; the user hears only that it is to be tried again.
fn told(why: String, error: fn(String) -> DirectoryError) -> DirectoryError {
    tracing::warn!(why, "sessions.users.http: the backend's login gives no judgement");
    error(why)
}

/// An answer that the backend may have come to by looking at the password.
fn unclear(why: String) -> DirectoryError {
    told(why, DirectoryError::Unclear)
}

/// Puts the credentials into a template, once: what they hold is never a placeholder.
fn fill(template: &str, username: &str, password: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        rest = if let Some(after) = from.strip_prefix("{username}") {
            out.push_str(username);
            after
        } else if let Some(after) = from.strip_prefix("{password}") {
            out.push_str(password);
            after
        } else {
            out.push('{');
            from.strip_prefix('{').unwrap_or_default()
        };
    }
    out.push_str(rest);
    out
}

#[async_trait]
impl UserDirectory for HttpDirectory {
    async fn authenticate(&self, credentials: Credentials) -> Result<Option<Identity>, DirectoryError> {
        let answer = self.ask(&credentials).await?;
        match answer.status {
            200..=299 => self.identity(&answer).map(Some),
            status if self.settings.refused.contains(&status) => Ok(None),
            status @ 500.. => {
                Err(told(format!("it answered with status {status}"), DirectoryError::Unanswered))
            }
            status => Err(unclear(format!(
                "it answered with status {status}; if that is its word for a wrong password, add it to `refused`"
            ))),
        }
    }

    async fn standing(&self, _subject: &str) -> Result<Standing, DirectoryError> {
        Ok(Standing::Unchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credentials_are_put_in_once_and_to_the_letter() {
        assert_eq!(fill("{username}", "alice", "x"), "alice");
        assert_eq!(
            fill("corp\\{username}:{password}!", "a{password}", "{username}"),
            "corp\\a{password}:{username}!"
        );
        assert_eq!(fill("{{username}} {user} {", "alice", "x"), "{alice} {user} {");
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_stays_what_it_is(username in ".*", password in ".*") {
            prop_assert_eq!(fill("{username}", &username, &password), username.clone());
            prop_assert_eq!(fill("<{password}>", &username, &password), format!("<{password}>"));
        }
    }
}
