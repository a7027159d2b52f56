//! The configuration file: [`Config::load`] is the only door, and it either gives settings in which nothing
//! contradicts itself, or every error of the file.

mod finding;
mod reader;
mod secrets;
mod units;
mod yaml;

pub use finding::{ConfigErrors, Finding, Mark};
