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
    /// Why it is not ready; `None` if it is.
    pub waiting_for: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// What the admin listener serves.
pub struct Admin {
    metrics: Metrics,
    parts: Vec<Part>,
    /// Sets the gauges that are read off something when somebody looks.
    before_scrape: Box<dyn Fn(&Metrics) + Send + Sync>,
}

impl Admin {
    /// `before_scrape` sets gauges that are read off something else.
    pub fn new(
        metrics: Metrics,
        parts: Vec<Part>,
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
        for part in &self.parts {
            let waiting_for = (part.waiting_for)();
            ready &= waiting_for.is_none();
            parts.insert(part.name.clone(), Value::from(waiting_for.unwrap_or_else(|| "ready".to_owned())));
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

    fn admin(waiting: Option<&'static str>) -> Admin {
        let part =
            Part { name: "sessions".to_owned(), waiting_for: Box::new(move || waiting.map(str::to_owned)) };
        Admin::new(Metrics::new().unwrap(), vec![part], Box::new(|_| ()))
    }

    #[test]
    fn readiness_says_which_part_is_missing() {
        assert_eq!(admin(None).answer(&Method::GET, "/readyz").status, 200);
        let answer = admin(Some("the first read of the revocation feed")).answer(&Method::GET, "/readyz");
        assert_eq!(answer.status, 503);
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["parts"]["sessions"], "the first read of the revocation feed");
    }

    #[test]
    fn only_the_three_paths_are_served_and_only_for_reading() {
        assert_eq!(admin(None).answer(&Method::GET, "/").status, 404);
        assert_eq!(admin(None).answer(&Method::POST, "/metrics").status, 405);
        assert_eq!(admin(None).answer(&Method::HEAD, "/livez").status, 200);
        assert_eq!(admin(Some("x")).answer(&Method::GET, "/livez").status, 200);
    }
}
