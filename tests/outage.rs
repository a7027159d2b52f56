//! Redis hangs, and then is gone, under load: nobody is logged out, and requests do not notice.

use crate::support::measure::{Times, scale};
use crate::support::person::{
    Tokens, browser_login, browser_refresh, login, login_request, refresh_request, set_cookie,
};
use crate::support::redis::Redis;
use crate::support::site::Site;
use crate::support::wait::let_pass;
use crate::support::{Connection, Gateway, Request, Response, eventually, get};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Requests that were answered: when they were sent, how long that took, and with which status.
#[derive(Default)]
struct Seen(Mutex<Vec<(Instant, Duration, u16)>>);

impl Seen {
    fn note(&self, sent: Instant, status: u16) {
        self.0.lock().unwrap().push((sent, sent.elapsed(), status));
    }

    fn between(&self, from: Instant, to: Instant) -> Vec<(Instant, Duration, u16)> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(sent, ..)| (from..to).contains(sent)).copied().collect()
    }

    fn times(&self, from: Instant, to: Instant) -> Times {
        Times::new(self.between(from, to).into_iter().map(|(_, took, _)| took).collect())
    }

    fn successes(&self, from: Instant, to: Instant) -> usize {
        self.between(from, to).iter().filter(|(.., status)| *status == 200).count()
    }

    /// Whether the latest answers were successes.
    fn all_is_well(&self, latest: usize) -> bool {
        let all = self.0.lock().unwrap();
        all.iter().rev().take(latest).all(|(.., status)| *status == 200)
    }

    /// The first success sent or answered after an instant.
    fn first_success(&self, from: Instant) -> Option<Instant> {
        let all = self.0.lock().unwrap();
        let good = all.iter().filter(|(.., status)| *status == 200).map(|(sent, took, _)| *sent + *took);
        good.filter(|answered| *answered >= from).min()
    }
}

/// Calls `step` at a steady pace until told to stop, however long a step takes.
fn paced(every: Duration, stop: &AtomicBool, mut step: impl FnMut()) {
    let mut next = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        step();
        next += every;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Clients at work on one gateway, and what they saw.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    calls: Seen,
    refreshes: Seen,
    logins: Seen,
}

/// A connection that is made anew should the gateway close it.
struct Client {
    address: String,
    connection: Connection,
}

impl Client {
    fn of(gateway: &Gateway) -> Self {
        let address = gateway.address();
        let connection = Connection::open(&address).unwrap();
        Self { address, connection }
    }

    fn send(&mut self, request: &Request, seen: &Seen) -> Response {
        let sent = Instant::now();
        let answer = self.connection.exchange(request).expect("an answer");
        seen.note(sent, answer.status);
        if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.connection = Connection::open(&self.address).unwrap();
        }
        answer
    }
}

impl Load {
    /// Proxied requests with a token that stays.
    fn call(&self, gateway: &Gateway) {
        let (tokens, mut client) = (login(gateway), Client::of(gateway));
        let request = get("/api/orders").bearer(&tokens.access);
        paced(Duration::from_millis(20), &self.stop, || {
            client.send(&request, &self.calls).expect(200);
        });
    }

    /// A browser that refreshes, keeps what it is given, and keeps what it has when it is given nothing.
    fn refresh_in_browser(&self, gateway: &Gateway) {
        let mut client = Client::of(gateway);
        let mut tokens = Tokens::from_cookie(browser_login("alice").send(&gateway.address()));
        paced(Duration::from_millis(200), &self.stop, || {
            let answer = client.send(&browser_refresh(&tokens.refresh), &self.refreshes);
            judge(&answer);
            if answer.status == 200 && set_cookie(&answer).is_some() {
                tokens = Tokens::from_cookie(answer);
            }
        });
    }

    /// An app that does.
    fn refresh_in_app(&self, gateway: &Gateway) {
        let mut client = Client::of(gateway);
        let mut tokens = login(gateway);
        paced(Duration::from_millis(200), &self.stop, || {
            let answer = client.send(&refresh_request(&tokens.refresh), &self.refreshes);
            judge(&answer);
            if answer.status == 200 {
                tokens = Tokens::from_body(answer);
            }
        });
    }

    fn log_in(&self, gateway: &Gateway) {
        let mut client = Client::of(gateway);
        paced(Duration::from_millis(500), &self.stop, || {
            let answer = client.send(&login_request("bob"), &self.logins);
            judge(&answer);
        });
    }

    /// Measures for as long, with Redis as it is.
    fn watch(&self, what: &str, duration: Duration) -> Times {
        let from = Instant::now();
        let_pass(duration);
        let times = self.calls.times(from, Instant::now());
        println!("proxied requests while Redis is {what}: {times}");
        times
    }

    /// How long after `from` the first refresh succeeded.
    fn recovery(&self, from: Instant) -> Duration {
        let back = || self.refreshes.first_success(from).is_some();
        assert!(eventually(Duration::from_secs(20), back), "no refresh succeeds any more");
        self.refreshes.first_success(from).map(|at| at - from).unwrap_or_default()
    }
}

/// An answer is a success or an outage; an outage leaves cookies alone and says when to come back.
fn judge(answer: &Response) {
    if answer.status != 200 {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.all("set-cookie").is_empty(), "an outage touched the cookie");
        assert!(answer.header("retry-after").is_some(), "an outage without end");
    }
}

/// Ends the load also when a check fails, so that its threads do.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// `PORTCULLIS_SOAK_OUTAGE` is how many seconds each outage lasts. Only when it is set, the times of proxied
/// requests are held against each other too: a short run on a busy machine says little about them.
#[test]
fn redis_hangs_and_then_is_gone_and_nobody_is_logged_out() {
    const SHORT: u32 = 5;
    let outage = scale("PORTCULLIS_SOAK_OUTAGE", SHORT);
    let (seconds, full) = (Duration::from_secs(outage.into()), outage > SHORT);
    // What it has acknowledged outlives its process, though not the machine.
    let mut redis = Redis::start_with(&["--appendonly", "yes"]);
    let store = format!("url: \"{}\", timeout: 300ms", redis.url());
    // Short enough that refreshes rotate also while all is well.
    let site = Site::new(&store, "{ grace: 2s, coalesce: 2s }")
        .configured(|config| config.set("log", "{ level: info, access: false }"));
    let gateway = site.gateway();
    let load = Load::default();
    let mut recoveries = Vec::new();
    let times = thread::scope(|scope| {
        let (load, gateway) = (&load, &gateway);
        let _stop = StopAtEnd(&load.stop);
        for _ in 0..2 {
            scope.spawn(move || load.call(gateway));
            scope.spawn(move || load.refresh_in_browser(gateway));
            scope.spawn(move || load.refresh_in_app(gateway));
        }
        scope.spawn(move || load.log_in(gateway));
        let_pass(Duration::from_secs(1));

        let before = load.watch("well", seconds);

        redis.pause();
        let hanging = load.watch("silent", seconds);
        redis.resume();
        let resumed = Instant::now();
        recoveries.push(load.recovery(resumed));
        let_pass(Duration::from_secs(2));

        redis.stop();
        let stopped = Instant::now();
        let gone = load.watch("gone", seconds);
        assert_eq!(load.refreshes.successes(stopped, Instant::now()), 0, "Redis was not gone");
        redis.start_again();
        let started = Instant::now();
        recoveries.push(load.recovery(started));
        // All of the four, and again, and logins too.
        assert!(eventually(Duration::from_secs(10), || load.refreshes.all_is_well(16)));
        assert!(eventually(Duration::from_secs(10), || load.logins.all_is_well(2)));
        [before, hanging, gone]
    });
    println!("refreshes succeed again after {recoveries:.1?}");
    for recovery in recoveries {
        assert!(recovery < Duration::from_secs(2), "{recovery:?}");
    }
    let rotated = gateway.metric("portcullis_session_events_total", &[("event", "refresh_rotated")]);
    assert!(rotated >= 4.0, "the load hardly rotated: {rotated}");
    let [before, hanging, gone] = times.map(|times| times.percentile(99).as_secs_f64());
    println!("p99 while silent is {:.2} of before, while gone {:.2}", hanging / before, gone / before);
    if full {
        assert!(hanging <= 1.5 * before && gone <= 1.5 * before, "requests noticed the outage");
    }
}
