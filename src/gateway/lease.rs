//! How long a request may go on: what is streamed under a token ends when the token does, or its session.

use super::Gateway;
use super::context::RequestContext;
use super::guard::{DeadlineSwitch, Guarded};
use super::snapshot::ServedRoute;
use crate::clock::{Clock, Timestamp};
use crate::policy::Permit;
use crate::policy::requirement::RevocationMode;
use crate::reason::Reason;
use crate::session::id::SessionRef;
use crate::session::revocation::Revocations;
use pingora_proxy::Session;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

/// How often a request is looked at whose session may be ended, or whose upstream may be too slow.
const TICK: Duration = Duration::from_millis(250);

/// The longest time between two looks at any other: the clock may be set meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a connection has to end in good order.
const GRACE: Duration = Duration::from_secs(2);

/// In place of a time: none is set.
const NEVER: u64 = u64::MAX;

tokio::task_local! {
    // Pingora makes the context of a request by itself; nothing can be handed to it from around the request.
    static CURRENT: Arc<Lease>;
}

/// What a request may do for how long. It is given terms with its permit.
pub(super) struct Lease {
    terms: OnceLock<Terms>,
    /// In milliseconds: when the upstream must have answered.
    answer_by: AtomicU64,
    ended: OnceLock<Reason>,
}

/// What a permit says about its end.
struct Terms {
    clock: Arc<dyn Clock>,
    /// When the token expires, if there is one.
    until: Option<Timestamp>,
    /// The session whose end is the token's, and who knows of it.
    session: Option<(SessionRef, Arc<Revocations>)>,
    /// Whether the upstream's answer is waited for here and not by the engine.
    awaits_answer: bool,
    /// The connection, if it is the request's alone.
    switch: Option<Arc<DeadlineSwitch>>,
}

impl Default for Lease {
    fn default() -> Self {
        Self { terms: OnceLock::new(), answer_by: AtomicU64::new(NEVER), ended: OnceLock::new() }
    }
}

impl Lease {
    /// The lease of the request that is being served.
    pub(super) fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// Sets its end. Only once: a request has one permit.
    fn grant(&self, terms: Terms) {
        let _ = self.terms.set(terms);
    }

    /// An attempt begins: its answer must be there in time.
    pub(super) fn expect_answer(&self, within: Duration) {
        if let Some(terms) = self.terms.get().filter(|terms| terms.awaits_answer) {
            self.answer_by.store(terms.clock.now().plus(within).as_millis(), Ordering::Relaxed);
        }
    }

    /// The answer is there.
    pub(super) fn answered(&self) {
        self.answer_by.store(NEVER, Ordering::Relaxed);
    }

    /// Why the request was ended from here, if it was.
    pub(super) fn ended(&self) -> Option<Reason> {
        self.ended.get().copied()
    }

    /// Why it has to end now.
    fn judge(&self, terms: &Terms) -> Option<Reason> {
        let now = terms.clock.now();
        if terms.until.is_some_and(|until| until <= now) {
            return Some(Reason::Expired);
        }
        if terms.session.as_ref().is_some_and(|(session, known)| known.is_revoked(session)) {
            return Some(Reason::Revoked);
        }
        (self.answer_by.load(Ordering::Relaxed) <= now.as_millis()).then_some(Reason::UpstreamTimeout)
    }

    /// Until the next look.
    fn pause(&self, terms: &Terms) -> Duration {
        let often = terms.session.is_some() || self.answer_by.load(Ordering::Relaxed) != NEVER;
        let left = terms.until.map_or(Duration::MAX, |until| until.since(terms.clock.now()));
        left.min(if often { TICK } else { LONGEST_PAUSE }).max(Duration::from_millis(1))
    }

    /// Waits until the request has to end.
    async fn over(&self) -> (Reason, &Terms) {
        // Terms are set while the request is polled, which is before this is.
        let terms = std::future::poll_fn(|_| self.terms.get().map_or(Poll::Pending, Poll::Ready)).await;
        loop {
            tokio::time::sleep(self.pause(terms)).await;
            if let Some(reason) = self.judge(terms) {
                return (reason, terms);
            }
        }
    }
}

impl Gateway {
    /// Bounds the request by its token, unless the route only observes. A WebSocket is bounded in any case: its
    /// upstream's answer is not awaited by the engine, which would hold its silence later to the same limit.
    pub(super) fn bound(
        &self,
        session: &Session,
        ctx: &RequestContext,
        served: &ServedRoute,
        permit: &Permit,
    ) {
        let requirement = &served.route.requirement;
        let claims = permit.claims().filter(|_| requirement.enforce);
        if claims.is_none() && !ctx.upgrade {
            return;
        }
        let heeded = claims.filter(|_| requirement.revocation != RevocationMode::Off);
        let own = heeded.and_then(|claims| claims.session()).copied().zip(self.sessions.as_ref());
        ctx.lease.grant(Terms {
            clock: Arc::clone(&self.clock),
            until: claims.map(|claims| claims.good_until()),
            session: own.map(|(session, sessions)| (session, Arc::clone(&sessions.revocations))),
            awaits_answer: ctx.upgrade,
            switch: Guarded::switch(session.stream()).cloned(),
        });
    }
}

/// Serves a request for as long as its lease allows. Then a connection of its own is told and has a moment to
/// end in good order; a stream among others is dropped, which resets it.
pub(super) async fn hold<T>(lease: Arc<Lease>, request: impl Future<Output = Option<T>>) -> Option<T> {
    let mut request = pin!(CURRENT.scope(Arc::clone(&lease), request));
    let (reason, terms) = tokio::select! {
        biased;
        done = &mut request => return done,
        over = lease.over() => over,
    };
    let _ = lease.ended.set(reason);
    let switch = terms.switch.as_ref()?;
    switch.end();
    tokio::time::timeout(GRACE, request).await.ok().flatten()
}
