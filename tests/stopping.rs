//! How a gateway stops under load: no request is lost, and it ends with the last one.

use crate::support::balancer::Balancer;
use crate::support::load::Load;
use crate::support::measure::scale;
use crate::support::person::{Tokens, call, login_request, refresh_request};
use crate::support::redis::Redis;
use crate::support::site::Site;
use crate::support::{Config, Connection, Gateway, Reply, Upstream, eventually, get};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn sigterm_under_load_fails_no_request_and_ends_with_the_last_one() {
    let upstream = Upstream::answering(|_| Reply::ok("x").after(Duration::from_millis(20)));
    let mut gateway = Gateway::start(&Config::public(&upstream).listener("http2: true"));
    let address = gateway.address();
    let connect = {
        let address = address.clone();
        move || Connection::open(&address)
    };
    let load = Load::start(16, connect, 16, &address);
    load.answers(500);
    // Who connects after the signal is turned away, as by any server that is gone.
    load.open_no_more();
    gateway.terminate();
    let status = gateway.ended_within(SOON).expect("still running");
    let ended = Instant::now();
    assert!(status.success(), "{status}");
    assert!(eventually(SOON, || load.is_over()), "a client waits for a process that is gone");
    let tally = load.stop();
    let after = ended.saturating_duration_since(tally.last.expect("answers"));
    println!("SIGTERM under load: {tally}; ended {after:.0?} after the last answer");
    assert_eq!(tally.failures, Vec::<String>::new());
    assert_eq!(tally.announced + tally.late, 32, "{tally}");
    let bound = Duration::from_secs(scale("PORTCULLIS_SOAK_EXIT", 5).into());
    assert!(after < bound, "{after:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let upstream = Upstream::answering(|_| Reply::ok("never").after(Duration::from_secs(30)));
    let mut gateway = Gateway::start(&Config::public(&upstream));
    let address = gateway.address();
    let running = thread::spawn(move || get("/slow").try_send(&address));
    assert!(eventually(SOON, || upstream.hits() == 1));
    gateway.terminate();
    let draining = || gateway.stderr().contains("no longer accepting");
    assert!(eventually(SOON, draining), "{}", gateway.stderr());
    gateway.terminate();
    let status = gateway.ended_within(SOON).expect("still running");
    assert!(status.success(), "{status}");
    assert!(gateway.says("a second signal: stopping at once"), "{}", gateway.stderr());
    assert!(running.join().unwrap().is_err(), "the request was answered");
}

#[test]
fn two_gateways_behind_a_balancer_are_restarted_one_by_one_without_a_failed_request() {
    let redis = Redis::start();
    let site = Site::on(redis.port(), "{ idle: 1h }").configured(|config| {
        config
            .server("shutdown", "{ delay: 1s, drain: 10s }")
            .route("{ name: open, match: { path: /x }, upstream: app, auth: public }")
    });
    let mut gateways = [site.gateway(), site.gateway()];
    let balancer = Balancer::over(&gateways);
    let address = balancer.address();
    let connect = {
        let address = address.clone();
        move || Connection::open(&address)
    };
    let load = Load::start(32, connect, 0, &address);
    let mut tokens = Tokens::from_body(login_request("alice").send(&address));
    for gateway in &mut gateways {
        load.answers(200);
        gateway.terminate();
        let status = gateway.ended_within(SOON).expect("still running");
        assert!(status.success(), "{status}");
        load.answers(200);
        // The session goes on at whichever gateway is left.
        let kept = tokens.access.clone();
        get("/api/1").bearer(&kept).send(&address).expect(200);
        tokens = Tokens::from_body(refresh_request(&tokens.refresh).send(&address));
        gateway.start_again();
        let admin = gateway.admin();
        assert!(eventually(SOON, || balancer.uses(&admin)), "the balancer does not see that it is back");
    }
    load.answers(200);
    let tally = load.stop();
    println!("a rolling restart of two: {tally}");
    assert_eq!(tally.failures, Vec::<String>::new());
    for gateway in &gateways {
        assert_eq!(call(gateway, &tokens.access), 200);
    }
}
