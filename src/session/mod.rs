//! Sessions: refresh tokens, their rotation, the stores that keep them, and what is known to be ended.

pub mod family;
pub mod id;
pub mod refresh_token;
pub mod store;
