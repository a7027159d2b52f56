//! What one request carries through its phases.

use super::attempt::Attempt;
use super::lease::Lease;
use super::rate::Standing;
use super::report::Reporter;
use super::snapshot::{ServedRoute, Snapshot};
use crate::clock::Timestamp;
use crate::metrics::DecisionOutcome;
use crate::policy::Permit;
use crate::policy::forward::Unforwardable;
use crate::reason::Reason;
use crate::token::claims::VerifiedClaims;
use crate::traces::RequestSpan;
use http::Method;
use pingora_core::protocols::http::server::Session;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

/// One request, from its header to its log line.
pub struct RequestContext {
    /// When the header was complete.
    pub(super) started: Instant,
    /// By which time its token was judged, if it has one.
    pub(super) judged: Option<Timestamp>,
    /// The configuration this request sees throughout.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) request_id: String,
    /// Its place in a trace, if that is recorded.
    pub(super) span: Option<RequestSpan>,
    pub(super) client: IpAddr,
    pub(super) https: bool,
    pub(super) host: String,
    /// The path that was authorised, as it is forwarded; and for the log.
    pub(super) path: String,
    /// What the request is counted as: a route's name, an endpoint's, or `none`.
    pub(super) route: Option<Arc<ServedRoute>>,
    pub(super) endpoint: Option<&'static str>,
    /// Leave to forward. Nothing reaches an upstream without one.
    pub(super) permit: Option<Permit>,
    pub(super) reason: Reason,
    /// Of a caller whose token was verified, whatever the policy makes of it.
    pub(super) claims: Option<Arc<VerifiedClaims>>,
    /// Which claim fits no header, where that is the reason.
    pub(super) unforwardable: Option<Unforwardable>,
    /// The issuer of the token, where one is known.
    pub(super) issuer: Option<Arc<str>>,
    /// The status of an answer of our own.
    pub(super) status: Option<u16>,
    /// How the caller stands with the route's rate limit, once that was asked.
    pub(super) standing: Option<Standing>,
    pub(super) attempt: Attempt,
    /// Body bytes received so far.
    pub(super) body_bytes: u64,
    /// How long it may go on.
    pub(super) lease: Arc<Lease>,
    /// Whether it asks for a WebSocket on a route that has some.
    pub(super) upgrade: bool,
    /// What is told of it if it ends without a word.
    pub(super) untold: Untold,
}

/// What a request is told by that is dropped in the middle: at its lease's end, or by a panic.
pub(super) struct Untold {
    /// Whom to tell; nobody once it was told.
    pub(super) reporter: Option<Arc<Reporter>>,
    pub(super) method: Method,
    /// The status the client was sent.
    pub(super) status: Option<u16>,
    /// Body bytes sent to the client.
    pub(super) sent: u64,
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if let Some(reporter) = self.untold.reporter.take() {
            reporter.dropped(self);
        }
    }
}

impl RequestContext {
    pub(super) fn new(snapshot: Arc<Snapshot>, reporter: Arc<Reporter>, lease: Arc<Lease>) -> Self {
        Self {
            started: Instant::now(),
            judged: None,
            snapshot,
            request_id: String::new(),
            span: None,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            https: false,
            host: String::new(),
            path: String::new(),
            route: None,
            endpoint: None,
            permit: None,
            reason: Reason::Internal,
            claims: None,
            unforwardable: None,
            issuer: None,
            status: None,
            standing: None,
            attempt: Attempt::default(),
            body_bytes: 0,
            lease,
            upgrade: false,
            untold: Untold { reporter: Some(reporter), method: Method::GET, status: None, sent: 0 },
        }
    }

    /// Drops a context that no request had.
    pub(super) fn forget(mut self) {
        self.untold.reporter = None;
    }

    /// The request in a few words, for the log. Never the query: people put tokens there.
    pub(super) fn summary(&self, session: &Session) -> String {
        format!("{} {} ({})", session.req_header().method, self.path, self.request_id)
    }

    /// Counts a request that is let through, and notes why.
    pub(super) fn allow(&mut self, served: &ServedRoute, permit: &Permit) {
        let (outcome, reason) = match permit.would_deny() {
            None => (DecisionOutcome::Allow, permit.reason()),
            Some(denial) => (DecisionOutcome::WouldDeny, denial.reason),
        };
        served.metrics.decided(self.issuer(), outcome, reason);
        self.reason = reason;
        self.unforwardable = permit.would_deny().and_then(|denial| denial.unforwardable.clone());
    }

    /// What the request is called in the log: its route, our endpoint, or `none`.
    pub(super) fn label(&self) -> Cow<'_, str> {
        match (&self.route, self.endpoint) {
            (Some(served), _) => served.route.name().into(),
            (None, Some(endpoint)) => format!("auth:{endpoint}").into(),
            (None, None) => "none".into(),
        }
    }

    /// The issuer as metrics call it: empty where none is known.
    pub(super) fn issuer(&self) -> &str {
        self.issuer.as_deref().unwrap_or_default()
    }

    /// The most bytes the body may have, by the route or the server.
    pub(super) fn body_limit(&self) -> Option<u64> {
        self.route.as_ref().map_or(self.snapshot.limits.body_bytes, |route| route.route.body_bytes)
    }
}
