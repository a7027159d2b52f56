//! Header and claims of a JWT, signed rightly, so that everything behind the signature is reached: the first
//! line of the input is the header, the rest the claims. The same input is also read as a whole token.
#![no_main]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use portcullis::clock::{ManualClock, Timestamp};
use portcullis::json::{self, ClaimPath};
use portcullis::key_set::cache::Fetching;
use portcullis::key_set::{Algorithm, KeySetSettings, RefreshSettings, Source};
use portcullis::outbound::Client;
use portcullis::secret::Secret;
use portcullis::token::verified_cache::VerifiedCache;
use portcullis::token::verifier::{IssuerSettings, TokenType, Verifier};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const SECRET: &[u8] = b"thirty-two bytes or a little more";
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const LEEWAY: u64 = 30;

static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, SECRET));
static VERIFIER: LazyLock<Verifier> = LazyLock::new(verifier);

fn verifier() -> Verifier {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let paths = |names: &[&str]| names.iter().filter_map(|name| ClaimPath::parse(name)).collect();
    let source = Source::Secret(Secret::new(SECRET.to_vec()));
    let settings = IssuerSettings {
        name: "corp".to_owned(),
        issuer: "corp".to_owned(),
        audiences: vec!["api".to_owned()],
        algorithms: vec![Algorithm::Hs256],
        keys: KeySetSettings { source, refresh: RefreshSettings::default(), copy_file: None },
        leeway: Duration::from_secs(LEEWAY),
        max_lifetime: Some(Duration::from_secs(3600)),
        token_type: TokenType::Any,
        scopes: paths(&["scope", "scp"]),
        roles: paths(&["roles", "realm_access.roles"]),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let fetching = Fetching {
        clock: Arc::new(ManualClock::at(NOW)),
        client: Client::new().expect("a client"),
        runtime: runtime.handle().clone(),
        observer: Arc::new(|_| ()),
    };
    let cache = Arc::new(VerifiedCache::new(0, Arc::new(|_| ())));
    Verifier::new(vec![settings], None, &fetching, cache, None).expect("a verifier")
}

fn verify(token: &str) -> Option<Arc<portcullis::token::claims::VerifiedClaims>> {
    VERIFIER.verify(token, NOW).now_or_never().expect("a fixed secret is never waited for").ok()
}

fuzz_target!(|input: &[u8]| {
    if let Ok(token) = std::str::from_utf8(input) {
        verify(token);
    }
    let (header, claims) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (&br#"{"alg":"HS256","typ":"JWT"}"#[..], input),
    };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mac = hmac::sign(&KEY, signed.as_bytes());
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac));
    let Some(verified) = verify(&token) else { return };

    // What was accepted is what a strict reading of the same bytes gives.
    let header = json::object(header).expect("an accepted header is strict JSON");
    assert_eq!(header.get("alg").and_then(|alg| alg.as_str()), Some("HS256"));
    assert!(!header.contains_key("crit"));
    let claims = json::object(claims).expect("accepted claims are strict JSON");
    assert_eq!(claims.get("iss").and_then(|iss| iss.as_str()), Some("corp"));
    assert_eq!(claims.get("sub").and_then(|sub| sub.as_str()).unwrap_or_default(), verified.subject());
    assert!(verified.expires().as_secs() + LEEWAY >= NOW.as_secs());
    assert_eq!(&claims, verified.all());
});
