//! Which certificates an upstream's own must come from.

use super::super::settings::CaBundle;
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::sync::Arc;

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A certificate of the CA file is not one.
    #[error("upstreams.{upstream}.tls.ca_file: {path}: {what}")]
    Ca {
        /// The upstream's name.
        upstream: String,
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// Parses each certificate first: Pingora's own reader panics on one it cannot parse.
pub(super) fn certificates(upstream: &str, bundle: &CaBundle) -> Result<Arc<CaType>, UpstreamError> {
    let error = |what: String| UpstreamError::Ca {
        upstream: upstream.to_owned(),
        path: bundle.path.display().to_string(),
        what,
    };
    let mut parsed = Vec::new();
    for der in CertificateDer::pem_slice_iter(&bundle.pem) {
        let der = der.map_err(|e| error(e.to_string()))?;
        x509_parser::parse_x509_certificate(&der).map_err(|e| error(e.to_string()))?;
        parsed.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    if parsed.is_empty() {
        return Err(error("holds no certificate".to_owned()));
    }
    Ok(parsed.into())
}
