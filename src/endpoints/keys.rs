//! Our public keys (RFC 7517), for upstreams that verify our access tokens themselves.

use super::Endpoints;
use super::event::Handled;
use crate::reply::Reply;
use crate::token::key_stage::PUBLISHED_FOR;
use bytes::Bytes;
use http::header;

impl Endpoints {
    pub(super) fn keys(&self) -> Handled {
        let mut reply = Reply::empty(200)
            .with_static(header::CONTENT_TYPE, "application/json")
            .with(header::CACHE_CONTROL, &format!("public, max-age={}", PUBLISHED_FOR.as_secs()));
        reply.body = Bytes::copy_from_slice(self.parts.signer.public_key_set().as_bytes());
        reply.into()
    }
}
