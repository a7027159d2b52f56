//! The answer to a request that is no HTTP/1 request: the engine refuses it before any phase runs, with an
//! answer of its own, which is replaced by ours.

use super::{denial, request_id, respond};
use crate::policy::Denial;
use crate::reason::Reason;

/// How the engine's own refusal begins on the wire.
const REFUSAL: &[u8] = b"HTTP/1.1 400 ";

/// The most fields the engine parses, whatever our own limit.
const ENGINE_FIELDS: usize = 256;

/// What arrived of a header block so far.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Arrived {
    bytes: usize,
    lines: usize,
    line: RequestLine,
}

/// What is seen of the request line (RFC 9112 section 3) before the engine escapes what it does not like in it.
#[derive(Debug, Default, Clone, Copy)]
struct RequestLine {
    begun: bool,
    done: bool,
    spaces: u8,
    odd: bool,
}

impl RequestLine {
    /// Takes in the line's bytes. Empty lines may come before it (RFC 9112 section 2.2).
    fn add(&mut self, piece: &[u8]) {
        for byte in piece {
            match byte {
                b'\n' if self.begun => {
                    self.done = true;
                    return;
                }
                b'\r' | b'\n' => {}
                b' ' => self.spaces = self.spaces.saturating_add(1),
                byte => {
                    self.begun = true;
                    self.odd |= byte.is_ascii_control();
                }
            }
        }
    }
}

impl Arrived {
    pub(super) fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        if !self.line.done {
            self.line.add(piece);
        }
        // In pieces whose lines fit a byte, so that the compiler takes many bytes at once.
        let lines = |piece: &[u8]| piece.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>();
        self.lines += piece.chunks(255).map(|piece| usize::from(lines(piece))).sum::<usize>();
    }

    /// Whether the request line is of three words with a space between each, and has no control character.
    pub(super) fn has_clear_request_line(self) -> bool {
        self.line.spaces == 2 && !self.line.odd
    }

    /// Why the engine cannot have parsed it.
    pub(super) fn reason(self, most_bytes: usize, most_fields: usize) -> Reason {
        if self.bytes > most_bytes && !self.line.done {
            Reason::TargetTooLong
        } else if self.bytes > most_bytes || self.lines > most_fields.min(ENGINE_FIELDS) + 1 {
            Reason::HeaderTooLarge
        } else {
            Reason::BadRequest
        }
    }
}

/// Whether the engine is about to refuse, if no request is being served.
pub(super) fn is_refusal(written: &[u8]) -> bool {
    written.starts_with(REFUSAL)
}

/// A whole answer, after which the connection ends; and its status.
pub(super) fn answer(reason: Reason) -> (u16, Vec<u8>) {
    let request_id = request_id::new();
    let reply = denial::reply(&Denial::new(reason), denial::status(reason), &request_id, false);
    (reply.status, respond::written(&reply, &request_id, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_has_two_spaces_however_it_arrives() {
        for (line, clear) in [
            ("GET /a HTTP/1.1\r\nHost: a b c\r\n\r\n", true),
            ("\r\n\nGET /a HTTP/1.1\n", true),
            ("GET /a b HTTP/1.1\r\n", false),
            ("GET  /a HTTP/1.1\r\n", false),
            ("GET /a HTTP/1.1 \r\n", false),
            ("GET /a\tHTTP/1.1\r\n", false),
            ("GET /a\u{7f} HTTP/1.1\r\n", false),
            ("GET /a\r\n", false),
        ] {
            for size in [1, 3, 4096] {
                let mut arrived = Arrived::default();
                line.as_bytes().chunks(size).for_each(|piece| arrived.add(piece));
                assert_eq!(arrived.has_clear_request_line(), clear, "{line:?} by {size}");
            }
        }
    }

    #[test]
    fn what_was_too_long_is_told_from_what_was_wrong() {
        let mut arrived = Arrived::default();
        arrived.add(b"GET / HTTP/1.1\r\nHost x\r\n\r\n");
        assert_eq!(arrived.reason(1024, 100), Reason::BadRequest);
        assert_eq!(arrived.reason(20, 100), Reason::HeaderTooLarge);
        let mut endless = Arrived::default();
        endless.add(b"GET /aaaaaaaaaaaaaaaaaaaa");
        assert_eq!(endless.reason(20, 100), Reason::TargetTooLong);
        arrived.add("a: b\r\n".repeat(120).as_bytes());
        assert_eq!(arrived.reason(1024, 100), Reason::HeaderTooLarge);
    }
}
