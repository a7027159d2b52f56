//! Servers that are not ours, as processes that can be killed and paused.

use super::wait::eventually;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A server that can fail in two ways and come back.
pub(crate) trait Breakable {
    /// Its process, while it has one.
    fn daemon(&mut self) -> &mut Daemon;

    /// Starts it on the port and the data it had, and says whether it answers.
    fn launch(&mut self) -> bool;

    /// What it wrote to its log.
    fn said(&self) -> String;

    /// Starts it on free ports, which somebody else may take first.
    #[track_caller]
    fn launch_somewhere(&mut self, choose_ports: impl Fn(&mut Self)) {
        let started = (0..5).any(|_| {
            choose_ports(self);
            self.launch()
        });
        assert!(started, "it did not start:\n{}", self.said());
    }

    /// Ends it at once, as a crash does: connections break.
    fn stop(&mut self) {
        self.daemon().end();
    }

    /// Starts again on the same ports with the same data.
    #[track_caller]
    fn start_again(&mut self) {
        assert!(self.launch(), "it did not start again:\n{}", self.said());
    }

    /// Stops it from answering, without closing a connection.
    fn pause(&mut self) {
        self.daemon().signal("-STOP");
    }

    fn resume(&mut self) {
        self.daemon().signal("-CONT");
    }
}

/// The process of a server and its children; none is left when it goes.
pub(crate) struct Daemon {
    child: Option<Child>,
    last_word: &'static str,
}

impl Daemon {
    /// None yet; what will be is ended by this signal.
    pub(crate) fn ended_by(last_word: &'static str) -> Self {
        Self { child: None, last_word }
    }

    /// Runs `command`, whose words go to the end of `log`. Whether it came to answer before it ended.
    #[track_caller]
    pub(crate) fn launch(
        &mut self,
        command: &mut Command,
        log: &Path,
        mut answers: impl FnMut() -> bool,
    ) -> bool {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let mut child = child.unwrap_or_else(|why| panic!("{}: {why}", program.display()));
        let up = eventually(Duration::from_secs(30), || !runs(&mut child) || answers()) && runs(&mut child);
        self.child = Some(child);
        up
    }

    /// Ends it at once.
    pub(crate) fn end(&mut self) {
        self.signal("-CONT");
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill")
            .args([self.last_word, &child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        if !eventually(Duration::from_secs(10), || !runs(&mut child)) {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    /// Sends a signal to the process and its children. After `-STOP` they have all stopped: a thread that is still
    /// waiting for a processor to take the signal lets the others run on.
    pub(crate) fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let children = Command::new("pgrep").args(["-P", &child.id().to_string()]).output();
        let mut family =
            String::from_utf8(children.expect("pgrep: apt-get install procps").stdout).expect("numbers");
        family.push_str(&child.id().to_string());
        for id in family.lines() {
            let _ = Command::new("kill").args([signal, id]).stderr(Stdio::null()).status();
        }
        if signal == "-STOP" {
            let stopped = || family.lines().all(has_stopped);
            assert!(eventually(Duration::from_secs(20), stopped), "{family} did not stop");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

fn runs(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

/// Whether every thread of a process has stopped, or the process has ended.
fn has_stopped(id: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    // The name of the program may hold anything, and ends at the last bracket.
    states
        .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 't', 'Z', 'X'])))
}

#[track_caller]
pub(crate) fn succeeded(output: Output, what: &str) -> String {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

/// As another user than root, whom database servers refuse.
pub(crate) fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
    command
}

fn is_root() -> bool {
    succeeded(Command::new("id").arg("-u").output().expect("the id program"), "id").trim() == "0"
}

/// Gives a folder and what is in it to the user of [`unprivileged`].
pub(crate) fn give_away(folder: &Path) {
    if is_root() {
        let done = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(folder).output();
        succeeded(done.expect("the chown program"), "chown");
    }
}
