//! The README tells the truth: its lines, run as printed, print what it says.

use crate::support::client::get;
use crate::support::document::{fits, read, run, steps};
use crate::support::folder::Folder;
use crate::support::ports::free_port;
use crate::support::wait::eventually;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A child process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The demo backend, which cargo builds beside the gateway.
fn demo_upstream() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_portcullis")).with_file_name("examples").join("demo_upstream");
    assert!(path.exists(), "{} is missing: run `cargo build --example demo_upstream`", path.display());
    path
}

#[test]
fn the_walk_through_of_the_readme_prints_what_it_says() {
    let folder = Folder::new();
    let ports = [("8080", free_port()), ("9090", free_port()), ("9001", free_port())];
    let moved = |text: String| {
        ports.iter().fold(text, |text, (from, to)| {
            text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"))
        })
    };
    let read = |name: &str| moved(read(name));
    let config = folder.write("portcullis.yaml", read("conf/portcullis.yaml"));
    folder.write("users.yaml", read("conf/users.yaml"));
    let backend = format!("127.0.0.1:{}", ports[2].1);
    let quiet = |command: &mut Command| {
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the process starts"))
    };
    let _backend = quiet(Command::new(demo_upstream()).arg(&backend));
    let _gateway =
        quiet(Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["run", "--config", config.as_str()]));
    let admin = format!("127.0.0.1:{}", ports[1].1);
    let ready = || get("/readyz").try_send(&admin).is_ok_and(|response| response.status == 200);
    assert!(eventually(Duration::from_secs(20), ready), "the demo gateway is not ready");

    let steps = steps(&read("README.md"));
    assert!(steps.len() > 10, "the README has its walk-through");
    run(&steps, folder.path());
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
        run(&steps, folder.path());
    }
}

#[test]
fn the_pattern_of_the_readme_can_fail() {
    assert!(fits("a…c", "abbbc") && fits("…", "x") && fits("ab", "ab"));
    assert!(!fits("a…c", "abbb") && !fits("ab", "abc") && !fits("x…", "ab") && !fits("a…b…c", "a-c"));
}
