//! Follows the users file: a good change is taken over, a broken one is told and changes nothing.

use super::watch::Watch;
use crate::config;
use crate::directory::file::FileDirectory;
use std::path::PathBuf;
use std::sync::Arc;

/// Reloads the users when the file changes or SIGHUP comes, for as long as it is polled.
pub(super) async fn follow(path: PathBuf, mut watch: Watch, directory: Arc<FileDirectory>) {
    loop {
        watch.changed().await;
        match config::load_users(&path) {
            Ok(records) => match directory.replace(records) {
                Ok(()) => tracing::info!(file = %path.display(), "users reloaded"),
                Err(errors) => {
                    let error = errors.first().map(ToString::to_string).unwrap_or_default();
                    tracing::error!(file = %path.display(), error, "the new users file is refused; the old users stay");
                }
            },
            Err(errors) => {
                tracing::error!(file = %path.display(), %errors, "the new users file is refused; the old users stay");
            }
        }
    }
}
