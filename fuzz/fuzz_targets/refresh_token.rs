//! A refresh token as a stranger sends it: the input as it is, and a genuine token changed by the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::clock::Timestamp;
use portcullis::secret::Secret;
use portcullis::session::id::SessionId;
use portcullis::session::refresh_token::RefreshTokens;
use portcullis::session::store::Delivery;
use std::sync::LazyLock;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

static TOKENS: LazyLock<RefreshTokens> = LazyLock::new(|| {
    RefreshTokens::new(b"a secret that no input knows, of enough bytes", "fuzz")
        .with_previous(b"and an earlier one of as many bytes")
});
static GENUINE: LazyLock<String> = LazyLock::new(|| {
    let session = SessionId::from_bytes([7; 16]);
    let user = TOKENS.user_key("alice");
    let expiry = Timestamp::from_secs(1_900_000_000);
    TOKENS.mint(session, user, &Secret::new([9; 16]), Delivery::Body, expiry, 3).expose().clone()
});

fuzz_target!(|input: &[u8]| {
    for delivery in [Delivery::Body, Delivery::Cookie] {
        if let Ok(text) = std::str::from_utf8(input) {
            let accepted = TOKENS.parse(text, delivery, NOW).is_ok();
            assert!(!accepted || (text == *GENUINE && delivery == Delivery::Body), "forged: {text}");
        }
        // Pairs of (place, byte) put into a genuine token.
        let mut changed = GENUINE.clone().into_bytes();
        for pair in input.chunks_exact(2) {
            let place = usize::from(pair[0]) % changed.len();
            changed[place] = pair[1];
        }
        if let Ok(text) = String::from_utf8(changed) {
            let accepted = TOKENS.parse(&text, delivery, NOW).is_ok();
            assert_eq!(accepted, text == *GENUINE && delivery == Delivery::Body, "{text}");
        }
    }
});
