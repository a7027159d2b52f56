//! The throttle on a real Redis: held equal to the counters of one gateway, and shared by several.

use super::cluster::slot;
use super::fleet::Fleet;
use super::server::Server;
use super::{RedisSettings, RedisStore};
use crate::clock::{Clock as _, ManualClock, Timestamp};
use crate::session::conformance::{self, Dice};
use crate::session::family::RotationPolicy;
use crate::session::throttle::{
    Acquittal, Attempt, AttemptNames, Bucket, KNOWN_FOR, LocalThrottle, SharedThrottle, ThrottleSettings,
    Verdict,
};
use redis::Commands as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SETTINGS: ThrottleSettings = ThrottleSettings {
    account_network: bucket(5, 30_000),
    network: bucket(6, 2_000),
    account: bucket(8, 60_000),
};

const fn bucket(burst: u32, millis: u64) -> Bucket {
    Bucket { burst, every: Duration::from_millis(millis) }
}

fn names() -> AttemptNames {
    AttemptNames::new(&[1; 32], "here")
}

/// A try from one of many networks.
fn attempt(names: &AttemptNames, account: &str, network: u8) -> Attempt {
    names.attempt(account, IpAddr::V4(Ipv4Addr::new(192, 0, network, 1)))
}

fn store(settings: &RedisSettings) -> RedisStore {
    RedisStore::connect_lazily(settings, RotationPolicy::default()).unwrap()
}

fn store_by(settings: &RedisSettings, clock: &Arc<ManualClock>) -> RedisStore {
    RedisStore { clock: Some(clock.clone()), ..store(settings) }
}

/// The same tries against Redis and against the counters of one gateway.
async fn walk(store: &RedisStore, clock: &ManualClock, seed: u64) -> [u32; 3] {
    let local = LocalThrottle::new();
    let mut dice = Dice(seed);
    let bursts = [1, 2, 5, 20];
    let every = [0, 1, 999, 2_000, 30_000, 60_000];
    let mut one = || bucket(*dice.pick(&bursts), *dice.pick(&every));
    let settings = ThrottleSettings { account_network: one(), network: one(), account: one() };
    // A few of the tries know of an earlier secret.
    let deployment = format!("walk {seed}");
    let new = AttemptNames::new(&[2; 32], &deployment);
    let both = AttemptNames::new(&[2; 32], &deployment).with_previous(&[1; 32]);
    let old = AttemptNames::new(&[1; 32], &deployment);
    let mut pending = Vec::new();
    let mut tally = [0; 3];
    for step in 0..400 {
        let now = clock.now();
        let at = format!("seed {seed}, step {step}, {settings:?}");
        match dice.roll(10) {
            0 => {
                let waits = [1, 999, 2_000, 29_999, 60_000, 3_600_000, 20 * 24 * 3_600_000];
                clock.advance(Duration::from_millis(*dice.pick(&waits)));
            }
            1 => clock.set(now.minus(Duration::from_millis(dice.roll(90_000)))),
            2 | 3 if !pending.is_empty() => {
                let index = usize::try_from(dice.roll(pending.len() as u64)).unwrap();
                let (attempt, stranger): (Attempt, bool) = pending.swap_remove(index);
                let why = *dice.pick(&[Acquittal::Right, Acquittal::NotJudged, Acquittal::Unanswered]);
                if why == Acquittal::Right {
                    local.remember(&attempt, now);
                }
                local.give_back(&attempt, stranger, why, &settings, now);
                store.give_back(&attempt, stranger, why, &settings).await.unwrap();
            }
            _ => {
                let names = *dice.pick(&[&new, &new, &both, &old]);
                let account = *dice.pick(&["alice", "bob"]);
                let attempt = attempt(names, account, u8::try_from(dice.roll(3)).unwrap());
                let expected = local.take(&attempt, &settings, now);
                let verdict = store.take(&attempt, &settings).await.unwrap();
                assert_eq!(verdict, expected, "{at}");
                match verdict {
                    Verdict::Granted { stranger } => {
                        tally[usize::from(stranger)] += 1;
                        pending.push((attempt, stranger));
                    }
                    Verdict::Refused(_) => tally[2] += 1,
                }
            }
        }
    }
    tally
}

async fn walks(settings: &RedisSettings, seeds: std::ops::Range<u64>) {
    let clock = conformance::clock();
    let store = store_by(settings, &clock);
    let mut tally = [0; 3];
    for seed in seeds {
        for (all, some) in tally.iter_mut().zip(walk(&store, &clock, seed).await) {
            *all += some;
        }
    }
    println!("tries: {} from known networks, {} of strangers, {} refused", tally[0], tally[1], tally[2]);
    assert!(tally.iter().all(|count| *count > 100), "a walk that sees nothing: {tally:?}");
}

#[tokio::test]
async fn random_walks_agree_with_the_counters_of_one_gateway() {
    let server = Server::start();
    walks(&server.settings(), 0..40).await;
}

#[tokio::test]
async fn a_cluster_counts_alike_on_every_shard() {
    let fleet = Fleet::start(3, 0);
    walks(&fleet.settings(), 0..4).await;
    let store = store(&fleet.settings());
    for n in 0..64 {
        let attempt = attempt(&names(), &format!("user {n}"), n);
        assert_eq!(store.take(&attempt, &SETTINGS).await.unwrap(), Verdict::Granted { stranger: true });
        store.give_back(&attempt, true, Acquittal::Right, &SETTINGS).await.unwrap();
        assert_eq!(store.take(&attempt, &SETTINGS).await.unwrap(), Verdict::Granted { stranger: false });
    }
}

#[tokio::test]
async fn a_part_of_a_cluster_that_is_gone_takes_nothing_from_the_rest() {
    let mut fleet = Fleet::start(3, 0);
    let mut numbers = 0..=u8::MAX;
    let across = numbers.find_map(|n| {
        let attempt = attempt(&names(), "alice", n);
        let holders = [attempt.network_shard, attempt.account_shard].map(|shard| fleet.holder(slot(shard)));
        (holders[0] != holders[1]).then_some((attempt, holders))
    });
    let (attempt, [network, account]) = across.unwrap();
    let settings = RedisSettings { timeout: Duration::from_millis(500), ..fleet.settings() };
    let store = store(&settings);
    assert!(matches!(store.take(&attempt, &SETTINGS).await, Ok(Verdict::Granted { .. })));
    let key = super::keys::network(attempt.network_shard, attempt.network);
    let port = fleet.servers[network].port;
    let full_at = |fleet: &Fleet| -> Option<u64> {
        let server = fleet.servers.iter().find(|server| server.port == port).unwrap();
        server.connection().get(&key).unwrap()
    };
    let before = full_at(&fleet).unwrap();
    drop(fleet.servers.remove(account));
    for _ in 0..20 {
        assert!(store.take(&attempt, &SETTINGS).await.is_err());
    }
    // It was given back each time; meanwhile the bucket may have filled.
    assert!(full_at(&fleet).is_none_or(|after| after <= before));
}

#[tokio::test]
async fn gateways_share_one_count_and_know_the_same_networks() {
    let server = Server::start();
    let stores = [store(&server.settings()), store(&server.settings())];
    let settings = ThrottleSettings { network: bucket(1_000, 1_000), ..SETTINGS };
    let home = attempt(&names(), "alice", 0);
    let mut granted = 0;
    for n in 0..20 {
        let verdict = stores[n % 2].take(&home, &settings).await.unwrap();
        granted += usize::from(matches!(verdict, Verdict::Granted { .. }));
    }
    assert_eq!(granted, 5);
    stores[0].give_back(&home, true, Acquittal::Right, &settings).await.unwrap();
    for network in 1..50 {
        let _ = stores[0].take(&attempt(&names(), "alice", network), &settings).await.unwrap();
    }
    let stranger = stores[1].take(&attempt(&names(), "alice", 99), &settings).await.unwrap();
    assert!(matches!(stranger, Verdict::Refused(wait) if wait <= Duration::from_secs(60)));
    let owner = stores[1].take(&home, &settings).await.unwrap();
    assert_eq!(owner, Verdict::Granted { stranger: false });
}

#[tokio::test]
async fn a_refused_try_leaves_every_bucket_as_it_was() {
    let server = Server::start();
    let clock = conformance::clock();
    let store = store_by(&server.settings(), &clock);
    let mut connection = server.connection();
    let mut all = || -> Vec<(String, u64)> {
        let mut keys: Vec<String> = connection.keys("*").unwrap();
        keys.sort();
        keys.into_iter().map(|key| (key.clone(), connection.get(key).unwrap())).collect()
    };
    let refusing = [
        ThrottleSettings { account_network: bucket(1, 30_000), ..SETTINGS },
        ThrottleSettings { network: bucket(1, 30_000), ..SETTINGS },
        ThrottleSettings { account: bucket(1, 30_000), ..SETTINGS },
    ];
    for (n, settings) in refusing.iter().enumerate() {
        let attempt = attempt(&names(), &format!("user {n}"), u8::try_from(n).unwrap());
        assert!(matches!(store.take(&attempt, settings).await.unwrap(), Verdict::Granted { .. }));
        let before = all();
        assert_eq!(before.len(), 3 * (n + 1));
        for _ in 0..5 {
            let verdict = store.take(&attempt, settings).await.unwrap();
            assert_eq!(verdict, Verdict::Refused(Duration::from_secs(30)));
        }
        assert_eq!(all(), before);
    }
}

#[tokio::test]
async fn what_is_counted_names_nobody_and_vanishes() {
    let server = Server::start();
    let store = store(&server.settings());
    let attempt = attempt(&names(), "alice", 7);
    for _ in 0..2 {
        let _ = store.take(&attempt, &SETTINGS).await.unwrap();
    }
    store.give_back(&attempt, true, Acquittal::Right, &SETTINGS).await.unwrap();
    let mut connection = server.connection();
    let mut keys: Vec<String> = connection.keys("*").unwrap();
    keys.sort();
    let kinds: Vec<_> = keys.iter().map(|key| &key[..3]).collect();
    assert_eq!(kinds, ["ta:", "tk:", "tn:", "tp:"]);
    for key in &keys {
        let left: i64 = connection.pttl(key).unwrap();
        let most = if key.starts_with("tk:") { KNOWN_FOR } else { Duration::from_secs(60) };
        assert!(left > 0 && left <= i64::try_from(most.as_millis()).unwrap(), "{key}: {left}");
        assert!(!key.contains("alice") && !key.contains("192"), "{key}");
    }
    // Under another secret the same try has other names.
    let other = AttemptNames::new(&[9; 32], "here").attempt("alice", IpAddr::V4(Ipv4Addr::new(192, 0, 7, 1)));
    assert_ne!(other.account, attempt.account);
    assert_ne!(other.network, attempt.network);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_try_no_more_than_one_deadline() {
    let server = Server::start();
    let settings = RedisSettings { timeout: Duration::from_millis(300), ..server.settings() };
    let store = store(&settings);
    let attempt = attempt(&names(), "alice", 1);
    let _ = store.take(&attempt, &SETTINGS).await.unwrap();
    server.signal("-STOP");
    let mut took = Vec::new();
    for _ in 0..21 {
        let start = Instant::now();
        assert!(store.take(&attempt, &SETTINGS).await.is_err());
        took.push(start.elapsed());
    }
    // Not the longest: the machine may be busy.
    took.sort();
    assert!(took[18] < Duration::from_millis(550), "{took:?}");
    assert!(took[10] < Duration::from_millis(200), "the breaker must refuse at once: {took:?}");
    server.signal("-CONT");
}

/// The time at which a bucket is full is counted in milliseconds of the server's clock.
#[tokio::test]
async fn without_a_clock_of_its_own_it_goes_by_that_of_redis() {
    let server = Server::start();
    let store = store(&server.settings());
    let attempt = attempt(&names(), "alice", 1);
    let before = Timestamp::from_millis(server_time(&server));
    let _ = store.take(&attempt, &SETTINGS).await.unwrap();
    let after = Timestamp::from_millis(server_time(&server));
    let key = super::keys::account(attempt.account_shard, attempt.account);
    let full_at: u64 = server.connection().get(key).unwrap();
    let taken = Timestamp::from_millis(full_at).minus(SETTINGS.account.every);
    assert!(before <= taken && taken <= after);
}

fn server_time(server: &Server) -> u64 {
    let (seconds, micros): (u64, u64) = server.query("TIME");
    seconds * 1000 + micros / 1000
}
