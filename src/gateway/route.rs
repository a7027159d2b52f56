//! A route as the gateway serves it: whom it is for, what it asks, where it leads.

use super::cors::Cors;
use super::path::AllowedInPath;
use super::rate::RateLimit;
use super::settings::UpstreamTimeouts;
use crate::policy::forward::ForwardPlan;
use crate::policy::pattern::PathPrefix;
use crate::policy::requirement::Requirement;
use crate::policy::route::{Ambiguity, RouteMatch, RouteTable};
use std::sync::Arc;

/// One entry of `routes`, with everything it inherits filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name and which requests it serves.
    pub matched: RouteMatch,
    /// The name of the upstream.
    pub upstream: String,
    /// What it asks of callers.
    pub requirement: Requirement,
    /// What it tells the upstream about them.
    pub forward: ForwardPlan,
    /// What is taken off the path before it is forwarded; every path of the route has it.
    pub strip_prefix: Option<PathPrefix>,
    /// Ambiguous forms its upstream reads as we do.
    pub allow_in_path: AllowedInPath,
    /// Which pages of other origins may call it; `None`: CORS is the upstream's own matter.
    pub cors: Option<Cors>,
    /// How often one caller may use it; `None`: as often as it likes.
    pub rate_limit: Option<RateLimit>,
    /// Whether a request may become a WebSocket.
    pub upgrade: bool,
    /// Bytes of a request body, 413 beyond; `None` is no limit.
    pub body_bytes: Option<u64>,
    /// Timeouts towards the upstream.
    pub timeouts: UpstreamTimeouts,
}

impl Route {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.matched.name
    }
}

/// The table of all routes.
///
/// # Errors
/// Every [`Ambiguity`].
pub fn table(routes: impl IntoIterator<Item = Route>) -> Result<RouteTable<Arc<Route>>, Vec<Ambiguity>> {
    RouteTable::build(routes.into_iter().map(|route| (route.matched.clone(), Arc::new(route))))
}
