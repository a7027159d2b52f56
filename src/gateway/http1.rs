//! A client's HTTP/1 connection: its requests, one after the other. Each is decided about here, and answered here if
//! it is not to be forwarded, or forwarded the direct way; the proxy engine gets those that are left.

use super::context::RequestContext;
use super::engine::Engine;
use super::guard::Guarded;
use super::lease::{self, Lease};
use super::proxy::Progress;
use super::{listener, respond};
use crate::reply::Reply;
use async_trait::async_trait;
use http::{Method, Version, header};
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp as _, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_core::{Error, ErrorType};
use std::pin::pin;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;

#[async_trait]
impl ServerApp for Engine {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if Guarded::is_http2(&stream) {
            return self.streams.process_new(stream, shutdown).await;
        }
        let mut closing = self.closing.subscribe();
        let mut closing = pin!(closing.wait_for(|closing| *closing));
        let mut ticker = None;
        // Boxed, because it is large and goes from hand to hand.
        let mut session = Box::new(ServerSession::new_http1(stream));
        // How long a client may be silent is the connection's to say.
        session.set_keepalive(Some(0));
        session.set_pipelining_enabled(true);
        loop {
            let read = tokio::select! {
                biased;
                read = session.read_request() => read,
                _ = &mut closing => return None,
            };
            match read {
                Ok(true) => {}
                Ok(false) => return None,
                // Boxed, as what is large and not for every request; so is what a connection has no use for while it waits.
                Err(error) => {
                    Box::pin(refuse_unread(*session, &error)).await;
                    return None;
                }
            }
            if *shutdown.borrow() {
                session.set_keepalive(None);
            }
            let lease = Arc::<Lease>::default();
            let request = Box::pin(self.serve(session, Arc::clone(&lease), shutdown));
            let (stream, settings) = lease::hold(lease, &mut ticker, request).await?.consume();
            session = Box::new(ServerSession::new_http1(stream));
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            // The engine's does not say so.
            session.set_pipelining_enabled(true);
        }
    }
}

impl Engine {
    /// Serves one request whose header is read; the connection, if it can have another.
    async fn serve(
        &self,
        mut session: Box<ServerSession>,
        lease: Arc<Lease>,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let gateway = &self.gateway;
        let mut ctx = Box::new(gateway.context(lease));
        gateway.begin(&mut session, &mut ctx);
        let answered = match gateway.process(&mut session, &mut ctx).await {
            Ok(Progress::Answered) => Ok(()),
            Ok(Progress::Permitted) => return Box::pin(self.hand_over(session, ctx, shutdown)).await,
            Ok(Progress::Answer(reply)) => {
                gateway.announce_end(&mut session);
                if has_said_all(&mut session, &ctx) {
                    let settings = HttpPersistentSettings::for_session(&session);
                    let ServerSession::H1(session) = *session else { return None };
                    return answer_at_once(session.into_inner(), settings, ctx, &reply).await;
                }
                Box::pin(respond::send(&mut session, &reply, &ctx.request_id)).await.map_err(Error::into_down)
            }
            Err(error) => Err(error),
        };
        let error = answered.err();
        if let Some(error) = &error {
            Box::pin(gateway.fail(&mut session, error, &mut ctx)).await;
        }
        gateway.conclude(&mut session, error.as_deref(), &mut ctx).await;
        if error.is_some() {
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let (mut stream, ahead) = session.finish().await.ok().flatten()?.into_parts();
        // What came of the next request already is read by whom minds its time and size.
        if let Some(ahead) = ahead {
            stream = Guarded::unread(stream, &ahead)?;
        }
        Some(ReusedHttpStream::new(stream, Some(settings)))
    }

    /// Has the engine forward a request. It reads the header itself, so it gets it once more, and with it what was
    /// decided.
    async fn hand_over(
        &self,
        session: Box<ServerSession>,
        ctx: Box<RequestContext>,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // What follows an upgrade is of another protocol, and the request's.
        let body =
            body_length(&session).filter(|_| !session.req_header().headers.contains_key(header::UPGRADE));
        let ServerSession::H1(session) = *session else { return None };
        let header = session.get_headers_raw_bytes();
        let mut session = ServerSession::new_http1(Guarded::rewound(session.into_inner(), &header, body)?);
        session.set_connection_user_context(Some(ctx));
        self.streams.0.process_new_http(session, shutdown).await
    }
}

/// Whether all that came is one request, read to its end, of a client that keeps its connection and can be sent a body.
/// What was counted then is nothing but that request: the connection can be kept without asking the session.
fn has_said_all(session: &mut ServerSession, ctx: &RequestContext) -> bool {
    let request = session.req_header();
    let usual = request.version == Version::HTTP_11 && request.method != Method::HEAD;
    // One without a path was not admitted: nothing is known of its lengths, and the log line needs the session.
    let known = usual && !ctx.path.is_empty() && session.get_keepalive().is_some();
    let body = body_length(session).filter(|_| known).and_then(|length| usize::try_from(length).ok());
    let Some(body) = body else { return false };
    session.is_body_done()
        && session.as_http1().is_some_and(|session| {
            Guarded::has_read_just(session.stream(), &session.get_headers_raw_bytes(), body)
        })
}

/// How long the request's body is; `None` if only its end will tell.
fn body_length(session: &ServerSession) -> Option<u64> {
    let headers = &session.req_header().headers;
    match headers.get(header::CONTENT_LENGTH) {
        _ if headers.contains_key(header::TRANSFER_ENCODING) => None,
        None => Some(0),
        Some(_) => respond::content_length(session),
    }
}

/// Answers a request that has said all. Floods are made of those we refuse: the answer is written in one piece.
async fn answer_at_once(
    mut stream: Stream,
    settings: HttpPersistentSettings,
    mut ctx: Box<RequestContext>,
    reply: &Reply,
) -> Option<ReusedHttpStream> {
    let answer = respond::written(reply, &ctx.request_id, true);
    stream.write_all(&answer).await.ok()?;
    stream.flush().await.ok()?;
    // It tells of itself as it goes.
    (ctx.untold.status, ctx.untold.sent) = (Some(reply.status), reply.body.len() as u64);
    listener::request_ended(Some(&stream));
    Some(ReusedHttpStream::new(stream, Some(settings)))
}

/// Ends a connection whose header block could not be read. The connection itself writes our answer in the place
/// of Pingora's.
async fn refuse_unread(mut session: ServerSession, error: &Error) {
    let answered =
        *error.etype() == ErrorType::InvalidHTTPHeader || session.stream().is_some_and(Guarded::is_overfull);
    if !answered {
        return session.shutdown().await;
    }
    if let Err(error) = session.respond_error(400).await {
        tracing::debug!(%error, "a refusal could not be sent");
    }
    session.shutdown().await;
    if let ServerSession::H1(session) = session {
        let mut stream = session.into_inner();
        if let Some(switch) = Guarded::switch(Some(&stream)) {
            switch.disarm();
        }
        respond::drop_unread(&mut stream).await;
    }
}
