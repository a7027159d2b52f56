//! The session endpoints: which paths are theirs, and who answers them.

pub mod cookie;
pub mod csrf;
pub mod event;
mod fault;
pub mod origin;
pub mod settings;
pub mod throttle;

use bytes::Bytes;
use event::Handled;
use fault::Fault;
use http::{HeaderMap, Method, header};
use origin::Origin;
use settings::Settings;
use std::net::IpAddr;

use crate::reply::Reply;
use crate::session::id::SessionId;

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

/// The session endpoints.
#[derive(Debug)]
pub struct Endpoints {
    settings: Settings,
}

impl Endpoints {
    /// The endpoint at a canonical path; `None` if the path is not ours.
    pub fn find(&self, path: &str) -> Option<Endpoint> {
        if path == KEYS_PATH {
            return Some(Endpoint::Keys);
        }
        let rest = path.strip_prefix(self.settings.prefix.as_str())?;
        Some(match rest {
            "/login" => Endpoint::Login,
            "/refresh" => Endpoint::Refresh,
            "/logout" => Endpoint::Logout,
            "/logout-all" => Endpoint::LogoutAll,
            "/sessions" => Endpoint::Sessions,
            _ if !rest.is_empty() && !rest.starts_with('/') => return None,
            _ => match rest.strip_prefix("/sessions/") {
                Some(id) if !id.is_empty() && !id.contains('/') => Endpoint::Session(SessionId::parse(id)),
                _ => Endpoint::Unknown,
            },
        })
    }

    /// Answers what needs no body: wrong path, method or media type, and preflights. `None`: read the body
    /// and call [`Self::handle`].
    pub fn precheck(&self, endpoint: Endpoint, request: &EndpointRequest<'_>) -> Option<Handled> {
        let reply = Self::precheck_reply(endpoint, request)?;
        Some(Handled::from(self.finish(endpoint, request, reply)))
    }

    /// Answers a request.
    #[allow(clippy::unused_async, reason = "the handlers await the store and the directory")]
    pub async fn handle(&self, endpoint: Endpoint, request: EndpointRequest<'_>, body: Body) -> Handled {
        let _ = body;
        if let Some(handled) = self.precheck(endpoint, &request) {
            return handled;
        }
        Handled::from(self.finish(endpoint, &request, Fault::Unavailable.reply(request.request_id)))
    }

    fn precheck_reply(endpoint: Endpoint, request: &EndpointRequest<'_>) -> Option<Reply> {
        let method = request.method;
        let fault = match endpoint {
            Endpoint::Unknown => Fault::NotFound,
            _ if is_preflight(request) => return Some(Reply::empty(204)),
            _ if !endpoint.allow().split(", ").any(|allowed| allowed == method.as_str()) => {
                Fault::MethodNotAllowed(endpoint.allow())
            }
            Endpoint::Login if !is_json(request.headers) => Fault::UnsupportedMediaType,
            _ => return None,
        };
        Some(fault.reply(request.request_id))
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
            return reply
                .with_static(header::ACCESS_CONTROL_ALLOW_METHODS, endpoint.allow())
                .with_static(
                    header::ACCESS_CONTROL_ALLOW_HEADERS,
                    "Authorization, Content-Type, X-Portcullis-Request",
                )
                .with_static(header::ACCESS_CONTROL_MAX_AGE, "600");
        }
        reply
            .with_static(header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After, WWW-Authenticate, X-Request-Id")
    }

    /// The origins that count as our own for this request: the one it was sent to, and the issuer's.
    #[allow(dead_code, reason = "for the handlers")]
    fn own_origins(&self, request: &EndpointRequest<'_>) -> Vec<Origin> {
        let here = Origin::of_authority(request.https, request.host);
        here.into_iter().chain(self.settings.issuer_origin.clone()).collect()
    }
}

/// A CORS preflight (Fetch standard, section 4.8).
fn is_preflight(request: &EndpointRequest<'_>) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Exactly one `Content-Type`, `application/json` with or without parameters. Pages cannot send it
/// cross-site without a preflight.
fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
}
