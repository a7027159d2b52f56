//! `explain` tells the truth: what `portcullis test` says of thousands of generated requests is what a running
//! gateway does with them.

use crate::support::client::{Connection, Request, request};
use crate::support::gateway::command;
use crate::support::http_server::Received;
use crate::support::person::login;
use crate::support::token::{Token, now};
use crate::support::{Config, Gateway, Issuer, Key, Sessions, Upstream, eventually, wait_for};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

const REQUESTS: usize = 2000;

/// A sequence of numbers that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.roll(times) == 0
    }
}

/// A request.
#[derive(Debug)]
struct Sample {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    token: Option<String>,
    body: Vec<u8>,
}

impl Sample {
    fn request(&self) -> Request {
        let mut asked = request(&self.method, &self.target);
        for (name, value) in &self.headers {
            asked = asked.header(name, value);
        }
        if let Some(token) = &self.token {
            asked = asked.bearer(token);
        }
        if self.body.is_empty() { asked } else { asked.body(self.body.clone()) }
    }

    /// The case for `portcullis test`, which is to find what the gateway did.
    fn case(&self, number: usize, done: &Done) -> Value {
        let mut headers = serde_json::Map::new();
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| json!([])).as_array_mut().unwrap().push(json!(value));
        }
        let url = format!("http://gate.example.test{}", self.target);
        let mut case = json!({
            "name": format!("case {number}"),
            "request": { "method": self.method, "url": url, "headers": headers },
            "expect": { "decision": done.decision, "reason": done.reason },
        });
        if let Some(token) = &self.token {
            case["token"] = json!(token);
        }
        if done.forwarded.is_none() && !done.route.starts_with("auth:") {
            case["expect"]["status"] = json!(done.status);
        }
        case
    }
}

/// What the gateway did.
#[derive(Debug)]
struct Done {
    status: u16,
    decision: &'static str,
    reason: String,
    route: String,
    /// The request line and the header fields that reached the upstream.
    forwarded: Option<(String, Vec<String>)>,
}

const ROUTES: &[&str] = &[
    "{ name: open, match: { path: \"/open/**\" }, upstream: app, auth: public }",
    "{ name: any-token, match: { path: \"/any/{id}\" }, upstream: app }",
    "{ name: optional, match: { path: \"/optional/**\" }, upstream: app, auth: optional }",
    "{ name: corp-only, match: { path: \"/corp\" }, upstream: app, auth: { issuers: [corp] } }",
    "{ name: own-only, match: { path: \"/own/**\" }, upstream: app, auth: { issuers: [gateway], revocation: off } }",
    "{ name: read, match: { path: \"/orders/**\", methods: [GET, HEAD] }, upstream: app, \
     auth: { scopes: [\"orders:read\"] }, rewrite: { strip_prefix: /orders } }",
    "{ name: write, match: { path: \"/orders/**\", methods: [POST, PUT] }, upstream: app, \
     auth: { scopes: [\"orders:read\", \"orders:write\"], roles: [clerk, boss] } }",
    "{ name: audience, match: { path: /audience }, upstream: app, auth: { audiences: [special] } }",
    "{ name: claims, match: { path: \"/claims/**\" }, upstream: app, \
     auth: { claims: { tenant: [acme, 7], \"address.country\": [DE] } } }",
    "{ name: observed, match: { path: \"/observed/**\" }, upstream: app, \
     auth: { enforce: false, scopes: [never], roles: [nobody] } }",
    "{ name: lax, match: { path: \"/lax/**\" }, upstream: app, auth: optional, allow_in_path: [\"%2F\", \";\", \"//\"] }",
    "{ name: host, match: { hosts: [\"api.example.com\", \"b.example\"], path: \"/**\" }, upstream: elsewhere, \
     auth: optional }",
    "{ name: host-deep, match: { hosts: [\"api.example.com\"], path: \"/orders/{id}/lines\" }, upstream: elsewhere, \
     auth: { roles: [clerk] } }",
    "{ name: headers, match: { path: \"/headers/**\" }, upstream: literal, auth: optional, forward: { authorization: pass, \
     headers: { X-User: sub, X-Tenant: { claim: tenant, absent: empty }, X-Groups: { claim: groups, format: csv }, \
     X-Address: { claim: address, format: json }, X-Raw: { claim: address, format: base64url-json } } } }",
    "{ name: strict-headers, match: { path: \"/strict/**\" }, upstream: app, \
     forward: { headers: { X-User: { claim: sub, max_bytes: 8B }, X-Tenant: { claim: tenant, absent: reject } } } }",
    "{ name: asserted, match: { path: \"/asserted\" }, upstream: app, forward: { assertion: { lifetime: 30s } } }",
    "{ name: page, match: { path: \"/page/**\", methods: [GET, PUT] }, upstream: app, \
     cors: { origins: [\"https://app.example.com\"] }, limits: { body_bytes: 10B } }",
    "{ name: socket, match: { path: \"/socket\" }, upstream: app, auth: optional, upgrade: true }",
    "{ name: rated, match: { path: \"/rated\" }, upstream: app, auth: optional, \
     rate_limit: { requests: 100000, per: 1s, by: subject } }",
];

const PATHS: &[&str] = &[
    "/",
    "/open",
    "/open/a",
    "/open/a/b",
    "/opened",
    "/any/1",
    "/any/",
    "/any/1/2",
    "/any/%41",
    "/optional/x",
    "/corp",
    "/own/a",
    "/orders",
    "/orders/",
    "/orders/1",
    "/orders/1/lines",
    "/audience",
    "/claims/a",
    "/observed/a",
    "/lax/a",
    "/lax/a%2fb",
    "/lax/a;b=c",
    "/lax//a",
    "/lax/a\\b",
    "/headers/x",
    "/strict/x",
    "/asserted",
    "/page/a",
    "/rated",
    "/auth/login",
    "/auth/refresh",
    "/auth/x",
    "/authentic",
    "/.well-known/jwks.json",
    "/nowhere",
];

/// What makes a path ambiguous, or only odd.
const ODDITIES: &[&str] = &[
    "/..",
    "/../open",
    "/.",
    "//",
    "/%2e%2e/open",
    "%2f",
    "%5c",
    ";x",
    "%00",
    "%zz",
    "%252e",
    "%25",
    "%c3%a9",
    "%ff",
    " ",
    ".",
    "%20",
    "%23",
    "%3f",
    "#f",
    "\\",
    "\u{e9}",
    "%0a",
    "~",
    "|",
    "\"",
    "{}",
    "/%2e",
    "%C0%AF",
];

const HOSTS: &[&str] = &[
    "gate.example.test",
    "gate.example.test",
    "gate.example.test",
    "127.0.0.1:8080",
    "api.example.com",
    "API.example.com.:443",
    "b.example",
];

const ODD_HOSTS: &[&str] = &["a..b", "u@h", "h:x", "[::1]", "[::1", "", "a b", "h/x", ".h", "h_x"];

/// Fields a client may send, honest or not; each a name and its possible values.
const FIELDS: &[(&str, &[&str])] = &[
    ("X-Auth-Subject", &["root"]),
    ("x_auth_subject", &["root"]),
    ("X-Auth--Roles", &["admin"]),
    ("X.User", &["root"]),
    ("X-Auth-Assertion", &["a.b.c"]),
    ("X-Forwarded-For", &["203.0.113.7", "10.0.0.1, 203.0.113.9", "garbage"]),
    ("X-Forwarded-Proto", &["https", "http", "gopher"]),
    ("X-Forwarded-Host", &["front.example", "a b"]),
    ("X_Forwarded_Host", &["front.example"]),
    ("Forwarded", &["for=203.0.113.7"]),
    ("X-Real-IP", &["203.0.113.7"]),
    ("X-Original-URL", &["/open"]),
    ("X-HTTP-Method-Override", &["DELETE"]),
    ("Cookie", &["a=b", "a=b; __Secure-refresh_token=x; c=d", "__Secure-refresh_token=x"]),
    ("Connection", &["close", "X-Gone", "X-Auth-Subject, close", "Authorization", "Cookie"]),
    ("X-Gone", &["1"]),
    ("Keep-Alive", &["timeout=5"]),
    ("Proxy-Authorization", &["Basic eA=="]),
    ("TE", &["trailers"]),
    ("X-Request-Id", &["known", "not well formed"]),
    ("traceparent", &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]),
    ("Accept", &["text/html", "application/json", "*/*"]),
    ("Origin", &["https://app.example.com", "https://evil.example"]),
    ("Access-Control-Request-Method", &["PUT", "DELETE", "bad method"]),
    ("Access-Control-Request-Headers", &["authorization"]),
    ("Authorization", &["Basic eDp5", "Bearer", "Bearer a b", "bearer a.b.c", "Bearer x"]),
    ("Content-Length", &["+3", "3, 3", "x"]),
    ("Transfer-Encoding", &["gzip", "chunked, gzip"]),
    ("Server", &["x"]),
];

/// Signed by whom they say they are, and in other ways.
fn tokens(corp: &Issuer, legacy: &Key, own: &str) -> Vec<String> {
    let good = || corp.token();
    let plain = |claims: Value| Token::new(claims);
    let hmac = || {
        plain(json!({ "iss": "https://legacy.example", "aud": "api", "sub": "old", "exp": now() + 3000,
            "roles": "clerk", "scope": "orders:read orders:write", "tenant": 7 }))
    };
    let mut tokens = vec![
        good().sign(&corp.key),
        good().set("scope", json!("orders:read orders:write")).set("tenant", json!("acme")).sign(&corp.key),
        good().set("address", json!({ "country": "DE" })).set("tenant", json!("acme")).sign(&corp.key),
        good()
            .set("address", json!({ "country": "\u{e9}" }))
            .set("groups", json!(["a,b", "c", 1]))
            .sign(&corp.key),
        good().set("aud", json!("special")).sign(&corp.key),
        good().set("aud", json!(["other"])).sign(&corp.key),
        good().set("sub", json!("two\nlines")).sign(&corp.key),
        good()
            .set("sub", json!("a subject of more than eight bytes"))
            .set("tenant", json!("x"))
            .sign(&corp.key),
        good().set("scope", json!(["orders:read", "a b"])).sign(&corp.key),
        good().set("tenant", json!({ "deep": [1] })).sign(&corp.key),
        good().set("sub", json!("short")).set("tenant", json!(["acme", "x"])).sign(&corp.key),
        good().without("sub").sign(&corp.key),
        good().without("aud").sign(&corp.key),
        good().without("exp").sign(&corp.key),
        good().expires_in(-3600).sign(&corp.key),
        good().set("nbf", json!(now() + 3600)).sign(&corp.key),
        good().set("iss", json!("https://unknown.example")).sign(&corp.key),
        good().header("typ", json!("dpop+jwt")).sign(&corp.key),
        good().header("typ", json!("at+jwt")).sign(&corp.key),
        good().header("kid", Value::Null).sign(&corp.key),
        good().header("alg", json!("none")).sign(&corp.key),
        good().header("alg", json!("HS256")).sign(&corp.key),
        good().sign(&Key::rsa(1).named(&corp.key.kid)),
        hmac().sign(legacy),
        hmac().set("roles", json!(["guest"])).set("exp", json!(now() - 600)).sign(legacy),
        hmac().sign(&Key::secret("k", &[9; 48])),
        format!("{}.{}", own, "x"),
        own.rsplit_once('.').map(|(head, _)| format!("{head}.AAAA")).unwrap(),
        "a.b.c".to_owned(),
        "prt_notanaccesstoken".to_owned(),
        "x".repeat(5000),
    ];
    // Most requests have a token that is good for something.
    for _ in 0..6 {
        tokens.push(own.to_owned());
        tokens.push(good().set("realm_access", json!({ "roles": ["boss"] })).sign(&corp.key));
    }
    tokens
}

fn sample(number: usize, dice: &mut Dice, tokens: &[String]) -> Sample {
    let methods: &[&str] = &["GET", "GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"];
    let odd_methods: &[&str] = &["TRACE", "CONNECT", "get", "PROPFIND", "G@T"];
    let mut method = if dice.once_in(25) { *dice.pick(odd_methods) } else { *dice.pick(methods) };
    let host = if dice.once_in(25) { *dice.pick(ODD_HOSTS) } else { *dice.pick(HOSTS) };
    let mut target = (*dice.pick(PATHS)).to_owned();
    if dice.once_in(4) {
        target.push_str(dice.pick::<&str>(ODDITIES));
        if dice.once_in(3) {
            target.push_str("/tail");
        }
    }
    if dice.once_in(4) {
        target.push_str(dice.pick::<&str>(&["?", "?a=b", "?a=/../b;c#d", "?x=%zz"]));
    }
    if dice.once_in(150) {
        target.push_str(&"a".repeat(3000));
    }
    let mut headers = vec![("Host".to_owned(), host.to_owned()), ("X-Case".to_owned(), number.to_string())];
    for _ in 0..dice.roll(4) {
        let (name, values) = dice.pick(FIELDS);
        // Most requests are framed well.
        if matches!(*name, "Content-Length" | "Transfer-Encoding" | "Authorization") && !dice.once_in(3) {
            continue;
        }
        let value = *dice.pick(values);
        // A well-formed identifier is one request's own.
        let value = if value == "known" { format!("known-{number}") } else { value.to_owned() };
        // Those of one name stand together.
        let at = headers.iter().rposition(|(own, _)| own == name).map_or(headers.len(), |at| at + 1);
        headers.insert(at, ((*name).to_owned(), value));
    }
    if dice.once_in(20) {
        (method, target) = ("OPTIONS", "/page/a".to_owned());
        headers.push(("Origin".to_owned(), "https://app.example.com".to_owned()));
        headers.push(("Access-Control-Request-Method".to_owned(), "PUT".to_owned()));
    }
    if dice.once_in(25) {
        let path: &str = dice.pick::<&str>(&["/socket", "/open/a"]);
        path.clone_into(&mut target);
        let fields: [(&str, &[&str]); 4] = [
            ("Connection", &["Upgrade", "keep-alive, Upgrade"]),
            ("Upgrade", &["websocket", "WebSocket", "h2c"]),
            ("Sec-WebSocket-Version", &["13", "8"]),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ==", "short"]),
        ];
        headers.retain(|(name, _)| name != "Connection");
        for (name, values) in fields {
            if !dice.once_in(8) {
                headers.push((name.to_owned(), (*dice.pick(values)).to_owned()));
            }
        }
    }
    if dice.once_in(100) {
        headers.extend((0..60).map(|n| (format!("X-Many-{n}"), "1".to_owned())));
    }
    let mut body = Vec::new();
    let framed =
        headers.iter().any(|(name, _)| matches!(name.as_str(), "Content-Length" | "Transfer-Encoding"));
    if matches!(method, "POST" | "PUT") && !framed && !dice.once_in(4) {
        body = vec![b'b'; *dice.pick(&[3, 12])];
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
    }
    // As they stand in the file of cases.
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    let token = (!dice.once_in(5)).then(|| dice.pick(tokens).clone());
    Sample { method: method.to_owned(), target, headers, token, body }
}

/// Sends everything, and gathers what became of it from the answer, the log and the upstreams.
fn perform(gateway: &Gateway, upstream: &Upstream, samples: &[Sample]) -> Vec<Done> {
    let answers: Vec<_> = samples
        .iter()
        .map(|sample| {
            let mut connection = Connection::open(&gateway.address()).unwrap();
            let answer = connection.exchange(&sample.request());
            answer.unwrap_or_else(|why| panic!("{} {}: {why}", sample.method, sample.target))
        })
        .collect();
    let arrived: HashMap<String, Received> = upstream
        .requests()
        .into_iter()
        .map(|r| (r.header("x-case").unwrap_or_default().to_owned(), r))
        .collect();
    // A request that is no HTTP has no line in the log. All others have, soon.
    let lines = || -> HashMap<String, Value> {
        let lines = gateway.log_lines().into_iter();
        lines.map(|line| (line["requestId"].as_str().unwrap_or_default().to_owned(), line)).collect()
    };
    let last = gateway.log_lines().len();
    let _ = wait_for(Duration::from_secs(10), || {
        let now = lines();
        let known =
            answers.iter().filter(|answer| now.contains_key(answer.header("x-request-id").unwrap())).count();
        (known + 100 > samples.len() && last > 0).then_some(())
    });
    let mut log = lines();
    samples
        .iter()
        .zip(answers)
        .enumerate()
        .map(|(number, (sample, answer))| {
            let id = answer.header("x-request-id").unwrap().to_owned();
            let line = log.remove(&id);
            let problem = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
            let word = |value: &Value| value.as_str().map(ToOwned::to_owned);
            let logged = line.as_ref().and_then(|line| word(&line["reason"]));
            let reason = logged.or_else(|| word(&problem["reason"]));
            let route = line.as_ref().and_then(|line| word(&line["route"])).unwrap_or_else(|| "?".to_owned());
            let forwarded = arrived.get(&number.to_string());
            // An answer to HEAD has no body to tell it.
            let unparsed = || match answer.status {
                400 if sample.method == "HEAD" => "bad_request".to_owned(),
                431 if sample.method == "HEAD" => "header_too_large".to_owned(),
                _ => panic!("{sample:?}: {answer:?}"),
            };
            let reason = reason.unwrap_or_else(unparsed);
            let fine = matches!(reason.as_str(), "ok" | "anonymous");
            let decision = match (forwarded, fine) {
                (Some(_), true) => "allow",
                (Some(_), false) => "would_deny",
                (None, _) if route.starts_with("auth:") || reason == "preflight" => "answer",
                (None, _) => "deny",
            };
            assert!(answer.status > 0, "{}", sample.target);
            let forwarded = forwarded.map(|received| (received.line.clone(), received.header_lines.clone()));
            Done { status: answer.status, decision, reason, route, forwarded }
        })
        .collect()
}

/// A header line without what differs from one time to the next: generated identifiers, and credentials, which
/// `explain` does not show.
fn comparable(line: &str) -> String {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.trim();
    let generated = name.eq_ignore_ascii_case("x-request-id") && value.len() == 32;
    let credential = ["authorization", "x-auth-assertion"].iter().any(|own| name.eq_ignore_ascii_case(own));
    format!("{name}: {}", if generated || credential { "*" } else { value })
}

/// Among fields of different names order means nothing (RFC 9110 section 5.3): only that of one name stays.
fn in_order(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by_key(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase());
    lines
}

/// What `portcullis test` says otherwise than the gateway did.
fn disagreement(done: &Done, case: &Value) -> Option<String> {
    let said = &case["result"];
    let mut wrong = Vec::new();
    if case["passed"] != true {
        wrong.push(format!("{}", case["differences"]));
    }
    let route = match (said["endpoint"].as_str(), said["route"].as_str()) {
        (Some(endpoint), _) => format!("auth:{endpoint}"),
        (None, Some(route)) => route.to_owned(),
        (None, None) => "none".to_owned(),
    };
    if done.route != "?" && route != done.route {
        wrong.push(format!("route {route}, and not {}", done.route));
    }
    let forward = &said["forward"];
    let line = format!(
        "{} {} HTTP/1.1",
        forward["method"].as_str().unwrap_or(""),
        forward["target"].as_str().unwrap_or("")
    );
    let headers = forward["headers"].as_array().map(|headers| {
        let line = |pair: &Value| {
            comparable(&format!("{}: {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        };
        in_order(headers.iter().map(line).collect())
    });
    let explained = headers.map(|headers| (line, headers));
    let happened = done
        .forwarded
        .as_ref()
        .map(|(line, lines)| (line.clone(), in_order(lines.iter().map(|l| comparable(l)).collect())));
    if explained != happened {
        wrong.push(format!("forwards\n  {explained:?}\nand not\n  {happened:?}"));
    }
    (!wrong.is_empty()).then(|| wrong.join("\n"))
}

#[test]
fn explain_agrees_with_the_running_gateway_on_two_thousand_generated_requests() {
    let upstream = Upstream::start();
    let (corp, legacy) = (Issuer::start(), Key::secret("k", &[7; 48]));
    let mut config = Config::to(&upstream)
        .upstream_with("elsewhere", &[&upstream], ", host: upstream")
        .upstream_with("literal", &[&upstream], ", host: \"orders.internal\"")
        .server("trusted_proxies", "[\"127.0.0.1/32\"]")
        .server("limits", "{ header_fields: 40, target_bytes: 2KiB, token_bytes: 4KiB, header_bytes: 16KiB }")
        .issuer("corp", &corp.settings())
        .issuer(
            "legacy",
            "{ issuer: \"https://legacy.example\", audiences: [api], algorithms: [HS256], key_set: { secret_file: hmac } }",
        )
        .file("hmac", [7; 48])
        .sessions(Sessions::embedded());
    for route in ROUTES {
        config = config.route(route);
    }
    let gateway = Gateway::start(&config);
    let copy = gateway.folder().path().join("data/key_sets/corp.json");
    assert!(eventually(Duration::from_secs(10), || copy.exists()), "the copy of the key set");
    let own = login(&gateway).access;
    let tokens = tokens(&corp, &legacy, &own);
    let mut dice = Dice(1);
    let samples: Vec<_> = (0..REQUESTS).map(|number| sample(number, &mut dice, &tokens)).collect();
    let done = perform(&gateway, &upstream, &samples);

    // The gateway's own folder: its keys, and its copy of the issuer's. Nobody is asked for them again.
    let fetches = corp.fetches();
    let cases: Vec<_> =
        samples.iter().zip(&done).enumerate().map(|(n, (sample, done))| sample.case(n, done)).collect();
    gateway.folder().write("cases.yaml", json!({ "cases": cases }).to_string());
    let exit =
        command(gateway.folder(), &["test", "--config", "portcullis.yaml", "--json", "cases.yaml"], "");
    assert!(exit.stdout.starts_with('{'), "{exit:?}");
    let said: Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(corp.fetches(), fetches, "explaining asks no issuer");

    let (mut wrong, mut seen) = (Vec::new(), HashMap::<String, usize>::new());
    for (number, done) in done.iter().enumerate() {
        *seen.entry(format!("{} {}", done.decision, done.reason)).or_default() += 1;
        if let Some(what) = disagreement(done, &said["cases"][number]) {
            let Sample { method, target, headers, .. } = &samples[number];
            wrong.push(format!("{number}: {method} {target} {headers:?}\n{done:?}\n{what}"));
        }
    }
    let first: Vec<_> = wrong.iter().take(5).cloned().collect();
    assert!(wrong.is_empty(), "{} of {REQUESTS} disagree\n{}", wrong.len(), first.join("\n\n"));
    assert_eq!((said["failed"].clone(), exit.code), (json!(0), Some(0)));
    // The samples are worth something: they reach most of what can happen.
    assert!(seen.len() > 25, "{seen:?}");
    let allowed: usize = seen.iter().filter(|(what, _)| what.starts_with("allow")).map(|(_, n)| n).sum();
    assert!(allowed > REQUESTS / 6, "{seen:?}");
}
