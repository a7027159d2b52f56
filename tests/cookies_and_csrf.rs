//! The refresh cookie: who gets it, who may send it, and that it never leaves the gateway's own paths.

use crate::support::config::PASSWORD;
use crate::support::person::{
    COOKIE, Tokens, browser_login, browser_refresh, call, login, login_in_browser, login_request, refresh,
    set_cookie,
};
use crate::support::{Config, Gateway, Reply, Request, Response, Sessions, Upstream, get, post, request};
use serde_json::json;

fn layout(upstream: &Upstream, sessions: Sessions) -> Config {
    Config::to(upstream)
        .sessions(sessions)
        .route("{ name: api, match: { path: /api/** }, upstream: app }")
        .route("{ name: open, match: { path: /open/** }, upstream: app, auth: public }")
}

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream, Sessions::embedded()));
    (upstream, gateway)
}

/// The attributes of our cookie, sorted, in lower case but for their values.
#[track_caller]
fn attributes(response: &Response) -> Vec<String> {
    let line = set_cookie(response).unwrap_or_else(|| panic!("no cookie in {:?}", response.headers));
    let mut attributes: Vec<String> = line.split(';').skip(1).map(|part| part.trim().to_owned()).collect();
    attributes.sort();
    attributes
}

#[track_caller]
fn refused(response: Response) {
    let response = response.expect(403);
    assert_eq!(response.member("code"), "csrf_failed");
    assert!(response.all("set-cookie").is_empty());
}

#[test]
fn a_browser_gets_the_refresh_token_in_a_cookie_no_script_can_read() {
    let (_upstream, gateway) = start();
    let response = browser_login("alice").send(&gateway.address()).expect(200);
    assert_eq!(
        attributes(&response),
        ["HttpOnly", "Max-Age=604800", "Path=/auth", "SameSite=Strict", "Secure"]
    );
    assert!(
        !response.text().contains("prt_") && response.json()["refreshToken"].is_null(),
        "{}",
        response.text()
    );
    let first = Tokens::from_cookie(response);
    assert!(first.refresh.starts_with("prt_"));
    let response = browser_refresh(&first.refresh).send(&gateway.address()).expect(200);
    assert!(!response.text().contains("prt_"));
    let second = Tokens::from_cookie(response);
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(call(&gateway, &second.access), 200);
}

#[test]
fn clients_that_are_no_browsers_get_it_in_the_body_and_both_may_choose() {
    let (_upstream, gateway) = start();
    let address = gateway.address();
    let plain = post("/auth/login").json(&json!({ "username": "alice", "password": PASSWORD }));
    let response = plain.send(&address).expect(200);
    assert!(response.member("refreshToken").starts_with("prt_") && response.all("set-cookie").is_empty());
    let wanted = json!({ "username": "alice", "password": PASSWORD, "delivery": "cookie" });
    let response =
        post("/auth/login").header("X-Portcullis-Request", "1").json(&wanted).send(&address).expect(200);
    assert!(set_cookie(&response).is_some() && response.json()["refreshToken"].is_null());
    let browser = login_request("alice").same_origin().send(&address).expect(200);
    assert!(browser.member("refreshToken").starts_with("prt_") && browser.all("set-cookie").is_empty());
}

#[test]
fn a_fixed_delivery_is_not_open_to_choice() {
    let upstream = Upstream::start();
    let cookie = Gateway::start(&layout(&upstream, Sessions::embedded().set("delivery", "cookie")));
    let response = login_request("alice").header("X-Portcullis-Request", "1").send(&cookie.address());
    assert!(!response.text().contains("prt_"), "a token in the body: {}", response.text());
    let body = Gateway::start(&layout(&upstream, Sessions::embedded().set("delivery", "body")));
    let response = browser_login("alice").send(&body.address()).expect(200);
    assert!(response.member("refreshToken").starts_with("prt_") && response.all("set-cookie").is_empty());
}

#[test]
fn a_cookie_token_is_refused_in_a_body_and_a_body_token_in_a_cookie() {
    let (_upstream, gateway) = start();
    let (browser, app) = (login_in_browser(&gateway), login(&gateway));
    for response in
        [refresh(&gateway, &browser.refresh), browser_refresh(&app.refresh).send(&gateway.address())]
    {
        let response = response.expect(401);
        assert_eq!(response.member("code"), "invalid_token");
        assert!(response.all("set-cookie").is_empty());
    }
    // Neither try harmed the session.
    browser_refresh(&browser.refresh).send(&gateway.address()).expect(200);
    refresh(&gateway, &app.refresh).expect(200);
}

#[test]
fn calls_a_foreign_page_may_have_caused_are_refused() {
    let (_upstream, gateway) = start();
    let tokens = login_in_browser(&gateway);
    let body = json!({ "username": "alice", "password": PASSWORD });
    let cookie = format!("{COOKIE}={}", tokens.refresh);
    let targets: [fn() -> Request; 3] =
        [|| post("/auth/refresh"), || post("/auth/logout"), || post("/auth/logout-all")];
    let foreign: &[&[(&str, &str)]] = &[
        &[],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.test")],
        &[("Sec-Fetch-Site", "cross-site"), ("X-Portcullis-Request", "1")],
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://evil.test")],
        &[("Origin", "https://evil.test"), ("X-Portcullis-Request", "1")],
        &[("Origin", "null")],
        &[("Origin", "null"), ("Sec-Fetch-Site", "same-origin")],
        &[("Origin", Sessions::ISSUER), ("Origin", Sessions::ISSUER)],
        &[("Origin", "https://gate.example.test, https://evil.test")],
        &[("Origin", "https://gate.example.test.evil.test")],
        &[("Origin", "http://gate.example.test")],
        &[("Referer", "https://gate.example.test/")],
    ];
    for fields in foreign {
        for target in targets {
            let request =
                fields.iter().fold(target().cookie(&cookie), |r, (name, value)| r.header(name, value));
            refused(request.send(&gateway.address()));
        }
    }
    // A login that would leave a cookie in the victim's browser is such a call, too.
    for fields in &foreign[1..3] {
        let request =
            fields.iter().fold(post("/auth/login").json(&body), |r, (name, value)| r.header(name, value));
        refused(request.send(&gateway.address()));
    }
    assert_eq!(call(&gateway, &tokens.access), 200);
    browser_refresh(&tokens.refresh).send(&gateway.address()).expect(200);
}

#[test]
fn our_own_pages_and_clients_that_say_so_are_let_in() {
    let (_upstream, gateway) = start();
    let cookie = format!("{COOKIE}={}", login_in_browser(&gateway).refresh);
    for fields in [
        &[("Sec-Fetch-Site", "same-origin")][..],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", Sessions::ISSUER)],
        &[("Origin", Sessions::ISSUER)],
        &[("X-Portcullis-Request", "1")],
    ] {
        let request = post("/auth/refresh").cookie(&cookie);
        let request = fields.iter().fold(request, |r, (name, value)| r.header(name, value));
        let response = request.send(&gateway.address());
        assert_eq!(response.status, 200, "{fields:?}: {}", response.text());
    }
}

#[test]
fn an_allowed_origin_is_let_in_even_as_cross_site_and_may_read_the_answer() {
    let upstream = Upstream::start();
    let sessions = Sessions::embedded().set("allowed_origins", "[https://app.example.com]");
    let gateway = Gateway::start(&layout(&upstream, sessions));
    let login = post("/auth/login")
        .header("Origin", "https://app.example.com")
        .header("Sec-Fetch-Site", "cross-site")
        .json(&json!({ "username": "alice", "password": PASSWORD }));
    let response = login.send(&gateway.address()).expect(200);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    assert!(response.all("vary").join(",").to_ascii_lowercase().contains("origin"));
    let tokens = Tokens::from_cookie(response);
    for (origin, accepted) in [
        ("https://app.example.com", true),
        ("https://app.example.com:8443", false),
        ("https://app.example.com.evil.test", false),
        ("http://app.example.com", false),
    ] {
        let response = post("/auth/refresh")
            .cookie(&format!("{COOKIE}={}", tokens.refresh))
            .header("Origin", origin)
            .header("Sec-Fetch-Site", "cross-site")
            .send(&gateway.address());
        assert_eq!(response.status == 200, accepted, "{origin}: {}", response.text());
        assert_eq!(response.header("access-control-allow-origin").is_some(), accepted, "{origin}");
    }
    // Its preflight is answered here; nobody else's is.
    let preflight = |origin: &str| {
        request("OPTIONS", "/auth/login")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "content-type")
            .send(&gateway.address())
    };
    let allowed = preflight("https://app.example.com");
    assert!(matches!(allowed.status, 200 | 204), "{}", allowed.status);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(preflight("https://evil.test").header("access-control-allow-origin"), None);
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_failed_refresh_never_clears_the_cookie_and_a_logout_always_does() {
    let (_upstream, gateway) = start();
    let address = gateway.address();
    let tokens = login_in_browser(&gateway);
    for value in ["prt_garbage", "", "x"] {
        let response = browser_refresh(value).send(&address).expect(401);
        assert!(response.all("set-cookie").is_empty(), "{value}");
    }
    let logout = |value: &str| {
        let request = post("/auth/logout").same_origin().cookie(&format!("{COOKIE}={value}"));
        request.send(&address).expect(204)
    };
    let cleared = logout(&tokens.refresh);
    assert_eq!(attributes(&cleared), ["HttpOnly", "Max-Age=0", "Path=/auth", "SameSite=Strict", "Secure"]);
    assert_eq!(call(&gateway, &tokens.access), 401);
    let response = browser_refresh(&tokens.refresh).send(&address).expect(401);
    assert_eq!(response.member("code"), "session_revoked");
    assert!(response.all("set-cookie").is_empty());
    // Also of a session that is long gone: a shared computer is left clean.
    assert!(set_cookie(&logout(&tokens.refresh)).is_some());
    assert!(set_cookie(&logout("prt_garbage")).is_some());
}

#[test]
fn among_several_cookies_of_our_name_the_genuine_one_counts() {
    let (_upstream, gateway) = start();
    let tokens = login_in_browser(&gateway);
    let planted = format!("{COOKIE}=prt_planted; a=b; {COOKIE}={}", tokens.refresh);
    post("/auth/refresh").same_origin().cookie(&planted).send(&gateway.address()).expect(200);
}

#[test]
fn our_cookie_never_reaches_an_upstream_and_the_others_do() {
    let (upstream, gateway) = start();
    let tokens = login_in_browser(&gateway);
    for line in [
        format!("a=1; {COOKIE}={}; b=2", tokens.refresh),
        format!("a=1;{COOKIE}={};b=2", tokens.refresh),
        format!("a=1; {COOKIE}=x; b=2; {COOKIE}={}", tokens.refresh),
        format!("{COOKIE}=\"{}\"; a=1; b=2", tokens.refresh),
    ] {
        for (target, request) in
            [("/open/x", get("/open/x")), ("/api/x", get("/api/x").bearer(&tokens.access))]
        {
            request.cookie(&line).send(&gateway.address()).expect(200);
            let received = upstream.last();
            let cookies = received.all("cookie").join("; ");
            assert!(!cookies.contains("prt_") && !cookies.contains(COOKIE), "{target}: {cookies}");
            assert!(cookies.contains("a=1") && cookies.contains("b=2"), "{target}: {cookies}");
        }
    }
    get("/open/x").cookie(&format!("{COOKIE}={}", tokens.refresh)).send(&gateway.address()).expect(200);
    assert!(upstream.last().all("cookie").join("").trim().is_empty());
}

#[test]
fn an_upstream_can_never_set_our_cookie() {
    let (upstream, gateway) = start();
    upstream.answer(|_| {
        Reply::ok("x")
            .with("Set-Cookie", &format!("{COOKIE}=prt_fixed; Path=/auth; Secure; HttpOnly"))
            .with("Set-Cookie", "theirs=1; Path=/")
            .with("set-cookie", &format!(" {COOKIE} =x"))
    });
    let response = get("/open/x").send(&gateway.address()).expect(200);
    assert_eq!(response.all("set-cookie"), ["theirs=1; Path=/"]);
}

#[test]
fn the_cookie_is_named_and_scoped_as_configured() {
    let upstream = Upstream::start();
    let sessions = Sessions::embedded()
        .set("cookie", "{ name: __Host-session, path: /, same_site: lax }")
        .set("refresh_token", "{ idle: 2h, absolute: 1h }");
    let gateway = Gateway::start(&layout(&upstream, sessions));
    let response = browser_login("alice").send(&gateway.address()).expect(200);
    let line = response.header("set-cookie").unwrap();
    assert!(line.starts_with("__Host-session=prt_"), "{line}");
    let mut attributes: Vec<_> = line.split("; ").skip(1).collect();
    attributes.sort_unstable();
    let age = attributes[1].strip_prefix("Max-Age=").unwrap().parse::<u32>().unwrap();
    // The cookie ends with the session: what is left absolutely is less than idle.
    assert!((3590..=3600).contains(&age), "{age}");
    attributes.remove(1);
    assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]);
}
