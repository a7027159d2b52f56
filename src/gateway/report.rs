//! What is said about a request afterwards: its log line, its metrics, the audit line of a session event.

use super::Gateway;
use super::context::RequestContext;
use super::outgoing;
use super::snapshot::ServedRoute;
use crate::endpoints::Endpoint;
use crate::endpoints::event::Handled;
use crate::metrics::{Metrics, RouteMetrics};
use pingora_proxy::Session;
use serde_json::{Map, Value};
use std::time::Duration;

/// The metrics of our own endpoints, one set each; their label is `auth:` and the endpoint's name.
pub(super) struct EndpointMetrics(Vec<(&'static str, RouteMetrics)>);

impl EndpointMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let endpoints = [
            Endpoint::Login,
            Endpoint::Refresh,
            Endpoint::Logout,
            Endpoint::LogoutAll,
            Endpoint::Sessions,
            Endpoint::Session(None),
            Endpoint::Keys,
            Endpoint::Unknown,
        ];
        let named = |endpoint: Endpoint| {
            let name = endpoint.as_str();
            (name, metrics.route(&format!("auth:{name}")))
        };
        Self(endpoints.map(named).into())
    }

    pub(super) fn get(&self, endpoint: &str) -> Option<&RouteMetrics> {
        self.0.iter().find(|(name, _)| *name == endpoint).map(|(_, metrics)| metrics)
    }
}

/// Counts identity headers that the client sent; they are removed before anything leaves.
pub(super) fn count_spoofed(session: &Session, ctx: &RequestContext, served: &ServedRoute) {
    let protected = &ctx.snapshot.protected;
    match outgoing::forged(&session.req_header().headers, |name| protected.is_identity(name)) {
        0 => {}
        forged => served.metrics.spoofed(forged),
    }
}

impl Gateway {
    /// One line in the access log.
    pub(super) fn log_request(&self, session: &Session, ctx: &RequestContext, code: u16, took: Duration) {
        if !self.log.wants_requests() {
            return;
        }
        let request = session.req_header();
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| {
            line.insert(name.to_owned(), value);
        };
        put("requestId", ctx.request_id.as_str().into());
        put("client", ctx.client.to_string().into());
        put("method", request.method.as_str().into());
        put("host", ctx.host.as_str().into());
        // Never the query: people put tokens there.
        put("path", if ctx.path.is_empty() { request.uri.path() } else { &ctx.path }.into());
        put("route", ctx.label().into());
        put("status", code.into());
        put("reason", ctx.reason.as_str().into());
        if let Some(unforwardable) = &ctx.unforwardable {
            put("detail", unforwardable.to_string().into());
        }
        put("durationMs", milliseconds(took));
        put("bytesSent", session.body_bytes_sent().into());
        if !ctx.issuer.is_empty() {
            put("issuer", ctx.issuer.as_str().into());
        }
        if let Some(claims) = ctx.permit.as_ref().and_then(|permit| permit.claims()) {
            put("subject", claims.subject().into());
        }
        if let (Some(served), Some(answered)) = (&ctx.route, ctx.attempt.answered) {
            put("upstream", served.upstream.name().into());
            put("upstreamMs", milliseconds(answered));
        }
        if ctx.attempt.begun > 1 {
            put("attempts", ctx.attempt.begun.into());
        }
        self.log.write("access", self.clock.now(), line);
    }

    /// The event's metric and the audit line of what an endpoint did.
    pub(super) fn report(&self, handled: &Handled) {
        if let Some(event) = handled.event {
            self.metrics.session_event(event.as_str());
        }
        if let Some(audit) = &handled.audit {
            self.log.write("audit", self.clock.now(), audit.line());
        }
    }
}

fn milliseconds(time: Duration) -> Value {
    // Microseconds are precise enough for a log and short to read.
    Value::from((time.as_secs_f64() * 1_000_000.0).round() / 1000.0)
}
