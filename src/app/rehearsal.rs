//! Puts a gateway together that is only tried: nothing is bound, written, resolved or asked.

use super::StartError;
use super::generation::Workshop;
use super::sessions::SessionsError;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::rehearsal::Rehearsal;
use crate::metrics::Metrics;
use crate::outbound::Client;
use crate::token::signer::Signer;
use std::sync::Arc;

/// The gateway of a configuration, to be tried. With `fetch`, issuers are asked for their keys; without, key sets
/// from the network are known as far as there is a copy on disk. Must be called inside a Tokio runtime.
///
/// # Errors
/// [`StartError`] if the configuration cannot be served.
pub fn rehearsal(config: &Config, fetch: bool) -> Result<Rehearsal, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::new()?;
    let signer = match &config.sessions {
        None => None,
        Some(own) => {
            let (issuer, audiences) = (own.issuer.clone(), own.audiences.clone());
            let signer =
                Signer::load_or_pretend(&own.signing_keys, issuer, audiences, own.lifetime, own.algorithm);
            Some(Arc::new(signer.map_err(SessionsError::from)?))
        }
    };
    let client = if fetch { Client::new()? } else { Client::offline() };
    let snapshot = Workshop::new(metrics.clone(), &clock, client, signer.as_ref()).build(config, None)?;
    // What is fetched here is no copy for a running gateway to start from.
    snapshot.verifier().key_sets().for_each(|keys| keys.retire());
    snapshot.upstreams().for_each(|upstream| upstream.pretend_resolved());
    let own = config.sessions.as_ref().map(|own| own.endpoints.clone());
    Ok(Rehearsal::new(Gateway::rehearsing(snapshot, own, metrics, clock), &config.server))
}
