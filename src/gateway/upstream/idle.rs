//! Connections to a target that have served a request and wait for another: those of the direct way. The engine keeps
//! its own.

use super::Target;
use crate::panics::{Place, keep_up};
use futures_util::FutureExt as _;
use pingora_core::protocols::Stream;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::task::coop::unconstrained;

/// So many may wait at each target, however many wait at others.
const LEAST: usize = 16;

/// How often those that wait are looked through. None is used that has waited for too long: this says only when it is
/// closed.
const SWEEP: Duration = Duration::from_secs(1);

/// That a target says what nobody asked for is told once in so long.
const TOLD: Duration = Duration::from_secs(60);

/// How many connections may wait at all targets of a gateway together: each takes a descriptor, and holds one of these.
#[derive(Clone)]
pub(in super::super) struct Room(Arc<Places>);

struct Places {
    most: usize,
    /// How many connections found no room, ever.
    refused: AtomicUsize,
}

impl Room {
    pub(in super::super) fn new(most: usize) -> Self {
        Self(Arc::new(Places { most, refused: AtomicUsize::new(0) }))
    }

    fn is_full(&self) -> bool {
        Arc::strong_count(&self.0) > self.0.most
    }

    fn refused(&self) -> usize {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// The connections that wait at one target. The last that came is the first that goes, so that what a burst leaves
/// grows old and ends.
#[derive(Default)]
pub(super) struct Idle(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    connections: Vec<Connection>,
    /// The fewest that waited since they were last looked through: so many of the oldest nobody needed.
    spare: usize,
    /// How many had found no room at all targets when these were last looked through, and how many at this one since.
    refused: usize,
    refused_here: usize,
    /// When it was last told that the target says what nobody asked for.
    told: Option<Instant>,
    /// Whether somebody looks through them.
    swept: bool,
}

struct Connection {
    stream: Stream,
    /// From then on it is not used.
    until: Instant,
    room: Room,
}

impl Waiting {
    /// Takes out the last that came.
    fn take(&mut self) -> Option<Connection> {
        let connection = self.connections.pop();
        self.spare = self.spare.min(self.connections.len());
        connection
    }

    /// Takes out as many of the oldest that nobody needed as found no room at other targets.
    fn give_up(&mut self) -> impl Iterator<Item = Connection> {
        let refused = self.connections.first().map_or(0, |connection| connection.room.refused());
        let elsewhere = refused.saturating_sub(self.refused).saturating_sub(self.refused_here);
        (self.refused, self.refused_here) = (refused, 0);
        let given = elsewhere.min(self.spare).min(self.connections.len().saturating_sub(LEAST));
        self.connections.drain(..given)
    }
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            let mut connection = self.idle.lock().take()?;
            if now < connection.until && self.is_silent(&mut connection.stream) {
                return Some(connection.stream);
            }
        }
    }

    /// Has a connection wait for its next request, for at most `limit`, if there is room. It must have served the
    /// last one to its end.
    pub(in super::super) fn keep_idle(self: &Arc<Self>, mut stream: Stream, limit: Duration, room: &Room) {
        if !self.is_silent(&mut stream) {
            return;
        }
        let until = Instant::now() + limit;
        let mut waiting = self.idle.lock();
        if waiting.connections.len() >= LEAST && room.is_full() {
            room.0.refused.fetch_add(1, Ordering::Relaxed);
            waiting.refused_here += 1;
            return;
        }
        waiting.connections.push(Connection { stream, until, room: room.clone() });
        let swept = std::mem::replace(&mut waiting.swept, true);
        if !swept {
            // What found no room before is not missed any more.
            (waiting.refused, waiting.refused_here) = (room.refused(), 0);
        }
        drop(waiting);
        if !swept {
            let target = Arc::downgrade(self);
            tokio::spawn(keep_up(Place::UpstreamConnections, target, |target| Box::pin(keep_swept(target))));
        }
    }

    /// Closes what is not to be used any more, and what other targets have more use for; whether anything is left to look
    /// after.
    fn sweep_idle(&self) -> bool {
        let now = Instant::now();
        let mut waiting = self.idle.lock();
        let mut spoke = false;
        let is_over = |connection: &mut Connection| {
            let heard = listen(&mut connection.stream);
            spoke |= heard == Heard::Words;
            now >= connection.until || heard != Heard::Nothing
        };
        let mut ended: Vec<_> = waiting.connections.extract_if(.., is_over).collect();
        waiting.spare = waiting.spare.saturating_sub(ended.len());
        ended.extend(waiting.give_up());
        waiting.spare = waiting.connections.len();
        waiting.swept = !waiting.connections.is_empty();
        let swept = waiting.swept;
        drop(waiting);
        // Closed once the others can be had again.
        drop(ended);
        if spoke {
            self.tell(now);
        }
        swept
    }

    /// Whether the other side of a connection says nothing, as it should between two requests.
    fn is_silent(&self, stream: &mut Stream) -> bool {
        let heard = listen(stream);
        if heard == Heard::Words {
            self.tell(Instant::now());
        }
        heard == Heard::Nothing
    }

    fn tell(&self, now: Instant) {
        let mut waiting = self.idle.lock();
        if waiting.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD) {
            return;
        }
        waiting.told = Some(now);
        drop(waiting);
        tracing::warn!(
            upstream = %self.address,
            "an upstream sent what belongs to no request; the connection was closed (told once a minute)"
        );
    }
}

/// Looks through what waits at a target until nothing does.
async fn keep_swept(target: &Weak<Target>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if !target.upgrade().is_some_and(|target| target.sweep_idle()) {
            return;
        }
    }
}

/// What comes from the other side of a connection.
#[derive(PartialEq, Eq)]
enum Heard {
    Nothing,
    /// It has ended.
    End,
    /// Between two requests there is nothing to say: this would be taken for the answer to another request.
    Words,
}

fn listen(stream: &mut Stream) -> Heard {
    match unconstrained(stream.read(&mut [0])).now_or_never() {
        None => Heard::Nothing,
        Some(Ok(1..)) => Heard::Words,
        Some(_) => Heard::End,
    }
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

    /// Has so many more connections wait.
    async fn keep(at: &Rig, room: &Room, count: usize, far: &mut Vec<TcpStream>) {
        for _ in 0..count {
            let (near, end) = at.connection().await;
            at.target.keep_idle(near, LONG, room);
            far.push(end);
        }
    }

    /// Uses so many at once.
    fn used(at: &Rig, room: &Room, count: usize) {
        let used: Vec<_> = (0..count).map(|_| at.target.take_idle(Instant::now()).unwrap()).collect();
        for stream in used {
            at.target.keep_idle(stream, LONG, room);
        }
    }

    #[tokio::test]
    async fn what_nobody_needs_is_given_up_where_others_want_its_place() {
        let (rig, other) = (Rig::new().await, Rig::new().await);
        let (room, mut far) = (Room::new(3 * LEAST), Vec::new());
        keep(&rig, &room, 2 * LEAST, &mut far).await;
        // While nobody wants its place, what waits may wait on.
        for _ in 0..3 {
            assert!(rig.target.sweep_idle());
        }
        assert_eq!(rig.waiting(), 2 * LEAST);
        // As many are given up as found no room.
        keep(&other, &room, LEAST + 3, &mut far).await;
        assert_eq!(other.waiting(), LEAST);
        assert!(rig.target.sweep_idle());
        assert_eq!(rig.waiting(), 2 * LEAST - 3);
        // Nobody has wanted more since.
        assert!(rig.target.sweep_idle());
        assert_eq!(rig.waiting(), 2 * LEAST - 3);
        keep(&other, &room, 3, &mut far).await;
        assert_eq!(other.waiting(), LEAST + 3);
        // What was needed since they were last looked through stays.
        used(&rig, &room, LEAST + 5);
        keep(&other, &room, LEAST, &mut far).await;
        assert!(rig.target.sweep_idle());
        assert_eq!(rig.waiting(), LEAST + 5);
        // And so do the sixteen.
        keep(&other, &room, LEAST, &mut far).await;
        assert!(rig.target.sweep_idle());
        assert_eq!(rig.waiting(), LEAST);
        assert_eq!(other.waiting(), LEAST + 11);
    }

    #[tokio::test]
    async fn nothing_is_given_up_for_what_found_no_room_here_or_long_ago() {
        let (rig, other) = (Rig::new().await, Rig::new().await);
        let (room, mut far) = (Room::new(3 * LEAST), Vec::new());
        keep(&rig, &room, 4 * LEAST, &mut far).await;
        for _ in 0..3 {
            assert!(rig.target.sweep_idle());
            assert_eq!(rig.waiting(), 3 * LEAST);
        }
        // Nor for what found none while nothing waited here.
        while rig.target.take_idle(Instant::now()).is_some() {}
        assert!(!rig.target.sweep_idle());
        keep(&other, &room, 4 * LEAST, &mut far).await;
        while other.waiting() > LEAST {
            drop(other.target.take_idle(Instant::now()));
        }
        keep(&rig, &room, 2 * LEAST, &mut far).await;
        for _ in 0..3 {
            assert!(rig.target.sweep_idle());
            assert_eq!(rig.waiting(), 2 * LEAST);
        }
    }

    #[tokio::test]
    async fn those_that_have_ended_are_among_those_that_nobody_needed() {
        let (rig, other) = (Rig::new().await, Rig::new().await);
        let (room, mut far) = (Room::new(64), Vec::new());
        keep(&rig, &room, 64, &mut far).await;
        assert!(rig.target.sweep_idle());
        used(&rig, &room, 40);
        keep(&other, &room, 64, &mut far).await;
        // Twenty of the 24 that nobody needed end by themselves.
        for end in far.drain(..20) {
            drop(end);
        }
        let ended = async {
            let closed = |connection: &mut Connection| listen(&mut connection.stream) == Heard::End;
            while rig
                .target
                .idle
                .lock()
                .connections
                .iter_mut()
                .filter_map(|c| closed(c).then_some(()))
                .count()
                < 20
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        assert!(rig.target.sweep_idle());
        assert_eq!(rig.waiting(), 40);
    }
}
