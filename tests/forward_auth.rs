//! Decisions for proxies that forward by themselves: a real nginx, and questions as the others put them.

use crate::support::ports::free_port;
use crate::support::{
    Config, Connection, Folder, Gateway, Issuer, Reply, Request, Response, Upstream, eventually, get, request,
};
use serde_json::json;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DOCUMENT: &str = include_str!("../docs/forward-auth.md");

struct Judge {
    gateway: Gateway,
    address: String,
    issuer: Issuer,
    _upstream: Upstream,
}

impl Judge {
    fn start(proxy: &str) -> Self {
        Self::trusting(Issuer::start(), proxy)
    }

    fn trusting(issuer: Issuer, proxy: &str) -> Self {
        let upstream = Upstream::start();
        let address = format!("127.0.0.1:{}", free_port());
        let headers = "{ headers: { X-Auth-Subject: sub, X-Auth-Issuer: iss, X-Auth-Scopes: scope, \
                       X-Auth-Roles: groups } }";
        let route = |text: &str| format!("{{ {text}, upstream: app }}");
        let config = Config::to(&upstream)
            .issuer("corp", &issuer.settings())
            .set("forward_auth", &format!("{{ address: \"{address}\"{proxy} }}"))
            .set("forward", headers)
            .route(&route("name: read, match: { path: /orders/**, methods: [GET] }"))
            .route(&route(
                "name: write, match: { path: /orders/**, methods: [POST] }, auth: { scopes: [write] }",
            ))
            .route(&route("name: hosted, match: { path: /hosted, hosts: [api.example.com] }, auth: public"))
            .route(&route(
                "name: watched, match: { path: /watched }, auth: { scopes: [all], enforce: false }",
            ))
            .route(&route("name: public, match: { path: /public/** }, auth: public"));
        let gateway = Gateway::start(&config);
        Self { gateway, address, issuer, _upstream: upstream }
    }

    fn token(&self, scope: &str) -> String {
        self.issuer.token().set("sub", json!("u-1")).set("scope", json!(scope)).sign(&self.issuer.key)
    }

    fn ask(&self, question: &Request) -> Response {
        question.send(&self.address)
    }
}

fn nginx_question(method: &str, target: &str) -> Request {
    get("/whatever").header("X-Original-Method", method).header("X-Original-URI", target)
}

fn traefik_question(method: &str, target: &str) -> Request {
    get("/").header("X-Forwarded-Method", method).header("X-Forwarded-Uri", target)
}

fn envoy_question(method: &str, target: &str) -> Request {
    request(method, target)
}

#[test]
fn every_kind_of_question_gets_the_routes_decision() {
    let judge = Judge::start("");
    let token = judge.token("read");
    for question in [nginx_question, traefik_question, envoy_question] {
        let allowed = judge.ask(&question("GET", "/orders/1?page=2").bearer(&token)).expect(200);
        assert_eq!(allowed.header("x-auth-subject"), Some("u-1"));
        assert_eq!(allowed.header("x-auth-scopes"), Some("read"));
        assert_eq!((allowed.header("x-auth-roles"), allowed.body.len()), (None, 0));

        let refused = judge.ask(&question("GET", "/orders/1")).expect(401);
        assert_eq!(
            (refused.header("www-authenticate"), refused.reason()),
            (Some("Bearer"), "no_token".into())
        );
        let refused = judge.ask(&question("GET", "/orders/1").bearer("a.b.c")).expect(401);
        assert_eq!(refused.reason(), "malformed_token");
        let refused = judge.ask(&question("POST", "/orders/1").bearer(&token)).expect(403);
        assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"));
        judge.ask(&question("POST", "/orders/1").bearer(&judge.token("write"))).expect(200);

        for (method, target, reason) in [
            ("DELETE", "/orders/1", "no_route"),
            ("GET", "/elsewhere", "no_route"),
            ("GET", "/public/..%2forders/1", "bad_path"),
            ("GET", "/public/../orders/1", "bad_path"),
            ("TRACE", "/public/x", "method_not_allowed"),
        ] {
            let refused = judge.ask(&question(method, target).bearer(&token)).expect(403);
            assert_eq!(refused.reason(), reason, "{method} {target}");
            // The body says what the answer is, and not what it would have been elsewhere.
            let told = refused.json();
            assert_eq!((&told["status"], &told["title"]), (&json!(403), &json!("Forbidden")), "{told}");
        }
        // An identity that a client brings is never what is answered.
        let public = judge.ask(&question("GET", "/public/x").header("X-Auth-Subject", "root")).expect(200);
        assert_eq!(public.header("x-auth-subject"), None);
        let watched = judge.ask(&question("GET", "/watched").bearer(&token)).expect(200);
        assert_eq!(watched.header("x-auth-subject"), Some("u-1"));
    }
    let hosted = |host: &str| judge.ask(&traefik_question("GET", "/hosted").header("X-Forwarded-Host", host));
    hosted("api.example.com").expect(200);
    hosted("other.example.com").expect(403);
    let hosted =
        |url: &str| judge.ask(&get("/").header("X-Original-Method", "GET").header("X-Original-URL", url));
    hosted("https://api.example.com/hosted?x").expect(200);
    hosted("https://other.example.com/hosted").expect(403);

    let labels = [("route", "read"), ("outcome", "deny"), ("reason", "no_token")];
    assert!(judge.gateway.metric("portcullis_auth_decisions_total", &labels) > 2.5);
    let line = judge.gateway.log_line(|line| line["route"] == "write" && line["status"] == 403);
    assert_eq!((&line["reason"], &line["subject"]), (&json!("insufficient_scope"), &json!(null)));
}

#[test]
fn an_outage_is_no_refusal() {
    let issuer = Issuer::start();
    issuer.break_with(Reply::status(500, ""));
    let judge = Judge::trusting(issuer, "");
    let answer = judge.ask(&nginx_question("GET", "/orders/1").bearer(&judge.token("read"))).expect(503);
    assert_eq!(answer.reason(), "keys_unavailable");
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn a_client_cannot_have_another_request_judged_than_the_one_it_sends() {
    let open = Judge::start("");
    for question in [
        nginx_question("GET", "/orders/1").header("X-Forwarded-Uri", "/public/x"),
        nginx_question("GET", "/orders/1").header("X-Original-URI", "/public/x"),
        nginx_question("GET", "/orders/1").header("X-Original-URL", "http://x/public/x"),
        traefik_question("GET", "/orders/1").header("X-Original-URI", "/public/x"),
        traefik_question("GET", "/orders/1").header("X-Forwarded-Method", "GET"),
        get("/orders/1").header("X-Original-URI", "/public/x"),
        get("/orders/1").header("X-Forwarded-Uri", "/public/x"),
        nginx_question("GET", "/public/x#/orders/1"),
        nginx_question("GET", "http://x/public/x"),
    ] {
        let refused = open.ask(&question).expect(403);
        assert_eq!(refused.reason(), "bad_request", "{}", refused.text());
    }
    // Whose proxy is named, only its own fields count.
    let envoy = Judge::start(", proxy: envoy");
    let forged = traefik_question("GET", "/public/x").header("X-Original-URI", "/public/x");
    assert_eq!(envoy.ask(&forged).expect(403).reason(), "no_route");
    let answer = envoy.ask(&get("/public/x").header("X-Auth-Subject", "root")).expect(200);
    let removed = answer.header("x-envoy-auth-headers-to-remove").unwrap_or_default();
    assert_eq!(
        removed.split(',').collect::<Vec<_>>(),
        [
            "x-auth-issuer",
            "x-auth-roles",
            "x-auth-scopes",
            "x-auth-subject",
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
            "x-original-url",
            "x-rewrite-url"
        ]
    );
    let nginx = Judge::start(", proxy: nginx");
    nginx.ask(&nginx_question("GET", "/orders/1").header("X-Forwarded-Uri", "/public/x")).expect(401);
    nginx.ask(&nginx_question("GET", "/public/x").header("X-Forwarded-Uri", "/orders/1")).expect(200);
    nginx.ask(&get("/public/x")).expect(403);
}

#[test]
fn a_question_about_head_is_answered_whole_whatever_it_is_asked_by() {
    let judge = Judge::start("");
    for question in [nginx_question, traefik_question] {
        let refused = judge.ask(&question("HEAD", "/orders/1")).expect(403);
        assert_eq!((refused.header("content-length"), refused.body.len()), (Some("0"), 0));
    }
}

/// nginx with the document's configuration; ended when dropped.
struct Nginx {
    child: Child,
    address: String,
    _folder: Folder,
}

impl Nginx {
    fn start(judge: &Judge, upstream: &Upstream) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let block = DOCUMENT.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let server = [
            ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
            ("127.0.0.1:9001", upstream.authority()),
            ("127.0.0.1:9191", judge.address.clone()),
            ("127.0.0.1:8080", judge.gateway.address()),
        ];
        let server = server.iter().fold(block.to_owned(), |text, (documented, real)| {
            assert!(text.contains(documented), "the document does not say {documented}");
            text.replace(documented, real)
        });
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log;\n\
             events {{}}\nhttp {{\naccess_log off;\n{temp}{server}\n}}\n"
        );
        let file = folder.write("nginx.conf", text);
        let prefix = file.trim_end_matches("nginx.conf").to_owned();
        let child = Command::new("nginx")
            .args(["-p", &prefix, "-e", "error.log", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed (make test-tools)");
        let address = format!("127.0.0.1:{port}");
        let up = || get("/public/up").try_send(&address).is_ok();
        assert!(eventually(Duration::from_secs(20), up), "nginx does not answer");
        Self { child, address, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_forwards_what_is_allowed_with_the_identity_and_nothing_else() {
    let (judge, upstream) = (Judge::start(", proxy: nginx"), Upstream::start());
    let nginx = Nginx::start(&judge, &upstream);
    let before = upstream.hits();
    let token = judge.token("read");
    let send = |question: Request| question.send(&nginx.address);

    send(get("/orders/1?a=b").bearer(&token).header("X-Auth-Roles", "admin")).expect(200);
    let last = upstream.last();
    assert_eq!(last.target(), "/orders/1?a=b");
    assert_eq!((last.header("x-auth-subject"), last.header("x-auth-roles")), (Some("u-1"), None));
    assert_eq!(last.header("authorization"), None);

    let refused = send(get("/orders/1").header("X-Auth-Subject", "root")).expect(401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    send(request("POST", "/orders/1").bearer(&token).body("x=1")).expect(403);
    send(request("POST", "/orders/1").bearer(&judge.token("write")).body("x=1")).expect(200);
    assert_eq!(upstream.last().body, b"x=1");
    send(get("/elsewhere").bearer(&token)).expect(403);
    send(get("/orders/1").header("X-Original-URI", "/public/x")).expect(401);
    send(get("/orders/1").header("X-Original-Method", "HEAD").header("X-Forwarded-Uri", "/public/x"))
        .expect(401);
    // The host that counts is the one nginx went by.
    let elsewhere =
        "GET http://other.test/hosted HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";
    let mut raw = Connection::open(&nginx.address).unwrap();
    raw.send(elsewhere).unwrap();
    assert_eq!(raw.read_response(false).unwrap().status, 403);
    send(get("/public/x").header("X-Auth-Subject", "root")).expect(200);
    assert_eq!(upstream.last().header("x-auth-subject"), None);
    assert_eq!(upstream.hits() - before, 3);
}
