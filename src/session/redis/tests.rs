//! The Redis store against the common claims, and what only a store elsewhere can get wrong.

use super::decode::STATE;
use super::server::Server;
use super::{RedisSettings, RedisStore, Servers, SettingsError, keys};
use crate::clock::{Clock, ManualClock, SystemClock, random_bytes};
use crate::secret::Secret;
use crate::session::conformance::{self, Rig, every_store_must};
use crate::session::family::{Outcome, RotationPolicy};
use crate::session::id::{SessionId, SessionRef, UserKey};
use crate::session::refresh_token::Presented;
use crate::session::revocation::{self, Revocations};
use crate::session::store::{Cursor, Delivery, EndReason, NewSession, Revocation, SessionStore, StoreError};
use async_trait::async_trait;
use redis::Commands as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Redis {
    server: Server,
    store: Arc<dyn SessionStore>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl Rig for Redis {
    async fn start(policy: RotationPolicy) -> Self {
        let server = Server::start();
        let clock = conformance::clock();
        let mut store = RedisStore::connect_lazily(&server.settings(), policy).unwrap();
        store.clock = Some(clock.clone());
        Self { server, store: Arc::new(store), clock }
    }

    fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn damage(&self, user: UserKey, session: SessionId) {
        let () = self.server.connection().set(keys::session(user, session), "seven").unwrap();
    }
}

every_store_must!(Redis);

fn store(server: &Server) -> RedisStore {
    RedisStore::connect_lazily(&server.settings(), RotationPolicy::default()).unwrap()
}

fn impatient(server: &Server) -> RedisStore {
    let settings = RedisSettings { timeout: Duration::from_millis(300), ..server.settings() };
    RedisStore::connect_lazily(&settings, RotationPolicy::default()).unwrap()
}

pub(super) fn new_session() -> NewSession {
    NewSession {
        id: SessionId::from_bytes(random_bytes().unwrap()),
        user: UserKey::from_bytes(random_bytes().unwrap()),
        secret_hash: [5; 32],
        subject: "alice".to_owned(),
        claims: serde_json::Map::new(),
        delivery: Delivery::Body,
        absolute_expiry: SystemClock.now().plus(RotationPolicy::default().absolute),
        device: None,
        address: None,
        known_epoch: 0,
    }
}

pub(super) fn token(new: &NewSession, generation: u32) -> Presented {
    Presented {
        session: new.id,
        user: new.user,
        secret_hash: new.secret_hash,
        generation,
        absolute_expiry: new.absolute_expiry,
    }
}

async fn login_and_logout(store: &RedisStore) -> Revocation {
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let (before, _) = store.revocations(&Cursor::default()).await.unwrap();
    store.end(new.user, new.id, EndReason::Logout).await.unwrap();
    let (after, _) = store.revocations(&Cursor::default()).await.unwrap();
    after.into_iter().find(|revocation| !before.contains(revocation)).unwrap()
}

#[tokio::test]
async fn every_gateway_sees_what_one_does() {
    let server = Server::start();
    let (here, there) = (store(&server), store(&server));
    let new = new_session();
    here.open(new.clone()).await.unwrap();
    assert_eq!(there.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Rotated);
    assert_eq!(here.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Retry);
    let (_, cursor) = there.revocations(&Cursor::default()).await.unwrap();
    here.end(new.user, new.id, EndReason::Logout).await.unwrap();
    assert_eq!(there.revocations(&cursor).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_logout_here_is_felt_there() {
    let server = Server::start();
    let (here, there) = (store(&server), Arc::new(store(&server)));
    let lifetime = RotationPolicy::default().revocation_lifetime();
    let known = Arc::new(Revocations::new(lifetime, SystemClock.now()));
    let task = tokio::spawn(revocation::follow(there, Arc::clone(&known), Arc::new(SystemClock)));
    let sessions = [new_session(), new_session(), new_session()];
    for new in &sessions {
        here.open(new.clone()).await.unwrap();
    }
    here.end(sessions[0].user, sessions[0].id, EndReason::Logout).await.unwrap();
    here.end_all(sessions[1].user).await.unwrap();
    let start = Instant::now();
    while sessions[..2].iter().any(|new| !known.is_revoked(&access_token(new))) {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!known.is_revoked(&access_token(&sessions[2])));
    task.abort();
}

#[tokio::test]
async fn every_key_expires_and_nothing_stored_makes_a_token() {
    let server = Server::start();
    let store = store(&server);
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let mut ended = new_session();
    ended.user = new.user;
    store.open(ended.clone()).await.unwrap();
    store.end(ended.user, ended.id, EndReason::Logout).await.unwrap();
    // Of another shard, which has a feed of its own.
    let shard = |new: &NewSession| keys::index(new.user).split(':').nth(1).map(str::to_owned);
    let other = std::iter::repeat_with(new_session).find(|other| shard(other) != shard(&new)).unwrap();
    store.open(other.clone()).await.unwrap();
    store.end_all(other.user).await.unwrap();
    store.confirm(&[access_token(&new), access_token(&other)]).await.unwrap();

    let mut connection = server.connection();
    let all: Vec<String> = connection.keys("*").unwrap();
    assert!(all.len() >= 7, "{all:?}");
    for key in all {
        let left: i64 = connection.pttl(&key).unwrap();
        assert!(left > 0, "{key} never expires");
        assert!(left <= 31 * 24 * 3600 * 1000, "{key} lives for {left} ms");
    }
    let ended: Vec<u8> = connection.get(keys::session(ended.user, ended.id)).unwrap();
    assert_eq!(ended.len(), STATE, "an ended session keeps no claims");
}

pub(super) fn access_token(new: &NewSession) -> SessionRef {
    SessionRef { session: new.id, user: new.user, generation: 0, epoch: 0 }
}

#[tokio::test]
async fn a_session_keeps_its_size_however_often_it_is_refreshed() {
    let server = Server::start();
    let policy = RotationPolicy { coalesce: Duration::ZERO, ..RotationPolicy::default() };
    let store = RedisStore::connect_lazily(&server.settings(), policy).unwrap();
    let mut connection = server.connection();
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let names = [keys::session(new.user, new.id), keys::index(new.user)];
    let mut size = || -> usize {
        let mut usage = |key: &String| {
            redis::cmd("MEMORY").arg("USAGE").arg(key).query::<usize>(&mut connection).unwrap()
        };
        names.iter().map(&mut usage).sum()
    };
    for generation in 0..1_000 {
        assert_eq!(store.rotate(&token(&new, generation)).await.unwrap().outcome, Outcome::Rotated);
    }
    let early = size();
    for generation in 1_000..3_000 {
        store.rotate(&token(&new, generation)).await.unwrap();
    }
    assert_eq!(size(), early);

    assert!(early <= 650, "{early} bytes");
}

#[tokio::test]
async fn revocations_are_trimmed_when_no_token_can_match_them() {
    let server = Server::start();
    let policy = RotationPolicy { access_token_lifetime: Duration::ZERO, ..RotationPolicy::default() };
    let store = RedisStore::connect_lazily(&server.settings(), policy).unwrap();
    let user = UserKey::from_bytes([16; 12]);
    let mut connection = server.connection();
    // Entries of an hour ago, as if written then.
    let hour_ago = SystemClock.now().minus(Duration::from_secs(3600)).as_millis();
    for n in 0..500 {
        let id = SessionId::from_bytes([7; 16]).to_string();
        let () = redis::cmd("XADD")
            .arg(keys::stream(user.shard()))
            .arg(format!("{hour_ago}-{}", n + 1))
            .arg(&["s", &id, "u", &user.to_string(), "t", "5"])
            .query(&mut connection)
            .unwrap();
    }
    store.end_all(user).await.unwrap();
    let left: usize = connection.xlen(keys::stream(user.shard())).unwrap();
    assert!(left <= 200, "{left} entries");
    assert!(store.revocations(&Cursor::default()).await.unwrap().0.len() <= 200);
}

#[tokio::test]
async fn a_wiped_redis_is_read_from_its_beginning() {
    let server = Server::start();
    let store = store(&server);
    login_and_logout(&store).await;
    let (_, cursor) = store.revocations(&Cursor::default()).await.unwrap();
    let () = redis::cmd("FLUSHALL").query(&mut server.connection()).unwrap();
    let (none, again) = store.revocations(&cursor).await.unwrap();
    assert_eq!((none, &again), (vec![], &Cursor::default()));
    let expected = login_and_logout(&store).await;
    assert_eq!(store.revocations(&again).await.unwrap().0, [expected]);
}

#[tokio::test]
async fn entries_older_than_the_place_we_are_at_are_read_after_a_failover() {
    let server = Server::start();
    let store = store(&server);
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    store.end(new.user, new.id, EndReason::Logout).await.unwrap();
    let (found, cursor) = store.revocations(&Cursor::default()).await.unwrap();
    // The new primary did not get that write, and its clock is behind.
    let mut connection = server.connection();
    let stream = keys::stream(new.user.shard());
    let () = connection.del(&stream).unwrap();
    let id = SessionId::from_bytes([7; 16]);
    let () = redis::cmd("XADD")
        .arg(&stream)
        .arg("1000-0")
        .arg(&["s", &id.to_string(), "u", &new.user.to_string(), "t", "9000"])
        .query(&mut connection)
        .unwrap();
    let (none, again) = store.revocations(&cursor).await.unwrap();
    assert_eq!((none, &again), (vec![], &Cursor::default()));
    let (after, _) = store.revocations(&again).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(matches!(after[..], [Revocation::Session { session, .. }] if session == id));
}

#[tokio::test]
async fn a_feed_longer_than_a_page_is_read_to_its_end() {
    let server = Server::start();
    let store = store(&server);
    let user = UserKey::from_bytes([16; 12]);
    let mut pipe = redis::pipe();
    for n in 0..2_500_u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let id = SessionId::from_bytes(id).to_string();
        let fields = ["s", &id, "u", &user.to_string(), "t", "5"];
        pipe.cmd("XADD").arg(keys::stream(user.shard())).arg("*").arg(&fields).ignore();
    }
    pipe.query::<()>(&mut server.connection()).unwrap();
    let (mut cursor, mut all) = (Cursor::default(), Vec::new());
    loop {
        let (found, next) = store.revocations(&cursor).await.unwrap();
        if found.is_empty() {
            break;
        }
        all.extend(found);
        cursor = next;
    }
    assert_eq!(all.len(), 2_500);
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_unavailable_within_the_deadline() {
    let server = Server::start();
    let store = impatient(&server);
    drop(server);
    for _ in 0..20 {
        let start = Instant::now();
        let presented = token(&new_session(), 0);
        assert!(matches!(store.rotate(&presented).await, Err(StoreError::Unavailable(_))));
        assert!(start.elapsed() < Duration::from_millis(900));
    }
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_deadline_and_then_nothing_until_it_is_back() {
    let server = Server::start();
    let store = impatient(&server);
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    server.signal("-STOP");
    let start = Instant::now();
    while store.clocks().await.is_err_and(|error| error.to_string().contains("within")) {
        assert!(start.elapsed() < Duration::from_secs(5), "the breaker never opens");
    }
    let start = Instant::now();
    assert!(store.clocks().await.is_err());
    assert!(start.elapsed() < Duration::from_millis(100), "a refused call must not wait");
    server.signal("-CONT");
    recovers(&store, &new).await;
}

#[tokio::test]
async fn a_redis_that_was_restarted_is_found_again_within_two_seconds() {
    let server = Server::start();
    let store = impatient(&server);
    store.clocks().await.unwrap();
    let port = server.port;
    drop(server);
    for _ in 0..10 {
        assert!(store.clocks().await.is_err());
    }
    let _server = Server::start_at(port).expect("the port was taken meanwhile");
    let start = Instant::now();
    while store.clocks().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What is not there is unknown, never an accusation.
    let outcome = store.rotate(&token(&new_session(), 3)).await.unwrap().outcome;
    assert_eq!(outcome, Outcome::Unknown);
}

async fn recovers(store: &RedisStore, new: &NewSession) {
    let start = Instant::now();
    loop {
        match store.rotate(&token(new, 0)).await {
            Ok(rotation) => return assert!(rotation.outcome.grants()),
            Err(_) => assert!(start.elapsed() < Duration::from_secs(2)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_replica_is_unavailable_and_accuses_nobody() {
    let server = Server::start();
    let store = impatient(&server);
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let mut connection = server.connection();
    let () = redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).query(&mut connection).unwrap();
    assert!(matches!(store.rotate(&token(&new, 0)).await, Err(StoreError::Unavailable(_))));
    let () = redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).query(&mut connection).unwrap();
    recovers(&store, &new).await;
}

#[tokio::test]
async fn a_full_redis_takes_no_login_but_refreshes_and_logouts() {
    let server = Server::start();
    let store = impatient(&server);
    let (new, user) = (new_session(), new_session().user);
    store.open(new.clone()).await.unwrap();
    let other = NewSession { user, ..new_session() };
    store.open(other.clone()).await.unwrap();
    let mut connection = server.connection();
    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query(&mut connection).unwrap();
    let refused = store.open(new_session()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(store.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Rotated);
    assert!(store.end(new.user, new.id, EndReason::Logout).await.unwrap());
    assert_eq!(store.end_all(other.user).await.unwrap().ended, 1);
    assert_eq!(store.rotate(&token(&other, 0)).await.unwrap().outcome, Outcome::Revoked);
}

#[tokio::test]
async fn a_key_of_another_kind_is_corrupt() {
    let server = Server::start();
    let store = store(&server);
    let new = new_session();
    let () = server.connection().rpush(keys::session(new.user, new.id), "x").unwrap();
    assert!(matches!(store.rotate(&token(&new, 0)).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let server = Server::start();
    let store = store(&server);
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut server.connection()).unwrap();
    assert_eq!(store.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Rotated);
}

#[test]
fn one_store_serves_a_second_runtime_after_the_first_has_ended() {
    let server = Server::start();
    let store = Arc::new(impatient(&server));
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            while store.clocks().await.is_err() {
                assert!(start.elapsed() < Duration::from_secs(2));
            }
        });
    }
}

#[test]
fn settings_that_cannot_be_used_are_refused_without_quoting_the_password() {
    let settings = |url: &str, ca: Option<&str>| RedisSettings {
        servers: Servers::One(Secret::new(url.to_owned())),
        timeout: Duration::from_millis(300),
        ca: ca.map(|ca| ca.as_bytes().to_vec()),
    };
    let policy = RotationPolicy::default();
    for url in ["", "http://:hunter2@host", "redis://:hunter2@host:99999", "redis://:hunter2@/x y"] {
        let refusal = RedisStore::connect_lazily(&settings(url, None), policy);
        let Err(refusal) = refusal else { continue };
        assert!(matches!(refusal, SettingsError::Url));
        assert!(!refusal.to_string().contains("hunter2"));
    }
    let bad = settings("rediss://host", Some("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"));
    assert!(matches!(RedisStore::connect_lazily(&bad, policy), Err(SettingsError::Ca(_))));
    assert!(!format!("{:?}", settings("redis://:hunter2@h", None)).contains("hunter2"));
}
