//! The page of `examples/browser` in a real browser: people stay logged in, and scripts never see what keeps
//! them so.

use crate::support::browser::Browser;
use crate::support::config::{PASSWORD, SharedKeys, cheap_users};
use crate::support::demo::{Demo, DemoUpstream};
use crate::support::person::COOKIE;
use crate::support::ports::free_port;
use crate::support::redis::Redis;
use crate::support::tls::Authority;
use crate::support::{Config, Gateway, Sessions, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// Notes what every call of the page is answered, and whatever a script can read of that. Where `door` is set, a
/// refresh waits until it is opened for all.
const WATCH: &str = r#"
    window.calls = [];
    window.readable = [];
    const real = window.fetch, opening = new BroadcastChannel("door");
    window.fetch = async (what, how) => {
        const path = new URL(what.url ?? what, location).pathname;
        if (window.door && path === "/auth/refresh") {
            window.atDoor = true;
            await new Promise((open) => (opening.onmessage = open));
            window.atDoor = false;
        }
        const answer = await real(what, how);
        window.calls.push(`${path} ${answer.status}`);
        window.readable.push(JSON.stringify([...answer.headers]), await answer.clone().text());
        return answer;
    };
"#;
const DOOR: &str = "window.door = true;";
const OPEN_DOOR: &str = r#"new BroadcastChannel("door").postMessage("open")"#;
/// As in a browser that has no locks.
const NO_LOCKS: &str = "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined });";
const FORM: &str = "#login:not([hidden])";

fn is_logged_in(browser: &Browser, name: &str) {
    browser.until(&format!("document.querySelector('#inside:not([hidden]) #who')?.textContent === '{name}'"));
}

fn log_in(browser: &Browser, name: &str, password: &str) {
    browser.write("[name=username]", name);
    browser.write("[name=password]", password);
    browser.click("#login button");
}

/// Another tab in which this runs first, at the page.
fn tab(browser: &Browser, url: &str, beforehand: &[&str]) -> String {
    let tab = browser.another_tab();
    browser.beforehand(&[beforehand, &[WATCH]].concat().concat());
    browser.open(url);
    tab
}

/// Everything that a script of the page can read, and what it was answered.
fn readable(browser: &Browser) -> String {
    browser
        .run(
            "return (async () => JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, \
             await indexedDB.databases(), await caches.keys(), document.documentElement.outerHTML, \
             window.readable]))()",
        )
        .to_string()
}

/// No script has a way to the refresh token, nor is the access token anywhere but in memory.
fn nothing_to_steal(browser: &Browser) {
    let all = readable(browser);
    assert!(all.contains("/orders/7") && all.contains("accessToken"), "the page was not watched: {all}");
    assert!(!all.contains("prt_") && !all.contains(COOKIE), "a script can read the refresh token: {all}");
    let kept =
        browser.run("return JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])");
    assert_eq!(kept, r#"["",{},{}]"#);
    // Not even the browser's own list has it where the page lies.
    assert_eq!(browser.cookies(), [] as [Value; 0]);
}

/// What the browser itself has noted of the cookie, from a page it is sent to.
fn cookie(browser: &Browser, origin: &str) -> Value {
    browser.open(&format!("{origin}/auth/sessions"));
    let cookies = browser.cookies();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    let cookie = &cookies[0];
    assert!(cookie["value"].as_str().is_some_and(|value| value.starts_with("prt_")));
    json!([cookie["name"], cookie["path"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]])
}

#[test]
fn the_page_of_the_demo_keeps_a_person_logged_in_over_plain_http_on_loopback() {
    let (demo, browser) = (Demo::start(), Browser::start());
    let origin = demo.moved("http://127.0.0.1:8080".to_owned());
    let page = format!("{origin}/app/");
    browser.beforehand(WATCH);
    browser.open(&page);
    browser.sees(FORM);
    log_in(&browser, "alice", "a guess");
    browser.until("error.textContent.includes('password is wrong')");
    browser.photograph("login");

    log_in(&browser, "alice", "wonderland");
    is_logged_in(&browser, "alice");
    browser.until("sessions.children.length === 1");
    browser.until("answer.textContent.includes('x-auth-roles: clerk')");
    browser.photograph("logged-in");
    browser.click("#reports");
    browser.until("answer.textContent.startsWith('403 /reports')");

    for _ in 0..3 {
        browser.reload();
        is_logged_in(&browser, "alice");
    }
    nothing_to_steal(&browser);
    assert_eq!(cookie(&browser, &origin), json!([COOKIE, "/auth", true, true, "Strict"]));

    browser.open(&page);
    browser.click("#logout");
    browser.sees(FORM);
    browser.reload();
    browser.sees(FORM);
    browser.open(&format!("{origin}/auth/sessions"));
    assert_eq!(browser.cookies(), [] as [Value; 0]);
}

/// A gateway on Redis behind TLS, as it would be run, but with tokens that soon expire.
struct Stage {
    gateway: Gateway,
    redis: Redis,
    origin: String,
    _backend: DemoUpstream,
    _keys: SharedKeys,
}

impl Stage {
    fn start() -> Self {
        let (redis, keys, backend) =
            (Redis::start(), SharedKeys::new(), format!("127.0.0.1:{}", free_port()));
        let shown = Authority::new().identity(&["127.0.0.1"]);
        let sessions = Sessions::redis_at(&format!("url: \"{}\", timeout: 5s", redis.url()), &keys)
            .set("access_token", "{ lifetime: 6s }");
        let config = Config::new()
            .listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: true")
            .file("cert.pem", shown.certificate_pem)
            .file("key.pem", shown.key_pem)
            .file("users.yaml", cheap_users(&["alice"]))
            .sessions(sessions)
            .upstream_raw("app", &format!("{{ endpoints: [\"http://{backend}\"] }}"))
            .route("{ name: page, match: { path: /app/** }, upstream: app, auth: public }")
            .route("{ name: orders, match: { path: /orders/** }, upstream: app }");
        let gateway = Gateway::start(&config);
        let origin = format!("https://{}", gateway.address());
        Self { gateway, redis, origin, _backend: DemoUpstream::start(&backend), _keys: keys }
    }

    fn page(&self) -> String {
        format!("{}/app/", self.origin)
    }

    /// A browser at the page.
    fn browser(&self) -> Browser {
        let browser = Browser::start();
        browser.beforehand(WATCH);
        browser.open(&self.page());
        browser
    }

    /// How often refreshing came out like this.
    fn refreshes(&self, events: &[&str]) -> String {
        let count =
            |event: &&str| self.gateway.metric("portcullis_session_events_total", &[("event", event)]);
        events.iter().map(count).sum::<f64>().abs().to_string()
    }
}

/// Calls until the access token has run out meanwhile; what that call was answered, in order.
fn call_with_an_expired_token(browser: &Browser) -> Value {
    let expired = || {
        browser.run("window.calls = []; answer.textContent = ''");
        browser.click("#orders");
        browser.until("answer.textContent || error.textContent");
        browser.run("return window.calls[0] === '/orders/7 401'") == true
    };
    assert!(eventually(Duration::from_secs(30), expired), "the access token never expires");
    browser.run("return window.calls")
}

#[test]
fn tabs_that_race_an_outage_and_an_expired_token_log_nobody_out_and_a_logout_is_felt_in_every_tab() {
    let mut stage = Stage::start();
    let browser = stage.browser();
    let first = browser.tab();
    log_in(&browser, "alice", PASSWORD);
    is_logged_in(&browser, "alice");

    // Two tabs at once, and nothing that would make them take turns but the gateway.
    assert_eq!(stage.refreshes(&["refresh_rotated", "refresh_same", "refresh_retry"]), "0");
    let racing = [(); 2].map(|()| tab(&browser, &stage.page(), &[NO_LOCKS, DOOR]));
    for tab in &racing {
        browser.go_to(tab);
        browser.until("window.atDoor");
    }
    browser.run(OPEN_DOOR);
    for tab in &racing {
        browser.go_to(tab);
        is_logged_in(&browser, "alice");
        // Its own, though the other's token may have come first.
        browser.until("window.calls.includes('/auth/refresh 200') && !navigator.locks");
        browser.close(&first);
    }
    assert_eq!(stage.refreshes(&["refresh_rotated"]), "1");
    assert_eq!(stage.refreshes(&["refresh_same", "refresh_retry"]), "1");

    // With locks one of them goes first.
    let turns = [(); 2].map(|()| tab(&browser, &stage.page(), &[DOOR]));
    browser.until("navigator.locks.query().then(all => all.held.length === 1 && all.pending.length === 1)");
    let at_door = turns.each_ref().map(|tab| {
        browser.go_to(tab);
        browser.run("return Boolean(window.atDoor)")
    });
    assert_eq!(at_door.iter().filter(|at| **at == true).count(), 1, "{at_door:?}");
    for tab in &turns {
        browser.go_to(tab);
        browser.until(&format!("{OPEN_DOOR} || who.textContent === 'alice'"));
    }
    for tab in &turns {
        browser.go_to(tab);
        browser.close(&first);
    }
    nothing_to_steal(&browser);

    // A token that ran out is the client's own affair.
    let calls = call_with_an_expired_token(&browser);
    assert_eq!(calls, json!(["/orders/7 401", "/auth/refresh 200", "/orders/7 200"]));

    // An outage logs nobody out: not a page with a token that ran out, and not one that has none yet.
    stage.redis.stop();
    let calls = call_with_an_expired_token(&browser);
    assert_eq!(calls, json!(["/orders/7 401", "/auth/refresh 503"]));
    browser.sees("#inside");
    let other = tab(&browser, &stage.page(), &[]);
    browser.sees("#waiting");
    browser.photograph("waiting");
    browser.until("window.calls.filter(call => call === '/auth/refresh 503').length >= 2");
    stage.redis.start_again();
    is_logged_in(&browser, "alice");
    browser.go_to(&first);
    browser.click("#orders");
    browser.until("answer.textContent.startsWith('200')");

    // Whoever logs out in one tab is logged out in the other, and in again.
    assert_eq!(cookie(&browser, &stage.origin), json!([COOKIE, "/auth", true, true, "Strict"]));
    browser.open(&stage.page());
    is_logged_in(&browser, "alice");
    browser.click("#logout");
    browser.sees(FORM);
    browser.go_to(&other);
    browser.sees(FORM);
    log_in(&browser, "alice", PASSWORD);
    is_logged_in(&browser, "alice");
    browser.go_to(&first);
    is_logged_in(&browser, "alice");

    // Everywhere is another browser too.
    let elsewhere = stage.browser();
    log_in(&elsewhere, "alice", PASSWORD);
    is_logged_in(&elsewhere, "alice");
    elsewhere.until("sessions.children.length === 2");
    elsewhere.photograph("two-browsers");
    browser.click("#logout-all");
    browser.sees(FORM);
    elsewhere.click("#orders");
    elsewhere.sees(FORM);
    elsewhere.reload();
    elsewhere.sees(FORM);
    assert_eq!(stage.refreshes(&["refresh_reused"]), "0");
}
