//! A client's connection with the deadlines Pingora leaves open: a total time for the header block, a limit
//! on idle keep-alive, and one on a client that does not read what it is sent.

use super::settings::Limits;
use super::switch::{DeadlineSwitch, Phase};
use super::tcp::PREFACE;
use super::unparsed::{self, Arrived};
use super::websocket::Tunnel;
use crate::metrics::Metrics;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Room for the rest of a request line beside its target.
const REQUEST_LINE: usize = 256;

/// What every connection of a listener is held to.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Connections at one time.
    pub(super) connections: usize,
    /// Time for a whole header block.
    pub(super) header: Duration,
    /// Time between requests.
    pub(super) idle: Duration,
    /// Time without a byte being taken by the client.
    pub(super) write: Duration,
    pub(super) header_bytes: usize,
    pub(super) target_bytes: usize,
    pub(super) header_fields: usize,
    /// Client connections are counted, those of the admin side are not.
    pub(super) metrics: Option<Metrics>,
}

impl Bounds {
    pub(super) fn new(limits: &Limits, metrics: Option<Metrics>) -> Self {
        Self {
            connections: limits.connections,
            header: limits.header_timeout,
            idle: limits.idle_timeout,
            write: limits.body_timeout,
            header_bytes: limits.header_bytes,
            target_bytes: limits.target_bytes,
            header_fields: limits.header_fields,
            metrics,
        }
    }
}

/// A connection, plain or TLS, that ends itself when a deadline passes.
pub(super) struct Guarded {
    inner: Stream,
    switch: Arc<DeadlineSwitch>,
    /// What became of the connection after a 101.
    tunnel: Option<Tunnel>,
    /// Whether the client began with the HTTP/2 preface.
    preface: bool,
    bounds: Arc<Bounds>,
    /// When the client must have sent something, and in which phase that was said.
    due: (Phase, Instant),
    /// Rings then at the latest. It may ring earlier, for a phase that has passed: to set it anew for each phase
    /// of each request would cost more.
    timer: Pin<Box<Sleep>>,
    /// Runs while the client takes nothing of what is written.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Of the header block that is arriving.
    arrived: Arrived,
    /// All that arrived since the last request ended until the header block was complete: to be read again, and to
    /// be counted. Given up by a read that has to wait, between requests or while one is served.
    block: Vec<u8>,
    /// What is read once more before anything else.
    again: Bytes,
    /// While the engine serves a request: how much of it is not read yet. What follows waits for its turn. `None` if
    /// the request does not say how long it is.
    left: Option<u64>,
    /// Our answer in place of the engine's, and how much of it is written.
    refusal: Option<(Vec<u8>, usize)>,
}

impl Guarded {
    /// Guards `inner`, whose first header block must be there at `deadline`.
    pub(super) fn new(inner: Stream, preface: bool, deadline: Instant, bounds: Arc<Bounds>) -> Self {
        let http2 = preface || matches!(inner.selected_alpn_proto(), Some(ALPN::H2));
        let phase = if http2 { Phase::Off } else { Phase::New };
        Self {
            inner,
            switch: Arc::new(DeadlineSwitch::new(phase)),
            tunnel: None,
            preface,
            bounds,
            due: (Phase::New, deadline),
            timer: Box::pin(tokio::time::sleep_until(deadline)),
            stalled: None,
            arrived: Arrived::default(),
            block: Vec::new(),
            again: Bytes::new(),
            left: None,
            refusal: None,
        }
    }

    /// The switch of the connection below a session, if it is one of ours. HTTP/2 streams have none.
    pub(super) fn switch(stream: Option<&Stream>) -> Option<&Arc<DeadlineSwitch>> {
        stream.and_then(|stream| (**stream).as_any().downcast_ref::<Self>()).map(|guarded| &guarded.switch)
    }

    /// Whether the request line below a session, as it arrived, leaves no doubt about its target. What the engine
    /// shows of it may be escaped by then. An HTTP/2 stream has none.
    pub(super) fn has_clear_request_line(stream: Option<&Stream>) -> bool {
        let guarded = stream.and_then(|stream| (**stream).as_any().downcast_ref::<Self>());
        guarded.is_none_or(|guarded| guarded.arrived.has_clear_request_line())
    }

    /// Whether the connection is of HTTP/2.
    pub(super) fn is_http2(stream: &Stream) -> bool {
        let guarded = (**stream).as_any().downcast_ref::<Self>();
        guarded.is_some_and(|guarded| guarded.preface)
            || matches!(stream.selected_alpn_proto(), Some(ALPN::H2))
    }

    /// Whether this header block, as it is here, and so many bytes of a body are all that was read of a connection of
    /// ours when the block was complete. Nothing is known of what was read later, or once a read had to wait.
    pub(super) fn has_read_just(stream: &Stream, header: &[u8], body: usize) -> bool {
        let guarded = (**stream).as_any().downcast_ref::<Self>();
        guarded.and_then(|guarded| guarded.block.strip_prefix(header)).is_some_and(|rest| rest.len() == body)
    }

    /// The connection as it was before the header block of the request that is served, which will be read again, and
    /// behind it the body, if its length is given, and nothing more. `None` if the connection is not one of ours.
    pub(super) fn rewound(stream: Stream, header: &[u8], body: Option<u64>) -> Option<Stream> {
        let mut guarded = stream.into_any().downcast::<Self>().ok()?;
        let block = std::mem::take(&mut guarded.block);
        guarded.left = body.filter(|_| block.starts_with(header)).map(|body| header.len() as u64 + body);
        guarded.put_back(block);
        Some(guarded)
    }

    /// The connection as it was before `ahead` was read, which follows the request that has ended. `None` if the
    /// connection is not one of ours.
    pub(super) fn unread(stream: Stream, ahead: &[u8]) -> Option<Stream> {
        let mut guarded = stream.into_any().downcast::<Self>().ok()?;
        guarded.put_back(ahead.to_vec());
        Some(guarded)
    }

    fn put_back(&mut self, mut read: Vec<u8>) {
        read.extend_from_slice(&self.again);
        self.again = read.into();
    }

    /// Something arrived: between requests that is the start of a header block.
    fn received(&mut self, phase: Phase, piece: &[u8]) {
        match phase {
            Phase::Off => return,
            Phase::Header => {}
            // The time that runs since the accept goes on.
            Phase::New => self.due.0 = Phase::Header,
            Phase::Idle => {
                // The header's time is set once more of it has to be waited for.
                self.due.0 = Phase::Off;
                self.left = None;
                self.arrived = Arrived::default();
                self.block.clear();
            }
        }
        self.arrived.add(piece);
        self.block.extend_from_slice(piece);
        self.switch.set(Phase::Header);
    }

    /// Whether the header block is longer than any that is accepted, and not yet complete.
    pub(super) fn is_overfull(stream: &Stream) -> bool {
        (**stream).as_any().downcast_ref::<Self>().is_some_and(Self::overfull)
    }

    fn overfull(&self) -> bool {
        self.switch.get() == Phase::Header
            && self.block.len() > self.bounds.header_bytes + self.bounds.target_bytes + REQUEST_LINE
    }

    /// Ready when the phase's deadline has passed.
    fn poll_deadline(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        let limit = match phase {
            Phase::Off => return Poll::Pending,
            Phase::New | Phase::Header => self.bounds.header,
            Phase::Idle => self.bounds.idle,
        };
        if self.due.0 != phase {
            self.due = (phase, Instant::now() + limit);
        }
        let (_, due) = self.due;
        if self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }

    /// What came of an attempt to write; one that waits for longer than the limit fails.
    fn written<T>(&mut self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let limit = self.bounds.write;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Writes our own refusal while the engine believes to write `buf`, its own.
    fn poll_refusal(&mut self, buf: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let bounds = Arc::clone(&self.bounds);
        let arrived = self.arrived;
        let (answer, sent) = self.refusal.get_or_insert_with(|| {
            let (code, answer) = unparsed::answer(arrived.reason(bounds.header_bytes, bounds.header_fields));
            if let Some(metrics) = &bounds.metrics {
                metrics.unparsed(code);
            }
            (answer, 0)
        });
        while let Some(rest) = answer.get(*sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.inner).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(more)) => *sent += more,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.written(Poll::Pending, cx),
            }
        }
        self.written(Poll::Ready(Ok(buf.len())), cx)
    }

    /// Writes frames of a WebSocket. Once its end has come, only what is left of a frame that is half sent.
    fn poll_frames(
        &mut self,
        mut tunnel: Tunnel,
        buf: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let ended = self.switch.is_ended();
        let most = if ended { tunnel.owed(buf) } else { buf.len() };
        let result = match buf.get(..most) {
            Some(piece) if most > 0 => Pin::new(&mut self.inner).poll_write(cx, piece),
            // What the upstream says after the end is heard by nobody.
            _ => Poll::Ready(Ok(buf.len())),
        };
        if let (Poll::Ready(Ok(count)), true) = (&result, most > 0) {
            tunnel.sent(buf.get(..*count).unwrap_or_default());
        }
        self.tunnel = Some(tunnel);
        self.written(result, cx)
    }

    /// Reads nothing for a request that has ended. A WebSocket's client is told why, and then waited for: closing
    /// a socket with unread input resets it, and the client may lose what it was told.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tunnel) = &mut self.tunnel else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the token has ended")));
        };
        if let Poll::Ready(Err(error)) = tunnel.poll_farewell(&mut self.inner, cx) {
            return Poll::Ready(Err(error));
        }
        let mut unheard = [0; 1024];
        loop {
            let mut unheard = ReadBuf::new(&mut unheard);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut unheard))?;
            if unheard.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads on behind a request that is served and read whole, to see the client leave. If it sends its next request
    /// instead, that is kept until the answer to this one is sent.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.again.is_empty() {
            let mut ahead = [0; 512];
            let mut ahead = ReadBuf::new(&mut ahead);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut ahead))?;
            if ahead.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.again = Bytes::copy_from_slice(ahead.filled());
        }
        // Nobody is woken: who serves the request waits for its answer as well.
        Poll::Pending
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.again.is_empty() {
            let most = self.again.len().min(buf.remaining());
            let piece = self.again.split_to(most);
            buf.put_slice(&piece);
            let phase = self.switch.get();
            self.received(phase, &piece);
            return Poll::Ready(Ok(()));
        }
        if self.overfull() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the header block is too long",
            )));
        }
        let before = buf.filled().len();
        let phase = self.switch.get();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(result) => {
                let piece = buf.filled().get(before..).unwrap_or_default();
                if !piece.is_empty() {
                    self.received(phase, piece);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                // No request that waits for its client has its header block read again.
                if matches!(phase, Phase::Idle | Phase::Off) {
                    self.block = Vec::new();
                }
                ready!(self.poll_deadline(phase, cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client was too slow")))
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.switch.is_ended() {
            return self.poll_end(cx);
        }
        match self.left.filter(|_| self.switch.get() == Phase::Off) {
            None => self.poll_more(cx, buf),
            Some(0) => self.poll_ahead(cx),
            Some(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.remaining());
                let mut piece = ReadBuf::new(buf.initialize_unfilled_to(most));
                ready!(self.poll_more(cx, &mut piece))?;
                let read = piece.filled().len();
                buf.advance(read);
                self.left = Some(left.saturating_sub(read as u64));
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // While no request is served only the engine's parser has something to say.
        if self.refusal.is_some() || (self.switch.get() != Phase::Off && unparsed::is_refusal(buf)) {
            return self.poll_refusal(buf, cx);
        }
        if self.switch.is_tunnel() {
            let tunnel = self.tunnel.take().unwrap_or_default();
            return self.poll_frames(tunnel, buf, cx);
        }
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(result, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.written(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.switch.is_tunnel() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[][..], |buf| buf));
        }
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        // A client that does not read is not waited for; what is left is closed with the socket.
        let _ = tokio::time::timeout(self.bounds.write, Shutdown::shutdown(&mut *self.inner)).await;
    }
}

#[async_trait]
impl Peek for Guarded {
    /// Says what was found out before the connection came here; nothing is read.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        if self.preface {
            for (to, from) in buf.iter_mut().zip(PREFACE) {
                *to = *from;
            }
        }
        Ok(true)
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
    use super::super::tcp::TcpIo;
    use super::*;
    use std::time::SystemTime;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const LONG: Duration = Duration::from_secs(60);

    async fn pair(header: Duration, idle: Duration, write: Duration) -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        let io = TcpIo::new(server, peer, SystemTime::UNIX_EPOCH);
        let bounds = Bounds {
            connections: 1,
            header,
            idle,
            write,
            header_bytes: 1024,
            target_bytes: 512,
            header_fields: 10,
            metrics: None,
        };
        let deadline = Instant::now() + header;
        (client, Guarded::new(Box::new(io), false, deadline, Arc::new(bounds)))
    }

    #[tokio::test]
    async fn a_header_that_drips_is_cut_at_the_total_deadline() {
        let (mut client, mut server) = pair(Duration::from_millis(200), LONG, LONG).await;
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
        let (mut client, mut server) = pair(LONG, Duration::from_millis(50), LONG).await;
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
    async fn a_client_that_does_not_read_is_given_up() {
        let (_client, mut server) = pair(LONG, LONG, Duration::from_millis(100)).await;
        server.switch.disarm();
        let end = server.write_all(&vec![0_u8; 64 * 1024 * 1024]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
        tokio::time::timeout(LONG / 2, Shutdown::shutdown(&mut server)).await.expect("shutdown ends too");
    }

    #[tokio::test]
    async fn the_engines_refusal_is_replaced_but_no_body_that_looks_like_it() {
        let engines = b"HTTP/1.1 400 Bad Request\r\nServer: Pingora\r\n\r\n";
        let (mut client, mut server) = pair(LONG, LONG, LONG).await;
        server.switch.disarm();
        server.write_all(engines).await.unwrap();
        server.flush().await.unwrap();
        let mut body = vec![0_u8; engines.len()];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(body, engines);

        server.switch.idle();
        client.write_all(b"no request\r\n\r\n").await.unwrap();
        server.read_exact(&mut [0_u8; 14]).await.unwrap();
        server.write_all(engines).await.unwrap();
        server.flush().await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n") && !answer.contains("Pingora"), "{answer}");
        assert!(answer.contains("\"reason\":\"bad_request\""), "{answer}");
    }
}
