//! Real databases with a table of users: files of SQLite, and a PostgreSQL server that can be killed and paused.

use super::daemon::{Breakable, Daemon, give_away, succeeded, unprivileged};
use super::folder::Folder;
use super::ports::free_port;
use super::tls::Identity;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The password the gateway has at a database server.
pub(crate) const DATABASE_PASSWORD: &str = "Pa55-of-the-database";

const DATABASE: &str = "postgres";

/// Runs statements on a file of SQLite, by Debian's Python.
#[track_caller]
pub(crate) fn sqlite(file: &Path, statements: &str) {
    let script =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.close()";
    let done = Command::new("/usr/bin/python3").args(["-c", script]).arg(file).arg(statements).output();
    succeeded(done.expect("/usr/bin/python3: apt-get install python3"), "sqlite");
}

/// A PostgreSQL server.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: Folder,
    port: u16,
    daemon: Daemon,
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
        let mut server = Self { programs, folder, port: 0, daemon: Daemon::ended_by("-QUIT") };
        server.launch_somewhere(|server| server.port = free_port());
        server.run(statements);
        server
    }

    pub(crate) fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// That of another database than the usual.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://gateway:{DATABASE_PASSWORD}@localhost:{}/{database}", self.port)
    }

    /// Runs statements; what they answer, a line a row.
    #[track_caller]
    pub(crate) fn run(&self, statements: &str) -> String {
        self.run_in(DATABASE, statements)
    }

    #[track_caller]
    pub(crate) fn run_in(&self, database: &str, statements: &str) -> String {
        let done = self.psql(database, statements).output().expect("psql");
        succeeded(done, "psql")
    }

    fn psql(&self, database: &str, statements: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "gateway", "-d", database])
            .env("PGPASSWORD", DATABASE_PASSWORD)
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGCONNECT_TIMEOUT", "5");
        command
    }
}

impl Breakable for Postgres {
    fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    fn launch(&mut self) -> bool {
        let mut command = unprivileged(&self.programs.join("postgres"));
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", "", "-F"])
            .args(["-c", "ssl=on", "-c", "ssl_cert_file=server.pem", "-c", "ssl_key_file=server.key"])
            .current_dir(self.folder.path());
        let mut asked = self.psql(DATABASE, "select 1");
        asked.stdout(Stdio::null()).stderr(Stdio::null());
        let answers = || asked.status().is_ok_and(|done| done.success());
        self.daemon.launch(&mut command, &self.folder.path().join("log"), answers)
    }

    fn said(&self) -> String {
        self.folder.read("log")
    }
}
