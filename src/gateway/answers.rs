//! The answers the gateway gives by itself: refusals, preflights, and those of our own endpoints.

use super::context::RequestContext;
use super::cors::Cors;
use super::respond::{self, SmallBody};
use super::{Gateway, admission, denial};
use crate::endpoints::{BODY_LIMIT, Body, Endpoint, EndpointRequest};
use crate::metrics::DecisionOutcome;
use crate::policy::Denial;
use crate::reason::Reason;
use crate::reply::Reply;
use http::Method;
use pingora_core::protocols::http::server::Session;
use pingora_core::{Error, Result};

impl Gateway {
    /// Writes the answer to a refused request.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        denial: &Denial,
    ) -> Result<()> {
        let reply = Self::refusal(session, ctx, denial, denial::status(denial.reason));
        respond::send(session, &reply, &ctx.request_id).await.map_err(Error::into_down)
    }

    /// The answer to a refused request, under this status; it is counted here.
    pub(super) fn refusal(
        session: &Session,
        ctx: &mut RequestContext,
        denial: &Denial,
        status: u16,
    ) -> Reply {
        ctx.reason = denial.reason;
        ctx.status = Some(status);
        ctx.unforwardable.clone_from(&denial.unforwardable);
        let counted = match (&ctx.route, ctx.endpoint) {
            (Some(served), _) => Some(&served.metrics),
            (None, None) => Some(&ctx.snapshot.unrouted),
            (None, Some(_)) => None,
        };
        if let (Some(metrics), None) = (counted, &ctx.permit) {
            metrics.decided(ctx.issuer(), DecisionOutcome::Deny, denial.reason);
        }
        let mut reply = denial::reply(denial, status, &ctx.request_id, admission::wants_html_only(session));
        if let Some(standing) = &ctx.standing {
            reply.headers.extend(standing.fields());
            if denial.reason == Reason::RateLimited {
                reply = reply.retry_after(standing.wait);
            }
        }
        if let Some(cors) = ctx.route.as_ref().and_then(|served| served.route.cors.as_ref()) {
            reply.headers.extend(cors.answer(&session.req_header().headers));
        }
        reply
    }

    /// The answer to a CORS preflight for a route: nobody has to be known for that, and no upstream is asked.
    pub(super) fn preflight_answer(
        session: &Session,
        ctx: &mut RequestContext,
        asked: Method,
        cors: &Cors,
    ) -> Reply {
        ctx.reason = Reason::Preflight;
        if let Some(served) = &ctx.route {
            served.metrics.decided(ctx.issuer(), DecisionOutcome::Allow, Reason::Preflight);
        }
        let methods = ctx.route.as_ref().map(|served| served.route.matched.methods.as_slice());
        let any = [asked];
        let methods = methods.filter(|methods| !methods.is_empty()).unwrap_or(&any);
        let mut reply = Reply::empty(204);
        reply.headers = cors.preflight(&session.req_header().headers, methods);
        ctx.status = Some(reply.status);
        reply
    }

    /// The answer to a request to one of the session endpoints.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: Endpoint,
    ) -> Result<Reply> {
        let Some(endpoints) = &self.endpoints else {
            let denial = Denial::new(Reason::Internal);
            return Ok(Self::refusal(session, ctx, &denial, denial::status(denial.reason)));
        };
        ctx.endpoint = Some(endpoint.as_str());
        ctx.reason = Reason::Ok;
        let handled = if let Some(handled) = endpoints.precheck(endpoint, &asked(session, ctx)) {
            handled
        } else {
            let patience = ctx.snapshot.limits.body_timeout;
            let read = respond::read_small_body(session, BODY_LIMIT, patience).await;
            let body = match read.map_err(Error::into_down)? {
                SmallBody::Complete(bytes) => Body::Bytes(bytes),
                SmallBody::TooLarge => Body::TooLarge,
                SmallBody::TooSlow => {
                    session.set_keepalive(None);
                    Body::TimedOut
                }
            };
            endpoints.handle(endpoint, asked(session, ctx), body).await
        };
        ctx.status = Some(handled.reply.status);
        self.reporter.report(&handled);
        Ok(handled.reply)
    }
}

/// A request as our own endpoints see it.
fn asked<'a>(session: &'a Session, ctx: &'a RequestContext) -> EndpointRequest<'a> {
    let header = session.req_header();
    EndpointRequest {
        method: &header.method,
        headers: &header.headers,
        peer: ctx.client,
        https: ctx.https,
        host: &ctx.host,
        request_id: &ctx.request_id,
        token_bytes: ctx.snapshot.limits.token_bytes,
    }
}
