//! A key set as an issuer or an operator gives it: JWKS, or PEM public keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::key_set::{KeySet, MAX_KEYS};

fuzz_target!(|input: &[u8]| {
    for read in [KeySet::from_text, KeySet::from_jwks, KeySet::from_pem] {
        if let Ok(keys) = read(input) {
            assert!(keys.size() > 0 && keys.size() <= MAX_KEYS);
        }
    }
});
