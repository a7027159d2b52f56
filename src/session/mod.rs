//! Sessions: refresh tokens, their rotation, the stores that keep them, and what is known to be ended.

pub mod embedded;
pub mod family;
pub mod id;
mod record;
pub mod refresh_token;
pub mod store;

#[cfg(test)]
mod conformance;
