//! Access tokens: finding, verifying and minting them.

pub mod claims;
