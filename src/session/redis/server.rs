//! A real redis-server of a test's own, on a free loopback port, ended with the test.

use crate::secret::Secret;
use crate::session::redis::RedisSettings;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
}

impl Server {
    pub(super) fn start() -> Self {
        // Another process may take the port between our look and the server's.
        (0..20)
            .find_map(|_| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                Self::start_at(listener.local_addr().unwrap().port(), Some(listener))
            })
            .expect("redis-server does not come up on any port")
    }

    /// Starts again where `port` is, or `None` if the port is taken.
    pub(super) fn start_at(port: u16, reserved: Option<TcpListener>) -> Option<Self> {
        drop(reserved);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need redis-server: install it with `apt-get install redis-server`");
        let mut server = Self { child, port };
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

    /// Whether the process we started is the one that answers at the port.
    fn is_ours(&self) -> bool {
        self.command("INFO server\r\n")
            .is_some_and(|answer| answer.contains(&format!("process_id:{}\r", self.child.id())))
    }

    /// Sends one inline command; the beginning of the answer.
    fn command(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{command}QUIT\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(super) fn settings(&self) -> RedisSettings {
        RedisSettings {
            url: Secret::new(format!("redis://127.0.0.1:{}/0", self.port)),
            timeout: Duration::from_secs(10),
            ca: None,
        }
    }

    /// A connection of the test's own.
    pub(super) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.settings().url.expose().as_str()).unwrap().get_connection().unwrap()
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
    }
}
