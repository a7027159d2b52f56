//! A balancer in front of gateways: each connection to one that says it is ready, in turn.

use super::client::get;
use super::gateway::Gateway;
use super::relay::pump;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Between two looks at `/readyz`.
const LOOK: Duration = Duration::from_millis(100);

struct Backend {
    address: String,
    admin: String,
    ready: AtomicBool,
}

struct Shared {
    backends: Vec<Backend>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

/// The balancer; it ends with the value.
pub(crate) struct Balancer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Balancer {
    pub(crate) fn over(gateways: &[Gateway]) -> Self {
        let backend = |gateway: &Gateway| Backend {
            address: gateway.address(),
            admin: gateway.admin(),
            ready: AtomicBool::new(true),
        };
        let backends = gateways.iter().map(backend).collect();
        let shared =
            Arc::new(Shared { backends, next: AtomicUsize::new(0), stopped: AtomicBool::new(false) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let looking = Arc::clone(&shared);
        thread::spawn(move || {
            while !looking.stopped.load(Ordering::SeqCst) {
                for backend in &looking.backends {
                    let answer = get("/readyz").try_send(&backend.admin);
                    backend.ready.store(answer.is_ok_and(|answer| answer.status == 200), Ordering::SeqCst);
                }
                thread::sleep(LOOK);
            }
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Some(server) = accepting.connect() else { continue };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pump(client, server, || {}));
                thread::spawn(move || pump(server_too, client_too, || {}));
            }
        });
        Self { address, shared }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether it sends connections to the gateway with this admin address.
    pub(crate) fn uses(&self, admin: &str) -> bool {
        let mut backends = self.shared.backends.iter();
        backends.any(|backend| backend.admin == admin && backend.ready.load(Ordering::SeqCst))
    }
}

impl Shared {
    fn connect(&self) -> Option<TcpStream> {
        let first = self.next.fetch_add(1, Ordering::SeqCst);
        let count = self.backends.len();
        let in_turn = (first..first + count).filter_map(|at| self.backends.get(at % count));
        let mut ready = in_turn.filter(|backend| backend.ready.load(Ordering::SeqCst));
        let stream = ready.find_map(|backend| TcpStream::connect(&backend.address).ok())?;
        stream.set_nodelay(true).ok()?;
        Some(stream)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}
