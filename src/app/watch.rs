//! Waits for files to change, or for SIGHUP.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time between two looks at the files. Looking by name follows the symbolic links of a mounted `ConfigMap`,
/// which a watch on the file would lose.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Some files, and what they looked like when they were last read.
pub(super) struct Watch {
    files: Vec<PathBuf>,
    known: Vec<Option<Mark>>,
    hangup: Signal,
}

/// What changes when the file does: which file the path leads to now, its time and its size.
type Mark = (u64, u64, SystemTime, u64);

impl Watch {
    /// Watches files that are about to be read, or have just been.
    ///
    /// # Errors
    /// When the system refuses to hand over SIGHUP.
    pub(super) fn new(files: Vec<PathBuf>) -> std::io::Result<Self> {
        Ok(Self { known: marks(&files), files, hangup: signal(SignalKind::hangup())? })
    }

    /// Watches these files instead. One that was watched before and has changed since is still a change.
    pub(super) fn set(&mut self, files: Vec<PathBuf>) {
        let known = |(file, now)| {
            let before = self.files.iter().zip(&self.known).find(|(watched, _)| *watched == file);
            before.map_or(now, |(_, mark)| *mark)
        };
        self.known = files.iter().zip(marks(&files)).map(known).collect();
        self.files = files;
    }

    /// Watches these files too.
    pub(super) fn add(&mut self, files: Vec<PathBuf>) {
        let new: Vec<_> = files.into_iter().filter(|file| !self.files.contains(file)).collect();
        self.known.extend(marks(&new));
        self.files.extend(new);
    }

    /// Waits for SIGHUP, or until a file has changed and then stayed as it is for one more look, so that one
    /// that is being written is not read half.
    pub(super) async fn changed(&mut self) {
        let mut seen = self.known.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(()) = self.hangup.recv() => {
                    self.known = marks(&self.files);
                    return;
                }
            }
            let now = marks(&self.files);
            let settled = now == seen;
            seen = now;
            if settled && seen != self.known {
                self.known = seen;
                return;
            }
        }
    }
}

fn marks(files: &[PathBuf]) -> Vec<Option<Mark>> {
    let mark = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.dev(), metadata.ino(), metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_while_other_files_are_read_is_not_lost() {
        let folder = std::env::temp_dir().join(format!("portcullis-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.join(name));
        std::fs::write(&one, "before").unwrap();
        std::fs::write(&two, "before").unwrap();
        let mut watch = Watch::new(vec![one.clone()]).unwrap();
        watch.set(vec![one.clone(), two.clone()]);
        assert_eq!(watch.known, marks(&watch.files));
        std::fs::write(&one, "after it").unwrap();
        watch.set(vec![two, one]);
        let now = marks(&watch.files);
        assert_eq!(watch.known.first(), now.first());
        assert_ne!(watch.known.last(), now.last());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
