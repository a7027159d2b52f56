//! An LDAP server that answers whatever a test wants it to, in plain text, before TLS and inside it.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    StartTls,
    Bind,
    Search,
}

/// What it answers with, and what it sends after that again and again.
pub(crate) type Answer = (Vec<u8>, Vec<u8>);

type Answers = Arc<dyn Fn(Asked, u8) -> Answer + Send + Sync>;

struct Shared {
    tls: Arc<ServerConfig>,
    tls_first: bool,
    answers: Mutex<Answers>,
    flooded: Mutex<Vec<usize>>,
    binds: AtomicUsize,
    stopped: AtomicBool,
}

/// The server; it ends with the value.
pub(crate) struct LdapServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Most of a flood, in bytes.
pub(crate) const FLOOD: usize = 96 << 20;

impl LdapServer {
    /// One that speaks plain text, and TLS when asked to by a request, or from the first byte.
    pub(crate) fn start(tls: Arc<ServerConfig>, tls_first: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            tls,
            tls_first,
            answers: Mutex::new(Arc::new(|asked, number| (done(asked, number, 52), Vec::new()))),
            flooded: Mutex::default(),
            binds: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ours.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let ours = Arc::clone(&ours);
                thread::spawn(move || {
                    let limit = Some(Duration::from_secs(20));
                    client.set_read_timeout(limit).expect("a limit");
                    client.set_write_timeout(limit).expect("a limit");
                    // That the gateway closes the connection is what most tests are about.
                    let _ = ours.serve(client);
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on it answers so, the number of the request given.
    pub(crate) fn answer(&self, answers: impl Fn(Asked, u8) -> Answer + Send + Sync + 'static) {
        *self.shared.answers.lock().unwrap() = Arc::new(answers);
    }

    /// How often it was asked to bind.
    pub(crate) fn binds(&self) -> usize {
        self.shared.binds.load(Ordering::SeqCst)
    }

    /// How many bytes each flood had when the gateway closed the connection, or it was at its end.
    pub(crate) fn flooded(&self) -> Vec<usize> {
        self.shared.flooded.lock().unwrap().clone()
    }
}

impl Drop for LdapServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        if !self.tls_first && !self.talk(&mut client)? {
            return Ok(());
        }
        let session = ServerConnection::new(Arc::clone(&self.tls)).map_err(io::Error::other)?;
        self.talk(&mut StreamOwned::new(session, client)).map(|_| ())
    }

    /// Says whether TLS has to begin.
    fn talk(&self, line: &mut (impl Read + Write)) -> io::Result<bool> {
        loop {
            let (asked, number) = read(line)?;
            if asked == Asked::Bind {
                self.binds.fetch_add(1, Ordering::SeqCst);
            }
            let answers = Arc::clone(&self.answers.lock().unwrap());
            let (answer, flood) = answers(asked, number);
            line.write_all(&answer)?;
            line.flush()?;
            if asked == Asked::StartTls && answer.starts_with(&done(asked, number, 0)) {
                return Ok(true);
            }
            if !flood.is_empty() {
                self.flood(line, &flood);
            }
        }
    }

    fn flood(&self, line: &mut impl Write, flood: &[u8]) {
        let mut sent = 0;
        while sent < FLOOD && line.write_all(flood).and_then(|()| line.flush()).is_ok() {
            sent += flood.len();
        }
        self.flooded.lock().unwrap().push(sent);
    }
}

fn read(line: &mut impl Read) -> io::Result<(Asked, u8)> {
    let mut start = [0; 2];
    line.read_exact(&mut start)?;
    let octets = if start[1] < 0x80 { 0 } else { usize::from(start[1] - 0x80) };
    let mut more = vec![0; octets];
    line.read_exact(&mut more)?;
    let length = if octets == 0 {
        start[1].into()
    } else {
        more.iter().fold(0, |sum, &octet| sum << 8 | usize::from(octet))
    };
    let mut message = vec![0; length];
    line.read_exact(&mut message)?;
    let asked = match message[3] {
        0x77 => Asked::StartTls,
        0x60 => Asked::Bind,
        0x63 => Asked::Search,
        other => panic!("a request of tag {other:#x}"),
    };
    Ok((asked, message[2]))
}

/// An element, with its length in the long form that Active Directory always writes.
pub(crate) fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let length = u32::try_from(contents.len()).expect("a length").to_be_bytes();
    [&[tag, 0x84], &length[..], &contents].concat()
}

/// A message of this number.
pub(crate) fn message(number: u8, contents: &[&[u8]]) -> Vec<u8> {
    element(0x30, &[&[2, 1, number], &contents.concat()])
}

/// A result code and nothing more to say.
pub(crate) fn result(tag: u8, code: u8) -> Vec<u8> {
    element(tag, &[&[10, 1, code, 4, 0, 4, 0]])
}

/// The end of an answer.
pub(crate) fn done(asked: Asked, number: u8, code: u8) -> Vec<u8> {
    let tag = match asked {
        Asked::StartTls => 0x78,
        Asked::Bind => 0x61,
        Asked::Search => 0x65,
    };
    message(number, &[&result(tag, code)])
}

/// An entry of these attributes.
pub(crate) fn entry(number: u8, attributes: &[(&str, &[&str])]) -> Vec<u8> {
    let attributes: Vec<u8> = attributes
        .iter()
        .flat_map(|(name, values)| {
            let values: Vec<u8> = values.iter().flat_map(|value| element(4, &[value.as_bytes()])).collect();
            element(0x30, &[&element(4, &[name.as_bytes()]), &element(0x31, &[&values])])
        })
        .collect();
    message(number, &[&element(0x64, &[&element(4, &[b"uid=alice"]), &element(0x30, &[&attributes])])])
}
