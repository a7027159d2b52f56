//! Writing the gateway's own answers, and reading small bodies for its own endpoints.

use crate::reply::Reply;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderName};
use pingora_core::Result;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::http::server::Session;
use pingora_http::ResponseHeader;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

/// Room for a usual answer with its body.
const USUAL_ANSWER: usize = 768;

/// An unread body up to this length is read and dropped, so that the connection can be kept.
const DRAIN_BYTES: u64 = 64 * 1024;

/// How long what a client still sends is read and dropped.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Sends `reply` with a length, keeping the connection where the request allows it.
pub(super) async fn send(session: &mut Session, reply: &Reply, request_id: &str) -> Result<()> {
    let mut response = ResponseHeader::build(reply.status, Some(reply.headers.len() + 3))?;
    for (name, value) in &reply.headers {
        response.append_header(spelled(name), value)?;
    }
    response.insert_header("X-Request-Id", request_id)?;
    // RFC 9110 section 8.6: no length on 204.
    if reply.status != 204 {
        response.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
    }
    if drains(session) {
        session.set_close_on_response_before_downstream_finish(false);
    }
    let head = session.req_header().method == http::Method::HEAD;
    let has_body = !reply.body.is_empty() && !head;
    session.write_response_header(Box::new(response)).await?;
    if has_body {
        session.write_response_body(reply.body.clone(), true).await
    } else {
        // HTTP/2 has to be told that nothing follows.
        session.finish_body().await
    }
}

/// The whole of `reply` as it is written to an HTTP/1 connection, which is kept or not.
pub(super) fn written(reply: &Reply, request_id: &str, keep: bool) -> Vec<u8> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = Vec::with_capacity(USUAL_ANSWER);
    let mut put = |pieces: [&[u8]; 4]| pieces.iter().for_each(|piece| answer.extend_from_slice(piece));
    let phrase = status.canonical_reason().unwrap_or_default();
    put([b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", phrase.as_bytes()]);
    for (name, value) in &reply.headers {
        put([b"\r\n", &spelled(name), b": ", value.as_bytes()]);
    }
    put([b"\r\nX-Request-Id: ", request_id.as_bytes(), b"\r\nDate: ", get_cached_date().as_bytes()]);
    // RFC 9110 section 8.6: no length on 204.
    if status != StatusCode::NO_CONTENT {
        put([b"\r\nContent-Length: ", reply.body.len().to_string().as_bytes(), b"", b""]);
    }
    let connection: &[u8] = if keep { b"keep-alive" } else { b"close" };
    put([b"\r\nConnection: ", connection, b"\r\n\r\n", &reply.body]);
    answer
}

/// The usual spelling of a field's name. Names are the same in any (RFC 9110 section 5.1), but people read
/// these. Those of refusals are at hand.
pub(super) fn spelled(name: &HeaderName) -> Bytes {
    let known = match *name {
        header::CACHE_CONTROL => "Cache-Control",
        header::CONTENT_TYPE => "Content-Type",
        header::WWW_AUTHENTICATE => "WWW-Authenticate",
        _ if name == "ratelimit" => "RateLimit",
        _ if name == "ratelimit-policy" => "RateLimit-Policy",
        _ => return titled(name.as_str()),
    };
    Bytes::from_static(known.as_bytes())
}

fn titled(name: &str) -> Bytes {
    let mut starts = true;
    let capital = |letter: u8| {
        let spelled = if starts { letter.to_ascii_uppercase() } else { letter };
        starts = letter == b'-';
        spelled
    };
    name.bytes().map(capital).collect()
}

/// Whether what is left of the body is small and on its way: a client that waits for `100 Continue` sends
/// nothing more.
fn drains(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    !headers.contains_key(header::EXPECT)
        && content_length(session)
            .map_or(!headers.contains_key(header::TRANSFER_ENCODING), |n| n <= DRAIN_BYTES)
}

/// After a whole answer: reads and drops what the client still sends. Closing a socket with unread
/// input resets the connection, and the client may lose the answer (RFC 9112 section 9.6).
pub(super) async fn drop_rest(session: &mut Session) {
    let waits = session.body_bytes_read() == 0 && session.req_header().headers.contains_key(header::EXPECT);
    if session.is_http2() || session.is_body_done() || waits {
        return;
    }
    session.set_total_drain_timeout(Some(DRAIN_TIME));
    if session.drain_request_body().await.is_err() {
        session.set_keepalive(None);
    }
}

/// The same for a connection that ends and on which only the client still speaks.
pub(super) async fn drop_unread(stream: &mut Stream) {
    let mut unread = vec![0; 4096];
    let drained = async { while stream.read(&mut unread).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(DRAIN_TIME, drained).await;
}

/// The request's `Content-Length`, if it has one.
pub(super) fn content_length(session: &Session) -> Option<u64> {
    session.req_header().headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// A body read for one of our own endpoints.
pub(super) enum SmallBody {
    Complete(Bytes),
    TooLarge,
    TooSlow,
}

/// Reads a body of at most `most` bytes, all of it within `limit`: so little takes no longer, and piece by
/// piece it could hold its connection for days.
pub(super) async fn read_small_body(
    session: &mut Session,
    most: usize,
    limit: Duration,
) -> Result<SmallBody> {
    if content_length(session).is_some_and(|length| length > most as u64) {
        return Ok(SmallBody::TooLarge);
    }
    if session
        .req_header()
        .headers
        .get(header::EXPECT)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        session.write_continue_response().await?;
    }
    let mut body = BytesMut::new();
    let deadline = Instant::now() + limit;
    loop {
        match tokio::time::timeout_at(deadline, session.read_request_body()).await {
            Err(_) => return Ok(SmallBody::TooSlow),
            Ok(piece) => match piece? {
                None => return Ok(SmallBody::Complete(body.freeze())),
                Some(piece) if body.len() + piece.len() > most => return Ok(SmallBody::TooLarge),
                Some(piece) => body.extend_from_slice(&piece),
            },
        }
    }
}
