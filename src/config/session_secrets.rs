//! The secrets of the sessions: the one tokens are made under, and earlier ones that are still accepted.

use super::reader::{Fields, Value};
use super::secrets;
use super::store::StoreConfig;
use crate::secret::Secret;
use std::path::{Path, PathBuf};

/// Bytes a secret shared by all gateways has at least.
const LEAST: usize = 32;
const MOST: u64 = 64 * 1024;

/// Where the sessions' secret comes from.
#[derive(Debug, Clone)]
pub enum SecretPlan {
    /// It was read from its file: at least 32 bytes.
    Bytes(Secret<Vec<u8>>),
    /// There is no such file yet, and the embedded store allows making one at start.
    CreateAt(PathBuf),
}

/// Why a file holds no secret of ours: what is wrong, and the mend.
enum Unusable {
    Absent,
    Other(String, &'static str),
}

/// The secret in `secret_file`.
pub(super) fn current(fields: &Fields<'_>, file: &Path, store: Option<&StoreConfig>) -> Option<SecretPlan> {
    let (what, mend) = match read(file) {
        Ok(secret) => return Some(SecretPlan::Bytes(secret)),
        Err(Unusable::Absent) if matches!(store, Some(StoreConfig::Redis(_))) => (
            format!("{} does not exist, and gateways on one Redis share it", file.display()),
            "make one for all of them: head -c 48 /dev/urandom > FILE",
        ),
        Err(Unusable::Absent) => return Some(SecretPlan::CreateAt(file.to_owned())),
        Err(Unusable::Other(what, mend)) => (what, mend),
    };
    fields.place_of("secret_file").error(fields.scope(), what, mend);
    None
}

/// The secrets in `previous_secret_files`. They are never made: what is not there accepts nothing.
pub(super) fn previous(value: &Value<'_>, current: Option<&SecretPlan>) -> Vec<Secret<Vec<u8>>> {
    let secret = |item: &Value<'_>| {
        let file = item.file()?;
        match read(&file) {
            Ok(secret) => {
                if matches!(current, Some(SecretPlan::Bytes(current)) if current.equals(secret.expose())) {
                    item.warning("this is the secret in secret_file too", "remove it here");
                }
                Some(secret)
            }
            Err(Unusable::Absent) => {
                let mend = "give the file of an earlier secret, or of the one that comes next";
                item.error(format!("{} does not exist", file.display()), mend);
                None
            }
            Err(Unusable::Other(what, mend)) => {
                item.error(what, mend);
                None
            }
        }
    };
    value.items("write a list such as [data/secret.old]").iter().filter_map(secret).collect()
}

fn read(file: &Path) -> Result<Secret<Vec<u8>>, Unusable> {
    match secrets::read_file(file, MOST) {
        Ok(bytes) if bytes.len() >= LEAST => Ok(Secret::new(bytes)),
        Ok(_) => Err(Unusable::Other(
            format!("{} holds less than {LEAST} bytes", file.display()),
            "make a new one: head -c 48 /dev/urandom > FILE",
        )),
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Err(Unusable::Absent),
        Err(problem) => Err(Unusable::Other(
            format!("cannot read {}: {}", file.display(), secrets::why(&problem)),
            "give the path of a readable file, relative to this configuration",
        )),
    }
}
