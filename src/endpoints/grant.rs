//! The answer that hands out tokens: the same shape for login and refresh.

use super::Endpoints;
use super::fault::Fault;
use super::settings::Naming;
use crate::clock::Timestamp;
use crate::reply::Reply;
use crate::secret::Secret;
use crate::session::id::SessionId;
use crate::session::store::{Delivery, SessionRecord};
use crate::token::signer::MintedToken;
use http::header;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
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
        let MintedToken { token, expires_in } = self
            .parts
            .signer
            .mint_aside(&session.subject, claims, session.reference(), now)
            .await
            .map_err(|_| Fault::Internal)?;
        let left = session.idle_expiry.min(session.absolute_expiry).since(now);

        let in_body = refresh_token.filter(|_| session.delivery == Delivery::Body);
        let granted = Granted {
            names: names(self.settings.naming),
            access_token: &token,
            expires_in: expires_in.as_secs(),
            refresh_expires_in: left.as_secs(),
            refresh_token: in_body.map(|token| token.expose().as_str()),
            session: session.id,
        };
        let reply = Reply::json(200, &granted);
        Ok(match refresh_token.filter(|_| session.delivery == Delivery::Cookie) {
            Some(token) => reply.with(header::SET_COOKIE, &self.settings.cookie.set(token.expose(), left)),
            None => reply,
        })
    }
}

/// The members of the answer.
struct Granted<'a> {
    names: Names,
    access_token: &'a str,
    expires_in: u64,
    refresh_expires_in: u64,
    refresh_token: Option<&'a str>,
    session: SessionId,
}

impl Serialize for Granted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry(self.names.access_token, self.access_token)?;
        members.serialize_entry(self.names.expires_in, &self.expires_in)?;
        members.serialize_entry(self.names.refresh_expires_in, &self.refresh_expires_in)?;
        if let Some(token) = self.refresh_token {
            members.serialize_entry(self.names.refresh_token, token)?;
        }
        members.serialize_entry(self.names.session_id, &format_args!("{}", self.session))?;
        members.serialize_entry(self.names.token_type, "Bearer")?;
        members.end()
    }
}

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
