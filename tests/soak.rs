//! Everything at once and for long: logins, refreshes, good, bad and expired tokens, reloads, a Redis that restarts. The
//! memory stays what it was, nobody is logged out, and the log has no error without a cause.

use crate::support::config::SharedKeys;
use crate::support::measure::scale;
use crate::support::person::{Tokens, login_request, refresh_request};
use crate::support::redis::Redis;
use crate::support::{Config, Gateway, Issuer, Sessions, Upstream, eventually, get, post};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Growth of the memory after the first third that is still flat, in KiB: an allocator's own ups and downs.
const FLAT_KIB: u64 = 16 * 1024;

/// What was answered: how often each status came to each kind of request.
#[derive(Default)]
struct Answers(Mutex<BTreeMap<(&'static str, u16), u64>>);

impl Answers {
    fn note(&self, kind: &'static str, status: u16) {
        *self.0.lock().unwrap().entry((kind, status)).or_default() += 1;
    }

    fn only(&self, kind: &str, allowed: &[u16]) {
        let all = self.0.lock().unwrap();
        let wrong = all.iter().find(|((what, status), _)| *what == kind && !allowed.contains(status));
        assert!(wrong.is_none(), "{kind}: {wrong:?} of {all:?}");
        assert!(
            all.contains_key(&(all.keys().find(|(what, _)| *what == kind).expect(kind).0, allowed[0])),
            "{kind}"
        );
    }
}

/// Memory the process has, in KiB.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn paced(every: Duration, stop: &AtomicBool, mut step: impl FnMut(u64)) {
    let (mut next, mut count) = (Instant::now(), 0);
    while !stop.load(Ordering::SeqCst) {
        step(count);
        count += 1;
        next = (next + every).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// One person: logs in, works, refreshes, logs out at last, and begins again.
fn person(user: &str, gateway: &Gateway, answers: &Answers, stop: &AtomicBool) {
    let mut tokens: Option<Tokens> = None;
    paced(Duration::from_millis(50), stop, |step| match (&tokens, step % 40) {
        (None, _) => {
            let answer = login_request(user).send(&gateway.address());
            answers.note("login", answer.status);
            tokens = (answer.status == 200).then(|| Tokens::from_body(answer));
        }
        (Some(own), 39) => {
            let answer =
                post("/auth/logout").json(&json!({ "refreshToken": own.refresh })).send(&gateway.address());
            answers.note("logout", answer.status);
            tokens = None;
        }
        (Some(own), part) if part % 10 == 9 => {
            let answer = refresh_request(&own.refresh).send(&gateway.address());
            answers.note("refresh", answer.status);
            if answer.status == 200 {
                tokens = Some(Tokens::from_body(answer));
            }
        }
        (Some(own), _) => {
            answers.note("call", get("/api/orders").bearer(&own.access).send(&gateway.address()).status);
        }
    });
}

/// Calls with other issuers' tokens: good ones, ever new, and all that is wrong.
fn strangers(issuer: &Issuer, gateway: &Gateway, answers: &Answers, stop: &AtomicBool) {
    // Short-lived, so that what is remembered of them soon has its final size.
    let good = || issuer.token().expires_in(30).set("jti", json!(rand())).sign(&issuer.key);
    paced(Duration::from_millis(20), stop, |step| {
        let (kind, token) = match step % 5 {
            0 | 1 => ("good", good()),
            2 => ("expired", issuer.token().set("exp", json!(1_000_000_000)).sign(&issuer.key)),
            3 => ("forged", good() + "A"),
            _ => ("garbage", "not.a.token".to_owned()),
        };
        answers.note(kind, get("/api/orders").bearer(&token).send(&gateway.address()).status);
    });
}

fn rand() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn mixed_traffic_leaves_the_memory_flat_and_no_error_without_a_cause() {
    let seconds = u64::from(scale("PORTCULLIS_SOAK_MIXED", 8));
    let whole = Duration::from_secs(seconds);
    let (upstream, issuer, keys) = (Upstream::start(), Issuer::start(), SharedKeys::new());
    let mut redis = Redis::start_with(&["--appendonly", "yes"]);
    // Each refresh rotates, as after hours.
    let rules = "{ coalesce: 0s, grace: 0s }";
    let config = |burst: u32| {
        Config::to(&upstream)
            .issuer("corp", &issuer.settings())
            .sessions(Sessions::redis_within(&redis.url(), "300ms", &keys).set("refresh_token", rules))
            .route(&format!(
                "{{ name: api, match: {{ path: /api/** }}, upstream: app, \
                 rate_limit: {{ requests: {burst}, per: 1s, by: subject }} }}"
            ))
    };
    let versions = [config(100_000), config(200_000)];
    let gateway = Gateway::start(&versions[0]);
    let (stop, answers) = (AtomicBool::new(false), Answers::default());
    let (mut samples, mut restarts) = (Vec::new(), 0_u32);
    thread::scope(|scope| {
        for user in ["alice", "bob"] {
            let (gateway, answers, stop) = (&gateway, &answers, &stop);
            scope.spawn(move || person(user, gateway, answers, stop));
        }
        scope.spawn(|| strangers(&issuer, &gateway, &answers, &stop));
        scope.spawn(|| {
            paced(Duration::from_secs(3), &stop, |step| {
                gateway.reload(&versions[usize::from(step % 2 == 0)], "ok");
            });
        });
        let began = Instant::now();
        let (pause, mut next_restart) = (whole / 10, whole / 3);
        while began.elapsed() < whole {
            thread::sleep(pause.min(Duration::from_secs(5)));
            samples.push((began.elapsed(), resident(&gateway)));
            if began.elapsed() > next_restart {
                redis.stop();
                redis.start_again();
                restarts += 1;
                next_restart = began.elapsed() + (whole / 3).min(Duration::from_secs(120));
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    println!("{seconds} s, {restarts} restarts of Redis, {:?}", answers.0.lock().unwrap());
    for (at, kib) in &samples {
        println!("{:>5} s {kib} KiB", at.as_secs());
    }
    answers.only("call", &[200]);
    answers.only("login", &[200, 503]);
    answers.only("refresh", &[200, 503]);
    answers.only("logout", &[204, 202]);
    answers.only("good", &[200]);
    for bad in ["expired", "forged", "garbage"] {
        answers.only(bad, &[401]);
    }
    let back = || login_request("alice").send(&gateway.address()).status == 200;
    assert!(eventually(Duration::from_secs(20), back));

    let warm = samples.iter().filter(|(at, _)| *at >= whole / 3).map(|(_, kib)| *kib);
    let (first, most) = (warm.clone().next().unwrap(), warm.max().unwrap());
    println!("{first} KiB after a third, {most} KiB at the most after that");
    assert!(most <= first + FLAT_KIB, "the memory grows: {samples:?}");

    for line in gateway.stderr().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        if line["level"] == "ERROR" || line["level"] == "WARN" {
            let text = line.to_string().to_lowercase();
            // Redis was gone, and what else is said is of the configuration.
            let has_cause = ["redis", "store", "warning:"].iter().any(|cause| text.contains(cause));
            assert!(has_cause, "an error without a cause: {line}");
        }
    }
}
