//! A store that answers what a test tells it to, for the tasks that talk to stores.

use super::id::{SessionId, SessionRef, UserKey};
use super::refresh_token::Presented;
use super::store::{
    Cursor, EndReason, EndedAll, NewSession, Opened, Revocation, Rotation, SessionRecord, SessionStore,
    StoreError,
};
use crate::clock::Timestamp;
use async_trait::async_trait;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};

type Page = Result<(Vec<Revocation>, Cursor), StoreError>;

/// A look at the feed that waits for the test's answer.
pub(super) struct Question {
    pub(super) after: Cursor,
    reply: oneshot::Sender<Page>,
}

impl Question {
    pub(super) fn answer(self, page: Page) {
        self.reply.send(page).unwrap();
    }

    pub(super) fn fail(self) {
        self.answer(Err(refusal()));
    }
}

pub(super) struct ScriptedStore {
    questions: mpsc::UnboundedSender<Question>,
    confirmed: Mutex<Option<mpsc::UnboundedSender<Vec<SessionRef>>>>,
    ended: Mutex<Option<mpsc::UnboundedSender<SessionId>>>,
    pub(super) reapplied: Arc<Mutex<Vec<Revocation>>>,
    refuse_confirmations: AtomicBool,
    refuse_ends: AtomicBool,
}

impl ScriptedStore {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Question>) {
        let (questions, asked) = mpsc::unbounded_channel();
        let store = Self {
            questions,
            confirmed: Mutex::default(),
            ended: Mutex::default(),
            reapplied: Arc::default(),
            refuse_confirmations: AtomicBool::new(false),
            refuse_ends: AtomicBool::new(false),
        };
        (store, asked)
    }

    pub(super) fn confirmed(&self) -> mpsc::UnboundedReceiver<Vec<SessionRef>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.confirmed.lock().unwrap() = Some(sender);
        receiver
    }

    pub(super) fn ended(&self) -> mpsc::UnboundedReceiver<SessionId> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.ended.lock().unwrap() = Some(sender);
        receiver
    }

    pub(super) fn refuse_confirmations(&self, refuse: bool) {
        self.refuse_confirmations.store(refuse, Ordering::SeqCst);
    }

    pub(super) fn refuse_ends(&self, refuse: bool) {
        self.refuse_ends.store(refuse, Ordering::SeqCst);
    }
}

fn refusal() -> StoreError {
    StoreError::Unavailable("by order of the test".to_owned())
}

#[async_trait]
impl SessionStore for ScriptedStore {
    async fn open(&self, _: NewSession) -> Result<Opened, StoreError> {
        Err(refusal())
    }

    async fn rotate(&self, _: &Presented) -> Result<Rotation, StoreError> {
        Err(refusal())
    }

    async fn end(&self, _: UserKey, session: SessionId, _: EndReason) -> Result<bool, StoreError> {
        let refused = self.refuse_ends.load(Ordering::SeqCst);
        if let Some(ended) = &*self.ended.lock().unwrap() {
            ended.send(session).unwrap();
        }
        if refused { Err(refusal()) } else { Ok(true) }
    }

    async fn end_all(&self, _: UserKey) -> Result<EndedAll, StoreError> {
        Err(refusal())
    }

    async fn list(&self, _: UserKey) -> Result<Vec<SessionRecord>, StoreError> {
        Err(refusal())
    }

    async fn confirm(&self, seen: &[SessionRef]) -> Result<(), StoreError> {
        let refused = self.refuse_confirmations.load(Ordering::SeqCst);
        if let Some(confirmed) = &*self.confirmed.lock().unwrap() {
            confirmed.send(seen.to_vec()).unwrap();
        }
        if refused { Err(refusal()) } else { Ok(()) }
    }

    async fn revocations(&self, after: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(Question { after: after.clone(), reply }).map_err(|_| refusal())?;
        answer.await.map_err(|_| refusal())?
    }

    async fn reapply(&self, known: &[Revocation]) -> Result<(), StoreError> {
        self.reapplied.lock().unwrap().extend(known);
        Ok(())
    }

    async fn is_ended(&self, _: &SessionRef) -> Result<bool, StoreError> {
        Err(refusal())
    }

    async fn clocks(&self) -> Result<Vec<Timestamp>, StoreError> {
        Err(refusal())
    }
}
