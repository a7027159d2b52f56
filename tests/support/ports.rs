//! Free loopback ports for processes that must be told theirs, each handed out once per test run.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

// Below the range from which the kernel takes the local ports of outgoing connections, so that nothing
// takes one between our probe and the child's bind.
const FIRST: u16 = 15_000;
const SPAN: u16 = 17_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that was free a moment ago and that no other test of this run is given.
pub(crate) fn free_port() -> u16 {
    // Runs on one machine start at different places.
    let start = u16::from(std::process::id().to_le_bytes()[0]) * 65;
    for _ in 0..SPAN {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % SPAN;
        let port = FIRST + (start + step) % SPAN;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + SPAN);
}
