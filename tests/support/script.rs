//! Programs of others as neighbours of the gateway: scripts for Debian's Python and its packages, and curl.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Debian's own, which has the packages; another one may come first on the path.
const PYTHON: &str = "/usr/bin/python3";

/// How long a program may take for any single thing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program; it ends with the value.
pub(crate) struct Script {
    name: String,
    child: Child,
    lines: Receiver<String>,
    complaints: Option<JoinHandle<String>>,
}

impl Script {
    /// Starts a script from `tests/clients`.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        Self::start_at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name), arguments)
    }

    /// Starts a script from elsewhere in the tree.
    pub(crate) fn start_at(script: &Path, arguments: &[&str]) -> Self {
        let mut python = Command::new(PYTHON);
        // Nothing is left beside the scripts, and no proxy of this machine's user is asked.
        python.arg("-B").arg(script).args(arguments).env_remove("http_proxy").env_remove("https_proxy");
        Self::run(&script.display().to_string(), python)
    }

    fn run(name: &str, mut command: Command) -> Self {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|why| panic!("{name}: {why}; `make test-tools` installs it"));
        let (stdout, stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = BufReader::new(stderr).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { name: name.to_owned(), child, lines, complaints: Some(complaints) }
    }

    /// The next line it prints.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(why) => panic!("nothing was said ({why}) by {}", self.complaint()),
        }
    }

    /// Waits for its end, which must be a good one; what else it printed.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no end after {lines:?} of {}", self.complaint())
                }
            }
        }
        let status = self.child.wait().expect("a child to wait for");
        assert!(status.success(), "{status} after {lines:?} of {}", self.complaint());
        lines
    }

    /// Ends it if need be; its name and what it wrote on standard error.
    fn complaint(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let text = self.complaints.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        format!("{}: {text}", self.name)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let complaint = self.complaint();
        if thread::panicking() {
            eprintln!("--- standard error of {complaint}");
        }
    }
}

/// The documents of a YAML file, as another reader has them.
#[track_caller]
pub(crate) fn yaml(text: &str) -> Vec<Value> {
    let read = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = Command::new(PYTHON);
    python.args(["-c", read]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().unwrap_or_else(|why| panic!("{PYTHON}: {why}"));
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("its input");
    let output = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "no YAML, or no python3-yaml (`make test-tools`): {said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Runs curl to its end, past any proxy of this machine's user; what it wrote on standard output.
#[track_caller]
pub(crate) fn curl(arguments: &[&str]) -> String {
    let mut answer = String::new();
    curl_into(arguments, |output| {
        output.read_to_string(&mut answer).expect("text");
    });
    answer
}

/// The same, with what it writes read as it comes.
#[track_caller]
pub(crate) fn curl_into(arguments: &[&str], read: impl FnOnce(&mut ChildStdout)) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "600"]).args(arguments);
    let spawned = curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.expect("curl");
    read(child.stdout.as_mut().expect("a pipe"));
    let output = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?} {}: {said}", output.status);
}
