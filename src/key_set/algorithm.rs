//! The signature algorithms we know (RFC 7518 section 3.1, RFC 8037), and nothing else: `none` is not one.

use std::fmt;

macro_rules! algorithms {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// A JWS signature algorithm.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Algorithm { $($(#[$doc])* $variant,)+ }

        impl Algorithm {
            /// Every algorithm, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The `alg` value, case-sensitive (RFC 7515 section 4.1.1); `None` for any other text.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }

            /// The `alg` value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

algorithms! {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256 => "RS256",
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384 => "RS384",
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512 => "RS512",
    /// RSASSA-PSS with SHA-256.
    Ps256 => "PS256",
    /// RSASSA-PSS with SHA-384.
    Ps384 => "PS384",
    /// RSASSA-PSS with SHA-512.
    Ps512 => "PS512",
    /// HMAC with SHA-256.
    Hs256 => "HS256",
    /// HMAC with SHA-384.
    Hs384 => "HS384",
    /// HMAC with SHA-512.
    Hs512 => "HS512",
    /// ECDSA on P-256 with SHA-256.
    Es256 => "ES256",
    /// ECDSA on P-384 with SHA-384.
    Es384 => "ES384",
    /// Ed25519 (RFC 8037 section 3.1).
    EdDsa => "EdDSA",
}

impl Algorithm {
    /// What an issuer may use unless the configuration says otherwise.
    pub const DEFAULT: &'static [Self] = &[Self::Rs256, Self::Ps256, Self::Es256, Self::EdDsa];

    /// For an HMAC, the shortest secret in bytes (RFC 7518 section 3.2); `None` for a signature by a key pair.
    pub const fn shortest_secret(self) -> Option<usize> {
        match self {
            Self::Hs256 => Some(32),
            Self::Hs384 => Some(48),
            Self::Hs512 => Some(64),
            _ => None,
        }
    }

    /// Whether the key is a shared secret.
    pub const fn is_hmac(self) -> bool {
        self.shortest_secret().is_some()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_round_trip_and_are_exact() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.as_str()), Some(*algorithm));
        }
        for other in ["none", "None", "", "rs256", "RS256 ", "ES512", "ES256K", "Ed448", "HS1", "RS1"] {
            assert_eq!(Algorithm::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn no_shared_secret_is_allowed_by_default() {
        assert!(Algorithm::DEFAULT.iter().all(|algorithm| !algorithm.is_hmac()));
    }
}
