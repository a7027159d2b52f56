//! A response as a value: OAuth errors, bearer challenges and problem details, before any byte is sent.

use crate::json::ObjectWriter;
use crate::reason::Reason;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue, InvalidHeaderValue};
use serde::Serialize;
use std::time::Duration;

/// Values that most refusals have, checked at compile time.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// Room for a usual problem document.
const USUAL_DOCUMENT: usize = 256;

/// A whole response of the gateway's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header fields in order; `Content-Length` is the sender's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, empty for none.
    pub body: Bytes,
}

impl Reply {
    /// An empty answer.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A JSON answer.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Self::json_text(status, text_of(body))
    }

    /// The same with a body that is JSON already.
    pub fn json_text(status: u16, body: impl Into<Bytes>) -> Self {
        let mut reply = Self::empty(status);
        reply.body = body.into();
        reply.with_static(header::CONTENT_TYPE, "application/json")
    }

    /// Adds a header whose value is known at compile time.
    #[must_use]
    pub fn with_static(self, name: HeaderName, value: &'static str) -> Self {
        self.with_value(name, HeaderValue::from_static(value))
    }

    fn with_value(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds a header; a value that cannot stand in a header is left out, never altered.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Adds `Retry-After` in whole seconds, at least one (RFC 9110 section 10.2.3).
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.with(header::RETRY_AFTER, &seconds.max(1).to_string())
    }

    /// An error of the session endpoints: `{error, code, message, requestId}`.
    pub fn endpoint_error(status: u16, error: &str, code: &str, message: &str, request_id: &str) -> Self {
        Self::json(status, &EndpointError { code, error, message, request_id })
    }

    /// An error of a proxied request: `application/problem+json` (RFC 9457), or a plain page for a client
    /// that accepts only HTML.
    pub fn problem(status: u16, reason: Reason, detail: &str, request_id: &str, html_only: bool) -> Self {
        let title = status_title(status);
        let mut reply = Self::empty(status).with_value(header::CACHE_CONTROL, NO_STORE);
        if html_only {
            reply.body = Bytes::from(format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {title}</title></head>\n\
                 <body><h1>{status} {title}</h1><p>{}</p><p><small>{reason} · {}</small></p></body></html>\n",
                escape_html(detail),
                escape_html(request_id),
            ));
            return reply.with_static(header::CONTENT_TYPE, "text/html; charset=utf-8");
        }
        reply.body = problem_document(detail, reason.as_str(), request_id, status, title);
        reply.with_value(header::CONTENT_TYPE, PROBLEM)
    }

    /// Adds the bearer challenge of RFC 6750 section 3. Every text in it is fixed or from the configuration.
    #[must_use]
    pub fn challenge(mut self, challenge: &Challenge<'_>) -> Self {
        // One that cannot stand in a header is left out.
        self.headers.extend(challenge.value().ok().map(|value| (header::WWW_AUTHENTICATE, value)));
        self
    }
}

/// What an error of the session endpoints says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointError<'a> {
    code: &'a str,
    error: &'a str,
    message: &'a str,
    request_id: &'a str,
}

/// A problem document (RFC 9457 section 3.1).
fn problem_document(
    detail: &str,
    reason: &'static str,
    request_id: &str,
    status: u16,
    title: &'static str,
) -> Bytes {
    let mut document = ObjectWriter::new(USUAL_DOCUMENT);
    document.text("detail", detail);
    document.bare("reason", reason);
    document.text("requestId", request_id);
    document.number("status", status.into());
    document.bare("title", title);
    document.bare("type", "about:blank");
    document.finish().unwrap_or_default().into()
}

/// Fails for nothing that is made here: only for maps whose keys are no text.
fn text_of(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).map_or_else(|_| Bytes::new(), Bytes::from)
}

/// A `WWW-Authenticate: Bearer` challenge (RFC 6750 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge<'a> {
    /// No credentials came: no error code (RFC 6750 section 3.1).
    Bare,
    /// The request's credentials are malformed.
    InvalidRequest(&'static str),
    /// The token is not good, with a fixed description.
    InvalidToken(&'static str),
    /// More is needed: these scopes, separated by spaces; empty if it is not about scopes.
    InsufficientScope(&'a str),
}

impl Challenge<'_> {
    /// The field's value. Floods are made of refusals, so it is joined and not formatted.
    fn value(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let quoted = |before: &str, text: &str| HeaderValue::try_from([before, text, "\""].concat());
        match self {
            Self::Bare => Ok(BEARER),
            Self::InvalidRequest(what) => {
                quoted("Bearer error=\"invalid_request\", error_description=\"", what)
            }
            Self::InvalidToken(what) => quoted("Bearer error=\"invalid_token\", error_description=\"", what),
            Self::InsufficientScope("") => {
                Ok(HeaderValue::from_static("Bearer error=\"insufficient_scope\""))
            }
            Self::InsufficientScope(scope) => quoted("Bearer error=\"insufficient_scope\", scope=\"", scope),
        }
    }
}

fn status_title(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_follow_rfc_6750() {
        assert_eq!(Challenge::Bare.value().unwrap(), "Bearer");
        assert_eq!(
            Challenge::InvalidToken("The access token expired").value().unwrap(),
            "Bearer error=\"invalid_token\", error_description=\"The access token expired\""
        );
        assert_eq!(
            Challenge::InsufficientScope("a b").value().unwrap(),
            "Bearer error=\"insufficient_scope\", scope=\"a b\""
        );
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        let seconds = |d| Reply::empty(503).retry_after(d).headers[0].1.clone();
        assert_eq!(seconds(Duration::ZERO), "1");
        assert_eq!(seconds(Duration::from_millis(1001)), "2");
    }

    #[test]
    fn a_problem_names_its_reason_and_html_is_escaped() {
        let reply = Reply::problem(404, Reason::NoRoute, "no route", "id1", false);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let expected = serde_json::json!({
            "detail": "no route", "reason": "no_route", "requestId": "id1", "status": 404, "title": "Not Found",
            "type": "about:blank",
        });
        assert_eq!(body, expected);
        let escaped = Reply::problem(404, Reason::NoRoute, "a\"b\\\n\u{e9}", "id1", false);
        let body: serde_json::Value = serde_json::from_slice(&escaped.body).unwrap();
        assert_eq!(body["detail"], "a\"b\\\n\u{e9}");
        let page = Reply::problem(404, Reason::NoRoute, "<script>", "id1", true);
        assert!(!String::from_utf8(page.body.to_vec()).unwrap().contains("<script>"));
    }
}
