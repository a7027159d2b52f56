//! One private key of ours: read from PKCS#8, made anew, signing, and shown to the world as a JWK.

use crate::clock::NoEntropy;
use crate::key_set::Algorithm;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Map, Value, json};
use std::fmt;
use zeroize::Zeroizing;

/// What our own tokens may be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256: small, fast to make, understood everywhere.
    #[default]
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for upstreams that know no other; about a millisecond for each token.
    Rs256,
}

impl SigningAlgorithm {
    /// Every algorithm.
    pub const ALL: &'static [Self] = &[Self::Es256, Self::EdDsa, Self::Rs256];

    /// The `alg` value.
    pub const fn as_str(self) -> &'static str {
        self.algorithm().as_str()
    }

    /// The same as an algorithm of tokens in general.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::Es256,
            Self::EdDsa => Algorithm::EdDsa,
            Self::Rs256 => Algorithm::Rs256,
        }
    }
}

impl SigningAlgorithm {
    /// Whether a signature takes a good part of a millisecond or more: too long for a thread that serves
    /// connections.
    pub(super) const fn is_slow(self) -> bool {
        matches!(self, Self::Rs256)
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a PEM text is not a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// No private key in it, or the PEM is damaged.
    #[error("there is no PEM private key in it")]
    NoKey,
    /// More than one private key in it.
    #[error("there is more than one private key in it; give each its own file")]
    SeveralKeys,
    /// A private key in another form than PKCS#8.
    #[error("the key is not in PKCS#8 form; convert it with `openssl pkcs8 -topk8 -nocrypt`")]
    NotPkcs8,
    /// Encrypted, damaged, or not P-256, Ed25519 or RSA of 2048 to 8192 bits.
    #[error("the key is damaged, encrypted, or not P-256, Ed25519 or RSA of 2048 to 8192 bits")]
    Unsupported,
}

/// A private key. It has no way out but `sign`.
pub struct SigningKey {
    pair: Pair,
    kid: String,
    jwk: Map<String, Value>,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl SigningKey {
    /// Reads the one PKCS#8 private key of a PEM text.
    ///
    /// # Errors
    /// [`SigningKeyError`] if there is not exactly one that can be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, SigningKeyError> {
        let mut found = None;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            match section {
                Ok((SectionKind::PrivateKey, der)) if found.is_none() => found = Some(Zeroizing::new(der)),
                Ok((SectionKind::PrivateKey, _)) => return Err(SigningKeyError::SeveralKeys),
                Ok((SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                    return Err(SigningKeyError::NotPkcs8);
                }
                Ok(_) => {}
                Err(_) => return Err(SigningKeyError::NoKey),
            }
        }
        Self::from_pkcs8(&found.ok_or(SigningKeyError::NoKey)?)
    }

    /// A new key and its PEM text, which whoever calls this must keep to itself.
    ///
    /// # Errors
    /// [`NoEntropy`] if no key can be made.
    pub fn generate(algorithm: SigningAlgorithm) -> Result<(Self, Zeroizing<String>), NoEntropy> {
        let pkcs8 = Zeroizing::new(
            match algorithm {
                SigningAlgorithm::Es256 => {
                    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
                    pair.and_then(|pair| pair.to_pkcs8v1()).map(|der| der.as_ref().to_vec())
                }
                SigningAlgorithm::EdDsa => Ed25519KeyPair::generate()
                    .and_then(|pair| pair.to_pkcs8v1())
                    .map(|der| der.as_ref().to_vec()),
                SigningAlgorithm::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048).and_then(|pair| {
                    let der: Pkcs8V1Der<'_> = pair.as_der()?;
                    Ok(der.as_ref().to_vec())
                }),
            }
            .map_err(|_| NoEntropy)?,
        );
        let key = Self::from_pkcs8(&pkcs8).map_err(|_| NoEntropy)?;
        Ok((key, pem(&pkcs8)))
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, SigningKeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(Pair::P256);
        // "Unchecked" speaks of the public key, which OpenSSL does not write beside an Ed25519 private key.
        let pair = pair.or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519));
        let pair = pair.or_else(|_| RsaKeyPair::from_pkcs8(der).map(Pair::Rsa));
        let pair = pair.map_err(|_| SigningKeyError::Unsupported)?;
        let members = pair.public_members().ok_or(SigningKeyError::Unsupported)?;
        // RFC 7638 section 3: the required members, sorted, without white space; a `Map` writes it just so.
        let kid =
            URL_SAFE_NO_PAD.encode(digest(&SHA256, Value::Object(members.clone()).to_string().as_bytes()));
        let mut jwk = members;
        jwk.insert("kid".into(), kid.as_str().into());
        jwk.insert("use".into(), "sig".into());
        jwk.insert("alg".into(), pair.algorithm().as_str().into());
        Ok(Self { pair, kid, jwk })
    }

    /// The key's name: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    pub fn algorithm(&self) -> SigningAlgorithm {
        self.pair.algorithm()
    }

    /// The public part, as an entry of a JWKS.
    pub(super) fn jwk(&self) -> &Map<String, Value> {
        &self.jwk
    }

    /// The signature over `message`, in the form of JWS (RFC 7518 section 3.4: `r` and `s`, not DER).
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::P256(pair) => Some(pair.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Some(pair.try_sign(message).ok()?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Pair {
    fn algorithm(&self) -> SigningAlgorithm {
        match self {
            Self::P256(_) => SigningAlgorithm::Es256,
            Self::Ed25519(_) => SigningAlgorithm::EdDsa,
            Self::Rsa(_) => SigningAlgorithm::Rs256,
        }
    }

    /// The members a JWK of this type must have. `None` if the key is not one we use.
    fn public_members(&self) -> Option<Map<String, Value>> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let members = match self {
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
                json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y) })
            }
            Self::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
            Self::Rsa(pair) => {
                let key = pair.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                if !(256..=1024).contains(&n.len()) {
                    return None;
                }
                json!({ "kty": "RSA", "n": text(n), "e": text(e) })
            }
        };
        members.as_object().cloned()
    }
}

/// RFC 7468 section 10.
fn pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(pkcs8));
    let mut pem = Zeroizing::new(String::with_capacity(body.len() + 100));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for (at, letter) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_read_back_as_the_same_key() {
        for algorithm in SigningAlgorithm::ALL {
            let (key, pem) = SigningKey::generate(*algorithm).unwrap();
            let read = SigningKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!((read.kid(), read.algorithm()), (key.kid(), *algorithm));
            assert!(pem.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        // RFC 8037 appendices A.1 to A.3.
        let seed = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        let pkcs8 = [
            b"\x30\x2e\x02\x01\0\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".as_slice(),
            &URL_SAFE_NO_PAD.decode(seed).unwrap(),
        ]
        .concat();
        let key = SigningKey::from_pkcs8(&pkcs8).unwrap();
        assert_eq!(key.jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        // RFC 8037 appendix A.4.
        let signature = key.sign(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc").unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(signature),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        );
    }

    #[test]
    fn what_is_not_one_usable_private_key_says_why() {
        let (_, good) = SigningKey::generate(SigningAlgorithm::EdDsa).unwrap();
        let error = |text: &str| SigningKey::from_pem(text.as_bytes()).unwrap_err();
        assert_eq!(error(""), SigningKeyError::NoKey);
        assert_eq!(error("hello"), SigningKeyError::NoKey);
        assert_eq!(error(&good.replace("END", "AND")), SigningKeyError::NoKey);
        assert_eq!(error(&format!("{}{}", *good, *good)), SigningKeyError::SeveralKeys);
        let section = |label: &str| format!("-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n");
        assert_eq!(error(&section("PUBLIC KEY")), SigningKeyError::NoKey);
        assert_eq!(error(&section("RSA PRIVATE KEY")), SigningKeyError::NotPkcs8);
        assert_eq!(error(&section("EC PRIVATE KEY")), SigningKeyError::NotPkcs8);
        assert_eq!(error(&section("PRIVATE KEY")), SigningKeyError::Unsupported);
        let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        assert_eq!(error(&pem(p384.to_pkcs8v1().unwrap().as_ref())), SigningKeyError::Unsupported);
    }

    #[test]
    fn the_published_part_shows_nothing_private_and_debug_shows_less() {
        for algorithm in SigningAlgorithm::ALL {
            let (key, _) = SigningKey::generate(*algorithm).unwrap();
            assert!(
                ["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|member| !key.jwk().contains_key(*member))
            );
            assert_eq!(format!("{key:?}"), format!("SigningKey {{ kid: {:?}, .. }}", key.kid()));
        }
    }
}
