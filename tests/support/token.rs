//! Tokens with any header and any claims, honest or forged.

use super::keys::{Key, b64};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(elapsed.as_secs()).expect("a clock before the year 292e9")
}

/// A JWT to be signed.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Token {
    pub(crate) fn new(claims: Value) -> Self {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        let mut header = Map::new();
        header.insert("typ".into(), json!("JWT"));
        Self { header, claims }
    }

    pub(crate) fn set(mut self, claim: &str, value: Value) -> Self {
        self.claims.insert(claim.into(), value);
        self
    }

    pub(crate) fn without(mut self, claim: &str) -> Self {
        self.claims.remove(claim);
        self
    }

    /// Sets a header member; `null` removes it, also those that signing would add.
    pub(crate) fn header(mut self, member: &str, value: Value) -> Self {
        self.header.insert(member.into(), value);
        self
    }

    /// Valid for this many seconds from now (negative: expired since).
    pub(crate) fn expires_in(self, seconds: i64) -> Self {
        self.set("exp", json!(now() + seconds))
    }

    /// Signs with `key`; `alg` and `kid` are the key's unless set in the header.
    pub(crate) fn sign(&self, key: &Key) -> String {
        let mut header = self.header.clone();
        header.entry("alg").or_insert_with(|| json!(key.algorithm()));
        header.entry("kid").or_insert_with(|| json!(key.kid));
        header.retain(|_, value| !value.is_null());
        let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default().to_owned();
        let claims = Value::Object(self.claims.clone()).to_string();
        signed(&Value::Object(header).to_string(), &claims, &algorithm, key)
    }

    /// The claims as JSON text, for tokens that are put together by hand.
    pub(crate) fn claims_text(&self) -> String {
        Value::Object(self.claims.clone()).to_string()
    }
}

/// A compact JWS over exactly these texts.
pub(crate) fn signed(header: &str, payload: &str, algorithm: &str, key: &Key) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = key.sign(algorithm, message.as_bytes());
    format!("{message}.{}", b64(signature))
}

/// The header and the claims of a token, unverified.
pub(crate) fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&bytes).unwrap_or_default()
    });
    (parts.next().expect("a header"), parts.next().expect("a payload"))
}
