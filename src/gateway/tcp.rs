//! A client's TCP connection as Pingora wants it: its addresses, unbuffered reads, a small write buffer.

use super::proxy_protocol::{self, Parsed};
use async_trait::async_trait;
use pingora_core::protocols::l4::ext::{TcpKeepalive, set_tcp_keepalive};
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// Written bytes gathered before a system call: a typical response header with a small body.
const WRITE_BUFFER: usize = 2048;

/// Room for a usual header of the PROXY protocol, and some more.
const PROXY_HEADER: usize = 256;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How TCP finds out that the other side of a quiet connection is gone.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(15),
        count: 4,
        user_timeout: Duration::ZERO,
    }
}

/// A TCP connection.
pub(super) struct TcpIo {
    tcp: BufWriter<TcpStream>,
    /// Bytes that were looked at and must be read again, with how many of them were.
    seen: (Vec<u8>, usize),
    digest: Arc<SocketDigest>,
    established: SystemTime,
}

impl TcpIo {
    pub(super) fn new(tcp: TcpStream, peer: SocketAddr, established: SystemTime) -> Self {
        // Without it a client that vanished from a quiet stream would keep its place; it is no reason to refuse.
        let _ = set_tcp_keepalive(&tcp, &keepalive());
        Self {
            digest: digest(&tcp, peer),
            tcp: BufWriter::with_capacity(WRITE_BUFFER, tcp),
            seen: (Vec::new(), 0),
            established,
        }
    }

    /// Reads the header of the PROXY protocol, which comes before anything else; from here on the client is whom
    /// it names.
    ///
    /// # Errors
    /// What the system says about reading, or that there is no such header.
    pub(super) async fn read_proxy_header(&mut self) -> io::Result<()> {
        let mut seen = Vec::with_capacity(PROXY_HEADER);
        loop {
            match proxy_protocol::parse(&seen) {
                Parsed::Whole(header) => {
                    if let Some(client) = header.client {
                        self.digest = digest(self.tcp.get_ref(), client);
                    }
                    self.seen = (seen, header.length);
                    return Ok(());
                }
                Parsed::Partial if self.tcp.read_buf(&mut seen).await? > 0 => {}
                Parsed::Partial | Parsed::Malformed => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "no header of the PROXY protocol",
                    ));
                }
            }
        }
    }

    /// Whether the client begins with the HTTP/2 preface. Reads no further than it takes to know, so that a
    /// short HTTP/1 request is not waited upon for bytes it will never send.
    ///
    /// # Errors
    /// What the system says about reading.
    pub(super) async fn begins_with_preface(&mut self) -> io::Result<bool> {
        let mut seen = Vec::with_capacity(PREFACE.len());
        while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
            let mut more = (&mut *self).take((PREFACE.len() - seen.len()) as u64);
            if more.read_buf(&mut seen).await? == 0 {
                break;
            }
        }
        let begins = seen == PREFACE;
        let (before, read) = std::mem::take(&mut self.seen);
        seen.extend_from_slice(before.get(read..).unwrap_or_default());
        self.seen = (seen, 0);
        Ok(begins)
    }
}

fn digest(tcp: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    // A digest just made is empty, so this cannot fail.
    let _ = digest.peer_addr.set(Some(PeerAddress::Inet(peer)));
    Arc::new(digest)
}

impl AsyncRead for TcpIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (bytes, read) = &mut self.seen;
        if let Some(rest) = bytes.get(*read..).filter(|rest| !rest.is_empty()) {
            let take = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..take).unwrap_or_default());
            *read += take;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for TcpIo {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nobody left to tell.
        let _ = AsyncWriteExt::shutdown(&mut self.tcp).await;
    }
}

impl Peek for TcpIo {}

impl UniqueID for TcpIo {
    fn id(&self) -> UniqueIDType {
        self.tcp.get_ref().as_raw_fd()
    }
}

impl Ssl for TcpIo {}

impl GetTimingDigest for TcpIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest {
            established_ts: self.established,
            establishment_duration: None,
            offload_wait_duration: None,
        })]
    }
}

impl GetProxyDigest for TcpIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for TcpIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl fmt::Debug for TcpIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpIo")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpIo) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        (client, TcpIo::new(server, peer, SystemTime::UNIX_EPOCH))
    }

    #[tokio::test]
    async fn a_short_request_is_no_preface_and_is_read_again_whole() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"PRI x").await.unwrap();
        assert!(!server.begins_with_preface().await.unwrap());
        let mut read = [0_u8; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"PRI x");
    }

    #[tokio::test]
    async fn behind_a_proxy_header_everything_is_read_again_and_the_client_is_whom_it_names() {
        for (follows, preface) in [(&b"PRI x"[..], false), (PREFACE, true)] {
            let (mut client, mut server) = pair().await;
            let sent = [b"PROXY TCP4 192.0.2.1 192.0.2.2 7 8\r\n", follows, b"more"].concat();
            client.write_all(&sent).await.unwrap();
            server.read_proxy_header().await.unwrap();
            let named = server.digest.peer_addr.get().unwrap().clone().unwrap();
            assert_eq!(named.as_inet().unwrap().to_string(), "192.0.2.1:7");
            assert_eq!(server.begins_with_preface().await.unwrap(), preface);
            let mut read = vec![0_u8; follows.len() + 4];
            server.read_exact(&mut read).await.unwrap();
            assert_eq!(read, [follows, b"more"].concat());
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_its_proxy_header_has_none() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
        drop(client);
        assert!(server.read_proxy_header().await.is_err());
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_one() {
        let (mut client, mut server) = pair().await;
        let looking = tokio::spawn(async move { (server.begins_with_preface().await.unwrap(), server) });
        for byte in PREFACE {
            client.write_all(&[*byte]).await.unwrap();
        }
        client.write_all(b"more").await.unwrap();
        let (begins, mut server) = looking.await.unwrap();
        assert!(begins);
        let mut read = [0_u8; PREFACE.len() + 4];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore");
    }
}
