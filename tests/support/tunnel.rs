//! Both ends of connections that live long: a backend that does with a connection what it is told to, and the
//! frames of WebSocket connections (RFC 6455 section 5.2).

use super::client::{Connection, Request, get};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The key of a handshake, from RFC 6455 section 1.3, and its answer.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a frame is.
pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A connection to the backend, its request header read.
pub(crate) type Arrived = BufReader<TcpStream>;

struct Shared {
    heads: Mutex<Vec<String>>,
    ended: AtomicUsize,
    stopped: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// A backend that hands each connection over after its first header block; it ends with the value.
pub(crate) struct Tunnels {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Tunnels {
    pub(crate) fn start(serve: impl Fn(&str, Arrived) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            heads: Mutex::default(),
            ended: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let (accepting, serve) = (Arc::clone(&shared), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
                stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a socket");
                accepting.open.lock().unwrap().push(stream.try_clone().expect("a socket"));
                let (shared, serve) = (Arc::clone(&accepting), Arc::clone(&serve));
                thread::spawn(move || {
                    let handle = stream.try_clone().expect("a socket");
                    let mut wire = BufReader::new(stream);
                    if let Ok(head) = read_head(&mut wire) {
                        shared.heads.lock().unwrap().push(head.clone());
                        let _ = serve(&head, wire);
                    }
                    let _ = handle.shutdown(Shutdown::Both);
                    shared.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    /// Opens WebSocket connections, answers pings, and sends every text back.
    pub(crate) fn echoing() -> Self {
        Self::start(|_, mut wire| {
            wire.get_mut().write_all(ACCEPTED.as_bytes())?;
            loop {
                let (opcode, payload) = read_frame(&mut wire)?;
                let answer = if opcode == PING { PONG } else { opcode };
                wire.get_mut().write_all(&frame(answer, &payload))?;
            }
        })
    }

    /// An `upstreams:` entry for it.
    pub(crate) fn settings(&self) -> String {
        self.settings_with("")
    }

    /// The same with further keys (`, retries: 0`).
    pub(crate) fn settings_with(&self, more: &str) -> String {
        format!("{{ endpoints: [\"http://{}\"]{more} }}", self.address)
    }

    /// The header blocks that arrived.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// How many connections have ended.
    pub(crate) fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn read_head(wire: &mut Arrived) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if wire.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// A frame as a server sends it.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    if let Ok(short @ 0..126) = u8::try_from(payload.len()) {
        out.push(short);
    } else {
        out.push(126);
        out.extend(u16::try_from(payload.len()).expect("a short frame").to_be_bytes());
    }
    out.extend_from_slice(payload);
    out
}

/// A frame as a client sends it.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0, 0x17, 0xff];
    let mut out = frame(opcode, payload);
    let head = out.len() - payload.len();
    out[1] |= 0x80;
    let body: Vec<_> = out.split_off(head);
    out.extend(MASK);
    out.extend(body.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// The opcode and the payload of the next frame.
pub(crate) fn read_frame(wire: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    wire.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            wire.read_exact(&mut length)?;
            usize::from(u16::from_be_bytes(length))
        }
        127 => return Err(io::ErrorKind::InvalidData.into()),
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        wire.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; length];
    wire.read_exact(&mut payload)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok((head[0] & 0x0f, payload))
}

/// A request for a WebSocket.
pub(crate) fn handshake(target: &str) -> Request {
    get(target)
        .header("Connection", "keep-alive, Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
}

/// Opens a WebSocket; panics with the answer if it is not 101.
#[track_caller]
pub(crate) fn open(address: &str, request: &Request) -> Connection {
    let mut client = Connection::open(address).expect("a connection");
    let response = client.exchange(request).expect("an answer").expect(101);
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client
}
