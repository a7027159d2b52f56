//! One configuration, compiled: what a request takes hold of at its start and sees to its end.

use super::headers::ProtectedNames;
use super::route::Route;
use super::settings::{Limits, ServerSettings};
use super::upstream::Upstream;
use crate::metrics::{Metrics, RouteMetrics, UNROUTED};
use crate::policy::route::{Ambiguity, RouteTable};
use crate::token::assertion::{Addressee, Assertions};
use crate::token::verifier::Verifier;
use ipnet::IpNet;
use std::collections::HashMap;
use std::sync::Arc;

/// Everything a reload replaces, in one piece.
pub struct Snapshot {
    pub(super) routes: RouteTable<Arc<ServedRoute>>,
    pub(super) protected: ProtectedNames,
    pub(super) verifier: Arc<Verifier>,
    /// Assertions for upstreams, where there is a key to sign them.
    pub(super) assertions: Option<Arc<Assertions>>,
    pub(super) limits: Limits,
    pub(super) trusted_proxies: Vec<IpNet>,
    upstreams: HashMap<String, Arc<Upstream>>,
    /// Counts requests that no route serves.
    pub(super) unrouted: RouteMetrics,
}

/// A route with its upstream and its metrics found.
pub struct ServedRoute {
    pub(super) route: Arc<Route>,
    pub(super) upstream: Arc<Upstream>,
    /// Whom the route's assertions are for, if it has any.
    pub(super) addressee: Option<Addressee>,
    pub(super) metrics: RouteMetrics,
}

/// Why routes and upstreams do not make a snapshot. The configuration excludes the first two.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A route leads nowhere.
    #[error("route `{route}` leads to the upstream `{upstream}`, which does not exist")]
    UnknownUpstream {
        /// The route's name.
        route: String,
        /// The upstream's name.
        upstream: String,
    },
    /// Routes match the same requests equally well.
    #[error("routes are ambiguous: {0:?}")]
    Ambiguous(Vec<Ambiguity>),
    /// A route has an assertion, and nothing signs it.
    #[error(
        "route `{0}` has `forward.assertion`, and the gateway was started without `sessions`, whose key signs \
         it: restart the gateway"
    )]
    NothingSigns(String),
}

impl Snapshot {
    /// Compiles routes and upstreams; `server` gives limits and trusted proxies.
    ///
    /// # Errors
    /// [`SnapshotError`] for routes that tie, lead nowhere, or have an assertion without `assertions`.
    pub fn new(
        routes: &[Arc<Route>],
        upstreams: HashMap<String, Arc<Upstream>>,
        protected: ProtectedNames,
        verifier: Arc<Verifier>,
        assertions: Option<Arc<Assertions>>,
        server: &ServerSettings,
        metrics: &Metrics,
    ) -> Result<Self, SnapshotError> {
        let mut entries = Vec::with_capacity(routes.len());
        for route in routes {
            let upstream = upstreams.get(&route.upstream).ok_or_else(|| SnapshotError::UnknownUpstream {
                route: route.name().to_owned(),
                upstream: route.upstream.clone(),
            })?;
            if route.forward.assertion.is_some() && assertions.is_none() {
                return Err(SnapshotError::NothingSigns(route.name().to_owned()));
            }
            let entry = ServedRoute {
                route: Arc::clone(route),
                upstream: Arc::clone(upstream),
                addressee: route.forward.assertion.as_ref().map(|rule| Addressee {
                    audience: route.upstream.as_str().into(),
                    lifetime: rule.lifetime,
                }),
                metrics: metrics.route(route.name()),
            };
            entries.push((route.matched.clone(), Arc::new(entry)));
        }
        let routes = RouteTable::build(entries).map_err(SnapshotError::Ambiguous)?;
        Ok(Self {
            routes,
            protected,
            verifier,
            assertions,
            limits: server.limits.clone(),
            trusted_proxies: server.trusted_proxies.clone(),
            upstreams,
            unrouted: metrics.route(UNROUTED),
        })
    }

    /// Who verifies tokens.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Every upstream.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }
}
