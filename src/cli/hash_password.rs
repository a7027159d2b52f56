//! `portcullis hash-password`: from a password on standard input to its line in the users file.

use crate::clock;
use crate::directory::password_hash;
use crate::secret::Secret;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

/// The longest password a login may send, in bytes.
const MOST: usize = 1024;

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("standard input cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("no password on standard input; give it on one line")]
    Empty,
    #[error("the password is longer than {MOST} bytes; no login could send it")]
    TooLong,
    #[error("the password is not UTF-8; no login could send it")]
    NotText,
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// Reads one line without its line end and prints its hash as a PHC string. The exit code is 1 if there is none.
pub fn run() -> ExitCode {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let _ = write!(io::stderr(), "Password (visible while you type): ");
    }
    match read_line(stdin.lock()).and_then(|password| hash(&password)) {
        Ok(hash) => match writeln!(io::stdout().lock(), "{hash}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(refusal) => {
            let _ = writeln!(io::stderr(), "portcullis: {refusal}");
            ExitCode::FAILURE
        }
    }
}

fn read_line(input: impl BufRead) -> Result<Secret<String>, Refusal> {
    // Room for the line end, and for one byte too many.
    let mut input = io::Read::take(input, MOST as u64 + 3);
    let mut line = Vec::with_capacity(MOST + 3);
    input.read_until(b'\n', &mut line)?;
    let line = Secret::new(line);
    let bytes = line.expose().strip_suffix(b"\n").unwrap_or(line.expose());
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err(Refusal::Empty);
    }
    if bytes.len() > MOST {
        return Err(Refusal::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotText)?;
    Ok(Secret::new(text.to_owned()))
}

fn hash(password: &Secret<String>) -> Result<String, Refusal> {
    let salt = clock::random_bytes().map_err(|error| Refusal::Hash(error.to_string()))?;
    let hash = password_hash::hash_password(password.expose().as_bytes(), salt);
    hash.map_err(|error| Refusal::Hash(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<String, String> {
        read_line(input).map(|line| line.expose().clone()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn one_line_is_read_without_its_end_and_with_its_spaces() {
        for input in ["p w ", "p w \n", "p w \r\n", "p w \nnext line\n"] {
            assert_eq!(read(input.as_bytes()).unwrap(), "p w ");
        }
    }

    #[test]
    fn what_no_login_could_send_is_refused() {
        assert!(read(b"").unwrap_err().contains("no password"));
        assert!(read(b"\r\n").unwrap_err().contains("no password"));
        assert!(read(b"\xff\n").unwrap_err().contains("UTF-8"));
        assert_eq!(read("x".repeat(MOST).as_bytes()).unwrap().len(), MOST);
        assert_eq!(read(format!("{}\r\n", "x".repeat(MOST)).as_bytes()).unwrap().len(), MOST);
        assert!(read("x".repeat(MOST + 1).as_bytes()).unwrap_err().contains("longer"));
        assert!(read("x".repeat(9999).as_bytes()).unwrap_err().contains("longer"));
    }

    #[test]
    fn the_hash_verifies_the_password() {
        let hash = hash(&Secret::new("pass".to_owned())).unwrap();
        let parsed = password_hash::PasswordHash::parse(&hash).unwrap();
        assert!(parsed.verifies(b"pass", &mut password_hash::Memory::default()));
        assert!(!parsed.verifies(b"Pass", &mut password_hash::Memory::default()));
    }
}
