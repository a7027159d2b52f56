//! Key sets: the keys an issuer signs with, where they come from, and how they are kept fresh.

mod algorithm;
pub mod cache;
mod copy;
mod fetch;
#[cfg(test)]
pub(crate) mod fixtures;
mod jwk;
mod key;
mod origin;
mod pem;
mod source;

pub use algorithm::Algorithm;
pub use copy::CopyError;
pub use fetch::FetchError;
pub use key::Flaw;
pub use origin::KeyHost;
pub use source::{KeySetSettings, RefreshSettings, Source};

use crate::json::{self, JsonError};
use key::Key;
use serde_json::Value;

/// The longest key set taken, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// The most keys a set may have.
pub const MAX_KEYS: usize = 100;

/// The most keys tried for one token. More than one come into question only where a `kid` is repeated or absent.
const MAX_TRIES: usize = 4;

/// The keys of one issuer. A set is never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
}

/// A key that was offered and is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its `kid`, if it has one.
    pub kid: Option<String>,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// Why a text is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Longer than [`MAX_BYTES`].
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// More keys than [`MAX_KEYS`].
    #[error("it has {0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
    /// Not a strict JSON object.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A JSON object without the array `keys` (RFC 7517 section 5.1).
    #[error("it has no array `keys`")]
    NoKeys,
    /// Neither a JSON object nor PEM.
    #[error("it has neither a JSON object nor a PEM public key")]
    NotKeys,
    /// Not one of its keys can be used; those that were offered are listed.
    #[error("none of its {} keys can be used{}", .0.len(), first_flaw(.0))]
    NoUsableKey(Vec<SkippedKey>),
}

fn first_flaw(skipped: &[SkippedKey]) -> String {
    skipped.first().map(|key| format!(": {}", key.flaw)).unwrap_or_default()
}

/// What a set says about a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A key of the set made it.
    Good,
    /// The key it names did not make it.
    Bad,
    /// The key it names is not one for this algorithm.
    WrongAlgorithm,
    /// No key has this name; `tried` if keys without a name were tried in vain.
    UnknownKey {
        /// Whether there were keys to try.
        tried: bool,
    },
}

impl KeySet {
    /// Reads a set from a file: a JWKS, or PEM public keys.
    ///
    /// # Errors
    /// [`KeySetError`] unless at least one key can be used.
    pub fn from_text(text: &[u8]) -> Result<Self, KeySetError> {
        if text.trim_ascii_start().starts_with(b"{") { Self::from_jwks(text) } else { Self::from_pem(text) }
    }

    /// Reads a JWKS (RFC 7517 section 5) key by key: what is wrong with one does not harm the others.
    ///
    /// # Errors
    /// [`KeySetError`] unless at least one key can be used.
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLong);
        }
        let document = json::object(text)?;
        let Some(Value::Array(keys)) = document.get("keys") else { return Err(KeySetError::NoKeys) };
        Self::collect(keys.iter().map(|jwk| (jwk::kid(jwk), jwk::parse(jwk))))
    }

    /// Reads every PEM public key of a text. They have no `kid`.
    ///
    /// # Errors
    /// [`KeySetError`] unless at least one key can be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLong);
        }
        let keys = pem::parse(text);
        if keys.is_empty() {
            return Err(KeySetError::NotKeys);
        }
        Self::collect(keys.into_iter().map(|key| (None, key)))
    }

    /// The set of one shared secret.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self { keys: vec![Key::secret(secret)], skipped: Vec::new() }
    }

    fn collect<'a>(
        offered: impl ExactSizeIterator<Item = (Option<&'a str>, Result<Key, Flaw>)>,
    ) -> Result<Self, KeySetError> {
        if offered.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(offered.len()));
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (kid, key) in offered {
            match key {
                Ok(key) if keys.contains(&key) => {}
                Ok(key) => keys.push(key),
                Err(flaw) => skipped.push(SkippedKey { kid: kid.map(ToOwned::to_owned), flaw }),
            }
        }
        if keys.is_empty() { Err(KeySetError::NoUsableKey(skipped)) } else { Ok(Self { keys, skipped }) }
    }

    /// How many keys can be used; at least one.
    pub fn size(&self) -> usize {
        self.keys.len()
    }

    /// The keys that were offered and are not used.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Whether both hold the same keys in the same order.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.keys == other.keys
    }

    /// Checks a signature over `message`. A `kid` selects the keys of that name; only if there are none are
    /// the keys without a name tried. Without a `kid` every key for the algorithm is, if they are few.
    pub fn verify(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Verdict {
        let good = |key: &&Key| key.verifies(algorithm, message, signature);
        let fitting = || self.keys.iter().filter(|key| key.fits(algorithm));
        let Some(kid) = kid else {
            return match fitting().count() {
                0 => Verdict::UnknownKey { tried: false },
                1..=MAX_TRIES if fitting().any(|key| good(&key)) => Verdict::Good,
                1..=MAX_TRIES => Verdict::Bad,
                _ => Verdict::UnknownKey { tried: false },
            };
        };
        let is_named = |key: &&Key| key.kid.as_deref() == Some(kid);
        if self.keys.iter().any(|key| is_named(&key)) {
            let mut named = fitting().filter(is_named).take(MAX_TRIES).peekable();
            if named.peek().is_none() {
                return Verdict::WrongAlgorithm;
            }
            return if named.any(|key| good(&key)) { Verdict::Good } else { Verdict::Bad };
        }
        let mut nameless = fitting().filter(|key| key.kid.is_none()).take(MAX_TRIES).peekable();
        let tried = nameless.peek().is_some();
        if nameless.any(|key| good(&key)) { Verdict::Good } else { Verdict::UnknownKey { tried } }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{OTHER_RSA, RSA, TestKey, jwks, with, without};
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::json;
    use std::slice;

    const MESSAGE: &[u8] = b"header.payload";

    fn set(keys: &[Value]) -> KeySet {
        KeySet::from_jwks(jwks(keys).as_bytes()).unwrap()
    }

    fn flaw(key: &Value) -> Flaw {
        match KeySet::from_jwks(jwks(slice::from_ref(key)).as_bytes()) {
            Err(KeySetError::NoUsableKey(skipped)) => skipped[0].flaw.clone(),
            other => panic!("{key} gave {other:?}"),
        }
    }

    fn verdict(set: &KeySet, key: &TestKey, kid: Option<&str>, algorithm: Algorithm) -> Verdict {
        set.verify(kid, algorithm, MESSAGE, &key.sign(algorithm, MESSAGE))
    }

    fn zeros(text: &str, count: usize) -> String {
        let mut bytes = vec![0; count];
        bytes.extend(URL_SAFE_NO_PAD.decode(text).unwrap());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// RFC 7515 appendices A.1 to A.3 and RFC 8037 appendix A.4.
    #[test]
    fn the_examples_of_the_rfcs_verify_and_one_changed_bit_does_not() {
        let payload =
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let secret = KeySet::from_secret(&URL_SAFE_NO_PAD.decode(secret).unwrap());
        let rsa = set(&[
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPdd\
            xHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf\
            63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXF\
            vUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
        ]);
        let p256 =
            set(&[json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})]);
        let ed25519 = set(&[
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
        ]);
        let examples = [
            (
                secret,
                Algorithm::Hs256,
                format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{payload}"),
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
            (
                rsa,
                Algorithm::Rs256,
                format!("eyJhbGciOiJSUzI1NiJ9.{payload}"),
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF\
                9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcO\
                Ln6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmt\
                VrBp0igcN_IoypGlUPQGe77Rw",
            ),
            (
                p256,
                Algorithm::Es256,
                format!("eyJhbGciOiJFUzI1NiJ9.{payload}"),
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                ed25519,
                Algorithm::EdDsa,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ];
        for (keys, algorithm, message, signature) in examples {
            let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let verify = |signature: &[u8]| keys.verify(None, algorithm, message.as_bytes(), signature);
            assert_eq!(verify(&signature), Verdict::Good, "{algorithm}");
            signature[9] ^= 1;
            assert_eq!(verify(&signature), Verdict::Bad, "{algorithm}");
        }
    }

    #[test]
    fn every_algorithm_verifies_with_its_own_kind_of_key_and_with_no_other() {
        let keys = [&*RSA, &TestKey::p256(), &TestKey::p384(), &TestKey::ed25519()];
        for (at, key) in keys.iter().enumerate() {
            let set = set(&[key.jwk()]);
            for algorithm in Algorithm::ALL {
                let fits = match algorithm {
                    Algorithm::Es256 => at == 1,
                    Algorithm::Es384 => at == 2,
                    Algorithm::EdDsa => at == 3,
                    other => at == 0 && !other.is_hmac(),
                };
                let expected = if fits { Verdict::Good } else { Verdict::UnknownKey { tried: false } };
                assert_eq!(verdict(&set, key, None, *algorithm), expected, "{algorithm} with key {at}");
            }
        }
    }

    #[test]
    fn a_signature_is_bound_to_its_algorithm() {
        let set = set(&[RSA.jwk()]);
        let signature = RSA.sign(Algorithm::Rs256, MESSAGE);
        for other in
            [Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512]
        {
            assert_eq!(set.verify(None, other, MESSAGE, &signature), Verdict::Bad, "{other}");
        }
    }

    #[test]
    fn degenerate_signatures_are_bad() {
        let (p256, ed25519) = (TestKey::p256(), TestKey::ed25519());
        let set = set(&[RSA.jwk(), p256.jwk(), ed25519.jwk()]);
        // The order of P-256: r and s must be below it, and above zero (CVE-2022-21449 took zeros).
        let order = [
            [0xff; 4],
            [0; 4],
            [0xff; 4],
            [0xff; 4],
            *b"\xbc\xe6\xfa\xad",
            *b"\xa7\x17\x9e\x84",
            *b"\xf3\xb9\xca\xc2",
            *b"\xfc\x63\x25\x51",
        ]
        .concat();
        let good = p256.sign(Algorithm::Es256, MESSAGE);
        let (r, s) = good.split_at(32);
        let one = [[0; 31].as_slice(), &[1]].concat();
        let der = [&[0x30, 0x44, 2, 32], r, &[2, 32], s].concat();
        let degenerate = [
            vec![],
            vec![0; 64],
            [one.as_slice(), &one].concat(),
            [order.as_slice(), &order].concat(),
            [r, &[0; 32]].concat(),
            [&[0; 32], s].concat(),
            [&order, s].concat(),
            [r, &order].concat(),
            r.to_vec(),
            [good.as_slice(), &[0]].concat(),
            [&[0], good.as_slice()].concat(),
            [s, r].concat(),
            der,
            vec![0xff; 64],
        ];
        for signature in degenerate {
            assert_eq!(
                set.verify(None, Algorithm::Es256, MESSAGE, &signature),
                Verdict::Bad,
                "{signature:?}"
            );
        }
        let good = ed25519.sign(Algorithm::EdDsa, MESSAGE);
        for signature in
            [vec![], vec![0; 64], vec![0xff; 64], good[..63].to_vec(), [good.as_slice(), &[0]].concat()]
        {
            assert_eq!(
                set.verify(None, Algorithm::EdDsa, MESSAGE, &signature),
                Verdict::Bad,
                "{signature:?}"
            );
        }
        let good = RSA.sign(Algorithm::Rs256, MESSAGE);
        let one = [[0; 255].as_slice(), &[1]].concat();
        for signature in [
            vec![],
            vec![0; 256],
            vec![0xff; 256],
            one,
            good[..255].to_vec(),
            [&[0], good.as_slice()].concat(),
        ] {
            assert_eq!(
                set.verify(None, Algorithm::Rs256, MESSAGE, &signature),
                Verdict::Bad,
                "{signature:?}"
            );
        }
    }

    #[test]
    fn keys_that_must_not_be_used_say_why() {
        let (rsa, p256, ed25519) = (RSA.jwk(), TestKey::p256().jwk(), TestKey::ed25519().jwk());
        let short = URL_SAFE_NO_PAD.encode([&[0xff; 255][..]].concat());
        let long = URL_SAFE_NO_PAD.encode([0xff; 1025]);
        let even = URL_SAFE_NO_PAD.encode([0xfe; 256]);
        let p384 = TestKey::p384().jwk();
        let cases = [
            (json!("x"), Flaw::NotAnObject),
            (json!({}), Flaw::Missing("kty")),
            (with(rsa.clone(), "kty", json!(1)), Flaw::WrongType("kty")),
            (with(rsa.clone(), "kty", json!("rsa")), Flaw::UnsupportedType),
            (with(rsa.clone(), "kid", json!(1)), Flaw::WrongType("kid")),
            (json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ"}), Flaw::SharedSecret),
            (json!({"kty": "oct"}), Flaw::SharedSecret),
            (with(rsa.clone(), "d", json!("AQ")), Flaw::Private),
            (with(rsa.clone(), "k", json!("AQ")), Flaw::Private),
            (with(p256.clone(), "d", json!(null)), Flaw::Private),
            (with(rsa.clone(), "use", json!("enc")), Flaw::NotForSignatures),
            (with(rsa.clone(), "use", json!("")), Flaw::NotForSignatures),
            (with(rsa.clone(), "use", json!(["sig"])), Flaw::WrongType("use")),
            (with(rsa.clone(), "key_ops", json!(["sign", "encrypt"])), Flaw::NotForVerification),
            (with(rsa.clone(), "key_ops", json!([])), Flaw::NotForVerification),
            (with(rsa.clone(), "key_ops", json!("verify")), Flaw::WrongType("key_ops")),
            (with(rsa.clone(), "alg", json!("ES256")), Flaw::AlgorithmMismatch),
            (with(rsa.clone(), "alg", json!("HS256")), Flaw::AlgorithmMismatch),
            (with(rsa.clone(), "alg", json!("none")), Flaw::AlgorithmMismatch),
            (with(rsa.clone(), "alg", json!("RSA-OAEP")), Flaw::AlgorithmMismatch),
            (with(p256.clone(), "alg", json!("ES384")), Flaw::AlgorithmMismatch),
            (without(rsa.clone(), "n"), Flaw::Missing("n")),
            (with(rsa.clone(), "n", json!("")), Flaw::ModulusSize(0)),
            (with(rsa.clone(), "n", json!("====")), Flaw::Encoding("n")),
            (with(rsa.clone(), "n", json!(short)), Flaw::ModulusSize(2040)),
            (with(rsa.clone(), "n", json!(zeros(&short, 1))), Flaw::ModulusSize(2040)),
            (with(rsa.clone(), "n", json!(long)), Flaw::ModulusSize(8200)),
            (with(rsa.clone(), "n", json!(even)), Flaw::Invalid),
            (with(rsa.clone(), "e", json!("")), Flaw::Exponent),
            (with(rsa.clone(), "e", json!("AA")), Flaw::Exponent),
            (with(rsa.clone(), "e", json!("AQ")), Flaw::Exponent),
            (with(rsa.clone(), "e", json!("AAE")), Flaw::Exponent),
            (with(rsa.clone(), "e", json!("AQAA")), Flaw::Exponent),
            (with(rsa.clone(), "e", json!("AQAAAAAAAAE")), Flaw::Invalid),
            (with(rsa, "e", json!(65537)), Flaw::WrongType("e")),
            (without(p256.clone(), "crv"), Flaw::Missing("crv")),
            (with(p256.clone(), "crv", json!("P-521")), Flaw::UnsupportedCurve),
            (with(p256.clone(), "crv", json!("secp256k1")), Flaw::UnsupportedCurve),
            (with(p256.clone(), "crv", json!("P-384")), Flaw::Invalid),
            (with(p384, "crv", json!("P-256")), Flaw::Invalid),
            (with(p256.clone(), "x", p256["y"].clone()), Flaw::Invalid),
            (with(p256.clone(), "x", json!(zeros(p256["x"].as_str().unwrap(), 1))), Flaw::Invalid),
            (with(with(p256, "x", json!("A".repeat(43))), "y", json!("A".repeat(43))), Flaw::Invalid),
            (with(ed25519.clone(), "crv", json!("X25519")), Flaw::UnsupportedCurve),
            (with(ed25519.clone(), "crv", json!("Ed448")), Flaw::UnsupportedCurve),
            (with(ed25519.clone(), "x", json!("AAAA")), Flaw::Invalid),
            (without(ed25519, "x"), Flaw::Missing("x")),
        ];
        for (key, expected) in cases {
            assert_eq!(flaw(&key), expected, "{key}");
        }
    }

    #[test]
    fn what_issuers_do_write_is_understood() {
        let rsa = RSA.jwk();
        for key in [
            with(rsa.clone(), "n", json!(zeros(rsa["n"].as_str().unwrap(), 1))),
            with(rsa.clone(), "e", json!("AAAAAQAB")),
            with(with(rsa.clone(), "use", json!("sig")), "key_ops", json!(["verify"])),
            with(with(rsa.clone(), "alg", json!(null)), "use", json!(null)),
            with(with(rsa.clone(), "x5c", json!(["MII"])), "unknown", json!({})),
        ] {
            assert_eq!(
                verdict(&set(slice::from_ref(&key)), &RSA, None, Algorithm::Rs256),
                Verdict::Good,
                "{key}"
            );
        }
    }

    #[test]
    fn a_bad_key_does_not_harm_its_neighbours() {
        let set = set(&[
            json!(1),
            with(RSA.jwk(), "kid", json!(7)),
            RSA.named("a"),
            json!({"kty": "oct", "kid": "s"}),
        ]);
        assert_eq!(set.size(), 1);
        assert_eq!(verdict(&set, &RSA, Some("a"), Algorithm::Rs256), Verdict::Good);
        let skipped = |kid: Option<&str>, flaw| SkippedKey { kid: kid.map(ToOwned::to_owned), flaw };
        let expected = [
            skipped(None, Flaw::NotAnObject),
            skipped(None, Flaw::WrongType("kid")),
            skipped(Some("s"), Flaw::SharedSecret),
        ];
        assert_eq!(set.skipped(), expected);
    }

    #[test]
    fn a_set_without_one_usable_key_is_an_error_and_so_is_what_is_no_set() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":null}"#,
            r#"{"keys":[]} x"#,
            "<html>",
            r#"{"keys":[],"keys":[]}"#,
        ] {
            let error = KeySet::from_jwks(text.as_bytes()).unwrap_err();
            assert!(matches!(error, KeySetError::Json(_) | KeySetError::NoKeys), "{text} gave {error:?}");
        }
        assert!(
            matches!(KeySet::from_jwks(b"{\"keys\":[]}"), Err(KeySetError::NoUsableKey(skipped)) if skipped.is_empty())
        );
    }

    proptest! {
        #[test]
        fn no_text_and_no_members_make_the_parser_panic(
            text in "\\PC{0,60}",
            values in prop::collection::vec("[A-Za-z0-9_=-]{0,44}", 4),
            kind in prop::sample::select(vec!["RSA", "EC", "OKP"]),
            curve in prop::sample::select(vec!["P-256", "P-384", "Ed25519"]),
        ) {
            prop_assert!(KeySet::from_text(text.as_bytes()).is_err());
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", values[0]);
            prop_assert!(KeySet::from_text(pem.as_bytes()).is_err());
            let key = json!({
                "kty": kind, "crv": curve, "n": values[0].repeat(8), "e": values[1], "x": values[2], "y": values[3],
            });
            let _ = KeySet::from_jwks(jwks(&[key]).as_bytes());
        }
    }

    #[test]
    fn a_set_has_limits() {
        let many: Vec<_> = (0..=MAX_KEYS).map(|at| TestKey::ed25519().named(&at.to_string())).collect();
        assert!(matches!(KeySet::from_jwks(jwks(&many).as_bytes()), Err(KeySetError::TooMany(101))));
        assert_eq!(set(&many[1..]).size(), MAX_KEYS);
        let mut long = jwks(&[RSA.jwk()]);
        long.push_str(&" ".repeat(MAX_BYTES - long.len()));
        assert!(KeySet::from_text(long.as_bytes()).is_ok());
        long.push(' ');
        assert!(matches!(KeySet::from_text(long.as_bytes()), Err(KeySetError::TooLong)));
    }

    #[test]
    fn a_kid_selects_its_key_and_no_other() {
        let set = set(&[RSA.named("a"), OTHER_RSA.named("b")]);
        let check = |key: &TestKey, kid| verdict(&set, key, kid, Algorithm::Rs256);
        assert_eq!(check(&RSA, Some("a")), Verdict::Good);
        assert_eq!(check(&RSA, Some("b")), Verdict::Bad);
        assert_eq!(check(&RSA, Some("c")), Verdict::UnknownKey { tried: false });
        assert_eq!(check(&RSA, Some("A")), Verdict::UnknownKey { tried: false });
        assert_eq!(check(&RSA, Some("")), Verdict::UnknownKey { tried: false });
        assert_eq!(check(&OTHER_RSA, None), Verdict::Good);
        assert_eq!(verdict(&set, &TestKey::p256(), Some("a"), Algorithm::Es256), Verdict::WrongAlgorithm);
    }

    #[test]
    fn the_alg_of_a_key_binds_it() {
        let set = set(&[with(RSA.named("a"), "alg", json!("PS256"))]);
        assert_eq!(verdict(&set, &RSA, Some("a"), Algorithm::Ps256), Verdict::Good);
        assert_eq!(verdict(&set, &RSA, Some("a"), Algorithm::Rs256), Verdict::WrongAlgorithm);
        assert_eq!(verdict(&set, &RSA, None, Algorithm::Rs256), Verdict::UnknownKey { tried: false });
    }

    #[test]
    fn keys_that_share_a_kid_are_each_tried_but_only_a_few() {
        let two = set(&[RSA.named("a"), TestKey::p256().named("a"), OTHER_RSA.named("a"), RSA.named("a")]);
        assert_eq!(two.size(), 3, "a repeated key counts once");
        assert_eq!(verdict(&two, &RSA, Some("a"), Algorithm::Rs256), Verdict::Good);
        assert_eq!(verdict(&two, &OTHER_RSA, Some("a"), Algorithm::Rs256), Verdict::Good);
        let many: Vec<_> = (0..=MAX_TRIES).map(|_| TestKey::ed25519()).collect();
        let set = set(&many.iter().map(|key| key.named("a")).collect::<Vec<_>>());
        assert_eq!(verdict(&set, &many[MAX_TRIES - 1], Some("a"), Algorithm::EdDsa), Verdict::Good);
        assert_eq!(verdict(&set, &many[MAX_TRIES], Some("a"), Algorithm::EdDsa), Verdict::Bad);
    }

    #[test]
    fn without_a_kid_the_keys_are_tried_if_they_are_few() {
        let keys: Vec<_> = (0..=MAX_TRIES).map(|_| TestKey::ed25519()).collect();
        let names: Vec<_> = keys.iter().enumerate().map(|(at, key)| key.named(&at.to_string())).collect();
        let few = set(&names[..MAX_TRIES]);
        assert_eq!(verdict(&few, &keys[MAX_TRIES - 1], None, Algorithm::EdDsa), Verdict::Good);
        assert_eq!(verdict(&few, &keys[MAX_TRIES], None, Algorithm::EdDsa), Verdict::Bad);
        assert_eq!(
            verdict(&set(&names), &keys[0], None, Algorithm::EdDsa),
            Verdict::UnknownKey { tried: false }
        );
    }

    #[test]
    fn keys_without_a_name_serve_tokens_whose_kid_nobody_has() {
        let set = set(&[RSA.jwk(), OTHER_RSA.named("b")]);
        assert_eq!(verdict(&set, &RSA, Some("whatever"), Algorithm::Rs256), Verdict::Good);
        assert_eq!(verdict(&set, &RSA, Some("b"), Algorithm::Rs256), Verdict::Bad);
        assert_eq!(
            verdict(&set, &OTHER_RSA, Some("c"), Algorithm::Rs256),
            Verdict::UnknownKey { tried: true }
        );
    }

    #[test]
    fn pem_public_keys_are_read_and_private_ones_are_not() {
        let (p256, p384, ed25519) = (TestKey::p256(), TestKey::p384(), TestKey::ed25519());
        let text = format!("# comment\n{}{}{}{}", RSA.pem(), p256.pem(), p384.pem(), ed25519.pem());
        let set = KeySet::from_text(text.as_bytes()).unwrap();
        assert_eq!(set.size(), 4);
        for (key, algorithm) in [
            (&*RSA, Algorithm::Ps512),
            (&p256, Algorithm::Es256),
            (&p384, Algorithm::Es384),
            (&ed25519, Algorithm::EdDsa),
        ] {
            assert_eq!(verdict(&set, key, Some("any"), algorithm), Verdict::Good, "{algorithm}");
        }
        let private = RSA.pem().replace("PUBLIC", "PRIVATE");
        assert_eq!(
            KeySet::from_text(format!("{private}{}", p256.pem()).as_bytes()).unwrap().skipped(),
            [SkippedKey { kid: None, flaw: Flaw::Private }]
        );
        for nothing in
            ["", "hello", private.as_str(), "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n"]
        {
            assert!(
                matches!(
                    KeySet::from_text(nothing.as_bytes()),
                    Err(KeySetError::NotKeys | KeySetError::NoUsableKey(_))
                ),
                "{nothing}"
            );
        }
    }

    #[test]
    fn a_secret_serves_only_the_hashes_it_is_long_enough_for() {
        let tried = |bytes: usize, algorithm| {
            KeySet::from_secret(&vec![7; bytes]).verify(None, algorithm, MESSAGE, b"")
                != Verdict::UnknownKey { tried: false }
        };
        for (algorithm, shortest) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)]
        {
            assert!(tried(shortest, algorithm) && !tried(shortest - 1, algorithm), "{algorithm}");
        }
        assert!(!tried(64, Algorithm::Rs256));
    }

    #[test]
    fn sets_are_the_same_if_their_keys_are() {
        let (a, b) = (RSA.named("a"), OTHER_RSA.named("b"));
        let same = |left: &[Value], right: &[Value]| set(left).has_same_keys(&set(right));
        assert!(same(&[a.clone(), json!(1)], &[a.clone(), a.clone()]));
        let only_a = slice::from_ref(&a);
        assert!(!same(only_a, &[a.clone(), b]));
        assert!(!same(only_a, &[RSA.named("b")]));
        assert!(!same(only_a, &[OTHER_RSA.named("a")]));
        assert!(!same(only_a, &[with(a.clone(), "alg", json!("RS256"))]));
    }
}
