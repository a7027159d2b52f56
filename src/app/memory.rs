//! Memory that is not needed any more goes back to the system.

use std::hint::black_box;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);

/// So large that the allocator keeps no place for it, and has to look at what it holds when it is freed.
const BLOCK: usize = 1024 * 1024;

/// The allocator gives memory back in passing, when something is freed a second or more after the memory was. A crowd of
/// clients that leaves may be the last to free anything for long, so that a block is freed here every second. Nothing is
/// ever written to it: it takes an address, but no memory.
pub(super) async fn give_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        drop(black_box(Vec::<u8>::with_capacity(BLOCK)));
    }
}
