//! Finding the bearer token of a request (RFC 6750 section 2.1). No other place is ever looked at.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::fmt;

/// What a request's `Authorization` fields hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// No `Authorization` at all.
    Absent,
    /// Something else than one `Bearer` scheme with one b64token; two fields; another scheme.
    Malformed,
    /// A token over the limit.
    TooLarge,
    /// The token, not yet looked into.
    Token(&'a str),
}

impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Malformed => "Malformed",
            Self::TooLarge => "TooLarge",
            Self::Token(_) => "Token([redacted])",
        })
    }
}

/// Finds the token among the request's header fields; longer than `max_token_bytes` it is [`Bearer::TooLarge`].
pub fn find(headers: &HeaderMap, max_token_bytes: usize) -> Bearer<'_> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = fields.next() else { return Bearer::Absent };
    if fields.next().is_some() {
        return Bearer::Malformed;
    }
    let text = std::str::from_utf8(value.as_bytes()).ok();
    let Some((scheme, rest)) = text.and_then(|text| text.split_once(' ')) else {
        return Bearer::Malformed;
    };
    let token = rest.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("Bearer") || !is_b64token(token) {
        return Bearer::Malformed;
    }
    if token.len() > max_token_bytes { Bearer::TooLarge } else { Bearer::Token(token) }
}

/// What stands after `Bearer ` in the one `Authorization` field, unread: good for being compared with tokens that
/// were read before, and for nothing else.
pub fn unread(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`
pub fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    // Every byte is looked at, whatever those before it were: so the compiler takes many at once.
    !body.is_empty() && body.bytes().fold(true, |good, b| good & is_b64(b))
}

const fn is_b64(b: u8) -> bool {
    // `-`, `.` and `/` stand right before the digits. The fewer comparisons, the more bytes at a time.
    let is_letter = (b | 0x20).wrapping_sub(b'a') < 26;
    let is_digit_or_before = b.wrapping_sub(b'-') < 13;
    is_letter | is_digit_or_before | matches!(b, b'_' | b'~' | b'+')
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_found_whatever_the_case_of_the_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "bEaReR    a.b.c"] {
            let headers = headers(&[value.as_bytes()]);
            assert!(find(&headers, 100) == Bearer::Token("a.b.c"), "{value}");
            assert!(unread(&headers).unwrap().trim_ascii_start() == b"a.b.c", "{value}");
        }
        assert!(find(&headers(&[b"Bearer A-Z._~+/09=="]), 100) == Bearer::Token("A-Z._~+/09=="));
        assert_eq!(find(&HeaderMap::new(), 100), Bearer::Absent);
    }

    #[test]
    fn anything_but_exactly_one_bearer_token_is_malformed() {
        let cases: [&[u8]; 18] = [
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer  ",
            b"Basic dTpw",
            b"DPoP a.b.c",
            b"a.b.c",
            b"Bearer a b",
            b"Bearer a,b",
            b"Bearer a, Bearer b",
            b"Bearer a ",
            b"Bearer =",
            b"Bearer a=b",
            b"Bearer\ta",
            b"Bearer \ta",
            b"Bearer \"a\"",
            b"Bearer a\xc3\xa9",
            b" Bearer a",
        ];
        for value in cases {
            assert_eq!(
                find(&headers(&[value]), 100),
                Bearer::Malformed,
                "{:?}",
                String::from_utf8_lossy(value)
            );
        }
        assert_eq!(find(&headers(&[b"Bearer a", b"Bearer a"]), 100), Bearer::Malformed);
        assert_eq!(unread(&headers(&[b"Bearer a", b"Bearer a"])), None);
        assert_eq!(find(&headers(&[b"Bearer a", b"Basic b"]), 100), Bearer::Malformed);
    }

    #[test]
    fn no_other_byte_is_in_a_token() {
        for b in 0..=u8::MAX {
            assert_eq!(is_b64(b), b.is_ascii_alphanumeric() || b"-._~+/".contains(&b), "{b}");
        }
    }

    #[test]
    fn the_limit_counts_the_token_alone() {
        assert!(find(&headers(&[b"Bearer abcd"]), 4) == Bearer::Token("abcd"));
        assert_eq!(find(&headers(&[b"Bearer abcde"]), 4), Bearer::TooLarge);
    }

    #[test]
    fn a_token_is_never_shown_by_debug() {
        assert_eq!(format!("{:?}", Bearer::Token("secret")), "Token([redacted])");
    }
}
