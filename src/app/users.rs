//! Follows the users file: a good change is taken over, a broken one is told and changes nothing.

use crate::config;
use crate::directory::file::FileDirectory;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Time between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reloads the users when the file changes, for as long as it is polled. Looking by name follows the
/// symbolic links of a mounted `ConfigMap`, which a watch on the file would lose.
pub(super) async fn follow(path: PathBuf, directory: Arc<FileDirectory>) {
    let mut known = mark(&path);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = mark(&path);
        if now == known {
            continue;
        }
        known = now;
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

/// What changes when the file does: time and size of whatever the path leads to now.
fn mark(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
