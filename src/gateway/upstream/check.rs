//! Active health checks: every target is asked again and again, over a connection of its own, as a request
//! would be: with the upstream's trust, server name and `Host`.

use super::super::engine;
use super::super::settings::{HealthCheck, UpstreamTimeouts};
use super::{Target, Upstream, authority};
use crate::clock::random_bytes;
use futures_util::future::join_all;
use http::{Method, Uri, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Upstream {
    /// Checks every target again and again, for as long as somebody else holds the upstream.
    pub async fn keep_checked(self: Arc<Self>) {
        let Some(check) = self.settings.health_check.clone() else { return };
        let connector = Connector::new(Some(engine::connector_options(&self.settings)));
        let upstream = Arc::downgrade(&self);
        drop(self);
        // Gateways that start together do not ask together.
        tokio::time::sleep(check.interval.mul_f64(chance() / 10.0)).await;
        while let Some(this) = upstream.upgrade() {
            let began = Instant::now();
            let targets = this.targets.load_full();
            join_all(targets.iter().map(|target| this.check(&connector, target, &check))).await;
            drop(this);
            let until_next = check.interval.mul_f64(0.9 + chance() / 5.0);
            tokio::time::sleep(until_next.saturating_sub(began.elapsed())).await;
        }
    }

    async fn check(&self, connector: &Connector, target: &Target, check: &HealthCheck) {
        let answer = tokio::time::timeout(check.timeout, self.ask(connector, target, check)).await;
        let verdict = match answer {
            Ok(Ok(200..=299)) => Ok(()),
            Ok(Ok(status)) => Err(format!("status {status}")),
            // Not the whole error: one about a header quotes it.
            Ok(Err(error)) => Err(error.etype().as_str().to_owned()),
            Err(_) => Err(format!("no answer within {:?}", check.timeout)),
        };
        let needed = if verdict.is_ok() { check.healthy } else { check.unhealthy };
        let (upstream, address) = (self.name(), target.address);
        match (target.health.checked(verdict.is_ok(), needed), verdict) {
            (Some(_), Ok(())) => tracing::info!(upstream, target = %address, "a target is healthy again"),
            (Some(_), Err(error)) => {
                tracing::warn!(upstream, target = %address, error, "a target is unhealthy and gets no requests");
            }
            (None, _) => {}
        }
    }

    /// The status a target answers a check with.
    async fn ask(&self, connector: &Connector, target: &Target, check: &HealthCheck) -> Result<u16> {
        let all = check.timeout;
        let peer = self
            .peer(target, &UpstreamTimeouts { connect: all, read: all, write: all, idle: Duration::ZERO });
        let (mut session, _) = connector.get_http_session(&peer).await?;
        let over_http2 = matches!(session, HttpSession::H2(_));
        let request = self.check_request(target, &peer, check, over_http2)?;
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
        session.set_read_timeout(Some(all));
        session.read_response_header().await?;
        let status = session.response_header().map(|response| response.status.as_u16());
        // What is not given back to the connector is closed: the next check shall see a new connection.
        session.shutdown().await;
        status.ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "no response header"))
    }

    fn check_request(
        &self,
        target: &Target,
        peer: &HttpPeer,
        check: &HealthCheck,
        over_http2: bool,
    ) -> Result<RequestHeader> {
        // No client whose `Host` could be kept.
        let own = || self.settings.endpoints.get(target.endpoint).map(authority);
        let host = self.host(target).or_else(own).unwrap_or_default();
        let mut request = RequestHeader::build(Method::GET, check.path.as_str().as_bytes(), None)?;
        request.insert_header(header::HOST, &host)?;
        request.insert_header(header::USER_AGENT, "portcullis-health-check")?;
        if over_http2 {
            let scheme = if peer.is_tls() { "https" } else { "http" };
            let uri =
                Uri::builder().scheme(scheme).authority(host).path_and_query(check.path.clone()).build();
            request.set_uri(uri.or_err(ErrorType::InternalError, "a health check's target")?);
            request.set_version(http::Version::HTTP_2);
        } else {
            request.insert_header(header::CONNECTION, "close")?;
        }
        Ok(request)
    }
}

/// Any number from 0 to 1; the middle without randomness.
fn chance() -> f64 {
    random_bytes().map_or(0.5, |bytes| f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}
