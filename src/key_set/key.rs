//! One key, parsed and ready to verify.

use super::Algorithm;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, VerificationAlgorithm};

/// Why a key is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The entry is not a JSON object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// A member is absent.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A member has the wrong JSON type.
    #[error("its `{0}` has the wrong type")]
    WrongType(&'static str),
    /// A member is not canonical base64url without padding (RFC 7515 section 2).
    #[error("its `{0}` is not base64url")]
    Encoding(&'static str),
    /// `kty` is not `RSA`, `EC` or `OKP`.
    #[error("its key type is not supported")]
    UnsupportedType,
    /// A shared secret in a set that anyone can read.
    #[error("it is a shared secret in a public set")]
    SharedSecret,
    /// It has a private part: whoever published it lost it.
    #[error("it shows a private key")]
    Private,
    /// `use` is not `sig`.
    #[error("its `use` is not `sig`")]
    NotForSignatures,
    /// `key_ops` lacks `verify`.
    #[error("its `key_ops` lack `verify`")]
    NotForVerification,
    /// `alg` is unknown, or not one for this type of key (RFC 8725 section 3.1).
    #[error("its `alg` does not fit the key")]
    AlgorithmMismatch,
    /// The modulus has fewer than 2048 or more than 8192 bits.
    #[error("its modulus has {0} bits, not 2048 to 8192")]
    ModulusSize(usize),
    /// The modulus shows how it was made, and whoever sees it can factor it (CVE-2017-15361).
    #[error("its modulus was made by a faulty generator and can be factored (ROCA)")]
    Roca,
    /// The public exponent is even or less than 3.
    #[error("its public exponent is even or less than 3")]
    Exponent,
    /// The curve is not P-256, P-384 or Ed25519.
    #[error("its curve is not supported")]
    UnsupportedCurve,
    /// The point is not on the curve, a coordinate has the wrong length, or the numbers form no key.
    #[error("it is not a valid key")]
    Invalid,
}

/// A key with what is needed to check a signature by it, for each algorithm it may be used with.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    /// What makes the key this key: two with the same material are the same key.
    material: Vec<u8>,
    checks: Vec<(Algorithm, Check)>,
}

#[derive(Debug)]
enum Check {
    Public(ParsedPublicKey),
    Mac(Box<hmac::Key>),
}

impl Key {
    /// An RSA key from its big-endian numbers. Leading zeros, which some issuers send, are dropped.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, Flaw> {
        let (n, e) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(Flaw::ModulusSize(bits));
        }
        if is_roca(n) {
            return Err(Flaw::Roca);
        }
        let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
        if e == [1] || !odd(e) {
            return Err(Flaw::Exponent);
        }
        let components = PublicKeyComponents { n, e };
        // The detour through DER makes the library check the key; from bare components it would not.
        let der: PublicKeyX509Der<'_> = components.as_der().map_err(|_| Flaw::Invalid)?;
        Self::public(
            der.as_ref(),
            &[
                (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
                (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
                (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
                (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
                (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
                (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
            ],
        )
    }

    /// A P-256 key from an uncompressed point or a `SubjectPublicKeyInfo`.
    pub(super) fn p256(point: &[u8]) -> Result<Self, Flaw> {
        let algorithm: &'static EcdsaVerificationAlgorithm = &signature::ECDSA_P256_SHA256_FIXED;
        Self::public(point, &[(Algorithm::Es256, algorithm)])
    }

    /// A P-384 key from an uncompressed point or a `SubjectPublicKeyInfo`.
    pub(super) fn p384(point: &[u8]) -> Result<Self, Flaw> {
        let algorithm: &'static EcdsaVerificationAlgorithm = &signature::ECDSA_P384_SHA384_FIXED;
        Self::public(point, &[(Algorithm::Es384, algorithm)])
    }

    /// An Ed25519 key from its 32 bytes or a `SubjectPublicKeyInfo`.
    pub(super) fn ed25519(bytes: &[u8]) -> Result<Self, Flaw> {
        Self::public(bytes, &[(Algorithm::EdDsa, &signature::ED25519)])
    }

    /// A shared secret, for the algorithms it is long enough for.
    pub(super) fn secret(secret: &[u8]) -> Self {
        let algorithms = [
            (Algorithm::Hs256, hmac::HMAC_SHA256),
            (Algorithm::Hs384, hmac::HMAC_SHA384),
            (Algorithm::Hs512, hmac::HMAC_SHA512),
        ];
        let long_enough = |algorithm: Algorithm| algorithm.shortest_secret() <= Some(secret.len());
        let checks = algorithms.into_iter().filter(|(algorithm, _)| long_enough(*algorithm));
        let checks =
            checks.map(|(algorithm, mac)| (algorithm, Check::Mac(Box::new(hmac::Key::new(mac, secret)))));
        Self { kid: None, material: Vec::new(), checks: checks.collect() }
    }

    fn public(bytes: &[u8], with: &[(Algorithm, &'static dyn VerificationAlgorithm)]) -> Result<Self, Flaw> {
        let mut checks = Vec::with_capacity(with.len());
        for (algorithm, verification) in with {
            let key = ParsedPublicKey::new(*verification, bytes).map_err(|_| Flaw::Invalid)?;
            checks.push((*algorithm, Check::Public(key)));
        }
        Ok(Self { kid: None, material: bytes.to_vec(), checks })
    }

    /// The same key for this algorithm alone.
    pub(super) fn only_for(mut self, algorithm: Algorithm) -> Result<Self, Flaw> {
        self.checks.retain(|(fits, _)| *fits == algorithm);
        if self.checks.is_empty() { Err(Flaw::AlgorithmMismatch) } else { Ok(self) }
    }

    /// The same key under a name.
    pub(super) fn named(self, kid: Option<String>) -> Self {
        Self { kid, ..self }
    }

    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.checks.iter().any(|(fits, _)| *fits == algorithm)
    }

    /// Whether `signature` is this key's over `message`; false too if the key is not for `algorithm`.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.checks.iter().find(|(fits, _)| *fits == algorithm).is_some_and(|(_, check)| match check {
            Check::Public(key) => key.verify_sig(message, signature).is_ok(),
            Check::Mac(key) => hmac::verify(key, message, signature).is_ok(),
        })
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let algorithms = |key: &Self| key.checks.iter().map(|(algorithm, _)| *algorithm).collect::<Vec<_>>();
        self.kid == other.kid && self.material == other.material && algorithms(self) == algorithms(other)
    }
}

/// The odd primes that every modulus of the faulty generator was made with, up to 167.
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether the modulus is a power of 65537 modulo each of the primes, as all of the faulty generator's are. Of
/// others one in 200 million is.
fn is_roca(modulus: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut powers = std::iter::successors(Some(1), |power| Some(power * 65537 % prime));
        powers.by_ref().take(*prime as usize).any(|power| power == rest)
    })
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
