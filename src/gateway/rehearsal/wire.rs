//! The two ends of a rehearsal's request: a client and an upstream that are memory.

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::l4::stream::Stream as UpstreamStream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

/// What an upstream answers.
const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

/// A client's connection, as the gateway sees it.
#[derive(Debug)]
pub(super) struct ClientEnd {
    line: DuplexStream,
    addresses: Arc<SocketDigest>,
    tls: bool,
}

impl ClientEnd {
    pub(super) fn new(line: DuplexStream, client: SocketAddr, tls: bool) -> Self {
        // There is no descriptor; what would be asked of one is told here.
        let addresses = SocketDigest::from_raw_fd(-1);
        let _ = addresses.peer_addr.set(Some(PeerAddress::Inet(client)));
        let _ = addresses.local_addr.set(None);
        let _ = addresses.original_dst.set(None);
        Self { line, addresses: Arc::new(addresses), tls }
    }
}

/// An upstream's connection, as the gateway sees it.
#[derive(Debug)]
struct UpstreamEnd(DuplexStream);

impl VirtualSocket for UpstreamEnd {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! lies_on_a_line {
    ($end:ty, $line:tt) => {
        impl AsyncRead for $end {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$line).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $end {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$line).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$line).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$line).poll_shutdown(cx)
            }
        }
    };
}

lies_on_a_line!(ClientEnd, line);
lies_on_a_line!(UpstreamEnd, 0);

#[async_trait]
impl Shutdown for ClientEnd {
    async fn shutdown(&mut self) {
        // Nobody is left to tell.
        let _ = AsyncWriteExt::shutdown(&mut self.line).await;
    }
}

impl Peek for ClientEnd {}

impl UniqueID for ClientEnd {
    fn id(&self) -> UniqueIDType {
        0
    }
}

impl Ssl for ClientEnd {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.then(|| Arc::new(SslDigest::new("", "", None, None, Vec::new())))
    }
}

impl GetTimingDigest for ClientEnd {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientEnd {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientEnd {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.addresses))
    }
}

/// An upstream that tells the head of each request it gets.
pub(super) struct Recorder {
    tell: Arc<dyn Fn(Vec<u8>) + Send + Sync>,
}

impl Recorder {
    pub(super) fn new(tell: impl Fn(Vec<u8>) + Send + Sync + 'static) -> Self {
        Self { tell: Arc::new(tell) }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

#[async_trait]
impl L4Connect for Recorder {
    async fn connect(&self, _address: &PeerAddress) -> pingora_core::Result<UpstreamStream> {
        let (ours, theirs) = tokio::io::duplex(super::BUFFER);
        tokio::spawn(record(theirs, Arc::clone(&self.tell)));
        Ok(VirtualSocketStream::new(Box::new(UpstreamEnd(ours))).into())
    }
}

async fn record(mut line: DuplexStream, tell: Arc<dyn Fn(Vec<u8>) + Send + Sync>) {
    let mut head = Vec::new();
    loop {
        if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
            head.truncate(end);
            break;
        }
        if line.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    tell(head);
    let _ = line.write_all(ANSWER).await;
    // A body may follow.
    let _ = tokio::io::copy(&mut line, &mut tokio::io::sink()).await;
}
