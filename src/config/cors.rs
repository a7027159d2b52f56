//! `cors` of a route: which pages may call it.

use super::reader::Value;
use super::web;
use crate::gateway::cors::Cors;
use std::time::Duration;

/// How long browsers keep what a preflight was told. They have limits of their own, of hours.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Every origin.
const ANY: &str = "*";

pub(super) fn cors(value: &Value<'_>) -> Option<Cors> {
    let fields = value.fields(&["origins", "credentials", "max_age"], &[])?;
    let credentials = fields.boolean("credentials", false);
    let max_age = fields.duration("max_age", MAX_AGE);
    let list = fields.require("origins", "list the pages' origins, such as [https://app.example.com]")?;
    if list.is_empty_list() {
        list.error("an empty list lets no page call this route", "list origins, or remove cors");
    }
    let items = list.items("write a list such as [https://app.example.com], or [\"*\"]");
    if let Some(any) = items.iter().find(|item| item.is_text(ANY)) {
        if items.len() > 1 {
            any.error("\"*\" is every origin already", "remove it, or the others");
        }
        if credentials {
            let what = "\"*\" with credentials would let every page act as whoever visits it";
            any.error(what, "list the origins, or set credentials: false");
        }
        return Some(Cors::any(max_age));
    }
    let mut origins = Vec::new();
    for item in &items {
        let Some(origin) = web::page_origin(item) else { continue };
        if origins.contains(&origin) {
            item.error(format!("{} stands here twice", item.shown()), "keep one of the two");
        }
        origins.push(origin);
    }
    Some(Cors::listed(&origins, credentials, max_age))
}
