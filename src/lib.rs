//! Portcullis, a reverse-proxy auth gateway.
//!
//! The configuration says which routes exist; the gateway finds the route, the token is verified with a
//! key set, the policy grants a permit, claims are forwarded upstream; the endpoints log people in
//! against a directory and keep sessions.

pub mod access_log;
pub mod admin;
pub mod app;
pub mod breaker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod directory;
pub mod endpoints;
pub mod gateway;
pub mod gcra;
pub mod json;
pub mod key_set;
pub mod metrics;
pub mod outbound;
pub mod panics;
pub mod policy;
pub mod reason;
pub mod reply;
pub mod secret;
pub mod session;
pub mod token;
pub mod traces;
