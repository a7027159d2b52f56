//! The direct way to an upstream: a request without a body, from one HTTP/1.1 connection to another. It does what
//! the engine does for such a request, without what the engine keeps ready for all others, which is most of what
//! such a request costs.

use super::context::RequestContext;
use super::{Gateway, outgoing, proxy};
use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::server::Session;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;
use tokio::io::AsyncWriteExt as _;

impl Gateway {
    /// Where connections for the direct way come from, if the request can go it.
    pub(super) fn direct_way(&self, session: &Session, ctx: &RequestContext) -> Option<&TransportConnector> {
        let speaks_http1 = ctx.route.as_ref().is_some_and(|served| !served.upstream.settings().http2);
        let plain = speaks_http1 && !ctx.upgrade && outgoing::is_plain(session.req_header());
        self.connector.as_ref().filter(|_| plain)
    }

    /// Forwards the request, as often as its attempts allow.
    ///
    /// # Errors
    /// Those of the last attempt. If nothing of a response was written the client has no answer yet.
    pub(super) async fn forward(
        &self,
        connector: &TransportConnector,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        loop {
            let peer = ctx.next_peer()?;
            let (error, again) = match connection(connector, &peer).await {
                Err(mut error) => {
                    error.as_up();
                    (error, ctx.unconnected(session))
                }
                Ok((stream, reused)) => match self.exchange(stream, session, ctx).await {
                    Ok(stream) => {
                        if let Some(stream) = stream {
                            connector.release_stream(stream, peer.reuse_hash(), peer.idle_timeout());
                        }
                        return Ok(());
                    }
                    Err(error) => {
                        let error = error.more_context(format!("upstream {peer}"));
                        let again = ctx.broken(&error, reused, session);
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
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<Option<Stream>> {
        let timeouts = ctx.route.as_ref().map(|served| served.route.timeouts);
        let timeouts = timeouts.ok_or_else(|| Error::explain(ErrorType::InternalError, "no route"))?;
        let head = outgoing::head(session, ctx, self.own.as_ref().map(|own| &own.cookie))?;
        let sent = tokio::time::timeout(timeouts.write, send(&mut stream, &head)).await;
        sent.unwrap_or_else(|_| Error::e_explain(ErrorType::WriteTimedout, "sending the request"))
            .map_err(Error::into_up)?;
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
                if !end && has_no_length(&response) {
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
            other => Ok(other),
        }
    }
}

/// A connection, and whether it has served a request before.
async fn connection(connector: &TransportConnector, peer: &HttpPeer) -> Result<(Stream, bool)> {
    match connector.reused_stream(peer).await {
        Some(stream) => Ok((stream, true)),
        // Boxed, so that what few requests do makes no request's future larger.
        None => Box::pin(connector.new_stream(peer)).await.map(|stream| (stream, false)),
    }
}

async fn send(stream: &mut Stream, head: &[u8]) -> Result<()> {
    stream.write_all(head).await.or_err(ErrorType::WriteError, "sending the request")?;
    stream.flush().await.or_err(ErrorType::WriteError, "sending the request")
}

/// Whether a final response has a body that ends with the upstream's connection.
fn has_no_length(response: &ResponseHeader) -> bool {
    !response.status.is_informational()
        && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !response.headers.contains_key(header::TRANSFER_ENCODING)
        && !response.headers.contains_key(header::CONTENT_LENGTH)
}
