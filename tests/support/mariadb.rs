//! A real MariaDB server, which can be killed and paused.

use super::daemon::{Breakable, Daemon, give_away, succeeded, unprivileged};
use super::database::DATABASE_PASSWORD;
use super::folder::Folder;
use super::ports::free_port;
use super::tls::Identity;
use std::path::Path;
use std::process::Command;

/// The server.
pub(crate) struct MariaDb {
    folder: Folder,
    port: u16,
    daemon: Daemon,
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
        let mut server = Self { folder, port: 0, daemon: Daemon::ended_by("-KILL") };
        server.launch_somewhere(|server| server.port = free_port());
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
}

impl Breakable for MariaDb {
    fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    fn launch(&mut self) -> bool {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = unprivileged(Path::new("/usr/sbin/mariadbd"));
        command
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
            .current_dir(self.folder.path());
        let mut asked = self.client("select 1");
        let answers = || asked.output().is_ok_and(|done| done.status.success());
        self.daemon.launch(&mut command, &self.folder.path().join("log"), answers)
    }

    fn said(&self) -> String {
        self.folder.read("log")
    }
}
