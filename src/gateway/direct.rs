//! The direct way to an upstream that speaks HTTP/1.1: for a request with a short body or none. It does what the engine
//! does for such a request, without what the engine keeps ready for all others, which is most of what such a request
//! costs. A body is read whole before the upstream hears of it: a client that sends its own slowly occupies no
//! connection of the upstream's.

use super::context::RequestContext;
use super::settings::UpstreamTimeouts;
use super::upstream::Room;
use super::{Gateway, outgoing, proxy, respond, returned};
use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::server::Session;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;

/// The longest body that goes it, in bytes: as much as the engine keeps for another attempt.
const SHORT_BODY: u64 = 64 * 1024;

/// The connections of the direct way: where they come from, and how many may wait for their next request.
pub(super) struct DirectWay {
    pub(super) connector: TransportConnector,
    pub(super) room: Room,
}

impl Gateway {
    /// The direct way, if the request can go it.
    pub(super) fn direct_way(&self, session: &mut Session, ctx: &RequestContext) -> Option<&DirectWay> {
        let speaks_http1 = ctx.route.as_ref().is_some_and(|served| !served.upstream.settings().http2);
        let short = session.is_body_empty()
            || respond::content_length(session).is_some_and(|length| length <= SHORT_BODY);
        let plain = speaks_http1 && !ctx.upgrade && short && outgoing::is_plain(session.req_header());
        self.direct.as_ref().filter(|_| plain)
    }

    /// Forwards the request, as often as its attempts allow.
    ///
    /// # Errors
    /// Those of the last attempt. If nothing of a response was written the client has no answer yet.
    pub(super) async fn forward(
        &self,
        way: &DirectWay,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let body = whole_body(session, ctx).await.map_err(Error::into_down)?;
        // After one that had been closed others may have been too, unseen.
        let mut use_kept = true;
        loop {
            let now = Instant::now();
            let (target, served) = ctx.next_target(now)?;
            let timeouts = &served.route.timeouts;
            let kept = if use_kept { target.take_idle(now) } else { None };
            let reused = kept.is_some();
            let connected = match kept {
                Some(stream) => Ok(stream),
                // Boxed, so that what few requests do makes no request's future larger.
                None => Box::pin(connect(&way.connector, served.upstream.peer(&target, timeouts))).await,
            };
            let (error, again) = match connected {
                Err(mut error) => {
                    error.as_up();
                    (error, ctx.unconnected(session))
                }
                Ok(stream) => match self.exchange(stream, timeouts, &body, session, ctx).await {
                    Ok(stream) => {
                        if let Some(stream) = stream {
                            target.keep_idle(stream, timeouts.idle, &way.room);
                        }
                        return Ok(());
                    }
                    Err(error) => {
                        let error = error.more_context(format!("upstream {}", target.address));
                        let again = ctx.broken(&error, reused, session);
                        use_kept &= !reused;
                        (error, again)
                    }
                },
            };
            if !again {
                return Err(error);
            }
        }
    }

    /// Sends the request and passes on its response; the connection, if another request may use it.
    async fn exchange(
        &self,
        mut stream: Stream,
        timeouts: &UpstreamTimeouts,
        body: &[u8],
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<Option<Stream>> {
        let request = outgoing::whole(session, ctx, self.own.as_ref().map(|own| &own.cookie), body)?;
        send(&mut stream, &request, timeouts.write).await.map_err(Error::into_up)?;
        // The answer may be long in coming.
        drop(request);
        let mut upstream = HttpSession::new(stream);
        upstream.read_timeout = Some(timeouts.read);
        loop {
            // A response that always has more is not asked below whether it may go on.
            if ctx.lease.ended().is_some() {
                return Error::e_explain(ErrorType::ConnectionClosed, "the request has ended")
                    .map_err(Error::into_down);
            }
            let task = tokio::select! {
                biased;
                task = upstream.read_response_task() => {
                    task.unwrap_or_else(|error| HttpTask::Failed(error.into_up()))
                }
                // The client says nothing more: it can only leave.
                left = session.read_body_or_idle(true) => {
                    left.map_err(Error::into_down)?;
                    return Error::e_explain(ErrorType::ConnectionClosed, "the client has left")
                        .map_err(Error::into_down);
                }
            };
            let tasks = match self.passed_on(task, session, ctx)? {
                // Not alone: only in company does it let the client have what is written so far.
                failed @ HttpTask::Failed(_) => vec![HttpTask::Body(None, false), failed],
                task => vec![task],
            };
            if session.response_duplex_vec(tasks).await? {
                break;
            }
        }
        upstream.respect_keepalive();
        Ok(upstream.reuse().await)
    }

    /// A piece of the response as the client gets it.
    fn passed_on(&self, task: HttpTask, session: &mut Session, ctx: &mut RequestContext) -> Result<HttpTask> {
        match task {
            HttpTask::Header(mut response, end) => {
                proxy::check_response(&response, ctx)?;
                if !end && !session.is_http2() && has_no_length(&response) {
                    // So that the client's connection can be kept.
                    response.set_version(Version::HTTP_11);
                    response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
                }
                self.prepare_response(session, &mut response, ctx)?;
                Ok(HttpTask::Header(response, end))
            }
            HttpTask::Body(piece, end) => {
                ctx.untold.sent += piece.as_ref().map_or(0, |piece: &Bytes| piece.len() as u64);
                Ok(HttpTask::Body(piece, end))
            }
            HttpTask::Trailer(Some(mut trailers)) => {
                returned::clean_trailers(&mut trailers);
                Ok(HttpTask::Trailer(Some(trailers)))
            }
            other => Ok(other),
        }
    }
}

/// The body of a request that says how long it is, all of it.
async fn whole_body(session: &mut Session, ctx: &mut RequestContext) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while !session.is_body_done() {
        ctx.lease.awaits_body(true);
        let Some(piece) = session.read_request_body().await? else { break };
        ctx.body_bytes += piece.len() as u64;
        body.extend_from_slice(&piece);
    }
    ctx.lease.awaits_body(false);
    Ok(body)
}

async fn connect(connector: &TransportConnector, peer: HttpPeer) -> Result<Stream> {
    connector.new_stream(&peer).await
}

async fn send(stream: &mut Stream, request: &[u8], limit: Duration) -> Result<()> {
    let mut sending = pin!(async {
        stream.write_all(request).await.or_err(ErrorType::WriteError, "sending the request")?;
        stream.flush().await.or_err(ErrorType::WriteError, "sending the request")
    });
    // A timer is for those that have to wait.
    match futures_util::poll!(&mut sending) {
        Poll::Ready(sent) => sent,
        Poll::Pending => tokio::time::timeout(limit, sending)
            .await
            .unwrap_or_else(|_| Error::e_explain(ErrorType::WriteTimedout, "sending the request")),
    }
}

/// Whether a final response has a body that ends with the upstream's connection.
fn has_no_length(response: &ResponseHeader) -> bool {
    !response.status.is_informational()
        && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !response.headers.contains_key(header::TRANSFER_ENCODING)
        && !response.headers.contains_key(header::CONTENT_LENGTH)
}
