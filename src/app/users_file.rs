//! One password hash in the users file, replaced where it stands. The file is the operator's: everything else in it
//! stays byte for byte, and whatever speaks against replacing it leaves it as it is.

use crate::clock::random_bytes;
use crate::config;
use crate::directory::file::{Upgrade, UserRecord};
use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

/// Why a hash stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unchanged {
    /// It is not there any more, or not there literally, or there more than once.
    #[error("the hash does not stand in it exactly once")]
    NotThere,
    /// Replacing it would change more than the hash.
    #[error("replacing the hash would change what else it says")]
    Ambiguous,
    /// Somebody else's file.
    #[error("it belongs to another user")]
    NotOurs,
    /// Somebody changed it meanwhile.
    #[error("it has just been changed by somebody else")]
    Changed,
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Replaces the hash in the file, whole or not at all. Blocks.
///
/// # Errors
/// [`Unchanged`]; the file is as it was.
pub(super) fn replace(path: &Path, upgrade: &Upgrade) -> Result<(), Unchanged> {
    // The file itself, and not a link to it.
    let path = fs::canonicalize(path)?;
    let found = fs::metadata(&path)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Unchanged::NotOurs);
    }
    let text = fs::read_to_string(&path)?;
    let (old, new) = (upgrade.old.expose(), upgrade.new.expose());
    if text.matches(old.as_str()).count() != 1 {
        return Err(Unchanged::NotThere);
    }
    let next = text.replacen(old.as_str(), new, 1);
    let records = config::load_users(&path).map_err(|_| Unchanged::Changed)?;
    let mut folder_name = path.file_name().unwrap_or_default().to_owned();
    folder_name.push(format!(".{:016x}.new", u64::from_ne_bytes(random_bytes().map_err(io::Error::other)?)));
    let unfinished = path.with_file_name(folder_name);
    let written = write(&unfinished, &next, &found).map_err(Unchanged::from).and_then(|()| {
        let changed = config::load_users(&unfinished).map_err(|_| Unchanged::Ambiguous)?;
        if !differ_only_in(&records, &changed, old, new) {
            return Err(Unchanged::Ambiguous);
        }
        if fs::read_to_string(&path)? != text {
            return Err(Unchanged::Changed);
        }
        fs::rename(&unfinished, &path).map_err(Unchanged::from)
    });
    if written.is_err() {
        // What is left of it would be a copy of the hashes.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Writes a file that the same people may read.
fn write(path: &Path, text: &str, like: &Metadata) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    fchown(&file, None, Some(like.gid()))?;
    file.set_permissions(Permissions::from_mode(like.mode() & 0o777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Whether these are the same users but for the hash.
fn differ_only_in(before: &[UserRecord], after: &[UserRecord], old: &str, new: &str) -> bool {
    let same = |one: &UserRecord, other: &UserRecord| {
        let hash = one.password_hash.expose();
        let expected = if hash == old { new } else { hash.as_str() };
        (&one.username, &one.subject, &one.claims, one.disabled)
            == (&other.username, &other.subject, &other.claims, other.disabled)
            && other.password_hash.expose() == expected
    };
    let holders = before.iter().filter(|user| user.password_hash.expose() == old).count();
    holders == 1
        && before.len() == after.len()
        && before.iter().zip(after).all(|(one, other)| same(one, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    const OLD: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    const NEW: &str =
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let name = u64::from_ne_bytes(random_bytes().unwrap());
            let path = std::env::temp_dir().join(format!("portcullis-users-{name:016x}"));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self, text: &str) -> PathBuf {
            let path = self.0.join("users.yaml");
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn upgrade() -> Upgrade {
        Upgrade { old: Secret::new(OLD.to_owned()), new: Secret::new(NEW.to_owned()) }
    }

    #[test]
    fn only_the_hash_changes_whatever_stands_around_it() {
        let folder = Folder::new();
        for quote in ["", "\"", "'"] {
            let text = format!(
                "# ours\nusers:   # all of them\n\n  - username: a\n    password_hash: {quote}OLD{quote}   # old\n    \
                 claims: {{ x: [1,  2] }}\n"
            );
            let path = folder.file(&text.replace("OLD", OLD));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            replace(&path, &upgrade()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text.replace("OLD", NEW));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
            assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn a_link_stays_a_link_and_its_file_is_replaced() {
        let folder = Folder::new();
        let path = folder.file(&format!("users: [{{ username: a, password_hash: \"{OLD}\" }}]\n"));
        let link = folder.0.join("link.yaml");
        symlink(&path, &link).unwrap();
        replace(&link, &upgrade()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&path).unwrap().contains(NEW));
    }

    #[test]
    fn a_hash_that_cannot_be_replaced_alone_stays() {
        let folder = Folder::new();
        for text in [
            // Two users of one hash: which of them logged in?
            format!(
                "users: [{{ username: a, password_hash: \"{OLD}\" }}, {{ username: b, password_hash: \"{OLD}\" }}]\n"
            ),
            // The commas of the new one would end it.
            format!("users: [{{ username: a, password_hash: {OLD} }}]\n"),
            // It comes from elsewhere.
            "users: []\n".to_owned(),
            format!("# {OLD}\nusers: []\n"),
            format!("users: [{{ username: a, password_hash: \"{OLD}\", zzz: 1 }}]\n"),
        ] {
            let path = folder.file(&text);
            assert!(replace(&path, &upgrade()).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing else is left");
        }
    }
}
