//! The Redis store on a real cluster.

use super::cluster::slot;
use super::fleet::Fleet;
use super::server::until;
use super::tests::{access_token, new_session, token};
use super::{RedisSettings, RedisStore, keys};
use crate::clock::{Clock as _, ManualClock, SystemClock};
use crate::session::conformance::{self, Rig, every_store_must};
use crate::session::deferred::{self, DeferredLogouts};
use crate::session::family::{Outcome, RotationPolicy};
use crate::session::id::{SessionId, UserKey};
use crate::session::revocation::{self, Revocations};
use crate::session::store::{EndReason, NewSession, SessionStore, StoreError};
use async_trait::async_trait;
use redis::Commands as _;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the rigs share: a cluster takes seconds to form.
static SHARED: Mutex<Option<Arc<Fleet>>> = Mutex::new(None);

struct Cluster {
    fleet: Arc<Fleet>,
    store: Arc<dyn SessionStore>,
    clock: Arc<ManualClock>,
}

struct Shared;

impl Drop for Shared {
    fn drop(&mut self) {
        drop(SHARED.lock().unwrap().take());
    }
}

impl Cluster {
    fn share() -> Shared {
        *SHARED.lock().unwrap() = Some(Arc::new(Fleet::start(3, 0)));
        Shared
    }
}

#[async_trait]
impl Rig for Cluster {
    async fn start(policy: RotationPolicy) -> Self {
        let fleet = SHARED.lock().unwrap().clone().unwrap();
        for server in &fleet.servers {
            let () = server.query("FLUSHALL");
        }
        let clock = conformance::clock();
        let mut store = RedisStore::connect_lazily(&fleet.settings(), policy).unwrap();
        store.clock = Some(clock.clone());
        Self { fleet, store: Arc::new(store), clock }
    }

    fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn damage(&self, user: UserKey, session: SessionId) {
        let holder = &self.fleet.servers[self.fleet.holder(slot(user.shard()))];
        let () = holder.connection().set(keys::session(user, session), "seven").unwrap();
    }
}

every_store_must!(in_turn Cluster);

fn impatient(fleet: &Fleet) -> RedisStore {
    let settings = RedisSettings { timeout: Duration::from_millis(500), ..fleet.settings() };
    RedisStore::connect_lazily(&settings, RotationPolicy::default()).unwrap()
}

/// Presents a token until the store answers; whatever it answers must be a grant.
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

/// Some sessions, on every shard.
async fn sessions_everywhere(store: &RedisStore) -> Vec<NewSession> {
    let (mut sessions, mut shards) = (Vec::new(), BTreeSet::new());
    while shards.len() < usize::from(UserKey::SHARDS) {
        let new = new_session();
        store.open(new.clone()).await.unwrap();
        shards.insert(new.user.shard());
        sessions.push(new);
    }
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_primary_of_a_cluster_that_dies_logs_nobody_out() {
    let fleet = Fleet::start(3, 1);
    let (here, there) = (impatient(&fleet), Arc::new(impatient(&fleet)));
    let lifetime = RotationPolicy::default().revocation_lifetime();
    let known = Arc::new(Revocations::new(lifetime, SystemClock.now()));
    let task = tokio::spawn(revocation::follow(there, Arc::clone(&known), Arc::new(SystemClock)));
    let sessions = sessions_everywhere(&here).await;
    for primary in &fleet.servers[..3] {
        let mut connection = primary.connection();
        let () = connection.set(format!("{{{}}}", primary.port), 1).unwrap_or_default();
        until("its replica has it", || {
            let offsets: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
            let field = |name: &str| offsets.split(name).nth(1).unwrap().split(['\r', ',']).next().unwrap();
            field("master_repl_offset:") == field(",offset=")
        });
    }

    let mut fleet = fleet;
    let dead = fleet.holder(slot(sessions[0].user.shard()));
    drop(fleet.servers.remove(dead));
    let lives = |new: &&NewSession| fleet.holder(slot(new.user.shard())) != dead;
    assert!(sessions.iter().any(|new| lives(&new)));
    for new in sessions.iter().filter(lives) {
        assert_eq!(here.rotate(&token(new, 0)).await.unwrap().outcome, Outcome::Rotated);
    }
    // A logout elsewhere is felt even now.
    let elsewhere = sessions.iter().find(lives).unwrap();
    here.end_all(elsewhere.user).await.unwrap();
    let start = Instant::now();
    while !known.is_revoked(&access_token(elsewhere)) {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let orphans: Vec<_> = sessions.iter().filter(|new| !lives(new)).collect();
    for new in &orphans {
        refreshes(&here, new, 0).await;
    }
    for new in &orphans {
        assert_eq!(here.end_all(new.user).await.unwrap().ended, 1);
        assert_eq!(here.rotate(&token(new, 1)).await.unwrap().outcome, Outcome::Revoked);
    }
    let start = Instant::now();
    while orphans.iter().any(|new| !known.is_revoked(&access_token(new))) {
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn logouts_that_wait_for_a_dead_server_hold_up_no_others() {
    let mut fleet = Fleet::start(3, 0);
    let store = Arc::new(impatient(&fleet));
    let sessions = sessions_everywhere(&store).await;
    let dead = fleet.holder(slot(sessions[0].user.shard()));
    drop(fleet.servers.remove(dead));
    let (lost, living): (Vec<_>, Vec<_>) =
        sessions.iter().partition(|new| fleet.holder(slot(new.user.shard())) == dead);

    let deferred = Arc::new(DeferredLogouts::new());
    for new in lost.iter().chain(&living) {
        assert!(deferred.end(new.user, new.id, EndReason::Logout));
    }
    let task = tokio::spawn(deferred::carry_out(Arc::clone(&deferred), store.clone()));
    let start = Instant::now();
    while deferred.len() > lost.len() {
        assert!(start.elapsed() < Duration::from_secs(20), "{} wait", deferred.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for new in &living {
        assert!(store.is_ended(&access_token(new)).await.unwrap());
    }
    assert_eq!(deferred.len(), lost.len());
    task.abort();
}

#[tokio::test]
async fn sessions_follow_their_slot_to_another_server() {
    let fleet = Fleet::start(3, 0);
    let store = impatient(&fleet);
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    let slot = slot(new.user.shard());
    let holder = fleet.holder(slot);
    let (from, to) = (&fleet.servers[holder], &fleet.servers[(holder + 1) % 3]);
    let ids = [fleet.id(holder), fleet.id((holder + 1) % 3)];
    let () = to.query(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", ids[0]));
    let () = from.query(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", ids[1]));
    let meanwhile = store.rotate(&token(&new, 0)).await;
    let accused = meanwhile.as_ref().is_ok_and(|rotation| !rotation.outcome.grants());
    assert!(!accused && !matches!(meanwhile, Err(StoreError::Corrupt(_))), "{meanwhile:?}");
    let moving: Vec<String> = from.query(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
    assert!(moving.len() >= 2);
    let () = redis::cmd("MIGRATE")
        .arg(&["127.0.0.1", &to.port.to_string(), "", "0", "5000", "KEYS"])
        .arg(moving)
        .query(&mut from.connection())
        .unwrap();
    for server in [to, from] {
        let () = server.query(&format!("CLUSTER SETSLOT {slot} NODE {}", ids[1]));
    }
    assert!(store.rotate(&token(&new, 0)).await.unwrap().outcome.grants());
    assert_eq!(store.list(new.user).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_unavailable_and_told_so() {
    let server = super::server::Server::start();
    let urls = vec![crate::secret::Secret::new(server.url())];
    let settings = RedisSettings { servers: super::Servers::Cluster(urls), ..server.settings() };
    let store = RedisStore::connect_lazily(&settings, RotationPolicy::default()).unwrap();
    let error = store.open(new_session()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("cluster")), "{error}");
}
