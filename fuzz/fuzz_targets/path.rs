//! A request target: one canonical path, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::gateway::path::{CanonicalPath, with_query_of};

fuzz_target!(|input: &[u8]| {
    let Ok(path) = CanonicalPath::parse(input) else { return };
    let text = path.as_str();
    assert!(text.starts_with('/'));
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b'?'));

    let again = CanonicalPath::parse(text.as_bytes()).expect("a canonical path is a path");
    assert_eq!(again, path, "canonical form is final");
    let forwarded = with_query_of(text, input);
    assert_eq!(CanonicalPath::parse(&forwarded).as_ref(), Ok(&path), "the path forwarded is the path read");

    if path.is_plain() {
        for decoded in [text.to_owned(), percent_decoded(text)] {
            let parameters_cut: String = decoded
                .split('/')
                .map(|segment| segment.split(';').next().unwrap_or(""))
                .collect::<Vec<_>>()
                .join("/");
            assert_eq!(parameters_cut, decoded, "no parameters");
            assert!(!decoded.contains("//") && !decoded.contains('\\'));
            assert!(!decoded.split('/').any(|segment| segment == "." || segment == ".."));
        }
        assert_eq!(
            percent_decoded(text).matches('/').count(),
            text.matches('/').count(),
            "decoding makes no segment"
        );
    }
});

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escape = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).expect("a canonical path decodes to UTF-8")
}
