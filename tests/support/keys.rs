//! Signing keys made at run time, as an identity provider holds them.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Base64url without padding.
pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

/// A key and the `kid` it goes by.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) kid: String,
    pair: Arc<Pair>,
}

// RSA keys are slow to make: the n-th is made once per run and shared by the tests.
static RSA: Mutex<Vec<Arc<Pair>>> = Mutex::new(Vec::new());

impl Key {
    /// The `n`-th 2048-bit RSA key of this run.
    pub(crate) fn rsa(n: usize) -> Self {
        let mut keys = RSA.lock().unwrap();
        while keys.len() <= n {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
            keys.push(Arc::new(Pair::Rsa(pair)));
        }
        Self { kid: format!("rsa-{n}"), pair: Arc::clone(&keys[n]) }
    }

    pub(crate) fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        Self { kid: kid.into(), pair: Arc::new(Pair::P256(pair)) }
    }

    pub(crate) fn p384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a P-384 key");
        Self { kid: kid.into(), pair: Arc::new(Pair::P384(pair)) }
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().expect("an Ed25519 key");
        Self { kid: kid.into(), pair: Arc::new(Pair::Ed25519(pair)) }
    }

    pub(crate) fn secret(kid: &str, secret: &[u8]) -> Self {
        Self { kid: kid.into(), pair: Arc::new(Pair::Secret(secret.to_vec())) }
    }

    /// The same key under another name.
    pub(crate) fn named(&self, kid: &str) -> Self {
        Self { kid: kid.into(), pair: Arc::clone(&self.pair) }
    }

    /// The algorithm it signs with unless told otherwise.
    pub(crate) fn algorithm(&self) -> &'static str {
        match *self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
            Pair::Secret(_) => "HS256",
        }
    }

    /// The public key as a JWK (RFC 7517), with `use` and `alg` as providers publish them.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = self.bare_jwk();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        if !matches!(*self.pair, Pair::Rsa(_)) {
            jwk["alg"] = json!(self.algorithm());
        }
        jwk
    }

    fn bare_jwk(&self) -> Value {
        let curve = |name: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            json!({ "kty": "EC", "crv": name, "x": b64(x), "y": b64(y) })
        };
        match &*self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let n = b64(public.modulus().big_endian_without_leading_zero());
                let e = b64(public.exponent().big_endian_without_leading_zero());
                json!({ "kty": "RSA", "n": n, "e": e })
            }
            Pair::P256(pair) => curve("P-256", pair.public_key().as_ref()),
            Pair::P384(pair) => curve("P-384", pair.public_key().as_ref()),
            Pair::Ed25519(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key()) }),
            Pair::Secret(secret) => json!({ "kty": "oct", "k": b64(secret) }),
        }
    }

    /// The RFC 7638 thumbprint of a P-256 key.
    pub(crate) fn thumbprint(&self) -> String {
        let jwk = self.bare_jwk();
        let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        b64(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    /// The private key as a PKCS#8 PEM file.
    pub(crate) fn private_pem(&self) -> String {
        let der = match &*self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).expect("PKCS#8").as_ref().to_vec(),
            Pair::P256(pair) | Pair::P384(pair) => pair.to_pkcs8v1().expect("PKCS#8").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().expect("PKCS#8").as_ref().to_vec(),
            Pair::Secret(_) => panic!("a shared secret has no PEM form"),
        };
        pem("PRIVATE KEY", &der)
    }

    /// The public key as a PEM file (`SubjectPublicKeyInfo`).
    pub(crate) fn public_pem(&self) -> String {
        let der = match &*self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der().expect("SPKI").as_ref().to_vec(),
            Pair::P256(pair) | Pair::P384(pair) => {
                pair.public_key().as_der().expect("SPKI").as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.public_key().as_der().expect("SPKI").as_ref().to_vec(),
            Pair::Secret(_) => panic!("a shared secret has no public key"),
        };
        pem("PUBLIC KEY", &der)
    }

    /// Signs as `algorithm` says; an unknown one signs as the key's own.
    pub(crate) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &*self.pair {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).expect("an RSA signature");
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => {
                pair.sign(&random, message).expect("an ECDSA signature").as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Secret(secret) => {
                let hash = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
