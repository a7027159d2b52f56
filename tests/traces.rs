//! Each request is a span for the collector, and the trace goes through the gateway.

use crate::support::ports::free_port;
use crate::support::script::Script;
use crate::support::{Config, Gateway, Issuer, Reply, Request, Upstream, eventually, get};
use serde_json::{Value, json};
use std::time::Duration;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that is a script.
struct Collector {
    script: Script,
    port: String,
}

impl Collector {
    fn start() -> Self {
        let mut script = Script::start("otlp_collector.py", &[]);
        let port = script.line();
        Self { script, port }
    }

    /// The next span it was sent.
    #[track_caller]
    fn span(&mut self) -> Value {
        serde_json::from_str(&self.script.line()).expect("a span")
    }
}

fn config(port: &str, upstream: &Upstream, issuer: &Issuer) -> Config {
    Config::new()
        .set("telemetry", &format!("{{ otlp: \"http://127.0.0.1:{port}\" }}"))
        .issuer("corp", &issuer.settings())
        .upstream("app", &[upstream])
        .route("{ name: orders, match: { path: /orders/** }, upstream: app }")
        .route("{ name: open, match: { path: /open/** }, upstream: app, auth: public }")
}

fn traced(request: Request, flags: &str) -> Request {
    request.header("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}"))
}

#[test]
fn a_request_is_a_span_between_the_callers_and_the_upstreams() {
    let (upstream, issuer, mut collector) = (Upstream::start(), Issuer::start(), Collector::start());
    let gateway = Gateway::start(&config(&collector.port, &upstream, &issuer));
    let send = |request: Request| request.send(&gateway.address());
    let request = get("/orders/1?secret=x").bearer(&issuer.sign()).header("tracestate", "a=b");
    send(traced(request, "01")).expect(200);
    let span = collector.span();
    assert_eq!((&span["trace"], &span["parent"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!(
        (&span["name"], &span["kind"], &span["error"]),
        (&json!("GET orders"), &json!(2), &json!(false))
    );
    let told = &span["attributes"];
    assert_eq!(told["http.response.status_code"], 200);
    assert_eq!((&told["url.path"], &told["http.route"]), (&json!("/orders/1"), &json!("orders")));
    assert_eq!((&told["portcullis.reason"], &told["portcullis.upstream"]), (&json!("ok"), &json!("app")));
    assert!(told["portcullis.upstream_ms"].as_f64().unwrap() >= 0.0);
    assert!(span["nanoseconds"].as_u64().unwrap() > 0);
    assert_eq!(span["resource"]["service.name"], "portcullis");
    assert!(!span.to_string().contains("secret"), "the query is nobody's business: {span}");
    let (last, id) = (upstream.last(), span["id"].as_str().unwrap());
    assert_eq!(last.header("traceparent"), Some(format!("00-{TRACE}-{id}-01").as_str()));
    assert_eq!(last.header("tracestate"), Some("a=b"));

    // A trace begins here, with no state of another one.
    send(get("/open/a").header("traceparent", "00-broken").header("tracestate", "a=b")).expect(200);
    let (span, last) = (collector.span(), upstream.last());
    assert_eq!(span["parent"], "");
    let [trace, id] = ["trace", "id"].map(|key| span[key].as_str().unwrap());
    assert_eq!(last.header("traceparent"), Some(format!("00-{trace}-{id}-01").as_str()));
    assert_eq!(last.header("tracestate"), None);

    // What the caller does not record is not recorded; the next span is of the next request.
    send(traced(get("/open/b"), "00")).expect(200);
    assert_eq!(upstream.last().header("traceparent"), Some(format!("00-{TRACE}-{PARENT}-00").as_str()));
    send(get("/orders/1").header("X-Request-Id", "refused-1")).expect(401);
    let told = &collector.span()["attributes"];
    assert_eq!(told["portcullis.request_id"], "refused-1");
    assert_eq!((&told["http.response.status_code"], told.get("error.type")), (&json!(401), None));
    upstream.answer(|_| Reply::status(503, "no"));
    send(get("/open/c")).expect(503);
    assert_eq!(collector.span()["error"], true);

    // A gateway that stops sends what it has.
    send(get("/elsewhere")).expect(404);
    gateway.terminate();
    assert_eq!(collector.span()["attributes"]["portcullis.reason"], "no_route");
}

#[test]
fn a_collector_that_is_away_is_told_of_once_and_costs_no_request() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let port = free_port().to_string();
    let gateway = Gateway::start(&config(&port, &upstream, &issuer));
    let send = || get("/open/a").send(&gateway.address()).expect(200);
    send();
    let lost = "the collector takes no spans";
    assert!(gateway.says(lost));
    let mut script = Script::start("otlp_collector.py", &[&port]);
    assert_eq!(script.line(), port);
    let again = "the collector takes spans again";
    let back = || {
        send();
        gateway.stderr().contains(again)
    };
    assert!(eventually(Duration::from_secs(60), back));
    assert_eq!(gateway.stderr().matches(lost).count(), 1, "{}", gateway.stderr());
}
