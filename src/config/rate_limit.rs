//! `rate_limit` of a route: how often one caller may use it.

use super::reader::Value;
use crate::gateway::rate::{By, RateLimit};
use crate::policy::requirement::Mode;

/// As many requests as the counters can tell apart in the shortest time.
const MOST: usize = 1_000_000;

pub(super) fn rate_limit(value: &Value<'_>, mode: Mode) -> Option<RateLimit> {
    let fields = value.fields(&["requests", "per", "by"], &[])?;
    let by = fields.word("by", &[("subject", By::Subject), ("address", By::Address)], By::Subject);
    let requests = fields.require("requests", "say how many requests, such as requests: 100");
    let per = fields.require("per", "say in what time, such as per: 1s");
    if let Some(value) = fields.get("by").filter(|_| by == By::Subject && mode == Mode::Public) {
        value.warning("a public route knows nobody: it counts by address", "write by: address");
    }
    if let Some(value) = per.as_ref().filter(|value| value.duration_is_zero()) {
        value.warning("limits nothing", "write a duration such as 1s");
    }
    let requests = requests.and_then(|value| value.number(1, MOST)).and_then(|n| u32::try_from(n).ok());
    let per = per.and_then(|value| value.duration());
    Some(RateLimit::new(requests?, per?, by))
}
