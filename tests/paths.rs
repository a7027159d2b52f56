//! The path that was authorised is the path that is forwarded, byte for byte.

use crate::support::{Config, Connection, Gateway, Upstream, get};

/// A public catch-all with a protected part below it: the layout in which a path read in two ways opens
/// a door.
fn layout(upstream: &Upstream) -> Config {
    Config::to(upstream)
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }")
        .route("{ name: admin, match: { path: /admin/** }, upstream: app }")
}

fn raw(gateway: &Gateway, target: &[u8]) -> Option<u16> {
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let line = [b"GET ", target, b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"].concat();
    connection.send(line).unwrap();
    connection.read_response(false).ok().map(|response| response.status)
}

#[test]
fn a_route_whose_own_path_is_ambiguous_serves_it_where_it_allows_the_form() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: dot, match: { path: /a./b }, upstream: app, auth: public, allow_in_path: [\"trailing dot\"] }")
        .route("{ name: parameter, match: { path: /c;d }, upstream: app, auth: public, allow_in_path: [\"%3B\"] }")
        .route("{ name: space, match: { path: \"/e \" }, upstream: app, auth: public, allow_in_path: [trailing space] }");
    let gateway = Gateway::start(&config);
    for (target, status) in [("/a./b", 200), ("/c%3Bd", 200), ("/e%20", 200), ("/c;d", 400), ("/a/b", 404)] {
        assert_eq!(raw(&gateway, target.as_bytes()), Some(status), "{target}");
    }
    let forwarded: Vec<_> = upstream.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(forwarded, ["/a./b", "/c%3Bd", "/e%20"]);
}

#[test]
fn ambiguous_paths_are_400_with_bad_path_and_reach_no_upstream() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream));
    for target in [
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a%5cb",
        "/a\\b",
        "/a;b",
        "/a;x=1/b",
        "/..",
        "/../admin",
        "/a/..",
        "/a/../admin",
        "/a/./b",
        "/.",
        "/a/.",
        "/%2e%2e/admin",
        "/a/%2E%2e/b",
        "/a/.%2e/b",
        "/a/%2e/b",
        "//",
        "//admin",
        "/a//b",
        "/a//",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%2g/b",
        "/a%00b",
        "/a%0d%0ab",
        "/a%0Ab",
        "/a%1fb",
        "/a%7Fb",
        "/a%3Fb",
        "/a%3fb",
        "/a%23b",
        "/a%252e%252e/b",
        "/a%252fb",
        "/a%252Fb",
        "/a%255cb",
        "/a%253bb",
        "/a%2500",
        "/a%253f",
        "/a%2523",
        "/a%c0%af",
        "/a%c0%ae%c0%ae/b",
        "/a%e0%80%af",
        "/a%ff",
        "/a%f8%80%80%80",
        "/a%ed%a0%80",
        "/a./b",
        "/a.",
        "/a%2e",
        "/a%20/b",
        "/a%20",
        "/a../b",
        "/a.../b",
        "/a%2e%20/b",
        "/%20",
    ] {
        let response = get(target).send(&gateway.address());
        assert_eq!(response.status, 400, "{target}: {}", response.text());
        assert_eq!(response.reason(), "bad_path", "{target}");
    }
    assert_eq!(upstream.hits(), 0, "{:?}", upstream.requests());
}

#[test]
fn no_spelling_of_a_protected_path_reaches_the_upstream_without_a_token() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream));
    for target in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/admin?x=1",
        "/%61dmin/x",
        "/adm%69n/x",
        "/%61%64%6D%69%6E",
        "/admin%2Fx",
        "/public/../admin/x",
        "/./admin/x",
        "//admin/x",
        "/admin/../admin/x",
        "/admin;x/y",
        "/public/..;/admin/x",
        "/admin%3Bx/y",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/..%5cadmin",
        "/admin\t",
        "/admin%09",
        "/admin%20",
        "/admin.",
        "/admin%00",
        "/x#/../admin",
        "/%2561dmin/x",
    ] {
        let status = raw(&gateway, target.as_bytes());
        let through: Vec<_> = upstream.requests().iter().map(|r| r.target().to_owned()).collect();
        // What may pass is only what no upstream reads as the protected path.
        let harmless = |seen: &String| seen == "/x" || seen == "/%2561dmin/x";
        assert!(through.iter().all(harmless), "{target}: {status:?}, upstream saw {through:?}");
    }
}

#[test]
fn unambiguous_paths_are_forwarded_byte_for_byte() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream));
    for target in [
        "/",
        "/a",
        "/a/",
        "/a/b.c",
        "/.well-known/x",
        "/...a/b",
        "/a..b",
        "/a%20b",
        "/a%25b",
        "/a%25",
        "/caf%C3%A9",
        "/%F0%9F%8C%8D",
        "/~user/-_.!$&'()*+,=:@x",
        "/a%21%28",
        "/a%3A%40",
        "/a?b=%2F%2e%2e//;\\%zz%00",
        "/a?",
        "/a?x=/../admin",
        "/a??",
        "/a%2Cb",
        "/a%2B",
    ] {
        let before = upstream.hits();
        let response = get(target).send(&gateway.address());
        assert_eq!(response.status, 200, "{target}: {}", response.text());
        assert_eq!(upstream.hits(), before + 1);
        assert_eq!(upstream.last().target(), target);
    }
}

#[test]
fn equivalent_spellings_are_matched_and_forwarded_as_the_same_path() {
    // RFC 3986 section 6.2.2: these differ for no reader, so one form stands for all of them.
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: exact, match: { path: /café/~user-1 }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for target in
        ["/caf%C3%A9/~user-1", "/caf%c3%a9/~user-1", "/caf%c3%A9/%7Euser%2d1", "/%63af%c3%A9/~%75ser-1"]
    {
        get(target).send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().target(), "/caf%C3%A9/~user-1", "{target}");
    }
    get("/CAF%C3%A9/~user-1").send(&gateway.address()).expect(404);
}

#[test]
fn a_route_may_allow_an_ambiguous_form_and_only_that_one() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: slash, match: { path: /slash/** }, upstream: app, auth: public, allow_in_path: [\"%2F\"] }")
        .route("{ name: semi, match: { path: /semi/** }, upstream: app, auth: public, allow_in_path: [\";\"] }")
        .route("{ name: plain, match: { path: /none/** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for target in ["/slash/a%2Fb", "/semi/a;v=1/b"] {
        get(target).send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().target(), target);
    }
    let hits = upstream.hits();
    for target in [
        "/slash/a;b",
        "/slash/%2e%2e/none",
        "/slash/..%2Fnone",
        "/slash/..%2fnone",
        "/slash/a%2F..%2Fb",
        "/slash/%2F/..",
        "/slash/%252F",
        "/semi/a%2Fb",
        "/semi/..;/none",
        "/semi/.;x/a",
        "/semi/a//b",
        "/none/a%2Fb",
        "/none/a;b",
        "/slash%2Fa",
        "/none%2F..%2Fslash/x",
    ] {
        let status = get(target).send(&gateway.address()).status;
        assert!(status == 400 || status == 404, "{target}: {status}");
    }
    assert_eq!(upstream.hits(), hits, "{:?}", upstream.requests().last());
}

#[test]
fn bytes_that_are_not_ascii_are_refused_or_forwarded_unchanged() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&layout(&upstream));
    for target in [&b"/\xc0\xafadmin"[..], b"/a\xff", b"/\xe0\x80\xaf", b"/a\x00b", b"/a\x01b", b"/a\x7fb"] {
        let status = raw(&gateway, target);
        assert!(status.is_none_or(|status| status == 400), "{target:?}: {status:?}");
    }
    assert_eq!(upstream.hits(), 0, "{:?}", upstream.requests());
}

#[test]
fn the_absolute_form_becomes_the_origin_form() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: shop, match: { hosts: [shop.test], path: /a/** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let send = |target: &str, host: &str| get(target).header("Host", host).send(&gateway.address()).status;
    assert_eq!(send("http://shop.test/a/b?c=1", "shop.test"), 200);
    assert_eq!(upstream.last().target(), "/a/b?c=1");
    assert_eq!(upstream.last().header("host"), Some("shop.test"));
    for (target, host) in [
        ("http://shop.test/a/b", "other.test"),
        ("http://other.test/a/b", "shop.test"),
        ("http://user:pass@shop.test/a/b", "shop.test"),
        ("http://shop.test/a/../b", "shop.test"),
    ] {
        assert_eq!(send(target, host), 400, "{target} with {host}");
    }
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn the_query_takes_no_part_in_the_match() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: exact, match: { path: /secret }, upstream: app }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for target in ["/secret?", "/secret?x", "/secret?/open"] {
        get(target).send(&gateway.address()).expect(401);
    }
    get("/open?/secret").send(&gateway.address()).expect(200);
    assert_eq!(upstream.hits(), 1);
}
