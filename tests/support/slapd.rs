//! A real OpenLDAP server with a few people, which can be killed and paused.

use super::database::signal_family;
use super::folder::Folder;
use super::ports::free_port;
use super::tls::Identity;
use super::wait::eventually;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SLAPD: &str = "/usr/sbin/slapd";

/// The server.
pub(crate) struct Slapd {
    folder: Folder,
    plain: u16,
    tls: u16,
    child: Option<Child>,
}

impl Slapd {
    /// One that shows this certificate and holds these entries below `dc=example,dc=com`.
    #[track_caller]
    pub(crate) fn start(identity: &Identity, entries: &str) -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.path().join("data")).expect("a folder");
        let certificate = folder.write("server.pem", &identity.certificate_pem);
        let key = folder.write("server.key", &identity.key_pem);
        let data = folder.path().join("data");
        let settings = format!(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             TLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n\
             database mdb\nsuffix \"dc=example,dc=com\"\ndirectory {}\nmaxsize 10485760\ndbnosync\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to dn.base=\"uid=blind,ou=people,dc=example,dc=com\" by anonymous auth by * none\n\
             access to * by self read by * none\n",
            data.display()
        );
        let settings = folder.write("slapd.conf", settings);
        let people = "dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n\
                      dn: ou=people,dc=example,dc=com\nobjectClass: organizationalUnit\nou: people\n\n";
        let entries = folder.write("entries.ldif", format!("{people}{entries}"));
        let loaded = Command::new("/usr/sbin/slapadd").args(["-q", "-f", &settings, "-l", &entries]).output();
        let loaded = loaded.expect("slapd is missing: apt-get install slapd");
        assert!(loaded.status.success(), "slapadd: {}", String::from_utf8_lossy(&loaded.stderr));
        let mut server = Self { folder, plain: 0, tls: 0, child: None };
        let started = (0..5).any(|_| {
            (server.plain, server.tls) = (free_port(), free_port());
            server.launch()
        });
        assert!(started, "slapd did not start:\n{}", server.said());
        server
    }

    /// `ldaps://`, by a name.
    pub(crate) fn url(&self) -> String {
        format!("ldaps://localhost:{}", self.tls)
    }

    /// `ldap://`, by a name.
    pub(crate) fn plain_url(&self) -> String {
        format!("ldap://localhost:{}", self.plain)
    }

    /// What it was asked, as it tells it.
    pub(crate) fn said(&self) -> String {
        self.folder.read("log")
    }

    /// How often it was asked to bind.
    pub(crate) fn binds(&self) -> usize {
        self.said().lines().filter(|line| line.contains(" BIND dn=")).count()
    }

    fn launch(&mut self) -> bool {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"));
        let listen = format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.plain, self.tls);
        let child = Command::new(SLAPD)
            .arg("-f")
            .arg(self.folder.path().join("slapd.conf"))
            .args(["-h", &listen, "-d", "stats"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn();
        let child = match child {
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                panic!("slapd is missing: apt-get install slapd")
            }
            child => child.expect("slapd"),
        };
        self.child = Some(child);
        let open = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        eventually(Duration::from_secs(20), || {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended || (open(self.plain) && open(self.tls))
        }) && self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// `kill -9`.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again on the same ports with the same data.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.launch(), "slapd did not start again:\n{}", self.said());
    }

    /// Stops it from answering, without closing a connection.
    pub(crate) fn pause(&self) {
        signal_family(self.child.as_ref().expect("a running server").id(), "-STOP");
    }

    pub(crate) fn resume(&self) {
        signal_family(self.child.as_ref().expect("a running server").id(), "-CONT");
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}
