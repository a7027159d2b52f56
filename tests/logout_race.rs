//! Logging out everywhere while the same users refresh and log in, on a cluster: an epoch decides, and holds.

use crate::support::person::{Tokens, call, login_as, login_request, refresh, refresh_request};
use crate::support::redis_group::Cluster;
use crate::support::site::Site;
use crate::support::token::parts;
use crate::support::{Connection, Gateway, eventually, post};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USERS: [&str; 8] = ["ann", "ben", "cem", "dan", "eva", "fay", "gus", "hal"];
/// Clients of each user, one at each gateway, and how often each refreshes or logs in.
const CLIENTS: usize = 2;
const ROUNDS: usize = 64;
const OPERATIONS: usize = USERS.len() * CLIENTS * ROUNDS;

/// What somebody was given by a login, and by the refreshes after it.
struct Session {
    asked: Instant,
    given: Instant,
    first: Tokens,
    newest: Tokens,
}

impl Session {
    /// The user's epoch when it was opened.
    fn epoch(&self) -> u64 {
        epoch(&self.first)
    }
}

fn epoch(tokens: &Tokens) -> u64 {
    parts(&tokens.access).1["uep"].as_u64().unwrap_or_else(|| panic!("no epoch in the access token"))
}

fn log_in(connection: &mut Connection, user: &str) -> Session {
    let asked = Instant::now();
    let tokens = Tokens::from_body(connection.exchange(&login_request(user)).unwrap());
    Session { asked, given: Instant::now(), first: tokens.clone(), newest: tokens }
}

/// Logs in now and then, and refreshes its sessions in turn; all of them, living and ended.
fn client(gateway: &Gateway, user: &str, done: &AtomicUsize) -> Vec<Session> {
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let (mut living, mut ended) = (vec![log_in(&mut connection, user)], Vec::new());
    for round in 0..ROUNDS {
        done.fetch_add(1, Ordering::SeqCst);
        if living.is_empty() || round % 5 == 4 {
            living.push(log_in(&mut connection, user));
            continue;
        }
        let at = round % living.len();
        let answer = connection.exchange(&refresh_request(&living[at].newest.refresh)).unwrap();
        if answer.status == 401 {
            assert_eq!(answer.member("code"), "session_revoked");
            ended.push(living.swap_remove(at));
        } else {
            living[at].newest = Tokens::from_body(answer);
        }
    }
    ended.append(&mut living);
    ended
}

/// Logs a user out everywhere, three times in the course of the work; when the last was asked for and when it
/// was done.
fn log_out(gateway: &Gateway, user: &str, done: &AtomicUsize) -> (Instant, Instant) {
    let mut last = None;
    for share in [4, 2, 1] {
        let due = || done.load(Ordering::SeqCst) >= OPERATIONS * 3 / 4 / share;
        assert!(eventually(Duration::from_secs(60), due), "the clients do not get on");
        let tokens = login_as(gateway, user);
        let asked = Instant::now();
        post("/auth/logout-all").bearer(&tokens.access).send(&gateway.address()).expect(200);
        last = Some((asked, Instant::now()));
    }
    last.expect("three of them")
}

#[test]
fn after_logging_out_everywhere_no_earlier_token_is_good_whatever_raced_it_on_a_cluster() {
    let cluster = Cluster::start();
    let site = Site::with_users(&cluster.store(), "{ grace: 0s, coalesce: 0s }", &USERS);
    let gateways = [site.gateway(), site.gateway()];
    let done = AtomicUsize::new(0);
    let raced: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = USERS
            .iter()
            .zip(gateways.iter().cycle())
            .map(|(user, gateway)| {
                let (gateways, done) = (&gateways, &done);
                let clients =
                    gateways.each_ref().map(|gateway| scope.spawn(move || client(gateway, user, done)));
                (user, clients, scope.spawn(move || log_out(gateway, user, done)))
            })
            .collect();
        let mut raced = Vec::new();
        for (user, clients, logout) in running {
            let sessions = clients.into_iter().flat_map(|client| client.join().unwrap());
            raced.push((user, sessions.collect::<Vec<Session>>(), logout.join().unwrap()));
        }
        raced
    });

    let (mut living, mut ended) = (0, 0);
    for (user, sessions, (asked, answered)) in &raced {
        let good = epoch(&login_as(&gateways[0], user));
        for (session, gateway) in sessions.iter().zip(gateways.iter().cycle()) {
            let lives = session.epoch() >= good;
            assert!(!(lives && session.given < *asked), "{user}: opened before, good after");
            assert!(lives || session.asked < *answered, "{user}: opened after, ended by it");
            if lives {
                living += 1;
                assert_eq!(call(gateway, &session.newest.access), 200);
                Tokens::from_body(refresh(gateway, &session.newest.refresh));
                continue;
            }
            ended += 1;
            for tokens in [&session.newest, &session.first] {
                let answer = refresh(gateway, &tokens.refresh).expect(401);
                assert_eq!(answer.member("code"), "session_revoked");
                let refused = || gateways.iter().all(|gateway| call(gateway, &tokens.access) == 401);
                assert!(eventually(Duration::from_secs(5), refused), "{user}: an access token lives on");
            }
        }
    }
    println!("{} operations; {living} sessions live, {ended} were ended", done.load(Ordering::SeqCst));
    assert!(living > 0 && ended > 50);

    for server in &cluster.servers {
        let errors = server.ask("INFO errorstats");
        assert!(!errors.contains("CROSSSLOT"), "{errors}");
    }
    for primary in cluster.primaries() {
        assert!(primary.script_calls() > 0, "all users are on the other servers");
    }
    for gateway in &gateways {
        let said = gateway.stdout() + &gateway.stderr();
        assert!(!said.contains("CROSSSLOT") && !said.contains("\"level\":\"ERROR\""), "{said}");
    }
}
