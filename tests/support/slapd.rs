//! A real OpenLDAP server with a few people, which can be killed and paused.

use super::daemon::{Breakable, Daemon, succeeded};
use super::folder::Folder;
use super::ports::free_port;
use super::tls::Identity;
use std::fs;
use std::net::TcpStream;
use std::process::Command;

/// The server.
pub(crate) struct Slapd {
    folder: Folder,
    plain: u16,
    tls: u16,
    daemon: Daemon,
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
        succeeded(loaded.expect("slapd is missing: apt-get install slapd"), "slapadd");
        let mut server = Self { folder, plain: 0, tls: 0, daemon: Daemon::ended_by("-KILL") };
        server.launch_somewhere(|server| (server.plain, server.tls) = (free_port(), free_port()));
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

    /// How often it was asked to bind.
    pub(crate) fn binds(&self) -> usize {
        self.said().lines().filter(|line| line.contains(" BIND dn=")).count()
    }
}

impl Breakable for Slapd {
    fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    fn launch(&mut self) -> bool {
        let (plain, tls) = (self.plain, self.tls);
        let listen = format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}");
        let mut command = Command::new("/usr/sbin/slapd");
        command.arg("-f").arg(self.folder.path().join("slapd.conf")).args(["-h", &listen, "-d", "stats"]);
        let open = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        self.daemon.launch(&mut command, &self.folder.path().join("log"), || open(plain) && open(tls))
    }

    /// What it was asked, as it tells it.
    fn said(&self) -> String {
        self.folder.read("log")
    }
}
