//! What the throttle promises, on the counters of one gateway.

use super::{Acquittal, AttemptNames, Bucket, SharedThrottle, Throttle, ThrottleSettings, Try, Verdict};
use super::{Attempt, KNOWN_FOR};
use crate::clock::{ManualClock, Timestamp};
use crate::session::store::StoreError;
use async_trait::async_trait;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const START: Timestamp = Timestamp::from_secs(1_000_000);

fn bucket(burst: u32, secs: u64) -> Bucket {
    Bucket { burst, every: Duration::from_secs(secs) }
}

struct Rig {
    throttle: Throttle,
    clock: Arc<ManualClock>,
}

fn rig() -> Rig {
    rig_with(None)
}

fn rig_with(shared: Option<Arc<dyn SharedThrottle>>) -> Rig {
    let clock = Arc::new(ManualClock::at(START));
    let settings =
        ThrottleSettings { account_network: bucket(5, 30), network: bucket(1000, 1), account: bucket(8, 60) };
    let names = AttemptNames::new(&[7; 32], "here");
    Rig { throttle: Throttle::new(settings, names, shared, clock.clone()), clock }
}

impl Rig {
    async fn take(&self, name: &str, address: IpAddr) -> Result<Try, Duration> {
        self.throttle.take(name, address).await
    }

    async fn granted(&self, name: &str, address: IpAddr) -> bool {
        self.take(name, address).await.is_ok()
    }

    /// How many of so many tries are granted.
    async fn count(&self, tries: usize, name: &str, address: impl Fn(u8) -> IpAddr) -> usize {
        let mut granted = 0;
        for n in 0..tries {
            granted += usize::from(self.granted(name, address(u8::try_from(n).unwrap())).await);
        }
        granted
    }

    async fn log_in(&self, name: &str, address: IpAddr) {
        let taken = self.take(name, address).await.unwrap();
        self.throttle.give_back(taken, Acquittal::Right).await;
    }

    fn at(&self, secs: u64) {
        self.clock.set(START.plus(Duration::from_secs(secs)));
    }
}

/// Another network for each number.
fn strange(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, n, 1))
}

#[tokio::test]
async fn burst_tries_then_one_per_interval() {
    let rig = rig();
    assert_eq!(rig.count(5, "alice", |_| HOME).await, 5);
    assert_eq!(rig.take("alice", HOME).await.unwrap_err(), Duration::from_secs(30));
    rig.at(29);
    assert_eq!(rig.take("alice", HOME).await.unwrap_err(), Duration::from_secs(1));
    rig.at(30);
    assert_eq!(rig.count(2, "alice", |_| HOME).await, 1);
}

#[tokio::test]
async fn a_refused_try_is_not_counted_anywhere() {
    let rig = rig();
    rig.count(100, "alice", |_| HOME).await;
    assert_eq!(rig.count(10, "alice", strange).await, 3, "the account's bucket counts what was granted");
    rig.at(30);
    assert!(!rig.granted("alice", HOME).await);
    rig.at(60);
    assert!(rig.granted("alice", HOME).await);
}

#[tokio::test]
async fn a_success_gives_its_try_back_and_so_does_a_try_that_was_not_judged() {
    for why in [Acquittal::Right, Acquittal::NotJudged] {
        let rig = rig();
        for _ in 0..50 {
            let taken = rig.take("alice", HOME).await.unwrap();
            rig.throttle.give_back(taken, why).await;
        }
        assert_eq!(rig.count(6, "alice", |_| HOME).await, 5);
    }
}

#[tokio::test]
async fn a_try_that_was_not_answered_is_the_networks_and_not_the_accounts() {
    let rig = rig();
    for _ in 0..1000 {
        let taken = rig.take("alice", HOME).await.unwrap();
        rig.throttle.give_back(taken, Acquittal::Unanswered).await;
    }
    assert_eq!(rig.take("bob", HOME).await.unwrap_err(), Duration::from_secs(1), "the network's bucket");
    assert_eq!(rig.count(9, "alice", strange).await, 8);
    rig.at(1000);
    assert_eq!(rig.count(6, "bob", |_| HOME).await, 5);
}

#[tokio::test]
async fn a_try_counts_before_it_is_judged() {
    let rig = rig();
    let mut pending = Vec::new();
    for _ in 0..60 {
        pending.extend(rig.take("alice", HOME).await);
    }
    assert_eq!(pending.len(), 5);
}

#[tokio::test]
async fn neither_spelling_nor_neighbouring_address_gets_round_it() {
    let rig = rig();
    for name in ["alice", "ALICE", " alice", "alice\t", "Alice"] {
        assert!(rig.granted(name, HOME).await);
    }
    assert!(!rig.granted("aLice", "192.0.2.77".parse().unwrap()).await);
    assert!(!rig.granted("alice", "::ffff:192.0.2.9".parse().unwrap()).await);
    assert!(rig.granted("alice", "192.0.3.1".parse().unwrap()).await);
    assert!(rig.granted("bob", HOME).await);
}

#[tokio::test]
async fn one_ipv6_host_has_one_network() {
    let rig = rig();
    let host = |n: u8| {
        let n = u16::from(n);
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, n, n, n, n))
    };
    assert_eq!(rig.count(9, "alice", host).await, 5);
}

#[tokio::test]
async fn strangers_use_up_the_accounts_bucket_and_its_owner_does_not_notice() {
    let rig = rig();
    rig.log_in("alice", HOME).await;
    assert_eq!(rig.count(50, "alice", strange).await, 8);
    for _ in 0..10 {
        rig.log_in("alice", "192.0.2.200".parse().unwrap()).await;
    }
    assert!(!rig.granted("alice", strange(200)).await);
    // From home too, guesses are limited, by the bucket of account and network.
    assert_eq!(rig.count(50, "alice", |_| HOME).await, 5);
}

#[tokio::test]
async fn a_network_is_known_to_the_account_that_was_right_and_to_no_other() {
    let rig = rig();
    rig.log_in("alice", HOME).await;
    let unjudged = rig.take("bob", HOME).await.unwrap();
    rig.throttle.give_back(unjudged, Acquittal::NotJudged).await;
    for name in ["alice", "bob"] {
        assert_eq!(rig.count(8, name, strange).await, 8);
    }
    assert!(rig.granted("alice", HOME).await);
    assert!(!rig.granted("bob", HOME).await);
}

#[tokio::test]
async fn a_known_network_is_forgotten_after_thirty_days_without_a_login() {
    let rig = rig();
    rig.log_in("alice", HOME).await;
    for days in [29, 58] {
        rig.at(days * 24 * 3600);
        assert_eq!(rig.count(9, "alice", strange).await, 8);
        rig.log_in("alice", HOME).await;
    }
    rig.clock.advance(KNOWN_FOR);
    assert_eq!(rig.count(9, "alice", strange).await, 8);
    assert!(!rig.granted("alice", HOME).await);
}

#[tokio::test]
async fn a_clock_set_back_locks_nobody_out_for_long() {
    let rig = rig();
    while rig.granted("alice", HOME).await {}
    rig.clock.set(START.minus(Duration::from_secs(20)));
    assert_eq!(rig.take("alice", HOME).await.unwrap_err(), Duration::from_secs(50));
    rig.at(29);
    assert!(!rig.granted("alice", HOME).await, "an empty bucket does not fill when the clock is set back");
    rig.clock.set(START.minus(Duration::from_secs(1_000_000)));
    assert!(rig.granted("alice", HOME).await);
}

#[test]
fn a_new_secret_still_knows_the_networks_of_the_one_before() {
    let (old, new) = (AttemptNames::new(&[1; 32], "here"), AttemptNames::new(&[2; 32], "here"));
    let both = AttemptNames::new(&[2; 32], "here").with_previous(&[1; 32]);
    let [old, new, both] = [old, new, both].map(|names| names.attempt("alice", HOME));
    assert_eq!(both, Attempt { formerly: vec![old.account_network], ..new.clone() });
    assert_ne!(old.account_network, new.account_network);
    assert_eq!((old.account_shard, old.network_shard), (new.account_shard, new.network_shard));
}

/// A shared throttle that grants all, or fails.
#[derive(Default)]
struct Elsewhere {
    down: AtomicBool,
    given_back: AtomicUsize,
}

impl Elsewhere {
    fn up(&self) -> Result<(), StoreError> {
        let down = self.down.load(Ordering::SeqCst);
        if down { Err(StoreError::Unavailable("by order of the test".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl SharedThrottle for Elsewhere {
    async fn take(&self, _: &Attempt, _: &ThrottleSettings) -> Result<Verdict, StoreError> {
        self.up().map(|()| Verdict::Granted { stranger: true })
    }

    async fn give_back(
        &self,
        _: &Attempt,
        _: bool,
        _: Acquittal,
        _: &ThrottleSettings,
    ) -> Result<(), StoreError> {
        self.given_back.fetch_add(1, Ordering::SeqCst);
        self.up()
    }
}

#[tokio::test]
async fn while_the_store_fails_it_is_counted_here_and_given_back_where_it_was_taken() {
    let elsewhere = Arc::new(Elsewhere::default());
    let rig = rig_with(Some(elsewhere.clone()));
    assert_eq!(rig.count(20, "alice", |_| HOME).await, 20);
    let foreign = rig.take("alice", HOME).await.unwrap();
    elsewhere.down.store(true, Ordering::SeqCst);
    assert_eq!(rig.count(20, "alice", |_| HOME).await, 5);
    rig.throttle.give_back(foreign, Acquittal::NotJudged).await;
    assert!(!rig.granted("alice", HOME).await, "a try taken there is not given back here");
    rig.at(30);
    let own = rig.take("alice", HOME).await.unwrap();
    elsewhere.down.store(false, Ordering::SeqCst);
    rig.throttle.give_back(own, Acquittal::NotJudged).await;
    assert_eq!(elsewhere.given_back.load(Ordering::SeqCst), 1);
    elsewhere.down.store(true, Ordering::SeqCst);
    assert!(rig.granted("alice", HOME).await);
}
