//! Secrets in files: certificates and private keys as PEM, readable, well formed and fitting each other; URLs.

use super::reader::Value;
use super::secrets;
use crate::secret::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;

const MAX_BYTES: u64 = 1024 * 1024;

/// The certificates of a PEM file, and the file as it is.
pub(super) struct Chain {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) pem: Vec<u8>,
}

/// Reads the file that `value` names; a failure is reported there.
pub(super) fn read(value: &Value<'_>, file: &Path, limit: u64) -> Option<Vec<u8>> {
    value.scope.report.reads(file);
    match secrets::read_file(file, limit) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let what = format!("cannot read {}: {}", file.display(), secrets::why(&error));
            value.error(what, "give the path of a readable file, relative to this configuration");
            None
        }
    }
}

/// The one line of the file that `value` names, such as a URL with a password.
pub(super) fn secret_line(value: &Value<'_>) -> Option<Secret<String>> {
    let bytes = read(value, &value.file()?, 4096)?;
    let text = Secret::new(String::from_utf8(bytes).unwrap_or_default());
    Some(Secret::new(text.expose().trim_end_matches(['\r', '\n']).to_owned()))
}

pub(super) fn certificates(value: &Value<'_>, file: &Path) -> Option<Chain> {
    let pem = read(value, file, MAX_BYTES)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Some(Chain { certificates, pem }),
        _ => {
            let what = format!("{} holds no well-formed certificate", file.display());
            value.error(what, "give a PEM file with -----BEGIN CERTIFICATE-----");
            None
        }
    }
}

pub(super) fn private_key(value: &Value<'_>, file: &Path) -> Option<PrivateKeyDer<'static>> {
    let pem = zeroize::Zeroizing::new(read(value, file, MAX_BYTES)?);
    let key = PrivateKeyDer::from_pem_slice(&pem).ok();
    if key.is_none() {
        let what = format!("{} holds no well-formed private key", file.display());
        value.error(what, "give a PEM file with -----BEGIN PRIVATE KEY-----, not encrypted");
    }
    key
}

/// Reports at `value`, which names the key's file, if the key is unusable or not the certificate's.
pub(super) fn check_pair(
    value: &Value<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Err(error) = CertifiedKey::from_der(chain, key, &provider) {
        let mend =
            "give the key the certificate was made for: RSA of 2048 bits or more, P-256, P-384 or Ed25519";
        value.error(format!("the certificate and the private key do not go together ({error})"), mend);
    }
}
