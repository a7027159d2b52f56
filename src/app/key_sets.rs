//! What is told of the issuers' keys: metrics, log, readiness.

use crate::admin::{Part, PartState};
use crate::clock::Timestamp;
use crate::key_set::FetchError;
use crate::key_set::cache::{IssuerKeys, KeyEvent, KeyEventKind};
use crate::metrics::Metrics;

/// Tells what became of an issuer's keys. Every fetch is counted; the log has only what is news.
pub(super) fn tell(metrics: &Metrics, event: &KeyEvent<'_>) {
    let issuer = event.issuer;
    match event.kind {
        KeyEventKind::Fetched { result, news } => {
            metrics.key_set_fetched(issuer, result.is_ok());
            match result {
                Ok(keys) if news => tracing::info!(issuer, keys = keys.size(), "key set obtained"),
                Ok(_) => tracing::debug!(issuer, "key set confirmed"),
                Err(error) if !news => tracing::debug!(issuer, %error, "key set still not obtained"),
                // No outage, but something to mend here or there.
                Err(error @ (FetchError::OtherOrigin(_) | FetchError::OtherIssuer(_))) => {
                    tracing::error!(issuer, %error, "key set refused; the last good one stays");
                }
                Err(error) => {
                    tracing::warn!(issuer, %error, "key set not obtained; the last good one stays");
                }
            }
        }
        KeyEventKind::CopyUsed(path, age) => {
            let (path, age) = (path.display(), age.as_secs());
            tracing::info!(issuer, %path, age, "starting from the copy of the key set on disk");
        }
        KeyEventKind::CopyIgnored(path, error) => {
            tracing::warn!(issuer, path = %path.display(), %error, "the copy of the key set is not used");
        }
        KeyEventKind::CopyNotWritten(path, error) => tracing::warn!(
            issuer,
            path = %path.display(),
            %error,
            "the key set cannot be copied to disk: a start during an outage of the issuer will find no keys; \
             make the folder writable, or set key_set.copy_file to a file that is"
        ),
    }
}

/// One issuer's part in readiness. It is waited for until its first fetch has ended, well or badly: that makes
/// a cold start quiet, and an issuer that is down takes no gateway out of service that has others to serve.
pub(super) fn part(keys: &IssuerKeys, now: Timestamp) -> Part {
    let name = format!("issuer {}", keys.name());
    let state = if keys.has_keys(now) {
        PartState::Ready
    } else if keys.attempted() {
        PartState::Impaired("without keys: its tokens are answered with 503 until it gives some".to_owned())
    } else {
        PartState::Waiting("the first fetch of its key set".to_owned())
    };
    Part { name, state }
}
