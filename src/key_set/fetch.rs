//! Getting a key set from where it is, once.

use super::origin::{KeyHost, may_hold_keys};
use super::{KeySet, KeySetError, MAX_BYTES, Source};
use crate::json;
use crate::outbound::{Client, Limits, OutboundError};
use crate::panics::{Panicked, Place, contain_blocking};
use bytes::Bytes;
use serde_json::Value;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a fetch brought no key set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server could not be asked, or did not answer well.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The answer is not a usable key set.
    #[error("not a usable key set: {0}")]
    KeySet(#[from] KeySetError),
    /// The discovery document is not a JSON object with `issuer` and `jwks_uri` as strings.
    #[error("the discovery document lacks `issuer` or `jwks_uri`")]
    Discovery,
    /// The discovery document is another issuer's (OpenID Connect Discovery 1.0 section 4.3).
    #[error("the discovery document is that of the issuer {0:?}")]
    OtherIssuer(String),
    /// The discovery document sends us to a host that is neither the issuer's nor listed.
    #[error(
        "the discovery document names keys outside the issuer's own origin, at {0:?}, which is refused; if that \
         is where this issuer keeps them, list the host in `key_set.jwks_hosts`"
    )]
    OtherOrigin(String),
    /// Something in it panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The whole fetch took too long.
    #[error("no key set within {0:?}")]
    Timeout(Duration),
}

impl FetchError {
    /// One word of a closed list, for metric labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Outbound(error) => error.kind(),
            Self::File { .. } => "file",
            Self::KeySet(KeySetError::NoUsableKey(_)) => "no_usable_key",
            Self::KeySet(_) => "malformed",
            Self::Discovery | Self::OtherIssuer(_) | Self::OtherOrigin(_) => "discovery",
            Self::Panicked(_) => "panic",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// What a fetch brought.
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    /// What the keys were read from, if it came from afar.
    pub(super) document: Option<Document>,
}

/// A JWKS as received.
#[derive(Debug)]
pub(super) struct Document {
    /// Where it was: the configured address, or the `jwks_uri` that was discovered.
    pub(super) url: String,
    pub(super) jwks: Bytes,
}

/// Fetches the set of `issuer` once, within `timeout` as a whole.
pub(super) async fn fetch(
    source: &Source,
    issuer: &str,
    client: &Client,
    timeout: Duration,
) -> Result<Fetched, FetchError> {
    let limits = Limits { timeout, max_bytes: MAX_BYTES };
    let work = async {
        let keys = match source {
            Source::Url(url) => return download(url.clone(), client, limits).await,
            Source::Discovery(listed) => {
                let url = discover(issuer, listed, client, limits).await?;
                return download(url, client, limits).await;
            }
            Source::File(path) => KeySet::from_text(&read(path).await?)?,
            Source::Secret(secret) => KeySet::from_secret(secret.expose()),
        };
        Ok(Fetched { keys, document: None })
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(FetchError::Timeout(timeout)))
}

async fn download(url: String, client: &Client, limits: Limits) -> Result<Fetched, FetchError> {
    let jwks = client.get(&url, limits).await?.ok()?;
    Ok(Fetched { keys: KeySet::from_jwks(&jwks)?, document: Some(Document { url, jwks }) })
}

/// Asks the issuer where its keys are.
async fn discover(
    issuer: &str,
    listed: &[KeyHost],
    client: &Client,
    limits: Limits,
) -> Result<String, FetchError> {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let answer = client.get(&format!("{base}/.well-known/openid-configuration"), limits).await?.ok()?;
    let document = json::object(&answer).map_err(|_| FetchError::Discovery)?;
    let member = |name| document.get(name).and_then(Value::as_str).ok_or(FetchError::Discovery);
    let (found, keys) = (member("issuer")?, member("jwks_uri")?);
    if found != issuer {
        return Err(FetchError::OtherIssuer(found.to_owned()));
    }
    if !may_hold_keys(keys, issuer, listed) {
        return Err(FetchError::OtherOrigin(keys.to_owned()));
    }
    Ok(keys.to_owned())
}

async fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let file = path.to_owned();
    let read = contain_blocking(Place::KeySets, move || {
        let mut text = Vec::new();
        std::fs::File::open(file)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
        Ok(text)
    });
    let text = read.await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)));
    text.map_err(|error| FetchError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{RSA, jwks};
    use super::*;
    use crate::outbound::tests::{TestServer, client, http_answer};
    use serde_json::json;
    use std::io::Write as _;

    const TIMEOUT: Duration = Duration::from_secs(5);

    async fn fetched(source: Source, issuer: &str) -> Result<usize, &'static str> {
        let result = fetch(&source, issuer, &client(), TIMEOUT).await;
        result.map(|fetched| fetched.keys.size()).map_err(|error| error.kind())
    }

    /// An issuer whose discovery document is made from its own address.
    fn issuer(document: impl Fn(&str) -> Value + Send + Sync + 'static) -> TestServer {
        TestServer::start(move |stream, head| {
            let host = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned));
            let body = match head.split(' ').nth(1).unwrap() {
                "/realm/.well-known/openid-configuration" => {
                    document(&format!("http://{}", host.unwrap())).to_string()
                }
                "/keys" => jwks(&[RSA.named("a")]),
                _ => String::new(),
            };
            stream.write_all(http_answer(if body.is_empty() { 404 } else { 200 }, &body).as_bytes()).unwrap();
        })
    }

    #[tokio::test]
    async fn discovery_leads_to_the_keys_of_an_issuer_with_a_path() {
        let server =
            issuer(|base| json!({"issuer": format!("{base}/realm"), "jwks_uri": format!("{base}/keys")}));
        assert_eq!(fetched(Source::Discovery(Vec::new()), &server.url("/realm")).await, Ok(1));
        let server =
            issuer(|base| json!({"issuer": format!("{base}/realm/"), "jwks_uri": format!("{base}/keys")}));
        assert_eq!(fetched(Source::Discovery(Vec::new()), &server.url("/realm/")).await, Ok(1));
    }

    #[tokio::test]
    async fn a_discovery_document_of_another_issuer_or_to_another_origin_is_refused() {
        let documents: [fn(&str) -> Value; 7] = [
            |base| json!({"issuer": format!("{base}/realm/"), "jwks_uri": format!("{base}/keys")}),
            |base| json!({"issuer": "https://evil.example", "jwks_uri": format!("{base}/keys")}),
            |base| json!({"issuer": format!("{base}/realm"), "jwks_uri": "http://evil.example/keys"}),
            |base| json!({"issuer": format!("{base}/realm"), "jwks_uri": format!("{}/keys", base.replace("http:", "https:"))}),
            |base| json!({"issuer": format!("{base}/realm"), "jwks_uri": "file:///etc/passwd"}),
            |base| json!({"issuer": format!("{base}/realm"), "jwks_uri": format!("http://user@{}/keys", &base[7..])}),
            |base| json!({"issuer": format!("{base}/realm")}),
        ];
        for document in documents {
            let server = issuer(document);
            assert_eq!(fetched(Source::Discovery(Vec::new()), &server.url("/realm")).await, Err("discovery"));
            assert_eq!(server.count(), 1, "the keys are not asked for");
        }
    }

    #[tokio::test]
    async fn keys_at_a_listed_host_are_taken_and_the_refusal_of_others_names_the_key_to_set() {
        let keys = TestServer::answering(200, &jwks(&[RSA.named("a")]));
        let url = keys.url("/keys");
        let server = issuer(move |base| json!({"issuer": format!("{base}/realm"), "jwks_uri": url}));
        let listed = vec![KeyHost::new("127.0.0.1", Some(keys.address.port()))];
        assert_eq!(fetched(Source::Discovery(listed), &server.url("/realm")).await, Ok(1));
        let unlisted = Source::Discovery(vec![KeyHost::new("127.0.0.1", Some(1))]);
        let refused = fetch(&unlisted, &server.url("/realm"), &client(), TIMEOUT).await;
        assert!(refused.err().unwrap().to_string().contains("`key_set.jwks_hosts`"));
        assert_eq!(keys.count(), 1);
    }

    #[tokio::test]
    async fn failures_have_their_own_words() {
        let server = TestServer::answering(500, "");
        assert_eq!(fetched(Source::Url(server.url("/")), "").await, Err("status"));
        let server = TestServer::answering(200, "<html>");
        assert_eq!(fetched(Source::Url(server.url("/")), "").await, Err("malformed"));
        let server = TestServer::answering(200, r#"{"keys":[]}"#);
        assert_eq!(fetched(Source::Url(server.url("/")), "").await, Err("no_usable_key"));
        let server = TestServer::answering(200, &" ".repeat(MAX_BYTES + 1));
        assert_eq!(fetched(Source::Url(server.url("/")), "").await, Err("too_large"));
        assert_eq!(fetched(Source::File("/nowhere/at/all".into()), "").await, Err("file"));
    }

    #[tokio::test]
    async fn a_file_may_hold_a_jwks_or_pem() {
        let path = std::env::temp_dir().join(format!("portcullis-keys-{}", std::process::id()));
        for text in [jwks(&[RSA.named("a")]), RSA.pem()] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(fetched(Source::File(path.clone()), "").await, Ok(1));
        }
        std::fs::remove_file(path).unwrap();
    }
}
