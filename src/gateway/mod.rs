//! The proxy itself: the phases of a request, and what they need.

pub mod settings;
