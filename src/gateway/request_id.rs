//! The identifier of a request: the one it came with if that is well formed, else one of our own.

use crate::clock::{NoEntropy, random_bytes};
use http::HeaderMap;

/// The longest that is taken over, in bytes.
const LONGEST: usize = 128;
const FIELD: &str = "x-request-id";

/// The identifier of a request with these header fields.
///
/// # Errors
/// When it has none and the system's random generator fails.
pub fn of(headers: &HeaderMap) -> Result<String, NoEntropy> {
    let mut values = headers.get_all(FIELD).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => match value.to_str().ok().filter(|id| is_well_formed(id)) {
            Some(id) => Ok(id.to_owned()),
            None => new(),
        },
        _ => new(),
    }
}

fn is_well_formed(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(good)
}

/// A new one.
pub(super) fn new() -> Result<String, NoEntropy> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes: [u8; 16] = random_bytes()?;
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().map_or('0', char::from);
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_taken_over_only_if_well_formed() {
        assert!(is_well_formed("0f-A_9.z"));
        for bad in ["", "a b", "a\"b", "a\u{e9}", &"x".repeat(129)] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
        let made = new().unwrap();
        assert!(is_well_formed(&made) && made.len() == 32);
    }
}
