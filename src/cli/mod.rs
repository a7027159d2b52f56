//! The command line: what `portcullis` understands.

pub mod check;
pub mod hash_password;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The arguments of the program.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    about = "A reverse-proxy auth gateway",
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a configuration: every error and every risk, with its place and its mend
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Read a password on standard input and print its hash for the users file
    HashPassword,
}
