//! The deployment's secret on a single machine: made at the first start, never overwritten.

use crate::clock::{NoEntropy, random_bytes};
use crate::secret::Secret;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why the secret could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be written or read.
    #[error("sessions.secret_file: {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No randomness, no secret.
    #[error("sessions.secret_file: {0}")]
    NoEntropy(#[from] NoEntropy),
}

/// Makes the file with 32 random bytes, readable by its owner only, and returns them. If the file exists by
/// now, its content is the secret: of two gateways starting together one makes it.
///
/// # Errors
/// [`SecretFileError`] names the file.
pub(super) fn make(path: &Path) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let failed = |source| SecretFileError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let secret: [u8; 32] = random_bytes()?;
    // Written under another name and then linked: nobody ever sees half a secret.
    let unfinished = path.with_extension(format!("{}.new", std::process::id()));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).and_then(|mut file| {
            file.write_all(&secret)?;
            file.sync_all()?;
            std::fs::hard_link(&unfinished, path)
        });
    let removed = std::fs::remove_file(&unfinished);
    match written {
        Ok(()) => removed.map_err(failed).map(|()| Secret::new(secret.to_vec())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.exists() => {
            std::fs::read(path).map(Secret::new).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let folder = std::env::temp_dir().join(format!("portcullis-secret-{}", std::process::id()));
        let path = folder.join("deep/secret");
        let made = make(&path).unwrap();
        assert_eq!(made.expose().len(), 32);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make(&path).unwrap().equals(made.expose()), "an existing secret is kept");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
