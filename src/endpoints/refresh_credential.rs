//! The refresh token of a request: from the cookie, from the body, or from nowhere.

use super::fault::Fault;
use super::fields::Fields;
use super::{EndpointRequest, Endpoints, csrf};
use crate::clock::Timestamp;
use crate::session::refresh_token::{Parsed, TokenError};
use crate::session::store::Delivery;

/// The most sessions that the cookies of one request are tried with.
const MOST_COOKIES: usize = 4;

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

    /// The refresh tokens a request may stand on, the likeliest first; never none. There are several only where a
    /// browser sends several cookies of our name: it keeps one for each path they were ever set for, and neighbours
    /// below the same domain can add theirs. A request with our cookie must be same-site.
    pub(super) fn refresh_credentials(
        &self,
        request: &EndpointRequest<'_>,
        fields: &Fields,
        now: Timestamp,
    ) -> Result<Vec<Parsed>, Fault> {
        let in_body = fields.refresh_token()?;
        if !self.brings_cookie(request) {
            let token = in_body.ok_or(Fault::NoSession)?;
            let parsed = self.parts.tokens.parse(token, Delivery::Body, now);
            return parsed.map(|parsed| vec![parsed]).map_err(fault_of);
        }
        self.check_same_site(request)?;
        if in_body
            .is_some_and(|token| self.settings.cookie.values(request.headers).all(|value| value != token))
        {
            return Err(Fault::Malformed("The cookie and the body have different refresh tokens"));
        }
        let (mut good, mut expired): (Vec<Parsed>, _) = (Vec::new(), false);
        for value in self.settings.cookie.values(request.headers) {
            if in_body.is_some_and(|token| token != value) {
                continue;
            }
            match self.parts.tokens.parse(value, Delivery::Cookie, now) {
                Ok(parsed) => keep_newest(&mut good, parsed),
                Err(error) => expired |= error == TokenError::Expired,
            }
        }
        if good.is_empty() {
            return Err(fault_of(if expired { TokenError::Expired } else { TokenError::Malformed }));
        }
        good.truncate(MOST_COOKIES);
        Ok(good)
    }
}

/// Of one session an older token is a cookie left over, and no replay.
fn keep_newest(good: &mut Vec<Parsed>, parsed: Parsed) {
    let new = &parsed.presented;
    let same = good.iter_mut().find(|known| {
        let known = &known.presented;
        known.user == new.user && known.session == new.session && known.secret_hash == new.secret_hash
    });
    match same {
        Some(known) if known.presented.generation >= new.generation => {}
        Some(known) => *known = parsed,
        None => good.push(parsed),
    }
}

fn fault_of(error: TokenError) -> Fault {
    match error {
        TokenError::Expired => Fault::SessionExpired,
        TokenError::Malformed | TokenError::Forged | TokenError::WrongDelivery => Fault::InvalidToken,
    }
}
