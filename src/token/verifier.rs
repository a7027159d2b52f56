//! Deciding whether a token is good: whose it is, whether it is of the right kind and time, and whether
//! its signature is by a key of that issuer. Cheap checks come first, the signature last.

use super::claims::VerifiedClaims;
use super::issuer::{Candidate, Issuer, Keys, Unverified, check_after_fetch};
pub use super::issuer::{IssuerError, IssuerSettings, OwnIssuer, TokenType};
use super::verified_cache::{Entry, VerifiedCache};
use super::{jws, registered};
use crate::clock::Timestamp;
use crate::key_set::cache::{Fetching, IssuerKeys};
use crate::reason::Reason;
use std::sync::Arc;

/// A refused token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token refused: {reason}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The configuration's name of the issuer, if it is one we know; for metric labels.
    pub issuer: Option<Arc<str>>,
}

/// Verifies access tokens of the configured issuers. One belongs to one configuration.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
    cache: Arc<VerifiedCache>,
    number: u64,
}

impl Verifier {
    /// A verifier for these issuers. Keys that `previous` has already fetched from the same place serve on.
    ///
    /// # Errors
    /// [`IssuerError`] if issuers could be confused, or an issuer's algorithms and keys do not fit.
    pub fn new(
        issuers: Vec<IssuerSettings>,
        own: Option<OwnIssuer>,
        fetching: &Fetching,
        cache: Arc<VerifiedCache>,
        previous: Option<&Self>,
    ) -> Result<Self, IssuerError> {
        let fetched: Vec<_> = previous.into_iter().flat_map(Self::key_sets).collect();
        let mut built: Vec<Issuer> = own.map(Issuer::own).into_iter().collect();
        for settings in issuers {
            let issuer = Issuer::new(settings, fetching, &fetched)?;
            if let Some(other) =
                built.iter().find(|other| other.name == issuer.name || other.iss == issuer.iss)
            {
                return Err(IssuerError::Repeated(other.name.to_string(), issuer.name.to_string()));
            }
            built.push(issuer);
        }
        let number = cache.register();
        Ok(Self { issuers: built, cache, number })
    }

    /// A verifier of our own tokens alone: what the session endpoints need.
    pub fn own_only(own: OwnIssuer, cache: Arc<VerifiedCache>) -> Self {
        let number = cache.register();
        Self { issuers: vec![Issuer::own(own)], cache, number }
    }

    /// The key sets to keep fresh, to report on, and to be ready with.
    pub fn key_sets(&self) -> impl Iterator<Item = &Arc<IssuerKeys>> {
        self.issuers.iter().filter_map(|issuer| match &issuer.keys {
            Keys::Fixed(_) => None,
            Keys::Fetched(keys) => Some(keys),
        })
    }

    /// Verifies a token of any issuer. Waits only where keys are missing: for one shared fetch.
    ///
    /// # Errors
    /// [`Refusal`] with the first thing found wrong; `keys_unavailable` is the issuer's outage, not the token's fault.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<VerifiedClaims>, Refusal> {
        self.verify_from(token, now, false).await
    }

    /// Verifies a token that must be one of our own.
    ///
    /// # Errors
    /// [`Refusal`]; a good token of another issuer is refused as `unknown_issuer`.
    pub async fn verify_own(&self, token: &str, now: Timestamp) -> Result<Arc<VerifiedClaims>, Refusal> {
        self.verify_from(token, now, true).await
    }

    async fn verify_from(
        &self,
        token: &str,
        now: Timestamp,
        only_own: bool,
    ) -> Result<Arc<VerifiedClaims>, Refusal> {
        let key = VerifiedCache::key(token);
        if let Some(claims) = self.cache.get(&key, |entry| self.is_good(entry, now, only_own)) {
            return Ok(claims);
        }
        let candidate = self.examine(token, now, only_own)?;
        let Some(issuer) = self.issuers.get(candidate.issuer) else {
            return Err(refuse(Reason::Internal, None));
        };
        let generation = match issuer.check_signature(&candidate.jws, now) {
            Ok(generation) => generation,
            Err(Unverified::Refused(reason)) => return Err(refuse(reason, Some(issuer))),
            // Boxed, so that what nearly no request does makes no request's future larger.
            Err(Unverified::NoKey { keys, seen }) => {
                let checked = Box::pin(check_after_fetch(keys, seen, &candidate.jws, now)).await;
                checked.map_err(|reason| refuse(reason, Some(issuer)))?
            }
        };
        let index = candidate.issuer;
        let claims = issuer.vouch(candidate).map_err(|reason| refuse(reason, Some(issuer)))?;
        let claims = Arc::new(claims);
        let entry = Entry {
            claims: Arc::clone(&claims),
            verifier: self.number,
            issuer: index,
            generation,
            token_bytes: token.len(),
        };
        self.cache.insert(key, entry);
        Ok(claims)
    }

    /// Whether a token verified before is still good: same configuration, same keys, not expired.
    fn is_good(&self, entry: &Entry, now: Timestamp, only_own: bool) -> bool {
        let Some(issuer) = self.issuers.get(entry.issuer).filter(|_| entry.verifier == self.number) else {
            return false;
        };
        (issuer.is_own || !only_own)
            && issuer.generation(now) == Some(entry.generation)
            && !issuer.is_past(entry.claims.expires, now)
    }

    /// Everything that can be checked without a key.
    fn examine<'a>(&self, token: &'a str, now: Timestamp, only_own: bool) -> Result<Candidate<'a>, Refusal> {
        let unknown = |reason| refuse(reason, None);
        let jws = jws::parse(token).map_err(unknown)?;
        let iss = registered::issuer(&jws.claims).map_err(unknown)?;
        let mut issuers = self.issuers.iter().enumerate();
        let (index, issuer) = issuers
            .find(|(_, issuer)| issuer.iss == iss && (issuer.is_own || !only_own))
            .ok_or_else(|| unknown(Reason::UnknownIssuer))?;
        let registered = issuer.examine(&jws, now).map_err(|reason| refuse(reason, Some(issuer)))?;
        Ok(Candidate { jws, registered, issuer: index })
    }
}

fn refuse(reason: Reason, issuer: Option<&Issuer>) -> Refusal {
    Refusal { reason, issuer: issuer.map(|issuer| Arc::clone(&issuer.name)) }
}
