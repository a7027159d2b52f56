//! A connection to the directory: encrypted as configured, and what comes over it read within a limit.

use super::ber::{Unreadable, length, octets_after};
use super::message::{Attributes, Request, SEQUENCE, Said};
use super::{Encryption, LdapSettings};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a directory may send on one connection. An entry whose claims are of a size that is any use as such has less
/// by far.
const MOST_BYTES: usize = 256 << 10;

/// Why nothing was said to the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("its answer cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("it answered the request for TLS with result code {0}")]
    NoTls(u32),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// What bytes come and go over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The connection.
pub(super) struct Connection {
    wire: Box<dyn Wire>,
    /// Bytes that may still come.
    left: usize,
}

impl Connection {
    /// Connects, and encrypts where the settings say so: then nothing that matters is said or heard before.
    pub(super) async fn open(settings: &LdapSettings, trust: &Arc<ClientConfig>) -> Result<Self, Broken> {
        let tcp = TcpStream::connect((settings.host.as_str(), settings.port)).await?;
        let mut plain = Self { wire: Box::new(tcp), left: MOST_BYTES };
        match settings.encryption {
            Encryption::None => return Ok(plain),
            Encryption::StartTls => match plain.ask(&Request::start_tls()).await? {
                // What else came in plain text was not read yet, and is now part of a handshake that fails for it.
                (0, _) => {}
                (code, _) => return Err(Broken::NoTls(code)),
            },
            Encryption::Tls => {}
        }
        let name = ServerName::try_from(settings.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(trust)).connect(name, plain.wire).await?;
        Ok(Self { wire: Box::new(tls), left: plain.left })
    }

    /// Asks, and waits for the result code; and for the entry, if one comes before it.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<(u32, Option<Attributes>), Broken> {
        self.wire.write_all(&request.message).await?;
        self.wire.flush().await?;
        let mut entry = None;
        loop {
            match request.answer(&self.message().await?)? {
                Said::Done(code) => return Ok((code, entry)),
                Said::Entry(_) if entry.is_some() => return Err(Unreadable::Entries.into()),
                Said::Entry(found) => entry = Some(found),
                Said::Aside => {}
            }
        }
    }

    /// The next message, without what says how long it is. Not a byte after it is read.
    async fn message(&mut self) -> Result<Vec<u8>, Broken> {
        let mut start = [0; 2];
        self.read(&mut start).await?;
        let [found, first] = start;
        if found != SEQUENCE {
            return Err(Unreadable::Tag { expected: SEQUENCE, found }.into());
        }
        let mut octets = vec![0; octets_after(first)?];
        self.read(&mut octets).await?;
        let length = length(first, &octets)?;
        if length > self.left {
            return Err(Unreadable::TooLong.into());
        }
        let mut contents = vec![0; length];
        self.read(&mut contents).await?;
        Ok(contents)
    }

    async fn read(&mut self, bytes: &mut [u8]) -> Result<(), Broken> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(Unreadable::TooLong)?;
        self.wire.read_exact(bytes).await?;
        Ok(())
    }
}
