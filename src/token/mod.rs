//! Access tokens: finding, verifying and minting them.

pub mod bearer;
pub mod claims;
pub mod verifier;
