//! The login throttle: gateways on one Redis count together, each by itself while it is down, and no stranger
//! locks an owner out.

use crate::support::config::{PASSWORD, SharedKeys};
use crate::support::measure::Times;
use crate::support::person::login_request;
use crate::support::redis::Redis;
use crate::support::{Config, Gateway, Response, Sessions, eventually, post};
use serde_json::json;
use std::time::{Duration, Instant};

/// Few tries on one account from one network, many of everything else.
const FEW: &str = "{ account_network: { burst: 4, every: 1h }, network: { burst: 1000, every: 1s }, \
                   account: { burst: 1000, every: 1s } }";

/// Two gateways that give Redis this long before they count by themselves.
fn pair(redis: &Redis, deadline: &str, throttle: &str) -> [Gateway; 2] {
    let keys = SharedKeys::new();
    let store = format!("url: \"{}\", timeout: {deadline}", redis.url());
    let sessions = Sessions::redis_at(&store, &keys).set("throttle", throttle);
    let config = behind_a_proxy(sessions);
    [Gateway::start(&config), Gateway::start(&config)]
}

fn behind_a_proxy(sessions: Sessions) -> Config {
    Config::new().sessions(sessions).server("trusted_proxies", "[127.0.0.1/32]")
}

fn wrong(gateway: &Gateway, user: &str) -> Response {
    let body = json!({ "username": user, "password": "wrong", "delivery": "body" });
    post("/auth/login").json(&body).send(&gateway.address())
}

fn right(gateway: &Gateway) -> Response {
    login_request("alice").send(&gateway.address())
}

/// A try on alice from a network of its own.
fn from(gateway: &Gateway, client: &str, password: &str) -> u16 {
    let body = json!({ "username": "alice", "password": password, "delivery": "body" });
    post("/auth/login").header("X-Forwarded-For", client).json(&body).send(&gateway.address()).status
}

#[test]
fn two_gateways_on_one_redis_share_the_count_and_a_success_is_given_back() {
    let redis = Redis::start();
    let [one, two] = pair(&redis, "10s", FEW);
    for gateway in [&one, &two].repeat(5) {
        right(gateway).expect(200);
    }
    let statuses: Vec<u16> =
        [&one, &two].repeat(4).into_iter().map(|gateway| wrong(gateway, "alice").status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 429, 429, 429, 429]);
    for gateway in [&one, &two] {
        let response = right(gateway).expect(429);
        assert_eq!(response.member("code"), "too_many_attempts");
        let after: u64 = response.header("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!(after > 0 && after <= 3600);
    }
    assert_eq!(wrong(&two, "bob").status, 401);
    let throttled = [("event", "login_throttled")];
    assert!(one.metric_becomes("portcullis_session_events_total", &throttled, 3.0));
}

#[test]
fn while_redis_is_down_each_gateway_counts_and_nothing_waits_for_it() {
    let mut redis = Redis::start();
    let [one, two] = pair(&redis, "1s", FEW);
    wrong(&one, "alice").expect(401);
    redis.stop();
    for gateway in [&one, &two] {
        // A right password costs no try, though nothing can be opened.
        for _ in 0..6 {
            assert_eq!(right(gateway).expect(503).member("code"), "temporarily_unavailable");
        }
        let statuses: Vec<u16> = (0..6).map(|_| wrong(gateway, "alice").status).collect();
        assert_eq!(statuses, [401, 401, 401, 401, 429, 429]);
        right(gateway).expect(429);
        right_as(gateway, "bob").expect(503);
    }
    redis.start_again();
    // What was counted before the outage counts again.
    for gateway in [&one, &two] {
        assert!(eventually(Duration::from_secs(15), || right(gateway).status == 200));
    }
    let statuses: Vec<u16> = (0..4).map(|_| wrong(&two, "alice").status).collect();
    assert_eq!(statuses, [401, 401, 401, 429]);
}

fn right_as(gateway: &Gateway, user: &str) -> Response {
    login_request(user).send(&gateway.address())
}

#[test]
fn a_hanging_redis_delays_a_judgement_by_no_more_than_its_timeout() {
    let redis = Redis::start();
    let [one, _two] = pair(&redis, "2s", FEW);
    let judged = |user: &str| {
        let times = (0..3).map(|_| {
            let start = Instant::now();
            wrong(&one, user).expect(401);
            start.elapsed()
        });
        Times::new(times.collect()).percentile(50)
    };
    let usual = judged("bob");
    redis.pause();
    let delayed = judged("alice");
    // One deadline of two seconds, not two of them.
    assert!(delayed.saturating_sub(usual) < Duration::from_secs(4), "{usual:?} before, {delayed:?} then");
    wrong(&one, "alice").expect(401);
    wrong(&one, "alice").expect(429);
    redis.resume();
}

#[track_caller]
fn strangers_do_not_lock_the_owner_out(here: &Gateway, there: &Gateway) {
    assert_eq!(from(here, "203.0.113.7", PASSWORD), 200);
    let statuses: Vec<u16> = (0..30).map(|n| from(here, &format!("198.51.{n}.1"), "guess")).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 20, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 10, "{statuses:?}");
    // Not even the right password helps a stranger now, nor does the owner's from an unknown network.
    assert_eq!(from(there, "198.51.200.1", PASSWORD), 429);
    for gateway in [here, there] {
        assert_eq!(from(gateway, "203.0.113.7", PASSWORD), 200);
        assert_eq!(from(gateway, "203.0.113.200", PASSWORD), 200, "the network is known, not the address");
    }
    // What is known is no licence to guess: five tries from there, as from anywhere.
    let statuses: Vec<u16> = (0..6).map(|_| from(there, "203.0.113.7", "guess")).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429]);
}

/// The default budgets, slow enough that nothing refills while the test runs.
const USUAL: &str = "{ account_network: { burst: 5, every: 1h }, network: { burst: 30, every: 1h }, \
                     account: { burst: 20, every: 1h } }";

#[test]
fn strangers_from_thirty_networks_do_not_lock_the_owner_out() {
    let redis = Redis::start();
    let [one, two] = pair(&redis, "10s", USUAL);
    strangers_do_not_lock_the_owner_out(&one, &two);
}

#[test]
fn nor_do_they_on_the_embedded_store() {
    let gateway = Gateway::start(&behind_a_proxy(Sessions::embedded().set("throttle", USUAL)));
    strangers_do_not_lock_the_owner_out(&gateway, &gateway);
}
