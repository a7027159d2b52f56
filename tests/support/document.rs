//! The documents of the tree: their fenced blocks, and their lines run in one shell as they are printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds the lines of one document may take together.
const PATIENCE: &str = "120";

/// The root of the tree.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the tree as text.
#[track_caller]
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// What stands behind the opening fence.
    pub(crate) kind: String,
    pub(crate) text: String,
}

/// The fenced blocks of a document; panics if one is not closed.
#[track_caller]
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(kind), None) => open = Some(Block { kind: kind.to_owned(), text: String::new() }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text += line;
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block that is not closed: {open:?}");
    blocks
}

/// A line of a `console` block and what it prints, `…` standing for anything; or a whole `sh` block, which has to
/// end well and may print what it likes.
pub(crate) struct Step {
    pub(crate) command: String,
    prints: Option<String>,
}

/// What the `console` and `sh` blocks run.
pub(crate) fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in blocks(document) {
        if block.kind == "sh" {
            steps.push(Step { command: block.text.clone(), prints: None });
        }
        for line in block.text.lines().filter(|_| block.kind == "console") {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), prints: Some(String::new()) });
            } else {
                let prints = steps.last_mut().and_then(|step| step.prints.as_mut());
                *prints.expect("a command before its output") += &format!("{line}\n");
            }
        }
    }
    steps
}

/// Whether `text` is `pattern` with each `…` replaced by something.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Runs every line in one shell, so that variables of one are used by the next, and looks at what each prints.
/// `portcullis` is the built one.
#[track_caller]
pub(crate) fn run(steps: &[Step], folder: &Path) {
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap().display().to_string();
    let said = folder.join("walk");
    fs::create_dir_all(&said).unwrap();
    let line = |(n, step): (usize, &Step)| match step.prints {
        Some(_) => format!("{{ {}\n}} > walk/{n} 2>&1\n", step.command),
        None => format!("( set -e\n{}\n) > walk/{n} 2>&1 || exit\n", step.command),
    };
    let lines: String = steps.iter().enumerate().map(line).collect();
    fs::write(said.join("walk.sh"), format!("PATH=\"{binaries}:$PATH\"\n{lines}")).unwrap();
    let mut shell = Command::new("timeout");
    let status = shell.args([PATIENCE, "sh", "walk/walk.sh"]).current_dir(folder).status().unwrap();
    for (n, step) in steps.iter().enumerate() {
        let printed = fs::read_to_string(said.join(n.to_string())).unwrap_or_default();
        // Terminals show a missing line end as none; so do the documents.
        let (printed, command) = (printed.trim_end_matches('\n'), &step.command);
        let Some(expected) = &step.prints else {
            println!("{command}{printed}");
            continue;
        };
        let expected = expected.trim_end_matches('\n');
        assert!(fits(expected, printed), "$ {command}\nprints:\n{printed}\nand not:\n{expected}");
    }
    assert!(status.success(), "the shell ended with {status}");
}
