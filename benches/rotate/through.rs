//! Rotations of a whole gateway: refreshes over HTTP, each with a session check, a new access token and its signature.

use crate::CONCURRENCY;
use portcullis::clock::random_bytes;
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PASSWORD: &str = "correct horse battery staple";

/// A gateway of this run's own, in a folder of its own.
pub struct Gateway {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Gateway {
    /// One that rotates at each refresh. `store` is as in the configuration.
    pub fn start(name: &str, store: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("portcullis-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let hash = hash_of_password();
        let user = |number| format!("  - {{ username: user{number}, password_hash: \"{hash}\" }}\n");
        let users = (0..CONCURRENCY).map(user).collect::<Vec<_>>().concat();
        std::fs::write(folder.join("users.yaml"), format!("users:\n{users}")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.join("portcullis.yaml");
        let text = format!(
            "server: {{ listeners: [{{ address: \"127.0.0.1:{port}\" }}], threads: 1 }}\n\
             log: {{ access: false, level: warn }}\n\
             sessions:\n  issuer: https://bench.example\n  audiences: [bench]\n  users: {{ file: {{ path: users.yaml }} }}\n  \
             secret_file: secret\n  signing_keys: keys\n  store: {store}\n  \
             refresh_token: {{ coalesce: 0s, grace: 0s }}\n  \
             throttle: {{ network: {{ burst: 1000, every: 1s }} }}\n"
        );
        std::fs::write(&config, text).unwrap();
        // Gateways on one Redis share these, so none makes them by itself.
        let secret = random_bytes::<48>().unwrap();
        std::fs::write(folder.join("secret"), secret).unwrap();
        let made =
            gateway(&["keys", "rotate", "--config"]).arg(&config).stdout(Stdio::null()).status().unwrap();
        assert!(made.success(), "no signing key");
        let mut command = crate::pinned(env!("CARGO_BIN_EXE_portcullis"), "1");
        command.args(["run", "--config"]).arg(&config).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let mut running = Self { child, port, folder };
        let patience = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(running.child.try_wait().unwrap().is_none(), "the gateway has ended");
            assert!(Instant::now() < patience, "the gateway does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    /// A session for each caller: its refresh token.
    pub async fn log_in(&self) -> Vec<String> {
        let mut tokens = Vec::new();
        for number in 0..CONCURRENCY {
            let mut connection = Connection::open(self.port).await;
            let user = format!("user{number}");
            let body = json!({ "username": user, "password": PASSWORD, "delivery": "body" });
            tokens.push(connection.ask("/auth/login", &body).await);
        }
        tokens
    }

    /// Refreshes per second, and the median of their times in milliseconds.
    pub async fn refresh(&self, tokens: &mut [String], calls: usize) -> (f64, f64) {
        let (start, each) = (Instant::now(), calls / tokens.len());
        let callers: Vec<_> = tokens
            .iter()
            .map(|token| {
                let (port, mut token) = (self.port, token.clone());
                tokio::spawn(async move {
                    let mut connection = Connection::open(port).await;
                    let mut times = Vec::new();
                    for _ in 0..each {
                        let began = Instant::now();
                        let next = connection.ask("/auth/refresh", &json!({ "refreshToken": token })).await;
                        times.push(began.elapsed().as_secs_f64() * 1000.0);
                        assert_ne!(next, token, "it did not rotate");
                        token = next;
                    }
                    (token, times)
                })
            })
            .collect();
        let mut all = Vec::new();
        for (token, caller) in tokens.iter_mut().zip(callers) {
            let (last, times) = caller.await.unwrap();
            *token = last;
            all.extend(times);
        }
        (all.len() as f64 / start.elapsed().as_secs_f64(), crate::quartiles(all)[1])
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn gateway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments);
    command
}

fn hash_of_password() -> String {
    let mut child = gateway(&["hash-password"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "hash-password failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A kept-alive connection of one caller.
struct Connection(tokio::net::TcpStream);

impl Connection {
    async fn open(port: u16) -> Self {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Posts JSON; the refresh token of the answer, which must be 200.
    async fn ask(&mut self, path: &str, body: &Value) -> String {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::with_capacity(4096);
        loop {
            assert!(self.0.read_buf(&mut answer).await.unwrap() > 0, "the connection was closed");
            let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&answer[..end]).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.expect("an answer without a length").parse().unwrap();
            let Some(body) = answer.get(end + 4..end + 4 + length) else { continue };
            // Read no further than it takes: this shares a core with Redis.
            let body = std::str::from_utf8(body).unwrap();
            let token = body.split_once("\"refreshToken\":\"").and_then(|(_, rest)| rest.split_once('"'));
            return token.expect("a refresh token").0.to_owned();
        }
    }
}
