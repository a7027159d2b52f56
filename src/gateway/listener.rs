//! Client listeners: bound before anything starts, one permit per connection, drained on shutdown.
//!
//! The accept loop is ours and not Pingora's server: a failed bind is an error at once, a connection is
//! counted before its TLS handshake, and shutdown ends as soon as the last connection does.

use super::guard::{Bounds, Guarded};
use super::settings::{Limits, ListenerSettings};
use super::tcp::TcpIo;
use super::tls;
pub use super::tls::Certificates;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::panics::{self, contain};
use arc_swap::ArcSwap;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::Stream;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// Connections the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;

/// How long a TLS handshake may take, and how long to wait after a failed accept (no descriptors left).
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate {certificate} with the key {private_key}: {what}")]
    Certificate {
        /// The certificate chain's file.
        certificate: String,
        /// The key's file.
        private_key: String,
        /// What is wrong.
        what: String,
    },
    /// The TLS library refuses.
    #[error("TLS: {0}")]
    Tls(String),
}

/// A bound listener that accepts nothing yet.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Acceptor>>,
    certificates: Option<Arc<Certificates>>,
    /// HTTP/2 by prior knowledge; on TLS it is agreed upon by ALPN.
    preface: bool,
    /// Each connection begins with a header of the PROXY protocol.
    proxied: bool,
}

impl Listener {
    /// Binds `settings.address`, unless the socket is among the inherited, and prepares its TLS side. Must be
    /// called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the address or the file.
    pub fn bind(settings: &ListenerSettings, inherited: &mut Inherited) -> Result<Self, ListenError> {
        let files = Some(settings.tls.as_slice()).filter(|files| !files.is_empty());
        let certificates = files.map(Certificates::read).transpose()?.map(Arc::new);
        let acceptor = |certificates: &Arc<_>| tls::acceptor(Arc::clone(certificates), settings.http2);
        let tls = certificates.as_ref().map(acceptor).transpose()?.map(Arc::new);
        let proxied = settings.proxy_protocol;
        let socket = bind(settings.address, inherited)?;
        Ok(Self { socket, tls, certificates, preface: settings.http2, proxied })
    }

    /// The certificates it shows, on a TLS listener.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.certificates.as_ref()
    }

    /// Binds a plain listener, for the admin side. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the address.
    pub fn bind_plain(address: SocketAddr, inherited: &mut Inherited) -> Result<Self, ListenError> {
        let socket = bind(address, inherited)?;
        Ok(Self { socket, tls: None, certificates: None, preface: false, proxied: false })
    }

    /// Its socket once more, for another process. Until both are closed it takes connections.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }
}

/// Listening sockets of the process before this one.
#[derive(Debug, Default)]
pub struct Inherited(Vec<std::net::TcpListener>);

impl Inherited {
    /// These.
    pub const fn new(sockets: Vec<std::net::TcpListener>) -> Self {
        Self(sockets)
    }

    fn take(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let at = self.0.iter().position(|socket| socket.local_addr().is_ok_and(|own| own == address))?;
        Some(self.0.swap_remove(at))
    }
}

fn bind(address: SocketAddr, inherited: &mut Inherited) -> Result<TcpListener, ListenError> {
    let mut attempt = || {
        if let Some(socket) = inherited.take(address) {
            socket.set_nonblocking(true)?;
            return TcpListener::from_std(socket);
        }
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Connections of the process before us that linger in TIME_WAIT are no reason not to start.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    attempt().map_err(|source| ListenError::Bind { address, source })
}

/// What every connection of a listener shares.
pub struct Connections {
    bounds: ArcSwap<Bounds>,
    /// How many are open, watched by whoever waits for the last one to end.
    open: watch::Sender<usize>,
    /// Turns true when those that have asked for nothing yet are to end.
    unwanted: watch::Sender<bool>,
    clock: Arc<dyn Clock>,
    /// Client connections are counted, those of the admin side are not.
    metrics: Option<Metrics>,
}

impl Connections {
    /// At most `limits.connections` at one time, with the deadlines of `limits`. With `metrics` they are
    /// counted.
    pub fn new(limits: &Limits, clock: Arc<dyn Clock>, metrics: Option<Metrics>) -> Self {
        let bounds = ArcSwap::from_pointee(Bounds::new(limits, metrics.clone()));
        Self { bounds, open: watch::Sender::new(0), unwanted: watch::Sender::new(false), clock, metrics }
    }

    /// Holds connections accepted from now on to other limits.
    pub fn set_limits(&self, limits: &Limits) {
        self.bounds.store(Arc::new(Bounds::new(limits, self.metrics.clone())));
    }

    /// Waits until no connection is left.
    pub async fn drained(&self) {
        // Fails only without a sender, which is here.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Ends those whose client has not come to its first request.
    pub fn drop_unopened(&self) {
        self.unwanted.send_replace(true);
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// A place for one more connection, with the bounds it is held to; `None` if all are taken.
    fn admit(self: &Arc<Self>) -> Option<(Place, Arc<Bounds>)> {
        let bounds = self.bounds.load_full();
        let admitted = self.open.send_if_modified(|open| {
            let free = *open < bounds.connections;
            *open += usize::from(free);
            free
        });
        if !admitted {
            if let Some(metrics) = &self.metrics {
                metrics.connection_refused();
            }
            return None;
        }
        if let Some(metrics) = &self.metrics {
            metrics.connection_opened();
        }
        Some((Place(Arc::clone(self)), bounds))
    }
}

/// One connection's place. Given back however the connection ends, a panic included.
struct Place(Arc<Connections>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open = open.saturating_sub(1));
        if let Some(metrics) = &self.0.metrics {
            metrics.connection_closed();
        }
    }
}

/// A listener at work. Its socket is closed with it.
pub struct Accepting<A> {
    listener: Listener,
    app: Arc<A>,
    connections: Arc<Connections>,
    shutdown: watch::Receiver<bool>,
}

impl<A: ServerApp + Send + Sync + 'static> Accepting<A> {
    /// Will hand connections to `app`, until `shutdown` turns true.
    pub const fn new(
        listener: Listener,
        app: Arc<A>,
        connections: Arc<Connections>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self { listener, app, connections, shutdown }
    }

    /// Accepts until told to stop; connections go on by themselves and end with their requests.
    pub async fn serve(&mut self) {
        loop {
            let accepted = tokio::select! {
                // Who waits already is let in, even when it is time to stop.
                biased;
                accepted = self.listener.socket.accept() => accepted,
                // An error means that the sender is gone: the process is ending.
                _ = self.shutdown.wait_for(|stop| *stop) => return,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some((place, bounds)) = self.connections.admit() else { continue };
            let Listener { tls, preface, proxied, .. } = &self.listener;
            let (tls, preface, proxied) = (tls.clone(), *preface, *proxied);
            let connection = Connection { tcp, peer, tls, preface, proxied, bounds, place };
            let served = connection.run(Arc::clone(&self.app), self.shutdown.clone());
            tokio::spawn(contain(panics::Place::Connection, served));
        }
    }
}

/// Tells the connection below a session that its request is answered: the idle limit runs from here.
pub fn request_ended(stream: Option<&Stream>) {
    if let Some(switch) = Guarded::switch(stream) {
        switch.idle();
    }
}

struct Connection {
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Acceptor>>,
    preface: bool,
    proxied: bool,
    bounds: Arc<Bounds>,
    place: Place,
}

impl Connection {
    async fn run<A>(self, app: Arc<A>, shutdown: watch::Receiver<bool>)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let place = self.place;
        let mut unwanted = place.0.unwanted.subscribe();
        // Small answers leave at once; a socket that cannot do that still works.
        let _ = self.tcp.set_nodelay(true);
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(place.0.clock.now().as_millis());
        let mut tcp = TcpIo::new(self.tcp, self.peer, since);
        // Boxed: a handshake's state is large, and would be kept for the life of the connection.
        let open = Box::pin(async {
            if self.proxied
                && let Err(reason) = read_proxy_header(&mut tcp, self.bounds.header).await
            {
                if let Some(metrics) = &place.0.metrics {
                    metrics.proxy_header_missing();
                }
                return Err(reason);
            }
            open(tcp, self.tls.as_deref(), self.preface, self.bounds).await
        });
        let guarded = tokio::select! {
            opened = open => match opened {
                Ok(guarded) => guarded,
                Err(reason) => return tracing::debug!(peer = %self.peer, reason, "no request came of it"),
            },
            // It has asked for nothing yet, and had its time for that.
            _ = unwanted.wait_for(|unwanted| *unwanted) => return,
        };
        let mut next = app.process_new(Box::new(guarded), &shutdown).await;
        while let Some(stream) = next {
            next = app.process_new(stream, &shutdown).await;
        }
    }
}

/// What a proxy in front of us says comes first, before TLS too.
async fn read_proxy_header(tcp: &mut TcpIo, limit: Duration) -> Result<(), String> {
    let read = tokio::time::timeout(limit, tcp.read_proxy_header()).await;
    read.map_err(|_| "the PROXY header took too long".to_owned())?.map_err(|error| error.to_string())
}

/// Finds out what the client speaks: TLS or not, and on a plain listener that takes both, HTTP/1 or 2.
async fn open(
    mut tcp: TcpIo,
    tls: Option<&Acceptor>,
    takes_preface: bool,
    bounds: Arc<Bounds>,
) -> Result<Guarded, String> {
    let mut preface = false;
    let mut deadline = Instant::now() + bounds.header;
    let stream: Stream = if let Some(acceptor) = tls {
        let shaken = tokio::time::timeout(TLS_HANDSHAKE, acceptor.tls_handshake(tcp)).await;
        let stream = shaken
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|error| error.to_string())?;
        deadline = Instant::now() + bounds.header;
        Box::new(stream)
    } else {
        if takes_preface {
            let looked = tokio::time::timeout_at(deadline, tcp.begins_with_preface()).await;
            preface = looked
                .map_err(|_| "the first bytes took too long".to_owned())?
                .map_err(|error| error.to_string())?;
        }
        Box::new(tcp)
    };
    Ok(Guarded::new(stream, preface, deadline, bounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_an_error_at_once_and_names_the_address() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Listener::bind_plain(address, &mut Inherited::default()).err().unwrap();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }
}
