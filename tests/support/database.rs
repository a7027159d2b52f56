//! Real databases with a table of users: files of SQLite, and a PostgreSQL server that can be killed and paused.

use super::folder::Folder;
use super::ports::free_port;
use super::tls::Identity;
use super::wait::eventually;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The password the gateway has at a database server.
pub(crate) const DATABASE_PASSWORD: &str = "Pa55-of-the-database";

/// Runs statements on a file of SQLite, by Debian's Python.
#[track_caller]
pub(crate) fn sqlite(file: &Path, statements: &str) {
    let script =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.close()";
    let done = Command::new("/usr/bin/python3").args(["-c", script]).arg(file).arg(statements).output();
    succeeded(done.expect("/usr/bin/python3: apt-get install python3"), "sqlite");
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

/// Sends a signal to a process and its children. After `-STOP` they have all stopped: a thread that is still waiting
/// for a processor to take the signal lets the others run on.
pub(crate) fn signal_family(parent: u32, signal: &str) {
    let children = Command::new("pgrep").args(["-P", &parent.to_string()]).output();
    let mut family =
        String::from_utf8(children.expect("pgrep: apt-get install procps").stdout).expect("numbers");
    family.push_str(&parent.to_string());
    for id in family.lines() {
        let _ = Command::new("kill").args([signal, id]).stderr(Stdio::null()).status();
    }
    if signal == "-STOP" {
        let stopped = || family.lines().all(has_stopped);
        assert!(eventually(Duration::from_secs(20), stopped), "{family} did not stop");
    }
}

/// Whether every thread of a process has stopped, or the process has ended.
fn has_stopped(id: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    // The name of the program may hold anything, and ends at the last bracket.
    states
        .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 't', 'Z', 'X'])))
}

/// A PostgreSQL server.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: Folder,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// One that serves only who knows the password, with this certificate, and holds what these statements made.
    #[track_caller]
    pub(crate) fn start(identity: &Identity, statements: &str) -> Self {
        let programs = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs =
            programs.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists());
        let programs = programs.expect("PostgreSQL is missing: apt-get install postgresql");
        let folder = Folder::new();
        let password = folder.write("password", DATABASE_PASSWORD);
        give_away(folder.path());
        let data = folder.path().join("data");
        let made = unprivileged(&programs.join("initdb"))
            .args([
                "--username=gateway",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg(format!("--pwfile={password}"))
            .arg(&data)
            .current_dir(folder.path())
            .output();
        succeeded(made.expect("initdb"), "initdb");
        folder.write("data/server.pem", &identity.certificate_pem);
        let key = folder.write("data/server.key", &identity.key_pem);
        // It refuses a key that others can read.
        succeeded(Command::new("chmod").args(["600", &key]).output().expect("chmod"), "chmod");
        give_away(&data);
        let mut server = Self { programs, folder, port: 0, child: None };
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.launch()
        });
        assert!(started, "PostgreSQL did not start:\n{}", server.folder.read("log"));
        server.run(statements);
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://gateway:{DATABASE_PASSWORD}@localhost:{}/postgres", self.port)
    }

    /// Runs statements; what they answer, a line a row.
    #[track_caller]
    pub(crate) fn run(&self, statements: &str) -> String {
        let done = self.psql(statements).output().expect("psql");
        succeeded(done, "psql")
    }

    fn psql(&self, statements: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "gateway", "-d", "postgres"])
            .env("PGPASSWORD", DATABASE_PASSWORD)
            .env("PGCONNECT_TIMEOUT", "5");
        command
    }

    fn launch(&mut self) -> bool {
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        let child = unprivileged(&self.programs.join("postgres"))
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", "", "-F"])
            .args(["-c", "ssl=on", "-c", "ssl_cert_file=server.pem", "-c", "ssl_key_file=server.key"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("postgres"));
        let up = eventually(Duration::from_secs(30), || {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended
                || self
                    .psql("select 1")
                    .stderr(Stdio::null())
                    .output()
                    .is_ok_and(|done| done.status.success())
        });
        up && self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts again on the same port with the same data.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.launch(), "PostgreSQL did not start again:\n{}", self.folder.read("log"));
    }

    /// Stops it at once, as a crash does: connections break.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal_family(child.id(), "-CONT");
            let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            if !eventually(Duration::from_secs(10), || matches!(child.try_wait(), Ok(Some(_)))) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    /// Stops it from answering, without closing a connection.
    pub(crate) fn pause(&self) {
        signal_family(self.child.as_ref().expect("a running server").id(), "-STOP");
    }

    pub(crate) fn resume(&self) {
        signal_family(self.child.as_ref().expect("a running server").id(), "-CONT");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
