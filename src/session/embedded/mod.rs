//! The embedded store: one file, one gateway, durable across `kill -9`.

mod handle;
mod rows;
mod tables;
mod writer;

use super::family::RotationPolicy;
use super::id::{SessionId, SessionRef, UserKey};
use super::refresh_token::Presented;
use super::store::{
    Cursor, EndReason, EndedAll, NewSession, Opened, Revocation, Rotation, SessionRecord, SessionStore,
    StoreError,
};
use crate::clock::{Clock, Timestamp};
use crate::panics::{Place, contain_blocking};
use async_trait::async_trait;
use handle::Handle;
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable as _, StorageBackend,
    backends::FileBackend,
};
use rows::{ENDED, FORMAT, NUMBERS, REVOCATIONS, SESSIONS, USERS, unavailable};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tables::Tables;
use writer::{Writer, writer};

/// The layout this version reads and writes.
const LAYOUT: u64 = 2;
/// How long a caller waits for its commit.
const DEADLINE: Duration = Duration::from_secs(3);
/// Memory for pages of the file.
const PAGE_CACHE: usize = 32 << 20;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the file open.
    #[error("{path} is in use by another process: the embedded store serves one gateway, several need Redis")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a version that lays it out differently.
    #[error("{path} has layout {found}, this version knows {LAYOUT}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// The layout it has.
        found: u64,
    },
    /// The file or its folder cannot be created, read or locked.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is damaged, or not a session store.
    #[error("{path} is damaged or not a session store: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Sessions in one file.
pub struct EmbeddedStore {
    handle: Arc<Handle>,
    clock: Arc<dyn Clock>,
    /// `None` only while being dropped.
    writer: Option<Writer>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the file, or makes it, readable by its owner alone; a missing folder is made too.
    ///
    /// Reads the whole file once to see that it is whole.
    ///
    /// # Errors
    /// [`OpenError`], which names the file and what is wrong.
    pub fn open(path: &Path, policy: RotationPolicy, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let file = path.to_owned();
        Self::open_by(path, policy, clock, move || open_database(&file))
    }

    fn open_by(
        path: &Path,
        policy: RotationPolicy,
        clock: Arc<dyn Clock>,
        open: impl Fn() -> Result<Database, OpenError> + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let handle = Arc::new(Handle::new(open)?);
        let (writer, thread) = writer(Arc::clone(&handle), policy, Arc::clone(&clock));
        let thread = std::thread::Builder::new()
            .name("sessions".to_owned())
            .spawn(move || thread.run())
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { handle, clock, writer: Some(writer), thread: Some(thread) })
    }

    async fn write<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tables<'_>, Timestamp) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let writer = self.writer.as_ref().ok_or_else(|| unavailable("closing"))?;
        tokio::time::timeout(DEADLINE, writer.run(operation)).await.map_err(unavailable)?
    }

    async fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&ReadTransaction, Timestamp) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (database, clock) = (self.handle.get()?, Arc::clone(&self.clock));
        let read = contain_blocking(Place::Store, move || {
            let txn = database.begin_read().map_err(unavailable)?;
            operation(&txn, clock.now())
        });
        tokio::time::timeout(DEADLINE, read).await.map_err(unavailable)?.map_err(unavailable)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // What was asked for is finished, and the file is free again when this returns.
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl SessionStore for EmbeddedStore {
    async fn open(&self, new: NewSession) -> Result<Opened, StoreError> {
        self.write(move |tables, now| tables.open_session(new, now)).await
    }

    async fn rotate(&self, presented: &Presented) -> Result<Rotation, StoreError> {
        let presented = *presented;
        self.write(move |tables, now| tables.rotate(&presented, now)).await
    }

    async fn end(&self, user: UserKey, session: SessionId, why: EndReason) -> Result<bool, StoreError> {
        self.write(move |tables, now| tables.end(user, session, why, now)).await
    }

    async fn end_all(&self, user: UserKey) -> Result<EndedAll, StoreError> {
        self.write(move |tables, now| tables.end_all(user, now)).await
    }

    async fn list(&self, user: UserKey) -> Result<Vec<SessionRecord>, StoreError> {
        self.read(move |txn, now| {
            let sessions = txn.open_table(SESSIONS).map_err(unavailable)?;
            let users = txn.open_table(USERS).map_err(unavailable)?;
            tables::list(&sessions, &users, user, now)
        })
        .await
    }

    async fn confirm(&self, seen: &[SessionRef]) -> Result<(), StoreError> {
        let seen = seen.to_vec();
        self.write(move |tables, _| tables.confirm(&seen)).await
    }

    async fn revocations(&self, after: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
        let after = after.clone();
        self.read(move |txn, _| {
            let table = txn.open_table(REVOCATIONS).map_err(unavailable)?;
            tables::revocations(&table, &after)
        })
        .await
    }

    async fn reapply(&self, known: &[Revocation]) -> Result<(), StoreError> {
        let known = known.to_vec();
        self.write(move |tables, now| known.iter().try_for_each(|known| tables.reapply(known, now))).await
    }

    async fn is_ended(&self, token: &SessionRef) -> Result<bool, StoreError> {
        let token = *token;
        self.read(move |txn, _| {
            let sessions = txn.open_table(SESSIONS).map_err(unavailable)?;
            let ended = txn.open_table(ENDED).map_err(unavailable)?;
            let users = txn.open_table(USERS).map_err(unavailable)?;
            tables::is_ended(&sessions, &ended, &users, &token)
        })
        .await
    }

    async fn clocks(&self) -> Result<Vec<Timestamp>, StoreError> {
        Ok(vec![self.clock.now()])
    }
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    open_backend(path, |backend| backend)
}

fn open_backend<B: StorageBackend>(
    path: &Path,
    wrap: impl FnOnce(FileBackend) -> B,
) -> Result<Database, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let database = |error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.to_owned() },
        DatabaseError::Storage(redb::StorageError::Io(source)) => io(source),
        other => damaged(path, other),
    };
    let backend = FileBackend::new(open_file(path).map_err(io)?).map_err(database)?;
    let opened = Builder::new()
        .set_cache_size(PAGE_CACHE)
        // Without the check an altered file could end the process at some later read.
        .set_check_integrity_on_open(true)
        .create_with_backend(wrap(backend))
        .map_err(database)?;
    prepare(path, &opened)?;
    Ok(opened)
}

/// Makes what is missing in a new file, and refuses the layout of another version.
fn prepare(path: &Path, database: &Database) -> Result<(), OpenError> {
    let txn = database.begin_write().map_err(|error| damaged(path, error))?;
    let found = {
        let mut numbers = txn.open_table(NUMBERS).map_err(|error| damaged(path, error))?;
        let found = numbers.get(FORMAT).map_err(|error| damaged(path, error))?.map(|found| found.value());
        if found.is_none() {
            numbers.insert(FORMAT, LAYOUT).map_err(|error| damaged(path, error))?;
        }
        found.unwrap_or(LAYOUT)
    };
    if found != LAYOUT {
        return Err(OpenError::Layout { path: path.to_owned(), found });
    }
    txn.open_table(SESSIONS).map_err(|error| damaged(path, error))?;
    txn.open_table(ENDED).map_err(|error| damaged(path, error))?;
    txn.open_table(USERS).map_err(|error| damaged(path, error))?;
    txn.open_table(REVOCATIONS).map_err(|error| damaged(path, error))?;
    txn.commit().map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), why: error.to_string() }
}

fn open_file(path: &Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    // A file that was there before may have been made, or restored, more openly.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
