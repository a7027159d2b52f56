//! A copy on disk of the last good set: what a gateway starts from while its issuer is down.
//!
//! It holds the set as received, whose it is, where it came from and when, and is believed for exactly that.
//! Whoever can write the file can make tokens: it is written for its owner alone.

use super::fetch::Document;
use super::origin::may_hold_keys;
use super::{KeySet, KeySetError, MAX_BYTES, Source};
use crate::clock::{Timestamp, random_bytes};
use crate::json::{self, JsonError};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// As text inside JSON a set can become twice as long; the rest is small.
const COPY_MAX_BYTES: usize = 3 * MAX_BYTES;

/// A copy from further ahead than clocks differ was not fetched when it says.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// Why a copy is not used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// A folder, a pipe or a device.
    #[error("it is not a file")]
    NotAFile,
    /// Somebody else's, or anybody's to write: whoever wrote it could make tokens.
    #[error(
        "it belongs to another user, or everybody may write to it; remove it, and keep copies in a folder of the gateway's own"
    )]
    NotOurs,
    /// Longer than any copy we write.
    #[error("it is longer than {COPY_MAX_BYTES} bytes")]
    TooLong,
    /// Not strict JSON: truncated, or written by somebody else.
    #[error("it is damaged: {0}")]
    Json(#[from] JsonError),
    /// A member is absent or of the wrong type.
    #[error("it is damaged: it has no `{0}` as we write it")]
    Member(&'static str),
    /// It was fetched for another issuer or from another address than those configured now.
    #[error("it is of another issuer, or from an address that is not the configured one")]
    Elsewhere,
    /// It says that it was fetched in the future.
    #[error("it was fetched in the future, or this machine's clock is wrong")]
    Future,
    /// It is past the staleness limit.
    #[error("it was fetched {0:?} ago, longer than `refresh.stale_for` allows")]
    Stale(Duration),
    /// What it holds is no usable key set.
    #[error("it holds no usable key set: {0}")]
    KeySet(#[from] KeySetError),
}

/// The place of one issuer's copy.
#[derive(Debug)]
pub(super) struct CopyFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When what was written last was fetched.
    newest: Timestamp,
    failing: bool,
}

impl CopyFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The set and when it was fetched, if there is a copy that may be believed; `None` if there is no copy.
    pub(super) fn read(
        &self,
        source: &Source,
        issuer: &str,
        now: Timestamp,
        longest_use: Duration,
    ) -> Result<Option<(KeySet, Timestamp)>, CopyError> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(found) if !found.is_file() => return Err(CopyError::NotAFile),
            Ok(_) => {}
        }
        let file = File::open(&self.path)?;
        let found = file.metadata()?;
        if !is_ours(found.uid(), found.mode(), rustix::process::geteuid().as_raw()) {
            return Err(CopyError::NotOurs);
        }
        let mut text = Vec::new();
        file.take(COPY_MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
        if text.len() > COPY_MAX_BYTES {
            return Err(CopyError::TooLong);
        }
        let copy = json::object(&text)?;
        let text = |name| copy.get(name).and_then(Value::as_str).ok_or(CopyError::Member(name));
        let (written_for, url, jwks) = (text("issuer")?, text("url")?, text("jwks")?);
        let discovered = copy.get("discovered").and_then(Value::as_bool);
        let discovered = discovered.ok_or(CopyError::Member("discovered"))?;
        let fetched = copy.get("fetched_ms").and_then(Value::as_u64).map(Timestamp::from_millis);
        let fetched = fetched.ok_or(CopyError::Member("fetched_ms"))?;
        let same_place = match source {
            Source::Url(configured) => !discovered && url == configured,
            Source::Discovery(listed) => discovered && may_hold_keys(url, issuer, listed),
            Source::File(_) | Source::Secret(_) => false,
        };
        if !same_place || written_for != issuer {
            return Err(CopyError::Elsewhere);
        }
        if fetched > now.plus(CLOCK_DIFFERENCE) {
            return Err(CopyError::Future);
        }
        if now.since(fetched) > longest_use {
            return Err(CopyError::Stale(now.since(fetched)));
        }
        Ok(Some((KeySet::from_jwks(jwks.as_bytes())?, fetched)))
    }

    /// Writes what was fetched, unless something newer was. Blocks. Only the first of several failures in a
    /// row is an error: one is enough to tell.
    pub(super) fn write(
        &self,
        source: &Source,
        issuer: &str,
        document: &Document,
        fetched: Timestamp,
    ) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched < state.newest {
            return Ok(());
        }
        let copy = json!({
            "issuer": issuer,
            "url": document.url,
            "discovered": matches!(source, Source::Discovery(_)),
            "fetched_ms": fetched.as_millis(),
            "jwks": String::from_utf8_lossy(&document.jwks),
        });
        let written = replace(&self.path, copy.to_string().as_bytes());
        let told_before = std::mem::replace(&mut state.failing, written.is_err());
        if written.is_ok() {
            state.newest = fetched;
        }
        if told_before { Ok(()) } else { written }
    }
}

/// Whether a file of this owner and mode can be of our writing, or root's. In a folder that others can write to
/// everything else may be theirs. The group is not looked at: mounted volumes set it, and its rights.
const fn is_ours(owner: u32, mode: u32, us: u32) -> bool {
    (owner == us || owner == 0) && mode & 0o002 == 0
}

/// Puts a file for its owner alone in the place of `path`, whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.write_fmt(format_args!(
        ".{:016x}.new",
        u64::from_le_bytes(random_bytes().map_err(io::Error::other)?)
    ))
    .map_err(io::Error::other)?;
    let unfinished = path.with_file_name(name);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).and_then(|mut file| {
            file.write_all(content)?;
            // Without it, a machine that loses power could keep the new name and lose the content.
            file.sync_all()?;
            fs::rename(&unfinished, path)
        });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixtures::{OTHER_RSA, RSA, jwks};
    use super::super::origin::KeyHost;
    use super::*;
    use bytes::Bytes;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const ISSUER: &str = "https://id.example";
    const URL: &str = "https://id.example/certs";
    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A folder of its own, made by whoever writes into it, gone at the end.
    pub(in super::super) struct TestFolder(pub(in super::super) PathBuf);

    impl TestFolder {
        pub(in super::super) fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("portcullis-copy-{}-{number}", std::process::id()));
            Self(path)
        }

        fn copy(&self) -> CopyFile {
            CopyFile::new(self.0.join("deep/corp.json"))
        }
    }

    impl Drop for TestFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn source() -> Source {
        Source::Url(URL.into())
    }

    fn document(url: &str, jwks: String) -> Document {
        Document { url: url.into(), jwks: Bytes::from(jwks) }
    }

    fn keys(copy: &CopyFile) -> Result<Option<(usize, Timestamp)>, CopyError> {
        let read = copy.read(&source(), ISSUER, NOW, DAY)?;
        Ok(read.map(|(keys, fetched)| (keys.size(), fetched)))
    }

    #[test]
    fn what_is_written_is_read_again_and_only_its_owner_may() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        assert!(matches!(keys(&copy), Ok(None)));
        let fetched = NOW.minus(DAY);
        let set = jwks(&[RSA.named("a"), OTHER_RSA.named("b")]);
        copy.write(&source(), ISSUER, &document(URL, set), fetched).unwrap();
        assert_eq!(keys(&copy).unwrap(), Some((2, fetched)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(copy.path()), mode(copy.path().parent().unwrap())), (0o600, 0o700));
        copy.write(&source(), ISSUER, &document(URL, jwks(&[RSA.named("a")])), NOW).unwrap();
        assert_eq!(keys(&copy).unwrap(), Some((1, NOW)));
        copy.write(&source(), ISSUER, &document(URL, jwks(&[])), fetched).unwrap();
        assert_eq!(keys(&copy).unwrap(), Some((1, NOW)), "an older set came later");
        assert_eq!(fs::read_dir(copy.path().parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_that_another_user_wrote_or_could_write_is_not_believed() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        copy.write(&source(), ISSUER, &document(URL, jwks(&[RSA.named("a")])), NOW).unwrap();
        let allow = |mode| fs::set_permissions(copy.path(), fs::Permissions::from_mode(mode)).unwrap();
        for (mode, believed) in [(0o660, true), (0o644, true), (0o666, false), (0o602, false)] {
            allow(mode);
            assert_eq!(matches!(keys(&copy), Ok(Some(_))), believed, "{mode:o}");
            assert_eq!(matches!(keys(&copy), Err(CopyError::NotOurs)), !believed, "{mode:o}");
        }
        // The next one takes its place.
        copy.write(&source(), ISSUER, &document(URL, jwks(&[RSA.named("a")])), NOW).unwrap();
        assert!(matches!(keys(&copy), Ok(Some(_))));
        assert!(is_ours(1000, 0o100_600, 1000) && is_ours(0, 0o100_644, 1000));
        assert!(!is_ours(1001, 0o100_600, 1000) && !is_ours(1001, 0o100_600, 0));
    }

    #[test]
    fn a_copy_is_believed_only_for_its_issuer_its_address_and_its_time() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        copy.write(&source(), ISSUER, &document(URL, jwks(&[RSA.named("a")])), NOW).unwrap();
        let read = |source: &Source, issuer, now| copy.read(source, issuer, now, DAY);
        assert!(read(&source(), ISSUER, NOW.plus(DAY)).is_ok());
        for (source, issuer) in [
            (source(), "https://id.example/"),
            (Source::Url("https://id.example/certs2".into()), ISSUER),
            (Source::Discovery(Vec::new()), ISSUER),
            (Source::File(URL.into()), ISSUER),
        ] {
            assert!(matches!(read(&source, issuer, NOW), Err(CopyError::Elsewhere)), "{source:?} {issuer}");
        }
        let late = NOW.plus(DAY).plus(Duration::from_millis(1));
        assert!(matches!(read(&source(), ISSUER, late), Err(CopyError::Stale(_))));
        assert!(read(&source(), ISSUER, NOW.minus(CLOCK_DIFFERENCE)).is_ok());
        let early = NOW.minus(CLOCK_DIFFERENCE).minus(Duration::from_millis(1));
        assert!(matches!(read(&source(), ISSUER, early), Err(CopyError::Future)));
    }

    #[test]
    fn a_discovered_copy_is_believed_as_long_as_its_host_is_the_issuers_or_listed() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        let listed = Source::Discovery(vec![KeyHost::new("keys.example", None)]);
        let found = document("https://keys.example/certs", jwks(&[RSA.named("a")]));
        copy.write(&listed, ISSUER, &found, NOW).unwrap();
        assert!(copy.read(&listed, ISSUER, NOW, DAY).unwrap().is_some());
        for other in [Source::Discovery(Vec::new()), Source::Url("https://keys.example/certs".into())] {
            assert!(matches!(copy.read(&other, ISSUER, NOW, DAY), Err(CopyError::Elsewhere)), "{other:?}");
        }
    }

    #[test]
    fn a_damaged_copy_is_an_error_that_says_so() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        copy.write(&source(), ISSUER, &document(URL, jwks(&[RSA.named("a")])), NOW).unwrap();
        let good = fs::read(copy.path()).unwrap();
        let refused = |content: &[u8]| {
            fs::write(copy.path(), content).unwrap();
            keys(&copy).unwrap_err()
        };
        for end in (0..good.len()).step_by(7) {
            assert!(matches!(refused(&good[..end]), CopyError::Json(_)), "cut at {end}");
        }
        assert!(matches!(refused(&vec![b' '; COPY_MAX_BYTES + 1]), CopyError::TooLong));
        for member in ["issuer", "url", "discovered", "fetched_ms", "jwks"] {
            let mut damaged = json::object(&good).unwrap();
            damaged.insert(member.into(), Value::Null);
            let error = refused(Value::Object(damaged).to_string().as_bytes());
            assert!(matches!(error, CopyError::Member(name) if name == member), "{member}: {error}");
        }
        for set in [jwks(&[]), jwks(&[json!({"kty": "oct", "k": "AAAA"})]), "<html>".into()] {
            copy.write(&source(), ISSUER, &document(URL, set), NOW).unwrap();
            assert!(matches!(keys(&copy), Err(CopyError::KeySet(_))));
        }
        fs::remove_file(copy.path()).unwrap();
        fs::create_dir(copy.path()).unwrap();
        assert!(matches!(keys(&copy), Err(CopyError::NotAFile)));
    }

    #[test]
    fn the_longest_set_an_issuer_may_send_fits_into_its_copy() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        let mut set = jwks(&[RSA.named("a")]);
        set.push_str(&"\n".repeat(MAX_BYTES - set.len()));
        copy.write(&source(), ISSUER, &document(URL, set), NOW).unwrap();
        assert_eq!(keys(&copy).unwrap(), Some((1, NOW)));
    }

    #[test]
    fn of_several_failures_to_write_only_the_first_is_told() {
        let folder = TestFolder::new();
        let copy = folder.copy();
        fs::create_dir_all(&folder.0).unwrap();
        // A file where a folder has to be stops root too.
        fs::write(folder.0.join("deep"), "").unwrap();
        let write = || copy.write(&source(), ISSUER, &document(URL, jwks(&[RSA.named("a")])), NOW);
        assert!(write().is_err());
        assert!(write().is_ok());
        fs::remove_file(folder.0.join("deep")).unwrap();
        write().unwrap();
        assert!(keys(&copy).unwrap().is_some());
        fs::remove_dir_all(folder.0.join("deep")).unwrap();
        fs::write(folder.0.join("deep"), "").unwrap();
        assert!(write().is_err(), "a new failure is news");
    }
}
