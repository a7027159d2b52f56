//! `forward`, for all routes and of one: what upstreams are told about the caller.

use super::issuers::claim_path;
use super::reader::Value;
use crate::gateway::headers::{ProtectedNames, fold};
use crate::policy::forward::{
    AbsentClaim, AssertionRule, AuthorizationHeader, FieldName, ForwardPlan, HeaderFormat, HeaderRule,
    IDENTITY_BYTES,
};
use http::HeaderName;
use std::time::Duration;

/// The header of assertions, and how long they live, if nothing else is said.
const ASSERTION: &str = "X-Auth-Assertion";
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);

/// Longer than that, an assertion is nearly a token.
const LONG: Duration = Duration::from_secs(5 * 60);

const MEND_NAME: &str = "choose a name of letters, digits and hyphens, such as X-Auth-Subject";

/// What `forward` is read beside.
#[derive(Debug)]
pub(super) struct Known {
    /// The identity headers of the whole file so far.
    pub(super) headers: Vec<HeaderName>,
    /// Whether there are `sessions`, whose key signs assertions.
    pub(super) sessions: bool,
}

/// Reads `forward` over what holds without it: keys given here override, `headers` as a whole.
pub(super) fn forward(value: &Value<'_>, default: ForwardPlan, known: &mut Known) -> ForwardPlan {
    let mut plan = default;
    let Some(fields) = value.fields(&["headers", "authorization", "assertion"], &[]) else { return plan };
    let (headers, assertion) = (fields.get("headers"), fields.get("assertion"));
    if let Some(value) = &headers {
        plan.headers = self::headers(value, known).into();
    }
    if let Some(value) = &assertion {
        plan.assertion = self::assertion(value, plan.assertion.as_ref(), known);
    }
    if let Some(rule) = &plan.assertion
        && let Some(value) = assertion.as_ref().or(headers.as_ref())
        && let Some(other) = plan.headers.iter().find(|other| alike(other.name.name(), rule.header.name()))
    {
        let what = format!("{} is both a claim's header and the assertion's", other.name.name());
        value.error(what, "give the assertion a header of its own, such as X-Auth-Assertion");
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

/// Reads `assertion` over what holds without it, key by key.
fn assertion(value: &Value<'_>, default: Option<&AssertionRule>, known: &mut Known) -> Option<AssertionRule> {
    if !known.sessions {
        let mend = "add sessions, whose signing key signs it and whose issuer it names";
        value.error("there is no key to sign it with", mend);
    }
    let fields = value.fields(&["header", "lifetime"], &[])?;
    fields.told_default("header", || ASSERTION.to_owned());
    let header = match fields.get("header") {
        Some(value) => value
            .parsed("a header name", MEND_NAME, |text| text.parse::<FieldName>().ok())
            .filter(|name| may_carry(name, &value))
            .inspect(|name| remember(name, None, &value, known)),
        None => default.map(|rule| rule.header.clone()).or_else(|| {
            let name: FieldName = ASSERTION.parse().ok()?;
            remember(&name, None, value, known);
            Some(name)
        }),
    };
    let lifetime = fields.duration("lifetime", default.map_or(ASSERTION_LIFETIME, |rule| rule.lifetime));
    if let Some(value) = fields.get("lifetime") {
        if lifetime > LONG {
            value.warning("who gets hold of one can use it for more than 5m", "60s is usual");
        } else if lifetime.is_zero() {
            value.warning("assertions expire the moment they are made", "write a duration such as 60s");
        }
    }
    Some(AssertionRule { header: header?, lifetime })
}

fn alike(one: &HeaderName, other: &HeaderName) -> bool {
    fold(one.as_str()) == fold(other.as_str())
}

/// Adds a header to those of the file, and reports one that reads like another: like `twice`, or like one
/// that is spelled otherwise.
fn remember(name: &FieldName, twice: Option<&HeaderName>, value: &Value<'_>, known: &mut Known) {
    let plain = name.name();
    let other = known.headers.iter().find(|other| alike(other, plain) && *other != plain);
    if let Some(other) = twice.or(other) {
        let what = format!("some upstreams take this and {other} for one header");
        value.error(what, "write both alike, or give them names that differ in letters or digits");
    }
    if !known.headers.contains(plain) {
        known.headers.push(plain.clone());
    }
}

fn headers(value: &Value<'_>, known: &mut Known) -> Vec<HeaderRule> {
    let mut rules: Vec<HeaderRule> = Vec::new();
    for (name, value) in value.named("write one `X-Auth-Subject: sub` per header") {
        let Some(name) = header_name(name, &value) else { continue };
        let twice = rules.iter().map(|rule| rule.name.name()).find(|other| alike(other, name.name()));
        remember(&name, twice, &value, known);
        rules.extend(rule(name, &value));
    }
    rules
}

fn header_name(name: &str, value: &Value<'_>) -> Option<FieldName> {
    let Ok(name) = name.parse::<FieldName>() else {
        value.error("not a header name", MEND_NAME);
        return None;
    };
    may_carry(&name, value).then_some(name)
}

/// Whether a header may carry an identity; says so if not.
fn may_carry(name: &FieldName, value: &Value<'_>) -> bool {
    // One name alone is refused only for a meaning of its own.
    let may = ProtectedNames::new([name.name()]).is_ok();
    if !may {
        value.error("a header with a meaning of its own cannot carry an identity", MEND_NAME);
    }
    may
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
