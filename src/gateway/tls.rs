//! TLS of client listeners: certificate and key read, matched and made into an acceptor.

use super::listener::ListenError;
use super::settings::TlsFiles;
use pingora_core::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Reads the files and builds an acceptor for TLS 1.2 and 1.3; with HTTP/2 by ALPN if `http2`.
///
/// # Errors
/// [`ListenError::Certificate`] says which file and what is wrong.
pub(super) fn acceptor(files: &TlsFiles, http2: bool) -> Result<Acceptor, ListenError> {
    server_config(files, http2).map(|config| Acceptor::from_server_config(Arc::new(config))).map_err(|what| {
        ListenError::Certificate {
            certificate: files.certificate.display().to_string(),
            private_key: files.private_key.display().to_string(),
            what,
        }
    })
}

fn server_config(files: &TlsFiles, http2: bool) -> Result<ServerConfig, String> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| format!("reading the certificate: {e}"))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.private_key).map_err(|e| format!("reading the key: {e}"))?;
    let provider = CryptoProvider::get_default().ok_or("no cryptography provider is installed")?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    config.alpn_protocols =
        if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(config)
}
