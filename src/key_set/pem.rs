//! Reading PEM public keys (RFC 7468 section 13).

use super::key::{Flaw, Key};
use aws_lc_rs::rsa;
use rustls::pki_types::pem::{PemObject as _, SectionKind};

/// Every key section of the text, read or not. Other sections (certificates) are passed over.
pub(super) fn parse(pem: &[u8]) -> Vec<Result<Key, Flaw>> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem);
    sections
        .filter_map(|section| match section {
            Ok((SectionKind::PublicKey, der)) => Some(public(&der)),
            Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                Some(Err(Flaw::Private))
            }
            Ok(_) => None,
            Err(_) => Some(Err(Flaw::Invalid)),
        })
        .collect()
}

/// A `SubjectPublicKeyInfo`: its algorithm decides which of the readers takes it.
fn public(der: &[u8]) -> Result<Key, Flaw> {
    if let Ok(key) = rsa::PublicKey::from_der(der) {
        return Key::rsa(
            key.modulus().big_endian_without_leading_zero(),
            key.exponent().big_endian_without_leading_zero(),
        );
    }
    Key::p256(der)
        .or_else(|_| Key::p384(der))
        .or_else(|_| Key::ed25519(der))
        .map_err(|_| Flaw::UnsupportedType)
}
