//! One issuer: on what terms its tokens are accepted, and holding a token against them.

use super::claims::{GATEWAY_ISSUER, Kept, VerifiedClaims};
use super::jws::{Header, Jws, Kind};
use super::registered::{self, Claimed, Registered};
use crate::clock::Timestamp;
use crate::json::{self, ClaimPath};
use crate::key_set::cache::{Fetching, IssuerKeys, Refreshed, Snapshot};
use crate::key_set::{Algorithm, KeySet, KeySetSettings, Source, Verdict};
use crate::reason::Reason;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;

/// Which `typ` header values an issuer's access tokens may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenType {
    /// None, `JWT` or `at+jwt`, with or without `application/`, in any case.
    #[default]
    Any,
    /// Only `at+jwt` (RFC 9068 section 4).
    AtJwt,
}

/// One issuer beside ourselves, as configured.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// The configuration's name for it: what routes and metrics call it.
    pub name: String,
    /// The exact `iss`.
    pub issuer: String,
    /// The `aud` values meant for us, at least one; checked by the policy, where a route may ask for its own.
    pub audiences: Vec<String>,
    /// The `alg` values it may use.
    pub algorithms: Vec<Algorithm>,
    /// Its keys.
    pub keys: KeySetSettings,
    /// The clock difference forgiven in `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// The longest time from `iat` (from now, without one) to `exp`; `None`: however long.
    pub max_lifetime: Option<Duration>,
    /// The `typ` values it may use.
    pub token_type: TokenType,
    /// Where it keeps scopes: strings split at spaces, or arrays of strings.
    pub scopes: Vec<ClaimPath>,
    /// Where it keeps roles: one string, or arrays of strings.
    pub roles: Vec<ClaimPath>,
}

/// The issuer that is this gateway.
#[derive(Debug, Clone)]
pub struct OwnIssuer {
    /// Our `iss`.
    pub issuer: String,
    /// The `aud` we write.
    pub audiences: Vec<String>,
    /// How long after its `iat` a token is taken at most, whatever its `exp` says: the end of a session is known for
    /// no longer, and a token may come from before the lifetime was shortened.
    pub lifetime: Duration,
    /// The public part of our signing keys.
    pub keys: Arc<OwnKeys>,
}

/// The public part of our signing keys, which may be others one day.
#[derive(Debug)]
pub struct OwnKeys(ArcSwap<(u64, Arc<KeySet>)>);

impl OwnKeys {
    pub(super) fn new(keys: KeySet) -> Self {
        Self(ArcSwap::from_pointee((FIXED, Arc::new(keys))))
    }

    /// Tokens that were verified before are verified again, with these.
    pub(super) fn replace(&self, keys: KeySet) {
        let generation = self.0.load().0 + 1;
        self.0.store(Arc::new((generation, Arc::new(keys))));
    }

    pub(super) fn latest(&self) -> Arc<KeySet> {
        Arc::clone(&self.0.load().1)
    }
}

/// Why issuers as configured cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Two issuers have the same `iss`, or the same name: which keys would count?
    #[error("the issuers {0:?} and {1:?} have the same name or the same `iss`")]
    Repeated(String, String),
    /// An issuer without audiences would take tokens meant for anybody.
    #[error("the issuer {0:?} has no audience")]
    NoAudience(String),
    /// An issuer without algorithms can sign nothing.
    #[error("the issuer {0:?} has no algorithm")]
    NoAlgorithm(String),
    /// An HMAC without a secret, or a secret with a signature algorithm: the door to key confusion.
    #[error(
        "the issuer {0:?} cannot use {1} with these keys: HS* needs a shared secret, the others public keys"
    )]
    AlgorithmAndKeys(String, Algorithm),
    /// The secret is shorter than the hash (RFC 7518 section 3.2).
    #[error("the secret of the issuer {0:?} is too short for {1}: {2} bytes at least")]
    ShortSecret(String, Algorithm, usize),
}

#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: Arc<str>,
    pub(super) iss: String,
    audiences: Arc<[String]>,
    algorithms: Vec<Algorithm>,
    pub(super) keys: Keys,
    /// How long after `exp` a token is taken, and how long before `nbf` and `iat`.
    late: Duration,
    early: Duration,
    max_lifetime: Option<Duration>,
    /// After its `iat` no token is taken for longer; ours only.
    taken_for: Option<Duration>,
    token_type: TokenType,
    scopes: Vec<ClaimPath>,
    roles: Vec<ClaimPath>,
    pub(super) is_own: bool,
}

#[derive(Debug)]
pub(super) enum Keys {
    Fixed(Arc<KeySet>),
    Own(Arc<OwnKeys>),
    Fetched(Arc<IssuerKeys>),
}

/// A token that lacks only the check of its signature.
pub(super) struct Candidate<'a> {
    pub(super) jws: Jws<'a>,
    pub(super) registered: Registered,
    pub(super) issuer: usize,
}

/// Gateways' clocks differ a little: one takes what another has just issued.
const OWN_EARLY: Duration = Duration::from_secs(30);

/// Why a signature could not be found good.
pub(super) enum Unverified<'a> {
    Refused(Reason),
    /// There are no keys, or none of this name: a fetch may help.
    NoKey {
        keys: &'a Arc<IssuerKeys>,
        /// The snapshot that did not help.
        seen: Option<Arc<Snapshot>>,
        /// What was found by its keys; nothing if they may not be used any more.
        found: Option<Unjudged>,
    },
}

impl Issuer {
    pub(super) fn new(
        settings: IssuerSettings,
        fetching: &Fetching,
        previous: &[&Arc<IssuerKeys>],
    ) -> Result<Self, IssuerError> {
        let IssuerSettings {
            name,
            issuer: iss,
            audiences,
            algorithms,
            keys,
            leeway,
            max_lifetime,
            token_type,
            scopes,
            roles,
        } = settings;
        if audiences.is_empty() {
            return Err(IssuerError::NoAudience(name));
        }
        if algorithms.is_empty() {
            return Err(IssuerError::NoAlgorithm(name));
        }
        check_algorithms(&name, &algorithms, &keys.source)?;
        let name: Arc<str> = name.into();
        let keys = if let Source::Secret(secret) = &keys.source {
            Keys::Fixed(Arc::new(KeySet::from_secret(secret.expose())))
        } else {
            let before = previous.iter().find(|before| *before.name() == name);
            let fetching = fetching.clone();
            Keys::Fetched(IssuerKeys::new(
                Arc::clone(&name),
                iss.clone(),
                keys,
                fetching,
                before.map(|before| &***before),
            ))
        };
        Ok(Self {
            name,
            iss,
            audiences: audiences.into(),
            algorithms,
            keys,
            late: leeway,
            early: leeway,
            max_lifetime,
            taken_for: None,
            token_type,
            scopes,
            roles,
            is_own: false,
        })
    }

    pub(super) fn own(own: OwnIssuer) -> Self {
        let paths = |name| ClaimPath::parse(name).into_iter().collect();
        Self {
            name: GATEWAY_ISSUER.into(),
            iss: own.issuer,
            audiences: own.audiences.into(),
            algorithms: vec![Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256],
            keys: Keys::Own(own.keys),
            late: Duration::ZERO,
            early: OWN_EARLY,
            max_lifetime: None,
            taken_for: Some(own.lifetime),
            token_type: TokenType::AtJwt,
            scopes: paths("scope"),
            roles: paths("roles"),
            is_own: true,
        }
    }

    /// The generation of the keys in use; `None` if there are none.
    pub(super) fn generation(&self, now: Timestamp) -> Option<u64> {
        match &self.keys {
            Keys::Fixed(_) => Some(FIXED),
            Keys::Own(keys) => Some(keys.0.load().0),
            Keys::Fetched(keys) => keys.generation(now),
        }
    }

    /// Everything that can be checked without a key.
    pub(super) fn examine(
        &self,
        header: &Header,
        claimed: &Claimed<'_>,
        now: Timestamp,
    ) -> Result<Registered, Reason> {
        if !self.algorithms.contains(&header.algorithm) {
            return Err(Reason::UnsupportedAlgorithm);
        }
        match (header.kind, self.token_type) {
            (Kind::AccessToken, _) | (Kind::Unsaid | Kind::Jwt, TokenType::Any) => {}
            _ => return Err(Reason::WrongType),
        }
        let mut registered = claimed.read()?;
        if let Some(longest) = self.taken_for {
            registered.end_after(longest);
        }
        registered.check_times(now, self.late, self.early)?;
        if self.max_lifetime.is_some_and(|longest| registered.lifetime(now) > longest) {
            return Err(Reason::LifetimeTooLong);
        }
        Ok(registered)
    }

    /// Checks the signature with the keys at hand, and says by which generation of them it was found good.
    pub(super) fn check_signature(&self, jws: &Jws<'_>, now: Timestamp) -> Result<u64, Unverified<'_>> {
        let keys = match &self.keys {
            Keys::Fixed(keys) => {
                let judged = judge(keys, jws).map_err(|error| Unverified::Refused(error.reason()));
                return judged.map(|()| FIXED);
            }
            Keys::Own(keys) => {
                let keys = keys.0.load();
                let judged = judge(&keys.1, jws).map_err(|error| Unverified::Refused(error.reason()));
                return judged.map(|()| keys.0);
            }
            Keys::Fetched(keys) => keys,
        };
        let seen = keys.latest();
        let Some(snapshot) = seen.as_ref().filter(|snapshot| keys.is_usable(snapshot, now)) else {
            return Err(Unverified::NoKey { keys, seen, found: None });
        };
        match judge(&snapshot.keys, jws) {
            Ok(()) => Ok(snapshot.generation),
            Err(Unjudged::Refused(reason)) => Err(Unverified::Refused(reason)),
            Err(found) => Err(Unverified::NoKey { keys, seen, found: Some(found) }),
        }
    }

    /// Turns a candidate whose signature is good into claims. The only place where they are made. `number` is
    /// no other token's.
    pub(super) fn vouch(&self, candidate: Candidate<'_>, number: u64) -> Result<VerifiedClaims, Reason> {
        let Candidate { jws, registered, .. } = candidate;
        let claims = json::object(&jws.payload).map_err(|_| Reason::MalformedToken)?;
        let Registered { subject, audiences, expires, .. } = registered;
        let session = if self.is_own {
            let session = registered::session(&claims).filter(|_| !subject.is_empty());
            Some(session.ok_or(Reason::MalformedToken)?)
        } else {
            None
        };
        Ok(VerifiedClaims {
            issuer: Arc::clone(&self.name),
            expected_audiences: Arc::clone(&self.audiences),
            scopes: registered::collect(&claims, &self.scopes, true)?,
            roles: registered::collect(&claims, &self.roles, false)?,
            claims,
            subject,
            audiences,
            expires,
            good_until: expires.plus(self.late),
            session,
            number,
            kept: Kept::default(),
        })
    }
}

/// The generation of keys that never change.
const FIXED: u64 = 0;

/// Why a key set did not find a signature good.
#[derive(Debug)]
pub(super) enum Unjudged {
    Refused(Reason),
    UnknownKey { tried: bool },
}

impl Unjudged {
    /// What it comes to when no newer keys are to be had.
    fn reason(&self) -> Reason {
        match self {
            Self::Refused(reason) => *reason,
            Self::UnknownKey { tried: true } => Reason::BadSignature,
            Self::UnknownKey { tried: false } => Reason::UnknownKey,
        }
    }
}

fn judge(keys: &KeySet, jws: &Jws<'_>) -> Result<(), Unjudged> {
    let header = &jws.header;
    match keys.verify(header.kid.as_deref(), header.algorithm, jws.signed, &jws.signature) {
        Verdict::Good => Ok(()),
        Verdict::Bad => Err(Unjudged::Refused(Reason::BadSignature)),
        Verdict::WrongAlgorithm => Err(Unjudged::Refused(Reason::UnsupportedAlgorithm)),
        Verdict::UnknownKey { tried } => Err(Unjudged::UnknownKey { tried }),
    }
}

/// Waits for newer keys than those seen and checks the signature by them; what was found by those seen stands if
/// there are no others. When they cannot be had because the issuer is down, that is said: the token may well be good.
pub(super) async fn check_after_fetch(
    keys: &Arc<IssuerKeys>,
    seen: Option<Arc<Snapshot>>,
    found: Option<Unjudged>,
    jws: &Jws<'_>,
    now: Timestamp,
) -> Result<u64, Reason> {
    let refreshed = keys.refresh(seen.as_ref()).await;
    let latest = keys.latest();
    let snapshot = latest.filter(|latest| keys.is_usable(latest, now)).ok_or(Reason::KeysUnavailable)?;
    let unchanged = seen.is_some_and(|seen| seen.generation == snapshot.generation);
    // A signature costs hundreds of times what asking this does.
    let judged = match found {
        Some(found) if unchanged => Err(found),
        _ => judge(&snapshot.keys, jws),
    };
    match judged {
        Ok(()) => Ok(snapshot.generation),
        Err(Unjudged::UnknownKey { .. }) if refreshed == Refreshed::Failed => Err(Reason::KeysUnavailable),
        Err(other) => Err(other.reason()),
    }
}

/// HMAC needs a secret and nothing else does: were both allowed, a public key could serve as the secret.
fn check_algorithms(name: &str, algorithms: &[Algorithm], source: &Source) -> Result<(), IssuerError> {
    for algorithm in algorithms {
        match (algorithm.shortest_secret(), source) {
            (Some(shortest), Source::Secret(secret)) if secret.expose().len() < shortest => {
                return Err(IssuerError::ShortSecret(name.to_owned(), *algorithm, shortest));
            }
            (Some(_), Source::Secret(_))
            | (None, Source::Url(_) | Source::Discovery(_) | Source::File(_)) => {}
            _ => return Err(IssuerError::AlgorithmAndKeys(name.to_owned(), *algorithm)),
        }
    }
    Ok(())
}
