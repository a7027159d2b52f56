//! The alert rules and the dashboard that we ship, held against a real Prometheus that scrapes a running gateway.

use crate::support::person::{login, refresh};
use crate::support::ports::free_port;
use crate::support::{Config, Folder, Gateway, Sessions, Upstream, eventually, get, post};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ALERTS: &str = include_str!("../conf/alerts.yaml");
const DASHBOARD: &str = include_str!("../conf/grafana.json");
const OPERATIONS: &str = include_str!("../docs/operations.md");
const REQUESTS: &str = "sum(portcullis_requests_total)";

/// A Prometheus that scrapes one gateway each half second; ended when dropped.
struct Prometheus {
    child: Child,
    address: String,
    _folder: Folder,
}

impl Prometheus {
    fn scraping(gateway: &Gateway) -> Self {
        let (folder, address) = (Folder::new(), format!("127.0.0.1:{}", free_port()));
        folder.write("alerts.yaml", ALERTS);
        let target = gateway.admin();
        let text = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [alerts.yaml]\n\
             scrape_configs: [{{ job_name: portcullis, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        );
        let file = folder.write("prometheus.yaml", text);
        let data = file.replace("prometheus.yaml", "data");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={file}"))
            .arg(format!("--storage.tsdb.path={data}"))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus: apt-get install prometheus");
        let prometheus = Self { child, address, _folder: folder };
        let up = || get("/-/ready").try_send(&prometheus.address).is_ok_and(|answer| answer.status == 200);
        assert!(eventually(Duration::from_secs(60), up), "Prometheus does not come up");
        prometheus
    }

    fn api(&self, target: &str) -> Value {
        let answer = get(target).send(&self.address);
        let body = answer.json();
        assert_eq!(body["status"], "success", "{target}: {body}");
        body["data"].clone()
    }

    /// What an expression gives now.
    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("/api/v1/query?query={encoded}"));
        data["result"].as_array().expect("a vector").clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every expression of the dashboard, with its variables filled in.
fn expressions() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut found = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
            assert!(!filled.contains('$'), "{filled}");
            found.push((panel["title"].as_str().unwrap().to_owned(), filled));
        }
    }
    found
}

/// The metrics an expression names.
fn metrics(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("portcullis_")).collect()
}

#[test]
fn every_panel_and_every_rule_can_be_answered_and_nothing_is_wrong_with_a_gateway_that_is_well() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .sessions(Sessions::embedded())
        .route("{ name: api, match: { path: /api/** }, upstream: app }");
    let gateway = Gateway::start(&config);
    let prometheus = Prometheus::scraping(&gateway);
    let work = || {
        let tokens = login(&gateway);
        for _ in 0..2 {
            get("/api/x").bearer(&tokens.access).send(&gateway.address()).expect(200);
        }
        get("/api/x").send(&gateway.address()).expect(401);
        refresh(&gateway, &tokens.refresh).expect(200);
        post("/auth/logout").bearer(&tokens.access).send(&gateway.address()).expect(204);
        let wrong = json!({ "username": "alice", "password": "wrong" });
        post("/auth/login").json(&wrong).send(&gateway.address()).expect(401);
    };
    work();
    let counted = |expression: &str| -> f64 {
        let result = prometheus.query(expression);
        result.first().and_then(|one| one["value"][1].as_str()?.parse().ok()).unwrap_or(0.0)
    };
    // A rate needs two scrapes that differ.
    assert!(eventually(Duration::from_secs(30), || counted(REQUESTS) > 0.0), "nothing is scraped");
    let before = counted(REQUESTS);
    work();
    assert!(eventually(Duration::from_secs(30), || counted(REQUESTS) > before), "nothing more is scraped");

    let exposed = gateway.metrics();
    let panels = expressions();
    assert!(panels.len() > 20, "{}", panels.len());
    for (title, expression) in &panels {
        for metric in metrics(expression) {
            let name = metric.trim_end_matches("_bucket");
            assert!(exposed.contains(&format!("# TYPE {name} ")) || is_seldom(name), "{title}: {metric}");
        }
    }
    // What has not happened to this gateway has no series yet.
    let seldom = ["Would be refused, by route and reason", "Age of key sets"];
    let empty = || -> Vec<&str> {
        let silent = panels.iter().filter(|(_, expression)| prometheus.query(expression).is_empty());
        silent.map(|(title, _)| title.as_str()).filter(|title| !seldom.contains(title)).collect()
    };
    assert!(eventually(Duration::from_secs(30), || empty().is_empty()), "nothing to see: {:?}", empty());

    let groups = prometheus.api("/api/v1/rules");
    let rules = groups["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 10);
    let judged = || {
        let data = prometheus.api("/api/v1/rules");
        let rules = data["groups"][0]["rules"].as_array().unwrap().clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    };
    let rules =
        crate::support::wait_for(Duration::from_secs(30), judged).expect("a rule cannot be evaluated");
    for rule in &rules {
        assert_eq!(rule["state"], "inactive", "{rule}");
        for metric in metrics(rule["query"].as_str().unwrap()) {
            assert!(exposed.contains(&format!("# TYPE {metric} ")) || is_seldom(metric), "{metric}");
        }
    }
}

/// Families without a series until something happens are not in the exposition.
fn is_seldom(name: &str) -> bool {
    ["portcullis_key_set_fetch_total", "portcullis_key_set_age_seconds"].contains(&name)
}

#[test]
fn an_alert_fires_when_its_time_has_come() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&Config::public(&upstream).set("forward", "{ headers: { X-User: sub } }"));
    get("/x").send(&gateway.address()).expect(200);
    let prometheus = Prometheus::scraping(&gateway);
    let scraped = || !prometheus.query(REQUESTS).is_empty();
    assert!(eventually(Duration::from_secs(30), scraped));
    get("/x").header("X-User", "root").send(&gateway.address()).expect(200);
    let firing = || {
        let data = prometheus.api("/api/v1/alerts");
        let alerts = data["alerts"].as_array().unwrap();
        alerts.iter().any(|alert| {
            alert["labels"]["alertname"] == "PortcullisIdentityForged"
                && alert["labels"]["route"] == "all"
                && alert["state"] == "firing"
        })
    };
    assert!(eventually(Duration::from_secs(30), firing), "nobody is told");
}

#[test]
fn every_alert_is_explained() {
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let explained: Vec<&str> = OPERATIONS.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(alerts, explained);
}
