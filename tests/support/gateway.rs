//! The real binary as a child process in a folder of its own.

use super::client::get;
use super::config::{Config, PASSWORD};
use super::folder::Folder;
use super::ports::free_port;
use super::wait::{eventually, wait_for};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const START: Duration = Duration::from_secs(20);
const CONFIG: &str = "portcullis.yaml";

/// The lines a child wrote on a pipe so far, and the thread that reads on.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: thread::JoinHandle<()>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let filling = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                filling.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { lines, reader }
    }

    fn text(&self) -> String {
        text(&self.lines)
    }
}

fn text(lines: &Mutex<Vec<String>>) -> String {
    lines.lock().unwrap().iter().map(|line| format!("{line}\n")).collect()
}

/// Both outputs of a child.
struct Output {
    stdout: Lines,
    stderr: Lines,
}

impl Output {
    /// All of it, from a child that has ended.
    fn finished(self) -> (String, String) {
        for reader in [self.stdout.reader, self.stderr.reader] {
            let _ = reader.join();
        }
        (text(&self.stdout.lines), text(&self.stderr.lines))
    }
}

/// How a gateway ended that was not expected to run.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running gateway; it ends with the value.
pub(crate) struct Gateway {
    config: Config,
    folder: Folder,
    ports: Vec<u16>,
    child: Child,
    output: Output,
}

impl Gateway {
    /// Starts and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_until(config, "/readyz")
    }

    /// Starts and waits until it answers on the admin listener, ready or not.
    #[track_caller]
    pub(crate) fn start_live(config: &Config) -> Self {
        Self::start_until(config, "/livez")
    }

    #[track_caller]
    fn start_until(config: &Config, probe: &str) -> Self {
        let mut last = String::new();
        for _ in 0..5 {
            let mut gateway = Self::launch(config);
            if gateway.answers(probe) {
                return gateway;
            }
            last = gateway.everything();
            // Somebody else on this machine took a port between our probe and its bind.
            if !last.contains("in use") {
                break;
            }
        }
        panic!("the gateway did not become ready\n{last}");
    }

    fn launch(config: &Config) -> Self {
        let folder = Folder::new();
        config.write_files(&folder);
        let ports: Vec<u16> = (0..config.ports()).map(|_| free_port()).collect();
        folder.write(CONFIG, config.render(&ports));
        let (child, output) = spawn(folder.path(), config);
        Self { config: config.clone(), folder, ports, child, output }
    }

    fn answers(&mut self, probe: &str) -> bool {
        let admin = self.admin();
        wait_for(START, || {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Some(false);
            }
            get(probe).try_send(&admin).is_ok_and(|response| response.status == 200).then_some(true)
        }) == Some(true)
    }

    /// Runs a configuration that must not start; panics if it keeps running.
    #[track_caller]
    pub(crate) fn fail(config: &Config) -> Exit {
        let ports: Vec<u16> = (0..config.ports()).map(|_| free_port()).collect();
        Self::fail_on(config, &ports)
    }

    /// The same on given ports.
    #[track_caller]
    pub(crate) fn fail_on(config: &Config, ports: &[u16]) -> Exit {
        let folder = Folder::new();
        config.write_files(&folder);
        folder.write(CONFIG, config.render(ports));
        let (child, output) = spawn(folder.path(), config);
        ended(child, output)
    }

    /// `host:port` of the first listener.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// `host:port` of the second listener.
    pub(crate) fn another_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[1])
    }

    /// `host:port` of the admin listener.
    pub(crate) fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports[self.ports.len() - 1])
    }

    /// The folder of its configuration.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What it wrote on standard output: access log and audit lines.
    pub(crate) fn stdout(&self) -> String {
        self.output.stdout.text()
    }

    /// What it wrote on standard error: diagnostics.
    pub(crate) fn stderr(&self) -> String {
        self.output.stderr.text()
    }

    /// Whether it says this on standard error, soon at the latest: what it writes is read behind.
    pub(crate) fn says(&self, what: &str) -> bool {
        eventually(Duration::from_secs(10), || self.stderr().contains(what))
    }

    /// The first line of the log on standard output, as JSON, that `wanted` accepts.
    #[track_caller]
    pub(crate) fn log_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = wait_for(Duration::from_secs(5), || self.log_lines().into_iter().find(&wanted));
        found.unwrap_or_else(|| panic!("no such line in the log"))
    }

    /// The lines of the log on standard output that are JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        get("/metrics").send(&self.admin()).expect(200).text()
    }

    /// The sum of the series of one metric that carry all these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let metrics = self.metrics();
        let series = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let own = series.split('{').next()? == name;
            (own && labels.iter().all(|label| series.contains(label))).then_some(value)
        });
        series.filter_map(|value| value.parse::<f64>().ok()).sum()
    }

    /// Whether the metric reaches `value` soon.
    pub(crate) fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) -> bool {
        eventually(Duration::from_secs(5), || (self.metric(name, labels) - value).abs() < 0.5)
    }

    /// The process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGSTOP: it goes on to accept connections, and does nothing with them.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let done = Command::new("kill").args([name, &id]).status().expect("the kill program");
        assert!(done.success(), "kill {name} {id}");
    }

    /// Puts another configuration in place of its own, as an editor does that writes a new file and renames it.
    pub(crate) fn rewrite(&self, config: &Config) {
        config.write_files(&self.folder);
        self.folder.write("next.yaml", config.render(&self.ports));
        std::fs::rename(self.folder.path().join("next.yaml"), self.folder.path().join(CONFIG))
            .expect("a file to rename");
    }

    /// Gives it another configuration and SIGHUP, and waits until that was taken or refused.
    #[track_caller]
    pub(crate) fn reload(&self, config: &Config, result: &str) {
        let before = self.metric("portcullis_config_reloads_total", &[("result", result)]);
        self.rewrite(config);
        self.signal("-HUP");
        assert!(self.has_reloaded(result, before), "no reload with the result {result}\n{}", self.stderr());
    }

    /// Whether soon there were more reloads with this result than `before`.
    pub(crate) fn has_reloaded(&self, result: &str, before: f64) -> bool {
        let reloads = || self.metric("portcullis_config_reloads_total", &[("result", result)]);
        eventually(Duration::from_secs(15), || reloads() > before)
    }

    /// How it ended, if it did before the deadline.
    pub(crate) fn ended_within(&mut self, deadline: Duration) -> Option<ExitStatus> {
        wait_for(deadline, || self.child.try_wait().expect("a child to wait for"))
    }

    /// Ends it if need be, and starts it again on the same folder and ports.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill9();
        self.start_again();
    }

    /// Starts it again on the same folder and ports after it has ended.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        (self.child, self.output) = spawn(self.folder.path(), &self.config);
        assert!(self.answers("/readyz"), "the gateway did not start again\n{}", self.everything());
    }

    /// A new process on the same folder that is to take over from this one.
    pub(crate) fn successor(&self) -> Successor {
        let run = ["run", "--config", CONFIG, "--upgrade"];
        let (child, output) = spawn_with(&run, self.folder.path(), &self.config);
        Successor { child, output }
    }

    /// Lets a new process take over, which is this gateway from then on. How the old one ended.
    #[track_caller]
    pub(crate) fn hand_over(&mut self) -> ExitStatus {
        let successor = self.successor();
        let Some(status) = self.ended_within(START) else {
            panic!("nobody took over\n{}{}", successor.text(), self.everything());
        };
        let old = self.everything();
        let Successor { child, output } = successor;
        (self.child, self.output) = (child, output);
        assert!(self.answers("/readyz"), "the new process does not serve\n{old}{}", self.everything());
        status
    }

    /// Runs a new process with a configuration of its folder that must not take over; panics if it keeps running.
    #[track_caller]
    pub(crate) fn refuses_successor(&self, file: &str) -> Exit {
        let run = ["run", "--config", file, "--upgrade"];
        let (child, output) = spawn_with(&run, self.folder.path(), &self.config);
        ended(child, output)
    }

    fn everything(&self) -> String {
        let config = self.folder.read(CONFIG);
        format!("--- configuration\n{config}--- stdout\n{}--- stderr\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            eprintln!("{}", self.everything());
            return;
        }
        // Whatever a test is about: no gateway panics, and none writes a secret into its logs.
        let said = self.stdout() + &self.stderr();
        for word in ["panicked at", "prt_", PASSWORD] {
            let line = said.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "the gateway wrote {word:?}: {line:?}");
        }
    }
}

/// How a child ended that must end by itself.
#[track_caller]
fn ended(mut child: Child, output: Output) -> Exit {
    let status = wait_for(START, || child.try_wait().expect("a child to wait for"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = output.finished();
    let exit = Exit { code: status.and_then(|s| s.code()), stdout, stderr };
    assert!(status.is_some(), "the gateway runs although it should not: {exit:?}");
    exit
}

/// A process that may take over; to be ended by hand as long as it has not.
pub(crate) struct Successor {
    child: Child,
    output: Output,
}

impl Successor {
    /// What it wrote as diagnostics.
    pub(crate) fn text(&self) -> String {
        self.output.stderr.text()
    }

    /// Whether it has not ended by itself.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, config: &Config) -> (Child, Output) {
    spawn_with(&["run", "--config", CONFIG], folder, config)
}

fn spawn_with(arguments: &[&str], folder: &Path, config: &Config) -> (Child, Output) {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .current_dir(folder)
        .envs(config.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the built gateway");
    let stdout = Lines::of(child.stdout.take().expect("a pipe"));
    let stderr = Lines::of(child.stderr.take().expect("a pipe"));
    (child, Output { stdout, stderr })
}

/// Runs a command of the binary to its end, with this text on standard input.
pub(crate) fn command(folder: &Folder, arguments: &[&str], input: &str) -> Exit {
    use std::io::Write as _;
    let mut child = Command::new(BINARY)
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the built gateway");
    // The command may end without reading its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("its output");
    Exit {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
