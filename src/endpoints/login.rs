//! Login: a username and a password become a session.

use super::event::{AuditAction, Handled, SessionEvent};
use super::fault::Fault;
use super::fields::Fields;
use super::settings::DeliveryRule;
use super::{Body, EndpointRequest, Endpoints, Refused, csrf};
use crate::clock::{Timestamp, random_bytes};
use crate::directory::{Credentials, DirectoryError, Identity};
use crate::secret::Secret;
use crate::session::id::SessionId;
use crate::session::refresh_token::secret_hash;
use crate::session::store::{Delivery, NewSession};
use crate::session::throttle::Acquittal;
use http::{HeaderMap, header};

/// The longest password, in bytes; never shortened, so a longer one is refused.
const MAX_PASSWORD: usize = 1024;
const MAX_DEVICE: usize = 200;

impl Endpoints {
    pub(super) async fn login(&self, request: &EndpointRequest<'_>, body: &Body) -> Result<Handled, Refused> {
        let fields = Fields::read(request.headers, body)?;
        let credentials = credentials(&fields)?;
        let delivery = delivery(self.settings.delivery, fields.text("delivery")?, request.headers)?;
        if delivery == Delivery::Cookie {
            self.check_same_site(request)?;
        }

        let throttle = &self.parts.throttle;
        let taken = throttle.take(&credentials.username, request.peer).await.map_err(|wait| {
            let audit = Self::audit(AuditAction::LoginThrottled, request, None, None);
            Refused::noted(Fault::TooManyAttempts(wait), SessionEvent::LoginThrottled, Some(audit))
        })?;
        match self.parts.directory.authenticate(credentials).await {
            Ok(Some(identity)) => {
                // Together: a store that hangs costs one deadline.
                let given_back = throttle.give_back(taken, Acquittal::Right);
                let opened = tokio::join!(self.open(request, identity, delivery), given_back).0?;
                match opened {
                    Some(handled) => Ok(handled),
                    None => self.login_again(request, self::credentials(&fields)?, delivery).await,
                }
            }
            Ok(None) => Err(wrong(request)),
            // A password may have been tried all the same: the throttle has to know.
            Err(DirectoryError::Unclear(_)) => Err(Fault::Unavailable.into()),
            Err(DirectoryError::Unanswered(_)) => {
                throttle.give_back(taken, Acquittal::Unanswered).await;
                Err(Fault::Unavailable.into())
            }
            Err(DirectoryError::Busy | DirectoryError::Unavailable(_)) => {
                throttle.give_back(taken, Acquittal::NotJudged).await;
                Err(Fault::Unavailable.into())
            }
        }
    }

    /// The same once more for a user who was logged out everywhere before the answer: as if the client had come
    /// again. Whatever ended the sessions may have changed the password or closed the account as well.
    async fn login_again(
        &self,
        request: &EndpointRequest<'_>,
        credentials: Credentials,
        delivery: Delivery,
    ) -> Result<Handled, Refused> {
        match self.parts.directory.authenticate(credentials).await {
            Ok(Some(identity)) => {
                self.open(request, identity, delivery).await?.ok_or_else(|| Fault::Unavailable.into())
            }
            Ok(None) => Err(wrong(request)),
            Err(_) => Err(Fault::Unavailable.into()),
        }
    }

    /// Opens a session; `None` if its user was logged out everywhere before the answer.
    async fn open(
        &self,
        request: &EndpointRequest<'_>,
        identity: Identity,
        delivery: Delivery,
    ) -> Result<Option<Handled>, Refused> {
        let now = self.parts.clock.now();
        let user = self.parts.tokens.user_key(&identity.subject);
        let id = SessionId::from_bytes(random_bytes().map_err(|_| Fault::Internal)?);
        let secret = Secret::new(random_bytes::<16>().map_err(|_| Fault::Internal)?);
        // Whole seconds, as the token has it.
        let absolute_expiry = Timestamp::from_secs(now.plus(self.settings.rotation.absolute).as_secs());
        let new = NewSession {
            id,
            user,
            secret_hash: secret_hash(&secret),
            subject: identity.subject,
            claims: identity.claims,
            delivery,
            absolute_expiry,
            device: device(request.headers),
            address: Some(request.peer.to_canonical().to_string()),
            known_epoch: self.parts.revocations.known_epoch(user),
        };
        let opened = self.parts.store.open(new).await.map_err(|_| Fault::Unavailable)?;
        for &evicted in &opened.evicted {
            self.parts.revocations.session_ended(user, evicted, now);
        }

        let session = opened.session;
        let token = self.parts.tokens.mint(id, user, &secret, delivery, absolute_expiry, session.generation);
        let reply = self.grant(&session, &session.claims, Some(&token), now).await?;
        let revocations = &self.parts.revocations;
        if revocations.known_epoch(user) > session.epoch {
            return Ok(None);
        }
        if revocations.is_revoked(&session.reference()) {
            return Err(Fault::Unavailable.into());
        }
        let audit = Self::audit(AuditAction::LoginOk, request, Some(session.subject), Some(id));
        Ok(Some(Handled { audit: Some(audit), event: Some(SessionEvent::LoginOk), ..reply.into() }))
    }
}

fn wrong(request: &EndpointRequest<'_>) -> Refused {
    let audit = Endpoints::audit(AuditAction::LoginFailed, request, None, None);
    Refused::noted(Fault::InvalidCredentials, SessionEvent::LoginFailed, Some(audit))
}

fn credentials(fields: &Fields) -> Result<Credentials, Fault> {
    let username = fields.text("username")?.ok_or(Fault::Malformed("username is missing"))?;
    let password = fields.text("password")?.ok_or(Fault::Malformed("password is missing"))?;
    if password.len() > MAX_PASSWORD {
        return Err(Fault::Malformed("The password is longer than 1024 bytes"));
    }
    Ok(Credentials { username: username.to_owned(), password: Secret::new(password.to_owned()) })
}

fn delivery(rule: DeliveryRule, wish: Option<&str>, headers: &HeaderMap) -> Result<Delivery, Fault> {
    let wish = match wish {
        None => None,
        Some("cookie") => Some(Delivery::Cookie),
        Some("body") => Some(Delivery::Body),
        Some(_) => return Err(Fault::Malformed("delivery must be \"cookie\" or \"body\"")),
    };
    let usual = match rule {
        DeliveryRule::Client if csrf::is_browser(headers) => Delivery::Cookie,
        DeliveryRule::Client | DeliveryRule::Body => Delivery::Body,
        DeliveryRule::Cookie => Delivery::Cookie,
    };
    match wish {
        Some(wish) if wish != usual && rule != DeliveryRule::Client => {
            Err(Fault::Malformed("This delivery is not offered here"))
        }
        wish => Ok(wish.unwrap_or(usual)),
    }
}

/// What the client calls itself, for the session list.
fn device(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(text.chars().take(MAX_DEVICE).collect())
}
