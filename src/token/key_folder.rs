//! The folder of our signing keys: every `*.pem` in it is a key, in the order of the file names.

use super::key_stage::signs_from;
use super::signing_key::{SigningAlgorithm, SigningKey, SigningKeyError};
use crate::clock::{NoEntropy, Timestamp, random_bytes};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The name of the key that is made when there is none. Of names without a time the first signs: `1-…` before `2-…`.
pub const FIRST_KEY: &str = "1-active.pem";

/// A key and the file it lies in.
#[derive(Debug)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// The key.
    pub key: SigningKey,
    /// From when on it signs, by its name.
    pub from: Timestamp,
}

/// Why the signing keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyFolderError {
    /// The folder or a file in it cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is not a key.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: SigningKeyError,
    },
    /// No key can be made.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

/// Reads every `*.pem` of the folder. A folder that does not exist has no keys; a key in two files counts once.
///
/// # Errors
/// [`KeyFolderError`], naming the file, for anything that cannot be read or is no key.
pub fn read(folder: &Path) -> Result<Vec<KeyFile>, KeyFolderError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        |error| KeyFolderError::Io { path, error }
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io(folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "pem") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files: Vec<KeyFile> = Vec::new();
    for path in paths {
        let text = zeroize::Zeroizing::new(fs::read(&path).map_err(io(&path))?);
        let key = SigningKey::from_pem(&text);
        let key = key.map_err(|error| KeyFolderError::Key { path: path.clone(), error })?;
        if files.iter().all(|file| file.key.kid() != key.kid()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let from = signs_from(name);
            files.push(KeyFile { path, key, from });
        }
    }
    Ok(files)
}

/// Makes a new key under `name`, readable by us alone, whole or not at all. `false` if the name is taken:
/// of two gateways that start at once on one folder, one makes the key and both use it.
///
/// # Errors
/// [`KeyFolderError`] if the folder cannot be written to.
pub fn create(folder: &Path, name: &str, algorithm: SigningAlgorithm) -> Result<bool, KeyFolderError> {
    let (_, pem) = SigningKey::generate(algorithm)?;
    let unfinished = folder.join(format!(".{:032x}.tmp", u128::from_ne_bytes(random_bytes()?)));
    let finished = folder.join(name);
    let written = make_folder(folder)
        .and_then(|()| write(&unfinished, pem.as_bytes()))
        .and_then(|()| publish(&unfinished, &finished))
        .and_then(|published| File::open(folder)?.sync_all().map(|()| published));
    // Gone already unless something failed; then the failure is what there is to tell.
    let _ = fs::remove_file(&unfinished);
    written.map_err(|error| KeyFolderError::Io { path: finished, error })
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// A link fails where a rename would replace what another has just made.
fn publish(unfinished: &Path, finished: &Path) -> io::Result<bool> {
    match fs::hard_link(unfinished, finished) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) if finished.exists() => Ok(false),
        // The file system knows no links.
        Err(_) => fs::rename(unfinished, finished).map(|()| true),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A folder that does not exist yet and is removed at the end.
    pub(in crate::token) struct TestFolder(pub(in crate::token) PathBuf);

    impl TestFolder {
        pub(in crate::token) fn new() -> Self {
            let name = format!("portcullis-keys-{:016x}", u64::from_ne_bytes(random_bytes().unwrap()));
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for TestFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn kids(folder: &Path) -> Vec<String> {
        read(folder).unwrap().iter().map(|file| file.key.kid().to_owned()).collect()
    }

    #[test]
    fn an_absent_folder_has_no_keys_and_a_new_key_is_for_us_alone() {
        let folder = TestFolder::new();
        assert!(read(&folder.0).unwrap().is_empty());
        assert!(create(&folder.0, FIRST_KEY, SigningAlgorithm::Es256).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.0), mode(&folder.0.join(FIRST_KEY))), (0o700, 0o600));
        let names: Vec<_> =
            fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FIRST_KEY], "no unfinished file is left");
    }

    #[test]
    fn a_key_that_is_there_is_never_replaced() {
        let folder = TestFolder::new();
        assert!(create(&folder.0, FIRST_KEY, SigningAlgorithm::Es256).unwrap());
        let before = kids(&folder.0);
        assert!(!create(&folder.0, FIRST_KEY, SigningAlgorithm::Es256).unwrap());
        assert_eq!(kids(&folder.0), before);
    }

    #[test]
    fn many_that_create_at_once_agree_on_one_key() {
        let folder = TestFolder::new();
        let made: usize = std::thread::scope(|scope| {
            let create = || usize::from(create(&folder.0, FIRST_KEY, SigningAlgorithm::EdDsa).unwrap());
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((made, kids(&folder.0).len()), (1, 1));
    }

    #[test]
    fn keys_come_in_the_order_of_their_names_and_each_once() {
        let folder = TestFolder::new();
        for name in ["2-b.pem", "1-a.pem", "10-c.pem"] {
            create(&folder.0, name, SigningAlgorithm::EdDsa).unwrap();
        }
        fs::copy(folder.0.join("2-b.pem"), folder.0.join("3-copy.pem")).unwrap();
        fs::write(folder.0.join("notes.txt"), "not a key").unwrap();
        fs::create_dir(folder.0.join("folder.pem")).unwrap();
        let names: Vec<_> =
            read(&folder.0).unwrap().iter().map(|file| file.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["1-a.pem", "10-c.pem", "2-b.pem"]);
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = TestFolder::new();
        create(&folder.0, FIRST_KEY, SigningAlgorithm::EdDsa).unwrap();
        fs::write(folder.0.join("5-broken.pem"), "-----BEGIN PRIVATE KEY-----\n%%%\n").unwrap();
        let error = read(&folder.0).unwrap_err().to_string();
        assert!(error.contains("5-broken.pem: there is no PEM private key"), "{error}");
    }
}
