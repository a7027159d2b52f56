//! Writing the gateway's own answers, and reading small bodies for its own endpoints.

use crate::reply::Reply;
use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::time::Duration;

/// An unread body up to this length is read and dropped, so that the connection can be kept.
const DRAIN_BYTES: u64 = 64 * 1024;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Sends `reply` with a length, keeping the connection where the request allows it.
pub(super) async fn send(session: &mut Session, reply: &Reply, request_id: &str) -> Result<()> {
    let mut response = ResponseHeader::build(reply.status, Some(reply.headers.len() + 3))?;
    for (name, value) in &reply.headers {
        response.append_header(name, value)?;
    }
    response.insert_header("X-Request-Id", request_id)?;
    // RFC 9110 section 8.6: no length on 204.
    if reply.status != 204 {
        response.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
    }
    if drains(session) {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN_TIME));
    }
    let head = session.req_header().method == http::Method::HEAD;
    let has_body = !reply.body.is_empty() && !head;
    session.write_response_header(Box::new(response), !has_body).await?;
    if has_body {
        session.write_response_body(Some(reply.body.clone()), true).await?;
    }
    Ok(())
}

/// Whether what is left of the body is small and on its way: a client that waits for `100 Continue` sends
/// nothing more.
fn drains(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    !headers.contains_key(header::EXPECT)
        && content_length(session)
            .map_or(!headers.contains_key(header::TRANSFER_ENCODING), |n| n <= DRAIN_BYTES)
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

/// Reads a body of at most `most` bytes, each piece within `each`.
pub(super) async fn read_small_body(session: &mut Session, most: usize, each: Duration) -> Result<SmallBody> {
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
    loop {
        match tokio::time::timeout(each, session.read_request_body()).await {
            Err(_) => return Ok(SmallBody::TooSlow),
            Ok(piece) => match piece? {
                None => return Ok(SmallBody::Complete(body.freeze())),
                Some(piece) if body.len() + piece.len() > most => return Ok(SmallBody::TooLarge),
                Some(piece) => body.extend_from_slice(&piece),
            },
        }
    }
}
