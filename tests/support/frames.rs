//! HTTP/2 by hand over cleartext: any field in any order, trailers too, which client libraries would refuse to
//! send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
/// What a client begins with (RFC 9113 section 3.4), before its SETTINGS.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request, as its fields stand on the wire.
#[derive(Debug, Clone)]
pub(crate) struct RawRequest {
    fields: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    trailers: Vec<(String, String)>,
}

/// What came back; no status if the stream or the connection was ended instead.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: Option<u16>,
    pub(crate) body: Vec<u8>,
}

impl RawRequest {
    /// With the pseudo-header fields a request has.
    pub(crate) fn new(method: &str, authority: &str, path: &str) -> Self {
        let none = Self { fields: Vec::new(), body: None, trailers: Vec::new() };
        none.field(":method", method)
            .field(":scheme", "http")
            .field(":authority", authority)
            .field(":path", path)
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Leaves a field out again.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(own, _)| own != name);
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.into(), value.into()));
        self
    }

    /// Sends it on a connection of its own.
    pub(crate) fn send(&self, address: &str) -> io::Result<RawAnswer> {
        let mut wire = TcpStream::connect(address)?;
        wire.set_nodelay(true)?;
        wire.set_read_timeout(Some(Duration::from_secs(10)))?;
        wire.write_all(&self.bytes())?;
        let mut answer = RawAnswer { status: None, body: Vec::new() };
        // Whoever refuses the connection closes it.
        while let Ok((kind, flags, stream, payload)) = read_frame(&mut wire) {
            match kind {
                SETTINGS if flags & ACK == 0 => wire.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
                PING if flags & ACK == 0 => wire.write_all(&frame(PING, ACK, 0, &payload))?,
                HEADERS if stream == 1 && answer.status.is_none() => answer.status = status(&payload),
                DATA if stream == 1 => answer.body.extend(payload),
                RST_STREAM if stream == 1 => return Ok(answer),
                GOAWAY => return Ok(answer),
                _ => {}
            }
            if stream == 1 && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return Ok(answer);
            }
        }
        Ok(answer)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = PREFACE.to_vec();
        out.extend(frame(SETTINGS, 0, 0, &[]));
        let more = self.body.is_some() || !self.trailers.is_empty();
        let end = if more { 0 } else { END_STREAM };
        out.extend(frame(HEADERS, END_HEADERS | end, 1, &block(&self.fields)));
        if let Some(body) = &self.body {
            let end = if self.trailers.is_empty() { END_STREAM } else { 0 };
            out.extend(frame(DATA, end, 1, body));
        }
        if !self.trailers.is_empty() {
            out.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&self.trailers)));
        }
        out
    }
}

/// RFC 9113 section 4.1.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub(crate) fn read_frame(wire: &mut TcpStream) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    wire.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    wire.read_exact(&mut payload)?;
    Ok((head[3], head[4], stream, payload))
}

/// Fields as literals without a table and without Huffman (RFC 7541 section 6.2.2).
pub(crate) fn block<T: AsRef<str>>(fields: &[(T, T)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            let mut length = text.len();
            // Integers with a prefix of seven bits (section 5.1).
            if length < 127 {
                out.extend(u8::try_from(length));
            } else {
                out.push(127);
                length -= 127;
                while length >= 128 {
                    out.push(u8::try_from(length % 128).expect("seven bits") | 128);
                    length /= 128;
                }
                out.extend(u8::try_from(length));
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The status, which comes first: from the static table, or as three digits after that table's name.
pub(crate) fn status(block: &[u8]) -> Option<u16> {
    // A change of the table's size may come before it (RFC 7541 section 6.3).
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let first = *block.get(at)?;
    if let 0x88..=0x8e = first {
        return Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]);
    }
    let length = *block.get(at + 1)?;
    let value = block.get(at + 2..at + 2 + usize::from(length & 0x7f))?;
    let text = if length & 0x80 == 0 { String::from_utf8(value.into()).ok()? } else { digits(value) };
    text.parse().ok()
}

/// Digits in Huffman code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let codes: Vec<_> = (0..3_u8)
        .map(|digit| (format!("{digit:05b}"), digit))
        .chain((3..10).map(|digit| (format!("{:06b}", 0b01_1001 + digit - 3), digit)))
        .collect();
    let mut rest = bits.as_str();
    let mut text = String::new();
    while let Some((code, digit)) = codes.iter().find(|(code, _)| rest.starts_with(code.as_str())) {
        text.push(char::from(b'0' + digit));
        rest = &rest[code.len()..];
    }
    text
}
