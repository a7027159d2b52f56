//! Many clients that are slow or want nothing: they are held to their limits, and cost the others nothing.

use crate::support::load::{Load, Tally};
use crate::support::measure::{Times, scale};
use crate::support::script::Script;
use crate::support::{Config, Connection, Gateway, Reply, Upstream, eventually, get};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

const SOON: Duration = Duration::from_secs(20);

/// Clients per source address, so that their ports are enough for any number.
const PER_ADDRESS: usize = 5000;

/// Lets this process have this many descriptors, but not all it could: a gateway has to ask for those itself.
fn allow_descriptors(count: usize) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(count.max(8000) as u64);
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
        .unwrap_or_else(|why| panic!("{count} descriptors: {why}; raise `ulimit -Hn`"));
}

/// A connection of the client with this number.
fn connect(number: usize, address: &str) -> TcpStream {
    let last = u8::try_from(1 + number / PER_ADDRESS).expect("few addresses");
    let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let address = address.parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(source)?;
        socket.connect(address).await?.into_std()
    });
    stream.unwrap_or_else(|why| panic!("client {number}: {why}"))
}

/// Memory of a process, in KiB.
fn resident(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process())).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// How many descriptors a process has open.
fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.process())).expect("a process").count()
}

/// A client that has sent less than it announced.
struct Slow {
    stream: TcpStream,
    /// Sends a byte now and then, until the deadline.
    drips: bool,
    gone: Option<Duration>,
}

impl Slow {
    /// Reads whatever there is; notes when the connection has ended.
    fn look(&mut self, began: Instant) {
        let mut read = [0; 512];
        loop {
            match self.stream.read(&mut read) {
                Ok(1..) => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => {
                    self.gone = Some(began.elapsed());
                    return;
                }
            }
        }
    }
}

/// What waits at upstreams for another request takes descriptors that clients need.
#[test]
fn what_a_crowd_leaves_at_several_upstreams_is_bounded_for_all_of_them_together() {
    const CROWD: u16 = 200;
    // With one thread, and then those that each may have in any case.
    const KEPT: usize = 128 + 2 * 16;
    let upstreams = [(); 3].map(|()| {
        // Nobody is answered before all have asked, so that each has a connection of its own.
        let all_here = Barrier::new(CROWD.into());
        Upstream::answering(move |received| {
            if received.target().ends_with("/meet") {
                all_here.wait();
            }
            Reply::ok("here")
        })
    });
    let config = ["a", "b", "c"].iter().zip(&upstreams).fold(
        Config::new().server("threads", "1"),
        |config, (name, upstream)| {
            config.upstream(name, &[upstream]).route(&format!(
                "{{ name: {name}, match: {{ path: /{name}/** }}, upstream: {name}, auth: public }}"
            ))
        },
    );
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    let mut clients: Vec<_> = (0..CROWD).map(|_| Connection::open(&address).unwrap()).collect();
    clients[0].exchange(&get("/nowhere")).unwrap().expect(404);
    assert!(gateway.metric_becomes("portcullis_connections", &[], CROWD.into()));
    let before = descriptors(&gateway);
    for name in ["a", "b", "c"] {
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(move || client.exchange(&get(&format!("/{name}/meet"))).unwrap().expect(200));
            }
        });
    }
    let waiting = || descriptors(&gateway).saturating_sub(before);
    assert!(eventually(SOON, || waiting() <= KEPT), "{} more than before", waiting());
    assert!(waiting() > 128, "{} more than before", waiting());
    // They are used, at each upstream.
    let opened = || upstreams.each_ref().map(Upstream::connections);
    let before = opened();
    assert_eq!(before, [usize::from(CROWD); 3]);
    for name in ["a", "b", "c"].repeat(20) {
        clients[0].exchange(&get(&format!("/{name}/1"))).unwrap().expect(200);
    }
    assert_eq!(opened(), before);
}

fn served(address: &str, duration: Duration) -> Tally {
    let address = address.to_owned();
    let load = Load::start(4, move || Connection::open(&address), 0, "127.0.0.1:1");
    std::thread::sleep(duration);
    load.stop()
}

/// `PORTCULLIS_SOAK_SLOW` is how many of each kind there are; with it they are held for a minute.
#[test]
fn slow_clients_are_gone_at_their_deadline_and_cost_the_others_nothing() {
    let count = usize::try_from(scale("PORTCULLIS_SOAK_SLOW", 200)).unwrap();
    let whole = std::env::var("PORTCULLIS_SOAK_SLOW").is_ok();
    let deadline = Duration::from_secs(if whole { 60 } else { 4 });
    allow_descriptors(6 * count + 1000);
    let upstream = Upstream::start();
    let limits =
        format!("{{ header_timeout: {deadline:?}, body_timeout: {deadline:?}, connections: 20000 }}");
    let config = Config::public(&upstream).server("limits", &limits);
    // The upstream waits for the bodies too, and is given more time than the clients.
    let config = config.upstream_with("app", &[&upstream], ", timeouts: { read: 5m }");
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    let quiet = served(&address, deadline / 3);
    let before = resident(&gateway);

    let began = Instant::now();
    let mut slow: Vec<_> = (0..2 * count)
        .map(|number| {
            let mut stream = connect(number, &address);
            let drips = number % 2 == 0;
            let rest = if drips { "X-Slow: " } else { "Content-Length: 1000\r\n\r\nsome" };
            stream.write_all(format!("POST /x HTTP/1.1\r\nHost: x\r\n{rest}").as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            Slow { stream, drips, gone: None }
        })
        .collect();
    let opened = began.elapsed();
    let (busy, held) = std::thread::scope(|scope| {
        let others = scope.spawn(|| served(&address, deadline / 2));
        let mut held = 0;
        let until = Instant::now() + deadline + SOON;
        let mut dripped = Instant::now();
        while slow.iter().any(|client| client.gone.is_none()) && Instant::now() < until {
            let drip = dripped.elapsed() > deadline / 20;
            if drip {
                dripped = Instant::now();
                held = held.max(resident(&gateway));
            }
            for client in slow.iter_mut().filter(|client| client.gone.is_none()) {
                if drip && client.drips {
                    // It may be gone by now, which is seen next.
                    let _ = client.stream.write(b"x");
                }
                client.look(began);
            }
            // To look at all of them costs the machine something too.
            std::thread::sleep(deadline / 100);
        }
        (others.join().unwrap(), held)
    });
    let left = slow.iter().filter(|client| client.gone.is_none()).count();
    let gone = Times::new(slow.iter().filter_map(|client| client.gone).collect());
    let (idle, loaded) = (Times::new(quiet.times.clone()), Times::new(busy.times.clone()));
    println!("{} slow clients, {left} left; opened within {opened:.1?}, gone after {gone}", slow.len());
    println!("others: alone {idle}; beside them {loaded}");
    println!("memory: {before} KiB before, {held} KiB with all of them, {} KiB after", resident(&gateway));
    assert_eq!([quiet.failures, busy.failures], [Vec::<String>::new(), Vec::new()]);
    assert_eq!(left, 0, "some slow clients are still there");
    assert!(gone.percentile(0) + Duration::from_millis(100) >= deadline, "some went before their deadline");
    // Those that were opened last have their deadline last.
    assert!(gone.percentile(100) < opened + deadline + SOON / 2, "some stayed after their deadline");
    assert!(held.saturating_sub(before) < 64 * 1024 + 2 * count * 128, "too much memory for slow clients");
    if whole {
        let most = 2 * idle.percentile(99) + Duration::from_millis(2);
        assert!(loaded.percentile(99) <= most, "the others wait for the slow ones");
    }
    assert!(gateway.metric_becomes("portcullis_connections", &[], 0.0));
}

/// `PORTCULLIS_SOAK_IDLE` is how many there are. The gateway needs some thirty descriptors more than that; of the
/// clients, those beyond the first few thousand are held by other processes, which have descriptors of their own.
#[test]
fn idle_connections_cost_little_and_the_one_above_the_limit_is_refused() {
    let count = usize::try_from(scale("PORTCULLIS_SOAK_IDLE", 1000)).unwrap();
    let here = count.min(2 * PER_ADDRESS);
    allow_descriptors(here + 1000);
    let upstream = Upstream::start();
    let limits = format!("{{ connections: {count}, idle_timeout: 10m }}");
    // Of several threads, each gives back only with its next requests what others have freed of it.
    let config = Config::public(&upstream).server("threads", "1").server("limits", &limits);
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    // It asks for all the descriptors it may have.
    let allowed = std::fs::read_to_string(format!("/proc/{}/limits", gateway.process())).unwrap();
    let files: Vec<_> = allowed.lines().filter(|line| line.starts_with("Max open files")).collect();
    let files: Vec<_> = files[0].split_whitespace().skip(3).take(2).collect();
    assert_eq!(files[0], files[1], "{allowed}");
    get("/warm").send(&address).expect(200);
    assert!(gateway.metric_becomes("portcullis_connections", &[], 0.0));
    let before = resident(&gateway);
    let mut idle: Vec<_> = (0..here)
        .map(|number| {
            let stream = connect(number, &address);
            stream.set_nonblocking(false).unwrap();
            let mut connection = Connection::over(Box::new(stream), "x");
            connection.exchange(&get("/x")).unwrap().expect(200);
            connection
        })
        .collect();
    let mut elsewhere: Vec<_> = (here..count)
        .step_by(PER_ADDRESS)
        .map(|first| {
            let (source, some) =
                (format!("127.0.1.{}", 1 + first / PER_ADDRESS), PER_ADDRESS.min(count - first));
            Script::start("idle_crowd.py", &[&address, &source, &some.to_string()])
        })
        .collect();
    for crowd in &mut elsewhere {
        assert_eq!(crowd.line(), "all are here");
    }
    let with = resident(&gateway);
    println!("{count} idle connections: {before} KiB before, {with} KiB with them,");
    println!("{} bytes each", with.saturating_sub(before) * 1024 / count);
    assert!(with.saturating_sub(before) < 16 * 1024 + count * 64, "too much memory for idle connections");
    assert!(gateway.metrics().contains(&format!("\nportcullis_connections {count}\n")));

    let mut above = Connection::open(&address).unwrap();
    let answer = above.exchange(&get("/x"));
    assert!(answer.is_err(), "one above the limit was served: {answer:?}");
    let refused = || gateway.metric("portcullis_connections_refused_total", &[]) > 0.5;
    assert!(eventually(SOON, refused), "nobody counted it");
    for connection in idle.iter_mut().step_by(here / 20) {
        connection.exchange(&get("/x")).unwrap().expect(200);
    }
    idle.truncate(here / 2);
    assert!(eventually(SOON, || get("/x").try_send(&address).is_ok_and(|answer| answer.status == 200)));
    drop((idle, elsewhere));
    assert!(gateway.metric_becomes("portcullis_connections", &[], 0.0));
    let is_back = || resident(&gateway) < before + (with - before) / 4;
    assert!(eventually(SOON, is_back), "{before} KiB before, {with} with them, {} after", resident(&gateway));
}
