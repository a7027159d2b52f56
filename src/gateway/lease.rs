//! How long a request may go on: what is streamed under a token ends when the token does, or its session; what the
//! engine waits for without a limit gets one.

use super::Gateway;
use super::context::RequestContext;
use super::guard::Guarded;
use super::snapshot::ServedRoute;
use super::switch::DeadlineSwitch;
use crate::clock::{Clock, Timestamp};
use crate::policy::Permit;
use crate::policy::requirement::RevocationMode;
use crate::reason::Reason;
use crate::session::id::SessionRef;
use crate::session::revocation::Revocations;
use pingora_core::protocols::http::server::Session;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

/// When a request is to be looked at. A connection's requests leave it to each other as it is: to set a timer for
/// each of them, and to take it back, would cost more than one that rings now and then for nothing.
pub(super) type Ticker = Pin<Box<Sleep>>;

/// How often a request is looked at whose session may be ended, or in which somebody may be too slow.
const TICK: Duration = Duration::from_millis(250);

/// The longest time between two looks at any other: the clock may be set meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a connection has to end in good order.
const GRACE: Duration = Duration::from_secs(2);

tokio::task_local! {
    // Pingora makes the context of a request by itself; of a stream among others nothing can be handed to it.
    static CURRENT: Arc<Lease>;
}

/// What a request may do for how long. It is given terms with its permit.
#[derive(Default)]
pub(super) struct Lease {
    terms: OnceLock<Terms>,
    /// When the upstream must have answered.
    answer: Deadline,
    /// When the next piece of the body must be here.
    body: Deadline,
    ended: OnceLock<Reason>,
}

/// A time that is set, moved and taken back while others look at it, in milliseconds.
struct Deadline(AtomicU64);

impl Deadline {
    /// In place of a time: none is set.
    const NEVER: u64 = u64::MAX;

    fn set(&self, at: Timestamp) {
        self.0.store(at.as_millis(), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(Self::NEVER, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != Self::NEVER
    }

    fn has_passed(&self, now: Timestamp) -> bool {
        self.0.load(Ordering::Relaxed) <= now.as_millis()
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self(AtomicU64::new(Self::NEVER))
    }
}

/// What a permit says about its end.
struct Terms {
    clock: Arc<dyn Clock>,
    /// When the request came, or its token was judged: not later than now.
    granted: (Instant, Timestamp),
    /// When the token expires, if there is one.
    until: Option<Timestamp>,
    /// The session whose end is the token's, and who knows of it.
    session: Option<(SessionRef, Arc<Revocations>)>,
    /// Whether the upstream's answer is waited for here and not by the engine.
    awaits_answer: bool,
    /// How long a piece of the body is waited for, where the engine would wait for ever.
    body_timeout: Option<Duration>,
    /// The connection, if it is the request's alone.
    switch: Option<Arc<DeadlineSwitch>>,
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
            self.answer.set(terms.clock.now().plus(within));
        }
    }

    /// The upstream has agreed to a WebSocket.
    pub(super) fn opened(&self) {
        self.answer.clear();
    }

    /// Whether more of the body is awaited from now on.
    pub(super) fn awaits_body(&self, more: bool) {
        let waits =
            self.terms.get().filter(|_| more).and_then(|terms| Some((terms.body_timeout?, &terms.clock)));
        match waits {
            Some((limit, clock)) => self.body.set(clock.now().plus(limit)),
            None => self.body.clear(),
        }
    }

    /// Why the request was ended from here, if it was.
    pub(super) fn ended(&self) -> Option<Reason> {
        self.ended.get().copied()
    }

    /// Why it has to end now.
    fn judge(&self, terms: &Terms, now: Timestamp) -> Option<Reason> {
        if terms.until.is_some_and(|until| until <= now) {
            return Some(Reason::Expired);
        }
        if terms.session.as_ref().is_some_and(|(session, known)| known.is_revoked(session)) {
            return Some(Reason::Revoked);
        }
        if self.body.has_passed(now) {
            return Some(Reason::BodyTimeout);
        }
        self.answer.has_passed(now).then_some(Reason::UpstreamTimeout)
    }

    /// Until the next look.
    fn pause(&self, terms: &Terms, now: Timestamp) -> Duration {
        let often = terms.session.is_some() || terms.body_timeout.is_some() || self.answer.is_set();
        let left = terms.until.map_or(Duration::MAX, |until| until.since(now));
        left.min(if often { TICK } else { LONGEST_PAUSE }).max(Duration::from_millis(1))
    }

    /// Waits until the request has to end.
    async fn over(&self, ticker: &mut Option<Ticker>) -> (Reason, &Terms) {
        // Terms are set while the request is polled, which is before this is.
        let terms = std::future::poll_fn(|_| self.terms.get().map_or(Poll::Pending, Poll::Ready)).await;
        // At first by the time of the grant: what there was to do since then makes the first look come too soon.
        let (mut now, mut clock_now) = terms.granted;
        loop {
            let next = now + self.pause(terms, clock_now);
            let ticker = ticker.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if ticker.deadline() <= now || ticker.deadline() > next {
                ticker.as_mut().reset(next);
            }
            // Else it would say nothing to a task that always has something to do.
            unconstrained(ticker).await;
            (now, clock_now) = (Instant::now(), terms.clock.now());
            if let Some(reason) = self.judge(terms, clock_now) {
                return (reason, terms);
            }
        }
    }
}

impl Gateway {
    /// Bounds the request by its token, unless the route only observes. A WebSocket is bounded in any case: its
    /// upstream's answer is not awaited by the engine, which would hold its silence later to the same limit. So is
    /// an upload over HTTP/2, for which the engine has no limit.
    pub(super) fn bound(
        &self,
        session: &mut Session,
        ctx: &RequestContext,
        served: &ServedRoute,
        permit: &Permit,
    ) {
        let requirement = &served.route.requirement;
        let claims = permit.claims().filter(|_| requirement.enforce);
        let uploads = session.is_http2() && !session.is_body_done();
        if claims.is_none() && !ctx.upgrade && !uploads {
            return;
        }
        let heeded = claims.filter(|_| requirement.revocation != RevocationMode::Off);
        let own = heeded.and_then(|claims| claims.session()).copied().zip(self.sessions.as_ref());
        ctx.lease.grant(Terms {
            granted: (ctx.started.into(), ctx.judged.unwrap_or_else(|| self.clock.now())),
            clock: Arc::clone(&self.clock),
            until: claims.map(|claims| claims.good_until()),
            session: own.map(|(session, sessions)| (session, Arc::clone(&sessions.revocations))),
            awaits_answer: ctx.upgrade,
            body_timeout: uploads.then_some(ctx.snapshot.limits.body_timeout),
            switch: Guarded::switch(session.stream()).cloned(),
        });
    }
}

/// Serves a request for as long as its lease allows. Then a connection of its own is told and has a moment to
/// end in good order; a stream among others is dropped, which resets it.
pub(super) async fn hold<T>(
    lease: Arc<Lease>,
    ticker: &mut Option<Ticker>,
    request: impl Future<Output = Option<T>>,
) -> Option<T> {
    let mut request = pin!(request);
    let (reason, terms) = tokio::select! {
        biased;
        done = &mut request => return done,
        over = lease.over(ticker) => over,
    };
    let _ = lease.ended.set(reason);
    let switch = terms.switch.as_ref()?;
    switch.end();
    tokio::time::timeout(GRACE, request).await.ok().flatten()
}

/// Serves a stream among others in the same way.
pub(super) async fn hold_stream<T>(request: impl Future<Output = Option<T>>) -> Option<T> {
    let lease = Arc::<Lease>::default();
    hold(Arc::clone(&lease), &mut None, CURRENT.scope(lease, request)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_request_that_always_has_something_to_do_ends_in_time() {
        let lease = Arc::new(Lease::default());
        lease.grant(Terms {
            clock: Arc::new(SystemClock),
            granted: (Instant::now(), SystemClock.now()),
            until: Some(SystemClock.now().plus(Duration::from_millis(50))),
            session: None,
            awaits_answer: false,
            body_timeout: None,
            switch: None,
        });
        let busy = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        let mut ticker = None;
        let held = hold::<()>(Arc::clone(&lease), &mut ticker, busy);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), held).await, Ok(None));
        assert_eq!(lease.ended(), Some(Reason::Expired));
    }
}
