//! The refresh token of a request: from the cookie, from the body, or from nowhere.

use super::fault::Fault;
use super::fields::Fields;
use super::{EndpointRequest, Endpoints, csrf};
use crate::clock::Timestamp;
use crate::session::refresh_token::{Parsed, TokenError};
use crate::session::store::Delivery;

impl Endpoints {
    /// Whether the request brought our cookie. One with an empty value is none.
    pub(super) fn brings_cookie(&self, request: &EndpointRequest<'_>) -> bool {
        self.settings.cookie.values(request.headers).any(|value| !value.is_empty())
    }

    /// Refuses a request that a foreign page may have caused.
    pub(super) fn check_same_site(&self, request: &EndpointRequest<'_>) -> Result<(), Fault> {
        let own = self.own_origins(request);
        if csrf::is_cross_site(request.headers, &own, &self.settings.allowed_origins) {
            return Err(Fault::CrossSite);
        }
        Ok(())
    }

    /// The one refresh token a request stands on. A request with our cookie must be same-site.
    pub(super) fn refresh_credential(
        &self,
        request: &EndpointRequest<'_>,
        fields: &Fields,
        now: Timestamp,
    ) -> Result<Parsed, Fault> {
        let in_body = fields.refresh_token()?;
        if !self.brings_cookie(request) {
            let token = in_body.ok_or(Fault::NoSession)?;
            return self.parts.tokens.parse(token, Delivery::Body, now).map_err(fault_of);
        }
        self.check_same_site(request)?;
        let (value, parsed) = self.best_cookie(request, now);
        if in_body.is_some_and(|token| token != value) {
            return Err(Fault::Malformed("The cookie and the body have different refresh tokens"));
        }
        parsed.map_err(fault_of)
    }

    /// Of several cookies of our name the first that is good; else the first that is at least genuine.
    fn best_cookie<'a>(
        &'a self,
        request: &EndpointRequest<'a>,
        now: Timestamp,
    ) -> (&'a str, Result<Parsed, TokenError>) {
        let mut best = ("", Err(TokenError::Malformed));
        for value in self.settings.cookie.values(request.headers) {
            let parsed = self.parts.tokens.parse(value, Delivery::Cookie, now);
            if parsed.is_ok() {
                return (value, parsed);
            }
            let genuine = |parsed: &Result<Parsed, TokenError>| matches!(parsed, Err(TokenError::Expired));
            if best.0.is_empty() || (genuine(&parsed) && !genuine(&best.1)) {
                best = (value, parsed);
            }
        }
        best
    }
}

fn fault_of(error: TokenError) -> Fault {
    match error {
        TokenError::Expired => Fault::SessionExpired,
        TokenError::Malformed | TokenError::Forged | TokenError::WrongDelivery => Fault::InvalidToken,
    }
}
