//! Access and audit lines: one JSON object or one text line each, written by a thread of their own so that
//! a slow output never holds up a request. No token and no password ever comes here.

use crate::clock::Timestamp;
use crate::metrics::Metrics;
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines waiting for the output; beyond it lines are dropped and counted.
const QUEUE: usize = 8192;

/// How long [`AccessLog::flush`] waits for the output at the most, and how long between looks at a full queue.
const FLUSH: Duration = Duration::from_secs(2);
const QUEUE_RETRY: Duration = Duration::from_millis(10);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where access and audit lines go: standard output.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    json: bool,
    requests: bool,
    metrics: Metrics,
}

impl AccessLog {
    /// Starts the writing thread. `json` chooses the form, `requests` whether requests get a line (audit
    /// lines are always written).
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(json: bool, requests: bool, metrics: Metrics) -> std::io::Result<Self> {
        Self::start_on(std::io::stdout(), json, requests, metrics)
    }

    /// A log that keeps nothing.
    pub fn nowhere(metrics: Metrics) -> Self {
        Self { queue: sync_channel(0).0, json: false, requests: false, metrics }
    }

    fn start_on(
        out: impl Write + Send + 'static,
        json: bool,
        requests: bool,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel::<Message>(QUEUE);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let mut out = std::io::BufWriter::with_capacity(64 * 1024, out);
            while let Ok(first) = messages.recv() {
                // A failed write (a closed pipe) is no reason to stop serving; the line is lost.
                let mut next = Some(first);
                while let Some(message) = next {
                    match message {
                        Message::Line(line) => {
                            let _ = out.write_all(&line);
                        }
                        Message::Flush(done) => {
                            let _ = out.flush();
                            let _ = done.send(());
                        }
                    }
                    next = messages.try_recv().ok();
                }
                let _ = out.flush();
            }
        })?;
        Ok(Self { queue, json, requests, metrics })
    }

    /// Whether requests get a line at all.
    pub fn wants_requests(&self) -> bool {
        self.requests
    }

    /// Writes one line about a request (`kind` is `access`) or a session event (`audit`), adding `log` and
    /// `time`. Values are escaped, so nothing a client sent can start a line of its own.
    pub fn write(&self, kind: &'static str, now: Timestamp, mut fields: Map<String, Value>) {
        let mut line = if self.json {
            fields.insert("log".to_owned(), Value::from(kind));
            fields.insert("time".to_owned(), Value::from(now.to_rfc3339()));
            Value::Object(fields).to_string()
        } else {
            format!("{} {kind}{}", now.to_rfc3339(), text_fields(&fields))
        };
        line.push('\n');
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line.into_bytes())) {
            self.metrics.log_line_dropped();
        }
    }

    /// Waits until what was written so far is out, two seconds at most.
    pub fn flush(&self) {
        let until = Instant::now() + FLUSH;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        // Sending would wait for ever for an output that takes nothing any more.
        while let Err(TrySendError::Full(again)) = self.queue.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            message = again;
            std::thread::sleep(QUEUE_RETRY);
        }
        let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn text_fields(fields: &Map<String, Value>) -> String {
    let mut line = String::new();
    for (name, value) in fields {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        match value {
            Value::String(text) if plain(text) => line.push_str(text),
            other => line.push_str(&other.to_string()),
        }
    }
    line
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'=')
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessLog")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_cannot_start_a_line_of_its_own() {
        let fields = json!({"path": "/a\nforged line", "status": 200, "agent": "two words"});
        let line = text_fields(fields.as_object().unwrap());
        assert!(!line.contains('\n'));
        assert!(line.contains("path=\"/a\\nforged line\""));
        assert!(line.contains("status=200"));
        assert!(line.contains("agent=\"two words\""));
    }

    /// Takes nothing until it is let go.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_stuck_holds_up_neither_requests_nor_the_end() {
        let (let_go, stuck) = sync_channel::<()>(0);
        let metrics = Metrics::new().unwrap();
        let log = AccessLog::start_on(Stuck(stuck), true, true, metrics.clone()).unwrap();
        for _ in 0..=2 * QUEUE {
            log.write("access", Timestamp::from_millis(0), Map::new());
        }
        let began = Instant::now();
        log.flush();
        assert!(began.elapsed() < FLUSH * 3);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.contains("portcullis_log_lines_dropped_total 0"), "{text}");
        drop(let_go);
    }
}
