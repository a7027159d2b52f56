//! What one request carries through its phases.

use super::attempt::Attempt;
use super::rate::Standing;
use super::snapshot::{ServedRoute, Snapshot};
use crate::policy::Permit;
use crate::policy::forward::Unforwardable;
use crate::reason::Reason;
use crate::token::claims::VerifiedClaims;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

/// One request, from its header to its log line.
pub struct RequestContext {
    /// When the header was complete.
    pub(super) started: Instant,
    /// The configuration this request sees throughout.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) request_id: String,
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
    pub(super) issuer: String,
    /// The status of an answer of our own.
    pub(super) status: Option<u16>,
    /// How the caller stands with the route's rate limit, once that was asked.
    pub(super) standing: Option<Standing>,
    pub(super) attempt: Attempt,
    /// Body bytes received so far.
    pub(super) body_bytes: u64,
}

impl RequestContext {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            started: Instant::now(),
            snapshot,
            request_id: String::new(),
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
            issuer: String::new(),
            status: None,
            standing: None,
            attempt: Attempt::default(),
            body_bytes: 0,
        }
    }

    /// What the request is called in the log: its route, our endpoint, or `none`.
    pub(super) fn label(&self) -> String {
        match (&self.route, self.endpoint) {
            (Some(served), _) => served.route.name().to_owned(),
            (None, Some(endpoint)) => format!("auth:{endpoint}"),
            (None, None) => "none".to_owned(),
        }
    }

    /// The most bytes the body may have, by the route or the server.
    pub(super) fn body_limit(&self) -> Option<u64> {
        self.route.as_ref().map_or(self.snapshot.limits.body_bytes, |route| route.route.body_bytes)
    }
}
