//! The phases of a request, in Pingora's order; each a few lines.

use super::attempt::Broken;
use super::context::RequestContext;
use super::guard::Guarded;
use super::rate::{By, Standing};
use super::respond;
use super::snapshot::{ServedRoute, Snapshot};
use super::{Gateway, admission, cors, listener, outgoing, report, returned};
use crate::metrics::{CLIENT_GONE, DecisionOutcome};
use crate::policy::forward::WhyUnforwardable;
use crate::policy::{Caller, Decision, Denial, authorize};
use crate::reason::Reason;
use crate::token::assertion::{Addressee, AssertionError};
use crate::token::bearer::{self, Bearer};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::sync::Arc;

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::new(self.snapshot.load_full())
    }

    /// The header is complete: the connection's deadline rests, and the body gets its own.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<()> {
        if let Some(switch) = Guarded::switch(session.stream()) {
            switch.disarm();
        }
        let limits = &ctx.snapshot.limits;
        session.set_read_timeout(Some(limits.body_timeout));
        session.set_write_timeout(Some(limits.body_timeout));
        // What follows a CONNECT may be meant for a tunnel that is never opened.
        if self.draining() || session.req_header().method == Method::CONNECT {
            session.set_keepalive(None);
        }
        Ok(())
    }

    /// Decides everything: the answer is written here, or the request has a permit.
    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
        let path = match admission::admit(session, ctx) {
            Ok(path) => path,
            Err(reason) => return self.refuse(session, ctx, &Denial::new(reason)).await,
        };
        path.as_str().clone_into(&mut ctx.path);
        let own = self.endpoints.as_ref().and_then(|own| Some((Arc::clone(own), own.find(path.as_str())?)));
        if let Some((endpoints, endpoint)) = own {
            return self.answer(session, ctx, endpoint, &endpoints).await;
        }
        let request = session.req_header();
        let preflight = cors::preflight_method(&request.method, &request.headers)
            .filter(admission::is_served)
            .and_then(|asked| Some((ctx.snapshot.routes.find(&ctx.host, path.as_str(), &asked)?, asked)))
            .and_then(|(served, asked)| Some((served.route.cors.clone()?, Arc::clone(served), asked)));
        if let Some((cors, served, asked)) = preflight {
            let allowed = path.check(served.route.allow_in_path);
            ctx.route = Some(served);
            return match allowed {
                Ok(()) => self.answer_preflight(session, ctx, asked, &cors).await,
                Err(_) => self.refuse(session, ctx, &Denial::new(Reason::BadPath)).await,
            };
        }
        let Some(served) = ctx.snapshot.routes.find(&ctx.host, path.as_str(), &request.method).cloned()
        else {
            let reason = if path.is_plain() { Reason::NoRoute } else { Reason::BadPath };
            return self.refuse(session, ctx, &Denial::new(reason)).await;
        };
        ctx.route = Some(Arc::clone(&served));
        report::count_spoofed(session, ctx, &served);
        if path.check(served.route.allow_in_path).is_err() {
            return self.refuse(session, ctx, &Denial::new(Reason::BadPath)).await;
        }
        if !self.is_within_rate(ctx, &served, By::Address, None) {
            return self.refuse(session, ctx, &Denial::new(Reason::RateLimited)).await;
        }
        if ctx.body_limit().zip(respond::content_length(session)).is_some_and(|(most, length)| length > most)
        {
            return self.refuse(session, ctx, &Denial::new(Reason::BodyTooLarge)).await;
        }
        let caller = self.caller(session, ctx, &served).await;
        let mut decision = authorize(&served.route.requirement, &served.route.forward, caller);
        if let Decision::Allow(permit) = &decision
            && !self.is_within_rate(ctx, &served, By::Subject, permit.claims().map(Arc::as_ref))
        {
            decision = Decision::Deny(Denial::new(Reason::RateLimited));
        }
        if let Some(to) = &served.addressee {
            decision = self.assert(decision, to, ctx, &served).await;
        }
        match decision {
            Decision::Deny(denial) => self.refuse(session, ctx, &denial).await,
            Decision::Allow(permit) => {
                let (outcome, reason) = match permit.would_deny() {
                    None => (DecisionOutcome::Allow, permit.reason()),
                    Some(denial) => (DecisionOutcome::WouldDeny, denial.reason),
                };
                served.metrics.decided(&ctx.issuer, outcome, reason);
                ctx.reason = reason;
                ctx.unforwardable = permit.would_deny().and_then(|denial| denial.unforwardable.clone());
                let claims = permit.claims().map(|claims| &**claims);
                ctx.attempt.choose_by(served.upstream.draw(claims, ctx.client));
                ctx.permit = Some(permit);
                Ok(false)
            }
        }
    }

    /// Counts the body: one without a length is cut off at the limit.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        ctx.body_bytes += body.as_ref().map_or(0, |piece| piece.len() as u64);
        match ctx.body_limit() {
            Some(most) if ctx.body_bytes > most => {
                Error::e_explain(ErrorType::HTTPStatus(413), "the body is too large")
            }
            _ => Ok(()),
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
        let Some(served) = ctx.route.clone().filter(|_| ctx.permit.is_some()) else {
            return Error::e_explain(ErrorType::InternalError, "no permit");
        };
        let Some(target) = ctx.attempt.next(&served.upstream) else {
            return Error::e_explain(ErrorType::HTTPStatus(502), "no address of the upstream is known");
        };
        let peer = served.upstream.peer(&target, &served.route.timeouts);
        // A further attempt sends the body from its beginning.
        ctx.body_bytes = 0;
        Ok(Box::new(peer))
    }

    /// Writes identity on the outgoing request only: what stood on the client's request a client could
    /// remove again through `Connection`. Runs once per attempt, always from the client's own header.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let cookies = self.endpoints.as_ref().map(|endpoints| endpoints.cookie());
        outgoing::prepare(session, upstream_request, ctx, cookies)
    }

    /// An upstream may not switch protocols: no request that leaves here asks for it, and what follows a 101 is
    /// no HTTP (RFC 9110 section 15.2.2).
    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut RequestContext,
    ) -> Result<()> {
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            let mut error =
                Error::explain(ErrorType::InvalidHTTPHeader, "the upstream switched protocols unasked");
            error.as_up();
            return Err(error);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Error::e_explain(ErrorType::HTTPStatus(502), "the upstream switched protocols unasked");
        }
        if let Some(endpoints) = &self.endpoints {
            returned::keep_own_cookies(response, endpoints.cookie())?;
        }
        returned::drop_hop_by_hop(response);
        if let Some(cors) = ctx.route.as_ref().and_then(|served| served.route.cors.as_ref()) {
            returned::replace_cors(response, cors, &session.req_header().headers)?;
        }
        if response.status.is_informational() {
            return Ok(());
        }
        for (name, value) in ctx.standing.iter().flat_map(Standing::fields) {
            response.append_header(respond::spelled(&name), value)?;
        }
        if let Some(served) = &ctx.route {
            ctx.attempt.answer(&served.upstream);
        }
        response.insert_header("X-Request-Id", &ctx.request_id)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let method = &session.req_header().method;
        let again =
            ctx.route.as_ref().is_some_and(|served| ctx.attempt.unconnected(&served.upstream, method));
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("upstream {peer}"));
        let untouched = session.response_written().is_none() && !session.as_ref().retry_buffer_truncated();
        let broken =
            Broken { error: &error, reused, untouched, request_done: session.as_mut().is_body_done() };
        let method = &session.req_header().method;
        let again =
            ctx.route.as_ref().is_some_and(|served| ctx.attempt.broken(&served.upstream, method, &broken));
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        let Some(mut reason) = failure(error) else {
            // The client is gone; nobody is left to answer.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        // An upstream that waits for a body the client does not send is not slow. HTTP/2 has no other limit.
        if *error.etype() == ErrorType::ReadTimedout && !session.as_mut().is_body_done() {
            reason = Reason::BodyTimeout;
        }
        if matches!(reason, Reason::UpstreamUnreachable | Reason::UpstreamTimeout | Reason::Internal) {
            tracing::warn!(request = ctx.request_id, error = told(error), "a request could not be proxied");
        }
        if session.response_written().is_none() {
            session.set_keepalive(None);
            if let Err(error) = self.refuse(session, ctx, &Denial::new(reason)).await {
                tracing::debug!(%error, "an error answer could not be sent");
            }
        }
        ctx.reason = reason;
        FailToProxy { error_code: ctx.status.unwrap_or(0), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut RequestContext) {
        let took = ctx.started.elapsed();
        let written = session.response_written().filter(|response| !response.status.is_informational());
        let code = written.map_or(CLIENT_GONE, |response| response.status.as_u16());
        match (&ctx.route, ctx.endpoint) {
            (Some(served), _) => served.metrics.answered(code, took),
            (None, Some(endpoint)) => {
                if let Some(metrics) = self.endpoint_metrics.get(endpoint) {
                    metrics.answered(code, took);
                }
            }
            (None, None) => ctx.snapshot.unrouted.answered(code, took),
        }
        if let (Some(served), Some(answered)) = (&ctx.route, ctx.attempt.answered) {
            served.upstream.metrics().answered(answered);
        }
        self.log_request(session, ctx, code, took);
        // A whole answer was sent, by us or by an upstream that did not wait for the body.
        if ctx.status.is_some() || error.is_none() {
            respond::drop_rest(session).await;
        }
        listener::request_ended(session.stream());
    }

    /// Never the query: people put tokens there.
    fn request_summary(&self, session: &Session, ctx: &RequestContext) -> String {
        format!("{} {} ({})", session.req_header().method, ctx.path, ctx.request_id)
    }
}

impl Gateway {
    /// Who calls: the token found and verified, and not known to be revoked. A public route never looks.
    async fn caller(&self, session: &Session, ctx: &mut RequestContext, served: &ServedRoute) -> Caller {
        use crate::policy::requirement::Mode;
        let requirement = &served.route.requirement;
        if requirement.mode == Mode::Public {
            return Caller::Anonymous;
        }
        let token = match bearer::find(&session.req_header().headers, ctx.snapshot.limits.token_bytes) {
            Bearer::Absent => return Caller::Anonymous,
            Bearer::Malformed => return Caller::Refused(Reason::MalformedCredentials),
            Bearer::TooLarge => return Caller::Refused(Reason::TokenTooLarge),
            Bearer::Token(token) => token,
        };
        let snapshot: &Snapshot = &ctx.snapshot;
        match snapshot.verifier.verify(token, self.clock.now()).await {
            Err(refusal) => {
                refusal.issuer.as_deref().unwrap_or_default().clone_into(&mut ctx.issuer);
                Caller::Refused(refusal.reason)
            }
            Ok(claims) => {
                claims.issuer().clone_into(&mut ctx.issuer);
                if let (Some(reference), Some(sessions)) = (claims.session(), &self.sessions) {
                    if let Err(reason) = sessions.check(requirement.revocation, reference).await {
                        return Caller::Refused(reason);
                    }
                    sessions.confirmations.note(reference);
                }
                Caller::Verified(claims)
            }
        }
    }

    /// Adds the assertion to a permit that names a caller. Waits only for a slow signature that is not at hand.
    async fn assert(
        &self,
        decision: Decision,
        to: &Addressee,
        ctx: &RequestContext,
        served: &ServedRoute,
    ) -> Decision {
        let Decision::Allow(permit) = decision else { return decision };
        let Some(claims) = permit.claims() else { return Decision::Allow(permit) };
        let broken = Decision::Deny(Denial::new(Reason::Internal));
        let Some(assertions) = &ctx.snapshot.assertions else { return broken };
        let now = self.clock.now();
        let assertion = match assertions.at_hand(claims, to, now) {
            Some(assertion) => Ok(assertion),
            // Boxed, so that what few requests do makes no request's future larger.
            None => match Box::pin(assertions.mint(claims, to, now)).await {
                Ok(assertion) => Ok(assertion),
                Err(AssertionError::AmbiguousScope) => Err(WhyUnforwardable::AmbiguousScope),
                Err(error) => {
                    tracing::error!(request = ctx.request_id, %error, "an assertion could not be made");
                    return broken;
                }
            },
        };
        let Some(rule) = &served.route.forward.assertion else { return broken };
        permit.asserting(&served.route.requirement, &served.route.forward, rule, assertion)
    }
}

/// An error of the proxy engine for the log. One about a header quotes all of it, cookies and tokens too.
fn told(error: &Error) -> String {
    match error.etype() {
        ErrorType::InvalidHTTPHeader => {
            format!("{} {}", error.esource().as_str(), error.etype().as_str()).trim_start().to_owned()
        }
        _ => error.to_string(),
    }
}

/// What an error of the proxy engine means to the client; `None` if the client itself broke off.
fn failure(error: &Error) -> Option<Reason> {
    use pingora_core::ErrorSource as Source;
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(413), _) => Some(Reason::BodyTooLarge),
        (ErrorType::HTTPStatus(502), _) => Some(Reason::UpstreamUnreachable),
        (ErrorType::ReadTimedout, Source::Downstream) => Some(Reason::BodyTimeout),
        (
            ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ReadError
            | ErrorType::ConnectionClosed
            | ErrorType::H2Error,
            Source::Downstream,
        ) => None,
        (_, Source::Downstream) => Some(Reason::BadRequest),
        (
            ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout,
            Source::Upstream,
        ) => Some(Reason::UpstreamTimeout),
        (_, Source::Upstream) => Some(Reason::UpstreamUnreachable),
        _ => Some(Reason::Internal),
    }
}
