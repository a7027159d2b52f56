//! Connections to a target that have served a request and wait for another: those of the direct way. The engine keeps
//! its own.

use super::Target;
use futures_util::FutureExt as _;
use pingora_core::protocols::Stream;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::task::coop::unconstrained;

/// How often those that wait are looked through. None is used that has waited for too long: this says only when it is
/// closed.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections that wait at one target: never more than were in use at one time. The last that came is the first
/// that goes, so that what a burst leaves grows old and ends.
#[derive(Default)]
pub(super) struct Idle(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    connections: Vec<Connection>,
    /// Whether somebody looks through them.
    swept: bool,
}

struct Connection {
    stream: Stream,
    /// From then on it is not used.
    until: Instant,
}

impl Connection {
    fn is_good(&mut self, now: Instant) -> bool {
        now < self.until && is_silent(&mut self.stream)
    }
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is not to be used any more; whether anything is left to look after.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        // Closed once the others can have it again.
        let ended: Vec<_> = {
            let mut waiting = self.lock();
            let ended = waiting.connections.extract_if(.., |connection| !connection.is_good(now)).collect();
            waiting.swept = !waiting.connections.is_empty();
            ended
        };
        drop(ended);
        self.lock().swept
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idle").field(&self.lock().connections.len()).finish()
    }
}

impl Target {
    /// A connection that waits, if there is one that can be used at `now`.
    pub(in super::super) fn take_idle(&self, now: Instant) -> Option<Stream> {
        loop {
            let mut connection = self.idle.lock().connections.pop()?;
            if connection.is_good(now) {
                return Some(connection.stream);
            }
        }
    }

    /// Has a connection wait for its next request, for at most `limit`. It must have served the last one to its end.
    pub(in super::super) fn keep_idle(self: &Arc<Self>, mut stream: Stream, limit: Duration) {
        if !is_silent(&mut stream) {
            return;
        }
        let until = Instant::now() + limit;
        let mut waiting = self.idle.lock();
        waiting.connections.push(Connection { stream, until });
        if !std::mem::replace(&mut waiting.swept, true) {
            let target = Arc::downgrade(self);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(SWEEP).await;
                    if !target.upgrade().is_some_and(|target| target.idle.sweep()) {
                        return;
                    }
                }
            });
        }
    }
}

/// Whether the other side says nothing. Between two requests it has nothing to say: whatever comes, be it the end of
/// the connection, what comes next would be taken for the answer to another request.
fn is_silent(stream: &mut Stream) -> bool {
    unconstrained(stream.read(&mut [0])).now_or_never().is_none()
}

#[cfg(test)]
mod tests {
    use super::super::health::Health;
    use super::*;
    use pingora_core::protocols::l4::stream::Stream as Tcp;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    const LONG: Duration = Duration::from_secs(60);

    struct Rig {
        target: Arc<Target>,
        listener: TcpListener,
    }

    impl Rig {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let target =
                Target { address, endpoint: 0, name: 0, health: Health::new(), idle: Idle::default() };
            Self { target: Arc::new(target), listener }
        }

        /// A connection, from here and from there.
        async fn connection(&self) -> (Stream, TcpStream) {
            let (near, far) = tokio::join!(TcpStream::connect(self.target.address), self.listener.accept());
            (Box::new(Tcp::from(near.unwrap())), far.unwrap().0)
        }

        fn waiting(&self) -> usize {
            self.target.idle.lock().connections.len()
        }

        /// Takes connections and gives them back until none can be used.
        async fn until_none(&self) {
            let gone = async {
                while let Some(stream) = self.target.take_idle(Instant::now()) {
                    self.target.keep_idle(stream, LONG);
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_last_that_came_is_used_next() {
        let rig = Rig::new().await;
        assert!(rig.target.take_idle(Instant::now()).is_none());
        let (one, mut far_one) = rig.connection().await;
        let (other, mut far_other) = rig.connection().await;
        rig.target.keep_idle(one, LONG);
        rig.target.keep_idle(other, LONG);
        for (far, word) in [(&mut far_other, b"b"), (&mut far_one, b"a")] {
            let mut near = rig.target.take_idle(Instant::now()).unwrap();
            near.write_all(word).await.unwrap();
            near.flush().await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), word[0]);
        }
        assert!(rig.target.take_idle(Instant::now()).is_none());
    }

    #[tokio::test]
    async fn what_was_closed_or_speaks_unasked_is_not_used() {
        let rig = Rig::new().await;
        let (near, far) = rig.connection().await;
        rig.target.keep_idle(near, LONG);
        drop(far);
        rig.until_none().await;
        let (near, mut far) = rig.connection().await;
        rig.target.keep_idle(near, LONG);
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        rig.until_none().await;
        assert_eq!(rig.waiting(), 0);
    }

    #[tokio::test]
    async fn one_that_has_waited_for_too_long_is_not_used_and_is_closed() {
        let rig = Rig::new().await;
        let (near, far) = rig.connection().await;
        rig.target.keep_idle(near, LONG);
        assert!(rig.target.take_idle(Instant::now() + LONG).is_none());
        drop(far);
        let (near, mut far) = rig.connection().await;
        let (longer, mut far_longer) = rig.connection().await;
        rig.target.keep_idle(near, Duration::from_millis(1));
        rig.target.keep_idle(longer, LONG);
        // Nobody asks for it: it is closed all the same.
        let end = tokio::time::timeout(Duration::from_secs(20), far.read(&mut [0])).await;
        assert_eq!(end.unwrap().unwrap(), 0);
        assert_eq!(rig.waiting(), 1);
        assert!(rig.target.idle.lock().swept);
        // Nor does it outlive its target.
        drop(rig.target);
        assert_eq!(far_longer.read(&mut [0]).await.unwrap(), 0);
    }
}
