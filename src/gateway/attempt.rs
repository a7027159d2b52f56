//! The attempts of one request at its upstream: which target is next, what an attempt says about its target,
//! and whether there may be another.

use super::context::RequestContext;
use super::snapshot::ServedRoute;
use super::turns;
use super::upstream::{Order, Target, Upstream};
use http::Method;
use pingora_core::protocols::http::server::Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The attempts so far.
pub(super) struct Attempt {
    order: Order,
    /// How many attempts were begun.
    pub(super) begun: usize,
    /// The target of the attempt that runs or ran last, and when it was picked.
    pub(super) target: Option<Arc<Target>>,
    picked: Option<Instant>,
    /// The targets before.
    tried: Vec<Arc<Target>>,
    /// From picking a target to its response header.
    pub(super) answered: Option<Duration>,
}

/// What is known of a connection that failed after it was made.
pub(super) struct Broken<'a> {
    pub(super) error: &'a Error,
    /// It had served a request before.
    pub(super) reused: bool,
    /// Nothing of a response reached the client, and the request can be sent again from its beginning.
    pub(super) untouched: bool,
    /// The client sent all of its request.
    pub(super) request_done: bool,
}

impl Default for Attempt {
    fn default() -> Self {
        Self {
            order: Order::Turn(0),
            begun: 0,
            target: None,
            picked: None,
            tried: Vec::new(),
            answered: None,
        }
    }
}

impl Attempt {
    /// How this request's attempts choose among targets.
    pub(super) fn choose_by(&mut self, order: Order) {
        self.order = order;
    }

    /// Begins the next attempt at `now`; `None` while the upstream has no address.
    pub(super) fn next(&mut self, upstream: &Upstream, now: Instant) -> Option<Arc<Target>> {
        self.tried.extend(self.target.take());
        let target = upstream.target(self.order, &self.tried, now)?;
        self.begun += 1;
        self.target = Some(Arc::clone(&target));
        self.picked = Some(now);
        Some(target)
    }

    /// The first byte is there.
    pub(super) fn answer(&mut self, upstream: &Upstream) {
        if let (None, Some((target, picked))) = (self.answered, self.current()) {
            upstream.answered(target, picked);
            self.answered = Some(picked.elapsed());
        }
    }

    /// No connection could be made. Whether to try again.
    pub(super) fn unconnected(&self, upstream: &Upstream, method: &Method) -> bool {
        self.blame(upstream);
        self.may_repeat(upstream, method)
    }

    /// A connection failed. Whether to try again.
    pub(super) fn broken(&self, upstream: &Upstream, method: &Method, broken: &Broken<'_>) -> bool {
        if *broken.error.esource() != ErrorSource::Upstream || !broken.untouched {
            return false;
        }
        let repeat = self.may_repeat(upstream, method);
        match broken.error.etype() {
            // Slow may be the request and not the target: it is no reason to blame it, nor to ask it again.
            // And an upstream that waits for a body the client does not send is not slow.
            ErrorType::ReadTimedout => {
                let another = self.current().is_some_and(|(one, _)| upstream.has_another(one, &self.tried));
                repeat && broken.request_done && another
            }
            ErrorType::WriteTimedout => false,
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => {
                // An idle connection that is closed at the moment of use is nobody's fault.
                if !broken.reused && self.answered.is_none() {
                    self.blame(upstream);
                }
                repeat
            }
            _ => repeat,
        }
    }

    fn blame(&self, upstream: &Upstream) {
        if let Some((target, picked)) = self.current() {
            upstream.failed(target, picked);
        }
    }

    /// An idempotent method (RFC 9110 section 9.2.2), and attempts left.
    fn may_repeat(&self, upstream: &Upstream, method: &Method) -> bool {
        method.is_idempotent() && self.begun <= upstream.retries()
    }

    fn current(&self) -> Option<(&Arc<Target>, Instant)> {
        self.target.as_ref().zip(self.picked)
    }
}

impl RequestContext {
    /// Begins the next attempt at `now`: its target, and the route.
    pub(super) fn next_target(&mut self, now: Instant) -> Result<(Arc<Target>, Arc<ServedRoute>)> {
        let Some(served) = self.route.as_ref().filter(|_| self.permit.is_some()) else {
            return Error::e_explain(ErrorType::InternalError, "no permit");
        };
        let Some(target) = self.attempt.next(&served.upstream, now) else {
            return Error::e_explain(ErrorType::HTTPStatus(502), "no address of the upstream is known");
        };
        let timeouts = &served.route.timeouts;
        self.lease.expect_answer(timeouts.connect + timeouts.read);
        Ok((target, Arc::clone(served)))
    }

    /// The same for the engine: the peer of the next attempt.
    pub(super) fn next_peer(&mut self) -> Result<HttpPeer> {
        let (target, served) = self.next_target(Instant::now())?;
        let mut peer = served.upstream.peer(&target, &served.route.timeouts);
        if self.upgrade {
            turns::take(&mut peer);
        }
        Ok(peer)
    }

    /// No connection could be made. Whether to try again.
    pub(super) fn unconnected(&self, session: &Session) -> bool {
        let method = &session.req_header().method;
        self.route.as_ref().is_some_and(|served| self.attempt.unconnected(&served.upstream, method))
    }

    /// A connection failed that may have served a request before. Whether to try again.
    pub(super) fn broken(&self, error: &Error, reused: bool, session: &mut Session) -> bool {
        let untouched = session.response_written().is_none() && !session.retry_buffer_truncated();
        let broken = Broken { error, reused, untouched, request_done: session.is_body_done() };
        let method = &session.req_header().method;
        self.route.as_ref().is_some_and(|served| self.attempt.broken(&served.upstream, method, &broken))
    }
}
