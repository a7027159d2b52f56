//! A TCP relay in front of a server, which can let requests through and keep the answers back.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    moved: Condvar,
    stopped: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.moved.wait_while(shut, |shut| *shut).unwrap());
    }

    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.moved.notify_all();
    }
}

/// The relay; it ends with the value.
pub(crate) struct Relay {
    address: SocketAddr,
    gate: Arc<Gate>,
}

impl Relay {
    /// In front of a port of this machine.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let gate = Arc::<Gate>::default();
        let ours = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ours.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let gate = Arc::clone(&ours);
                thread::spawn(move || pump(client, server, || {}));
                thread::spawn(move || pump(server_too, client_too, || gate.pass()));
            }
        });
        Self { address, gate }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on no answer gets through; requests do.
    pub(crate) fn hold_answers(&self) {
        self.gate.set(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.gate.stopped.store(true, Ordering::SeqCst);
        self.gate.set(false);
        // Wakes the accept loop.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

/// Copies until either side ends, and then ends the other.
pub(super) fn pump(mut from: TcpStream, mut to: TcpStream, before_each: impl Fn()) {
    let mut piece = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        before_each();
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
