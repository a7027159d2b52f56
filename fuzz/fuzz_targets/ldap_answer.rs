//! A message of an LDAP directory, or of somebody in its place, as the answer to each kind of request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::directory::ldap::{Request, Said};

fuzz_target!(|input: &[u8]| {
    for request in [Request::start_tls(), Request::bind("x", "y"), Request::read("x", ["uid"].into_iter())] {
        if let Ok(Said::Entry(attributes)) = request.answer(input) {
            let texts = attributes
                .iter()
                .map(|(name, values)| name.len() + values.iter().flatten().map(String::len).sum::<usize>());
            assert!(texts.sum::<usize>() <= input.len(), "an entry has no more than what was sent");
        }
    }
});
