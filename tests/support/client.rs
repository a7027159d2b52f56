//! A raw HTTP/1.1 client: exact bytes out, whole responses in, a deadline on every read.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// How long any single answer may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// One response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In order, with duplicates.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a header that must not be there twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} was sent {} times: {all:?}", all.len());
        all.first().copied()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| {
            panic!("status {}, body is not JSON ({why}): {:?}", self.status, self.text())
        })
    }

    /// A text member of the JSON body; empty if it is not there.
    pub(crate) fn member(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }

    /// The reason code in a problem body.
    pub(crate) fn reason(&self) -> String {
        self.member("reason")
    }

    /// Asserts the status, showing the whole answer if it is another.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "headers {:?}, body {:?}", self.headers, self.text());
        self
    }
}

/// A request to build; nothing is added that is not asked for, but `Host` and a length for a body.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

pub(crate) fn request(method: &str, target: &str) -> Request {
    Request { method: method.into(), target: target.into(), headers: Vec::new(), body: None }
}

pub(crate) fn get(target: &str) -> Request {
    request("GET", target)
}

pub(crate) fn post(target: &str) -> Request {
    request("POST", target)
}

pub(crate) fn delete(target: &str) -> Request {
    request("DELETE", target)
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn cookie(self, value: &str) -> Self {
        self.header("Cookie", value)
    }

    /// As a page of our own origin would call it.
    pub(crate) fn same_origin(self) -> Self {
        self.header("Sec-Fetch-Site", "same-origin")
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.header("Content-Type", "application/json").body(value.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    /// The bytes on the wire.
    pub(crate) fn bytes(&self, host: &str) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.has("host") {
            out.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body
            && !self.has("content-length")
            && !self.has("transfer-encoding")
        {
            out.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
        out
    }

    /// Sends it on a connection of its own.
    #[track_caller]
    pub(crate) fn send(&self, address: &str) -> Response {
        match self.try_send(address) {
            Ok(response) => response,
            Err(why) => panic!("{} {} to {address}: {why}", self.method, self.target),
        }
    }

    /// Sends it on a connection of its own; an error if no whole answer came.
    pub(crate) fn try_send(&self, address: &str) -> io::Result<Response> {
        Connection::open(address)?.exchange(self)
    }
}

/// A stream that can be read with a time limit.
pub(crate) trait Wire: Read + Write + Send {
    fn limit_reads(&self, limit: Duration) -> io::Result<()>;
    fn finish_writing(&self) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn limit_reads(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }

    fn finish_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A kept-alive connection.
pub(crate) struct Connection {
    host: String,
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
    patience: Duration,
}

impl Connection {
    pub(crate) fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(Box::new(stream), address))
    }

    pub(crate) fn over(wire: Box<dyn Wire>, host: &str) -> Self {
        Self { host: host.into(), wire, buffer: Vec::new(), patience: PATIENCE }
    }

    /// Gives up on an answer after this long.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether nothing is read that was not asked for.
    pub(crate) fn is_blank(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Exact bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    pub(crate) fn finish_writing(&mut self) -> io::Result<()> {
        self.wire.finish_writing()
    }

    pub(crate) fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        // A gateway may refuse from the head alone and close: the answer still counts.
        let written = self.send(request.bytes(&self.host));
        match self.read_response(request.method == "HEAD") {
            Ok(response) => Ok(response),
            Err(why) => Err(written.err().unwrap_or(why)),
        }
    }

    /// Reads one response, passing over interim ones.
    pub(crate) fn read_response(&mut self, head_only: bool) -> io::Result<Response> {
        loop {
            let response = self.read_one(head_only)?;
            if response.status >= 200 || response.status == 101 {
                return Ok(response);
            }
        }
    }

    /// Reads one response, interim or not.
    pub(crate) fn read_one(&mut self, head_only: bool) -> io::Result<Response> {
        let deadline = Instant::now() + self.patience;
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                break std::mem::replace(&mut self.buffer, rest);
            }
            self.more(deadline)?;
        };
        let head: String = head.into_iter().map(char::from).collect();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if head_only || status < 200 || status == 204 || status == 304 {
            return Ok(response);
        }
        if response.all("transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked")) {
            response.body = self.read_chunks(deadline)?;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            response.body = self.take(length, deadline)?;
        } else {
            response.body = self.read_to_end()?;
        }
        Ok(response)
    }

    /// Everything up to the end of the connection; an error if it does not end in time.
    pub(crate) fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.more(deadline) {
                Ok(()) => {}
                Err(why) if is_end(&why) => return Ok(std::mem::take(&mut self.buffer)),
                Err(why) => return Err(why),
            }
        }
    }

    /// Whether the other side closes the connection, without another byte, before `patience` is over.
    pub(crate) fn is_closed_within(&mut self, patience: Duration) -> bool {
        let kept = std::mem::replace(&mut self.patience, patience);
        let end = self.read_to_end();
        self.patience = kept;
        end.is_ok_and(|bytes| bytes.is_empty())
    }

    fn take(&mut self, length: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more(deadline)?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn take_line(&mut self, deadline: Instant) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.take(end + 2, deadline)?;
                return Ok(line[..end].iter().copied().map(char::from).collect());
            }
            self.more(deadline)?;
        }
    }

    fn read_chunks(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.take_line(deadline)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                while !self.take_line(deadline)?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size, deadline)?);
            self.take_line(deadline)?;
        }
    }

    /// Reads some more bytes before the deadline; the end of the connection is `UnexpectedEof`.
    fn more(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        self.wire.limit_reads(left)?;
        let mut chunk = [0; 16 * 1024];
        match self.wire.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
            }
            Err(why) if why.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(why) => Err(why),
        }
    }
}

/// What is received, as far as there is any: frames of a WebSocket are read one by one.
impl Read for Connection {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.more(Instant::now() + self.patience)?;
        }
        let count = out.len().min(self.buffer.len());
        out[..count].copy_from_slice(&self.buffer[..count]);
        self.buffer.drain(..count);
        Ok(count)
    }
}

fn is_end(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
    )
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
