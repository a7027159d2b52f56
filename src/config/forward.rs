//! `forward`, for all routes and of one: what upstreams are told about the caller.

use super::issuers::claim_path;
use super::reader::Value;
use crate::gateway::headers::{ProtectedNames, fold};
use crate::policy::forward::{
    AbsentClaim, AuthorizationHeader, FieldName, ForwardPlan, HeaderFormat, HeaderRule, IDENTITY_BYTES,
};
use http::HeaderName;

/// Reads `forward` over what holds without it: keys given here override, `headers` as a whole. `seen` are
/// the identity headers of the whole file so far.
pub(super) fn forward(value: &Value<'_>, default: ForwardPlan, seen: &mut Vec<HeaderName>) -> ForwardPlan {
    let mut plan = default;
    let Some(fields) = value.fields(&["headers", "authorization"], &["assertion"]) else { return plan };
    if let Some(value) = fields.get("headers") {
        plan.headers = headers(&value, seen);
    }
    let words = [("strip", AuthorizationHeader::Strip), ("pass", AuthorizationHeader::Pass)];
    plan.authorization = fields.word("authorization", &words, plan.authorization);
    if let Some(value) = fields.get("authorization")
        && plan.authorization == AuthorizationHeader::Pass
    {
        value.warning(
            "the upstream gets the client's token itself, and can use it elsewhere",
            "leave it out unless the upstream verifies tokens on its own",
        );
    }
    plan
}

fn headers(value: &Value<'_>, seen: &mut Vec<HeaderName>) -> Vec<HeaderRule> {
    let mut rules: Vec<HeaderRule> = Vec::new();
    for (name, value) in value.named("write one `X-Auth-Subject: sub` per header") {
        let Some(name) = header_name(name, &value) else { continue };
        let plain = name.name();
        let alike = |other: &HeaderName| fold(other.as_str()) == fold(plain.as_str());
        let twice = rules.iter().map(|rule| rule.name.name()).find(|other| alike(other));
        if let Some(other) = twice.or_else(|| seen.iter().find(|other| alike(other) && *other != plain)) {
            let what = format!("some upstreams take this and {other} for one header");
            value.error(what, "write both alike, or give them names that differ in letters or digits");
        }
        if !seen.contains(plain) {
            seen.push(plain.clone());
        }
        rules.extend(rule(name, &value));
    }
    rules
}

fn header_name(name: &str, value: &Value<'_>) -> Option<FieldName> {
    let mend = "choose a name of letters, digits and hyphens, such as X-Auth-Subject";
    let Ok(name) = name.parse::<FieldName>() else {
        value.error("not a header name", mend);
        return None;
    };
    // One name alone is refused only for a meaning of its own.
    if ProtectedNames::new([name.name()]).is_err() {
        value.error("a header with a meaning of its own cannot carry an identity", mend);
        return None;
    }
    Some(name)
}

fn rule(name: FieldName, value: &Value<'_>) -> Option<HeaderRule> {
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
