//! A small blocking HTTP/1.1 server that keeps the raw bytes of what it received: the base of the fake
//! upstream and the fake issuer.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The request line, without its line end.
    pub(crate) line: String,
    /// The header lines verbatim, without their line ends (bytes outside ASCII as Latin-1).
    pub(crate) header_lines: Vec<String>,
    /// The decoded body.
    pub(crate) body: Vec<u8>,
    /// Trailer lines of a chunked body.
    pub(crate) trailers: Vec<String>,
}

impl Received {
    pub(crate) fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The request target, as on the wire.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a header, by its exact spelling but for case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.header_lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The value of a header that must not be there twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} arrived {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// Names and values of every header whose name folds to `name`: case is ignored and any run of
    /// non-alphanumerics counts as one separator.
    pub(crate) fn folded(&self, name: &str) -> Vec<&str> {
        let wanted = fold(name);
        self.header_lines
            .iter()
            .filter(|line| line.split_once(':').is_some_and(|(key, _)| fold(key) == wanted))
            .map(String::as_str)
            .collect()
    }
}

fn fold(name: &str) -> String {
    let mut out = String::new();
    for c in name.trim().chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    out
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A whole response with a `Content-Length`.
    Full { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// The same, but only after a while.
    Slow(Duration, Box<Reply>),
    /// A chunked response.
    Chunked(Vec<Vec<u8>>),
    /// A head that promises more than is sent, then the connection is closed.
    CloseMidBody { promised: usize, sent: Vec<u8> },
    /// The connection is closed without an answer.
    Close,
    /// Exactly these bytes, then the connection is closed.
    Raw(Vec<u8>),
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    pub(crate) fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Full { status, headers: vec![("Content-Type".into(), "text/plain".into())], body: body.into() }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::Full {
            status: 200,
            headers: vec![("Content-Type".into(), "application/json".into())],
            body: value.to_string().into_bytes(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Full { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self::Slow(delay, Box::new(self))
    }
}

type Handler = dyn Fn(&Received) -> Reply + Send + Sync;

struct Shared {
    handler: Mutex<Arc<Handler>>,
    received: Mutex<Vec<Received>>,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    stopped: AtomicBool,
}

/// The server; it ends with the value.
pub(crate) struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl HttpServer {
    pub(crate) fn start(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(([127, 0, 0, 1], 0), None, handler)
    }

    /// On this port.
    pub(crate) fn start_at(port: u16, handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(([127, 0, 0, 1], port), None, handler)
    }

    /// On this port of another loopback address.
    pub(crate) fn start_on(
        ip: [u8; 4],
        port: u16,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch((ip, port), None, handler)
    }

    /// The same over TLS.
    pub(crate) fn start_tls(
        tls: Arc<ServerConfig>,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch(([127, 0, 0, 1], 0), Some(tls), handler)
    }

    fn launch(
        at: ([u8; 4], u16),
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(at)).expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            handler: Mutex::new(Arc::new(handler)),
            received: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept_loop(&listener, tls.as_ref(), &accepting));
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces what is answered from now on.
    pub(crate) fn handle(&self, handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.shared.handler.lock().unwrap() = Arc::new(handler);
    }

    /// Everything received so far, in order of arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Stops listening and cuts what is open; the address then refuses connections.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for stream in self.shared.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accept loop, which then drops its listener.
        let _ = TcpStream::connect(self.address);
        let start = Instant::now();
        while TcpStream::connect(self.address).is_ok() && start.elapsed() < Duration::from_secs(5) {
            thread::yield_now();
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept_loop(listener: &TcpListener, tls: Option<&Arc<ServerConfig>>, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let Ok(handle) = stream.try_clone() else { continue };
        if let Ok(copy) = stream.try_clone() {
            shared.connections.lock().unwrap().push(copy);
        }
        let serving = Arc::clone(shared);
        let tls = tls.cloned();
        thread::spawn(move || {
            let _ = match tls.map(ServerConnection::new) {
                None => serve(stream, &serving),
                Some(Ok(session)) => serve(StreamOwned::new(session, stream), &serving),
                Some(Err(why)) => Err(io::Error::other(why)),
            };
            // The copies that are kept for `stop` would hold the connection open.
            let _ = handle.shutdown(Shutdown::Both);
        });
    }
}

fn serve(stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut wire = BufReader::new(stream);
    while let Some(received) = read_request(&mut wire)? {
        let handler = Arc::clone(&shared.handler.lock().unwrap());
        shared.received.lock().unwrap().push(received.clone());
        let reply = handler(&received);
        if !write_reply(wire.get_mut(), reply, received.method() == "HEAD")? {
            return wire.get_mut().flush();
        }
        wire.get_mut().flush()?;
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Some(line.into_iter().map(char::from).collect()))
}

fn read_request(reader: &mut BufReader<impl Read + Write>) -> io::Result<Option<Received>> {
    let Some(line) = read_line(reader)? else { return Ok(None) };
    let mut received = Received { line, header_lines: Vec::new(), body: Vec::new(), trailers: Vec::new() };
    while let Some(header) = read_line(reader)? {
        if header.is_empty() {
            break;
        }
        received.header_lines.push(header);
    }
    if received.all("expect").iter().any(|value| value.eq_ignore_ascii_case("100-continue")) {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        reader.get_mut().flush()?;
    }
    if received.all("transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
        read_chunks(reader, &mut received)?;
    } else if let Some(length) = received.all("content-length").first() {
        let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        received.body = vec![0; length];
        reader.read_exact(&mut received.body)?;
    }
    Ok(Some(received))
}

fn read_chunks(reader: &mut impl BufRead, received: &mut Received) -> io::Result<()> {
    loop {
        let size = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = size.split(';').next().unwrap_or_default().trim().to_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            break;
        }
        let from = received.body.len();
        received.body.resize(from + size, 0);
        reader.read_exact(&mut received.body[from..])?;
        read_line(reader)?;
    }
    while let Some(line) = read_line(reader)? {
        if line.is_empty() {
            break;
        }
        received.trailers.push(line);
    }
    Ok(())
}

/// Writes the reply; `false` if the connection is to be closed.
fn write_reply(writer: &mut impl Write, reply: Reply, head_only: bool) -> io::Result<bool> {
    match reply {
        Reply::Full { status, headers, body } => {
            let mut out = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                out.push_str(&format!("{name}: {value}\r\n"));
            }
            out.push_str("\r\n");
            let mut out = out.into_bytes();
            if !head_only {
                out.extend_from_slice(&body);
            }
            writer.write_all(&out)?;
            Ok(true)
        }
        Reply::Slow(delay, reply) => {
            thread::sleep(delay);
            write_reply(writer, *reply, head_only)
        }
        Reply::Chunked(chunks) => {
            writer.write_all(b"HTTP/1.1 200 Scripted\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for chunk in chunks {
                writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                writer.write_all(&chunk)?;
                writer.write_all(b"\r\n")?;
            }
            writer.write_all(b"0\r\n\r\n")?;
            Ok(true)
        }
        Reply::CloseMidBody { promised, sent } => {
            writer.write_all(
                format!("HTTP/1.1 200 Scripted\r\nContent-Length: {promised}\r\n\r\n").as_bytes(),
            )?;
            writer.write_all(&sent)?;
            Ok(false)
        }
        Reply::Close => Ok(false),
        Reply::Raw(bytes) => {
            writer.write_all(&bytes)?;
            Ok(false)
        }
    }
}
