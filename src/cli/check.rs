//! `portcullis check`: what is wrong or risky in a configuration, without network and without a trace.

use crate::config::Config;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Checks a configuration. Findings go to standard error, one line each; if there is no error, a summary goes
/// to standard output. The exit code is 0 without errors, else 1.
pub fn run(path: &Path) -> ExitCode {
    // Nobody is left to tell that nobody listens.
    let mut err = io::stderr().lock();
    match Config::load(path) {
        Ok(config) => {
            for warning in &config.warnings {
                let _ = writeln!(err, "{warning}");
            }
            let _ = writeln!(io::stdout(), "{}: {}", path.display(), summary(&config));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let _ = writeln!(err, "{errors}");
            ExitCode::FAILURE
        }
    }
}

fn summary(config: &Config) -> String {
    let issuers = config.issuers.len() + usize::from(config.sessions.is_some());
    let parts = [
        count(config.server.listeners.len(), "listener"),
        count(config.routes.routes().len(), "route"),
        count(config.upstreams.len(), "upstream"),
        count(issuers, "issuer"),
    ];
    format!("valid: {}; {}", parts.join(", "), count(config.warnings.len(), "warning"))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
