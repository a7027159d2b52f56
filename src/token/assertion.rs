//! Assertions: what an upstream may check, with the keys we publish, about who calls. Each is a short-lived
//! JWS of ours for one upstream, made from verified claims and kept until half its life is over.

use super::claims::VerifiedClaims;
use super::signer::{Signer, SignerError, whole_seconds};
use crate::clock::Timestamp;
use crate::panics::{Place, contain_blocking};
use http::HeaderValue;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use serde_json::{Map, Value, json};
use std::fmt;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

/// The `typ` of assertions. No verifier of access tokens takes it for `at+jwt` or `JWT`, ours neither
/// (RFC 8725 section 3.11).
const TYPE: &str = "assertion+jwt";

/// What one entry costs beside the assertion's text, and a usual one with it.
const ENTRY_BYTES: u64 = 300;
const USUAL_BYTES: u64 = 1024;

/// Whom an assertion is for, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Addressee {
    /// The `aud`: the upstream's name in the configuration.
    pub audience: Arc<str>,
    /// How long it lives, unless the client's token ends before.
    pub lifetime: Duration,
}

/// Why there is no assertion.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    /// A scope with a space in it would be two scopes to whoever reads it.
    #[error("a scope has a space in it")]
    AmbiguousScope,
    /// It cannot be signed.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The thread that signed it is gone.
    #[error("the signing was given up")]
    GivenUp,
}

/// Makes assertions and remembers them. It belongs to one configuration: what claims mean may change with it.
pub struct Assertions {
    minting: Arc<Minting>,
    minted: Cache<Key, Entry, Weight, RandomState>,
    max_bytes: u64,
}

struct Minting {
    signer: Arc<Signer>,
}

/// The number of the verified token, and whom the assertion is for.
type Key = (u64, Addressee);

#[derive(Clone)]
struct Entry {
    value: HeaderValue,
    /// From when on another one is made.
    renewed: Timestamp,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.value.len() as u64 + ENTRY_BYTES
    }
}

impl Assertions {
    /// Assertions signed by `signer`, of which about `max_bytes` bytes are kept.
    pub fn new(signer: Arc<Signer>, max_bytes: u64) -> Self {
        let usual = usize::try_from(max_bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        Self {
            minted: Cache::with(usual, max_bytes, Weight, RandomState::new(), DefaultLifecycle::default()),
            max_bytes,
            minting: Arc::new(Minting { signer }),
        }
    }

    /// For a new configuration: signed alike, and none kept of those that the old one made.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(Arc::clone(&self.minting.signer), self.max_bytes)
    }

    /// The assertion about these claims, if one is at hand. Does not wait.
    pub fn at_hand(&self, claims: &VerifiedClaims, to: &Addressee, now: Timestamp) -> Option<HeaderValue> {
        self.find(&(claims.number, to.clone()), now)
    }

    fn find(&self, key: &Key, now: Timestamp) -> Option<HeaderValue> {
        self.minted.get(key).filter(|entry| now < entry.renewed).map(|entry| entry.value)
    }

    /// Makes an assertion about these claims. Slow signatures are made on threads of their own, a few at a
    /// time, so that no connection waits but those that need one.
    ///
    /// # Errors
    /// [`AssertionError`] if the claims cannot be said, or not signed.
    pub async fn mint(
        &self,
        claims: &Arc<VerifiedClaims>,
        to: &Addressee,
        now: Timestamp,
    ) -> Result<HeaderValue, AssertionError> {
        let key = (claims.number, to.clone());
        let entry = match self.minting.signer.turns() {
            None => self.minting.mint(claims, to, now)?,
            Some(turns) => {
                let _turn = turns.acquire().await.map_err(|_| AssertionError::GivenUp)?;
                // Whoever had the turn before may have made just this one.
                if let Some(value) = self.find(&key, now) {
                    return Ok(value);
                }
                let (minting, claims, to) = (Arc::clone(&self.minting), Arc::clone(claims), to.clone());
                let signing = contain_blocking(Place::Signatures, move || minting.mint(&claims, &to, now));
                signing.await.map_err(|_| AssertionError::GivenUp)??
            }
        };
        let value = entry.value.clone();
        self.minted.insert(key, entry);
        Ok(value)
    }
}

impl Minting {
    fn mint(&self, claims: &VerifiedClaims, to: &Addressee, now: Timestamp) -> Result<Entry, AssertionError> {
        let issued = now.as_secs();
        let full = issued.saturating_add(whole_seconds(to.lifetime));
        let expires = full.min(claims.expires.as_secs());
        let claims_text = serde_json::to_vec(&self.claims(claims, to, issued, expires)?).ok();
        let token = self.signer.sign(TYPE, claims_text, now)?;
        let mut value = HeaderValue::try_from(token).map_err(|_| AssertionError::GivenUp)?;
        value.set_sensitive(true);
        // One that ends with the client's token cannot be followed by one that lives longer.
        let left = Timestamp::from_secs(expires).since(now);
        let renewed = if expires < full { Timestamp::MAX } else { now.plus(left / 2) };
        Ok(Entry { value, renewed })
    }

    /// The closed list of what an assertion says. No `jti`: one assertion serves many requests, and an
    /// upstream that took each only once would refuse honest ones.
    fn claims(
        &self,
        claims: &VerifiedClaims,
        to: &Addressee,
        issued: u64,
        expires: u64,
    ) -> Result<Map<String, Value>, AssertionError> {
        let mut said = Map::new();
        let mut say = |name: &str, value: Value| said.insert(name.to_owned(), value);
        say("iss", self.signer.issuer().into());
        say("aud", (*to.audience).into());
        say("iat", issued.into());
        say("exp", expires.into());
        if !claims.subject().is_empty() {
            say("sub", claims.subject().into());
        }
        for (name, claim) in [("orig_iss", "iss"), ("sid", "sid")] {
            if let Some(value @ Value::String(_)) = claims.all().get(claim) {
                say(name, value.clone());
            }
        }
        let scopes: Vec<_> =
            claims.scopes().iter().map(String::as_str).filter(|scope| !scope.is_empty()).collect();
        if scopes.iter().any(|scope| scope.contains(' ')) {
            return Err(AssertionError::AmbiguousScope);
        }
        if !scopes.is_empty() {
            say("scope", scopes.join(" ").into());
        }
        if !claims.roles().is_empty() {
            say("roles", json!(claims.roles()));
        }
        Ok(said)
    }
}

impl fmt::Debug for Assertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertions").field("kept", &self.minted.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::key_folder::tests::TestFolder;
    use super::super::signer::SigningAlgorithm;
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_700);

    struct Rig {
        signer: Arc<Signer>,
        assertions: Assertions,
        _folder: TestFolder,
    }

    fn rig(algorithm: SigningAlgorithm) -> Rig {
        let folder = TestFolder::new();
        let lifetime = Duration::from_secs(600);
        let signer =
            Signer::load_or_create(&folder.0, "https://gw".into(), vec!["api".into()], lifetime, algorithm);
        let signer = Arc::new(signer.unwrap());
        Rig { assertions: Assertions::new(Arc::clone(&signer), 1 << 20), signer, _folder: folder }
    }

    impl Rig {
        /// As a request gets it.
        async fn assert(&self, claims: &Arc<VerifiedClaims>, to: &Addressee, now: Timestamp) -> String {
            let value = match self.assertions.at_hand(claims, to, now) {
                Some(value) => value,
                None => self.assertions.mint(claims, to, now).await.unwrap(),
            };
            value.to_str().unwrap().to_owned()
        }
    }

    fn caller(expires: u64) -> Arc<VerifiedClaims> {
        let claims = json!({
            "iss": "https://id.example", "sub": "u1", "aud": "api", "scope": "a b", "roles": ["r", "s"],
            "sid": "s1", "email": "u1@example.com", "jti": "j", "groups": ["x"]
        });
        let claims = VerifiedClaims::sample("corp", &claims);
        Arc::new(VerifiedClaims { expires: Timestamp::from_secs(expires), number: 7, ..claims })
    }

    fn to(audience: &str, seconds: u64) -> Addressee {
        Addressee { audience: audience.into(), lifetime: Duration::from_secs(seconds) }
    }

    fn part(token: &str, at: usize) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_assertion_says_a_closed_list_and_is_verified_with_the_published_keys() {
        for algorithm in SigningAlgorithm::ALL {
            let rig = rig(*algorithm);
            let token = rig.assert(&caller(1_900_000_000), &to("orders", 60), NOW).await;
            let expected = json!({
                "iss": "https://gw", "aud": "orders", "sub": "u1", "iat": 1_800_000_000, "exp": 1_800_000_060,
                "orig_iss": "https://id.example", "sid": "s1", "scope": "a b", "roles": ["r", "s"]
            });
            assert_eq!(part(&token, 1), expected);
            let header =
                json!({ "typ": "assertion+jwt", "alg": algorithm.as_str(), "kid": rig.signer.kid(NOW) });
            assert_eq!(part(&token, 0), header);
            let published: JwkSet = serde_json::from_str(&rig.signer.public_key_set()).unwrap();
            let mut validation = Validation::new(algorithm.as_str().parse().unwrap());
            validation.set_audience(&["orders"]);
            validation.validate_exp = false;
            let key = DecodingKey::from_jwk(published.find(&rig.signer.kid(NOW).unwrap()).unwrap()).unwrap();
            decode::<Value>(&token, &key, &validation).unwrap();
        }
    }

    #[tokio::test]
    async fn one_is_kept_for_each_upstream_and_made_anew_at_half_its_life() {
        for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::Rs256] {
            let rig = rig(algorithm);
            let (claims, orders) = (caller(1_900_000_000), to("orders", 60));
            let first = rig.assert(&claims, &orders, NOW).await;
            assert_eq!(rig.assert(&claims, &orders, NOW.plus(Duration::from_secs(29))).await, first);
            let other = rig.assert(&claims, &to("shop", 60), NOW).await;
            assert_eq!(part(&other, 1)["aud"], "shop");
            assert_eq!(part(&rig.assert(&claims, &to("orders", 10), NOW).await, 1)["exp"], 1_800_000_010);
            let another = Arc::new(VerifiedClaims { number: 8, subject: "u2".into(), ..(*claims).clone() });
            assert_eq!(part(&rig.assert(&another, &orders, NOW).await, 1)["sub"], "u2");
            let second = rig.assert(&claims, &orders, NOW.plus(Duration::from_secs(30))).await;
            assert_eq!(part(&second, 1)["iat"], 1_800_000_030);
        }
    }

    #[tokio::test]
    async fn none_outlives_the_clients_token_and_none_is_given_out_expired() {
        let rig = rig(SigningAlgorithm::Es256);
        let claims = caller(1_800_000_020);
        let first = rig.assert(&claims, &to("orders", 60), NOW).await;
        assert_eq!(part(&first, 1)["exp"], 1_800_000_020);
        // A later one would not live longer.
        assert_eq!(rig.assert(&claims, &to("orders", 60), NOW.plus(Duration::from_secs(15))).await, first);
        let lasting = caller(1_900_000_000);
        for step in 0..600 {
            let now = NOW.plus(Duration::from_millis(step * 100));
            let token = rig.assert(&lasting, &to("orders", 1), now).await;
            assert!(part(&token, 1)["exp"].as_u64().unwrap() > now.as_secs(), "{step}");
        }
    }

    #[tokio::test]
    async fn what_a_token_does_not_say_is_left_out_and_what_cannot_be_said_is_refused() {
        let rig = rig(SigningAlgorithm::Es256);
        let bare = Arc::new(VerifiedClaims::sample("corp", &json!({ "iss": "i", "sid": 5 })));
        let token = rig.assert(&bare, &to("orders", 60), NOW).await;
        let expected = json!({
            "iss": "https://gw", "aud": "orders", "iat": 1_800_000_000, "exp": 1_800_000_060, "orig_iss": "i"
        });
        assert_eq!(part(&token, 1), expected);
        let odd = Arc::new(VerifiedClaims { scopes: vec!["a admin".into()], ..(*bare).clone() });
        let odd = Arc::new(VerifiedClaims { number: 9, ..(*odd).clone() });
        let refused = rig.assertions.mint(&odd, &to("orders", 60), NOW).await;
        assert!(matches!(refused, Err(AssertionError::AmbiguousScope)));
    }

    #[tokio::test]
    async fn many_that_need_one_slow_assertion_share_it() {
        let rig = rig(SigningAlgorithm::Rs256);
        let (claims, orders) = (caller(1_900_000_000), to("orders", 60));
        let all =
            futures_util::future::join_all((0..200).map(|_| rig.assertions.mint(&claims, &orders, NOW)))
                .await;
        let first = all[0].as_ref().unwrap();
        // RSASSA-PKCS1-v1_5 is deterministic; how many were made shows in where their bytes lie.
        let distinct: std::collections::HashSet<_> =
            all.iter().map(|value| value.as_ref().unwrap().as_bytes().as_ptr()).collect();
        assert!(all.iter().all(|value| value.as_ref().unwrap() == first));
        let cores = std::thread::available_parallelism().unwrap().get();
        assert!(distinct.len() <= cores, "{} signatures", distinct.len());
    }

    #[tokio::test]
    async fn a_new_configuration_makes_its_own() {
        let rig = rig(SigningAlgorithm::Es256);
        let (claims, orders) = (caller(1_900_000_000), to("orders", 60));
        let first = rig.assert(&claims, &orders, NOW).await;
        let anew = rig.assertions.anew();
        assert_eq!(anew.at_hand(&claims, &orders, NOW), None);
        let second = anew.mint(&claims, &orders, NOW).await.unwrap();
        assert_eq!(part(second.to_str().unwrap(), 0), part(&first, 0));
        assert_eq!(anew.at_hand(&claims, &orders, NOW), Some(second));
    }

    #[test]
    fn nothing_of_an_assertion_is_shown_by_debug() {
        let rig = rig(SigningAlgorithm::Es256);
        assert_eq!(format!("{:?}", rig.assertions), "Assertions { kept: 0, .. }");
        let entry = rig.assertions.minting.mint(&caller(1_900_000_000), &to("orders", 60), NOW).unwrap();
        assert_eq!(format!("{:?}", entry.value), "Sensitive");
    }
}
