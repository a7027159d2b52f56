//! The access token of a request to an endpoint: verified, ours, and its session not ended.

use super::fault::Fault;
use super::{EndpointRequest, Endpoints};
use crate::clock::Timestamp;
use crate::json;
use crate::reason::Reason;
use crate::session::id::SessionRef;
use crate::token::bearer::{self, Bearer};
use crate::token::claims::VerifiedClaims;
use crate::token::verifier::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;

/// A good access token of ours.
pub(super) struct Access {
    pub(super) claims: Arc<VerifiedClaims>,
    pub(super) session: SessionRef,
}

impl Endpoints {
    /// The request's access token, if it would be good on a route too.
    pub(super) async fn access(
        &self,
        request: &EndpointRequest<'_>,
        now: Timestamp,
    ) -> Result<Access, Fault> {
        let token = Self::bearer(request)?;
        let claims =
            self.parts.verifier.verify_own(token, now).await.map_err(|refusal| fault_of(&refusal))?;
        let access = with_session(claims)?;
        if self.parts.revocations.is_revoked(&access.session) {
            return Err(Fault::AccessTokenRevoked);
        }
        Ok(access)
    }

    /// The request's access token, genuine but perhaps expired or of an ended session: good for logging out.
    pub(super) async fn genuine_access(
        &self,
        request: &EndpointRequest<'_>,
        now: Timestamp,
    ) -> Option<Access> {
        let token = Self::bearer(request).ok()?;
        let mut verified = self.parts.verifier.verify_own(token, now).await;
        if matches!(&verified, Err(refusal) if refusal.reason == Reason::Expired) {
            // Read unverified, but only to choose the time at which everything is verified.
            verified = self.parts.verifier.verify_own(token, claimed_issue(token)?).await;
        }
        with_session(verified.ok()?).ok()
    }

    fn bearer<'a>(request: &EndpointRequest<'a>) -> Result<&'a str, Fault> {
        match bearer::find(request.headers, request.token_bytes) {
            Bearer::Absent => Err(Fault::NoAccessToken),
            Bearer::Malformed => Err(Fault::MalformedCredentials),
            Bearer::TooLarge => Err(Fault::BadAccessToken("The access token is malformed")),
            Bearer::Token(token) => Ok(token),
        }
    }
}

fn with_session(claims: Arc<VerifiedClaims>) -> Result<Access, Fault> {
    match claims.session() {
        Some(&session) => Ok(Access { claims, session }),
        None => Err(Fault::BadAccessToken("The access token belongs to no session")),
    }
}

fn fault_of(refusal: &Refusal) -> Fault {
    Fault::BadAccessToken(match refusal.reason {
        Reason::Expired => "The access token expired",
        Reason::MalformedToken => "The access token is malformed",
        _ => "The access token is not valid",
    })
}

fn claimed_issue(token: &str) -> Option<Timestamp> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    json::object(&payload).ok()?.get("iat")?.as_u64().map(Timestamp::from_secs)
}
