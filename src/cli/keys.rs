//! `portcullis keys`: our signing keys, and the next one.

use super::terminal::{Paint, table};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{Config, SessionsConfig, parse_duration};
use crate::token::key_folder::{self, FIRST_KEY, KeyFile};
use crate::token::key_stage::{PENDING_FOR, PUBLISHED_FOR, Stage, name_of, signs_from, spent, stage};
use crate::token::signer::SigningAlgorithm;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What is asked.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List the keys: which signs, which will, which did
    List(List),
    /// Make the next key: published now, signing in a while; and remove those that nobody needs any more
    Rotate(Rotate),
}

/// Which keys are listed.
#[derive(Debug, clap::Args)]
pub struct List {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How the next key is made.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long it is published before it signs [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    after: Option<Duration>,
    /// Its algorithm, if it is not the one tokens are signed with now
    #[arg(long, value_name = "ALGORITHM", value_parser = algorithm)]
    algorithm: Option<SigningAlgorithm>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number and s, m, h or d, such as 10m".to_owned())
}

fn algorithm(text: &str) -> Result<SigningAlgorithm, String> {
    let known = SigningAlgorithm::ALL.iter().find(|algorithm| algorithm.as_str() == text);
    known.copied().ok_or_else(|| "write ES256, EdDSA or RS256".to_owned())
}

/// Does what is asked. The exit code is 1 if that is not possible.
pub fn run(action: &Action) -> ExitCode {
    let done = match action {
        Action::List(arguments) => list(arguments),
        Action::Rotate(arguments) => rotate(arguments),
    };
    match done {
        Ok(text) => super::print(&text),
        Err(error) => super::fail(&error),
    }
}

fn sessions(path: &Path) -> Result<SessionsConfig, String> {
    let config = Config::load(path).map_err(|errors| errors.to_string())?;
    config.sessions.ok_or_else(|| format!("{}: there are no `sessions`, which have keys", path.display()))
}

fn read(sessions: &SessionsConfig) -> Result<Vec<KeyFile>, String> {
    key_folder::read(&sessions.signing_keys).map_err(|error| error.to_string())
}

fn list(arguments: &List) -> Result<String, String> {
    let sessions = sessions(&arguments.config)?;
    let (files, now) = (read(&sessions)?, SystemClock.now());
    if arguments.json {
        let keys: Vec<Value> = files
            .iter()
            .map(|file| {
                json!({
                    "file": file.path.display().to_string(),
                    "kid": file.key.kid(),
                    "algorithm": file.key.algorithm().as_str(),
                    "stage": stage(file, &files, sessions.algorithm, now).as_str(),
                    "signsFrom": (file.from > Timestamp::default()).then(|| file.from.to_rfc3339()),
                })
            })
            .collect();
        return Ok(format!("{:#}\n", Value::from(keys)));
    }
    if files.is_empty() {
        let folder = sessions.signing_keys.display();
        return Ok(format!("{folder} has no key yet; one is made when the gateway starts\n"));
    }
    let mut rows = vec![["FILE", "STAGE", "SIGNS FROM", "ALGORITHM", "KID"].map(str::to_owned).to_vec()];
    for file in &files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let from = if file.from > Timestamp::default() {
            file.from.to_rfc3339()
        } else {
            "the beginning".to_owned()
        };
        let stage = stage(file, &files, sessions.algorithm, now).as_str().to_owned();
        rows.push(vec![name, stage, from, file.key.algorithm().to_string(), file.key.kid().to_owned()]);
    }
    Ok(table(&rows, Paint::stdout()))
}

fn rotate(arguments: &Rotate) -> Result<String, String> {
    let sessions = sessions(&arguments.config)?;
    let (files, now) = (read(&sessions)?, SystemClock.now());
    let algorithm = arguments.algorithm.unwrap_or(sessions.algorithm);
    let after = arguments.after.unwrap_or(PENDING_FOR);
    let is_pending = |file: &&KeyFile| {
        file.key.algorithm() == algorithm && stage(file, &files, algorithm, now) == Stage::Pending
    };
    if let Some(pending) = files.iter().find(is_pending).filter(|_| !after.is_zero()) {
        let (name, from) = (pending.path.display(), pending.from.to_rfc3339());
        return Err(format!("{name} is pending already and signs from {from}; it needs nothing more"));
    }
    if after < PUBLISHED_FOR && !files.is_empty() {
        let seconds = PUBLISHED_FOR.as_secs();
        // Nobody is left to tell that nobody listens.
        let _ = writeln!(
            io::stderr(),
            "warning: upstreams may keep our published keys for {seconds} s and refuse what the new one signs meanwhile"
        );
    }
    // Nothing was signed before the first.
    let name = if files.is_empty() { FIRST_KEY.to_owned() } else { name_of(now.plus(after)) };
    let made =
        key_folder::create(&sessions.signing_keys, &name, algorithm).map_err(|error| error.to_string())?;
    let path = sessions.signing_keys.join(&name);
    if !made {
        return Err(format!("{} exists already", path.display()));
    }
    let mut text = if files.is_empty() {
        format!("made {}; it signs from the beginning\n", path.display())
    } else {
        format!(
            "made {}; it is published now and signs from {}\n",
            path.display(),
            signs_from(&name).to_rfc3339()
        )
    };
    for file in spent(&files, sessions.lifetime, now) {
        std::fs::remove_file(&file.path).map_err(|error| format!("{}: {error}", file.path.display()))?;
        let _ = writeln!(text, "removed {}; nothing it signed is good any more", file.path.display());
    }
    Ok(text)
}
