//! Spans of requests for an OpenTelemetry collector (`telemetry.otlp`), and the trace that a caller, the gateway and
//! an upstream have in common (W3C Trace Context).

use crate::clock::{Timestamp, unique_bytes};
use crate::panics::{Place, contain};
use http::{HeaderMap, HeaderValue, Method};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
/// Why there is no way to a collector.
pub use opentelemetry_otlp::ExporterBuildError as TracesError;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The field that carries a trace.
pub const TRACEPARENT: &str = "traceparent";
/// What belongs to the trace of the other field, and to no new one.
pub const TRACESTATE: &str = "tracestate";

/// Spans that wait for the collector; beyond it they are dropped, and that is told.
const QUEUE: usize = 4096;
/// The most spans in one message.
const BATCH: usize = 512;
/// The most bytes of a path or a host in a span.
const LONGEST: usize = 512;
/// How long spans gather.
const GATHER: Duration = Duration::from_secs(1);
/// For one message to the collector.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stopping gateway tries to get rid of the last spans.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where spans go; nowhere by default.
#[derive(Clone, Default)]
pub struct Traces {
    queue: Option<mpsc::Sender<SpanData>>,
}

/// The work of sending spans, if any are wanted.
pub struct Exporting(Option<(JoinHandle<()>, oneshot::Sender<()>)>);

/// A request in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpan {
    trace: TraceId,
    id: SpanId,
    /// The caller's span; `None` where the trace begins here.
    parent: Option<SpanId>,
}

/// What a span tells of a request. No query, no token, no subject.
#[derive(Debug)]
pub struct Told<'a> {
    /// When it ended.
    pub ended: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Its method.
    pub method: &'a Method,
    /// The route's name, an endpoint's, or `none`.
    pub route: &'a str,
    /// The path that was judged.
    pub path: &'a str,
    /// The host that was asked.
    pub host: &'a str,
    /// Whether it came over TLS.
    pub https: bool,
    /// The client's address.
    pub client: IpAddr,
    /// The status that the client was sent.
    pub status: u16,
    /// The reason code.
    pub reason: &'static str,
    /// The request's identifier.
    pub request_id: &'a str,
    /// The upstream that answered, and how long that took.
    pub upstream: Option<(&'a str, Duration)>,
}

impl Traces {
    /// Sends spans to the OTLP collector at this URL, if there is one, over gRPC. Needs a runtime.
    ///
    /// # Errors
    /// What is wrong with the URL or the system's certificates.
    pub fn start(endpoint: Option<&str>) -> Result<(Self, Exporting), TracesError> {
        let Some(endpoint) = endpoint else { return Ok((Self::default(), Exporting(None))) };
        let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
        let mut exporter = builder.with_endpoint(endpoint).with_timeout(TIMEOUT).build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("portcullis").with_attribute(version);
        exporter.set_resource(&resource.build());
        let (queue, spans) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(export(exporter, spans, stopped));
        Ok((Self { queue: Some(queue) }, Exporting(Some((task, stop)))))
    }

    /// The span of a request with these fields, unless nobody wants it: the caller has decided not to record its
    /// trace, or no collector is known. The fields then go on as they are.
    pub fn begin(&self, headers: &HeaderMap) -> Option<RequestSpan> {
        self.queue.as_ref()?;
        let mut values = headers.get_all(TRACEPARENT).into_iter();
        let theirs = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(parse),
            _ => None,
        };
        let made = unique_bytes();
        let half = u64::try_from(u128::from_be_bytes(unique_bytes()) >> 64).unwrap_or_default();
        let id = SpanId::from_bytes(half.to_be_bytes());
        match theirs {
            Some((_, _, false)) => None,
            Some((trace, parent, true)) => Some(RequestSpan { trace, id, parent: Some(parent) }),
            None => Some(RequestSpan { trace: TraceId::from_bytes(made), id, parent: None }),
        }
    }

    /// The request has ended.
    pub fn end(&self, span: &RequestSpan, told: &Told<'_>) {
        let Some(queue) = &self.queue else { return };
        // A full queue means a collector that does not answer: the exporter tells of it.
        let _ = queue.try_send(data(span, told));
    }
}

impl RequestSpan {
    /// The value of `traceparent` for the upstream.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("00-{}-{}-01", self.trace, self.id)).ok()
    }

    /// Whether the trace begins here.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }
}

impl Exporting {
    /// Sends what has gathered, for two seconds at the most. Spans that end later are lost.
    pub async fn finish(self) {
        let Some((task, stop)) = self.0 else { return };
        // Fails only if the work has ended.
        let _ = stop.send(());
        let abort = task.abort_handle();
        if tokio::time::timeout(FAREWELL, task).await.is_err() {
            abort.abort();
        }
    }
}

async fn export(
    exporter: opentelemetry_otlp::SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut failing = false;
    loop {
        // The first span waits for others; a stop waits for nobody.
        let mut batch = Vec::with_capacity(BATCH);
        tokio::select! {
            many = spans.recv_many(&mut batch, BATCH) => if many == 0 { return },
            _ = &mut stop, if !spans.is_closed() => spans.close(),
        }
        if batch.is_empty() {
            continue;
        }
        let lost = batch.len();
        let sent = contain(Place::Elsewhere, exporter.export(batch)).await;
        let error = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panicked) => Some(panicked.to_string()),
        };
        match (&error, failing) {
            // Told once, not once per message.
            (Some(error), false) => {
                tracing::warn!(error, lost, "telemetry.otlp: the collector takes no spans; they are lost");
            }
            (None, true) => tracing::info!("telemetry.otlp: the collector takes spans again"),
            _ => {}
        }
        failing = error.is_some();
        if !spans.is_closed() && spans.len() < BATCH {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                _ = &mut stop => spans.close(),
            }
        }
    }
}

/// What strangers choose the length of: a message to the collector that is too long takes other spans along.
fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
}

/// Trace, parent and whether it is recorded, of a `traceparent` (W3C Trace Context section 3.2).
fn parse(text: &str) -> Option<(TraceId, SpanId, bool)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    // Version 00 ends here; a later one may go on.
    let whole = version != "00" || parts.next().is_none();
    if !(whole
        && version != "ff"
        && lower(version, 2)
        && lower(trace, 32)
        && lower(parent, 16)
        && lower(flags, 2))
    {
        return None;
    }
    let (trace, parent) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?);
    let recorded = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (trace != TraceId::INVALID && parent != SpanId::INVALID).then_some((trace, parent, recorded))
}

fn data(span: &RequestSpan, told: &Told<'_>) -> SpanData {
    let end_time = SystemTime::UNIX_EPOCH + Duration::from_millis(told.ended.as_millis());
    let text = |key: &'static str, value: &str| KeyValue::new(key, value.to_owned());
    // Names of OpenTelemetry's conventions for HTTP servers, where it has one.
    let mut attributes = vec![
        text("http.request.method", told.method.as_str()),
        KeyValue::new("http.response.status_code", i64::from(told.status)),
        text("http.route", told.route),
        text("url.path", shortened(told.path)),
        KeyValue::new("url.scheme", if told.https { "https" } else { "http" }),
        text("server.address", shortened(told.host)),
        KeyValue::new("client.address", told.client.to_string()),
        KeyValue::new("portcullis.reason", told.reason),
        text("portcullis.request_id", told.request_id),
    ];
    if let Some((name, took)) = told.upstream {
        attributes.push(text("portcullis.upstream", name));
        attributes.push(KeyValue::new("portcullis.upstream_ms", took.as_secs_f64() * 1000.0));
    }
    let failed = told.status >= 500;
    if failed {
        attributes.push(KeyValue::new("error.type", told.reason));
    }
    let state = TraceState::default();
    SpanData {
        span_context: SpanContext::new(span.trace, span.id, TraceFlags::SAMPLED, false, state),
        parent_span_id: span.parent.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: SpanKind::Server,
        name: format!("{} {}", told.method, told.route).into(),
        start_time: end_time.checked_sub(told.took).unwrap_or(end_time),
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error(told.reason) } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("portcullis").build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn traces() -> Traces {
        Traces { queue: Some(mpsc::channel(1).0) }
    }

    fn begin(values: &[&str]) -> Option<RequestSpan> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        traces().begin(&headers)
    }

    #[test]
    fn a_callers_trace_goes_on_and_a_broken_one_does_not() {
        let good = format!("00-{TRACE}-{PARENT}-01");
        let span = begin(&[&good]).unwrap();
        assert_eq!(span.trace.to_string(), TRACE);
        assert_eq!(span.parent.unwrap().to_string(), PARENT);
        let sent = span.traceparent().unwrap();
        assert_eq!(sent.to_str().unwrap(), format!("00-{TRACE}-{}-01", span.id));
        assert_eq!(begin(&[&format!("00-{TRACE}-{PARENT}-00")]), None);
        assert!(!begin(&[&format!("cc-{TRACE}-{PARENT}-01-what-comes")]).unwrap().is_root());
        for broken in [
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{PARENT}"),
            String::new(),
        ] {
            let span = begin(&[&broken]).unwrap();
            assert!(span.is_root() && span.trace.to_string() != TRACE, "{broken}");
        }
        assert!(begin(&[&good, &good]).unwrap().is_root());
        assert_eq!(Traces::default().begin(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn what_comes_is_read_back_as_it_was_written(trace in 1u128.., span in 1u64..) {
            let text = format!("00-{trace:032x}-{span:016x}-01");
            let (read, parent, recorded) = parse(&text).unwrap();
            prop_assert!(recorded);
            prop_assert_eq!(format!("00-{read}-{parent}-01"), text);
        }

        #[test]
        fn nothing_a_caller_sends_is_a_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
