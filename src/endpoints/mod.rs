//! The session endpoints: which paths are theirs, and who answers them.

mod access;
pub mod cookie;
pub mod csrf;
pub mod event;
mod fault;
mod fields;
mod grant;
mod keys;
mod login;
mod logout;
pub mod origin;
mod refresh;
mod refresh_credential;
mod sessions;
pub mod settings;

use crate::clock::Clock;
use crate::directory::UserDirectory;
use crate::reply::Reply;
use crate::session::deferred::DeferredLogouts;
use crate::session::id::SessionId;
use crate::session::refresh_token::RefreshTokens;
use crate::session::revocation::Revocations;
use crate::session::store::SessionStore;
use crate::session::throttle::Throttle;
use crate::token::signer::Signer;
use crate::token::verifier::Verifier;
use bytes::Bytes;
use event::{AuditAction, AuditEvent, Handled};
use fault::{Fault, Refused};
use http::{HeaderMap, Method, header};
use origin::Origin;
use settings::Settings;
use std::net::IpAddr;
use std::sync::Arc;

/// Where our public keys are published.
pub const KEYS_PATH: &str = "/.well-known/jwks.json";
/// The largest body an endpoint reads, in bytes.
pub const BODY_LIMIT: usize = 8 * 1024;

/// One endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST <prefix>/login`.
    Login,
    /// `POST <prefix>/refresh`.
    Refresh,
    /// `POST <prefix>/logout`.
    Logout,
    /// `POST <prefix>/logout-all`.
    LogoutAll,
    /// `GET <prefix>/sessions`.
    Sessions,
    /// `DELETE <prefix>/sessions/{id}`; `None` if the id cannot be one.
    Session(Option<SessionId>),
    /// `GET /.well-known/jwks.json`.
    Keys,
    /// Below the prefix and nothing of the above: never proxied.
    Unknown,
}

impl Endpoint {
    /// A name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Refresh => "refresh",
            Self::Logout => "logout",
            Self::LogoutAll => "logout_all",
            Self::Sessions => "sessions",
            Self::Session(_) => "session",
            Self::Keys => "keys",
            Self::Unknown => "unknown",
        }
    }

    /// The methods for `Allow`.
    const fn allow(self) -> &'static str {
        match self {
            Self::Login | Self::Refresh | Self::Logout | Self::LogoutAll => "POST",
            Self::Sessions => "GET",
            Self::Session(_) => "DELETE",
            Self::Keys => "GET, HEAD",
            Self::Unknown => "",
        }
    }
}

/// A request's head, as the gateway saw it.
#[derive(Debug, Clone, Copy)]
pub struct EndpointRequest<'a> {
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The client's address, after trusted proxies.
    pub peer: IpAddr,
    /// Whether the client used TLS, after trusted proxies.
    pub https: bool,
    /// The `Host` (or `:authority`), with its port if it had one.
    pub host: &'a str,
    /// The request's identifier.
    pub request_id: &'a str,
    /// The longest access token looked at, in bytes (`server.limits.token_bytes`).
    pub token_bytes: usize,
}

/// A request's body, read by the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// All of it, at most [`BODY_LIMIT`]; empty if there was none.
    Bytes(Bytes),
    /// More than [`BODY_LIMIT`].
    TooLarge,
    /// It did not come in time, or broke off.
    TimedOut,
}

/// What the endpoints work with.
#[derive(Clone)]
pub struct Parts {
    /// Where sessions are kept.
    pub store: Arc<dyn SessionStore>,
    /// Where users come from.
    pub directory: Arc<dyn UserDirectory>,
    /// Makes and reads refresh tokens.
    pub tokens: Arc<RefreshTokens>,
    /// What is known to be ended.
    pub revocations: Arc<Revocations>,
    /// Counts tries to log in.
    pub throttle: Arc<Throttle>,
    /// Takes the logouts the store could not; whoever builds the endpoints also carries them out.
    pub deferred: Arc<DeferredLogouts>,
    /// Makes access tokens.
    pub signer: Arc<Signer>,
    /// Verifies them; it need know no other issuer ([`Verifier::own_only`]).
    pub verifier: Arc<Verifier>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// The session endpoints.
pub struct Endpoints {
    settings: Settings,
    parts: Parts,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Endpoints {
    /// The endpoints with these settings.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        Self { settings, parts }
    }

    /// Where they lie, and what the cookie is called that the gateway keeps away from upstreams.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers what needs no body: wrong path, method or media type, and preflights. `None`: read the body
    /// and call [`Self::handle`].
    pub fn precheck(&self, endpoint: Endpoint, request: &EndpointRequest<'_>) -> Option<Handled> {
        let reply = precheck(endpoint, request)?;
        Some(Handled::from(self.finish(endpoint, request, reply)))
    }

    /// Answers a request.
    pub async fn handle(&self, endpoint: Endpoint, request: EndpointRequest<'_>, body: Body) -> Handled {
        if let Some(handled) = self.precheck(endpoint, &request) {
            return handled;
        }
        let answer = match endpoint {
            Endpoint::Login => self.login(&request, &body).await,
            Endpoint::Refresh => self.refresh(&request, &body).await,
            Endpoint::Logout => self.logout(&request, &body).await,
            Endpoint::LogoutAll => self.logout_all(&request, &body).await,
            Endpoint::Sessions => self.list_sessions(&request).await,
            Endpoint::Session(id) => self.remove_session(&request, id).await,
            Endpoint::Keys => Ok(self.keys()),
            Endpoint::Unknown => Err(Fault::NotFound.into()),
        };
        let handled = answer.unwrap_or_else(|refused| {
            let Refused { fault, audit, event } = refused;
            Handled { reply: fault.reply(request.request_id), audit, event, reused: None }
        });
        Handled { reply: self.finish(endpoint, &request, handled.reply), ..handled }
    }

    /// Adds what every answer carries: caching, sniffing and cross-origin fields.
    fn finish(&self, endpoint: Endpoint, request: &EndpointRequest<'_>, mut reply: Reply) -> Reply {
        reply = reply.with_static(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        if !reply.headers.iter().any(|(name, _)| name == header::CACHE_CONTROL) {
            reply = reply.with_static(header::CACHE_CONTROL, "no-store");
        }
        let allowed = &self.settings.allowed_origins;
        if allowed.is_empty() || endpoint == Endpoint::Unknown {
            return reply;
        }
        reply = reply.with_static(header::VARY, "Origin");
        let Some(origin) = csrf::allowed_origin(request.headers, allowed) else { return reply };
        reply = reply
            .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, &origin.to_string())
            .with_static(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        if is_preflight(request) {
            let fields = "Authorization, Content-Type, X-Portcullis-Request";
            return reply
                .with_static(header::ACCESS_CONTROL_ALLOW_METHODS, endpoint.allow())
                .with_static(header::ACCESS_CONTROL_ALLOW_HEADERS, fields)
                .with_static(header::ACCESS_CONTROL_MAX_AGE, "600");
        }
        reply
            .with_static(header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After, WWW-Authenticate, X-Request-Id")
    }

    /// The origins that count as our own for this request: the one it was sent to, and the issuer's.
    fn own_origins(&self, request: &EndpointRequest<'_>) -> Vec<Origin> {
        let here = Origin::of_authority(request.https, request.host);
        here.into_iter().chain(self.settings.issuer_origin.clone()).collect()
    }

    fn audit(
        action: AuditAction,
        request: &EndpointRequest<'_>,
        subject: Option<String>,
        session: Option<SessionId>,
    ) -> AuditEvent {
        let (address, request_id) = (request.peer, request.request_id.to_owned());
        AuditEvent { action, subject, session, address, request_id }
    }
}

/// The endpoint at a canonical path; `None` if the path is not ours.
pub fn find(prefix: &str, path: &str) -> Option<Endpoint> {
    if path == KEYS_PATH {
        return Some(Endpoint::Keys);
    }
    let rest = path.strip_prefix(prefix)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    Some(match rest {
        "/login" => Endpoint::Login,
        "/refresh" => Endpoint::Refresh,
        "/logout" => Endpoint::Logout,
        "/logout-all" => Endpoint::LogoutAll,
        "/sessions" => Endpoint::Sessions,
        _ => match rest.strip_prefix("/sessions/") {
            Some(id) if !id.is_empty() && !id.contains('/') => Endpoint::Session(SessionId::parse(id)),
            _ => Endpoint::Unknown,
        },
    })
}

fn precheck(endpoint: Endpoint, request: &EndpointRequest<'_>) -> Option<Reply> {
    let fault = match endpoint {
        Endpoint::Unknown => Fault::NotFound,
        _ if is_preflight(request) => return Some(Reply::empty(204)),
        _ if !endpoint.allow().split(", ").any(|method| method == request.method.as_str()) => {
            Fault::MethodNotAllowed(endpoint.allow())
        }
        Endpoint::Login if !fields::is_json(request.headers) => Fault::UnsupportedMediaType,
        _ => return None,
    };
    Some(fault.reply(request.request_id))
}

/// A CORS preflight (Fetch standard, section 4.8).
fn is_preflight(request: &EndpointRequest<'_>) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
