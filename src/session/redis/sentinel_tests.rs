//! The Redis store behind a real sentinel.

use super::server::{Server, free_port, until};
use super::tests::{access_token, new_session, token};
use super::{RedisSettings, RedisStore, Servers, decode, keys};
use crate::clock::{Clock as _, SystemClock};
use crate::secret::Secret;
use crate::session::family::{Outcome, RotationPolicy};
use crate::session::revocation::{self, Revocations};
use crate::session::store::{EndReason, NewSession, SessionStore, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Watched {
    primary: Server,
    replica: Server,
    sentinel: Server,
}

impl Watched {
    fn start() -> Self {
        let primary = Server::start();
        let replica = Server::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
        until("the replica follows", || replica.says("INFO replication", "master_link_status:up\r"));
        until("the primary has noticed", || primary.says("INFO replication", "state=online"));
        let sentinel = Server::sentinel_of(primary.port);
        until("the sentinel knows", || sentinel.says("INFO sentinel", "status=ok,address=127.0.0.1"));
        until("the sentinel knows the replica", || sentinel.says("INFO sentinel", "slaves=1,"));
        Self { primary, replica, sentinel }
    }

    /// Names a sentinel that is gone first.
    fn store(&self, user: &str, timeout: Duration) -> RedisStore {
        let gone = free_port().local_addr().unwrap().port();
        let url = |port| Secret::new(format!("redis://{user}127.0.0.1:{port}/3"));
        let nodes = vec![url(gone), url(self.sentinel.port)];
        let servers = Servers::Sentinel { nodes, master: "mymaster".to_owned() };
        let settings = RedisSettings { servers, timeout, ca: None };
        RedisStore::connect_lazily(&settings, RotationPolicy::default()).unwrap()
    }
}

async fn refreshes(store: &RedisStore, new: &NewSession, generation: u32) {
    let start = Instant::now();
    loop {
        match store.rotate(&token(new, generation)).await {
            Ok(rotation) => return assert!(rotation.outcome.grants(), "{:?}", rotation.outcome),
            Err(error) => assert!(start.elapsed() < Duration::from_secs(60), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_primary_that_dies_logs_nobody_out() {
    let watched = Watched::start();
    let store = watched.store("", Duration::from_millis(500));
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let sessions = "db3:keys=";
    until("the replica has it", || watched.replica.says("INFO keyspace", sessions));
    let Watched { primary, replica, sentinel: _sentinel } = watched;
    drop(primary);
    refreshes(&store, &new, 0).await;
    assert!(replica.says("INFO replication", "role:master\r"));
}

#[tokio::test]
async fn a_logout_waits_a_moment_for_the_replica_and_goes_through_without_it() {
    let watched = Watched::start();
    let store = watched.store("", Duration::from_secs(10));
    let sessions = [new_session(), new_session()];
    for new in &sessions {
        store.open(new.clone()).await.unwrap();
    }
    let patience = Duration::from_millis(100);
    watched.replica.signal("-STOP");
    let start = Instant::now();
    let ended = async {
        assert!(store.end(sessions[0].user, sessions[0].id, EndReason::Logout).await.unwrap());
        start.elapsed()
    };
    let resumed = async {
        tokio::time::sleep(patience / 3).await;
        watched.replica.signal("-CONT");
    };
    let (took, ()) = tokio::join!(ended, resumed);
    let mut replica = watched.replica.connection();
    let () = redis::cmd("SELECT").arg(3).query(&mut replica).unwrap();
    let key = keys::session(sessions[0].user, sessions[0].id);
    let there: Vec<u8> = redis::cmd("GET").arg(key).query(&mut replica).unwrap();
    let there = decode::family(&there).is_ok_and(|(family, _)| family.ended.is_some());
    assert!(there || took >= patience, "answered after {took:?}, and the replica had not heard of it");
    assert!(took >= patience / 3);

    watched.replica.signal("-STOP");
    assert!(store.end(sessions[1].user, sessions[1].id, EndReason::Logout).await.unwrap());
    watched.replica.signal("-CONT");
}

/// What only the primary had heard of when it died.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_neither_undoes_a_logout_nor_logs_anyone_out() {
    let watched = Watched::start();
    let store = Arc::new(watched.store("", Duration::from_millis(500)));
    let lifetime = RotationPolicy::default().revocation_lifetime();
    let known = Arc::new(Revocations::new(lifetime, SystemClock.now()));
    let feed = Arc::clone(&store) as Arc<dyn SessionStore>;
    let task = tokio::spawn(revocation::follow(feed, Arc::clone(&known), Arc::new(SystemClock)));
    let [one, everywhere, refreshed] = [new_session(), new_session(), new_session()];
    for new in [&one, &everywhere, &refreshed] {
        store.open(new.clone()).await.unwrap();
    }
    let offset = |server: &Server| -> String {
        let answer: String = server.query("INFO replication");
        answer.split("master_repl_offset:").nth(1).unwrap().split('\r').next().unwrap().to_owned()
    };
    until("the replica has it", || offset(&watched.primary) == offset(&watched.replica));
    let () = watched.replica.query("CONFIG SET masterauth nonsense");
    let () = watched.primary.query("CLIENT KILL TYPE replica");
    until("the replica is cut off", || watched.replica.says("INFO replication", "master_link_status:down\r"));

    store.end(one.user, one.id, EndReason::Logout).await.unwrap();
    store.end_all(everywhere.user).await.unwrap();
    assert_eq!(store.rotate(&token(&refreshed, 0)).await.unwrap().outcome, Outcome::Rotated);
    while !(known.is_revoked(&access_token(&one)) && known.is_revoked(&access_token(&everywhere))) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Watched { primary, replica, sentinel: _sentinel } = watched;
    drop(primary);
    until("the replica is promoted", || replica.says("INFO replication", "role:master\r"));
    let start = Instant::now();
    loop {
        let outcomes = (store.rotate(&token(&one, 0)).await, store.rotate(&token(&everywhere, 0)).await);
        if let (Ok(one), Ok(everywhere)) = outcomes
            && (one.outcome, everywhere.outcome) == (Outcome::Revoked, Outcome::Revoked)
        {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // This one's refresh is what the new primary has not heard of.
    assert_eq!(store.rotate(&token(&refreshed, 1)).await.unwrap().outcome, Outcome::Healed);
    task.abort();
}

#[tokio::test]
async fn a_sentinel_without_password_serves_a_primary_with_one() {
    let watched = Watched::start();
    for server in [&watched.primary, &watched.replica] {
        let () = server.query("CONFIG SET masterauth hunter2");
        let () = server.query("CONFIG SET requirepass hunter2");
    }
    let right = watched.store(":hunter2@", Duration::from_secs(10));
    right.open(new_session()).await.unwrap();
    let wrong = watched.store(":hunter3@", Duration::from_secs(10));
    assert!(matches!(wrong.open(new_session()).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_replica_that_a_sentinel_takes_for_the_primary_is_not_believed() {
    let primary = Server::start();
    let replica = Server::start();
    let sentinel = Server::sentinel_of(replica.port);
    let () = replica.query(&format!("REPLICAOF 127.0.0.1 {}", primary.port));
    let watched = Watched { primary, replica, sentinel };
    let store = watched.store("", Duration::from_secs(10));
    let error = store.rotate(&token(&new_session(), 0)).await.unwrap_err();
    assert!(error.to_string().contains("no primary"), "{error}");
}
