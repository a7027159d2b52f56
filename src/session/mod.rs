//! Sessions: refresh tokens, their rotation, the stores that keep them, and what is known to be ended.

pub mod confirmation;
pub mod deferred;
mod derive;
pub mod embedded;
pub mod family;
pub mod id;
pub mod metered;
mod record;
pub mod redis;
pub mod refresh_token;
pub mod revocation;
pub mod skew;
pub mod store;
pub mod throttle;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod scripted;
