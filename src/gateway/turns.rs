//! Connections to upstreams for requests that may become a WebSocket. Reading waits its turn after each write.
//!
//! Pingora tells its upstream half by message that the request has no body. Should a fast upstream's 101 be read
//! before that message, the message would end the WebSocket that has just begun; which of two ready things comes
//! first is left to chance there. A read that is put off once leaves the message alone to be ready.

use super::tcp;
use crate::clock::random_bytes;
use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::ext::set_tcp_keepalive;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_core::{Error, ErrorType, Result};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Makes connections to this peer such ones. A WebSocket is quiet for as long as it likes: whether the other side
/// is still there is for TCP to find out.
pub(super) fn take(peer: &mut HttpPeer) {
    // Pingora's pool cannot tell such connections apart: none is kept, and none found.
    peer.group_key = random_bytes().map_or(peer.group_key, u64::from_ne_bytes);
    let options = &mut peer.options;
    options.idle_timeout = Some(Duration::ZERO);
    options.custom_l4 = Some(Arc::new(Turns));
    options.read_timeout = None;
    options.tcp_keepalive = Some(tcp::keepalive());
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::default();
}

#[derive(Debug)]
struct Turns;

#[async_trait]
impl Connect for Turns {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let refused = |error: io::Error| {
            Error::because(ErrorType::ConnectError, "connecting for a WebSocket", error).into_up()
        };
        let address = address.as_inet().ok_or_else(|| refused(io::ErrorKind::Unsupported.into()))?;
        let tcp = TcpStream::connect(address).await.map_err(refused)?;
        Ok(VirtualSocketStream::new(Box::new(Turn { tcp, wrote: false })).into())
    }
}

#[derive(Debug)]
struct Turn {
    tcp: TcpStream,
    /// Something was written that nothing was read after.
    wrote: bool,
}

impl VirtualSocket for Turn {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.tcp.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(&self.tcp, &keepalive).map_err(io::Error::other)
            }
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Turn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.wrote) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Turn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wrote = true;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_read_after_a_write_waits_once_however_ready_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let mut turn = Turn { tcp, wrote: false };
        turn.write_all(b"request").await.unwrap();
        other.write_all(b"answer").await.unwrap();
        turn.tcp.readable().await.unwrap();
        let mut bytes = [0; 6];
        let mut buf = ReadBuf::new(&mut bytes);
        let first =
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut turn).poll_read(cx, &mut buf).is_ready()));
        assert!(!first.await, "read at once");
        turn.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"answer");
    }
}
