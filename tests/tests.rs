//! The integration tests: one binary, a file per promise, each test drives the built gateway.
//!
//! What the tests stand on is in `support`: the gateway itself, raw clients, and fake neighbours.

// A test panics to fail, and owns its own time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::needless_pass_by_value, clippy::too_many_lines)]
// Small strings put together for a message are no cost here.
#![allow(clippy::format_push_string, clippy::format_collect)]
#![allow(dead_code, unused_imports)]

mod support;

mod check;
mod harness;
mod tidy;
