//! A client's connection with the deadlines Pingora leaves open: a total time for the header block and a
//! limit on idle keep-alive.

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Written bytes gathered before a system call: a typical response header with a small body.
const WRITE_BUFFER: usize = 2048;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A TCP connection as Pingora wants it: with its addresses, unbuffered reads and small write buffer.
pub(super) struct TcpIo {
    tcp: BufWriter<TcpStream>,
    /// Bytes that were peeked and must be read again, with how many of them were.
    peeked: (Vec<u8>, usize),
    digest: Arc<SocketDigest>,
    established: SystemTime,
}

impl TcpIo {
    pub(super) fn new(tcp: TcpStream, peer: SocketAddr, established: SystemTime) -> Self {
        let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        // A digest just made is empty, so this cannot fail.
        let _ = digest.peer_addr.set(Some(PeerAddress::Inet(peer)));
        Self {
            tcp: BufWriter::with_capacity(WRITE_BUFFER, tcp),
            peeked: (Vec::new(), 0),
            digest: Arc::new(digest),
            established,
        }
    }
}

impl AsyncRead for TcpIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (bytes, read) = &mut self.peeked;
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

#[async_trait]
impl Peek for TcpIo {
    /// Reads until `buf` is full or cannot become the HTTP/2 preface any more, so that a short HTTP/1
    /// request is not waited upon for bytes it will never send.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let mut seen = Vec::with_capacity(buf.len());
        while seen.len() < buf.len() && PREFACE.starts_with(&seen) {
            let mut more = (&mut self.tcp).take((buf.len() - seen.len()) as u64);
            if more.read_buf(&mut seen).await? == 0 {
                break;
            }
        }
        for (to, from) in buf.iter_mut().zip(&seen) {
            *to = *from;
        }
        self.peeked = (seen, 0);
        Ok(true)
    }
}

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

/// What the connection is doing, as far as its deadlines are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Accepted, nothing received: the header deadline runs from the accept.
    New = 0,
    /// Between requests: the idle limit runs.
    Idle = 1,
    /// A header block is arriving: its total deadline runs.
    Header = 2,
    /// A request is being served, or the protocol is HTTP/2: no deadline here.
    Off = 3,
}

/// The switch of a connection's deadlines; the request's phases flip it.
#[derive(Debug)]
pub(super) struct DeadlineSwitch(AtomicU8);

impl DeadlineSwitch {
    /// The header block is complete.
    pub(super) fn disarm(&self) {
        self.0.store(Phase::Off as u8, Ordering::Release);
    }

    /// The request is answered; the connection may idle.
    pub(super) fn idle(&self) {
        self.0.store(Phase::Idle as u8, Ordering::Release);
    }

    fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::New,
            1 => Phase::Idle,
            2 => Phase::Header,
            _ => Phase::Off,
        }
    }
}

/// A connection, plain or TLS, that ends itself when a deadline passes.
pub(super) struct Guarded {
    inner: Stream,
    switch: DeadlineSwitch,
    /// Whether HTTP/2 by prior knowledge is taken.
    preface: bool,
    header_timeout: Duration,
    idle_timeout: Duration,
    /// The timer and the phase it was set for; the timer is kept and reset, not made anew.
    timer: Option<(Phase, Pin<Box<Sleep>>)>,
}

impl Guarded {
    pub(super) fn new(
        inner: Stream,
        preface: bool,
        header_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        let http2 = matches!(inner.selected_alpn_proto(), Some(ALPN::H2));
        let phase = if http2 { Phase::Off } else { Phase::New };
        Self {
            inner,
            switch: DeadlineSwitch(AtomicU8::new(phase as u8)),
            preface,
            header_timeout,
            idle_timeout,
            timer: None,
        }
    }

    /// The switch of the connection below a session, if it is one of ours. HTTP/2 streams have none.
    pub(super) fn switch(stream: Option<&Stream>) -> Option<&DeadlineSwitch> {
        stream.and_then(|stream| (**stream).as_any().downcast_ref::<Self>()).map(|guarded| &guarded.switch)
    }

    /// Something arrived: between requests that is the start of a header block.
    fn received(&mut self, phase: Phase) {
        match phase {
            // The timer that runs since the accept goes on.
            Phase::New => {
                if let Some((set_for, _)) = &mut self.timer {
                    *set_for = Phase::Header;
                }
            }
            Phase::Idle => {
                let deadline = Instant::now() + self.header_timeout;
                match &mut self.timer {
                    Some((set_for, timer)) => {
                        timer.as_mut().reset(deadline);
                        *set_for = Phase::Header;
                    }
                    None => self.timer = Some((Phase::Header, Box::pin(tokio::time::sleep_until(deadline)))),
                }
            }
            Phase::Header | Phase::Off => return,
        }
        self.switch.0.store(Phase::Header as u8, Ordering::Release);
    }

    /// Ready when the phase's deadline has passed.
    fn poll_deadline(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        let limit = match phase {
            Phase::Off => return Poll::Pending,
            Phase::New | Phase::Header => self.header_timeout,
            Phase::Idle => self.idle_timeout,
        };
        let (set_for, timer) = self.timer.get_or_insert_with(|| (phase, Box::pin(tokio::time::sleep(limit))));
        if *set_for != phase {
            timer.as_mut().reset(Instant::now() + limit);
            *set_for = phase;
        }
        timer.as_mut().poll(cx)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let phase = self.switch.get();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if phase != Phase::Off && buf.filled().len() > before {
                    self.received(phase);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(self.poll_deadline(phase, cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client was too slow")))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.inner).await;
    }
}

#[async_trait]
impl Peek for Guarded {
    /// Looks for the HTTP/2 preface within the header deadline; an HTTP/2 connection has its own limits.
    /// Where HTTP/2 is not taken nothing is read, and what is not the preface is seen: HTTP/1 it is.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        if !self.preface {
            return Ok(true);
        }
        let peeked = tokio::time::timeout(self.header_timeout, self.inner.try_peek(buf)).await??;
        if buf == PREFACE {
            self.switch.disarm();
        }
        Ok(peeked)
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Guarded {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({:?}, {:?})", self.switch.get(), self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair(header: Duration, idle: Duration) -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        let io = TcpIo::new(server, peer, SystemTime::UNIX_EPOCH);
        (client, Guarded::new(Box::new(io), true, header, idle))
    }

    #[tokio::test]
    async fn a_header_that_drips_is_cut_at_the_total_deadline() {
        let (mut client, mut server) = pair(Duration::from_millis(200), Duration::from_secs(60)).await;
        let dripping = tokio::spawn(async move {
            for _ in 0..100 {
                client.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            io::Result::Ok(())
        });
        let mut byte = [0_u8; 1];
        let end = loop {
            match server.read(&mut byte).await {
                Ok(0) => panic!("the client closed first"),
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        dripping.abort();
    }

    #[tokio::test]
    async fn the_idle_limit_runs_between_requests_only() {
        let (mut client, mut server) = pair(Duration::from_secs(60), Duration::from_millis(50)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read(&mut [0_u8; 8]).await.unwrap(), 1);
        server.switch.disarm();
        let serving = tokio::time::timeout(Duration::from_millis(150), server.read(&mut [0_u8; 8])).await;
        assert!(serving.is_err(), "no deadline while a request is served");
        server.switch.idle();
        let end = server.read(&mut [0_u8; 8]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_short_request_is_peeked_without_waiting_for_more() {
        let (mut client, mut server) = pair(Duration::from_secs(60), Duration::from_secs(60)).await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut peeked = [0_u8; 24];
        assert!(server.try_peek(&mut peeked).await.unwrap());
        let mut read = [0_u8; 18];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"GET / HTTP/1.1\r\n\r\n");
    }
}
