//! The `Authorization` fields of a request: one per line of the input.
#![no_main]

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::token::bearer::{self, Bearer};

const MAX_TOKEN: usize = 64;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(4) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(AUTHORIZATION, value);
        }
    }
    let fields: Vec<&HeaderValue> = headers.get_all(AUTHORIZATION).iter().collect();
    match bearer::find(&headers, MAX_TOKEN) {
        Bearer::Absent => assert!(fields.is_empty()),
        Bearer::Token(token) => {
            assert_eq!(fields.len(), 1);
            assert!(!token.is_empty() && token.len() <= MAX_TOKEN);
            assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(fields[0].as_bytes().ends_with(token.as_bytes()));
        }
        Bearer::TooLarge => assert!(fields[0].len() > MAX_TOKEN),
        Bearer::Malformed => assert!(!fields.is_empty()),
    }
});
