//! A real MariaDB server, which can be killed and paused.

use super::database::{DATABASE_PASSWORD, give_away, signal_family, succeeded, unprivileged};
use super::folder::Folder;
use super::ports::free_port;
use super::tls::Identity;
use super::wait::eventually;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server.
pub(crate) struct MariaDb {
    folder: Folder,
    port: u16,
    child: Option<Child>,
}

impl MariaDb {
    /// One that serves the gateway only with its password and over TLS, and holds what these statements made.
    #[track_caller]
    pub(crate) fn start(identity: &Identity, statements: &str) -> Self {
        let folder = Folder::new();
        let data = folder.path().join("data");
        folder.write("server.pem", &identity.certificate_pem);
        folder.write("server.key", &identity.key_pem);
        give_away(folder.path());
        let mut install = unprivileged(Path::new("/usr/bin/mariadb-install-db"));
        let install = install
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", data.display()))
            .current_dir(folder.path())
            .output();
        succeeded(install.expect("mariadb-install-db: apt-get install mariadb-server"), "mariadb-install-db");
        let mut server = Self { folder, port: 0, child: None };
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.launch()
        });
        assert!(started, "MariaDB did not start:\n{}", server.folder.read("log"));
        server.run(&format!(
            "create database people; create user gateway@'%' identified by '{DATABASE_PASSWORD}' require ssl; \
             grant select on people.* to gateway@'%'; use people; {statements}"
        ));
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("mysql://gateway:{DATABASE_PASSWORD}@localhost:{}/people", self.port)
    }

    #[track_caller]
    fn run(&self, statements: &str) {
        let done = self.client(statements).output();
        succeeded(done.expect("mariadb: apt-get install mariadb-server"), "mariadb");
    }

    fn client(&self, statements: &str) -> Command {
        let mut command = Command::new("/usr/bin/mariadb");
        command
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.socket()))
            .args(["-u", "root", "-e", statements]);
        command
    }

    fn socket(&self) -> String {
        self.folder.path().join("socket").display().to_string()
    }

    fn launch(&mut self) -> bool {
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let child = unprivileged(Path::new("/usr/sbin/mariadbd"))
            .args([
                "--no-defaults",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--innodb-buffer-pool-size=16M",
            ])
            .args(["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--console"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--socket={}", self.socket()))
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--tmpdir={}", path("data")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--ssl-cert={}", path("server.pem")))
            .arg(format!("--ssl-key={}", path("server.key")))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("mariadbd: apt-get install mariadb-server"));
        let up = eventually(Duration::from_secs(30), || {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended || self.client("select 1").output().is_ok_and(|done| done.status.success())
        });
        up && self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again on the same port with the same data.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.launch(), "MariaDB did not start again:\n{}", self.folder.read("log"));
    }

    /// Stops it from answering, without closing a connection.
    pub(crate) fn pause(&self) {
        signal_family(self.child.as_ref().expect("a running server").id(), "-STOP");
    }

    pub(crate) fn resume(&self) {
        signal_family(self.child.as_ref().expect("a running server").id(), "-CONT");
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.stop();
    }
}
