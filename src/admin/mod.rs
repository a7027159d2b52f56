//! The admin listener: metrics, liveness, readiness, the end of a user's sessions. Never on a client listener.

pub mod revoke;

use crate::gateway::{listener, request_id};
use crate::metrics::Metrics;
use crate::reply::Reply;
use async_trait::async_trait;
use http::{Method, Response, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use revoke::{Caller, Revoker};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One thing the gateway needs before it takes traffic.
pub struct Part {
    /// Its name in the answer of `/readyz`.
    pub name: String,
    /// How it stands now.
    pub state: PartState,
}

/// How a part stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    /// Nothing is wrong with it.
    Ready,
    /// Something is wrong with it, but this gateway is no worse than any other: it takes traffic.
    Impaired(String),
    /// It waits for this, and so must the traffic.
    Waiting(String),
}

/// What the admin listener serves.
pub struct Admin {
    metrics: Metrics,
    parts: Box<dyn Fn() -> Vec<Part> + Send + Sync>,
    /// Sets the gauges that are read off something when somebody looks.
    before_scrape: Box<dyn Fn(&Metrics) + Send + Sync>,
    revoker: Option<Revoker>,
}

impl Admin {
    /// `parts` says how everything stands; `before_scrape` sets gauges that are read off something else;
    /// without a `revoker` nobody's sessions are ended here.
    pub fn new(
        metrics: Metrics,
        parts: Box<dyn Fn() -> Vec<Part> + Send + Sync>,
        before_scrape: Box<dyn Fn(&Metrics) + Send + Sync>,
        revoker: Option<Revoker>,
    ) -> Self {
        Self { metrics, parts, before_scrape, revoker }
    }

    async fn answer(&self, method: &Method, path: &str, caller: Caller<'_>) -> Reply {
        let reading = method == Method::GET || method == Method::HEAD;
        let (allow, served) = match path {
            "/metrics" | "/livez" | "/readyz" => ("GET, HEAD", reading),
            _ => match (revoke::subject(path), &self.revoker) {
                (Some(subject), Some(revoker)) if method == Method::POST => {
                    return revoker.revoke(subject, caller).await;
                }
                (Some(_), Some(_)) => ("POST", false),
                _ => return text(404, "not found\n"),
            },
        };
        match path {
            _ if !served => text(405, "method not allowed\n").with_static(header::ALLOW, allow),
            "/metrics" => self.metrics(),
            "/readyz" => self.readiness(),
            _ => text(200, "ok\n"),
        }
    }

    fn metrics(&self) -> Reply {
        (self.before_scrape)(&self.metrics);
        match self.metrics.render() {
            Ok(body) => Reply { body: body.into(), ..Reply::empty(200) }
                .with_static(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                text(500, "the metrics cannot be written; see the log\n")
            }
        }
    }

    fn readiness(&self) -> Reply {
        let mut ready = true;
        let mut parts = Map::new();
        for part in (self.parts)() {
            ready &= !matches!(part.state, PartState::Waiting(_));
            let text = match part.state {
                PartState::Ready => "ready".to_owned(),
                PartState::Impaired(text) | PartState::Waiting(text) => text,
            };
            parts.insert(part.name, Value::from(text));
        }
        let body = json!({ "ready": ready, "parts": parts });
        Reply::json(if ready { 200 } else { 503 }, &body)
    }
}

fn text(status: u16, body: &'static str) -> Reply {
    Reply { body: body.into(), ..Reply::empty(status) }
        .with_static(header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let head = request.method == Method::HEAD;
        let request_id = request_id::of(&request.headers);
        let address = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
        let caller = Caller {
            headers: &request.headers,
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            request_id: &request_id,
        };
        let reply = self.answer(&request.method, request.uri.path(), caller).await;
        listener::request_ended(session.stream());
        let mut response = Response::builder()
            .status(reply.status)
            .header(header::CONTENT_LENGTH, reply.body.len())
            .header(header::CACHE_CONTROL, "no-store")
            .header("X-Request-Id", &request_id);
        for (name, value) in &reply.headers {
            response = response.header(name, value);
        }
        let body = if head { Vec::new() } else { reply.body.to_vec() };
        // Every part of it is valid by construction; an empty answer is the worst that could come of it.
        response.body(body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(state: PartState) -> Admin {
        let parts = move || vec![Part { name: "sessions".to_owned(), state: state.clone() }];
        Admin::new(Metrics::new().unwrap(), Box::new(parts), Box::new(|_| ()), None)
    }

    fn ask(admin: &Admin, method: &Method, path: &str) -> Reply {
        let headers = http::HeaderMap::new();
        let caller = Caller { headers: &headers, address: Ipv4Addr::LOCALHOST.into(), request_id: "1" };
        futures_util::FutureExt::now_or_never(admin.answer(method, path, caller)).unwrap()
    }

    #[test]
    fn readiness_says_which_part_is_missing() {
        let text = "the first read of the revocation feed".to_owned();
        for (state, status, told) in [
            (PartState::Ready, 200, "ready"),
            (PartState::Impaired(text.clone()), 200, text.as_str()),
            (PartState::Waiting(text.clone()), 503, text.as_str()),
        ] {
            let answer = ask(&admin(state), &Method::GET, "/readyz");
            assert_eq!(answer.status, status);
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((&body["parts"]["sessions"], &body["ready"]), (&json!(told), &json!(status == 200)));
        }
    }

    #[test]
    fn without_a_token_only_three_paths_are_served_and_only_for_reading() {
        assert_eq!(ask(&admin(PartState::Ready), &Method::GET, "/").status, 404);
        assert_eq!(ask(&admin(PartState::Ready), &Method::POST, "/users/alice/revoke").status, 404);
        assert_eq!(ask(&admin(PartState::Ready), &Method::POST, "/metrics").status, 405);
        assert_eq!(ask(&admin(PartState::Ready), &Method::HEAD, "/livez").status, 200);
        assert_eq!(ask(&admin(PartState::Waiting("x".to_owned())), &Method::GET, "/livez").status, 200);
    }
}
