//! Access and audit lines: one JSON object or one text line each, written by a thread of their own so that
//! a slow output never holds up a request. No token and no password ever comes here.

use crate::clock::Timestamp;
use crate::json::is_bare;
use crate::metrics::Metrics;
use crate::panics::{Place, contain_now};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines waiting for the output; beyond it lines are dropped and counted.
const QUEUE: usize = 8192;

/// How long lines gather before they are written. To wake the thread for each line would cost a busy gateway
/// more than the line itself.
const GATHER: Duration = Duration::from_millis(5);

/// How long [`AccessLog::flush`] waits for the output at the most, and how long between looks at a full queue.
const FLUSH: Duration = Duration::from_secs(2);
const QUEUE_RETRY: Duration = Duration::from_millis(10);

/// A usual line fits.
const LINE_BYTES: usize = 512;

enum Message {
    Line(String),
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
                            let _ = contain_now(Place::AccessLog, || out.write_all(line.as_bytes()));
                        }
                        Message::Flush(done) => {
                            let _ = out.flush();
                            let _ = done.send(());
                        }
                    }
                    next = messages.try_recv().ok();
                }
                let _ = out.flush();
                std::thread::sleep(GATHER);
            }
        })?;
        Ok(Self { queue, json, requests, metrics })
    }

    /// Whether requests get a line at all.
    pub fn wants_requests(&self) -> bool {
        self.requests
    }

    /// Begins a line about a request (`kind` is `access`) or a session event (`audit`).
    pub fn line(&self, kind: &'static str, now: Timestamp) -> Line {
        let mut text = String::with_capacity(LINE_BYTES);
        let time = now.to_rfc3339();
        let (json, parts) = if self.json {
            (true, ["{\"log\":\"", kind, "\",\"time\":\"", &time, "\""])
        } else {
            (false, ["", &time, " ", kind, ""])
        };
        text.extend(parts);
        Line { text, json }
    }

    /// Writes a line.
    pub fn write(&self, line: Line) {
        let Line { mut text, json } = line;
        text.push_str(if json { "}\n" } else { "\n" });
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(text)) {
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

/// A line to be filled with fields. Values are escaped, so nothing a client sent can start a line of its own.
pub struct Line {
    text: String,
    json: bool,
}

impl Line {
    /// A text.
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        if self.json && is_bare(value) {
            self.text.extend(["\"", value, "\""]);
        } else if !self.json && is_word(value) {
            self.text.push_str(value);
        } else {
            self.text.push_str(&serde_json::Value::from(value).to_string());
        }
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        push_number(&mut self.text, value, 1);
    }

    /// A time in milliseconds. Microseconds are precise enough for a log and short to read.
    pub fn milliseconds(&mut self, name: &'static str, time: Duration) {
        self.name(name);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        push_number(&mut self.text, micros / 1000, 1);
        self.text.push('.');
        push_number(&mut self.text, micros % 1000, 3);
    }

    /// An address.
    pub fn address(&mut self, name: &'static str, address: IpAddr) {
        let IpAddr::V4(address) = address else { return self.text(name, &address.to_string()) };
        self.name(name);
        let quote = if self.json { "\"" } else { "" };
        self.text.push_str(quote);
        push_address(&mut self.text, address);
        self.text.push_str(quote);
    }

    fn name(&mut self, name: &'static str) {
        let parts = if self.json { [",\"", name, "\":"] } else { [" ", name, "="] };
        self.text.extend(parts);
    }
}

/// Writes a number with this many digits at the least. By hand, as most of a line: what formats anything takes
/// several times as long as this.
fn push_number(text: &mut String, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut unwritten = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        unwritten = at;
        if number == 0 {
            break;
        }
    }
    let from = unwritten.min(digits.len() - least);
    text.push_str(digits.get(from..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default());
}

/// Writes an address.
pub fn push_address(text: &mut String, address: Ipv4Addr) {
    for (at, byte) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        push_number(text, byte.into(), 1);
    }
}

/// Whether the text stands in a line of `name=value` pairs as it is.
fn is_word(text: &str) -> bool {
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
    use serde_json::{Value, json};

    fn line(json: bool) -> Line {
        let text = if json { "{\"log\":\"x\"" } else { "x" };
        Line { text: text.to_owned(), json }
    }

    #[test]
    fn a_client_cannot_start_a_line_of_its_own() {
        let mut line = line(false);
        line.text("path", "/a\nforged line");
        line.text("agent", "two words");
        line.text("quoted", "a\"=b");
        line.text("empty", "");
        line.number("status", 200);
        assert_eq!(
            line.text,
            r#"x path="/a\nforged line" agent="two words" quoted="a\"=b" empty="" status=200"#
        );
    }

    #[test]
    fn every_text_comes_out_of_json_as_it_went_in() {
        let texts =
            ["", "plain", "two words", "a\nb", "\u{0}\u{1f}\u{7f}\u{2028}", "\"\\", "\u{e9}\u{1f511}"];
        for text in texts {
            let mut line = line(true);
            line.text("text", text);
            line.number("number", u64::MAX);
            line.milliseconds("time", Duration::from_nanos(1_020_900));
            line.milliseconds("long", Duration::from_secs(3600));
            line.address("client", "192.0.2.10".parse().unwrap());
            line.address("other", "2001:db8::1".parse().unwrap());
            line.number("nothing", 0);
            let read: Value = serde_json::from_str(&(line.text + "}")).unwrap();
            let expected = json!({
                "log": "x", "text": text, "number": u64::MAX, "time": 1.02, "long": 3_600_000.0, "nothing": 0,
                "client": "192.0.2.10", "other": "2001:db8::1",
            });
            assert_eq!(read, expected);
        }
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
            log.write(log.line("access", Timestamp::from_millis(0)));
        }
        let began = Instant::now();
        log.flush();
        assert!(began.elapsed() < FLUSH * 3);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(!text.contains("portcullis_log_lines_dropped_total 0"), "{text}");
        drop(let_go);
    }
}
