//! Proxied requests: which route, which endpoint, what is forwarded, what is answered when it cannot be.

use crate::support::http_server::HttpServer;
use crate::support::ports::free_port;
use crate::support::tls::Authority;
use crate::support::{
    Config, Connection, Gateway, Reply, Upstream, config, eventually, get, http2, post, request,
};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_request_without_a_route_is_404_and_never_reaches_an_upstream() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: orders, match: { path: /orders/** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for target in ["/", "/order", "/ordersx", "/other/orders/1", "/metrics", "/readyz"] {
        let response = get(target).send(&gateway.address()).expect(404);
        assert_eq!(response.reason(), "no_route", "{target}");
    }
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn a_public_request_is_forwarded_as_it_came() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&Config::public(&upstream));
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let sent = request("PUT", "/a/b?x=1&y=%2F..").header("X-Custom", "kept").body(body.clone());
    let response = sent.send(&gateway.address()).expect(200);
    assert!(response.body == body, "the body came back changed");
    let received = upstream.last();
    assert_eq!(received.line, "PUT /a/b?x=1&y=%2F.. HTTP/1.1");
    assert_eq!(received.header("x-custom"), Some("kept"));
    assert_eq!(received.body.len(), body.len());
}

#[test]
fn chunked_bodies_pass_in_both_directions() {
    let upstream = Upstream::answering(|received| {
        Reply::Chunked(received.body.chunks(7000).map(<[u8]>::to_vec).collect())
    });
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send("POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let mut body = Vec::new();
    for number in 0..20_u8 {
        let piece = vec![b'a' + number; 1000];
        connection.send([b"3e8\r\n", piece.as_slice(), b"\r\n"].concat()).unwrap();
        body.extend(piece);
    }
    connection.send("0\r\n\r\n").unwrap();
    let response = connection.read_response(false).unwrap().expect(200);
    assert!(response.body == body, "the body came back changed");
    assert!(upstream.last().body == body, "the body arrived changed");
}

#[test]
fn the_most_specific_route_wins_whatever_the_order() {
    let (everything, below, one, exact, host) = (
        Upstream::named("everything"),
        Upstream::named("below"),
        Upstream::named("one"),
        Upstream::named("exact"),
        Upstream::named("host"),
    );
    let config = Config::new()
        .upstream("everything", &[&everything])
        .upstream("below", &[&below])
        .upstream("one", &[&one])
        .upstream("exact", &[&exact])
        .upstream("host", &[&host])
        .route("{ name: everything, match: { path: /** }, upstream: everything, auth: public }")
        .route("{ name: below, match: { path: /a/** }, upstream: below, auth: public }")
        .route("{ name: one, match: { path: \"/a/{id}\" }, upstream: one, auth: public }")
        .route("{ name: exact, match: { path: /a/b }, upstream: exact, auth: public }")
        .route(
            "{ name: host, match: { hosts: [api.example.com], path: /** }, upstream: host, auth: public }",
        );
    let gateway = Gateway::start(&config);
    for (target, wanted) in [
        ("/", "everything"),
        ("/b", "everything"),
        ("/a", "below"),
        ("/a/x/y", "below"),
        ("/a/x", "one"),
        ("/a/b", "exact"),
        ("/a/b/c", "below"),
        ("/a/b?c=/a/x", "exact"),
    ] {
        assert_eq!(get(target).send(&gateway.address()).expect(200).text(), wanted, "{target}");
    }
    // The host is matched before the path.
    let named = get("/a/b").header("Host", "api.example.com").send(&gateway.address());
    assert_eq!(named.expect(200).text(), "host");
}

#[test]
fn hosts_match_whatever_their_case_port_and_trailing_dot() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: api, match: { hosts: [Api.Example.com], path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for host in [
        "api.example.com",
        "API.EXAMPLE.COM",
        "api.example.com:8443",
        "api.example.com.",
        "Api.example.com.:80",
    ] {
        get("/").header("Host", host).send(&gateway.address()).expect(200);
    }
    let hits = upstream.hits();
    for host in ["example.com", "xapi.example.com", "api.example.com.evil.test", "api-example.com"] {
        get("/").header("Host", host).send(&gateway.address()).expect(404);
    }
    assert_eq!(upstream.hits(), hits);
}

#[test]
fn methods_choose_between_routes_of_one_path_and_others_are_refused() {
    let (reads, writes) = (Upstream::named("reads"), Upstream::named("writes"));
    let config = Config::new()
        .upstream("reads", &[&reads])
        .upstream("writes", &[&writes])
        .route("{ name: r, match: { path: /x, methods: [GET, HEAD] }, upstream: reads, auth: public }")
        .route("{ name: w, match: { path: /x, methods: [POST] }, upstream: writes, auth: public }");
    let gateway = Gateway::start(&config);
    assert_eq!(get("/x").send(&gateway.address()).expect(200).text(), "reads");
    assert_eq!(post("/x").body("1").send(&gateway.address()).expect(200).text(), "writes");
    request("HEAD", "/x").send(&gateway.address()).expect(200);
    let hits = reads.hits() + writes.hits();
    request("DELETE", "/x").send(&gateway.address()).expect(404);
    request("get", "/x").send(&gateway.address());
    assert_eq!(reads.hits() + writes.hits(), hits);
}

#[test]
fn connect_and_trace_are_405_everywhere() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    let address = gateway.address();
    request("TRACE", "/").send(&address).expect(405);
    request("CONNECT", "example.com:443").header("Host", "example.com:443").send(&address).expect(405);
    request("TRACE", "/")
        .header("Max-Forwards", "0")
        .header("X-HTTP-Method-Override", "GET")
        .send(&address)
        .expect(405);
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn an_unreachable_upstream_is_502() {
    let config = Config::new()
        .upstream_raw("app", &format!("{{ endpoints: [\"http://127.0.0.1:{}\"] }}", free_port()))
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let response = get("/x").send(&gateway.address()).expect(502);
    assert_eq!(response.reason(), "upstream_unreachable");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    // Names of the inside stay inside.
    assert!(!response.text().contains("127.0.0.1"), "{}", response.text());
}

#[test]
fn a_slow_upstream_is_504_and_a_route_may_wait_longer() {
    let upstream = Upstream::answering(|received| {
        let seconds = if received.target() == "/short" { 8 } else { 1 };
        Reply::ok("late").after(Duration::from_secs(seconds))
    });
    let config = Config::new()
        .upstream_with("app", &[&upstream], ", timeouts: { read: 250ms }, retries: 0")
        .route("{ name: short, match: { path: /short }, upstream: app, auth: public }")
        .route(
            "{ name: long, match: { path: /long }, upstream: app, auth: public, timeouts: { read: 10s } }",
        );
    let gateway = Gateway::start(&config);
    let start = Instant::now();
    let response = get("/short").send(&gateway.address()).expect(504);
    assert_eq!(response.reason(), "upstream_timeout");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(get("/long").send(&gateway.address()).expect(200).text(), "late");
}

#[test]
fn requests_go_to_the_endpoints_in_turn() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let config = Config::new()
        .upstream_with("app", &[&one, &two], ", balance: round_robin")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for _ in 0..6 {
        get("/").send(&gateway.address()).expect(200);
    }
    assert_eq!((one.hits(), two.hits()), (3, 3));
}

#[test]
fn random_balance_uses_every_endpoint() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let config = Config::new()
        .upstream_with("app", &[&one, &two], ", balance: random")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    // The chance that one endpoint is left out is 2^-39.
    for _ in 0..40 {
        get("/").send(&gateway.address()).expect(200);
    }
    assert!(one.hits() > 0 && two.hits() > 0, "{} and {}", one.hits(), two.hits());
}

#[test]
fn an_idempotent_request_is_tried_on_another_endpoint_and_others_are_not() {
    let alive = Upstream::start();
    let endpoints = format!("[\"http://127.0.0.1:{}\", \"{}\"]", free_port(), alive.url());
    let config = Config::new()
        .upstream_raw("app", &format!("{{ endpoints: {endpoints}, retries: 1 }}"))
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    for _ in 0..4 {
        get("/").send(&gateway.address()).expect(200);
    }
    let before = alive.hits();
    let statuses: Vec<u16> = (0..4).map(|_| post("/").body("1").send(&gateway.address()).status).collect();
    assert!(statuses.contains(&502), "a POST was retried: {statuses:?}");
    let fine = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(alive.hits() - before, fine);
}

#[test]
fn an_upstream_that_hangs_up_before_answering_a_post_is_502_and_sees_it_once() {
    let upstream = Upstream::answering(|_| Reply::Close);
    let config = Config::new()
        .upstream_with("app", &[&upstream], ", retries: 2")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    post("/pay").body("100").send(&gateway.address()).expect(502);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn an_answer_that_breaks_off_is_never_passed_on_as_whole() {
    let upstream = Upstream::answering(|_| Reply::CloseMidBody { promised: 1000, sent: b"half".to_vec() });
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let answer = connection.exchange(&get("/"));
    assert!(!answer.is_ok_and(|response| response.status == 200), "a broken answer looked whole");
}

#[test]
fn the_host_header_is_kept_replaced_or_literal_as_configured() {
    let upstream = Upstream::start();
    let config = Config::new()
        .upstream_with("kept", &[&upstream], ", host: preserve")
        .upstream_with("own", &[&upstream], ", host: upstream")
        .upstream_with("literal", &[&upstream], ", host: legacy.internal")
        .upstream_with("default", &[&upstream], "")
        .route("{ name: a, match: { path: /kept }, upstream: kept, auth: public }")
        .route("{ name: b, match: { path: /own }, upstream: own, auth: public }")
        .route("{ name: c, match: { path: /literal }, upstream: literal, auth: public }")
        .route("{ name: d, match: { path: /default }, upstream: default, auth: public }");
    let gateway = Gateway::start(&config);
    for (target, wanted) in [
        ("/kept", "Shop.Example.com:81".to_owned()),
        ("/own", upstream.authority()),
        ("/literal", "legacy.internal".to_owned()),
        ("/default", "Shop.Example.com:81".to_owned()),
    ] {
        get(target).header("Host", "Shop.Example.com:81").send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().header("host"), Some(wanted.as_str()), "{target}");
    }
}

#[test]
fn a_stripped_prefix_leaves_a_rooted_path() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream).route(
        "{ name: o, match: { path: /orders/** }, upstream: app, auth: public, rewrite: { strip_prefix: /orders } }",
    );
    let gateway = Gateway::start(&config);
    for (sent, wanted) in [
        ("/orders/1", "/1"),
        ("/orders", "/"),
        ("/orders/", "/"),
        ("/orders?x=1", "/?x=1"),
        ("/orders/a%20b/c?d=/orders/", "/a%20b/c?d=/orders/"),
        ("/orders/orders/1", "/orders/1"),
    ] {
        get(sent).send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().target(), wanted, "{sent}");
    }
}

#[test]
fn a_stripped_prefix_is_measured_in_the_form_that_is_forwarded() {
    // CVE-2026-40912 and CVE-2026-48020 of another proxy: the decoded length was cut off the encoded path.
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: all, match: { path: /** }, upstream: app }")
        .route("{ name: o, match: { path: /café/a~b/** }, upstream: app, auth: public, rewrite: { strip_prefix: /café/a~b } }");
    let gateway = Gateway::start(&config);
    for sent in ["/caf%C3%A9/a~b/x", "/caf%c3%a9/a%7Eb/x", "/%63%61%66%C3%A9/%61%7e%62/x"] {
        get(sent).send(&gateway.address()).expect(200);
        assert_eq!(upstream.last().target(), "/x", "{sent}");
    }
    for sent in ["/caf%C3%A9/a~b/../../admin", "/caf%C3%A9/a~b%2f..%2fadmin", "/caf%C3%A9/a~b//admin"] {
        get(sent).send(&gateway.address()).expect(400);
    }
    get("/caf%C3%A9/a~bb").send(&gateway.address()).expect(401);
    assert_eq!(upstream.hits(), 3);
}

#[test]
fn a_host_in_any_case_finds_its_route_among_hundreds() {
    // CVE-2026-27588 of another proxy: beyond a hundred hosts their case began to count.
    let upstream = Upstream::start();
    let mut config =
        Config::to(&upstream).route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    for n in 0..300 {
        let route = format!("{{ name: h{n}, match: {{ hosts: [h{n}.test], path: /** }}, upstream: app }}");
        config = config.route(&route);
    }
    let gateway = Gateway::start(&config);
    for host in ["h0.test", "H150.test", "h299.TEST", "H299.Test.:80"] {
        get("/").header("Host", host).send(&gateway.address()).expect(401);
    }
    get("/").header("Host", "h300.test").send(&gateway.address()).expect(200);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn forwarded_headers_are_rebuilt_and_the_clients_are_dropped() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    get("/")
        .header("Host", "shop.example.com")
        .header("X-Forwarded-For", "203.0.113.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "evil.test")
        .header("x_forwarded_for", "203.0.113.8")
        .header("Forwarded", "for=203.0.113.9;proto=https")
        .send(&gateway.address())
        .expect(200);
    let received = upstream.last();
    assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto"), Some("http"));
    assert_eq!(received.header("x-forwarded-host"), Some("shop.example.com"));
    let all = received.header_lines.join("\n");
    assert!(!all.contains("203.0.113.") && !all.contains("evil.test"), "{all}");
}

#[test]
fn a_trusted_proxy_is_believed_about_the_client() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("trusted_proxies", "[127.0.0.0/8]");
    let gateway = Gateway::start(&config);
    get("/")
        .header("X-Forwarded-For", "198.51.100.1, 203.0.113.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "shop.example.com")
        .send(&gateway.address())
        .expect(200);
    let received = upstream.last();
    let chain = received.header("x-forwarded-for").unwrap_or_default();
    assert!(chain.contains("203.0.113.7"), "{chain}");
    assert_eq!(received.header("x-forwarded-proto"), Some("https"));
    assert_eq!(received.header("x-forwarded-host"), Some("shop.example.com"));
}

#[test]
fn a_request_id_is_kept_if_well_formed_and_made_otherwise() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    let address = gateway.address();
    get("/").header("X-Request-Id", "3f1c-AB_9.x").send(&address).expect(200);
    assert_eq!(upstream.last().header("x-request-id"), Some("3f1c-AB_9.x"));

    let mut made = Vec::new();
    for bad in ["", "a b", "a\"b", "<script>", "a;b,c\\", &"x".repeat(1000)] {
        get("/").header("X-Request-Id", bad).send(&address).expect(200);
        let id = upstream.last().header("x-request-id").map(str::to_owned).expect("a request id");
        assert!(id != bad && !id.is_empty(), "{bad:?} was kept");
        made.push(id);
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 6, "request ids repeat: {made:?}");
}

#[test]
fn a_trace_context_passes_through() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    get("/").header("traceparent", parent).header("tracestate", "a=1").send(&gateway.address()).expect(200);
    assert_eq!(upstream.last().header("traceparent"), Some(parent));
}

#[test]
fn errors_are_problem_details_or_a_page_for_clients_that_accept_only_html() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream).route("{ name: a, match: { path: /a }, upstream: app }");
    let gateway = Gateway::start(&config);
    let problem = get("/a").header("Accept", "*/*").send(&gateway.address()).expect(401);
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem.reason(), "no_token");
    assert_eq!(problem.json()["status"], 401);
    let page = get("/a").header("Accept", "text/html").send(&gateway.address()).expect(401);
    assert!(page.header("content-type").unwrap_or_default().starts_with("text/html"));
    assert!(page.text().contains("401"));
    let browser = "text/html,application/xhtml+xml;q=0.9,application/json;q=0.8";
    let both = get("/a").header("Accept", browser).send(&gateway.address()).expect(401);
    assert_eq!(both.header("content-type"), Some("application/problem+json"));
}

#[test]
fn a_refusal_keeps_the_connection_for_the_next_request() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: open, match: { path: /open }, upstream: app, auth: public }")
        .route("{ name: closed, match: { path: /closed }, upstream: app }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.exchange(&get("/closed")).unwrap().expect(401);
    connection.exchange(&get("/nowhere")).unwrap().expect(404);
    connection.exchange(&post("/closed").body("small")).unwrap().expect(401);
    connection.exchange(&get("/open")).unwrap().expect(200);
    connection.exchange(&get("/open")).unwrap().expect(200);
    assert_eq!(upstream.connections(), 1, "the upstream connection is kept as well");
}

#[test]
fn an_answer_to_head_has_no_body_whoever_gives_it() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: open, match: { path: /open }, upstream: app, auth: public }")
        .route("{ name: closed, match: { path: /closed }, upstream: app }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    for (target, status) in [("/closed", 401), ("/nowhere", 404), ("/open", 200), ("/closed", 401)] {
        connection.exchange(&request("HEAD", target)).unwrap().expect(status);
    }
    // A body sent after all would now be read as the head of the next answer.
    assert_eq!(connection.exchange(&get("/open")).unwrap().expect(200).text(), "upstream");
}

#[test]
fn a_body_beyond_the_limit_is_413_and_a_route_may_raise_it() {
    let upstream = Upstream::echo();
    let config = Config::to(&upstream)
        .server("limits", "{ body_bytes: 10KiB }")
        .route("{ name: small, match: { path: /small }, upstream: app, auth: public }")
        .route("{ name: large, match: { path: /large }, upstream: app, auth: public, limits: { body_bytes: 1MiB } }")
        .route("{ name: any, match: { path: /any }, upstream: app, auth: public, limits: { body_bytes: 0 } }");
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    post("/small").body(vec![b'x'; 10 * 1024]).send(&address).expect(200);
    let hits = upstream.hits();
    let refused = post("/small").body(vec![b'x'; 10 * 1024 + 1]).send(&address).expect(413);
    assert_eq!(refused.reason(), "body_too_large");
    assert_eq!(upstream.hits(), hits, "a declared length is refused before the upstream hears of it");
    post("/large").body(vec![b'x'; 500_000]).send(&address).expect(200);
    post("/large").body(vec![b'x'; 1_100_000]).send(&address).expect(413);
    post("/any").body(vec![b'x'; 2_000_000]).send(&address).expect(200);

    // A chunked body shows its length only as it comes.
    let mut connection = Connection::open(&address).unwrap();
    connection.send("POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    for _ in 0..12 {
        let _ = connection.send(&chunk);
    }
    let _ = connection.send("0\r\n\r\n");
    let answer = connection.read_response(false);
    assert!(!answer.as_ref().is_ok_and(|r| r.status == 200), "12 KiB passed a limit of 10 KiB");
    if let Ok(response) = answer {
        assert_eq!(response.status, 413);
    }
}

#[test]
fn heads_beyond_the_limits_are_414_and_431() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream)
        .server("limits", "{ target_bytes: 1KiB, header_bytes: 4KiB, header_fields: 20 }");
    let gateway = Gateway::start(&config);
    let address = gateway.address();
    get(&format!("/{}", "a".repeat(1000))).send(&address).expect(200);
    let long = get(&format!("/{}", "a".repeat(1024))).send(&address).expect(414);
    assert_eq!(long.reason(), "target_too_long");
    let heavy = get("/").header("X-Big", &"a".repeat(4096)).send(&address).expect(431);
    assert_eq!(heavy.reason(), "header_too_large");
    let many = (0..30).fold(get("/"), |request, n| request.header(&format!("X-{n}"), "1"));
    many.send(&address).expect(431);
    assert_eq!(upstream.hits(), 1);
}

#[test]
fn a_head_that_drips_in_is_cut_off_in_total_time() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("limits", "{ header_timeout: 500ms }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap().patience(Duration::from_millis(1));
    let start = Instant::now();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    // A byte well within any timeout of a single read, for as long as the gateway puts up with it.
    let cut = eventually(Duration::from_secs(10), || {
        thread::sleep(Duration::from_millis(50));
        connection.send("x").is_err()
            || !matches!(connection.read_to_end(), Err(why) if why.kind() == std::io::ErrorKind::TimedOut)
    });
    assert!(cut, "still served after ten seconds");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(upstream.hits(), 0);
    get("/").send(&gateway.address()).expect(200);
}

#[test]
fn a_second_head_on_a_kept_connection_has_its_time_limit_too() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("limits", "{ header_timeout: 500ms, idle_timeout: 30s }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.exchange(&get("/")).unwrap().expect(200);
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    assert!(
        connection.patience(Duration::from_secs(5)).read_to_end().is_ok(),
        "the half head was waited for"
    );
}

#[test]
fn a_body_that_stops_coming_is_given_up() {
    let upstream = Upstream::echo();
    let config = Config::public(&upstream).server("limits", "{ body_timeout: 300ms }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap().patience(Duration::from_secs(6));
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    match connection.read_response(false) {
        Ok(response) => assert_eq!(response.status, 408),
        Err(why) => assert_ne!(why.kind(), std::io::ErrorKind::TimedOut, "the body was waited for"),
    }
}

#[test]
fn an_idle_connection_is_closed() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("limits", "{ idle_timeout: 2s }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.exchange(&get("/")).unwrap().expect(200);
    connection.exchange(&get("/")).unwrap().expect(200);
    assert!(connection.is_closed_within(Duration::from_secs(10)), "still open after five idle timeouts");
}

#[test]
fn connections_beyond_the_limit_are_not_served_and_the_others_go_on() {
    let upstream = Upstream::start();
    let config = Config::public(&upstream).server("limits", "{ connections: 2 }");
    let gateway = Gateway::start(&config);
    let mut first = Connection::open(&gateway.address()).unwrap();
    let mut second = Connection::open(&gateway.address()).unwrap();
    first.exchange(&get("/")).unwrap().expect(200);
    second.exchange(&get("/")).unwrap().expect(200);
    let third = Connection::open(&gateway.address()).and_then(|mut third| third.exchange(&get("/")));
    assert!(!third.is_ok_and(|response| response.status == 200), "a third connection was served");
    first.exchange(&get("/")).unwrap().expect(200);
    drop(second);
    let freed = eventually(Duration::from_secs(5), || {
        get("/").try_send(&gateway.address()).is_ok_and(|r| r.status == 200)
    });
    assert!(freed, "a closed connection does not make room");
}

#[test]
fn a_tls_listener_speaks_http_1_and_by_alpn_http_2() {
    let upstream = Upstream::start();
    let authority = Authority::new();
    let identity = authority.identity(&["localhost", "127.0.0.1"]);
    let config = Config::public(&upstream)
        .listener("tls: { certificate: tls/cert.pem, private_key: tls/key.pem }, http2: true")
        .file("tls/cert.pem", identity.certificate_pem)
        .file("tls/key.pem", identity.key_pem);
    let gateway = Gateway::start(&config);
    let mut connection = authority.connect(&gateway.address(), "localhost").unwrap();
    connection.exchange(&get("/one")).unwrap().expect(200);
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
    let answer = http2::fetch(&format!("https://{}/two", gateway.address()), &[], Some(&authority));
    assert_eq!((answer.version, answer.status), (reqwest::Version::HTTP_2, 200));
    assert_eq!(upstream.last().target(), "/two");
}

#[test]
fn a_plain_listener_speaks_http_2_by_prior_knowledge_with_the_same_rules() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .listener("http2: true")
        .set("forward", "{ headers: { X-Auth-Subject: sub } }")
        .route("{ name: open, match: { path: /open/** }, upstream: app, auth: public }")
        .route("{ name: closed, match: { path: /closed/** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let url = |path: &str| format!("http://{}{path}", gateway.address());
    let open = http2::fetch(&url("/open/x"), &[("x-auth-subject", "root"), ("x_auth.subject", "root")], None);
    assert_eq!((open.version, open.status), (reqwest::Version::HTTP_2, 200));
    let received = upstream.last();
    assert_eq!(received.line, "GET /open/x HTTP/1.1");
    assert!(received.folded("x-auth-subject").is_empty(), "{:?}", received.header_lines);
    assert_eq!(received.header("host"), Some(gateway.address().as_str()));
    let closed = http2::fetch(&url("/closed/x"), &[], None);
    assert_eq!(closed.status, 401);
    assert!(closed.body.contains("no_token"), "{}", closed.body);
    assert_eq!(http2::fetch(&url("/open/a%2Fb"), &[], None).status, 400);
    // HTTP/1.1 shares the port.
    get("/open/y").send(&gateway.address()).expect(200);
    assert_eq!(upstream.hits(), 2);
}

#[test]
fn an_https_upstream_must_prove_its_name() {
    let authority = Authority::new();
    let identity = authority.identity(&["orders.internal"]);
    let server = HttpServer::start_tls(identity.server(), |_| Reply::ok("over tls"));
    let entry = |name: &str, ca: &str| {
        config::https_upstream(
            &server,
            &format!(", retries: 0, tls: {{ server_name: {name}, ca_file: {ca} }}"),
        )
    };
    let config = Config::new()
        .file("ca.pem", authority.pem())
        .file("other.pem", Authority::new().pem())
        .upstream_raw("right", &entry("orders.internal", "ca.pem"))
        .upstream_raw("wrong-name", &entry("billing.internal", "ca.pem"))
        .upstream_raw("wrong-ca", &entry("orders.internal", "other.pem"))
        .route("{ name: a, match: { path: /right }, upstream: right, auth: public }")
        .route("{ name: b, match: { path: /wrong-name }, upstream: wrong-name, auth: public }")
        .route("{ name: c, match: { path: /wrong-ca }, upstream: wrong-ca, auth: public }");
    let gateway = Gateway::start(&config);
    assert_eq!(get("/right").send(&gateway.address()).expect(200).text(), "over tls");
    get("/wrong-name").send(&gateway.address()).expect(502);
    // The kept connection of the route that trusts another authority must not be borrowed.
    get("/wrong-ca").send(&gateway.address()).expect(502);
    assert_eq!(server.received().len(), 1);
}

#[test]
fn a_client_that_expects_100_continue_is_not_left_waiting() {
    let upstream = Upstream::echo();
    let config = Config::to(&upstream)
        .route("{ name: open, match: { path: /open }, upstream: app, auth: public }")
        .route("{ name: closed, match: { path: /closed }, upstream: app }");
    let gateway = Gateway::start(&config);
    let mut connection = Connection::open(&gateway.address()).unwrap();
    let head = "HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    connection.send(format!("POST /open {head}")).unwrap();
    assert_eq!(connection.read_one(false).unwrap().status, 100);
    connection.send("hello").unwrap();
    assert_eq!(connection.read_response(false).unwrap().expect(200).text(), "hello");

    // A refusal from the head alone asks for no body.
    let mut refused = Connection::open(&gateway.address()).unwrap();
    refused.send(format!("POST /closed {head}")).unwrap();
    assert_eq!(refused.read_one(false).unwrap().status, 401);
}

#[test]
fn options_is_an_ordinary_request() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .route("{ name: closed, match: { path: /closed }, upstream: app }")
        .route("{ name: open, match: { path: /open }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    request("OPTIONS", "/closed").send(&gateway.address()).expect(401);
    request("OPTIONS", "/closed")
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "POST")
        .send(&gateway.address());
    assert_eq!(upstream.hits(), 0, "a preflight went past the policy");
    request("OPTIONS", "/open").send(&gateway.address()).expect(200);
    assert_eq!(upstream.last().method(), "OPTIONS");
}

#[test]
fn an_http_1_0_client_is_served() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    let mut connection = Connection::open(&gateway.address()).unwrap();
    connection.send("GET /old HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let answer = String::from_utf8_lossy(&connection.read_to_end().unwrap()).into_owned();
    assert!(
        answer.starts_with("HTTP/1.") && answer.contains(" 200 ") && answer.ends_with("upstream"),
        "{answer}"
    );
}

#[test]
fn an_upstream_that_went_away_and_came_back_is_used_again() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream));
    get("/").send(&gateway.address()).expect(200);
    upstream.answer(|_| Reply::Close);
    get("/").send(&gateway.address()).expect(502);
    upstream.answer(|_| Reply::ok("back"));
    assert_eq!(get("/").send(&gateway.address()).expect(200).text(), "back");
}
