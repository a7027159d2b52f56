//! What is wrong or risky in a configuration: where, what, and how to mend it.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file, both counted from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration does what it says, which is risky.
    Warning,
}

/// One error or warning. Shows as `file:line:column: routes[2].auth.scopes: what; mend`, a warning with
/// `warning: ` before the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it keeps the configuration from being used.
    pub severity: Severity,
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Where in the file; `None` if it could not be read at all.
    pub mark: Option<Mark>,
    /// The key's path; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(Mark { line, column }) = self.mark {
            write!(f, ":{line}:{column}")?;
        }
        if self.severity == Severity::Warning {
            f.write_str(": warning")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}; {}", self.what, self.mend)
    }
}

/// Every error of a configuration, in the order of the file. Shows as one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// At least one.
    pub errors: Vec<Finding>,
    /// The files that the configuration names and that were looked into: what is wrong may be wrong there.
    pub files: Vec<PathBuf>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects the findings of one file.
#[derive(Debug)]
pub(super) struct Report {
    file: PathBuf,
    errors: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    files: RefCell<Vec<PathBuf>>,
}

impl Report {
    pub(super) fn new(file: &Path) -> Self {
        let file = file.to_owned();
        Self { file, errors: RefCell::default(), warnings: RefCell::default(), files: RefCell::default() }
    }

    fn finding(
        &self,
        severity: Severity,
        mark: Option<Mark>,
        path: &str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        let (file, path) = (self.file.clone(), path.to_owned());
        Finding { severity, file, mark, path, what: what.into(), mend: mend.into() }
    }

    pub(super) fn error(
        &self,
        mark: impl Into<Option<Mark>>,
        path: &str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.errors.borrow_mut().push(self.finding(Severity::Error, mark.into(), path, what, mend));
    }

    pub(super) fn warning(
        &self,
        mark: impl Into<Option<Mark>>,
        path: &str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.warnings.borrow_mut().push(self.finding(Severity::Warning, mark.into(), path, what, mend));
    }

    /// Notes a file that is looked into.
    pub(super) fn reads(&self, file: &Path) {
        self.files.borrow_mut().push(file.to_owned());
    }

    /// Takes over what was found in a file that this one names.
    pub(super) fn absorb(&self, other: Self) {
        self.errors.borrow_mut().extend(other.errors.into_inner());
        self.warnings.borrow_mut().extend(other.warnings.into_inner());
    }

    /// The warnings, or all errors; each in the order of the file, what other files add after it.
    pub(super) fn conclude(self) -> Result<Vec<Finding>, ConfigErrors> {
        let own = self.file;
        let in_order = |mut findings: Vec<Finding>| {
            findings.sort_by(|a, b| (a.file != own, &a.file, a.mark).cmp(&(b.file != own, &b.file, b.mark)));
            findings.dedup();
            findings
        };
        let errors = in_order(self.errors.into_inner());
        if errors.is_empty() {
            Ok(in_order(self.warnings.into_inner()))
        } else {
            Err(ConfigErrors { errors, files: self.files.into_inner() })
        }
    }
}
