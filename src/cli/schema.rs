//! `portcullis schema`: the JSON Schema of the configuration, for editors.

use crate::config::schema::schema;
use std::process::ExitCode;

/// Prints the schema.
pub fn run() -> ExitCode {
    super::print(&format!("{:#}\n", schema()))
}
