//! `forward`, for all routes and of one: what upstreams are told about the caller.

use super::issuers::claim_path;
use super::reader::Value;
use crate::policy::forward::{
    AbsentClaim, AuthorizationHeader, ForwardPlan, HeaderFormat, HeaderRule, IDENTITY_BYTES,
};
use http::HeaderName;

/// Reads `forward` over what holds without it: keys given here override, `headers` as a whole.
pub(super) fn forward(value: &Value<'_>, default: ForwardPlan) -> ForwardPlan {
    let mut plan = default;
    let Some(fields) = value.fields(&["headers", "authorization"], &["assertion"]) else { return plan };
    if let Some(value) = fields.get("headers") {
        plan.headers = headers(&value);
    }
    let words = [("strip", AuthorizationHeader::Strip), ("pass", AuthorizationHeader::Pass)];
    if let Some((value, word)) = fields.get("authorization").and_then(|v| Some((v.clone(), v.word(&words)?)))
    {
        plan.authorization = word;
        if word == AuthorizationHeader::Pass {
            value.warning(
                "the upstream gets the client's token itself, and can use it elsewhere",
                "leave it out unless the upstream verifies tokens on its own",
            );
        }
    }
    plan
}

fn headers(value: &Value<'_>) -> Vec<HeaderRule> {
    let mut rules: Vec<HeaderRule> = Vec::new();
    for (name, value) in value.named("write one `X-Auth-Subject: sub` per header") {
        let Some(name) = header_name(name, &value) else { continue };
        if let Some(other) = rules.iter().find(|other| folded(&other.name) == folded(&name)) {
            let what = format!("cannot be told apart from {} by every upstream", other.name);
            value.error(what, "names that differ only in case or punctuation are one: keep one of the two");
        }
        rules.extend(rule(name, &value));
    }
    rules
}

fn header_name(name: &str, value: &Value<'_>) -> Option<HeaderName> {
    let Ok(name) = name.parse::<HeaderName>() else {
        value.error("not a header name", "use letters, digits and hyphens, such as X-Auth-Subject");
        return None;
    };
    if !name.as_str().contains(|c: char| c.is_ascii_alphanumeric()) {
        value.error("a header name without a letter or digit", "choose a name such as X-Auth-Subject");
        return None;
    }
    if is_taken(&folded(&name)) {
        value.error("a header with a meaning of its own", "choose another name, such as X-Auth-Subject");
        return None;
    }
    Some(name)
}

/// Case, and any run of other characters than letters and digits, make no difference to some upstreams.
fn folded(name: &HeaderName) -> String {
    let parts = name.as_str().split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Headers that frame, route or negotiate the request, or that the gateway itself sets. An identity header
/// of that name would be taken from every request on every route.
fn is_taken(folded: &str) -> bool {
    const NAMES: &[&str] = &[
        "authorization",
        "connection",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "origin",
        "range",
        "referer",
        "set-cookie",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-real-ip",
        "x-request-id",
    ];
    const PREFIXES: &[&str] =
        &["accept", "access-control", "content", "proxy", "sec-websocket", "sec-fetch", "x-forwarded"];
    let begins_with = |prefix: &str| {
        folded.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    NAMES.contains(&folded) || PREFIXES.iter().any(|prefix| begins_with(prefix))
}

fn rule(name: HeaderName, value: &Value<'_>) -> Option<HeaderRule> {
    if !value.is_mapping() {
        return Some(HeaderRule::text(name, claim_path(value)?));
    }
    let fields = value.fields(&["claim", "format", "absent", "max_bytes"], &[])?;
    let claim = fields.require("claim", "name the claim, such as claim: sub").and_then(|v| claim_path(&v));
    let formats = [
        ("text", HeaderFormat::Text),
        ("csv", HeaderFormat::Csv),
        ("json", HeaderFormat::Json),
        ("base64url-json", HeaderFormat::Base64UrlJson),
    ];
    let absences =
        [("omit", AbsentClaim::Omit), ("empty", AbsentClaim::Empty), ("reject", AbsentClaim::Reject)];
    let format = fields.word("format", &formats, HeaderFormat::Text);
    let absent = fields.word("absent", &absences, AbsentClaim::Omit);
    let max_bytes = fields.get("max_bytes").and_then(|value| {
        let size = value.header_size()?;
        if size > IDENTITY_BYTES {
            let what = format!("all identity headers together have {IDENTITY_BYTES} bytes");
            value.error(what, "write a smaller size, such as 4KiB");
        }
        Some(size)
    });
    Some(HeaderRule { name, claim: claim?, format, absent, max_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_mean_something_else_are_taken_in_every_spelling() {
        let taken = |name: &str| is_taken(&folded(&name.parse().unwrap()));
        for name in [
            "Host",
            "Content_Length",
            "Transfer.Encoding",
            "X-Forwarded-For",
            "content--type",
            "Accept",
            "TE",
        ] {
            assert!(taken(name), "{name}");
        }
        for name in ["X-Auth-Subject", "X-Host", "Contents", "Remote-User", "X-Proxy"] {
            assert!(!taken(name), "{name}");
        }
    }
}
