//! Every metric, as verbs. Labels come from the configuration or from closed lists, never from a request.

use crate::panics::Place;
use crate::reason::Reason;
/// A metric could not be registered or written.
pub use prometheus::Error as MetricsError;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    Opts, Registry, TextEncoder,
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of the duration histograms, in seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The code of a request whose client went away before it was answered, as nginx and its dashboards have it.
pub const CLIENT_GONE: u16 = 499;

/// The label of requests that no route serves; no route has this name.
pub const UNROUTED: &str = "none";

/// The status of a header block that is too large (RFC 6585 section 5).
const HEADER_TOO_LARGE: u16 = 431;

/// Status codes common enough to deserve a handle of their own.
const COMMON_CODES: [u16; 17] =
    [200, 201, 202, 204, 301, 302, 304, 400, 401, 403, 404, 429, CLIENT_GONE, 500, 502, 503, 504];

/// Reasons common enough, in good times or in a flood, to deserve one too.
const COMMON_REASONS: [Reason; 7] = [
    Reason::Ok,
    Reason::Anonymous,
    Reason::NoToken,
    Reason::MalformedToken,
    Reason::UnknownKey,
    Reason::BadSignature,
    Reason::Expired,
];

/// What the policy decided (label `outcome`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionOutcome {
    /// The request was let through.
    Allow,
    /// The request was refused.
    Deny,
    /// The request was let through by a route that only observes.
    WouldDeny,
}

impl DecisionOutcome {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would_deny",
        }
    }
}

/// The registry of this process and everything in it.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    upstream_seconds: HistogramVec,
    decisions: IntCounterVec,
    token_cache_hits: IntCounter,
    token_cache_misses: IntCounter,
    key_set_fetch: IntCounterVec,
    key_set_age: GaugeVec,
    session_events: IntCounterVec,
    store_seconds: HistogramVec,
    store_errors: IntCounterVec,
    feed_age: Gauge,
    clock_difference: Gauge,
    spoofed: IntCounterVec,
    cut: IntCounterVec,
    connections: IntGauge,
    connections_refused: IntCounter,
    proxy_headers_missing: IntCounter,
    reloads: IntCounterVec,
    hash_queue: IntGauge,
    panics: IntCounterVec,
    log_lines_dropped: IntCounter,
}

/// Begins the series of these labels: a rate can be asked of what was there before it happened.
fn begin(counters: &IntCounterVec, labels: impl IntoIterator<Item = &'static str>) {
    for label in labels {
        counters.with_label_values(&[label]);
    }
}

/// Made, and to be scraped.
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = made?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Only if two metrics had one name, which a test excludes.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("portcullis".to_owned()), None)?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let seconds = |name: &str, help: &str, label: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            registered(&registry, HistogramVec::new(options, &[label]))
        };
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let gauge_of_seconds = |name: &str, help: &str| registered(&registry, Gauge::new(name, help));
        let panics = counters("panics_total", "Panics contained; each is a bug worth a report.", &["place"])?;
        begin(&panics, Place::ALL.iter().map(|place| place.as_str()));
        let reloads = counters("config_reloads_total", "Configuration reloads.", &["result"])?;
        begin(&reloads, ["ok", "error"]);
        let token_cache =
            counters("token_cache_total", "Look-ups in the verified-token cache.", &["result"])?;
        Ok(Self(Arc::new(Inner {
            requests: counters(
                "requests_total",
                "Requests answered, by route and status.",
                &["route", "code"],
            )?,
            request_seconds: seconds("request_seconds", "Time from request to answer.", "route")?,
            upstream_seconds: seconds(
                "upstream_seconds",
                "Time from picking an endpoint to its response header.",
                "upstream",
            )?,
            decisions: counters(
                "auth_decisions_total",
                "Decisions by route, issuer, outcome and reason code.",
                &["route", "issuer", "outcome", "reason"],
            )?,
            token_cache_hits: token_cache.with_label_values(&["hit"]),
            token_cache_misses: token_cache.with_label_values(&["miss"]),
            key_set_fetch: counters("key_set_fetch_total", "Key-set fetches.", &["issuer", "result"])?,
            key_set_age: registered(
                &registry,
                GaugeVec::new(
                    Opts::new("key_set_age_seconds", "Seconds since an issuer's key set was last obtained."),
                    &["issuer"],
                ),
            )?,
            session_events: counters("session_events_total", "What happened to sessions.", &["event"])?,
            store_seconds: seconds(
                "sessions_store_seconds",
                "Time of session store operations.",
                "operation",
            )?,
            store_errors: counters(
                "sessions_store_errors_total",
                "Session store operations that failed.",
                &["operation"],
            )?,
            feed_age: gauge_of_seconds(
                "revocation_feed_age_seconds",
                "Seconds since the revocation feed was last read to its end.",
            )?,
            clock_difference: gauge_of_seconds(
                "store_clock_difference_seconds",
                "Seconds that this machine's clock is ahead of the session store's; below zero: behind.",
            )?,
            spoofed: counters(
                "identity_header_spoof_total",
                "Identity headers a client sent and the gateway removed.",
                &["route"],
            )?,
            cut: counters(
                "requests_cut_total",
                "Requests and WebSockets ended before their time, by route and reason code.",
                &["route", "reason"],
            )?,
            connections: gauge("connections", "Client connections open now.")?,
            connections_refused: counter(
                "connections_refused_total",
                "Client connections closed at once because server.limits.connections was reached.",
            )?,
            proxy_headers_missing: counter(
                "proxy_header_missing_total",
                "Client connections closed because they did not begin with a PROXY header in time.",
            )?,
            reloads,
            hash_queue: gauge("password_hash_queue", "Logins waiting for a hashing worker.")?,
            panics,
            log_lines_dropped: counter(
                "log_lines_dropped_total",
                "Access and audit lines dropped because the output did not keep up.",
            )?,
            registry,
        })))
    }

    /// The exposition in Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.0.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The handles of one route, resolved once.
    pub fn route(&self, name: &str) -> RouteMetrics {
        RouteMetrics {
            metrics: self.clone(),
            name: name.to_owned(),
            seconds: self.0.request_seconds.with_label_values(&[name]),
            spoofed: self.0.spoofed.with_label_values(&[name]),
            codes: Default::default(),
            decisions: Default::default(),
        }
    }

    /// The handle of one upstream, resolved once.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics(self.0.upstream_seconds.with_label_values(&[name]))
    }

    /// A look-up in the verified-token cache.
    pub fn token_cache(&self, hit: bool) {
        if hit { &self.0.token_cache_hits } else { &self.0.token_cache_misses }.inc();
    }

    /// A key-set fetch ended.
    pub fn key_set_fetched(&self, issuer: &str, ok: bool) {
        self.0.key_set_fetch.with_label_values(&[issuer, if ok { "ok" } else { "error" }]).inc();
    }

    /// How old an issuer's key set is.
    pub fn key_set_age(&self, issuer: &str, age: Duration) {
        self.0.key_set_age.with_label_values(&[issuer]).set(age.as_secs_f64());
    }

    /// Events that may happen to sessions: a rate can be asked of each before it happened.
    pub fn may_happen(&self, events: impl IntoIterator<Item = &'static str>) {
        begin(&self.0.session_events, events);
    }

    /// Operations of the store that may fail.
    pub fn may_fail(&self, operations: impl IntoIterator<Item = &'static str>) {
        begin(&self.0.store_errors, operations);
    }

    /// Something happened to a session; `event` is from the closed list of the endpoints.
    pub fn session_event(&self, event: &'static str) {
        self.0.session_events.with_label_values(&[event]).inc();
    }

    /// A session store operation ended.
    pub fn store_operation(&self, operation: &'static str, took: Duration, ok: bool) {
        self.0.store_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
        if !ok {
            self.0.store_errors.with_label_values(&[operation]).inc();
        }
    }

    /// How long ago the revocation feed was read to its end.
    pub fn revocation_feed_age(&self, age: Duration) {
        self.0.feed_age.set(age.as_secs_f64());
    }

    /// How many seconds this machine's clock is ahead of the session store's.
    pub fn store_clock_difference(&self, seconds: f64) {
        self.0.clock_difference.set(seconds);
    }

    /// A client connection was accepted.
    pub fn connection_opened(&self) {
        self.0.connections.inc();
    }

    /// A client connection ended.
    pub fn connection_closed(&self) {
        self.0.connections.dec();
    }

    /// A request that could not be parsed was refused: counted as one that no route serves.
    pub fn unparsed(&self, code: u16) {
        self.0.requests.with_label_values(&[UNROUTED, code.to_string().as_str()]).inc();
        let reason = if code == HEADER_TOO_LARGE { Reason::HeaderTooLarge } else { Reason::BadRequest };
        let outcome = DecisionOutcome::Deny;
        self.0.decisions.with_label_values(&[UNROUTED, "", outcome.as_str(), reason.as_str()]).inc();
    }

    /// A client connection was refused because the limit is reached.
    pub fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    /// A client connection was closed because it did not begin with a PROXY header.
    pub fn proxy_header_missing(&self) {
        self.0.proxy_headers_missing.inc();
    }

    /// The configuration was loaded, or a new one was refused.
    pub fn config_reloaded(&self, ok: bool) {
        self.0.reloads.with_label_values(&[if ok { "ok" } else { "error" }]).inc();
    }

    /// A file that is followed on its own has changed, and was refused. One that is taken over is not counted: SIGHUP
    /// reads them all, and is one reload.
    pub fn file_refused(&self) {
        self.config_reloaded(false);
    }

    /// Logins waiting for a hashing worker now.
    pub fn password_hash_queue(&self, waiting: usize) {
        self.0.hash_queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// A panic was contained.
    pub fn panicked(&self, place: Place) {
        self.0.panics.with_label_values(&[place.as_str()]).inc();
    }

    /// An access or audit line was dropped.
    pub fn log_line_dropped(&self) {
        self.0.log_lines_dropped.inc();
    }
}

/// The metrics of one upstream.
pub struct UpstreamMetrics(Histogram);

impl UpstreamMetrics {
    /// An endpoint sent its response header this long after it was picked.
    pub fn answered(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// The metrics of one route.
pub struct RouteMetrics {
    metrics: Metrics,
    name: String,
    seconds: Histogram,
    spoofed: IntCounter,
    codes: [OnceLock<IntCounter>; COMMON_CODES.len()],
    /// For each common reason the issuer and the outcome first seen with it on this route, and their counter: most
    /// routes have just one of each.
    decisions: [OnceLock<(String, DecisionOutcome, IntCounter)>; COMMON_REASONS.len()],
}

impl RouteMetrics {
    /// The route's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request was answered with this status, or [`CLIENT_GONE`].
    pub fn answered(&self, code: u16, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        let resolve =
            || self.metrics.0.requests.with_label_values(&[self.name.as_str(), code.to_string().as_str()]);
        match COMMON_CODES.iter().position(|common| *common == code).and_then(|at| self.codes.get(at)) {
            Some(cell) => cell.get_or_init(resolve).inc(),
            None => resolve().inc(),
        }
    }

    /// The policy decided; `issuer` is the configured name, empty if no issuer is known.
    pub fn decided(&self, issuer: &str, outcome: DecisionOutcome, reason: Reason) {
        let resolve = || {
            self.metrics.0.decisions.with_label_values(&[
                &self.name,
                issuer,
                outcome.as_str(),
                reason.as_str(),
            ])
        };
        let cell = COMMON_REASONS.iter().position(|common| *common == reason);
        let cell = cell.and_then(|at| self.decisions.get(at));
        let known = cell.map(|cell| cell.get_or_init(|| (issuer.to_owned(), outcome, resolve())));
        match known {
            Some((first, same, counter)) if first == issuer && *same == outcome => counter.inc(),
            _ => resolve().inc(),
        }
    }

    /// A request was ended in the middle, for this reason.
    pub fn cut(&self, reason: Reason) {
        self.metrics.0.cut.with_label_values(&[self.name.as_str(), reason.as_str()]).inc();
    }

    /// A client sent this many identity headers.
    pub fn spoofed(&self, headers: u64) {
        self.spoofed.inc_by(headers);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_is_prefixed() {
        let metrics = Metrics::new().unwrap();
        let route = metrics.route("orders");
        route.answered(200, Duration::from_millis(3));
        route.answered(418, Duration::from_millis(3));
        route.decided("corp", DecisionOutcome::Allow, Reason::Ok);
        route.decided("other", DecisionOutcome::Allow, Reason::Ok);
        for _ in 0..2 {
            route.decided("", DecisionOutcome::Deny, Reason::NoToken);
            route.decided("", DecisionOutcome::WouldDeny, Reason::NoToken);
            route.decided("corp", DecisionOutcome::Deny, Reason::InsufficientScope);
        }
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "portcullis_requests_total{code=\"200\",route=\"orders\"} 1",
            "portcullis_requests_total{code=\"418\",route=\"orders\"} 1",
            "portcullis_auth_decisions_total{issuer=\"corp\",outcome=\"allow\",reason=\"ok\",route=\"orders\"} 1",
            "portcullis_auth_decisions_total{issuer=\"other\",outcome=\"allow\",reason=\"ok\",route=\"orders\"} 1",
            "portcullis_auth_decisions_total{issuer=\"\",outcome=\"deny\",reason=\"no_token\",route=\"orders\"} 2",
            "portcullis_auth_decisions_total{issuer=\"\",outcome=\"would_deny\",reason=\"no_token\",route=\"orders\"} 2",
            "portcullis_auth_decisions_total{issuer=\"corp\",outcome=\"deny\",reason=\"insufficient_scope\",route=\"orders\"} 2",
            "portcullis_connections 0",
        ] {
            assert!(text.contains(line), "{line} missing in\n{text}");
        }
        assert!(text.lines().filter(|l| !l.starts_with('#')).all(|l| l.starts_with("portcullis_")));
    }
}
