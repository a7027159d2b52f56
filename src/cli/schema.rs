//! `portcullis schema`: the JSON Schema of the configuration for editors, and its reference for people.

use crate::config::markdown::markdown;
use crate::config::schema::schema;
use std::process::ExitCode;

/// What is asked.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the reference of every key as Markdown
    #[arg(long)]
    markdown: bool,
}

/// Prints the schema, or the reference.
pub fn run(arguments: &Arguments) -> ExitCode {
    super::print(&if arguments.markdown { markdown() } else { format!("{:#}\n", schema()) })
}
