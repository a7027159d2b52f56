//! `sessions.users.http`: login at a backend's own endpoint.

use super::issuers::claim_path;
use super::reader::{Fields, Value};
use super::{sql_directory, web};
use crate::directory::RESERVED_CLAIMS;
use crate::directory::http::{Format, HttpSettings};
use crate::json::ClaimPath;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn http(value: &Value<'_>) -> Option<HttpSettings> {
    let fields =
        value.fields(&["url", "timeout", "format", "fields", "refused", "subject", "claims"], &[])?;
    let url = fields.require("url", "give the backend's login endpoint, such as http://127.0.0.1:9001/login");
    let url = url.and_then(|value| {
        let uri = web::url(&value, "write a URL such as http://127.0.0.1:9001/internal/login")?;
        if web::is_plain_off_loopback(&uri) {
            value.warning(
                "passwords go over plain http: whoever sits between reads them",
                "use https off this machine",
            );
        }
        value.text()
    });
    let timeout = sql_directory::timeout(&fields, TIMEOUT);
    let format = fields.word("format", &[("json", Format::Json), ("form", Format::Form)], Format::Json);
    fields.told_default("fields", || r#"{ username: "{username}", password: "{password}" }"#.to_owned());
    fields.told_default("refused", || "[401, 403]".to_owned());
    fields.told_default("subject", || "sub".to_owned());
    fields.told_default("claims", || "{}".to_owned());
    let subject = fields.get("subject").map_or_else(|| ClaimPath::parse("sub"), |value| claim_path(&value));
    let template = template(&fields);
    let refused = refused(&fields);
    let claims = match fields.get("claims") {
        Some(value) => claims(&value),
        None => Vec::new(),
    };
    Some(HttpSettings { url: url?, timeout, format, fields: template, refused, subject: subject?, claims })
}

fn template(fields: &Fields<'_>) -> Vec<(String, String)> {
    let Some(value) = fields.get("fields") else {
        return ["username", "password"].map(|name| (name.to_owned(), format!("{{{name}}}"))).into();
    };
    let named = value.named("write one `name: value` per member of the request's body");
    let template: Vec<(String, String)> =
        named.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.text()?))).collect();
    for placeholder in ["{username}", "{password}"] {
        if template.len() == named.len() && !template.iter().any(|(_, text)| text.contains(placeholder)) {
            value.error(
                format!("nothing holds {placeholder}"),
                format!("write it where the backend expects it, such as login: \"{placeholder}\""),
            );
        }
    }
    template
}

fn refused(fields: &Fields<'_>) -> Vec<u16> {
    let Some(value) = fields.get("refused") else { return vec![401, 403] };
    let items = value.items("write a list of statuses such as [401, 403]");
    if items.is_empty() {
        value.error("no status would be a wrong password", "write a list of statuses such as [401, 403]");
    }
    let status = |item: &Value<'_>| u16::try_from(item.number(300, 499)?).ok();
    items.iter().filter_map(status).collect()
}

fn claims(value: &Value<'_>) -> Vec<(String, ClaimPath)> {
    let named = value.named("write one `claim: where its answer has it` per claim");
    let claim = |(name, value): &(&str, Value<'_>)| {
        if RESERVED_CLAIMS.contains(name) {
            value.error(format!("the claim {name:?} is set by the gateway itself"), "remove it");
            return None;
        }
        Some(((*name).to_owned(), claim_path(value)?))
    };
    named.iter().filter_map(claim).collect()
}
