//! What is said about a request afterwards: its log line, its metrics, the audit line of a session event.

use super::context::RequestContext;
use super::denial;
use super::outgoing;
use super::snapshot::ServedRoute;
use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::endpoints::Endpoint;
use crate::endpoints::event::{Handled, SessionEvent};
use crate::metrics::{CLIENT_GONE, Metrics, RouteMetrics};
use crate::reason::Reason;
use crate::traces::{RequestSpan, Told, Traces};
use http::{HeaderMap, Method, StatusCode};
use pingora_core::protocols::http::server::Session;
use std::sync::Arc;
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

/// Tells what happened, wherever it is told: metrics, access log, audit lines.
pub(super) struct Reporter {
    metrics: Metrics,
    endpoints: EndpointMetrics,
    log: AccessLog,
    traces: Traces,
    clock: Arc<dyn Clock>,
}

impl Reporter {
    pub(super) fn new(metrics: Metrics, log: AccessLog, traces: Traces, clock: Arc<dyn Clock>) -> Self {
        metrics.may_happen(SessionEvent::ALL.iter().map(|event| event.as_str()));
        Self { endpoints: EndpointMetrics::new(&metrics), metrics, log, traces, clock }
    }

    /// The span of a request with these fields, if anybody wants it.
    pub(super) fn span(&self, headers: &HeaderMap) -> Option<RequestSpan> {
        self.traces.begin(headers)
    }

    /// A request has ended.
    pub(super) fn ended(&self, session: &Session, ctx: &mut RequestContext) {
        ctx.untold.reporter = None;
        let request = session.req_header();
        let written = session.response_written().filter(|response| is_final(response.status));
        let code = written.map_or(CLIENT_GONE, |response| response.status.as_u16());
        let path = std::mem::take(&mut ctx.path);
        let told = if path.is_empty() { request.uri.path() } else { &path };
        self.tell(ctx, &request.method, told, code, session.body_bytes_sent() as u64);
        ctx.path = path;
    }

    /// A request was dropped in the middle.
    pub(super) fn dropped(&self, ctx: &mut RequestContext) {
        if std::thread::panicking() {
            ctx.reason = Reason::Internal;
        }
        let meant = if std::thread::panicking() { Some(Reason::Internal) } else { ctx.lease.ended() };
        let code = ctx.untold.status.or_else(|| Some(denial::status(meant?))).unwrap_or(CLIENT_GONE);
        let (method, path) = (ctx.untold.method.clone(), ctx.path.clone());
        self.tell(ctx, &method, &path, code, ctx.untold.sent);
    }

    fn tell(&self, ctx: &mut RequestContext, method: &Method, path: &str, code: u16, sent: u64) {
        let took = ctx.started.elapsed();
        match (&ctx.route, ctx.endpoint) {
            (Some(served), _) => served.metrics.answered(code, took),
            (None, Some(endpoint)) => {
                if let Some(metrics) = self.endpoints.get(endpoint) {
                    metrics.answered(code, took);
                }
            }
            (None, None) => ctx.snapshot.unrouted.answered(code, took),
        }
        if let (Some(served), Some(answered)) = (&ctx.route, ctx.attempt.answered) {
            served.upstream.metrics().answered(answered);
        }
        if let (Some(served), Some(reason)) = (&ctx.route, ctx.lease.ended()) {
            ctx.reason = reason;
            served.metrics.cut(reason);
        }
        if let Some(span) = ctx.span.take() {
            self.trace(&span, ctx, method, path, code, took);
        }
        self.log_request(ctx, method, path, code, took, sent);
    }

    fn trace(
        &self,
        span: &RequestSpan,
        ctx: &RequestContext,
        method: &Method,
        path: &str,
        status: u16,
        took: Duration,
    ) {
        let upstream = ctx.route.as_ref().map(|served| served.upstream.name());
        self.traces.end(
            span,
            &Told {
                ended: self.clock.now(),
                took,
                method,
                route: &ctx.label(),
                path,
                host: &ctx.host,
                https: ctx.https,
                client: ctx.client,
                status,
                reason: ctx.reason.as_str(),
                request_id: &ctx.request_id,
                upstream: upstream.zip(ctx.attempt.answered),
            },
        );
    }

    /// One line in the access log.
    fn log_request(
        &self,
        ctx: &RequestContext,
        method: &Method,
        path: &str,
        code: u16,
        took: Duration,
        sent: u64,
    ) {
        if !self.log.wants_requests() {
            return;
        }
        let mut line = self.log.line("access", self.clock.now());
        line.text("requestId", &ctx.request_id);
        line.address("client", ctx.client);
        line.text("method", method.as_str());
        line.text("host", &ctx.host);
        // Never the query: people put tokens there.
        line.text("path", path);
        line.text("route", &ctx.label());
        line.number("status", code.into());
        line.text("reason", ctx.reason.as_str());
        if let Some(unforwardable) = &ctx.unforwardable {
            line.text("detail", &unforwardable.to_string());
        }
        line.milliseconds("durationMs", took);
        line.number("bytesSent", sent);
        if let Some(issuer) = &ctx.issuer {
            line.text("issuer", issuer);
        }
        if let Some(claims) = ctx.permit.as_ref().and_then(|permit| permit.claims()) {
            line.text("subject", claims.subject());
        }
        if let (Some(served), Some(answered)) = (&ctx.route, ctx.attempt.answered) {
            line.text("upstream", served.upstream.name());
            line.milliseconds("upstreamMs", answered);
        }
        if ctx.attempt.begun > 1 {
            line.number("attempts", ctx.attempt.begun as u64);
        }
        self.log.write(line);
    }

    /// The event's metric and the audit line of what an endpoint did.
    pub(super) fn report(&self, handled: &Handled) {
        if let Some(event) = handled.event {
            self.metrics.session_event(event.as_str());
        }
        if handled.reused.is_some() {
            self.metrics.session_event(SessionEvent::RefreshReused.as_str());
        }
        for audit in handled.reused.iter().chain(&handled.audit) {
            self.log.write(audit.line(&self.log, self.clock.now()));
        }
    }
}

/// Whether a response with this status is the last one: 101 is, although its number says otherwise.
pub(super) fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}
