//! Key sets: the keys an issuer signs with, where they come from, and how they are kept fresh.

mod algorithm;
mod source;

pub use algorithm::Algorithm;
pub use source::{KeySetSettings, RefreshSettings, Source};
