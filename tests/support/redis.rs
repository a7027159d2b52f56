//! A real `redis-server` on a free port, which can be killed, paused, and started again on its data.

use super::folder::Folder;
use super::ports::free_port;
use super::wait::eventually;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server.
pub(crate) struct Redis {
    port: u16,
    folder: Folder,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// One whose acknowledged writes outlive its process. The file is written before the answer; that nobody
    /// waits for the disk would matter to a machine that loses its power, which no test does.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "no"])
    }

    /// One that keeps nothing on disk.
    pub(crate) fn forgetful() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::prepared(|_| ["--save", ""].iter().chain(arguments).map(ToString::to_string).collect())
    }

    /// A sentinel that watches `primary` under the name `mymaster`.
    pub(crate) fn sentinel_of(primary: &Self) -> Self {
        Self::configured(
            &format!(
                "sentinel monitor mymaster 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds mymaster 1000\n\
                 sentinel failover-timeout mymaster 3000\n",
                primary.port
            ),
            &["--sentinel"],
        )
    }

    /// With a configuration file of its own, and what else stands on the command line.
    pub(crate) fn configured(text: &str, arguments: &[&str]) -> Self {
        Self::prepared(|folder| {
            let file = folder.write("redis.conf", text);
            [file.as_str()].iter().chain(arguments).map(ToString::to_string).collect()
        })
    }

    fn prepared(arguments: impl Fn(&Folder) -> Vec<String>) -> Self {
        for _ in 0..5 {
            let folder = Folder::new();
            let arguments = arguments(&folder);
            let mut redis = Self { port: free_port(), folder, arguments, child: None };
            if redis.launch() {
                return redis;
            }
        }
        panic!("redis-server did not start on any of five ports");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// `kill -9`.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again on the same port with the same data.
    pub(crate) fn start_again(&mut self) {
        assert!(self.launch(), "redis-server did not start again on port {}", self.port);
    }

    /// Stops it from answering, without closing a connection.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Runs a command; the reply as flat text, one line per element.
    pub(crate) fn command(&self, words: &[&str]) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut out = format!("*{}\r\n", words.len());
        for word in words {
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(out.as_bytes())?;
        read_reply(&mut BufReader::new(stream))
    }

    /// Runs a command given as words between spaces, on a server that must answer it.
    #[track_caller]
    pub(crate) fn ask(&self, words: &str) -> String {
        match self.command(&words.split(' ').collect::<Vec<_>>()) {
            Ok(reply) => reply,
            Err(why) => panic!("{words}: {why}"),
        }
    }

    /// Waits until the answer to a command contains something.
    #[track_caller]
    pub(crate) fn comes_to_say(&self, words: &str, what: &str) {
        let says =
            || self.command(&words.split(' ').collect::<Vec<_>>()).is_ok_and(|said| said.contains(what));
        assert!(eventually(Duration::from_secs(60), says), "{words} never said {what:?}");
    }

    /// The keys that match a pattern.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        self.ask(&format!("KEYS {pattern}")).lines().map(str::to_owned).collect()
    }

    /// How often it has served each command so far.
    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        let info = self.ask("INFO commandstats");
        let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
        let counted = lines.filter_map(|(name, rest)| Some((name, rest.split(',').next()?.parse().ok()?)));
        counted.map(|(name, calls)| (name.to_owned(), calls)).collect()
    }

    /// How many script calls it has served so far.
    pub(crate) fn script_calls(&self) -> u64 {
        let calls = self.calls();
        ["evalsha", "eval", "fcall"].iter().filter_map(|name| calls.get(*name)).sum()
    }

    fn launch(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(&self.arguments)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                panic!("redis-server is missing: apt-get install redis-server")
            }
            Err(why) => panic!("redis-server: {why}"),
        };
        self.child = Some(child);
        eventually(Duration::from_secs(5), || self.command(&["PING"]).is_ok_and(|reply| reply == "PONG"))
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("a running redis-server").id().to_string();
        let done = Command::new("kill").args([signal, &id]).status().expect("the kill program");
        assert!(done.success(), "kill {signal} {id}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_reply(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    match kind {
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Ok(String::new()) };
            let mut text = vec![0; length + 2];
            reader.read_exact(&mut text)?;
            text.truncate(length);
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        "*" => {
            let count = rest.parse().unwrap_or(0);
            let parts: io::Result<Vec<_>> = (0..count).map(|_| read_reply(reader)).collect();
            Ok(parts?.join("\n"))
        }
        "-" => Err(io::Error::other(rest.to_owned())),
        _ => Ok(rest.to_owned()),
    }
}
