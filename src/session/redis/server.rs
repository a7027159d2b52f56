//! A real redis-server of a test's own, on a free loopback port, ended with the test.

use crate::clock::random_bytes;
use crate::secret::Secret;
use crate::session::redis::{RedisSettings, Servers};
use redis::FromRedisValue;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    folder: PathBuf,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With arguments beside our own.
    pub(super) fn start_with(more: &[&str]) -> Self {
        Self::prepared(|_, command| {
            command.args(more);
        })
    }

    /// A sentinel that watches `primary` under the name `mymaster`.
    pub(super) fn sentinel_of(primary: u16) -> Self {
        Self::prepared(|folder, command| {
            let file = folder.join("sentinel.conf");
            let text = format!(
                "sentinel monitor mymaster 127.0.0.1 {primary} 1\n\
                 sentinel down-after-milliseconds mymaster 1000\n\
                 sentinel failover-timeout mymaster 3000\n"
            );
            std::fs::write(&file, text).unwrap();
            command.arg(file).arg("--sentinel");
        })
    }

    /// Another process may take the port between our look and the server's.
    fn prepared(prepare: impl Fn(&Path, &mut Command)) -> Self {
        (0..20)
            .find_map(|_| {
                let listener = free_port();
                Self::launch(listener.local_addr().unwrap().port(), Some(listener), &prepare)
            })
            .expect("redis-server does not come up on any port")
    }

    /// Starts again where `port` is, or `None` if the port is taken.
    pub(super) fn start_at(port: u16) -> Option<Self> {
        Self::launch(port, None, &|_, _| {})
    }

    fn launch(
        port: u16,
        reserved: Option<TcpListener>,
        prepare: &dyn Fn(&Path, &mut Command),
    ) -> Option<Self> {
        let name = u64::from_be_bytes(random_bytes().unwrap());
        let folder = std::env::temp_dir().join(format!("portcullis-redis-{name:x}"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("redis-server");
        prepare(&folder, &mut command);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&folder);
        if !command.get_args().any(|arg| arg == "--sentinel") {
            command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
        }
        drop(reserved);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need redis-server: install it with `apt-get install redis-server`");
        let mut server = Self { child, port, folder };
        let patience = Instant::now() + Duration::from_secs(20);
        while Instant::now() < patience {
            if server.child.try_wait().unwrap().is_some() {
                return None;
            }
            if server.is_ours() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Its own folder, which is gone when it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the process we started is the one that answers at the port.
    fn is_ours(&self) -> bool {
        let ours = format!("process_id:{}\r", self.child.id());
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        if stream.write_all(b"INFO server\r\n").is_err() {
            return false;
        }
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&answer).contains("uptime_in_seconds") {
            match stream.read(&mut piece) {
                Ok(read) if read > 0 => answer.extend(&piece[..read]),
                _ => return false,
            }
        }
        String::from_utf8_lossy(&answer).contains(&ours)
    }

    pub(super) fn settings(&self) -> RedisSettings {
        RedisSettings {
            servers: Servers::One(Secret::new(self.url())),
            timeout: Duration::from_secs(10),
            ca: None,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// A connection of the test's own.
    pub(super) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// One command and its answer.
    pub(super) fn query<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query(&mut self.connection()).unwrap()
    }

    /// Whether the answer to a command contains something.
    pub(super) fn says(&self, command: &str, what: &str) -> bool {
        self.query::<String>(command).contains(what)
    }

    /// Stops or continues the process, so that it keeps its connections but does not answer.
    pub(super) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A port that nobody has, for as long as the listener is kept.
pub(super) fn free_port() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// Waits until something is so.
pub(super) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < patience, "it never was so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
