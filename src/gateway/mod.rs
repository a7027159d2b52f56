//! The proxy itself: the phases of a request, and what they need.

pub mod headers;
pub mod path;
pub mod route;
pub mod settings;
