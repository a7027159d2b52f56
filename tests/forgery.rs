//! Forged refresh tokens, as many as one likes: none reaches the store, none harms the session it names.

use crate::support::config::Config;
use crate::support::measure::scale;
use crate::support::person::{Tokens, call, login, refresh, refresh_request};
use crate::support::redis::Redis;
use crate::support::site::Site;
use crate::support::{Connection, Gateway};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

/// Where the generation stands in the bytes of a token, and where the MAC begins.
const GENERATION: usize = 48;
const MAC: usize = 56;

/// A forgery: session, user and secret are real, the MAC is not, and no two are the same.
fn forged(genuine: &[u8], number: u32) -> String {
    let mut bytes = genuine.to_vec();
    // An odd factor maps no number but zero to zero, so the MAC is changed in any case.
    let noise = (u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let at = MAC + 8 * (number % 2) as usize;
    for (byte, noise) in bytes[at..at + 8].iter_mut().zip(noise.to_be_bytes()) {
        *byte ^= noise;
    }
    if number % 4 == 3 {
        bytes[GENERATION..GENERATION + 4].copy_from_slice(&number.to_be_bytes());
    }
    format!("prt_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Presents forgeries on one connection until `count` were presented by all who do this together.
fn present(gateway: &Gateway, genuine: &[u8], next: &AtomicU32, count: u32) {
    let mut connection = Connection::open(&gateway.address()).unwrap();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return;
        }
        let answer = connection.exchange(&refresh_request(&forged(genuine, number))).unwrap();
        assert_eq!(answer.expect(401).member("code"), "invalid_token");
    }
}

/// What the store was asked, but for the reading of its feed and our own questions.
fn asked(redis: &Redis) -> BTreeMap<String, u64> {
    let mut calls = redis.calls();
    calls.retain(|name, _| name != "xrange" && name != "info");
    calls
}

/// `PORTCULLIS_SOAK_FORGED` is how many are presented.
#[test]
fn forged_tokens_of_a_real_session_cost_the_store_nothing_and_the_session_lives() {
    let count = scale("PORTCULLIS_SOAK_FORGED", 10_000);
    let redis = Redis::start();
    let quiet = |config: Config| config.set("log", "{ level: info, access: false }");
    let site = Site::on(redis.port(), "{}").configured(quiet);
    let gateway = site.gateway();
    let tokens = Tokens::from_body(refresh(&gateway, &login(&gateway).refresh));
    let genuine = URL_SAFE_NO_PAD.decode(&tokens.refresh["prt_".len()..]).expect("a token");
    let before = asked(&redis);
    assert!(before.keys().any(|name| name.starts_with("eval")), "scripts are not counted: {before:?}");

    let (start, next) = (Instant::now(), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| present(&gateway, &genuine, &next, count));
        }
    });
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    println!("{count} forged tokens in {:.1?}, {rate:.0} a second", start.elapsed());

    assert_eq!(asked(&redis), before, "forged tokens reached the store");
    let refused = gateway.metric("portcullis_session_events_total", &[("event", "refresh_refused")]);
    assert!((refused - f64::from(count)).abs() < 0.5, "{refused} of {count} were refused");
    let next = Tokens::from_body(refresh(&gateway, &tokens.refresh));
    assert_eq!(next.session, tokens.session);
    assert_eq!(call(&gateway, &next.access), 200);
}
