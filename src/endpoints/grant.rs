//! The answer that hands out tokens: the same shape for login and refresh.

use super::Endpoints;
use super::fault::Fault;
use super::settings::Naming;
use crate::clock::Timestamp;
use crate::json::ObjectWriter;
use crate::reply::Reply;
use crate::secret::Secret;
use crate::session::store::{Delivery, SessionRecord};
use crate::token::signer::MintedToken;
use http::header;
use serde_json::{Map, Value};

impl Endpoints {
    /// Mints an access token with `claims` and hands it out, with `refresh_token` by the session's way;
    /// `None` if the client keeps the one it has.
    pub(super) async fn grant(
        &self,
        session: &SessionRecord,
        claims: &Map<String, Value>,
        refresh_token: Option<&Secret<String>>,
        now: Timestamp,
    ) -> Result<Reply, Fault> {
        let ends = session.idle_expiry.min(session.absolute_expiry);
        let MintedToken { token, expires_in } = self
            .parts
            .signer
            .mint_aside(&session.subject, claims, session.reference(), ends, now)
            .await
            .map_err(|_| Fault::Internal)?;
        let left = ends.since(now);

        let in_body = refresh_token.filter(|_| session.delivery == Delivery::Body);
        let names = names(self.settings.naming);
        let mut granted = ObjectWriter::new(token.len() + USUAL_REST);
        granted.text(names.access_token, &token);
        granted.number(names.expires_in, expires_in.as_secs());
        granted.number(names.refresh_expires_in, left.as_secs());
        if let Some(token) = in_body {
            granted.text(names.refresh_token, token.expose());
        }
        granted.text(names.session_id, &session.id.to_string());
        granted.text(names.token_type, "Bearer");
        let reply = Reply::json_text(200, granted.finish().ok_or(Fault::Internal)?);
        Ok(match refresh_token.filter(|_| session.delivery == Delivery::Cookie) {
            Some(token) => reply.with(header::SET_COOKIE, &self.settings.cookie.set(token.expose(), left)),
            None => reply,
        })
    }
}

/// Room for what an answer has beside the access token.
const USUAL_REST: usize = 512;

struct Names {
    access_token: &'static str,
    token_type: &'static str,
    expires_in: &'static str,
    session_id: &'static str,
    refresh_expires_in: &'static str,
    refresh_token: &'static str,
}

const fn names(naming: Naming) -> Names {
    match naming {
        Naming::CamelCase => Names {
            access_token: "accessToken",
            token_type: "tokenType",
            expires_in: "expiresIn",
            session_id: "sessionId",
            refresh_expires_in: "refreshExpiresIn",
            refresh_token: "refreshToken",
        },
        Naming::OAuth => Names {
            access_token: "access_token",
            token_type: "token_type",
            expires_in: "expires_in",
            session_id: "session_id",
            refresh_expires_in: "refresh_expires_in",
            refresh_token: "refresh_token",
        },
    }
}
