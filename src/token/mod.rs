//! Access tokens: finding, verifying and minting them; and the assertions upstreams get in their place.

pub mod assertion;
pub mod bearer;
pub mod claims;
mod issuer;
mod jws;
pub mod key_folder;
pub mod key_stage;
mod registered;
pub mod signer;
pub mod signing_key;
#[cfg(test)]
mod vectors;
pub mod verified_cache;
pub mod verifier;
