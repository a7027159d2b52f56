//! `portcullis check`: what is wrong or risky in a configuration, without network and without a trace.

use crate::config::Config;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Checks a configuration. Findings go to standard error, one line each; if there is no error, a summary goes
/// to standard output. The exit code is 0 without errors, else 1.
pub fn run(config: &Path) -> ExitCode {
    let said = Said::of(config);
    // Nobody is left to tell that nobody listens.
    let _ = io::stderr().write_all(said.findings.as_bytes());
    let _ = io::stdout().write_all(said.summary.as_bytes());
    if said.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What there is to say of a configuration.
struct Said {
    findings: String,
    summary: String,
    valid: bool,
}

impl Said {
    fn of(path: &Path) -> Self {
        match Config::load(path) {
            Ok(config) => {
                let findings = config.warnings.iter().map(|warning| format!("{warning}\n")).collect();
                let summary = format!("{}: {}\n", path.display(), summary(&config));
                Self { findings, summary, valid: true }
            }
            Err(errors) => Self { findings: format!("{errors}\n"), summary: String::new(), valid: false },
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    fn corpus(folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(Path::new("tests/config_corpus").join(folder)).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        files
    }

    #[track_caller]
    fn says_what_is_expected(files: &[PathBuf], valid: bool) {
        let mut differing = Vec::new();
        for file in files {
            let said = Said::of(file);
            let text = said.findings + &said.summary;
            let expected = fs::read_to_string(file.with_extension("expected")).unwrap_or_default();
            if text != expected || said.valid != valid {
                differing.push(format!("{}: expected\n{expected}and it says\n{text}", file.display()));
            }
        }
        assert!(differing.is_empty(), "{}", differing.join("\n"));
    }

    #[test]
    fn every_wrong_file_gets_exactly_its_messages() {
        let files = corpus("wrong");
        assert!(files.len() >= 45, "only {} files", files.len());
        says_what_is_expected(&files, false);
    }

    #[test]
    fn every_risky_file_gets_exactly_its_warnings() {
        let files = corpus("risky");
        assert!(files.len() >= 5, "only {} files", files.len());
        says_what_is_expected(&files, true);
    }

    #[test]
    fn the_configurations_that_come_with_it_are_valid_and_not_risky() {
        for file in ["conf/portcullis.yaml", "conf/reference.yaml"] {
            let said = Said::of(Path::new(file));
            assert!(said.valid && said.findings.is_empty(), "{}", said.findings);
        }
    }
}
