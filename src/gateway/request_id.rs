//! The identifier of a request: the one it came with if that is well formed, else one of our own.

use crate::clock::unique_bytes;
use http::{HeaderMap, HeaderName};

/// The longest that is taken over, in bytes.
const LONGEST: usize = 128;
const FIELD: HeaderName = HeaderName::from_static("x-request-id");

/// The identifier of a request with these header fields.
pub fn of(headers: &HeaderMap) -> String {
    let mut values = headers.get_all(&FIELD).into_iter();
    let theirs = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().filter(|id| is_well_formed(id)),
        _ => None,
    };
    theirs.map_or_else(new, ToOwned::to_owned)
}

fn is_well_formed(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(good)
}

/// A new one.
pub(super) fn new() -> String {
    // All at once, which the compiler does with a few instructions.
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
    let bytes = unique_bytes();
    let (high, low) = (bytes.map(|byte| digit(byte >> 4)), bytes.map(|byte| digit(byte & 15)));
    let mut digits = vec![0; 32];
    for (pair, digits) in digits.chunks_exact_mut(2).zip(high.into_iter().zip(low)) {
        pair.copy_from_slice(&[digits.0, digits.1]);
    }
    String::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn request_ids_are_taken_over_only_if_well_formed() {
        assert!(is_well_formed("0f-A_9.z"));
        for bad in ["", "a b", "a\"b", "a\u{e9}", &"x".repeat(129)] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
        let made: HashSet<String> = (0..10_000).map(|_| new()).collect();
        assert!(made.len() == 10_000 && made.iter().all(|id| is_well_formed(id) && id.len() == 32));
    }
}
