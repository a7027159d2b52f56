//! Follows the folder of our signing keys: new ones are published at once and sign when their time has come.

use super::watch::Watch;
use crate::metrics::Metrics;
use crate::token::signer::Signer;
use std::convert::Infallible;

/// Reads the keys again when the folder changes or SIGHUP comes, for as long as it is polled.
pub(super) async fn follow(watch: &mut Watch, signer: &Signer, metrics: &Metrics) -> Infallible {
    loop {
        watch.changed().await;
        let folder = signer.folder().display().to_string();
        match signer.reload() {
            Ok(true) => tracing::info!(folder, keys = signer.keys().size(), "signing keys reloaded"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(folder, %error, "the new signing keys are refused; the old ones stay");
                metrics.file_refused();
            }
        }
    }
}
