//! Frames as no client library sends them (RFC 9113, RFC 7541): each ends its stream or its connection, or is ignored
//! as it has to be. None reaches an upstream, none hangs or brings down a worker.

use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, read_frame, status,
};
use crate::support::{Config, Gateway, Upstream, get};
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

const END: u8 = END_HEADERS | END_STREAM;
/// The last word of each conversation; whoever is still there answers it.
const LAST: &[u8; 8] = b"the last";
const PATIENCE: Duration = Duration::from_secs(10);

/// What has to come of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The stream or the connection is ended, or the request is answered with an error.
    Refused,
    /// Nothing: it is as if it had not been sent.
    Ignored,
    /// A good request that is answered.
    Served,
    /// The standard leaves it open; the gateway goes on.
    Either,
}

#[derive(Debug, Default)]
struct Seen {
    status: Option<u16>,
    reset: Option<u32>,
    goaway: Option<u32>,
    closed: bool,
    alive: bool,
}

impl Seen {
    fn is(&self, due: Due) -> bool {
        let refused = self.closed
            || self.reset.is_some()
            || self.goaway.is_some_and(|code| code != 0)
            || self.status.is_some_and(|status| (400..500).contains(&status));
        match due {
            Due::Refused => refused,
            Due::Ignored => self.alive && !refused && self.status.is_none(),
            Due::Served => self.alive && self.status == Some(200),
            Due::Either => refused || self.alive,
        }
    }
}

/// Sends a sequence after the preface, and sees what comes until the last word is answered or the end.
fn converse(address: &str, due: Due, bytes: &[u8]) -> Seen {
    let mut wire = TcpStream::connect(address).unwrap();
    wire.set_nodelay(true).unwrap();
    wire.set_read_timeout(Some(PATIENCE)).unwrap();
    wire.set_write_timeout(Some(PATIENCE)).unwrap();
    // Answers have to be read meanwhile, or a flood would end in two full buffers.
    let mut reading = wire.try_clone().unwrap();
    let seen = std::thread::spawn(move || read(&mut reading, due));
    // Who refuses may close before everything is sent.
    let _ = wire.write_all(bytes).and_then(|()| wire.write_all(&frame(PING, 0, 0, LAST)));
    seen.join().unwrap()
}

fn read(wire: &mut TcpStream, due: Due) -> Seen {
    let mut seen = Seen::default();
    let code = |payload: &[u8], at: usize| {
        payload.get(at..at + 4).map(|code| u32::from_be_bytes(code.try_into().unwrap()))
    };
    while !(seen.alive && (seen.status.is_some() || seen.reset.is_some())) {
        match read_frame(wire) {
            Ok((PING, flags, _, payload)) if flags & ACK != 0 && payload == LAST => {
                seen.alive = true;
                // A ping may be answered before the stream is.
                if matches!(due, Due::Ignored | Due::Either) {
                    return seen;
                }
            }
            Ok((HEADERS, _, _, payload)) => seen.status = seen.status.or_else(|| status(&payload)),
            Ok((RST_STREAM, _, _, payload)) => seen.reset = seen.reset.or_else(|| code(&payload, 0)),
            Ok((GOAWAY, _, _, payload)) => seen.goaway = code(&payload, 4),
            Ok(_) => {}
            Err(why) => {
                let waited =
                    matches!(why.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                seen.closed = !waited;
                return seen;
            }
        }
    }
    seen
}

fn fields(path: &str) -> Vec<(&'static str, String)> {
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "any.test")];
    let mut fields: Vec<_> = usual.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    fields.push((":path", path.to_owned()));
    fields
}

/// A request's header block, changed.
fn request(change: impl FnOnce(&mut Vec<(&'static str, String)>)) -> Vec<u8> {
    let mut fields = fields("/refused");
    change(&mut fields);
    let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    block(&pairs)
}

fn with(name: &'static str, value: &str) -> Vec<u8> {
    request(|fields| fields.push((name, value.to_owned())))
}

fn without(name: &str) -> Vec<u8> {
    request(|fields| fields.retain(|(own, _)| *own != name))
}

fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

/// A whole request of one HEADERS frame with these fields.
fn whole(block: &[u8]) -> Vec<u8> {
    headers(END, 1, block)
}

/// A request whose body is still to come, and then this.
fn opened(then: &[u8]) -> Vec<u8> {
    [headers(END_HEADERS, 1, &request(|_| ())), then.to_vec()].concat()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn sequences() -> Vec<(&'static str, Due, Vec<u8>)> {
    let plain = request(|_| ());
    let (head, tail) = plain.split_at(plain.len() / 2);
    let good = request(|fields| fields[3].1 = "/served".into());
    let max = 0x7fff_ffff_u32.to_be_bytes();
    let code = 8_u32.to_be_bytes();
    let joined = |parts: &[&[u8]]| parts.concat();
    vec![
        // Connections.
        ("settings of seven bytes", Due::Refused, frame(SETTINGS, 0, 0, &[0; 7])),
        ("settings on a stream", Due::Refused, frame(SETTINGS, 0, 1, &[])),
        ("an acknowledgement of settings with a payload", Due::Refused, frame(SETTINGS, ACK, 0, &[0; 6])),
        ("push neither on nor off", Due::Refused, setting(2, 2)),
        ("an initial window beyond all", Due::Refused, setting(4, 1 << 31)),
        ("a largest frame that is too small", Due::Refused, setting(5, 1)),
        ("a largest frame that is too large", Due::Refused, setting(5, 1 << 24)),
        ("a setting nobody knows", Due::Ignored, setting(0xabcd, 7)),
        ("a ping of seven bytes", Due::Refused, frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", Due::Refused, frame(PING, 0, 1, &[0; 8])),
        ("a goaway on a stream", Due::Refused, frame(GOAWAY, 0, 1, &[0; 8])),
        ("a goaway cut short", Due::Refused, frame(GOAWAY, 0, 0, &[0; 4])),
        ("a window of three bytes", Due::Refused, frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("a window that does not grow", Due::Refused, frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window beyond all", Due::Refused, frame(WINDOW_UPDATE, 0, 0, &max)),
        ("a frame of no known type", Due::Ignored, frame(0xfe, 0xff, 1, b"anything")),
        ("a frame longer than was agreed", Due::Refused, opened(&frame(DATA, END_STREAM, 1, &[0; 16_385]))),
        (
            "a promise, which only servers make",
            Due::Refused,
            frame(PUSH_PROMISE, END_HEADERS, 1, &joined(&[&[0, 0, 0, 2], &plain])),
        ),
        // Streams.
        ("data on no stream", Due::Refused, frame(DATA, END_STREAM, 0, b"x")),
        ("data on a stream that was never opened", Due::Refused, frame(DATA, END_STREAM, 1, b"x")),
        (
            "data after the end",
            Due::Refused,
            joined(&[&opened(&frame(DATA, END_STREAM, 1, b"x")), &frame(DATA, END_STREAM, 1, b"y")]),
        ),
        (
            "data on a stream that was reset",
            Due::Either,
            joined(&[&opened(&frame(RST_STREAM, 0, 1, &code)), &frame(DATA, 0, 1, b"y")]),
        ),
        (
            "data with more padding than payload",
            Due::Refused,
            opened(&frame(DATA, PADDED | END_STREAM, 1, &[9, 0])),
        ),
        ("data padded without a length", Due::Refused, opened(&frame(DATA, PADDED | END_STREAM, 1, &[]))),
        ("a header on no stream", Due::Refused, headers(END, 0, &plain)),
        ("a header on a server's stream", Due::Refused, headers(END, 2, &plain)),
        (
            "a header on an earlier stream",
            Due::Refused,
            joined(&[&headers(END_HEADERS, 5, &plain), &headers(END, 3, &plain)]),
        ),
        (
            "a header with more padding than payload",
            Due::Refused,
            headers(PADDED | END, 1, &joined(&[&[255], &plain])),
        ),
        (
            "another frame inside a header",
            Due::Refused,
            joined(&[&headers(END_STREAM, 1, head), &frame(PING, 0, 0, &[0; 8])]),
        ),
        (
            "a header continued on another stream",
            Due::Refused,
            joined(&[&headers(END_STREAM, 1, head), &frame(CONTINUATION, END_HEADERS, 3, tail)]),
        ),
        ("a continuation of nothing", Due::Refused, frame(CONTINUATION, END_HEADERS, 1, &plain)),
        (
            "a continuation after the end of a header",
            Due::Refused,
            opened(&frame(CONTINUATION, END_HEADERS, 1, tail)),
        ),
        ("a reset of no stream", Due::Refused, frame(RST_STREAM, 0, 0, &code)),
        ("a reset of a stream that was never opened", Due::Refused, frame(RST_STREAM, 0, 1, &code)),
        ("a reset of three bytes", Due::Refused, opened(&frame(RST_STREAM, 0, 1, &[0; 3]))),
        ("a priority of no stream", Due::Refused, frame(PRIORITY, 0, 0, &[0; 5])),
        ("a priority of four bytes", Due::Refused, frame(PRIORITY, 0, 1, &[0; 4])),
        ("a stream that depends on itself", Due::Either, frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])),
        ("a stream's window that does not grow", Due::Refused, opened(&frame(WINDOW_UPDATE, 0, 1, &[0; 4]))),
        ("a stream's window beyond all", Due::Refused, opened(&frame(WINDOW_UPDATE, 0, 1, &max))),
        ("a window of a stream that was never opened", Due::Refused, frame(WINDOW_UPDATE, 0, 1, &code)),
        // Header compression.
        ("an index of zero", Due::Refused, whole(&joined(&[&plain, &[0x80]]))),
        ("an index beyond the table", Due::Refused, whole(&joined(&[&plain, &[0xfe]]))),
        ("an index without end", Due::Refused, whole(&joined(&[&plain, &[0xff; 12]]))),
        ("a literal cut short", Due::Refused, whole(&plain[..plain.len() - 3])),
        (
            "a table larger than was agreed",
            Due::Refused,
            whole(&joined(&[&[0x3f, 0xe1, 0xff, 0x7f], &plain])),
        ),
        ("a change of the table after a field", Due::Refused, whole(&joined(&[&plain, &[0x20]]))),
        (
            "a code with the end of all codes in it",
            Due::Refused,
            whole(&joined(&[&plain, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'x']])),
        ),
        ("a code padded with zeros", Due::Refused, whole(&joined(&[&plain, &[0, 0x81, 0x00, 1, b'x']]))),
        // Requests.
        ("no field at all", Due::Refused, whole(&[])),
        ("no method", Due::Refused, whole(&without(":method"))),
        ("no path", Due::Refused, whole(&without(":path"))),
        ("no scheme", Due::Refused, whole(&without(":scheme"))),
        ("an empty path", Due::Refused, whole(&request(|fields| fields[3].1.clear()))),
        ("an empty method", Due::Refused, whole(&request(|fields| fields[0].1.clear()))),
        ("two paths", Due::Refused, whole(&with(":path", "/other"))),
        ("two methods", Due::Refused, whole(&with(":method", "GET"))),
        (
            "a pseudo-field after a field",
            Due::Refused,
            whole(&request(|fields| fields.insert(1, ("accept", "*/*".to_owned())))),
        ),
        (
            "a pseudo-field nobody knows",
            Due::Refused,
            whole(&request(|fields| fields.insert(0, (":proto", "x".to_owned())))),
        ),
        (
            "a status in a request",
            Due::Refused,
            whole(&request(|fields| fields.insert(0, (":status", "200".to_owned())))),
        ),
        ("a name in capitals", Due::Refused, whole(&with("Accept", "*/*"))),
        ("a name with a space", Due::Refused, whole(&with("a b", "x"))),
        ("a name with a colon", Due::Refused, whole(&with("a:b", "x"))),
        ("an empty name", Due::Refused, whole(&with("", "x"))),
        ("a value with a line end", Due::Refused, whole(&with("x-a", "b\r\nx-auth-subject: root"))),
        ("a value with a null", Due::Refused, whole(&with("x-a", "b\0c"))),
        (
            "a path with a line end",
            Due::Refused,
            whole(&request(|fields| fields[3].1 = "/refused\r\nx: y".into())),
        ),
        ("a field of one connection", Due::Refused, whole(&with("connection", "x-auth-subject"))),
        ("a transfer coding", Due::Refused, whole(&with("transfer-encoding", "chunked"))),
        ("trailers wished for wrongly", Due::Refused, whole(&with("te", "gzip"))),
        (
            "more body than its length",
            Due::Refused,
            joined(&[
                &headers(END_HEADERS, 1, &with("content-length", "1")),
                &frame(DATA, END_STREAM, 1, b"xyz"),
            ]),
        ),
        (
            "less body than its length",
            Due::Refused,
            joined(&[
                &headers(END_HEADERS, 1, &with("content-length", "9")),
                &frame(DATA, END_STREAM, 1, b"xyz"),
            ]),
        ),
        ("no body and a length", Due::Refused, whole(&with("content-length", "9"))),
        ("a length that is no number", Due::Refused, whole(&with("content-length", "+1"))),
        (
            "trailers that do not end the stream",
            Due::Refused,
            opened(&headers(END_HEADERS, 1, &block(&[("x-a", "b")]))),
        ),
        // The library forgets it; trailers of requests go nowhere.
        (
            "a pseudo-field among trailers",
            Due::Either,
            opened(&headers(END, 1, &block(&[(":path", "/other")]))),
        ),
        ("no settings at first", Due::Either, frame(PING, 0, 0, &[0; 8])),
        // Floods.
        (
            "ten thousand empty continuations",
            Due::Refused,
            joined(&[&headers(END_STREAM, 1, head), &frame(CONTINUATION, 0, 1, &[]).repeat(10_000)]),
        ),
        (
            "continuations of ever more fields",
            Due::Refused,
            joined(&[
                &headers(END_STREAM, 1, &plain),
                &frame(CONTINUATION, 0, 1, &block(&[("x-a", "b"); 400])).repeat(200),
            ]),
        ),
        (
            "one large field by its index, again and again",
            Due::Refused,
            whole(&joined(&[
                &plain,
                &[0x40],
                &block(&[("x-large", "y".repeat(3000).as_str())])[1..],
                &[0xbe; 4000],
            ])),
        ),
        (
            "five thousand requests, each reset at once",
            Due::Either,
            (0..5000_u32)
                .flat_map(|n| {
                    joined(&[
                        &headers(END_HEADERS, 2 * n + 1, &plain),
                        &frame(RST_STREAM, 0, 2 * n + 1, &code),
                    ])
                })
                .collect(),
        ),
        (
            "five thousand requests that never end",
            Due::Either,
            (0..5000_u32).flat_map(|n| headers(END_HEADERS, 2 * n + 1, &plain)).collect(),
        ),
        ("ten thousand pings", Due::Either, frame(PING, 0, 0, &[0; 8]).repeat(10_000)),
        ("ten thousand settings", Due::Either, setting(4, 65_535).repeat(10_000)),
        ("ten thousand pieces of nothing", Due::Either, opened(&frame(DATA, 0, 1, &[]).repeat(10_000))),
        // What has to be let pass.
        ("a stream with the reserved bit", Due::Served, headers(END, 0x8000_0001, &good)),
        (
            "a header in two pieces",
            Due::Served,
            joined(&[&headers(END_STREAM, 1, &good[..9]), &frame(CONTINUATION, END_HEADERS, 1, &good[9..])]),
        ),
        ("a header with padding", Due::Served, headers(PADDED | END, 1, &joined(&[&[3], &good, &[0; 3]]))),
    ]
}

#[test]
fn no_sequence_of_frames_reaches_an_upstream_or_brings_a_worker_down() {
    let upstream = Upstream::start();
    let config = Config::to(&upstream)
        .listener("http2: true")
        .server("limits", "{ header_timeout: 5s, body_timeout: 5s, idle_timeout: 5s }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    let sequences = sequences();
    assert!(sequences.len() >= 40);
    let mut wrong = Vec::new();
    for (name, due, bytes) in &sequences {
        let settings = if name.starts_with("no settings") { Vec::new() } else { frame(SETTINGS, 0, 0, &[]) };
        let sent = [PREFACE, &settings, bytes].concat();
        let seen = converse(&gateway.address(), *due, &sent);
        println!("{name}: {seen:?}");
        if !seen.is(*due) {
            wrong.push(format!("{name}: due {due:?}, {seen:?}"));
        }
        get("/after").send(&gateway.address()).expect(200);
    }
    // Not even a preface.
    let seen = converse(&gateway.address(), Due::Refused, &frame(SETTINGS, 0, 0, &[]));
    assert!(seen.is(Due::Refused), "no preface: {seen:?}");
    println!("{} sequences", sequences.len() + 1);
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A whole request that is refused never leaves; one whose body turns out to be wrong may have begun to.
    for request in upstream.requests() {
        assert!(["/after", "/served", "/refused"].contains(&request.target()), "{request:?}");
        assert_eq!(request.header("x-auth-subject"), None);
    }
    let metrics = gateway.metrics();
    let panics = metrics.lines().filter(|line| line.starts_with("portcullis_panics_total"));
    assert!(panics.clone().all(|line| line.ends_with(" 0")), "{}", panics.collect::<String>());
}
