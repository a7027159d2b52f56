//! Connections to a target that have served a request and wait for another: those of the direct way. The engine keeps
//! its own.

use super::Target;
use crate::panics::{Place, keep_up};
use futures_util::FutureExt as _;
use pingora_core::protocols::Stream;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::task::coop::unconstrained;

/// So many may wait at each target, however many wait at others.
const LEAST: usize = 16;

/// How often those that wait are looked through. None is used that has waited for too long: this says only when it is
/// closed.
const SWEEP: Duration = Duration::from_secs(1);

/// How many connections may wait at all targets of a gateway together: each takes a descriptor.
pub(in super::super) struct Room {
    most: usize,
    /// Each that waits holds another of it.
    taken: Arc<()>,
}

impl Room {
    pub(in super::super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::new(()) }
    }

    fn is_full(&self) -> bool {
        Arc::strong_count(&self.taken) > self.most
    }
}

/// The connections that wait at one target. The last that came is the first that goes, so that what a burst leaves
/// grows old and ends.
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
    _place: Arc<()>,
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
        let mut waiting = self.lock();
        let ended: Vec<_> =
            waiting.connections.extract_if(.., |connection| !connection.is_good(now)).collect();
        waiting.swept = !waiting.connections.is_empty();
        let swept = waiting.swept;
        drop(waiting);
        // Closed once the others can be had again.
        drop(ended);
        swept
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

    /// Has a connection wait for its next request, for at most `limit`, if there is room. It must have served the
    /// last one to its end.
    pub(in super::super) fn keep_idle(self: &Arc<Self>, mut stream: Stream, limit: Duration, room: &Room) {
        if !is_silent(&mut stream) {
            return;
        }
        let until = Instant::now() + limit;
        let mut waiting = self.idle.lock();
        if waiting.connections.len() >= LEAST && room.is_full() {
            return;
        }
        waiting.connections.push(Connection { stream, until, _place: Arc::clone(&room.taken) });
        let swept = std::mem::replace(&mut waiting.swept, true);
        drop(waiting);
        if !swept {
            let target = Arc::downgrade(self);
            tokio::spawn(keep_up(Place::UpstreamConnections, target, |target| Box::pin(keep_swept(target))));
        }
    }
}

/// Looks through what waits at a target until nothing does.
async fn keep_swept(target: &Weak<Target>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if !target.upgrade().is_some_and(|target| target.idle.sweep()) {
            return;
        }
    }
}

/// Whether the other side says nothing. Between two requests it has nothing to say: whatever comes, be it the end of
/// the connection, what comes next would be taken for the answer to another request.
fn is_silent(stream: &mut Stream) -> bool {
    let said = unconstrained(stream.read(&mut [0])).now_or_never();
    if matches!(said, Some(Ok(1..))) {
        tracing::warn!("an upstream said something that nobody asked for; its connection is closed");
    }
    said.is_none()
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
        room: Room,
    }

    impl Rig {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let target =
                Target { address, endpoint: 0, name: 0, health: Health::new(), idle: Idle::default() };
            Self { target: Arc::new(target), listener, room: Room::new(100) }
        }

        /// A connection, from here and from there.
        async fn connection(&self) -> (Stream, TcpStream) {
            let (near, far) = tokio::join!(TcpStream::connect(self.target.address), self.listener.accept());
            (Box::new(Tcp::from(near.unwrap())), far.unwrap().0)
        }

        fn keep(&self, stream: Stream, limit: Duration) {
            self.target.keep_idle(stream, limit, &self.room);
        }

        fn waiting(&self) -> usize {
            self.target.idle.lock().connections.len()
        }

        /// Takes connections and gives them back until none can be used.
        async fn until_none(&self) {
            let gone = async {
                while let Some(stream) = self.target.take_idle(Instant::now()) {
                    self.keep(stream, LONG);
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
        rig.keep(one, LONG);
        rig.keep(other, LONG);
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
        rig.keep(near, LONG);
        drop(far);
        rig.until_none().await;
        let (near, mut far) = rig.connection().await;
        rig.keep(near, LONG);
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        rig.until_none().await;
        assert_eq!(rig.waiting(), 0);
    }

    #[tokio::test]
    async fn one_that_has_waited_for_too_long_is_not_used_and_is_closed() {
        let rig = Rig::new().await;
        let (near, far) = rig.connection().await;
        rig.keep(near, LONG);
        assert!(rig.target.take_idle(Instant::now() + LONG).is_none());
        drop(far);
        let (near, mut far) = rig.connection().await;
        let (longer, mut far_longer) = rig.connection().await;
        rig.keep(near, Duration::from_millis(1));
        rig.keep(longer, LONG);
        // Nobody asks for it: it is closed all the same.
        let end = tokio::time::timeout(Duration::from_secs(20), far.read(&mut [0])).await;
        assert_eq!(end.unwrap().unwrap(), 0);
        assert_eq!(rig.waiting(), 1);
        assert!(rig.target.idle.lock().swept);
        // Nor does it outlive its target.
        drop(rig.target);
        assert_eq!(far_longer.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn all_targets_share_the_room_and_each_has_a_little_of_its_own() {
        let (rig, other) = (Rig::new().await, Rig::new().await);
        let room = Room::new(LEAST + 2);
        let mut far = Vec::new();
        for (target, kept) in [(&rig, LEAST + 2), (&other, LEAST)] {
            for _ in 0..LEAST + 4 {
                let (near, end) = target.connection().await;
                target.target.keep_idle(near, LONG, &room);
                far.push(end);
            }
            assert_eq!(target.waiting(), kept);
        }
        // What is in use, or closed, takes none.
        for _ in 0..=LEAST {
            drop(rig.target.take_idle(Instant::now()).unwrap());
        }
        let (near, _far) = other.connection().await;
        other.target.keep_idle(near, LONG, &room);
        assert_eq!(other.waiting(), LEAST + 1);
    }
}
