//! Steady load over kept-alive connections, with a strict rule for what counts as a failed request.
//!
//! A request fails if it gets anything but a whole answer with the status 200. Nothing is tried again. A connection
//! may end only after that was announced, by `Connection: close` or GOAWAY; the client then opens another, and a
//! refused connection is a failure too. There is one exception, which every client has to know of (RFC 9112
//! section 9.5): an HTTP/1 connection that was idle for longer than [`IDLE`] may be closed without a word. Those
//! are counted apart.

use super::client::{Connection, get};
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than the half second for which a gateway that stops still takes requests on idle connections.
const IDLE: Duration = Duration::from_millis(400);
/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);
/// A client goes on with a new HTTP/1 connection after this many requests, so that some are always made.
const USES: usize = 50;
const PATIENCE: Duration = Duration::from_secs(20);

type Connect = dyn Fn() -> io::Result<Connection> + Send + Sync;

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: usize,
    /// Connections whose end was announced.
    pub(crate) announced: usize,
    /// Requests that met the unannounced end of a connection that was idle for long.
    pub(crate) late: usize,
    pub(crate) failures: Vec<String>,
    /// When the last answer was there.
    pub(crate) last: Option<Instant>,
    /// How long the answers took.
    pub(crate) times: Vec<Duration>,
}

impl Tally {
    fn add(mut self, other: Self) -> Self {
        self.answered += other.answered;
        self.announced += other.announced;
        self.late += other.late;
        self.failures.extend(other.failures);
        self.last = self.last.max(other.last);
        self.times.extend(other.times);
        self
    }

    fn answer(&mut self, sent: Instant) {
        self.answered += 1;
        self.last = Some(Instant::now());
        self.times.push(sent.elapsed());
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { answered, announced, late, failures, .. } = self;
        let failed = failures.len();
        write!(f, "{answered} answered, {failed} failed; {announced} closes announced, {late} late")
    }
}

#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    /// No further connections.
    stay: AtomicBool,
    /// Clients that know it.
    staying: AtomicUsize,
    answered: AtomicUsize,
}

impl Orders {
    /// Asked before every request: `false` once the client is to end.
    fn go_on(&self, connected: bool, knows: &mut bool) -> bool {
        if self.stay.load(Ordering::SeqCst) && !std::mem::replace(knows, true) {
            self.staying.fetch_add(1, Ordering::SeqCst);
        }
        !self.stop.load(Ordering::SeqCst) && (connected || !*knows)
    }
}

/// The load; it ends with [`Self::stop`].
pub(crate) struct Load {
    orders: Arc<Orders>,
    clients: usize,
    threads: Vec<thread::JoinHandle<Tally>>,
}

impl Load {
    /// From this many connections of each kind, each sending its next request right after an answer. HTTP/2 is
    /// over cleartext to `address`.
    pub(crate) fn start(
        http1: usize,
        connect: impl Fn() -> io::Result<Connection> + Send + Sync + 'static,
        http2: usize,
        address: &str,
    ) -> Self {
        let orders = Arc::<Orders>::default();
        let connect: Arc<Connect> = Arc::new(connect);
        let mut threads: Vec<_> = (0..http1)
            .map(|_| {
                let (orders, connect) = (Arc::clone(&orders), Arc::clone(&connect));
                thread::spawn(move || over_http1(&orders, &*connect))
            })
            .collect();
        if http2 > 0 {
            let (orders, address) = (Arc::clone(&orders), address.parse().expect("an address"));
            threads.push(thread::spawn(move || over_http2(&orders, http2, address)));
        }
        Self { orders, clients: http1 + http2, threads }
    }

    /// Waits until this many further requests were answered.
    #[track_caller]
    pub(crate) fn answers(&self, more: usize) {
        let wanted = self.orders.answered.load(Ordering::SeqCst) + more;
        let enough = || self.orders.answered.load(Ordering::SeqCst) >= wanted;
        assert!(super::eventually(PATIENCE, enough), "nothing is answered any more");
    }

    /// From here on nobody opens another connection: a client ends with the one it has.
    #[track_caller]
    pub(crate) fn open_no_more(&self) {
        self.orders.stay.store(true, Ordering::SeqCst);
        let all = || self.orders.staying.load(Ordering::SeqCst) >= self.clients;
        assert!(super::eventually(PATIENCE, all), "some clients hang");
    }

    /// Whether every client has ended by itself.
    pub(crate) fn is_over(&self) -> bool {
        self.threads.iter().all(thread::JoinHandle::is_finished)
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Tally {
        self.orders.stop.store(true, Ordering::SeqCst);
        let tallies = self.threads.into_iter().map(|thread| thread.join().expect("a client"));
        tallies.fold(Tally::default(), Tally::add)
    }
}

fn over_http1(orders: &Orders, connect: &Connect) -> Tally {
    let (mut tally, mut knows) = (Tally::default(), false);
    let mut kept: Option<(Connection, Instant)> = None;
    let mut used = 0;
    while orders.go_on(kept.is_some(), &mut knows) {
        let (mut connection, before) = match kept.take() {
            Some((connection, before)) => (connection, Some(before)),
            None => match connect() {
                Ok(connection) => (connection, None),
                Err(why) => {
                    tally.failures.push(format!("no connection: {why}"));
                    thread::sleep(PAUSE);
                    continue;
                }
            },
        };
        let sent = Instant::now();
        match connection.exchange(&get("/x")) {
            Ok(response) if response.status == 200 => {
                tally.answer(sent);
                orders.answered.fetch_add(1, Ordering::SeqCst);
                used += 1;
                if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                    tally.announced += 1;
                } else if used % USES != 0 || knows {
                    kept = Some((connection, sent));
                }
            }
            Ok(response) => tally.failures.push(format!("{}: {}", response.status, response.text())),
            // The time from before the last request was sent, which is before the gateway knew it answered.
            Err(_) if before.is_some_and(|before| before + IDLE < sent) && connection.is_blank() => {
                tally.late += 1;
            }
            Err(why) => {
                let which = if before.is_some() { "a kept connection" } else { "a fresh connection" };
                tally.failures.push(format!("no answer on {which}: {why}"));
            }
        }
        thread::sleep(PAUSE);
    }
    tally
}

fn over_http2(orders: &Arc<Orders>, clients: usize, address: SocketAddr) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let clients: Vec<_> =
            (0..clients).map(|_| tokio::spawn(one_over_http2(Arc::clone(orders), address))).collect();
        let mut all = Tally::default();
        for client in clients {
            all = all.add(client.await.expect("a client"));
        }
        all
    })
}

/// How a request over HTTP/2 ended that was not answered.
enum Unanswered {
    /// It was never sent: the connection's end had been announced.
    Announced,
    Failed(String),
}

async fn one_over_http2(orders: Arc<Orders>, address: SocketAddr) -> Tally {
    let (mut tally, mut knows) = (Tally::default(), false);
    let mut kept = None;
    while orders.go_on(kept.is_some(), &mut knows) {
        let sender = match kept.take() {
            Some(sender) => sender,
            None => match connect_http2(address).await {
                Ok(sender) => sender,
                Err(why) => {
                    tally.failures.push(format!("no connection: {why}"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let sent = Instant::now();
        let answered = tokio::time::timeout(PATIENCE, ask(sender, address)).await;
        match answered.unwrap_or_else(|_| Err(Unanswered::Failed("no answer in time".into()))) {
            Ok(sender) => {
                tally.answer(sent);
                orders.answered.fetch_add(1, Ordering::SeqCst);
                kept = Some(sender);
            }
            Err(Unanswered::Announced) => tally.announced += 1,
            Err(Unanswered::Failed(why)) => tally.failures.push(format!("HTTP/2: {why}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tally
}

type Sender = h2::client::SendRequest<Bytes>;

async fn connect_http2(address: SocketAddr) -> Result<Sender, Box<dyn std::error::Error + Send + Sync>> {
    let tcp = tokio::net::TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(tcp).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(sender: Sender, address: SocketAddr) -> Result<Sender, Unanswered> {
    let failed = |why: h2::Error| Unanswered::Failed(why.to_string());
    let going = |why: h2::Error| {
        let announced = why.is_go_away() && why.reason() == Some(h2::Reason::NO_ERROR);
        if announced { Unanswered::Announced } else { failed(why) }
    };
    let mut sender = sender.ready().await.map_err(going)?;
    let request = http::Request::get(format!("http://{address}/x")).body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).map_err(going)?;
    let response = response.await.map_err(failed)?;
    let status = response.status();
    let mut body = response.into_body();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(failed)?;
        let _ = body.flow_control().release_capacity(piece.len());
    }
    if status == 200 { Ok(sender) } else { Err(Unanswered::Failed(status.to_string())) }
}
