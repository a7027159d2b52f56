//! The open file, opened anew after an error: redb takes nothing more once the disk has failed it.

use super::OpenError;
use super::rows::unavailable;
use crate::session::store::StoreError;
use arc_swap::ArcSwapOption;
use redb::Database;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pause between two tries to open the file again, since each reads all of it.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Handle {
    open: Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>,
    current: ArcSwapOption<Database>,
    closed: Mutex<Option<Instant>>,
}

impl Handle {
    pub(super) fn new(
        open: impl Fn() -> Result<Database, OpenError> + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let current = ArcSwapOption::from_pointee(open()?);
        Ok(Self { open: Box::new(open), current, closed: Mutex::default() })
    }

    /// The file, if it is open.
    pub(super) fn get(&self) -> Result<Arc<Database>, StoreError> {
        self.current.load_full().ok_or_else(|| unavailable("the session file failed and is closed"))
    }

    /// The file; opened again if it failed and that is a while ago.
    pub(super) fn get_or_reopen(&self) -> Result<Arc<Database>, StoreError> {
        if let Ok(database) = self.get() {
            return Ok(database);
        }
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.is_some_and(|at| at.elapsed() < PAUSE) {
            return self.get();
        }
        *closed = Some(Instant::now());
        let database = Arc::new((self.open)().map_err(unavailable)?);
        self.current.store(Some(Arc::clone(&database)));
        Ok(database)
    }

    /// Closes the file after a failure.
    pub(super) fn close(&self) {
        if self.current.swap(None).is_some() {
            *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}
