//! Where sessions are kept: what was acknowledged survives, an outage is never an accusation, and gateways
//! on one Redis are one.

use crate::support::config::SharedKeys;
use crate::support::person::{
    COOKIE, Tokens, browser_login, browser_refresh, call, login, login_as, login_in_browser, login_request,
    logout, refresh, refresh_request,
};
use crate::support::redis::Redis;
use crate::support::wait::let_pass;
use crate::support::{
    Config, Gateway, Issuer, Response, Sessions, Upstream, eventually, get, post, wait_for,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const EVERY_REFRESH_ROTATES: &str = "{ grace: 0s, coalesce: 0s }";

fn layout(upstream: &Upstream, sessions: Sessions) -> Config {
    Config::to(upstream).sessions(sessions).route("{ name: api, match: { path: /api/** }, upstream: app }")
}

struct Pair {
    _upstream: Upstream,
    redis: Redis,
    one: Gateway,
    two: Gateway,
}

/// Two gateways that share a Redis, a secret and a signing key, and nothing else.
fn pair(refresh_token: &str) -> Pair {
    pair_within("10s", refresh_token)
}

/// What an outage costs each call, where one is made.
const BRIEF: &str = "1s";

fn pair_within(timeout: &str, refresh_token: &str) -> Pair {
    let (upstream, redis, keys) = (Upstream::start(), Redis::start(), SharedKeys::new());
    let sessions = Sessions::redis_within(&redis.url(), timeout, &keys).set("refresh_token", refresh_token);
    let config = layout(&upstream, sessions);
    let (one, two) = (Gateway::start(&config), Gateway::start(&config));
    Pair { _upstream: upstream, redis, one, two }
}

/// An answer to an outage: 503, told when to come back, nothing cleared, nobody accused.
#[track_caller]
fn an_outage(response: Response) {
    let response = response.expect(503);
    assert_eq!(response.member("code"), "temporarily_unavailable");
    let after: u64 = response.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!(after >= 1);
    assert!(response.all("set-cookie").is_empty(), "an outage touched the cookie");
}

#[test]
fn what_a_refresh_acknowledged_survives_kill_9_under_load() {
    let upstream = Upstream::start();
    let sessions = Sessions::embedded().set("refresh_token", EVERY_REFRESH_ROTATES);
    let mut gateway = Gateway::start(&layout(&upstream, sessions));
    for round in 0..3 {
        let stop = AtomicBool::new(false);
        let mut clients: Vec<Tokens> = (0..4).map(|_| login(&gateway)).collect();
        // Every client refreshes what it was last given, and now and then starts anew, until the kill.
        let last: Vec<Tokens> = thread::scope(|scope| {
            let (gateway, stop) = (&gateway, &stop);
            let running: Vec<_> = clients
                .drain(..)
                .map(|mut tokens| {
                    scope.spawn(move || {
                        let mut acknowledged = 0;
                        while !stop.load(Ordering::SeqCst) {
                            match refresh_request(&tokens.refresh).try_send(&gateway.address()) {
                                Ok(response) => {
                                    tokens = Tokens::from_body(response);
                                    acknowledged += 1;
                                }
                                // The kill: what was not acknowledged does not count.
                                Err(_) => break,
                            }
                            if acknowledged % 5 == 0
                                && let Ok(response) = login_request("alice").try_send(&gateway.address())
                            {
                                tokens = Tokens::from_body(response);
                            }
                        }
                        tokens
                    })
                })
                .collect();
            let_pass(Duration::from_millis(400 + 150 * round));
            let id = gateway.process();
            let killed = std::process::Command::new("kill").args(["-9", &id.to_string()]).status();
            assert!(killed.expect("the kill program").success());
            stop.store(true, Ordering::SeqCst);
            running.into_iter().map(|client| client.join().unwrap()).collect()
        });
        gateway.restart();
        for tokens in last {
            let next = Tokens::from_body(refresh(&gateway, &tokens.refresh));
            assert_eq!(call(&gateway, &next.access), 200);
        }
    }
}

#[test]
fn a_logout_survives_kill_9() {
    let upstream = Upstream::start();
    let mut gateway = Gateway::start(&layout(&upstream, Sessions::embedded()));
    let (ended, all) = (login(&gateway), login_as(&gateway, "bob"));
    logout(&gateway, &ended.refresh).expect(204);
    post("/auth/logout-all").bearer(&all.access).send(&gateway.address()).expect(200);
    gateway.kill9();
    gateway.restart();
    for tokens in [&ended, &all] {
        assert_eq!(call(&gateway, &tokens.access), 401);
        let response = refresh(&gateway, &tokens.refresh).expect(401);
        assert_eq!(response.member("code"), "session_revoked");
    }
}

#[test]
fn a_session_opened_at_one_gateway_is_refreshed_at_the_other_and_ended_from_either() {
    let pair = pair("{}");
    for (first, second) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
        let tokens = login(first);
        assert_eq!(call(second, &tokens.access), 200);
        let next = Tokens::from_body(refresh(second, &tokens.refresh));
        assert_eq!(call(first, &next.access), 200);
        // The generation before, at the first gateway: the same successor.
        assert_eq!(Tokens::from_body(refresh(first, &tokens.refresh)).refresh, next.refresh);
        logout(second, &next.refresh).expect(204);
        assert_eq!(call(second, &next.access), 401);
        let response = refresh(first, &next.refresh).expect(401);
        assert_eq!(response.member("code"), "session_revoked");
        assert!(eventually(Duration::from_secs(3), || call(first, &next.access) == 401));
    }
}

#[test]
fn a_logout_is_felt_at_the_other_gateway_within_half_a_second() {
    let pair = pair("{}");
    let mut felt: Vec<Duration> = (0..9)
        .map(|_| {
            let tokens = login(&pair.one);
            assert_eq!(call(&pair.two, &tokens.access), 200);
            logout(&pair.one, &tokens.refresh).expect(204);
            let start = Instant::now();
            wait_for(Duration::from_secs(5), || {
                (call(&pair.two, &tokens.access) == 401).then(|| start.elapsed())
            })
            .expect("the logout was never felt")
        })
        .collect();
    felt.sort();
    // The median: on a loaded machine a single slow round says nothing about the gateway.
    assert!(felt[4] < Duration::from_millis(500), "{felt:?}");
}

#[test]
fn a_replay_and_a_logout_all_are_felt_at_the_other_gateway_too() {
    let pair = pair("{ grace: 0s, coalesce: 0s, lost_response: 0s }");
    let stolen = login(&pair.one);
    let next = Tokens::from_body(refresh(&pair.two, &stolen.refresh));
    assert_eq!(call(&pair.two, &next.access), 200);
    assert_eq!(refresh(&pair.one, &stolen.refresh).expect(401).member("code"), "token_reused");
    assert!(eventually(Duration::from_secs(3), || call(&pair.two, &next.access) == 401));
    assert_eq!(refresh(&pair.two, &next.refresh).expect(401).member("code"), "session_revoked");

    let many: Vec<_> = (0..3).map(|_| login(&pair.one)).collect();
    let answer = post("/auth/logout-all").bearer(&many[0].access).send(&pair.two.address()).expect(200);
    assert_eq!(answer.json()["revoked"], 3);
    for tokens in &many {
        assert!(eventually(Duration::from_secs(3), || call(&pair.one, &tokens.access) == 401));
    }
    assert_eq!(call(&pair.one, &login(&pair.two).access), 200);
}

#[test]
fn tabs_that_race_over_two_gateways_get_the_same_successor() {
    let pair = pair("{}");
    let first = login(&pair.one);
    let tokens: Vec<String> = thread::scope(|scope| {
        let tabs: Vec<_> = (0..16)
            .map(|n| {
                let gateway = if n % 2 == 0 { &pair.one } else { &pair.two };
                let token = &first.refresh;
                scope.spawn(move || Tokens::from_body(refresh(gateway, token)).refresh)
            })
            .collect();
        tabs.into_iter().map(|tab| tab.join().unwrap()).collect()
    });
    assert_ne!(tokens[0], first.refresh);
    assert!(tokens.iter().all(|token| *token == tokens[0]), "the chain forked");
}

#[test]
fn a_gateway_started_later_knows_what_was_ended_before() {
    let (upstream, redis, keys) = (Upstream::start(), Redis::start(), SharedKeys::new());
    let config = layout(&upstream, Sessions::redis(&redis.url(), &keys));
    let one = Gateway::start(&config);
    let (ended, alive) = (login(&one), login_as(&one, "bob"));
    logout(&one, &ended.refresh).expect(204);
    let two = Gateway::start(&config);
    assert_eq!(call(&two, &ended.access), 401);
    assert_eq!(call(&two, &alive.access), 200);
}

#[test]
fn while_redis_is_down_valid_tokens_pass_and_sessions_wait() {
    let mut pair = pair_within(BRIEF, "{}");
    let (app, browser) = (login(&pair.one), login_in_browser(&pair.one));
    assert_eq!(call(&pair.one, &app.access), 200);
    pair.redis.stop();
    for _ in 0..3 {
        an_outage(refresh(&pair.one, &app.refresh));
        an_outage(browser_refresh(&browser.refresh).send(&pair.one.address()));
        an_outage(login_request("alice").send(&pair.one.address()));
        an_outage(browser_login("alice").send(&pair.one.address()));
        let start = Instant::now();
        assert_eq!(call(&pair.one, &app.access), 200);
        assert_eq!(call(&pair.two, &browser.access), 200, "a token this gateway sees for the first time");
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "verification waited for the store: {:?}",
            start.elapsed()
        );
    }
    // A wrong password is not judged during an outage either way, and a forged token is still just forged.
    assert_eq!(refresh(&pair.one, "prt_forged").expect(401).member("code"), "invalid_token");
    assert!(pair.one.metric("portcullis_sessions_store_errors_total", &[]) >= 1.0);

    pair.redis.start_again();
    let recovered =
        |request: &dyn Fn() -> Response| eventually(Duration::from_secs(15), || request().status == 200);
    assert!(recovered(&|| refresh(&pair.one, &app.refresh)), "no recovery without a restart");
    assert!(recovered(&|| browser_refresh(&browser.refresh).send(&pair.two.address())));
    assert!(recovered(&|| login_request("alice").send(&pair.one.address())));
}

#[test]
fn a_hanging_redis_costs_its_timeout_and_not_more() {
    let pair = pair_within(BRIEF, "{}");
    let tokens = login(&pair.one);
    pair.redis.pause();
    let start = Instant::now();
    an_outage(refresh(&pair.one, &tokens.refresh));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let start = Instant::now();
    let responses: Vec<Response> = thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| refresh(&pair.one, &tokens.refresh))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    responses.into_iter().for_each(an_outage);
    assert!(start.elapsed() < Duration::from_secs(4), "one after the other: {:?}", start.elapsed());
    assert_eq!(call(&pair.one, &tokens.access), 200);
    pair.redis.resume();
    // What hung may or may not have happened: either way the client's token is good.
    assert!(eventually(Duration::from_secs(15), || refresh(&pair.one, &tokens.refresh).status == 200));
}

#[test]
fn a_logout_during_an_outage_is_accepted_felt_here_and_carried_out_later() {
    let mut pair = pair_within(BRIEF, "{}");
    let tokens = login_in_browser(&pair.one);
    assert_eq!(call(&pair.two, &tokens.access), 200);
    pair.redis.stop();
    let request = post("/auth/logout").same_origin().cookie(&format!("{COOKIE}={}", tokens.refresh));
    let response = request.send(&pair.one.address()).expect(202);
    assert!(response.header("set-cookie").is_some_and(|line| line.contains("Max-Age=0")));
    assert_eq!(call(&pair.one, &tokens.access), 401, "this gateway knows");
    pair.redis.start_again();
    assert!(
        eventually(Duration::from_secs(20), || call(&pair.two, &tokens.access) == 401),
        "the logout was lost"
    );
    let ended = || browser_refresh(&tokens.refresh).send(&pair.two.address());
    assert!(eventually(Duration::from_secs(5), || ended().status == 401));
    assert_eq!(ended().member("code"), "session_revoked");
}

#[test]
fn a_gateway_starts_without_redis_serves_what_it_can_and_recovers() {
    let (upstream, issuer, keys) = (Upstream::start(), Issuer::start(), SharedKeys::new());
    let mut redis = Redis::start();
    let url = redis.url();
    redis.stop();
    let config =
        layout(&upstream, Sessions::redis_within(&url, BRIEF, &keys)).issuer("corp", &issuer.settings());
    let gateway = Gateway::start_live(&config);
    assert_eq!(call(&gateway, &issuer.sign()), 200);
    an_outage(login_request("alice").send(&gateway.address()));
    redis.start_again();
    assert!(
        eventually(Duration::from_secs(15), || login_request("alice").send(&gateway.address()).status == 200)
    );
    assert!(eventually(Duration::from_secs(5), || get("/readyz").send(&gateway.admin()).status == 200));
}

#[test]
fn a_wiped_redis_asks_for_a_login_and_accuses_nobody() {
    let pair = pair("{}");
    let tokens = login(&pair.one);
    pair.redis.command(&["FLUSHALL"]).unwrap();
    let response = refresh(&pair.one, &tokens.refresh).expect(401);
    assert_eq!(response.member("code"), "session_expired");
    assert!(pair.one.metric("portcullis_session_events_total", &[("event", "refresh_reused")]) < 0.5);
    login(&pair.one);
}

#[test]
fn a_login_after_a_logout_all_that_redis_forgot_is_good_at_once_and_stays_so() {
    let pair = pair("{}");
    for _ in 0..5 {
        let before = login(&pair.one);
        post("/auth/logout-all").bearer(&before.access).send(&pair.one.address()).expect(200);
        pair.redis.command(&["FLUSHALL"]).unwrap();
        let tokens = login(&pair.one);
        assert_eq!(call(&pair.one, &tokens.access), 200);
        // Both gateways tell Redis again what they know to be ended; this session is not among it.
        let feed_age = |gateway: &Gateway| gateway.metric("portcullis_revocation_feed_age_seconds", &[]);
        let_pass(Duration::from_millis(300));
        assert!(eventually(Duration::from_secs(5), || feed_age(&pair.one) < 1.0 && feed_age(&pair.two) < 1.0));
        for gateway in [&pair.one, &pair.two] {
            assert_eq!(call(gateway, &tokens.access), 200);
            assert!(eventually(Duration::from_secs(3), || call(gateway, &before.access) == 401));
        }
        refresh(&pair.two, &tokens.refresh).expect(200);
    }
}

#[test]
fn forged_refresh_tokens_never_reach_the_store() {
    let pair = pair("{}");
    let tokens = login(&pair.one);
    refresh(&pair.one, &tokens.refresh).expect(200);
    let before = pair.redis.script_calls();
    assert!(before > 0, "scripts are not counted");
    let body = &tokens.refresh[4..];
    for at in (0..body.len()).step_by(3) {
        let changed = if &body[at..=at] == "A" { "B" } else { "A" };
        let forged = format!("prt_{}{changed}{}", &body[..at], &body[at + 1..]);
        assert_eq!(refresh(&pair.one, &forged).expect(401).member("code"), "invalid_token");
    }
    assert_eq!(pair.redis.script_calls(), before);
}

#[test]
fn redis_holds_nothing_that_makes_a_token() {
    let pair = pair("{}");
    let tokens = login(&pair.one);
    let next = Tokens::from_body(refresh(&pair.one, &tokens.refresh));
    let mut everything = String::new();
    for key in pair.redis.command(&["KEYS", "*"]).unwrap().lines() {
        everything.push_str(key);
        for read in
            [&["HGETALL", key][..], &["GET", key], &["ZRANGE", key, "0", "-1"], &["XRANGE", key, "-", "+"]]
        {
            everything.push_str(&pair.redis.command(read).unwrap_or_default());
        }
        let lives = pair.redis.command(&["TTL", key]).unwrap();
        assert_ne!(lives, "-1", "{key} is kept forever");
    }
    assert!(!everything.is_empty());
    for secret in [&tokens.refresh[4..], &next.refresh[4..], &next.access, "correct horse"] {
        assert!(!everything.contains(secret), "{secret} lies in Redis");
    }
}

#[test]
fn a_session_does_not_grow_with_its_refreshes() {
    let pair = pair("{ grace: 0s, coalesce: 0s }");
    let mut tokens = login(&pair.one);
    let size = |redis: &Redis| {
        let keys = redis.command(&["KEYS", "*"]).unwrap();
        let usage = |key: &str| redis.command(&["MEMORY", "USAGE", key]).unwrap().parse::<u64>().unwrap();
        (keys.lines().count(), keys.lines().map(usage).sum::<u64>())
    };
    tokens = Tokens::from_body(refresh(&pair.one, &tokens.refresh));
    let (keys, before) = size(&pair.redis);
    for _ in 0..60 {
        tokens = Tokens::from_body(refresh(&pair.one, &tokens.refresh));
    }
    let (keys_after, after) = size(&pair.redis);
    assert_eq!(keys_after, keys);
    assert!(after < before + 200, "{before} bytes became {after}");
}
