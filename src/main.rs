//! The `portcullis` binary.

use clap::Parser;
use portcullis::cli::{Arguments, Command, check, hash_password};
use std::process::ExitCode;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { config } => check::run(&config),
        Command::HashPassword => hash_password::run(),
    }
}
