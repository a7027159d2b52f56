//! `auth` of a route: what it asks of its callers.

use super::reader::{Fields, Value};
use super::trace::Ask;
use super::units;
use super::yaml::{Kind, Scalar, Style};
use crate::json::ClaimPath;
use crate::policy::requirement::{ClaimRule, ClaimValue, Mode, Requirement, RevocationMode, is_scope};
use crate::token::claims::GATEWAY_ISSUER;

const MODES: &[(&str, Mode)] =
    &[("public", Mode::Public), ("required", Mode::Required), ("optional", Mode::Optional)];

/// Reads `auth: public` and its kind, or the long form.
pub(super) fn requirement(value: &Value<'_>, issuers: &[&str]) -> Requirement {
    let mut requirement = Requirement::default();
    if value.is_scalar() {
        // An unreadable mode stays `required`; the error keeps it from being served at all.
        requirement.mode = value.word(MODES).unwrap_or(Mode::Required);
        return requirement;
    }
    let known = &["mode", "issuers", "audiences", "scopes", "roles", "claims", "enforce", "revocation"];
    let Some(fields) = value.fields(known, &[]) else { return requirement };
    requirement.mode = fields.word("mode", MODES, Mode::Required);
    if requirement.mode == Mode::Public {
        for key in known.iter().filter(|key| **key != "mode") {
            if let Some(value) = fields.get(key) {
                value.error("a public route asks for nothing", "remove this key, or use mode: optional");
            }
        }
        return requirement;
    }
    requirement.issuers = fields.get("issuers").map(|value| {
        let items = non_empty(&value, "remove the key to accept all issuers", "[gateway]");
        items.iter().filter_map(|item| issuer(item, issuers)).collect()
    });
    requirement.audiences =
        fields.get("audiences").map(|v| v.texts("write a list such as [api]")).unwrap_or_default();
    requirement.scopes = fields
        .get("scopes")
        .map(|value| value.items("write a list such as [orders:read]").iter().filter_map(scope).collect())
        .unwrap_or_default();
    requirement.roles =
        fields.get("roles").map(|v| v.texts("write a list such as [clerk]")).unwrap_or_default();
    requirement.claims = fields.get("claims").map(|value| claims(&value)).unwrap_or_default();
    requirement.enforce = fields.boolean("enforce", true);
    if let Some(value) = fields.get("enforce").filter(|_| !requirement.enforce) {
        value.warning("requests this route would refuse are forwarded", "set it to true once the logs agree");
    }
    let sessions = issuers.contains(&GATEWAY_ISSUER);
    requirement.revocation = revocation(&fields, sessions).unwrap_or(RevocationMode::Eventual);
    requirement
}

fn non_empty<'a>(value: &Value<'a>, mend: &str, example: &str) -> Vec<Value<'a>> {
    if value.is_empty_list() {
        value.error("an empty list accepts nobody", mend);
    }
    value.items(&format!("write a list such as {example}"))
}

fn issuer(value: &Value<'_>, issuers: &[&str]) -> Option<String> {
    let name = value.text()?;
    if issuers.contains(&name.as_str()) {
        return Some(name);
    }
    if name == GATEWAY_ISSUER {
        value.error("our own issuer needs the section sessions", "add sessions, or remove gateway here");
        return None;
    }
    let mend = match units::nearest(&name, issuers.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "add it under issuers; our own is called gateway".to_owned(),
    };
    value.error(format!("{} is not an issuer", value.shown()), mend);
    None
}

fn scope(value: &Value<'_>) -> Option<String> {
    let mend = "write one scope per item, without spaces, quotes and backslashes";
    value.parsed("a scope", mend, |text| is_scope(text).then(|| text.to_owned()))
}

fn claims(value: &Value<'_>) -> Vec<ClaimRule> {
    let named = value.named("write one `claim: [value, value]` per claim");
    let rule = |(name, value): (&str, Value<'_>)| {
        let Some(path) = ClaimPath::parse(name) else {
            value.error("not a claim", "write a name, or names joined by dots such as \"address.country\"");
            return None;
        };
        let items = non_empty(&value, "list at least one value, or remove the claim", "[acme, globex]");
        Some(ClaimRule { path, values: items.iter().filter_map(claim_value).collect() })
    };
    named.into_iter().filter_map(rule).collect()
}

/// Types matter in tokens: without quotes, `1` is a number and `true` a truth value.
fn claim_value(value: &Value<'_>) -> Option<ClaimValue> {
    value.ask(|| Ask::Scalar);
    if let Kind::Scalar(Scalar { text, style: Style::Plain }) = &value.node.kind {
        if let Ok(flag) = text.parse() {
            return Some(ClaimValue::Bool(flag));
        }
        if let Ok(number) = text.parse() {
            return Some(ClaimValue::Number(number));
        }
    }
    value.text().map(ClaimValue::Text)
}

fn revocation(fields: &Fields<'_>, sessions: bool) -> Option<RevocationMode> {
    let words = [
        ("off", RevocationMode::Off),
        ("eventual", RevocationMode::Eventual),
        ("sync", RevocationMode::Sync),
    ];
    let value = fields.get("revocation")?;
    let mode = value.word(&words)?;
    match mode {
        RevocationMode::Off => value.warning(
            "tokens of ended sessions are accepted until they expire",
            "use eventual: it costs no request anything",
        ),
        RevocationMode::Sync if !sessions => {
            value.error("there is no session store to ask", "add sessions, or remove this key");
        }
        RevocationMode::Sync | RevocationMode::Eventual => {}
    }
    Some(mode)
}
