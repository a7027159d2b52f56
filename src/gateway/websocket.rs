//! WebSocket (RFC 6455): which requests open one, and where in its stream the gateway may say goodbye.

use super::guard::Guarded;
use super::lease::Lease;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, Version, header};
use pingora_core::protocols::http::server::Session;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// A close frame that says policy violation, 1008 (RFC 6455 sections 5.5.1 and 7.4.1). A server does not mask.
const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xf0];

/// The opcode of a close frame.
const CLOSING: u8 = 8;

/// Whether a request opens a WebSocket, in the only form there is (RFC 6455 section 4.2.1). What nearly does is
/// an ordinary request, and its `Upgrade` stays here.
pub(super) fn is_handshake(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let key = |key: &str| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    request.method == Method::GET
        && request.version == Version::HTTP_11
        && upgrades(headers)
        && only(headers, "sec-websocket-version") == Some("13")
        && only(headers, "sec-websocket-key").is_some_and(key)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
}

/// Whether the upstream's 101 is about a WebSocket too (RFC 6455 section 4.1).
pub(super) fn is_accepted(response: &ResponseHeader) -> bool {
    upgrades(&response.headers)
}

/// Turns the connection into a WebSocket with the upstream's 101, whose hop-by-hop fields are removed.
pub(super) fn open(session: &mut Session, response: &mut ResponseHeader, lease: &Lease) -> Result<()> {
    response.insert_header(header::CONNECTION, "Upgrade")?;
    response.insert_header(header::UPGRADE, "websocket")?;
    lease.opened();
    session.set_read_timeout(None);
    let Some(switch) = Guarded::switch(session.stream()) else {
        return Error::e_explain(ErrorType::InternalError, "no connection to switch");
    };
    switch.tunnel();
    Ok(())
}

fn upgrades(headers: &HeaderMap) -> bool {
    let mut tokens = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    only(headers, "upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"))
        && tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// The value of a field that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// What the client is sent of a WebSocket, and how far its end has come.
#[derive(Debug, Default)]
pub(super) struct Tunnel {
    frames: Frames,
    /// Bytes of the goodbye that are written.
    told: usize,
}

impl Tunnel {
    /// The client was sent these bytes.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.frames.advance(bytes);
    }

    /// How many of these bytes belong to a frame that is begun; the rest has to stay here once the end is near.
    pub(super) fn owed(&self, bytes: &[u8]) -> usize {
        if self.told > 0 { 0 } else { self.frames.to_boundary(bytes) }
    }

    /// Says goodbye as soon as no frame is half sent, and ends the side towards the client. Between the frames of
    /// a message is a good place too (RFC 6455 section 5.4).
    pub(super) fn poll_farewell(
        &mut self,
        client: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.frames.at_boundary() {
            return Poll::Pending;
        }
        // Whoever was told by the upstream is not told twice.
        if !self.frames.closed {
            while let Some(rest) = CLOSE.get(self.told..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut *client).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    more => self.told += more,
                }
            }
        }
        ready!(Pin::new(&mut *client).poll_flush(cx))?;
        Pin::new(client).poll_shutdown(cx)
    }
}

/// Follows the server's side of a WebSocket from its 101 on, frame by frame.
#[derive(Debug, Clone, Copy, Default)]
struct Frames {
    place: Place,
    /// A close frame has begun: the upstream says goodbye itself.
    closed: bool,
}

/// Where in the stream.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In a header block, at this byte of it, having seen so much of the empty line that ends it. Frames follow that of a
    /// 101, which may come after those of other interim responses.
    Response { at: usize, seen: usize, switches: bool },
    /// Between frames.
    Boundary,
    /// Before a frame's second byte.
    Second,
    /// In an extended length, of which so many bytes are missing.
    Length { left: u8, masked: bool, length: u64 },
    /// In a masking key, which no server should use.
    Mask { left: u8, length: u64 },
    /// In a payload, of which so many bytes are missing; some are.
    Payload(u64),
}

impl Default for Place {
    fn default() -> Self {
        Self::Response { at: 0, seen: 0, switches: true }
    }
}

impl Place {
    fn after_length(masked: bool, length: u64) -> Self {
        if masked { Self::Mask { left: 4, length } } else { Self::before_payload(length) }
    }

    fn before_payload(length: u64) -> Self {
        if length == 0 { Self::Boundary } else { Self::Payload(length) }
    }
}

impl Frames {
    fn at_boundary(&self) -> bool {
        matches!(self.place, Place::Boundary)
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let taken = self.take(*first, bytes.len());
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// How many of these bytes it takes to be between frames, or all of them.
    fn to_boundary(mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while !self.at_boundary()
            && let Some(byte) = bytes.get(taken)
        {
            taken += self.take(*byte, bytes.len() - taken);
        }
        taken
    }

    /// Goes over this byte, or over as many of the `there` bytes it begins as lie in one payload; says how many.
    fn take(&mut self, byte: u8, there: usize) -> usize {
        const EMPTY_LINE: &[u8] = b"\r\n\r\n";
        self.place = match self.place {
            Place::Response { at, seen, switches } => {
                // As in `HTTP/1.1 101`.
                let code = at.checked_sub(9).and_then(|digit| b"101".get(digit));
                let switches = switches && code.is_none_or(|digit| *digit == byte);
                let fits = EMPTY_LINE.get(seen) == Some(&byte);
                let seen = if fits { seen + 1 } else { usize::from(byte == b'\r') };
                match (seen == EMPTY_LINE.len(), switches) {
                    (true, true) => Place::Boundary,
                    (true, false) => Place::default(),
                    (false, _) => Place::Response { at: at + 1, seen, switches },
                }
            }
            Place::Boundary => {
                self.closed |= byte & 0x0f == CLOSING;
                Place::Second
            }
            Place::Second => {
                let masked = byte & 0x80 != 0;
                match byte & 0x7f {
                    126 => Place::Length { left: 2, masked, length: 0 },
                    127 => Place::Length { left: 8, masked, length: 0 },
                    length => Place::after_length(masked, u64::from(length)),
                }
            }
            Place::Length { left, masked, length } => {
                let length = length << 8 | u64::from(byte);
                match left {
                    0 | 1 => Place::after_length(masked, length),
                    _ => Place::Length { left: left - 1, masked, length },
                }
            }
            Place::Mask { left: 0 | 1, length } => Place::before_payload(length),
            Place::Mask { left, length } => Place::Mask { left: left - 1, length },
            Place::Payload(left) => {
                let here = usize::try_from(left).map_or(there, |left| left.min(there));
                self.place = Place::before_payload(left - here as u64);
                return here;
            }
        };
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut out = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..126 => out.push(mask | u8::try_from(short).unwrap()),
            long @ 126..65536 => {
                out.push(mask + 126);
                out.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
            longest => {
                out.push(mask + 127);
                out.extend((longest as u64).to_be_bytes());
            }
        }
        out.extend(if masked { &[1, 2, 3, 4][..] } else { &[] });
        out.extend(payload);
        out
    }

    fn request(change: impl Fn(&mut RequestHeader)) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/ws", None).unwrap();
        for (name, value) in [
            ("Connection", "keep-alive, upgrade"),
            ("Upgrade", "WebSocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            request.insert_header(name, value).unwrap();
        }
        change(&mut request);
        request
    }

    #[test]
    fn only_a_whole_handshake_is_one() {
        assert!(is_handshake(&request(|_| {})));
        let changes: [fn(&mut RequestHeader); 10] = [
            |r| r.set_method(Method::POST),
            |r| r.set_version(Version::HTTP_10),
            |r| r.insert_header("Upgrade", "h2c").unwrap(),
            |r| r.insert_header("Upgrade", "websocket, h2c").unwrap(),
            |r| assert!(r.append_header("Upgrade", "websocket").unwrap()),
            |r| r.insert_header("Connection", "keep-alive").unwrap(),
            |r| r.insert_header("Sec-WebSocket-Version", "8").unwrap(),
            |r| r.insert_header("Sec-WebSocket-Key", "c2hvcnQ=").unwrap(),
            |r| drop(r.remove_header("Sec-WebSocket-Key")),
            |r| r.insert_header("Content-Length", "1").unwrap(),
        ];
        for (at, change) in changes.iter().enumerate() {
            assert!(!is_handshake(&request(change)), "change {at}");
        }
        assert!(!is_handshake(&request(|r| r.insert_header("Transfer-Encoding", "chunked").unwrap())));
    }

    proptest! {
        /// However the stream is cut into pieces, a place is between frames exactly where one frame has ended.
        #[test]
        fn boundaries_are_found_however_the_stream_is_cut(
            hints in 0_usize..3,
            frames in prop::collection::vec((0_u8..8, any::<bool>(), 0_usize..70_000), 1..4),
            cuts in prop::collection::vec(1_usize..9_000, 1..40),
        ) {
            let mut stream = [&b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(hints), ACCEPTED].concat();
            let mut ends = vec![stream.len()];
            for (opcode, masked, length) in frames {
                stream.extend(frame(opcode, masked, &vec![7; length]));
                ends.push(stream.len());
            }
            let mut followed = Frames::default();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                let rest = &stream[at..];
                let owed = ends.iter().find(|end| **end >= at).map_or(0, |end| end - at);
                prop_assert_eq!(followed.to_boundary(rest), owed);
                prop_assert_eq!(followed.at_boundary(), ends.contains(&at));
                if rest.is_empty() {
                    break;
                }
                let piece = &rest[..(*cut).min(rest.len())];
                followed.advance(piece);
                at += piece.len();
            }
            prop_assert!(!followed.closed);
        }

        #[test]
        fn no_bytes_are_too_odd(bytes: Vec<u8>) {
            let mut frames = Frames { place: Place::Boundary, closed: false };
            prop_assert!(frames.to_boundary(&bytes) == 0);
            frames.advance(&bytes);
        }
    }

    #[tokio::test]
    async fn a_goodbye_waits_for_the_end_of_a_frame_and_is_said_once() {
        let mut tunnel = Tunnel::default();
        let text = frame(1, false, b"whole");
        tunnel.sent(ACCEPTED);
        tunnel.sent(&text[..4]);
        let mut wire = Vec::new();
        let mut farewell = async |tunnel: &mut Tunnel| {
            let mut once = std::pin::pin!(std::future::poll_fn(|cx| {
                Poll::Ready(tunnel.poll_farewell(&mut wire, cx).is_ready())
            }));
            (once.as_mut().await, wire.clone())
        };
        assert_eq!(farewell(&mut tunnel).await, (false, vec![]));
        let more = [&text[4..], &text].concat();
        assert_eq!(tunnel.owed(&more), text.len() - 4);
        tunnel.sent(&text[4..]);
        assert_eq!(tunnel.owed(&text), 0);
        assert_eq!(farewell(&mut tunnel).await, (true, CLOSE.to_vec()));
        assert_eq!(farewell(&mut tunnel).await, (true, CLOSE.to_vec()), "once is enough");

        let mut told = Tunnel::default();
        told.sent(&[ACCEPTED, &frame(8, false, &[3, 0xe8])].concat());
        let mut wire = Vec::new();
        let done = std::future::poll_fn(|cx| told.poll_farewell(&mut wire, cx)).await;
        assert!(done.is_ok() && wire.is_empty(), "the upstream has said it");
    }
}
