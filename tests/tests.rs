//! The integration tests: one binary, a file per promise, each test drives the built gateway.
//!
//! What the tests stand on is in `support`: the gateway itself, raw clients, and fake neighbours.

// A test panics to fail, and owns its own time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::needless_pass_by_value, clippy::too_many_lines)]
#![allow(clippy::similar_names)]
// Small strings put together for a message are no cost here.
#![allow(clippy::format_push_string, clippy::format_collect)]

mod support;

mod admin;
mod agreement;
mod assertions;
mod attacks;
mod battery;
mod browser;
mod check;
mod commands;
mod cookies_and_csrf;
mod cors;
mod crowds;
mod databases;
mod deployments;
mod directories;
mod dns;
mod edges;
mod explain;
mod failover;
mod forgery;
mod forward_auth;
mod handover;
mod harness;
mod http2_battery;
mod identity_headers;
mod key_copies;
mod key_sets;
mod ldap;
mod lifecycle;
mod logout_race;
mod monitoring;
mod operation;
mod outage;
mod panics;
mod passwords;
mod paths;
mod policy;
mod proxy;
mod proxy_protocol;
mod rate_limits;
mod readme;
mod real_clients;
mod recipes;
mod reload;
mod secret_rotation;
mod sessions;
mod signing_keys;
mod soak;
mod stopping;
mod stores;
mod streams;
mod throttle;
mod tidy;
mod traces;
mod transfers;
mod upstreams;
mod verification;
mod ways;
mod websocket;
mod wire;
