//! Client listeners: bound before anything starts, one permit per connection, drained on shutdown.
//!
//! The accept loop is ours and not Pingora's server: a failed bind is an error at once, a connection is
//! counted before its TLS handshake, and shutdown ends as soon as the last connection does.

use super::guard::{Bounds, Guarded};
use super::settings::{Limits, ListenerSettings};
use super::tcp::TcpIo;
use crate::clock::Clock;
use crate::metrics::Metrics;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::Stream;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
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
        source: std::io::Error,
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
}

/// A bound listener that accepts nothing yet.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Acceptor>>,
    /// HTTP/2 by prior knowledge; on TLS it is agreed upon by ALPN.
    preface: bool,
}

impl Listener {
    /// Binds `settings.address` and prepares its TLS side. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the address or the file.
    pub fn bind(settings: &ListenerSettings) -> Result<Self, ListenError> {
        let tls =
            settings.tls.as_ref().map(|files| super::tls::acceptor(files, settings.http2)).transpose()?;
        Ok(Self { socket: bind(settings.address)?, tls: tls.map(Arc::new), preface: settings.http2 })
    }

    /// Binds a plain listener, for the admin side. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the address.
    pub fn bind_plain(address: SocketAddr) -> Result<Self, ListenError> {
        Ok(Self { socket: bind(address)?, tls: None, preface: false })
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let attempt = || {
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
    permits: Arc<Semaphore>,
    total: u32,
    bounds: Arc<Bounds>,
    clock: Arc<dyn Clock>,
}

impl Connections {
    /// At most `limits.connections` at one time, with the deadlines of `limits`. With `metrics` they are
    /// counted.
    pub fn new(limits: &Limits, clock: Arc<dyn Clock>, metrics: Option<Metrics>) -> Self {
        let total = u32::try_from(limits.connections).unwrap_or(u32::MAX);
        let bounds = Bounds {
            header: limits.header_timeout,
            idle: limits.idle_timeout,
            write: limits.body_timeout,
            header_bytes: limits.header_bytes,
            header_fields: limits.header_fields,
            metrics,
        };
        Self { permits: Arc::new(Semaphore::new(total as usize)), total, bounds: Arc::new(bounds), clock }
    }

    /// Waits until no connection is left.
    pub async fn drained(&self) {
        // Fails only when the semaphore is closed, which nothing does.
        let _ = self.permits.acquire_many(self.total).await;
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        (self.total as usize).saturating_sub(self.permits.available_permits())
    }
}

/// Accepts until `shutdown` turns true, then closes the socket and returns; connections go on by
/// themselves and end with their requests.
pub async fn serve<A>(
    listener: Listener,
    app: Arc<A>,
    connections: Arc<Connections>,
    mut shutdown: watch::Receiver<bool>,
) where
    A: ServerApp + Send + Sync + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            // An error means that the sender is gone: the process is ending.
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections.permits).try_acquire_owned() else {
            if let Some(metrics) = &connections.bounds.metrics {
                metrics.connection_refused();
            }
            continue;
        };
        let connection = Connection {
            tcp,
            peer,
            tls: listener.tls.clone(),
            shared: Arc::clone(&connections),
            preface: listener.preface,
            _permit: permit,
        };
        tokio::spawn(connection.run(Arc::clone(&app), shutdown.clone()));
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
    shared: Arc<Connections>,
    preface: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run<A>(self, app: Arc<A>, mut shutdown: watch::Receiver<bool>)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let _counted = self.shared.bounds.metrics.clone().map(Counted::new);
        // Small answers leave at once; a socket that cannot do that still works.
        let _ = self.tcp.set_nodelay(true);
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(self.shared.clock.now().as_millis());
        let tcp = TcpIo::new(self.tcp, self.peer, since);
        let bounds = Arc::clone(&self.shared.bounds);
        let open = open(tcp, self.tls.as_deref(), self.preface, bounds);
        let guarded = tokio::select! {
            opened = open => match opened {
                Ok(guarded) => guarded,
                Err(reason) => return tracing::debug!(peer = %self.peer, reason, "no request came of it"),
            },
            // It has asked for nothing yet, so nothing is lost.
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let mut next = app.process_new(Box::new(guarded), &shutdown).await;
        while let Some(stream) = next {
            next = app.process_new(stream, &shutdown).await;
        }
    }
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

/// Keeps the gauge right however the connection ends, a panic included.
struct Counted(Metrics);

impl Counted {
    fn new(metrics: Metrics) -> Self {
        metrics.connection_opened();
        Self(metrics)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_an_error_at_once_and_names_the_address() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Listener::bind_plain(address).err().unwrap();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }
}
