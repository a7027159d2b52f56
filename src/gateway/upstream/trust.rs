//! TLS towards an upstream: whom it must prove to be, and who the gateway says it is.

use super::super::settings::{CaBundle, ClientIdentity, UpstreamTls};
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
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
    /// The gateway's own certificate cannot be used.
    #[error("upstreams.{upstream}.tls.client_certificate: {path}: {what}")]
    Identity {
        /// The upstream's name.
        upstream: String,
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// The settings of `tls` in Pingora's terms.
pub(super) struct Trust {
    pub(super) ca: Option<Arc<CaType>>,
    pub(super) identity: Option<Arc<CertKey>>,
    /// Keeps connections apart that were verified against other roots or opened as somebody else: Pingora's pool
    /// key leaves the roots out, and of certificates it takes the serial number.
    pub(super) group: u64,
}

impl Trust {
    pub(super) fn new(upstream: &str, tls: Option<&UpstreamTls>) -> Result<Self, UpstreamError> {
        let bundle = tls.and_then(|tls| tls.ca.as_ref());
        let own = tls.and_then(|tls| tls.identity.as_ref());
        let mut group = DefaultHasher::new();
        bundle.map(|bundle| &bundle.pem).hash(&mut group);
        own.map(|own| (&own.chain, own.key.expose())).hash(&mut group);
        Ok(Self {
            ca: bundle.map(|bundle| certificates(upstream, bundle)).transpose()?,
            identity: own.map(|own| identity(upstream, own)).transpose()?,
            group: group.finish(),
        })
    }
}

/// Looks at everything first: Pingora panics on what it cannot parse.
fn identity(upstream: &str, own: &ClientIdentity) -> Result<Arc<CertKey>, UpstreamError> {
    let error = |what: String| UpstreamError::Identity {
        upstream: upstream.to_owned(),
        path: own.path.display().to_string(),
        what,
    };
    for der in &own.chain {
        x509_parser::parse_x509_certificate(der).map_err(|e| error(e.to_string()))?;
    }
    if own.chain.first().is_none_or(Vec::is_empty) {
        return Err(error("holds no certificate".to_owned()));
    }
    PrivateKeyDer::try_from(own.key.expose().as_slice())
        .map_err(|_| error("its private key is of no known form".to_owned()))?;
    Ok(Arc::new(CertKey::new(own.chain.clone(), own.key.expose().clone())))
}

/// Parses each certificate first: Pingora's own reader panics on one it cannot parse.
fn certificates(upstream: &str, bundle: &CaBundle) -> Result<Arc<CaType>, UpstreamError> {
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
