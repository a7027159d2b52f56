//! Getting a key set from where it is, once.

use super::{KeySet, KeySetError, MAX_BYTES, Source};
use crate::json;
use crate::outbound::{Client, Limits, OutboundError};
use http::Uri;
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
    /// The discovery document sends us to a host that is not the issuer's.
    #[error(
        "the discovery document names keys at another origin, {0:?}; if that is right, configure it as `url`"
    )]
    OtherOrigin(String),
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
            Self::Timeout(_) => "timeout",
        }
    }
}

/// Fetches the set of `issuer` once, within `timeout` as a whole.
pub(super) async fn fetch(
    source: &Source,
    issuer: &str,
    client: &Client,
    timeout: Duration,
) -> Result<KeySet, FetchError> {
    let limits = Limits { timeout, max_bytes: MAX_BYTES };
    let work = async {
        match source {
            Source::Url(url) => Ok(KeySet::from_jwks(&client.get(url, limits).await?.ok()?)?),
            Source::Discovery => {
                let url = discover(issuer, client, limits).await?;
                Ok(KeySet::from_jwks(&client.get(&url, limits).await?.ok()?)?)
            }
            Source::File(path) => Ok(KeySet::from_text(&read(path).await?)?),
            Source::Secret(secret) => Ok(KeySet::from_secret(secret.expose())),
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(FetchError::Timeout(timeout)))
}

/// Asks the issuer where its keys are.
async fn discover(issuer: &str, client: &Client, limits: Limits) -> Result<String, FetchError> {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let answer = client.get(&format!("{base}/.well-known/openid-configuration"), limits).await?.ok()?;
    let document = json::object(&answer).map_err(|_| FetchError::Discovery)?;
    let member = |name| document.get(name).and_then(Value::as_str).ok_or(FetchError::Discovery);
    let (found, keys) = (member("issuer")?, member("jwks_uri")?);
    if found != issuer {
        return Err(FetchError::OtherIssuer(found.to_owned()));
    }
    if origin(keys).is_none() || origin(keys) != origin(issuer) {
        return Err(FetchError::OtherOrigin(keys.to_owned()));
    }
    Ok(keys.to_owned())
}

/// Scheme, host and port (RFC 6454 section 4). An address with a user in it has none.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let port = authority.port_u16().unwrap_or(default_port);
    Some((scheme.to_owned(), authority.host().to_ascii_lowercase(), port))
}

async fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        std::fs::File::open(file)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
        Ok(text)
    });
    let text = read.await.unwrap_or_else(|_| Err(std::io::Error::other("the runtime is stopping")));
    text.map_err(|error| FetchError::File { path: path.to_owned(), error })
}
