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
use pingora_core::{Error, ErrorSource, ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;

/// The longest body that goes it, in bytes: as much as the engine keeps for another attempt.
const SHORT_BODY: u64 = 64 * 1024;

/// Time enough for the runtime to hand over what has arrived.
const ARRIVED: Duration = Duration::from_millis(50);

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
        let sent = send(&mut stream, &request, timeouts.write).await.map_err(Error::into_up);
        // The answer may be long in coming.
        drop(request);
        let mut upstream = HttpSession::new(stream);
        upstream.read_timeout = Some(timeouts.read);
        let took_all = sent.is_ok();
        let mut early = match sent {
            Ok(()) => None,
            Err(unsent) => Some(early_answer(&mut upstream).await.ok_or(unsent)?),
        };
        loop {
            let task = tokio::select! {
                biased;
                task = next_task(&mut upstream, &mut early) => {
                    task.unwrap_or_else(|error| HttpTask::Failed(error.into_up()))
                }
                // The client says nothing more: it can only leave.
                left = session.read_body_or_idle(true) => {
                    left.map_err(Error::into_down)?;
                    return Error::e_explain(ErrorType::ConnectionClosed, "the client has left")
                        .map_err(Error::into_down);
                }
            };
            // A response that always has more is not asked above whether it may go on.
            if ctx.lease.ended().is_some() {
                return Error::e_explain(ErrorType::ConnectionClosed, "the request has ended")
                    .map_err(Error::into_down);
            }
            let tasks = match self.passed_on(task, session, ctx)? {
                // Not alone: only in company does it let the client have what is written so far.
                failed @ HttpTask::Failed(_) => vec![HttpTask::Body(None, false), failed],
                task => vec![task],
            };
            let written = session.response_duplex_vec(tasks).await.map_err(|mut error| {
                // It does not always say so.
                if *error.esource() == ErrorSource::Unset {
                    error.as_down();
                }
                error
            });
            if written? {
                break;
            }
        }
        // Otherwise it is closed.
        if took_all {
            upstream.respect_keepalive();
        }
        Ok(within(timeouts.write, upstream.reuse()).await.flatten())
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
    let sent = within(limit, async {
        stream.write_all(request).await.or_err(ErrorType::WriteError, "sending the request")?;
        stream.flush().await.or_err(ErrorType::WriteError, "sending the request")
    });
    sent.await.unwrap_or_else(|| Error::e_explain(ErrorType::WriteTimedout, "sending the request"))
}

/// What comes of it in this time. A timer is for those that have to wait.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    match futures_util::poll!(&mut future) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// What the upstream had answered before it would take no more of the request: that the body is too large, or not
/// wanted. It has arrived, if there is any.
async fn early_answer(upstream: &mut HttpSession) -> Option<HttpTask> {
    match within(ARRIVED, upstream.read_response_task()).await? {
        Ok(answer @ HttpTask::Header(..)) => Some(answer),
        _ => None,
    }
}

async fn next_task(upstream: &mut HttpSession, early: &mut Option<HttpTask>) -> Result<HttpTask> {
    match early.take() {
        Some(task) => Ok(task),
        None => upstream.read_response_task().await,
    }
}

/// Whether a final response has a body that ends with the upstream's connection.
fn has_no_length(response: &ResponseHeader) -> bool {
    !response.status.is_informational()
        && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !response.headers.contains_key(header::TRANSFER_ENCODING)
        && !response.headers.contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a long request to an upstream that says this and closes before it has read it.
    async fn after(answer: &[u8]) -> Option<HttpTask> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(answer).await.unwrap();
        let mut stream: Stream = Box::new(ours);
        let sending = send(&mut stream, &[b'x'; 4096], Duration::from_secs(20));
        let (sent, ()) = tokio::join!(sending, async { drop(theirs) });
        assert_eq!(*sent.unwrap_err().etype(), ErrorType::WriteError);
        early_answer(&mut HttpSession::new(stream)).await
    }

    #[tokio::test]
    async fn an_answer_that_came_before_all_was_sent_is_one() {
        let answer = after(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlong").await;
        assert!(matches!(answer, Some(HttpTask::Header(response, false)) if response.status == 413));
        assert!(after(b"").await.is_none());
        assert!(after(b"HTTP/1.1 413 Content").await.is_none());
    }
}
