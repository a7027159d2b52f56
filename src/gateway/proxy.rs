//! The phases of a request, in Pingora's order; each a few lines.

use super::context::RequestContext;
use super::decision::Verdict;
use super::guard::Guarded;
use super::lease::Lease;
use super::rate::Standing;
use super::report::is_final;
use super::{Gateway, denial, listener, outgoing, respond, returned, websocket};
use crate::panics::{Place, contain};
use crate::policy::Denial;
use crate::reason::Reason;
use crate::reply::Reply;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::http::server::Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session as EngineSession};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// The gateway as Pingora's engine drives it.
pub(super) struct Phases(pub(super) Arc<Gateway>);

#[async_trait]
impl ProxyHttp for Phases {
    // Boxed, because the engine moves it around.
    type CTX = Box<RequestContext>;

    /// None: nothing is compressed here, and each would be made anew for every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    fn new_ctx(&self) -> Self::CTX {
        Box::new(self.0.context(Lease::current()))
    }

    /// Takes over what was decided about a request before it came to the engine.
    fn on_connection_reuse(
        &self,
        _session: &mut EngineSession,
        ctx: &mut Self::CTX,
        decided: Box<dyn Any + Send + Sync>,
    ) {
        if let Ok(decided) = decided.downcast::<RequestContext>() {
            std::mem::replace(ctx, decided).forget();
        }
    }

    async fn early_request_filter(&self, session: &mut EngineSession, ctx: &mut Self::CTX) -> Result<()> {
        self.0.begin(session, ctx);
        Ok(())
    }

    async fn request_filter(&self, session: &mut EngineSession, ctx: &mut Self::CTX) -> Result<bool> {
        // It may have been decided about before.
        if ctx.permit.is_some() {
            return Ok(false);
        }
        match self.0.process(session, ctx).await? {
            Progress::Answered => Ok(true),
            Progress::Permitted => Ok(false),
            Progress::Answer(reply) => {
                respond::send(session, &reply, &ctx.request_id).await.map_err(Error::into_down)?;
                Ok(true)
            }
        }
    }

    /// Counts the body: one without a length is cut off at the limit.
    async fn request_body_filter(
        &self,
        session: &mut EngineSession,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        // Once the upstream speaks it is a conversation, in which a pause is no stall.
        ctx.lease.awaits_body(!end && ctx.untold.status.is_none());
        // Of an empty last piece the engine would make the chunk that ends a body, and end it once more: an upstream
        // would answer the second end as a request, and the next request would get that answer.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        ctx.body_bytes += body.as_ref().map_or(0, |piece| piece.len() as u64);
        match ctx.body_limit() {
            // A WebSocket has no length.
            Some(most) if ctx.body_bytes > most && !session.was_upgraded() => {
                Error::e_explain(ErrorType::HTTPStatus(413), "the body is too large")
            }
            _ => Ok(()),
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut EngineSession,
        ctx: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let peer = Box::new(ctx.next_peer()?);
        // A further attempt sends the body from its beginning.
        ctx.body_bytes = 0;
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut EngineSession,
        upstream_request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        self.0.prepare_request(session, upstream_request, ctx)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut EngineSession,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        check_response(response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut EngineSession,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        self.0.prepare_response(session, response, ctx)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut EngineSession,
        trailers: &mut HeaderMap,
        _ctx: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        returned::clean_trailers(trailers);
        Ok(None)
    }

    fn response_body_filter(
        &self,
        _session: &mut EngineSession,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        ctx.untold.sent += body.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut EngineSession,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(ctx.unconnected(session));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut EngineSession,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("upstream {peer}"));
        let again = ctx.broken(&error, reused, session);
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut EngineSession,
        error: &Error,
        ctx: &mut Self::CTX,
    ) -> FailToProxy {
        self.0.fail(session, error, ctx).await
    }

    async fn logging(&self, session: &mut EngineSession, error: Option<&Error>, ctx: &mut Self::CTX) {
        self.0.conclude(session, error, ctx).await;
    }

    fn request_summary(&self, session: &EngineSession, ctx: &Self::CTX) -> String {
        ctx.summary(session)
    }
}

/// How far a request has come once it is decided about.
pub(super) enum Progress {
    /// Its upstream has answered.
    Answered,
    /// This is our answer to it.
    Answer(Reply),
    /// It has a permit, and is the engine's to forward.
    Permitted,
}

impl Gateway {
    /// What a request carries that begins now.
    pub(super) fn context(&self, lease: Arc<Lease>) -> RequestContext {
        RequestContext::new(self.snapshot.load_full(), Arc::clone(&self.reporter), lease)
    }

    /// The header is complete: the connection's deadline rests, and the body gets its own.
    pub(super) fn begin(&self, session: &mut Session, ctx: &mut RequestContext) {
        if let Some(switch) = Guarded::switch(session.stream()) {
            switch.disarm();
        }
        ctx.untold.method = session.req_header().method.clone();
        if ctx.permit.is_none() {
            ctx.span = self.reporter.span(&session.req_header().headers);
        }
        let limits = &ctx.snapshot.limits;
        session.set_read_timeout(Some(limits.body_timeout));
        // The connection itself minds a client that does not read, but knows nothing of streams.
        if session.is_http2() {
            session.set_write_timeout(Some(limits.body_timeout));
        }
        self.announce_end(session);
        // What follows a CONNECT may be meant for a tunnel that is never opened.
        if session.req_header().method == Method::CONNECT {
            session.set_keepalive(None);
        }
        // It knows no interim responses (RFC 9110 section 15.2).
        if session.req_header().version == Version::HTTP_10 {
            session.set_ignore_info_resp(true);
        }
    }

    /// Decides everything. After a panic here the client gets an answer still; one in a later phase costs it its
    /// connection.
    pub(super) async fn process(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<Progress> {
        let answered = contain(Place::Request, async {
            let verdict = self.decide(session, ctx).await;
            self.carry_out(verdict, session, ctx).await
        });
        let answered = answered.await;
        answered.unwrap_or_else(|panicked| Error::e_explain(ErrorType::InternalError, panicked.to_string()))
    }

    /// Writes identity on the outgoing request only: what stood on the client's request a client could
    /// remove again through `Connection`. Runs once per attempt, always from the client's own header.
    pub(super) fn prepare_request(
        &self,
        session: &Session,
        upstream_request: &mut RequestHeader,
        ctx: &RequestContext,
    ) -> Result<()> {
        let cookies = self.own.as_ref().map(|own| &own.cookie);
        outgoing::prepare(session, upstream_request, ctx, cookies)?;
        ctx.lease.awaits_body(true);
        Ok(())
    }

    /// A request has failed; the client is answered if it can be.
    pub(super) async fn fail(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        let Some(mut reason) = ctx.lease.ended().or_else(|| failure(error)) else {
            // The client is gone; nobody is left to answer.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        // An upstream that waits for a body the client does not send is not slow.
        if *error.etype() == ErrorType::ReadTimedout && !session.is_body_done() {
            reason = Reason::BodyTimeout;
        }
        if matches!(reason, Reason::UpstreamUnreachable | Reason::UpstreamTimeout | Reason::Internal) {
            tracing::warn!(request = ctx.request_id, error = told(error), "a request could not be proxied");
        }
        // After an interim response there is still an answer to give.
        if session.response_written().is_none_or(|response| !is_final(response.status)) {
            session.set_keepalive(None);
            if let Err(error) = self.refuse(session, ctx, &Denial::new(reason)).await {
                tracing::debug!(%error, "an error answer could not be sent");
            }
        }
        ctx.reason = reason;
        FailToProxy { error_code: ctx.status.unwrap_or(0), can_reuse_downstream: false }
    }

    /// A request is over, one way or the other.
    pub(super) async fn conclude(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        ctx: &mut RequestContext,
    ) {
        self.reporter.ended(session, ctx);
        // A whole answer was sent, by us or by an upstream that did not wait for the body.
        if ctx.status.is_some() || error.is_none() {
            respond::drop_rest(session).await;
        }
        listener::request_ended(session.stream());
    }

    /// Does what was decided on, but for writing an answer of ours and for what is the engine's.
    pub(super) async fn carry_out(
        &self,
        verdict: Verdict,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<Progress> {
        // What is boxed would make the future of every request larger.
        match verdict {
            Verdict::Endpoint(endpoint) => {
                Box::pin(self.answer(session, ctx, endpoint)).await.map(Progress::Answer)
            }
            Verdict::Preflight(asked, cors) => {
                Ok(Progress::Answer(Self::preflight_answer(session, ctx, asked, &cors)))
            }
            Verdict::Refuse(denial) => {
                let reply = Self::refusal(session, ctx, &denial, denial::status(denial.reason));
                Ok(Progress::Answer(reply))
            }
            Verdict::Forward(served, permit) => {
                ctx.allow(&served, &permit);
                let claims = permit.claims().map(|claims| &**claims);
                ctx.attempt.choose_by(served.upstream.draw(claims, ctx.client));
                ctx.upgrade = served.route.upgrade && websocket::is_handshake(session.req_header());
                self.bound(session, ctx, &served, &permit);
                ctx.permit = Some(permit);
                let Some(way) = self.direct_way(session, ctx) else { return Ok(Progress::Permitted) };
                Box::pin(self.forward(way, session, ctx)).await.map(|()| Progress::Answered)
            }
        }
    }

    /// The response's header as the client gets it.
    pub(super) fn prepare_response(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if let Some(own) = &self.own {
            returned::keep_own_cookies(response, &own.cookie)?;
        }
        returned::drop_hop_by_hop(response);
        if session.req_header().version == Version::HTTP_10 {
            // It knows no chunks (RFC 9112 section 6.1): the body ends with the connection.
            response.remove_header(&header::TRANSFER_ENCODING);
        }
        if let Some(cors) = ctx.route.as_ref().and_then(|served| served.route.cors.as_ref()) {
            returned::replace_cors(response, cors, &session.req_header().headers)?;
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            websocket::open(session, response, &ctx.lease)?;
        } else if response.status.is_informational() {
            return Ok(());
        }
        for (name, value) in ctx.standing.iter().flat_map(Standing::fields) {
            response.append_header(respond::spelled(&name), value)?;
        }
        ctx.lease.awaits_body(false);
        ctx.untold.status = Some(response.status.as_u16());
        if let Some(served) = &ctx.route {
            ctx.attempt.answer(&served.upstream);
        }
        self.announce_end(session);
        response.insert_header("X-Request-Id", &ctx.request_id)
    }
}

/// An upstream may switch to WebSocket if it was asked to, and to nothing else: what follows a 101 is no HTTP
/// (RFC 9110 section 15.2.2).
pub(super) fn check_response(response: &ResponseHeader, ctx: &RequestContext) -> Result<()> {
    let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if switches && !(ctx.upgrade && websocket::is_accepted(response)) {
        let mut error =
            Error::explain(ErrorType::InvalidHTTPHeader, "the upstream switched protocols unasked");
        error.as_up();
        return Err(error);
    }
    Ok(())
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
