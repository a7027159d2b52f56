//! The commands that need no gateway: `check`, `hash-password`, and the command line itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn portcullis(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("PORTCULLIS_CORPUS_PORT")
        .env_remove("PORTCULLIS_CORPUS_LEVEL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn corpus(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new("tests/config_corpus").join(folder);
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| folder.join(entry.unwrap().file_name())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[track_caller]
fn check_says(folder: &str, exit_code: i32) {
    for file in corpus(folder) {
        let output = portcullis(&["check", "--config", file.to_str().unwrap()], b"");
        let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(file.with_extension("expected"));
        let said = format!("{}{}", text(&output.stderr), text(&output.stdout));
        assert_eq!(said, fs::read_to_string(expected).unwrap(), "{}", file.display());
        assert_eq!(output.status.code(), Some(exit_code), "{}", file.display());
    }
}

#[test]
fn check_tells_every_error_of_a_wrong_file_and_exits_with_1() {
    check_says("wrong", 1);
}

#[test]
fn check_warns_of_what_is_risky_and_exits_with_0() {
    check_says("risky", 0);
}

#[test]
fn check_of_the_example_says_one_line() {
    let output = portcullis(&["check", "--config", "conf/portcullis.yaml"], b"");
    assert_eq!(output.status.code(), Some(0));
    let summary = "conf/portcullis.yaml: valid: 1 listener, 4 routes, 1 upstream, 1 issuer; 0 warnings\n";
    assert_eq!((text(&output.stdout), text(&output.stderr)), (summary, ""));
}

#[test]
fn a_hashed_password_is_a_phc_string_and_never_the_same_twice() {
    let hash = |input: &[u8]| {
        let output = portcullis(&["hash-password"], input);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let (one, other) = (hash(b"secret\n"), hash(b"secret"));
    for hash in [&one, &other] {
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && hash.ends_with('\n'), "{hash}");
    }
    assert_ne!(one, other);
}

#[test]
fn no_password_is_an_error_on_standard_error() {
    let output = portcullis(&["hash-password"], b"\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && text(&output.stderr).contains("no password"));
}

#[test]
fn help_and_version_are_answered_and_unknown_arguments_exit_with_2() {
    let help = portcullis(&["--help"], b"");
    assert_eq!(help.status.code(), Some(0));
    for command in ["run", "check", "routes", "explain", "test", "hash-password", "schema"] {
        assert!(text(&help.stdout).contains(command), "{}", text(&help.stdout));
    }
    let version = portcullis(&["--version"], b"");
    assert_eq!(text(&version.stdout), format!("portcullis {}\n", env!("CARGO_PKG_VERSION")));
    for wrong in [&["--frobnicate"][..], &["frobnicate"], &["check"], &["check", "--config"], &[]] {
        assert_eq!(portcullis(wrong, b"").status.code(), Some(2), "{wrong:?}");
    }
}
