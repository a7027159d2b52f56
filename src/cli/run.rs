//! `portcullis run`: the gateway itself.

use crate::app;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// Runs until told to stop. The exit code is 1, with the reason on standard error, if it cannot start.
pub fn run(config: &Path, upgrade: bool) -> ExitCode {
    match app::run(config, upgrade) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell that nobody listens.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
