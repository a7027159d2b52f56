//! Deciding whether a token is good: whose it is, whether it is of the right kind and time, and whether
//! its signature is by a key of that issuer. Cheap checks come first, then the signature; of a token that fails them
//! no more is read than that takes.

use super::claims::VerifiedClaims;
use super::issuer::{Candidate, Issuer, Keys, Unverified, check_after_fetch};
pub use super::issuer::{IssuerError, IssuerSettings, OwnIssuer, TokenType};
use super::jws;
use super::registered::Claimed;
use super::verified_cache::{Entry, VerifiedCache};
use crate::clock::Timestamp;
use crate::key_set::cache::{Fetching, IssuerKeys};
use crate::reason::Reason;
use std::collections::HashMap;
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
    /// Where each stands among them, by its `iss`.
    places: HashMap<String, usize>,
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
        let number = cache.number();
        Ok(Self::of(built, cache, number))
    }

    /// A verifier of our own tokens alone: what the session endpoints need. Where it shares a cache, what any other has
    /// kept stays: routes are asked far more often.
    pub fn own_only(own: OwnIssuer, cache: Arc<VerifiedCache>) -> Self {
        Self::of(vec![Issuer::own(own)], cache, 0)
    }

    fn of(issuers: Vec<Issuer>, cache: Arc<VerifiedCache>, number: u64) -> Self {
        let places = issuers.iter().enumerate().map(|(place, issuer)| (issuer.iss.clone(), place)).collect();
        Self { issuers, places, cache, number }
    }

    /// The key sets to keep fresh, to report on, and to be ready with.
    pub fn key_sets(&self) -> impl Iterator<Item = &Arc<IssuerKeys>> {
        self.issuers.iter().filter_map(|issuer| match &issuer.keys {
            Keys::Fixed(_) | Keys::Own(_) => None,
            Keys::Fetched(keys) => Some(keys),
        })
    }

    /// The claims of a token of any issuer that was verified before and is still good. It may be asked about any
    /// text: what is no token is not known.
    pub fn known(&self, text: &[u8], now: Timestamp) -> Option<Arc<VerifiedClaims>> {
        self.cache.get(text, |entry| self.is_good(entry, now, false))
    }

    /// Verifies a token of any issuer. Waits only where keys are missing: for one shared fetch.
    ///
    /// # Errors
    /// [`Refusal`] with the first thing found wrong; `keys_unavailable` is the issuer's outage, not the token's fault.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<VerifiedClaims>, Refusal> {
        match self.known(token.as_bytes(), now) {
            Some(claims) => Ok(claims),
            None => self.verify_unknown(token, now).await,
        }
    }

    /// The same for a token that is not [`Self::known`].
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub async fn verify_unknown(&self, token: &str, now: Timestamp) -> Result<Arc<VerifiedClaims>, Refusal> {
        self.verify_anew(token, now, false).await
    }

    /// Verifies a token that must be one of our own.
    ///
    /// # Errors
    /// [`Refusal`]; a good token of another issuer is refused as `unknown_issuer`.
    pub async fn verify_own(&self, token: &str, now: Timestamp) -> Result<Arc<VerifiedClaims>, Refusal> {
        match self.cache.get(token.as_bytes(), |entry| self.is_good(entry, now, true)) {
            Some(claims) => Ok(claims),
            None => self.verify_anew(token, now, true).await,
        }
    }

    async fn verify_anew(
        &self,
        token: &str,
        now: Timestamp,
        only_own: bool,
    ) -> Result<Arc<VerifiedClaims>, Refusal> {
        self.cache.missed();
        let candidate = self.examine(token, now, only_own)?;
        let Some(issuer) = self.issuers.get(candidate.issuer) else {
            return Err(refuse(Reason::Internal, None));
        };
        let checked = issuer.check_signature(&candidate.jws, now);
        let judged = matches!(checked, Ok(_) | Err(Unverified::Refused(Reason::BadSignature)));
        if judged && !candidate.jws.header.algorithm.is_hmac() {
            // Such a signature takes longer than all else, and whoever waits for us has fallen asleep by then. So those
            // that came together are checked first, and what follows from them is sent together: the kernel wakes
            // a sleeper once, not for each, which costs a fifth of a refusal.
            tokio::task::yield_now().await;
        }
        let generation = match checked {
            Ok(generation) => generation,
            Err(Unverified::Refused(reason)) => return Err(refuse(reason, Some(issuer))),
            // Boxed, so that what nearly no request does makes no request's future larger.
            Err(Unverified::NoKey { keys, seen, found }) => {
                let checked = Box::pin(check_after_fetch(keys, seen, found, &candidate.jws, now)).await;
                checked.map_err(|reason| refuse(reason, Some(issuer)))?
            }
        };
        let index = candidate.issuer;
        let vouched = issuer.vouch(candidate, self.cache.number());
        let claims = Arc::new(vouched.map_err(|reason| refuse(reason, Some(issuer)))?);
        self.cache.insert(token, Entry::new(Arc::clone(&claims), self.number, index, generation));
        Ok(claims)
    }

    /// Whether a token verified before is still good: same configuration, same keys, not expired.
    fn is_good(&self, entry: &Entry, now: Timestamp, only_own: bool) -> bool {
        let Some(issuer) = self.issuers.get(entry.issuer).filter(|_| entry.verifier == self.number) else {
            return false;
        };
        (issuer.is_own || !only_own)
            && issuer.generation(now) == Some(entry.generation)
            && now < entry.claims.good_until
    }

    /// Everything that can be checked without a key.
    fn examine<'a>(&self, token: &'a str, now: Timestamp, only_own: bool) -> Result<Candidate<'a>, Refusal> {
        let unknown = |reason| refuse(reason, None);
        let jws = jws::parse(token).map_err(unknown)?;
        let claimed = Claimed::find(&jws.payload).map_err(unknown)?;
        let iss = claimed.issuer().map_err(unknown)?;
        let (index, issuer) = self
            .places
            .get(&*iss)
            .and_then(|place| Some((*place, self.issuers.get(*place)?)))
            .filter(|(_, issuer)| issuer.is_own || !only_own)
            .ok_or_else(|| unknown(Reason::UnknownIssuer))?;
        let registered =
            issuer.examine(&jws.header, &claimed, now).map_err(|reason| refuse(reason, Some(issuer)))?;
        Ok(Candidate { jws, registered, issuer: index })
    }
}

fn refuse(reason: Reason, issuer: Option<&Issuer>) -> Refusal {
    Refusal { reason, issuer: issuer.map(|issuer| Arc::clone(&issuer.name)) }
}

#[cfg(test)]
mod tests {
    use super::super::issuer::Unjudged;
    use super::super::key_folder::tests::TestFolder;
    use super::super::signer::{Signer, SigningAlgorithm};
    use super::super::verified_cache::Lookup;
    use super::*;
    use crate::clock::{Clock as _, ManualClock};
    use crate::json::ClaimPath;
    use crate::key_set::fixtures::{OTHER_RSA, RSA, TestKey, jwks, unsigned, with, without};
    use crate::key_set::{Algorithm, KeySetSettings, RefreshSettings, Source};
    use crate::outbound::tests::{TestServer, client, http_answer};
    use crate::secret::Secret;
    use crate::session::id::{SessionId, SessionRef, UserKey};
    use aws_lc_rs::hmac;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use futures_util::poll;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::io::Write as _;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::runtime::Handle;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    /// A verifier that knows the issuers `corp` (an RSA key `r` and a P-256 key `e`), `strict` (another RSA
    /// key `r`, only `at+jwt`), `legacy` (a shared secret), and ourselves.
    struct Rig {
        verifier: Verifier,
        p256: TestKey,
        signer: Signer,
        server: TestServer,
        answer: Arc<Mutex<(u16, String)>>,
        fetching: Fetching,
        cache: Arc<VerifiedCache>,
        hits: Arc<AtomicUsize>,
        clock: Arc<ManualClock>,
        _folder: TestFolder,
    }

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    fn settings(name: &str, source: Source) -> IssuerSettings {
        let paths = |names: &[&str]| names.iter().map(|name| ClaimPath::parse(name).unwrap()).collect();
        let refresh = RefreshSettings { timeout: Duration::from_secs(20), ..RefreshSettings::default() };
        IssuerSettings {
            name: name.into(),
            issuer: format!("https://{name}.example"),
            audiences: vec!["api".into()],
            algorithms: Algorithm::DEFAULT.to_vec(),
            keys: KeySetSettings { source, refresh, copy_file: None },
            leeway: Duration::from_secs(30),
            max_lifetime: None,
            token_type: TokenType::Any,
            scopes: paths(&["scope", "scp"]),
            roles: paths(&["roles", "realm_access.roles"]),
        }
    }

    fn hmac_settings() -> IssuerSettings {
        let settings = settings("legacy", Source::Secret(Secret::new(SECRET.to_vec())));
        IssuerSettings { algorithms: vec![Algorithm::Hs256], ..settings }
    }

    impl Rig {
        fn new() -> Self {
            let p256 = TestKey::p256();
            let answer = Arc::new(Mutex::new((200, jwks(&[RSA.named("r"), p256.named("e")]))));
            let told = Arc::clone(&answer);
            let server = TestServer::start(move |stream, head| {
                let (status, body) = if head.starts_with("GET /strict ") {
                    (200, jwks(&[OTHER_RSA.named("r")]))
                } else {
                    told.lock().unwrap().clone()
                };
                let _ = stream.write_all(http_answer(status, &body).as_bytes());
            });
            let clock = Arc::new(ManualClock::at(NOW));
            let fetching = Fetching {
                clock: Arc::clone(&clock) as Arc<dyn crate::clock::Clock>,
                client: client(),
                runtime: Handle::current(),
                observer: Arc::new(|_| ()),
            };
            let hits = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&hits);
            let observer = move |lookup| {
                counter.fetch_add(usize::from(lookup == Lookup::Hit), Ordering::SeqCst);
            };
            let cache = Arc::new(VerifiedCache::new(1 << 20, Arc::new(observer)));
            let folder = TestFolder::new();
            let signer = Signer::load_or_create(
                &folder.0,
                "https://gateway.example".into(),
                vec!["api".into()],
                Duration::from_secs(600),
                SigningAlgorithm::Es256,
            )
            .unwrap();
            let url = |path| Source::Url(server.url(path));
            let strict = IssuerSettings {
                token_type: TokenType::AtJwt,
                max_lifetime: Some(Duration::from_secs(300)),
                ..settings("strict", url("/strict"))
            };
            let issuers = vec![settings("corp", url("/corp")), strict, hmac_settings()];
            let own = Some(signer.own_issuer());
            let verifier = Verifier::new(issuers, own, &fetching, Arc::clone(&cache), None).unwrap();
            Self { verifier, p256, signer, server, answer, fetching, cache, hits, clock, _folder: folder }
        }

        async fn verify(&self, token: &str) -> Result<Arc<VerifiedClaims>, Reason> {
            self.verifier.verify(token, self.clock.now()).await.map_err(|refusal| refusal.reason)
        }

        async fn refusal(&self, token: &str) -> Option<Reason> {
            self.verify(token).await.err()
        }

        /// How the token of `corp` with this header and these claims fares.
        async fn corp(&self, header: &Value, claims: &Value) -> Option<Reason> {
            self.refusal(&RSA.token(header, claims)).await
        }

        fn hits(&self) -> usize {
            self.hits.load(Ordering::SeqCst)
        }

        /// The same configuration, loaded again.
        fn reloaded(&self) -> Verifier {
            let own = Some(self.signer.own_issuer());
            let issuers = vec![settings("corp", Source::Url(self.server.url("/corp")))];
            Verifier::new(issuers, own, &self.fetching, Arc::clone(&self.cache), Some(&self.verifier))
                .unwrap()
        }

        fn minted(&self) -> String {
            let claims = json!({"scope": "a b", "roles": ["clerk"], "email": "u1@example.com"});
            self.signer
                .mint(
                    "u1",
                    claims.as_object().unwrap(),
                    session(),
                    Timestamp::from_secs(1_900_000_000),
                    self.clock.now(),
                )
                .unwrap()
                .token
        }
    }

    fn session() -> SessionRef {
        SessionRef {
            session: SessionId::from_bytes([3; 16]),
            user: UserKey::from_bytes([4; 12]),
            generation: 2,
            epoch: 1,
        }
    }

    fn header() -> Value {
        json!({"alg": "RS256", "kid": "r", "typ": "JWT"})
    }

    fn claims() -> Value {
        json!({
            "iss": "https://corp.example", "sub": "u1", "aud": ["api", "other"], "exp": NOW.as_secs() + 300,
            "iat": NOW.as_secs(), "scope": "orders:read orders:write", "realm_access": {"roles": ["clerk"]},
        })
    }

    fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
        hs256_signed(secret, &unsigned(header, claims))
    }

    fn hs256_signed(secret: &[u8], signed: &str) -> String {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    #[tokio::test]
    async fn a_good_token_of_each_issuer_is_verified() {
        let rig = Rig::new();
        let verified = rig.verify(&RSA.token(&header(), &claims())).await.unwrap();
        assert_eq!((verified.issuer(), verified.subject()), ("corp", "u1"));
        assert_eq!(verified.scopes(), ["orders:read", "orders:write"]);
        assert_eq!(verified.roles(), ["clerk"]);
        assert!(verified.audience_matches(verified.expected_audiences()));
        assert_eq!(verified.session(), None);
        assert_eq!(verified.expires(), NOW.plus(Duration::from_secs(300)));

        let token = rig.p256.token(&json!({"alg": "ES256", "kid": "e"}), &claims());
        assert_eq!(rig.verify(&token).await.unwrap().issuer(), "corp");
        let strict = with(claims(), "iss", json!("https://strict.example"));
        let token = OTHER_RSA.token(&with(header(), "typ", json!("application/at+jwt")), &strict);
        assert_eq!(rig.verify(&token).await.unwrap().issuer(), "strict");
        let legacy = with(claims(), "iss", json!("https://legacy.example"));
        for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "kid": "any"})] {
            assert_eq!(rig.verify(&hs256(SECRET, &header, &legacy)).await.unwrap().issuer(), "legacy");
        }
        let own = rig.verify(&rig.minted()).await.unwrap();
        assert_eq!((own.issuer(), own.subject(), own.session()), ("gateway", "u1", Some(&session())));
        assert_eq!(
            (own.scopes(), own.roles()),
            (["a", "b"].map(String::from).as_slice(), ["clerk".into()].as_slice())
        );
        assert_eq!(own.all()["email"], "u1@example.com");
    }

    #[tokio::test]
    async fn each_fault_has_its_reason() {
        let rig = Rig::new();
        let now = NOW.as_secs();
        for (member, value, reason) in [
            ("iss", json!("https://corp.example/"), Reason::UnknownIssuer),
            ("iss", json!("https://CORP.example"), Reason::UnknownIssuer),
            ("iss", json!("https://corp.exampl"), Reason::UnknownIssuer),
            ("iss", json!("corp"), Reason::UnknownIssuer),
            ("iss", json!(""), Reason::UnknownIssuer),
            ("iss", json!(["https://corp.example"]), Reason::MalformedToken),
            ("exp", json!(now - 30), Reason::Expired),
            ("exp", json!((now + 300).to_string()), Reason::MalformedToken),
            ("nbf", json!(now + 31), Reason::NotYetValid),
            ("iat", json!(now + 31), Reason::NotYetValid),
            ("nbf", json!("0"), Reason::MalformedToken),
            ("sub", json!(7), Reason::MalformedToken),
            ("aud", json!({"api": true}), Reason::MalformedToken),
            ("scope", json!(7), Reason::MalformedToken),
            ("roles", json!({"clerk": true}), Reason::MalformedToken),
        ] {
            assert_eq!(
                rig.corp(&header(), &with(claims(), member, value.clone())).await,
                Some(reason),
                "{member} {value}"
            );
        }
        for member in ["iss", "exp", "aud"] {
            assert_eq!(
                rig.corp(&header(), &without(claims(), member)).await,
                Some(Reason::MissingClaim),
                "{member}"
            );
        }
        for member in ["sub", "iat", "scope"] {
            assert_eq!(rig.corp(&header(), &without(claims(), member)).await, None, "{member}");
        }
        for (member, value, reason) in [
            ("alg", json!("RS384"), Reason::UnsupportedAlgorithm),
            ("typ", json!("logout+jwt"), Reason::WrongType),
            ("typ", json!("JOSE"), Reason::WrongType),
            ("typ", json!(1), Reason::MalformedToken),
            ("crit", json!(["exp"]), Reason::MalformedToken),
            ("kid", json!("x"), Reason::UnknownKey),
            ("kid", json!("../../etc/passwd"), Reason::UnknownKey),
            ("kid", json!("' or 1=1 --"), Reason::UnknownKey),
            ("kid", json!("x".repeat(5000)), Reason::UnknownKey),
            ("kid", json!("r\u{0}"), Reason::UnknownKey),
            ("kid", json!(["r"]), Reason::MalformedToken),
            ("kid", json!("e"), Reason::UnsupportedAlgorithm),
        ] {
            assert_eq!(
                rig.corp(&with(header(), member, value.clone()), &claims()).await,
                Some(reason),
                "{member} {value}"
            );
        }
        assert_eq!(rig.hits(), 0);
    }

    #[tokio::test]
    async fn claims_must_be_one_strict_json_object() {
        let rig = Rig::new();
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let signed = |claims: &str| format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let usual = format!(r#""iss":"https:\/\/legacy.example","aud":"api","exp":{}"#, NOW.as_secs() + 300);
        let good = format!("{{{usual}}}");
        assert_eq!(rig.refusal(&hs256_signed(SECRET, &signed(&good))).await, None);
        for claims in [
            String::new(),
            "[]".into(),
            "null".into(),
            "1".into(),
            format!("{good} {{}}"),
            format!("{{{usual},\"aud\":\"api\"}}"),
            format!("{{{usual},\"\\u0061ud\":\"api\"}}"),
            format!("{{{usual},\"n\":\"\u{0}\"}}"),
        ] {
            let refusal = rig.refusal(&hs256_signed(SECRET, &signed(&claims))).await;
            assert_eq!(refusal, Some(Reason::MalformedToken), "{claims}");
            let refusal = rig.refusal(&hs256_signed(b"forged", &signed(&claims))).await;
            assert_eq!(refusal, Some(Reason::MalformedToken), "{claims}");
        }
        // What does not count for the verdict is looked at once the signature is good.
        for claims in [
            format!("{{{usual},\"a\":1,\"a\":1}}"),
            format!("{{{usual},\"a\":[{{\"b\":1,\"b\":2}}]}}"),
            format!("{{{usual},\"a\":1e999}}"),
            format!("{{{usual},\"a\":{}{}}}", "[".repeat(9000), "]".repeat(9000)),
        ] {
            let refusal = rig.refusal(&hs256_signed(SECRET, &signed(&claims))).await;
            assert_eq!(refusal, Some(Reason::MalformedToken), "{claims}");
            let refusal = rig.refusal(&hs256_signed(b"forged", &signed(&claims))).await;
            assert_eq!(refusal, Some(Reason::BadSignature), "{claims}");
        }
    }

    #[tokio::test]
    async fn a_refusal_names_the_issuer_once_it_is_known() {
        let rig = Rig::new();
        let refusal = async |token: &str| rig.verifier.verify(token, NOW).await.unwrap_err();
        assert_eq!(refusal("x").await, Refusal { reason: Reason::MalformedToken, issuer: None });
        let foreign = RSA.token(&header(), &with(claims(), "iss", json!("https://evil.example")));
        assert_eq!(refusal(&foreign).await, Refusal { reason: Reason::UnknownIssuer, issuer: None });
        let forged = OTHER_RSA.token(&header(), &claims());
        assert_eq!(
            refusal(&forged).await,
            Refusal { reason: Reason::BadSignature, issuer: Some("corp".into()) }
        );
    }

    #[tokio::test]
    async fn a_signature_counts_only_for_its_issuer_its_key_and_its_text() {
        let rig = Rig::new();
        let bad = Some(Reason::BadSignature);
        let good = RSA.token(&header(), &claims());
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let other = unsigned(&header(), &with(claims(), "sub", json!("admin")));
        assert_eq!(rig.refusal(&format!("{other}.{signature}")).await, bad);
        assert_eq!(rig.refusal(&format!("{signed}.")).await, bad);
        assert_eq!(rig.refusal(&format!("{signed}.{}", "A".repeat(342))).await, bad);
        assert_eq!(rig.refusal(&OTHER_RSA.token(&header(), &claims())).await, bad);
        let strict = with(claims(), "iss", json!("https://strict.example"));
        assert_eq!(rig.refusal(&RSA.token(&with(header(), "typ", json!("at+jwt")), &strict)).await, bad);
        let own = with(claims(), "iss", json!("https://gateway.example"));
        let at = json!({"alg": "ES256", "kid": rig.signer.kid(NOW), "typ": "at+jwt"});
        assert_eq!(rig.refusal(&rig.p256.token(&at, &own)).await, bad);
        let embedded = with(without(header(), "kid"), "jwk", OTHER_RSA.jwk());
        assert_eq!(rig.refusal(&OTHER_RSA.token(&embedded, &claims())).await, bad);
        assert_eq!(rig.refusal(&good).await, None);
    }

    #[tokio::test]
    async fn a_public_key_is_never_a_shared_secret() {
        let rig = Rig::new();
        let (jwk, pem) = (RSA.jwk(), RSA.pem());
        let n = jwk["n"].as_str().unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
        let secrets = [
            pem.clone().into_bytes(),
            pem.trim_end().into(),
            base64::engine::general_purpose::STANDARD.decode(der).unwrap(),
            jwk.to_string().into(),
            RSA.named("r").to_string().into(),
            jwks(&[RSA.named("r")]).into(),
            n.into(),
            URL_SAFE_NO_PAD.decode(n).unwrap(),
            b"r".to_vec(),
            b"\0".to_vec(),
        ];
        for secret in secrets {
            for header in [json!({"alg": "HS256", "kid": "r"}), json!({"alg": "HS256"})] {
                let forged = hs256(&secret, &header, &claims());
                assert_eq!(rig.refusal(&forged).await, Some(Reason::UnsupportedAlgorithm));
            }
        }
        let legacy = with(claims(), "iss", json!("https://legacy.example"));
        assert_eq!(rig.refusal(&RSA.token(&header(), &legacy)).await, Some(Reason::UnsupportedAlgorithm));
        assert_eq!(
            rig.refusal(&hs256(b"", &json!({"alg": "HS256"}), &legacy)).await,
            Some(Reason::BadSignature)
        );
    }

    #[tokio::test]
    async fn an_unsigned_token_is_refused_in_every_spelling() {
        let rig = Rig::new();
        for alg in ["none", "None", "NONE", "nOnE", " none", ""] {
            let signed = unsigned(&json!({"alg": alg, "typ": "JWT"}), &claims());
            for signature in ["", "AAAA"] {
                let token = format!("{signed}.{signature}");
                assert_eq!(rig.refusal(&token).await, Some(Reason::UnsupportedAlgorithm), "{alg:?}");
            }
            assert_eq!(rig.refusal(&signed).await, Some(Reason::MalformedToken));
        }
    }

    #[tokio::test]
    async fn typ_may_be_narrowed_and_is_always_at_jwt_for_our_own() {
        let rig = Rig::new();
        let strict = with(claims(), "iss", json!("https://strict.example"));
        let of_strict = async |header: &Value| rig.refusal(&OTHER_RSA.token(header, &strict)).await;
        assert_eq!(of_strict(&header()).await, Some(Reason::WrongType));
        assert_eq!(of_strict(&without(header(), "typ")).await, Some(Reason::WrongType));
        assert_eq!(of_strict(&with(header(), "typ", json!("AT+JWT"))).await, None);
        for typ in ["JWT", "at+jwt", "application/JWT"] {
            assert_eq!(rig.corp(&with(header(), "typ", json!(typ)), &claims()).await, None, "{typ}");
        }
        let own = with(claims(), "iss", json!("https://gateway.example"));
        let header = json!({"alg": "ES256", "kid": rig.signer.kid(NOW), "typ": "JWT"});
        assert_eq!(rig.refusal(&rig.p256.token(&header, &own)).await, Some(Reason::WrongType));
    }

    #[tokio::test]
    async fn a_token_that_was_made_for_too_long_is_refused_where_that_is_asked_for() {
        let rig = Rig::new();
        let now = NOW.as_secs();
        let at = with(header(), "typ", json!("at+jwt"));
        let claims = with(claims(), "iss", json!("https://strict.example"));
        let of_strict = async |claims: &Value| rig.refusal(&OTHER_RSA.token(&at, claims)).await;
        let until = |exp| with(claims.clone(), "exp", json!(exp));
        let too_long = Some(Reason::LifetimeTooLong);
        assert_eq!(of_strict(&until(now + 300)).await, None);
        assert_eq!(of_strict(&until(now + 301)).await, too_long);
        assert_eq!(of_strict(&with(until(now + 10), "iat", json!(now - 291))).await, too_long);
        assert_eq!(of_strict(&without(until(now + 300), "iat")).await, None);
        assert_eq!(of_strict(&without(until(now + 301), "iat")).await, too_long);
    }

    #[tokio::test]
    async fn our_own_tokens_expire_without_leeway_and_other_issuers_are_not_us() {
        let rig = Rig::new();
        let own = rig.minted();
        assert!(rig.verifier.verify_own(&own, NOW).await.is_ok());
        let corp = RSA.token(&header(), &claims());
        assert!(rig.verifier.verify(&corp, NOW).await.is_ok());
        let refusal = rig.verifier.verify_own(&corp, NOW).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::UnknownIssuer, "even if the cache knows it as another issuer's");
        rig.clock.set(NOW.minus(Duration::from_secs(30)));
        assert_eq!(rig.refusal(&own).await, None, "another gateway's clock may be ahead of ours");
        rig.clock.set(NOW.plus(Duration::from_millis(599_999)));
        assert_eq!(rig.refusal(&own).await, None);
        rig.clock.advance(Duration::from_millis(1));
        assert_eq!(rig.refusal(&own).await, Some(Reason::Expired));
    }

    #[tokio::test]
    async fn a_token_of_ours_from_before_the_lifetime_was_shortened_is_taken_for_no_longer_than_a_new_one() {
        let rig = Rig::new();
        let token = rig.minted();
        let own = OwnIssuer { lifetime: Duration::from_secs(60), ..rig.signer.own_issuer() };
        let shorter = Verifier::own_only(own, Arc::clone(&rig.cache));
        let at = |secs| NOW.plus(Duration::from_secs(secs));
        let claims = shorter.verify(&token, at(59)).await.unwrap();
        assert_eq!(claims.expires(), at(60));
        assert_eq!(rig.verifier.verify(&token, at(60)).await.unwrap().expires(), at(600));
        assert_eq!(shorter.verify_own(&token, at(60)).await.unwrap_err().reason, Reason::Expired);
    }

    #[tokio::test]
    async fn a_token_is_verified_once_and_then_known_until_it_expires() {
        let rig = Rig::new();
        let token = RSA.token(&header(), &claims());
        let first = rig.verify(&token).await.unwrap();
        let second = rig.verify(&token).await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(rig.hits(), 1);
        rig.clock.advance(Duration::from_millis(329_999));
        assert_eq!((rig.refusal(&token).await, rig.hits()), (None, 2));
        rig.clock.advance(Duration::from_millis(1));
        assert_eq!((rig.refusal(&token).await, rig.hits()), (Some(Reason::Expired), 2));
    }

    #[tokio::test]
    async fn signatures_that_came_together_are_checked_before_anything_follows_from_one() {
        let rig = Rig::new();
        let (good, forged) = (RSA.token(&header(), &claims()), OTHER_RSA.token(&header(), &claims()));
        let shared =
            hs256(SECRET, &json!({"alg": "HS256"}), &with(claims(), "iss", json!("https://legacy.example")));
        // The first token has its keys fetched.
        assert!(rig.refusal(&forged).await.is_some());
        let [mut first, mut second] = [&good, &forged].map(|token| Box::pin(rig.verify(token)));
        assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
        assert!(first.await.is_ok() && second.await.is_err());
        for quick in [good.as_str(), "no.such.token", &shared] {
            assert!(poll!(Box::pin(rig.verify(quick))).is_ready());
        }
    }

    #[tokio::test]
    async fn a_refused_token_is_never_remembered() {
        let rig = Rig::new();
        for token in [
            OTHER_RSA.token(&header(), &claims()),
            RSA.token(&header(), &with(claims(), "nbf", json!(NOW.as_secs() + 40))),
        ] {
            assert!(rig.refusal(&token).await.is_some());
            assert!(rig.refusal(&token).await.is_some());
        }
        assert_eq!(rig.hits(), 0);
        assert!(format!("{:?}", rig.cache).contains("entries: 0"));
    }

    #[tokio::test]
    async fn a_key_that_is_withdrawn_takes_the_tokens_it_verified_with_it() {
        let rig = Rig::new();
        let (old, other) = (
            RSA.token(&header(), &claims()),
            rig.p256.token(&json!({"alg": "ES256", "kid": "e"}), &claims()),
        );
        assert_eq!((rig.refusal(&old).await, rig.refusal(&other).await), (None, None));
        *rig.answer.lock().unwrap() = (200, jwks(&[rig.p256.named("e")]));
        let unknown = RSA.token(&with(header(), "kid", json!("new")), &claims());
        assert_eq!(rig.refusal(&unknown).await, Some(Reason::UnknownKey), "which fetches the set anew");
        assert_eq!(rig.refusal(&old).await, Some(Reason::UnknownKey));
        assert_eq!(rig.refusal(&other).await, None);
    }

    #[tokio::test]
    async fn a_new_configuration_verifies_anew_with_the_keys_it_inherits() {
        let rig = Rig::new();
        let token = RSA.token(&header(), &claims());
        assert_eq!(rig.refusal(&token).await, None);
        *rig.answer.lock().unwrap() = (500, String::new());
        let reloaded = rig.reloaded();
        assert!(reloaded.verify(&token, NOW).await.is_ok(), "though the issuer is down");
        assert_eq!(rig.hits(), 0);
        assert!(reloaded.verify(&token, NOW).await.is_ok());
        assert_eq!(rig.hits(), 1);
    }

    #[tokio::test]
    async fn a_rotated_key_is_found_at_its_first_token() {
        let rig = Rig::new();
        assert_eq!(rig.corp(&header(), &claims()).await, None);
        *rig.answer.lock().unwrap() = (200, jwks(&[OTHER_RSA.named("new")]));
        let token = OTHER_RSA.token(&with(header(), "kid", json!("new")), &claims());
        assert_eq!(rig.refusal(&token).await, None);
        assert_eq!(rig.server.count(), 2);
    }

    #[tokio::test]
    async fn a_flood_of_bad_tokens_costs_the_issuer_at_most_one_fetch_per_cooldown() {
        let rig = Rig::new();
        assert_eq!(rig.corp(&header(), &claims()).await, None);
        for at in 0..50 {
            let kid = with(header(), "kid", json!(at.to_string()));
            assert_eq!(rig.corp(&kid, &claims()).await, Some(Reason::UnknownKey));
            let forged = OTHER_RSA.token(&header(), &with(claims(), "sub", json!(at.to_string())));
            assert_eq!(rig.refusal(&forged).await, Some(Reason::BadSignature));
            let expired = with(claims(), "exp", json!(at));
            assert_eq!(rig.corp(&kid, &expired).await, Some(Reason::Expired));
        }
        assert_eq!(rig.server.count(), 2);
    }

    #[tokio::test]
    async fn an_outage_of_the_issuer_is_never_blamed_on_the_token() {
        let rig = Rig::new();
        *rig.answer.lock().unwrap() = (500, String::new());
        let token = RSA.token(&header(), &claims());
        assert_eq!(rig.refusal(&token).await, Some(Reason::KeysUnavailable));
        assert_eq!(rig.refusal(&token).await, Some(Reason::KeysUnavailable));
        assert_eq!(rig.server.count(), 1);
        *rig.answer.lock().unwrap() = (200, jwks(&[RSA.named("r")]));
        rig.clock.advance(Duration::from_secs(10));
        assert_eq!(rig.refusal(&token).await, None);
        *rig.answer.lock().unwrap() = (500, String::new());
        let rotated = OTHER_RSA.token(&with(header(), "kid", json!("new")), &claims());
        assert_eq!(rig.refusal(&rotated).await, Some(Reason::KeysUnavailable), "it may well be good");
        assert_eq!(rig.refusal(&rotated).await, Some(Reason::KeysUnavailable));
        let other = RSA.token(&header(), &with(claims(), "sub", json!("u2")));
        assert_eq!(rig.refusal(&other).await, None, "what can be verified is");
        assert_eq!(rig.refusal(&rig.minted()).await, None, "other issuers do not notice");
        rig.clock.advance(Duration::from_secs(24 * 3600 + 1));
        let later = with(claims(), "exp", json!(NOW.as_secs() + 10 * 24 * 3600));
        assert_eq!(rig.corp(&header(), &later).await, Some(Reason::KeysUnavailable), "too stale to trust");
    }

    #[tokio::test]
    async fn issuers_that_could_be_confused_are_refused() {
        let rig = Rig::new();
        let url = || Source::Url("http://127.0.0.1:1/".into());
        let error = |issuers: Vec<IssuerSettings>| {
            Verifier::new(issuers, Some(rig.signer.own_issuer()), &rig.fetching, Arc::clone(&rig.cache), None)
                .err()
        };
        let corp = || settings("corp", url());
        let repeated = |a: &str, b: &str| Some(IssuerError::Repeated(a.into(), b.into()));
        assert_eq!(error(vec![corp()]), None);
        assert_eq!(error(vec![corp(), corp()]), repeated("corp", "corp"));
        assert_eq!(error(vec![corp(), IssuerSettings { name: "b".into(), ..corp() }]), repeated("corp", "b"));
        let own = |settings: IssuerSettings| IssuerSettings {
            issuer: "https://gateway.example".into(),
            ..settings
        };
        assert_eq!(error(vec![own(corp())]), repeated("gateway", "corp"));
        assert_eq!(error(vec![settings("gateway", url())]), repeated("gateway", "gateway"));
        assert_eq!(
            error(vec![IssuerSettings { audiences: vec![], ..corp() }]),
            Some(IssuerError::NoAudience("corp".into()))
        );
        assert_eq!(
            error(vec![IssuerSettings { algorithms: vec![], ..corp() }]),
            Some(IssuerError::NoAlgorithm("corp".into()))
        );
        let mixed = |name: &str, algorithm| Some(IssuerError::AlgorithmAndKeys(name.into(), algorithm));
        let with_algorithms =
            |algorithms: &[Algorithm], settings| IssuerSettings { algorithms: algorithms.into(), ..settings };
        let both = [Algorithm::Hs256, Algorithm::Rs256];
        assert_eq!(error(vec![with_algorithms(&both, corp())]), mixed("corp", Algorithm::Hs256));
        assert_eq!(error(vec![with_algorithms(&both, hmac_settings())]), mixed("legacy", Algorithm::Rs256));
        assert_eq!(
            error(vec![with_algorithms(&[Algorithm::Hs512], hmac_settings())]),
            Some(IssuerError::ShortSecret("legacy".into(), Algorithm::Hs512, 64))
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_signature_is_checked_again_by_keys_that_have_not_changed() {
        let rig = Rig::new();
        let token = RSA.token(&header(), &claims());
        rig.verify(&token).await.unwrap();
        let jws = jws::parse(&token).unwrap();
        let keys = rig.verifier.key_sets().find(|keys| &**keys.name() == "corp").unwrap();
        let check = |found| check_after_fetch(keys, keys.latest(), found, &jws, rig.clock.now());
        // The fetch that this starts brings the same keys: by them the signature would be good.
        let found = Some(Unjudged::UnknownKey { tried: true });
        assert_eq!(check(found).await, Err(Reason::BadSignature));
        assert!(check(None).await.is_ok());
    }

    #[tokio::test]
    async fn only_the_issuers_key_sets_are_kept_fresh() {
        let rig = Rig::new();
        let names: Vec<_> = rig.verifier.key_sets().map(|keys| keys.name().to_string()).collect();
        assert_eq!(names, ["corp", "strict"]);
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_verifier_panic(text in "(\\PC{0,40}|[A-Za-z0-9_.=-]{0,80}|eyJ[A-Za-z0-9_-]{0,40}\\.eyJ[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,20})") {
            prop_assert!(jws::parse(&text).and_then(|jws| Claimed::find(&jws.payload).map(drop)).is_err());
        }
    }

    #[test]
    fn no_changed_byte_leaves_a_token_good() {
        block_on(async {
            let rig = Rig::new();
            let good = rig.p256.token(&json!({"alg": "ES256", "kid": "e"}), &claims());
            assert_eq!(rig.refusal(&good).await, None);
            rig.answer.lock().unwrap().0 = 500;
            for at in 0..good.len() {
                for byte in [b'A', b'_', b'.', b'=', b'\n'] {
                    let mut changed = good.clone().into_bytes();
                    if changed[at] != byte {
                        changed[at] = byte;
                        let changed = String::from_utf8(changed).unwrap();
                        assert!(rig.refusal(&changed).await.is_some(), "{changed}");
                    }
                }
                assert!(rig.refusal(&good[..at]).await.is_some(), "cut at {at}");
            }
        });
    }
}
