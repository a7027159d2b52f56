//! The life of a token on several gateways with one Redis: raced, lost on the way, replayed, ended.

use crate::support::measure::Times;
use crate::support::person::{
    Tokens, call, login, login_as, login_request, logout, refresh, refresh_request, sessions,
};
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::site::Site;
use crate::support::{Connection, Gateway, eventually, get, wait_for};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const EVERY_REFRESH_ROTATES: &str = "{ grace: 0s, coalesce: 0s }";
const ONLY_THE_NEWEST_IS_GOOD: &str = "{ grace: 0s, coalesce: 0s, lost_response: 0s }";

/// The generation of a session in the store.
fn generation(redis: &Redis, session: &str) -> u32 {
    let keys = redis.keys(&format!("rs:*:{session}"));
    assert_eq!(keys.len(), 1, "{keys:?}");
    redis.ask(&format!("BITFIELD_RO {} GET u32 32", keys[0])).parse().expect("a generation")
}

#[test]
fn sixty_four_refreshes_of_one_token_over_three_gateways_make_one_generation() {
    let redis = Redis::start();
    let site = Site::on(redis.port(), "{}");
    let gateways = [site.gateway(), site.gateway(), site.gateway()];
    let first = login(&gateways[0]);
    let before = generation(&redis, &first.session);
    let together = Barrier::new(64);
    let answers: Vec<Tokens> = thread::scope(|scope| {
        let tabs: Vec<_> = (0..64)
            .map(|n| {
                let (request, together) = (refresh_request(&first.refresh), &together);
                let mut connection = Connection::open(&gateways[n % 3].address()).unwrap();
                scope.spawn(move || {
                    together.wait();
                    Tokens::from_body(connection.exchange(&request).unwrap())
                })
            })
            .collect();
        tabs.into_iter().map(|tab| tab.join().unwrap()).collect()
    });
    assert_eq!(generation(&redis, &first.session), before + 1);
    assert_ne!(answers[0].refresh, first.refresh);
    for tokens in &answers {
        assert_eq!(tokens.refresh, answers[0].refresh, "the chain forked");
    }
    for (tokens, gateway) in answers.iter().zip(gateways.iter().cycle()) {
        assert_eq!(call(gateway, &tokens.access), 200);
    }
    assert_eq!(sessions(&gateways[1], &answers[63].access).len(), 1);
}

/// A gateway is killed after the store has rotated and before the client hears of it.
fn killed_before_the_answer(rules: &str, outcome: &str) {
    let redis = Redis::start();
    let relay = Relay::to(redis.port());
    // Both have the same secret and keys: only the way to the store differs.
    let site = Site::on(redis.port(), rules);
    let other = site.gateway();
    let site = site.configured(|config| {
        config.store(&format!("url: \"redis://127.0.0.1:{}\", timeout: 10s", relay.port()))
    });
    let mut dying = site.gateway();
    // From here on Redis knows the script by its hash: it takes one request, which nothing holds up.
    refresh(&dying, &login_as(&dying, "bob").refresh).expect(200);
    let tokens = login(&dying);
    relay.hold_answers();
    let (address, request) = (dying.address(), refresh_request(&tokens.refresh));
    let client = thread::spawn(move || request.try_send(&address));
    assert!(
        eventually(Duration::from_secs(8), || generation(&redis, &tokens.session) == 1),
        "the store never rotated"
    );
    assert!(!client.is_finished(), "the client was answered");
    dying.kill9();
    assert!(client.join().unwrap().is_err(), "the client was answered");

    let next = Tokens::from_body(refresh(&other, &tokens.refresh));
    assert!(other.metric_becomes("portcullis_session_events_total", &[("event", outcome)], 1.0), "{outcome}");
    assert_eq!(generation(&redis, &tokens.session), 1);
    assert_ne!(next.refresh, tokens.refresh);
    assert_eq!(call(&other, &next.access), 200);
    assert_eq!(refresh(&other, &next.refresh).status, 200);
}

#[test]
fn a_gateway_killed_between_the_store_and_the_answer_costs_nothing() {
    killed_before_the_answer("{}", "refresh_retry");
}

#[test]
fn the_answer_that_died_with_a_gateway_is_recovered_after_the_grace_period_too() {
    killed_before_the_answer(EVERY_REFRESH_ROTATES, "refresh_recovered");
}

/// Logs in, refreshes `ahead` times, replays generation `replayed` at one gateway; how long until the other
/// refuses the access token.
fn replay(here: &mut Connection, there: &mut Connection, ahead: usize, replayed: usize) -> Duration {
    let mut chain = vec![Tokens::from_body(here.exchange(&login_request("alice")).unwrap())];
    for at in 0..ahead {
        let next = Tokens::from_body(here.exchange(&refresh_request(&chain[at].refresh)).unwrap());
        assert_ne!(next.refresh, chain[at].refresh);
        chain.push(next);
    }
    let newest = &chain[ahead];
    let call = get("/api/orders").bearer(&newest.access);
    there.exchange(&call).unwrap().expect(200);
    let answer = here.exchange(&refresh_request(&chain[replayed].refresh)).unwrap();
    let start = Instant::now();
    assert_eq!(answer.expect(401).member("code"), "token_reused");
    let refused = wait_for(Duration::from_secs(10), || {
        let answer = there.exchange(&call).unwrap();
        (answer.status == 401).then(|| (start.elapsed(), answer.reason()))
    });
    let (felt, reason) = refused.expect("the replay was never felt elsewhere");
    assert_eq!(reason, "revoked");
    let answer = there.exchange(&refresh_request(&newest.refresh)).unwrap();
    assert_eq!(answer.expect(401).member("code"), "session_revoked");
    felt
}

#[test]
fn a_replay_of_any_of_fifty_older_generations_is_felt_at_the_other_gateway_within_half_a_second() {
    const GENERATIONS: usize = 50;
    const ROUNDS: usize = 200;
    let redis = Redis::forgetful();
    let site = Site::on(redis.port(), ONLY_THE_NEWEST_IS_GOOD);
    let (here, there) = (site.gateway(), site.gateway());
    let (round, felt) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut here = Connection::open(&here.address()).unwrap();
                let mut there = Connection::open(&there.address()).unwrap();
                loop {
                    // Each generation of a long chain once; then short ones, for the measurement.
                    let took = match round.fetch_add(1, Ordering::Relaxed) {
                        replayed @ 0..GENERATIONS => replay(&mut here, &mut there, GENERATIONS, replayed),
                        GENERATIONS..ROUNDS => replay(&mut here, &mut there, 1, 0),
                        _ => break,
                    };
                    felt.lock().unwrap().push(took);
                }
            });
        }
    });
    let felt = Times::new(felt.into_inner().unwrap());
    println!("a replay is felt at the other gateway: {felt}");
    assert!(felt.percentile(99) < Duration::from_millis(500), "{felt}");
}

/// The status and, for a refusal, the reason code of a call under a path.
fn reach(gateway: &Gateway, path: &str, access: &str) -> (u16, String) {
    let answer = get(path).bearer(access).send(&gateway.address());
    let reason = if answer.status == 200 { String::new() } else { answer.reason() };
    if answer.status == 503 {
        let after: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!(after >= 1);
    }
    (answer.status, reason)
}

#[test]
fn a_route_that_asks_the_store_refuses_on_the_very_next_request_and_waits_for_the_store() {
    let mut redis = Redis::forgetful();
    let site = Site::new(&format!("url: \"{}\", timeout: 1s", redis.url()), "{}").configured(|config| {
        config.route("{ name: safe, match: { path: /safe/** }, upstream: app, auth: { revocation: sync } }")
    });
    let (here, there) = (site.gateway(), site.gateway());
    // The feed is read ten times a second: it does not win this race thirty times in a row.
    for _ in 0..30 {
        let tokens = login(&here);
        assert_eq!(reach(&there, "/safe/x", &tokens.access).0, 200);
        logout(&here, &tokens.refresh).expect(204);
        assert_eq!(reach(&there, "/safe/x", &tokens.access), (401, "revoked".to_owned()));
    }

    let tokens = login(&here);
    assert_eq!(reach(&there, "/safe/x", &tokens.access).0, 200);
    let without_store = |how: &str| {
        for _ in 0..3 {
            let safe = reach(&there, "/safe/x", &tokens.access);
            assert_eq!(safe, (503, "store_unavailable".to_owned()), "the store is {how}");
            assert_eq!(reach(&there, "/api/x", &tokens.access).0, 200, "the store is {how}");
        }
    };
    redis.pause();
    without_store("silent");
    redis.resume();
    let back = || reach(&there, "/safe/x", &tokens.access).0 == 200;
    assert!(eventually(Duration::from_secs(10), back));
    redis.stop();
    without_store("gone");
    // It comes back without what it knew: unknown is ended.
    redis.start_again();
    let refused = || reach(&there, "/safe/x", &tokens.access) == (401, "revoked".to_owned());
    assert!(eventually(Duration::from_secs(10), refused));
}

#[test]
fn a_redis_that_evicts_and_one_that_forgets_are_warned_of() {
    const EVICTS: &str = "set maxmemory-policy noeviction";
    const FORGETS: &str = "set appendonly yes";
    let imprudent = Redis::start_with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"]);
    let site = Site::on(imprudent.port(), "{}");
    let gateway = site.gateway();
    let warned = || [EVICTS, FORGETS].iter().all(|mend| gateway.stderr().contains(mend));
    assert!(eventually(Duration::from_secs(5), warned), "{}", gateway.stderr());
    let lines = gateway.stderr();
    let warnings = lines.lines().filter(|line| line.contains("Redis") && line.contains("WARN"));
    assert_eq!(warnings.count(), 2, "{lines}");

    let prudent = Redis::start();
    let site = Site::on(prudent.port(), "{}");
    let gateway = site.gateway();
    login(&gateway);
    assert!(!gateway.stderr().contains(EVICTS) && !gateway.stderr().contains(FORGETS));
}
