//! One request over HTTP/2, through an ordinary client library.

use super::tls::Authority;
use reqwest::{Certificate, Client, Version};
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Over cleartext with prior knowledge, or over TLS by ALPN if an authority is given.
pub(crate) fn fetch(url: &str, headers: &[(&str, &str)], authority: Option<&Authority>) -> Answer {
    // The client library takes the process-wide provider; a second installation is refused and harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = Client::builder().timeout(Duration::from_secs(15)).no_proxy();
    let builder = match authority {
        None => builder.http2_prior_knowledge().tls_certs_only([]),
        Some(authority) => builder
            .tls_certs_only([Certificate::from_pem(authority.pem().as_bytes()).expect("a certificate")]),
    };
    let client = builder.build().expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut request = client.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let (version, status) = (response.version(), response.status().as_u16());
        Answer { version, status, body: response.text().await.expect("a body") }
    })
}

/// The status of a `HEAD` over cleartext with prior knowledge; panics if the answer is not whole.
pub(crate) fn head(url: &str) -> u16 {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::builder()
        .timeout(Duration::from_secs(15))
        .no_proxy()
        .http2_prior_knowledge()
        .tls_certs_only([])
        .build()
        .expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let response = client.head(url).send().await.expect("an answer");
        let status = response.status().as_u16();
        assert_eq!(response.bytes().await.expect("the end of the answer").len(), 0);
        status
    })
}
