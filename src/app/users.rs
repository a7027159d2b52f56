//! Follows the users file: a good change is taken over, a broken one is told and changes nothing.

use super::users_file::{self, Unchanged};
use super::watch::Watch;
use crate::config;
use crate::directory::file::{FileDirectory, RecordError, Upgrade};
use crate::metrics::Metrics;
use crate::panics::{Place, contain_blocking};
use std::convert::Infallible;
use std::path::Path;
use tokio::sync::mpsc::UnboundedReceiver;

/// Writes the hashes that were made anew into the users file, one after the other, for as long as somebody makes some.
/// That one cannot be written is told once: the old one serves on.
pub(super) async fn keep(path: &Path, upgrades: &mut UnboundedReceiver<Upgrade>) {
    let mut told = false;
    while let Some(upgrade) = upgrades.recv().await {
        let file = path.to_owned();
        let written = contain_blocking(Place::Users, move || users_file::replace(&file, &upgrade)).await;
        let file = path.display();
        match written {
            Ok(Ok(())) => tracing::info!(%file, "a password hash of another kind was replaced by argon2id"),
            // Another login of the same user was quicker, or this one has changed.
            Ok(Err(Unchanged::NotThere | Unchanged::Changed)) => {}
            Ok(Err(error)) if !told => {
                told = true;
                tracing::warn!(
                    %file,
                    %error,
                    "password hashes of other kinds stay in the users file: it cannot be changed by the gateway; \
                     replace them with `portcullis hash-password`"
                );
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Reloads the users when the file changes or SIGHUP comes, for as long as it is polled.
pub(super) async fn follow(
    path: &Path,
    watch: &mut Watch,
    directory: &FileDirectory,
    metrics: &Metrics,
) -> Infallible {
    loop {
        watch.changed().await;
        let file = path.display();
        match reload(path, directory) {
            Ok(()) => tracing::info!(%file, "users reloaded"),
            Err(error) => {
                tracing::error!(%file, error, "the new users file is refused; the old users stay");
                metrics.file_refused();
            }
        }
    }
}

fn reload(path: &Path, directory: &FileDirectory) -> Result<(), String> {
    let records = config::load_users(path).map_err(|errors| errors.to_string())?;
    let first = |errors: Vec<RecordError>| errors.first().map(ToString::to_string).unwrap_or_default();
    directory.replace(records).map_err(first)
}
