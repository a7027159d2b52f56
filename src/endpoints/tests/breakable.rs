//! A store and a directory that can be made to fail, or to be overtaken.

use crate::clock::Timestamp;
use crate::directory::file::FileDirectory;
use crate::directory::{Credentials, DirectoryError, Identity, Standing, UserDirectory};
use crate::session::embedded::EmbeddedStore;
use crate::session::id::{SessionId, SessionRef, UserKey};
use crate::session::refresh_token::Presented;
use crate::session::revocation::Revocations;
use crate::session::store::{
    Cursor, EndReason, EndedAll, NewSession, Opened, Revocation, Rotation, SessionRecord, SessionStore,
    StoreError,
};
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What overtakes a login, and who hears of it.
#[derive(Clone)]
pub(super) enum Overtake {
    LogoutAll(Arc<Revocations>),
    Removal(Arc<Revocations>),
    /// The directory knows nobody any more, and the user is logged out everywhere.
    Closing(Arc<Revocations>, Arc<Breakable<FileDirectory>>),
}

/// Something that can be made to fail, and counts how often it was asked.
pub(super) struct Breakable<T> {
    inner: T,
    down: AtomicBool,
    /// How often it may still be asked until it is down.
    still: AtomicUsize,
    asked: AtomicUsize,
    /// How many of the next sessions are ended as soon as they are open, and by what.
    overtaken: Mutex<Option<(usize, Overtake)>>,
    /// For a directory: it knows nobody.
    empty: AtomicBool,
}

impl<T> Breakable<T> {
    pub(super) fn new(inner: T) -> Self {
        let still = AtomicUsize::new(usize::MAX);
        let (down, asked, overtaken) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::default());
        Self { inner, down, still, asked, overtaken, empty: AtomicBool::new(false) }
    }

    /// Something happens to the sessions of the next `logins` before these are answered.
    pub(super) fn overtake(&self, logins: usize, by: Overtake) {
        *self.overtaken.lock().unwrap() = Some((logins, by));
    }

    fn overtaker(&self) -> Option<Overtake> {
        let mut overtaken = self.overtaken.lock().unwrap();
        let (left, by) = overtaken.as_mut()?;
        *left = left.checked_sub(1)?;
        Some(by.clone())
    }

    pub(super) fn down_after(&self, questions: usize) {
        self.still.store(questions, Ordering::SeqCst);
    }

    pub(super) fn down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn forget(&self) {
        self.empty.store(true, Ordering::SeqCst);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn inner(&self) -> &T {
        &self.inner
    }

    fn is_up(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.still.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |still| still.checked_sub(1)).is_err()
        {
            return false;
        }
        !self.down.load(Ordering::SeqCst)
    }
}

impl Breakable<EmbeddedStore> {
    fn up(&self) -> Result<&EmbeddedStore, StoreError> {
        if self.is_up() {
            Ok(&self.inner)
        } else {
            Err(StoreError::Unavailable("broken by the test".to_owned()))
        }
    }
}

#[async_trait]
impl SessionStore for Breakable<EmbeddedStore> {
    async fn open(&self, new: NewSession) -> Result<Opened, StoreError> {
        let (user, store) = (new.user, self.up()?);
        let opened = store.open(new).await?;
        let (session, at) = (opened.session.id, opened.session.created);
        match self.overtaker() {
            Some(Overtake::LogoutAll(heard_by)) => {
                heard_by.user_ended(user, store.end_all(user).await?.epoch, at);
            }
            Some(Overtake::Removal(heard_by)) => {
                store.end(user, session, EndReason::Removed).await?;
                heard_by.session_ended(user, session, at);
            }
            Some(Overtake::Closing(heard_by, directory)) => {
                directory.forget();
                heard_by.user_ended(user, store.end_all(user).await?.epoch, at);
            }
            None => {}
        }
        Ok(opened)
    }

    async fn rotate(&self, presented: &Presented) -> Result<Rotation, StoreError> {
        self.up()?.rotate(presented).await
    }

    async fn end(&self, user: UserKey, session: SessionId, why: EndReason) -> Result<bool, StoreError> {
        self.up()?.end(user, session, why).await
    }

    async fn end_all(&self, user: UserKey) -> Result<EndedAll, StoreError> {
        self.up()?.end_all(user).await
    }

    async fn list(&self, user: UserKey) -> Result<Vec<SessionRecord>, StoreError> {
        self.up()?.list(user).await
    }

    async fn confirm(&self, seen: &[SessionRef]) -> Result<(), StoreError> {
        self.up()?.confirm(seen).await
    }

    async fn revocations(&self, after: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
        self.up()?.revocations(after).await
    }

    async fn reapply(&self, known: &[Revocation]) -> Result<(), StoreError> {
        self.up()?.reapply(known).await
    }

    async fn is_ended(&self, token: &SessionRef) -> Result<bool, StoreError> {
        self.up()?.is_ended(token).await
    }

    async fn clocks(&self) -> Result<Vec<Timestamp>, StoreError> {
        self.up()?.clocks().await
    }
}

#[async_trait]
impl UserDirectory for Breakable<FileDirectory> {
    async fn authenticate(&self, credentials: Credentials) -> Result<Option<Identity>, DirectoryError> {
        if self.empty.load(Ordering::SeqCst) {
            return Ok(None);
        }
        if self.is_up() { self.inner.authenticate(credentials).await } else { Err(DirectoryError::Busy) }
    }

    async fn standing(&self, subject: &str) -> Result<Standing, DirectoryError> {
        if self.is_up() { self.inner.standing(subject).await } else { Err(DirectoryError::Busy) }
    }
}
