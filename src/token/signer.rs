//! Signing our own tokens, access tokens first (RFC 9068), and publishing the keys they are verified with.

use super::issuer::OwnKeys;
use super::key_folder::{self, KeyFile, KeyFolderError};
use super::key_stage;
pub use super::signing_key::SigningAlgorithm;
use super::signing_key::SigningKey;
use super::verifier::OwnIssuer;
use crate::clock::{NoEntropy, Timestamp, random_bytes};
use crate::json::ObjectWriter;
use crate::key_set::{KeySet, KeySetError};
use crate::panics::{Place, contain_blocking};
use crate::session::id::SessionRef;
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Claims that only we set: what a directory says under these names is dropped.
const OURS: [&str; 11] = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "gen", "usr", "uep"];

/// Room for a usual token.
const USUAL_TOKEN: usize = 1024;

/// Room for a usual header of a token.
const USUAL_HEADER: usize = 96;

/// So many quick signatures are made on a thread before it looks for other work.
const TOGETHER: usize = 4;

thread_local! {
    /// Turns at making them.
    static TURNS: Arc<Semaphore> = Arc::new(Semaphore::new(TOGETHER));
}

/// Signs our tokens.
#[derive(Debug)]
pub struct Signer {
    issuer: String,
    audiences: Vec<String>,
    lifetime: Duration,
    algorithm: SigningAlgorithm,
    folder: PathBuf,
    ring: ArcSwap<Ring>,
    published: Arc<OwnKeys>,
    /// Turns at signing where that is slow; `None` where it is not.
    turns: Option<Semaphore>,
}

/// The keys, as they were read last.
#[derive(Debug)]
struct Ring {
    files: Vec<KeyFile>,
    public: Arc<str>,
}

/// A new access token.
#[derive(Clone, PartialEq, Eq)]
pub struct MintedToken {
    /// The token itself.
    pub token: String,
    /// How long it is good for.
    pub expires_in: Duration,
}

impl std::fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MintedToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Why there is no signer, or no token.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The thread that signed it is gone.
    #[error("the signing was given up")]
    GivenUp,
    /// The keys cannot be had.
    #[error(transparent)]
    Folder(#[from] KeyFolderError),
    /// The folder has no key for the algorithm.
    #[error("{} has no {algorithm} key", folder.display())]
    NoKey {
        /// The folder.
        folder: PathBuf,
        /// What a key is needed for.
        algorithm: SigningAlgorithm,
    },
    /// Our own key set is not one we would take from others.
    #[error("the keys cannot be published: {0}")]
    Unpublishable(#[from] KeySetError),
    /// There is no randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// The key does not sign.
    #[error("the signing key {0} failed")]
    Signing(String),
}

impl Signer {
    /// A signer with the keys of `folder`: that whose time has come last signs, of those that fit `algorithm`, and
    /// all are published. Tokens are good for `lifetime`.
    ///
    /// # Errors
    /// [`SignerError`] if a file in the folder is no key, or none fits.
    pub fn load(
        folder: &Path,
        issuer: String,
        audiences: Vec<String>,
        lifetime: Duration,
        algorithm: SigningAlgorithm,
    ) -> Result<Self, SignerError> {
        Self::new(key_folder::read(folder)?, folder, issuer, audiences, lifetime, algorithm)
    }

    /// Like [`Signer::load`], but a folder without keys, or absent, is given one first.
    ///
    /// # Errors
    /// [`SignerError`] if that is not possible.
    pub fn load_or_create(
        folder: &Path,
        issuer: String,
        audiences: Vec<String>,
        lifetime: Duration,
        algorithm: SigningAlgorithm,
    ) -> Result<Self, SignerError> {
        if key_folder::read(folder)?.is_empty() {
            key_folder::create(folder, key_folder::FIRST_KEY, algorithm)?;
        }
        Self::load(folder, issuer, audiences, lifetime, algorithm)
    }

    /// Like [`Signer::load`], but where the folder has no keys one is made that is never written: for a gateway
    /// that is only tried.
    ///
    /// # Errors
    /// [`SignerError`] if a file in the folder is no key, or none fits.
    pub fn load_or_pretend(
        folder: &Path,
        issuer: String,
        audiences: Vec<String>,
        lifetime: Duration,
        algorithm: SigningAlgorithm,
    ) -> Result<Self, SignerError> {
        let mut files = key_folder::read(folder)?;
        if files.is_empty() {
            let (key, _) = SigningKey::generate(algorithm)?;
            let path = folder.join(key_folder::FIRST_KEY);
            files.push(KeyFile { path, key, from: Timestamp::default() });
        }
        Self::new(files, folder, issuer, audiences, lifetime, algorithm)
    }

    fn new(
        files: Vec<KeyFile>,
        folder: &Path,
        issuer: String,
        audiences: Vec<String>,
        lifetime: Duration,
        algorithm: SigningAlgorithm,
    ) -> Result<Self, SignerError> {
        let folder = folder.to_owned();
        let (ring, keys) = Ring::new(files, &folder, algorithm)?;
        let (ring, published) = (ArcSwap::from_pointee(ring), Arc::new(OwnKeys::new(keys)));
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let turns = algorithm.is_slow().then(|| Semaphore::new(cores()));
        Ok(Self { issuer, audiences, lifetime, algorithm, folder, ring, published, turns })
    }

    /// Reads the folder again. What cannot be used changes nothing. Whether there are other keys now.
    ///
    /// # Errors
    /// [`SignerError`] if a file in the folder is no key, or none fits.
    pub fn reload(&self) -> Result<bool, SignerError> {
        let (ring, keys) = Ring::new(key_folder::read(&self.folder)?, &self.folder, self.algorithm)?;
        let before = self.ring.load();
        let told = |ring: &Ring| -> Vec<_> {
            ring.files.iter().map(|file| (file.key.kid().to_owned(), file.from)).collect()
        };
        if told(&before) == told(&ring) {
            return Ok(false);
        }
        // First everybody here verifies with them, then they are published and sign.
        self.published.replace(keys);
        self.ring.store(Arc::new(ring));
        Ok(true)
    }

    /// A token for `subject` that belongs to `session` and does not outlive its end, `ends`. `claims` are the
    /// directory's (`scope`, `roles` and what else is configured); they cannot replace those that are ours to set.
    ///
    /// # Errors
    /// [`SignerError`] if there is no randomness or the key fails.
    pub fn mint(
        &self,
        subject: &str,
        claims: &Map<String, Value>,
        session: SessionRef,
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<MintedToken, SignerError> {
        let number = random_bytes::<16>()?;
        let lifetime = whole_seconds(self.lifetime).min(ends.since(now).as_secs().max(1));
        let claims = self.access_claims(subject, claims, session, (now.as_secs(), lifetime), number);
        let token = self.sign("at+jwt", claims, now)?;
        Ok(MintedToken { token, expires_in: Duration::from_secs(lifetime) })
    }

    /// The same for threads that serve connections. A slow signature is made on a thread of its own, a few at a
    /// time, so that nobody waits but who needs it. The others are made here, and between a few of them comes whatever
    /// else is to be done: other requests, and the next question to the store, which then need not wait for all of
    /// a crowd's signatures.
    ///
    /// # Errors
    /// [`SignerError`] if there is no randomness or the key fails.
    pub async fn mint_aside(
        self: &Arc<Self>,
        subject: &str,
        claims: &Map<String, Value>,
        session: SessionRef,
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<MintedToken, SignerError> {
        let Some(turns) = &self.turns else {
            let turns = TURNS.with(Arc::clone);
            let _turn = turns.acquire().await.map_err(|_| SignerError::GivenUp)?;
            tokio::task::yield_now().await;
            return self.mint(subject, claims, session, ends, now);
        };
        let _turn = turns.acquire().await.map_err(|_| SignerError::GivenUp)?;
        let (signer, subject, claims) = (Arc::clone(self), subject.to_owned(), claims.clone());
        let signing =
            contain_blocking(Place::Signatures, move || signer.mint(&subject, &claims, session, ends, now));
        signing.await.map_err(|_| SignerError::GivenUp)?
    }

    /// Turns at signing, where signatures are slow.
    pub(super) fn turns(&self) -> Option<&Semaphore> {
        self.turns.as_ref()
    }

    /// What an access token says (RFC 9068 section 2.2): what is ours to set, and of the directory's claims the others.
    fn access_claims(
        &self,
        subject: &str,
        claims: &Map<String, Value>,
        session: SessionRef,
        (issued, lifetime): (u64, u64),
        number: [u8; 16],
    ) -> Option<Vec<u8>> {
        let mut all = ObjectWriter::new(USUAL_TOKEN);
        all.text("iss", &self.issuer);
        all.text("sub", subject);
        match self.audiences.as_slice() {
            [one] => all.text("aud", one),
            several => all.value("aud", &several),
        }
        // Whole seconds, and exactly the lifetime apart: what clients compute from either agrees.
        all.number("iat", issued);
        all.number("exp", issued.saturating_add(lifetime));
        all.text("jti", &URL_SAFE_NO_PAD.encode(number));
        all.text("sid", &session.session.to_string());
        all.text("usr", &session.user.to_string());
        all.number("gen", session.generation.into());
        all.number("uep", session.epoch.into());
        for (name, value) in claims.iter().filter(|(name, _)| !OURS.contains(&name.as_str())) {
            match value {
                Value::String(text) => all.text(name, text),
                other => all.value(name, other),
            }
        }
        all.finish()
    }

    /// A token of this `typ`, in compact form, that says `claims`, which are JSON if there are any.
    pub(super) fn sign(
        &self,
        typ: &str,
        claims: Option<Vec<u8>>,
        now: Timestamp,
    ) -> Result<String, SignerError> {
        let ring = self.ring.load();
        let Some(KeyFile { key, .. }) = key_stage::active(&ring.files, self.algorithm, now) else {
            return Err(self.no_key());
        };
        let mut token = String::with_capacity(USUAL_TOKEN);
        // What a token says of itself (RFC 7515 section 4.1).
        let mut header = ObjectWriter::new(USUAL_HEADER);
        header.text("alg", key.algorithm().as_str());
        header.text("kid", key.kid());
        header.text("typ", typ);
        let signature = header.finish().zip(claims).and_then(|(header, claims)| {
            URL_SAFE_NO_PAD.encode_string(header, &mut token);
            token.push('.');
            URL_SAFE_NO_PAD.encode_string(claims, &mut token);
            key.sign(token.as_bytes())
        });
        let signature = signature.ok_or_else(|| SignerError::Signing(key.kid().to_owned()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    fn no_key(&self) -> SignerError {
        SignerError::NoKey { folder: self.folder.clone(), algorithm: self.algorithm }
    }

    /// Our `iss`.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Our public keys as a JWKS document: those that sign, will sign, and did.
    pub fn public_key_set(&self) -> Arc<str> {
        Arc::clone(&self.ring.load().public)
    }

    /// Our public keys.
    pub fn keys(&self) -> Arc<KeySet> {
        self.published.latest()
    }

    /// The `kid` of the key that signs.
    pub fn kid(&self, now: Timestamp) -> Option<String> {
        let ring = self.ring.load();
        key_stage::active(&ring.files, self.algorithm, now).map(|file| file.key.kid().to_owned())
    }

    /// The folder of the keys.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the verifier needs to know our own tokens.
    pub fn own_issuer(&self) -> OwnIssuer {
        OwnIssuer {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            lifetime: Duration::from_secs(whole_seconds(self.lifetime)),
            keys: Arc::clone(&self.published),
        }
    }
}

impl Ring {
    /// The keys, and what others verify with.
    fn new(
        files: Vec<KeyFile>,
        folder: &Path,
        algorithm: SigningAlgorithm,
    ) -> Result<(Self, KeySet), SignerError> {
        if files.iter().all(|file| file.key.algorithm() != algorithm) {
            return Err(SignerError::NoKey { folder: folder.to_owned(), algorithm });
        }
        let public: Vec<_> = files.iter().map(|file| file.key.jwk().clone()).collect();
        let public = json!({ "keys": public }).to_string();
        let keys = KeySet::from_jwks(public.as_bytes())?;
        Ok((Self { files, public: public.into() }, keys))
    }
}

/// Rounded up, so that a lifetime under a second is not none.
pub(super) fn whole_seconds(lifetime: Duration) -> u64 {
    lifetime.as_secs().saturating_add(u64::from(lifetime.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::super::key_folder::tests::TestFolder;
    use super::*;
    use crate::session::id::{SessionId, UserKey};
    use futures_util::FutureExt as _;
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_700);
    const LATER: Timestamp = Timestamp::from_millis(1_900_000_000_000);

    fn signer(
        folder: &TestFolder,
        audiences: &[&str],
        algorithm: SigningAlgorithm,
    ) -> Result<Signer, SignerError> {
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        Signer::load_or_create(
            &folder.0,
            "https://gw.example".into(),
            audiences,
            Duration::from_secs(600),
            algorithm,
        )
    }

    fn session() -> SessionRef {
        let (session, user) = (SessionId::from_bytes([1; 16]), UserKey::from_bytes([2; 12]));
        SessionRef { session, user, generation: 5, epoch: 9 }
    }

    #[test]
    fn a_slow_signature_holds_up_no_connection() {
        // The only thread for such work is taken.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (free, busy) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || busy.recv());
        for (algorithm, at_once) in [(SigningAlgorithm::Es256, true), (SigningAlgorithm::Rs256, false)] {
            let folder = TestFolder::new();
            let signer = Arc::new(signer(&folder, &["api"], algorithm).unwrap());
            let claims = Map::new();
            let mut minting = std::pin::pin!(signer.mint_aside("u1", &claims, session(), LATER, NOW));
            let first = runtime.block_on(async {
                for _ in 0..8 {
                    if let Some(minted) = minting.as_mut().now_or_never() {
                        return Some(minted);
                    }
                    tokio::task::yield_now().await;
                }
                None
            });
            assert_eq!(first.is_some(), at_once, "{algorithm}");
            if !at_once {
                free.send(()).unwrap();
                let token = runtime.block_on(minting).unwrap().token;
                assert_eq!(claims_of(&token)["sub"], "u1");
            }
        }
    }

    #[tokio::test]
    async fn between_the_signatures_of_a_crowd_others_have_their_turn() {
        let folder = TestFolder::new();
        let signer = Arc::new(signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap());
        let made = Arc::new(AtomicUsize::new(0));
        let crowd = 8 * TOGETHER;
        for _ in 0..crowd {
            let (signer, made) = (Arc::clone(&signer), Arc::clone(&made));
            tokio::spawn(async move {
                signer.mint_aside("u1", &Map::new(), session(), LATER, NOW).await.unwrap();
                made.fetch_add(1, Ordering::SeqCst);
            });
        }
        let mut seen = 0;
        for _ in 0..100 * crowd {
            tokio::task::yield_now().await;
            let now = made.load(Ordering::SeqCst);
            assert!(now - seen <= TOGETHER, "{} at once", now - seen);
            seen = now;
        }
        assert_eq!(seen, crowd);
    }

    fn minted(signer: &Signer, claims: &Value) -> String {
        signer.mint("u1", claims.as_object().unwrap(), session(), LATER, NOW).unwrap().token
    }

    fn claims_of(token: &str) -> Value {
        let payload = token.split('.').nth(1).unwrap();
        // Which has no member twice.
        Value::Object(crate::json::object(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap())
    }

    #[test]
    fn others_verify_our_tokens_with_the_keys_we_publish() {
        for algorithm in SigningAlgorithm::ALL {
            let folder = TestFolder::new();
            let signer = signer(&folder, &["api"], *algorithm).unwrap();
            let token = minted(&signer, &json!({}));
            let header = decode_header(&token).unwrap();
            assert_eq!(header.typ.as_deref(), Some("at+jwt"));
            let published: JwkSet = serde_json::from_str(&signer.public_key_set()).unwrap();
            let key = published.find(&header.kid.unwrap()).unwrap();
            let mut validation = Validation::new(algorithm.as_str().parse().unwrap());
            validation.set_audience(&["api"]);
            validation.set_issuer(&["https://gw.example"]);
            validation.validate_exp = false;
            decode::<Value>(&token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap();
        }
    }

    #[test]
    fn a_token_says_what_rfc_9068_asks_for_and_what_the_session_needs() {
        let folder = TestFolder::new();
        let signer = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        let claims = claims_of(&minted(
            &signer,
            &json!({"scope": "a", "roles": ["r"], "n": 9_007_199_254_740_993_u64}),
        ));
        let expected = json!({
            "iss": "https://gw.example", "sub": "u1", "aud": "api", "iat": 1_800_000_000, "exp": 1_800_000_600,
            "jti": claims["jti"], "sid": session().session.to_string(), "usr": session().user.to_string(),
            "gen": 5, "uep": 9, "scope": "a", "roles": ["r"], "n": 9_007_199_254_740_993_u64,
        });
        assert_eq!(claims, expected);
        assert_eq!(claims["jti"].as_str().unwrap().len(), 22);
        assert_ne!(claims["jti"], claims_of(&minted(&signer, &json!({})))["jti"]);
        assert_eq!(
            signer.mint("u1", &Map::new(), session(), LATER, NOW).unwrap().expires_in,
            Duration::from_secs(600)
        );
    }

    #[test]
    fn a_token_does_not_outlive_its_session() {
        let folder = TestFolder::new();
        let signer = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        for (left, lifetime) in [(599_999, 599), (600_000, 600), (601_000, 600), (1_000, 1), (999, 1), (0, 1)]
        {
            let ends = NOW.plus(Duration::from_millis(left));
            let minted = signer.mint("u1", &Map::new(), session(), ends, NOW).unwrap();
            let exp = claims_of(&minted.token)["exp"].as_u64();
            assert_eq!(
                (minted.expires_in.as_secs(), exp),
                (lifetime, Some(1_800_000_000 + lifetime)),
                "{left}"
            );
        }
    }

    #[test]
    fn several_audiences_are_a_list() {
        let folder = TestFolder::new();
        let signer = signer(&folder, &["a", "b"], SigningAlgorithm::EdDsa).unwrap();
        assert_eq!(claims_of(&minted(&signer, &json!({})))["aud"], json!(["a", "b"]));
    }

    #[test]
    fn a_directory_cannot_set_what_is_ours_to_set() {
        let folder = TestFolder::new();
        let signer = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        let evil: Map<_, _> = OURS.iter().map(|name| ((*name).to_owned(), json!("evil"))).collect();
        let claims = claims_of(&minted(&signer, &Value::Object(evil)));
        assert!(!claims.to_string().contains("evil"), "{claims}");
        assert!(claims.get("nbf").is_none());
    }

    #[test]
    fn the_first_fitting_key_signs_and_all_are_published() {
        let folder = TestFolder::new();
        let create = |name: &str, algorithm| key_folder::create(&folder.0, name, algorithm).unwrap();
        create("1-a.pem", SigningAlgorithm::EdDsa);
        create("2-b.pem", SigningAlgorithm::Es256);
        create("3-c.pem", SigningAlgorithm::Es256);
        let files = key_folder::read(&folder.0).unwrap();
        let es256 = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        assert_eq!(es256.kid(NOW).unwrap(), files[1].key.kid());
        assert_eq!(
            signer(&folder, &["api"], SigningAlgorithm::EdDsa).unwrap().kid(NOW).unwrap(),
            files[0].key.kid()
        );
        assert_eq!(es256.keys().size(), 3);
        let published: Value = serde_json::from_str(&es256.public_key_set()).unwrap();
        for (at, file) in files.iter().enumerate() {
            let key = &published["keys"][at];
            assert_eq!((&key["kid"], &key["use"]), (&json!(file.key.kid()), &json!("sig")));
            assert_eq!(key["alg"], file.key.algorithm().as_str());
        }
        let missing = signer(&folder, &["api"], SigningAlgorithm::Rs256).unwrap_err();
        assert!(matches!(missing, SignerError::NoKey { algorithm: SigningAlgorithm::Rs256, .. }));
    }

    #[test]
    fn a_new_key_is_published_before_it_signs_and_the_old_one_after() {
        let folder = TestFolder::new();
        let minute = Duration::from_secs(60);
        let signer = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        let old = signer.kid(NOW).unwrap();
        let from = NOW.plus(minute);
        key_folder::create(&folder.0, &key_stage::name_of(from), SigningAlgorithm::Es256).unwrap();
        assert_eq!(signer.keys().size(), 1, "nothing changes before it is read");
        assert!(signer.reload().unwrap());
        assert!(!signer.reload().unwrap(), "the same keys are no change");
        let published: Value = serde_json::from_str(&signer.public_key_set()).unwrap();
        assert_eq!((signer.keys().size(), published["keys"].as_array().unwrap().len()), (2, 2));
        let signed_by = |now| {
            let token = signer.mint("u1", &Map::new(), session(), LATER, now).unwrap().token;
            decode_header(&token).unwrap().kid.unwrap()
        };
        assert_eq!((signed_by(NOW), signer.kid(NOW).unwrap()), (old.clone(), old.clone()));
        let new = signed_by(from);
        assert_ne!(new, old);
        assert_eq!(signed_by(from.plus(minute * 1000)), new);

        fs::write(folder.0.join("broken.pem"), "x").unwrap();
        assert!(signer.reload().is_err());
        assert_eq!((signed_by(from), signer.keys().size()), (new, 2), "a broken folder changes nothing");
    }

    #[test]
    fn a_key_is_made_only_where_there_is_none() {
        let folder = TestFolder::new();
        let load = || {
            Signer::load(
                &folder.0,
                "i".into(),
                vec!["a".into()],
                Duration::from_secs(1),
                SigningAlgorithm::Es256,
            )
        };
        assert!(matches!(load(), Err(SignerError::NoKey { .. })));
        let made = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        assert_eq!(signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap().kid(NOW), made.kid(NOW));
        assert_eq!(load().unwrap().kid(NOW), made.kid(NOW));
    }

    #[test]
    fn a_token_is_never_shown_by_debug() {
        let folder = TestFolder::new();
        let token = signer(&folder, &["api"], SigningAlgorithm::Es256).unwrap();
        let token = token.mint("u1", &Map::new(), session(), LATER, NOW).unwrap();
        assert!(!format!("{token:?}").contains(&token.token[..20]));
    }
}
