//! The admin listener: metrics, liveness and readiness. Never on a client listener.

use crate::gateway::listener;
use crate::metrics::Metrics;
use async_trait::async_trait;
use http::{Method, Response, header};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::{Map, Value, json};

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
}

impl Admin {
    /// `parts` says how everything stands; `before_scrape` sets gauges that are read off something else.
    pub fn new(
        metrics: Metrics,
        parts: Box<dyn Fn() -> Vec<Part> + Send + Sync>,
        before_scrape: Box<dyn Fn(&Metrics) + Send + Sync>,
    ) -> Self {
        Self { metrics, parts, before_scrape }
    }

    fn answer(&self, method: &Method, path: &str) -> Answer {
        let known = matches!(path, "/metrics" | "/livez" | "/readyz");
        match path {
            _ if !known => Answer::text(404, "not found\n"),
            _ if method != Method::GET && method != Method::HEAD => Answer::text(405, "method not allowed\n"),
            "/metrics" => self.metrics(),
            "/readyz" => self.readiness(),
            _ => Answer::text(200, "ok\n"),
        }
    }

    fn metrics(&self) -> Answer {
        (self.before_scrape)(&self.metrics);
        match self.metrics.render() {
            Ok(body) => {
                Answer { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", body }
            }
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                Answer::text(500, "the metrics cannot be written; see the log\n")
            }
        }
    }

    fn readiness(&self) -> Answer {
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
        let status = if ready { 200 } else { 503 };
        Answer { status, content_type: "application/json", body: format!("{body}\n").into_bytes() }
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: u16, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.as_bytes().to_vec() }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let head = request.method == Method::HEAD;
        let answer = self.answer(&request.method, request.uri.path());
        listener::request_ended(session.stream());
        let response = Response::builder()
            .status(answer.status)
            .header(header::CONTENT_TYPE, answer.content_type)
            .header(header::CONTENT_LENGTH, answer.body.len())
            .header(header::CACHE_CONTROL, "no-store")
            .header(header::ALLOW, "GET, HEAD");
        let body = if head { Vec::new() } else { answer.body };
        // Every part of it is valid by construction; an empty answer is the worst that could come of it.
        response.body(body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(state: PartState) -> Admin {
        let parts = move || vec![Part { name: "sessions".to_owned(), state: state.clone() }];
        Admin::new(Metrics::new().unwrap(), Box::new(parts), Box::new(|_| ()))
    }

    #[test]
    fn readiness_says_which_part_is_missing() {
        let text = "the first read of the revocation feed".to_owned();
        for (state, status, told) in [
            (PartState::Ready, 200, "ready"),
            (PartState::Impaired(text.clone()), 200, text.as_str()),
            (PartState::Waiting(text.clone()), 503, text.as_str()),
        ] {
            let answer = admin(state).answer(&Method::GET, "/readyz");
            assert_eq!(answer.status, status);
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!((&body["parts"]["sessions"], &body["ready"]), (&json!(told), &json!(status == 200)));
        }
    }

    #[test]
    fn only_the_three_paths_are_served_and_only_for_reading() {
        assert_eq!(admin(PartState::Ready).answer(&Method::GET, "/").status, 404);
        assert_eq!(admin(PartState::Ready).answer(&Method::POST, "/metrics").status, 405);
        assert_eq!(admin(PartState::Ready).answer(&Method::HEAD, "/livez").status, 200);
        assert_eq!(admin(PartState::Waiting("x".to_owned())).answer(&Method::GET, "/livez").status, 200);
    }
}
