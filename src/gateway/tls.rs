//! TLS of client listeners: certificates and keys read and matched, chosen by the name a client asks for,
//! and replaced without dropping a connection.

use super::listener::ListenError;
use super::settings::TlsFiles;
use arc_swap::ArcSwap;
use pingora_core::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// The certificates of one listener as they are now. Handshakes under way keep what they began with.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Vec<Arc<CertifiedKey>>>);

impl Certificates {
    /// Reads the files; there is at least one certificate.
    ///
    /// # Errors
    /// [`ListenError::Certificate`] says which file and what is wrong.
    pub fn read(files: &[TlsFiles]) -> Result<Self, ListenError> {
        certified_keys(files).map(|keys| Self(ArcSwap::from_pointee(keys)))
    }

    /// Reads the files and replaces all certificates, or none.
    ///
    /// # Errors
    /// [`ListenError::Certificate`] says which file and what is wrong; the old certificates stay.
    pub fn replace(&self, files: &[TlsFiles]) -> Result<(), ListenError> {
        Self::read(files).map(|read| self.take_over(read))
    }

    /// Replaces all certificates by those of `read`.
    pub fn take_over(&self, read: Self) {
        self.0.store(read.0.into_inner());
    }
}

impl ResolvesServerCert for Certificates {
    /// The first certificate that is valid for the name asked for (RFC 6066 section 3), else the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.load();
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = asked.filter(|_| keys.len() > 1).and_then(|name| {
            keys.iter().find(|key| {
                let leaf = key.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
                leaf.is_some_and(|leaf| verify_server_name(&leaf, &name).is_ok())
            })
        });
        named.or(keys.first()).cloned()
    }
}

/// An acceptor for TLS 1.2 and 1.3 with these certificates; with HTTP/2 by ALPN if `http2`.
pub(super) fn acceptor(certificates: Arc<Certificates>, http2: bool) -> Result<Acceptor, ListenError> {
    let mut config = ServerConfig::builder_with_provider(provider()?)
        .with_safe_default_protocol_versions()
        .map_err(|error| ListenError::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols =
        if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

fn provider() -> Result<Arc<CryptoProvider>, ListenError> {
    let provider = CryptoProvider::get_default();
    provider.cloned().ok_or_else(|| ListenError::Tls("no cryptography provider is installed".to_owned()))
}

fn certified_keys(files: &[TlsFiles]) -> Result<Vec<Arc<CertifiedKey>>, ListenError> {
    let provider = provider()?;
    let read = |files: &TlsFiles| {
        certified_key(files, &provider).map(Arc::new).map_err(|what| ListenError::Certificate {
            certificate: files.certificate.display().to_string(),
            private_key: files.private_key.display().to_string(),
            what,
        })
    };
    files.iter().map(read).collect()
}

fn certified_key(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| format!("reading the certificate: {e}"))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.private_key).map_err(|e| format!("reading the key: {e}"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|e| e.to_string())
}
