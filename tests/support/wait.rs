//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::thread;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

/// Whether `condition` became true before `deadline` had passed.
pub(crate) fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    wait_for(deadline, || condition().then_some(())).is_some()
}

/// The first value `probe` gives before `deadline` has passed.
pub(crate) fn wait_for<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep(STEP);
    }
}

/// Lets real time pass, where the passing of a configured duration is itself what is tested.
pub(crate) fn let_pass(duration: Duration) {
    thread::sleep(duration);
}
