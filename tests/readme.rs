//! The README tells the truth: its lines, run as printed, print what it says.

use crate::support::demo::Demo;
use crate::support::folder::Folder;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A line of a `console` block and what it prints, `…` standing for anything.
struct Step {
    command: String,
    prints: String,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(kind), false) => inside = kind == "console",
            (Some(_), true) => inside = false,
            (None, true) => {
                if let Some(command) = line.strip_prefix("$ ") {
                    steps.push(Step { command: command.to_owned(), prints: String::new() });
                } else {
                    let step = steps.last_mut().expect("a command before its output");
                    step.prints += line;
                    step.prints.push('\n');
                }
            }
            (None, false) => {}
        }
    }
    steps
}

/// Whether `text` is `pattern` with each `…` replaced by something.
fn fits(pattern: &str, text: &str) -> bool {
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

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_walk_through_of_the_readme_prints_what_it_says() {
    let demo = Demo::start();
    let steps = steps(&demo.moved(fs::read_to_string(root().join("README.md")).unwrap()));
    assert!(steps.len() > 10, "the README has its walk-through");
    run(&steps, demo.folder());
}

/// Runs every line in one shell, so that variables of one are used by the next, and looks at what each prints.
#[track_caller]
fn run(steps: &[Step], folder: &Folder) {
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap().display().to_string();
    let lines: String = steps
        .iter()
        .enumerate()
        .map(|(n, step)| format!("{{ {}\n}} > out.{n} 2>&1\n", step.command))
        .collect();
    let script = folder.write("walk.sh", format!("PATH=\"{binaries}:$PATH\"\n{lines}"));
    let status = Command::new("sh").arg(&script).current_dir(folder.path()).status().unwrap();
    assert!(status.success(), "the shell ended with {status}");
    for (n, step) in steps.iter().enumerate() {
        let printed = folder.read(&format!("out.{n}"));
        // Terminals show a missing line end as none; so does the README.
        let (printed, expected) = (printed.trim_end_matches('\n'), step.prints.trim_end_matches('\n'));
        assert!(fits(expected, printed), "$ {}\nprints:\n{printed}\nand not:\n{expected}", step.command);
    }
}

/// The files that a document shows: blocks that begin with `# NAME.yaml`.
fn shown_files(text: &str) -> Vec<(String, String)> {
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let named = blocks.filter_map(|block| {
        let name = block.lines().next()?.strip_prefix("# ")?;
        (name.rsplit_once('.')?.1 == "yaml").then(|| (name.to_owned(), block.to_owned()))
    });
    named.collect()
}

#[test]
fn the_lines_of_the_documents_about_the_commands_print_what_they_say() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    for (document, least) in [("docs/commands.md", 8), ("docs/signing-keys.md", 3)] {
        let folder = Folder::new();
        folder.write("portcullis.yaml", read("conf/portcullis.yaml"));
        folder.write("users.yaml", read("conf/users.yaml"));
        let text = read(document);
        for (name, content) in shown_files(&text) {
            folder.write(&name, content);
        }
        let steps = steps(&text);
        assert!(steps.len() >= least, "{document} has its lines");
        run(&steps, &folder);
    }
}

#[test]
fn the_pattern_of_the_readme_can_fail() {
    assert!(fits("a…c", "abbbc") && fits("…", "x") && fits("ab", "ab"));
    assert!(!fits("a…c", "abbb") && !fits("ab", "abc") && !fits("x…", "ab") && !fits("a…b…c", "a-c"));
}
