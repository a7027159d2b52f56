//! What the parts of a request cost by themselves, and how that grows: with routes, issuers, keys, tokens kept,
//! sessions ended, sessions a user had, header fields. `cargo bench --bench parts` prints, for each part and size, nanoseconds (the
//! best and the median of many short runs) and the best in parts of that of the smallest size.

// A bench panics to fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::cast_precision_loss)]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use http::{HeaderName, Method};
use portcullis::clock::{SystemClock, Timestamp};
use portcullis::gateway::headers::ProtectedNames;
use portcullis::gateway::path::CanonicalPath;
use portcullis::json::ClaimPath;
use portcullis::key_set::cache::Fetching;
use portcullis::key_set::{Algorithm, KeySet, KeySetSettings, RefreshSettings, Source};
use portcullis::outbound::Client;
use portcullis::policy::forward::ForwardPlan;
use portcullis::policy::pattern::{HostPattern, PathPattern};
use portcullis::policy::requirement::Requirement;
use portcullis::policy::route::{RouteMatch, RouteTable};
use portcullis::policy::{Caller, authorize};
use portcullis::secret::Secret;
use portcullis::session::embedded::EmbeddedStore;
use portcullis::session::family::RotationPolicy;
use portcullis::session::id::{SessionId, SessionRef, UserKey};
use portcullis::session::revocation::Revocations;
use portcullis::session::store::{Delivery, NewSession, Revocation, SessionStore as _};
use portcullis::token::claims::VerifiedClaims;
use portcullis::token::signer::Signer;
use portcullis::token::signing_key::SigningAlgorithm;
use portcullis::token::verified_cache::VerifiedCache;
use portcullis::token::verifier::{IssuerSettings, TokenType, Verifier};
use serde_json::{Value, json};
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const RUNS: usize = 31;
const RUN: Duration = Duration::from_millis(4);
const SECRET: &[u8; 64] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    println!("| part | size | best, ns | median, ns | best / smallest |\n|---|---|---|---|---|");
    find_a_route();
    read_a_path();
    verify();
    try_keys();
    ask_for_revocations();
    open_a_session();
    decide();
    sort_out_headers();
}

/// The rows of one part; the first is what the others are held against.
struct Part {
    name: &'static str,
    smallest: Option<f64>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self { name, smallest: None }
    }

    /// Measures `work`, which is told the number of the call.
    fn row<T>(&mut self, size: &str, mut work: impl FnMut(usize) -> T) {
        let mut call = 0;
        let mut times: Vec<f64> = (0..RUNS)
            .map(|_| {
                let (start, first) = (Instant::now(), call);
                while start.elapsed() < RUN {
                    for _ in 0..16 {
                        black_box(work(call));
                        call += 1;
                    }
                }
                start.elapsed().as_nanos() as f64 / (call - first) as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let best = times[0];
        let growth = best / *self.smallest.get_or_insert(best);
        println!("| {} | {size} | {best:.0} | {:.0} | {growth:.2} |", self.name, times[RUNS / 2]);
    }
}

fn find_a_route() {
    for (name, hosts) in
        [("find a route, one host", 1), ("find a route, as many hosts as services", usize::MAX)]
    {
        let mut part = Part::new(name);
        for size in [10, 100, 1000, 10_000] {
            let host = |n: usize| format!("h{}.example.com", if hosts == 1 { 0 } else { n });
            let routes = (0..size).map(|n| RouteMatch {
                name: format!("r{n}"),
                hosts: vec![HostPattern::parse(&host(n)).unwrap()],
                path: PathPattern::parse(&format!("/service{n}/items/{{id}}/**")).unwrap(),
                methods: vec![Method::GET],
            });
            let table = RouteTable::build(routes.map(|route| (route, ()))).unwrap();
            let asked: Vec<_> =
                (0..size).map(|n| (host(n), format!("/service{n}/items/42/detail"))).collect();
            part.row(&size.to_string(), |call| {
                let (host, path) = &asked[call % 10 * (size / 10)];
                table.find(host, path, &Method::GET).unwrap();
            });
        }
    }
}

fn read_a_path() {
    let mut part = Part::new("read a path");
    for (size, path) in [
        ("20 bytes", "/orders/1234567/lines".to_owned()),
        ("200 bytes", "/orders/1234567/lines".repeat(10)),
        ("2,000 bytes", "/orders/1234567/lines".repeat(100)),
        ("200 bytes, escapes", "/orders/%C3%A9%20x7/lin".repeat(9)),
    ] {
        part.row(size, |_| CanonicalPath::parse(path.as_bytes()).unwrap());
    }
}

fn issuer(number: usize) -> IssuerSettings {
    let path = |name| vec![ClaimPath::parse(name).unwrap()];
    IssuerSettings {
        name: format!("issuer-{number}"),
        issuer: format!("https://id.example.com/realms/{number:06}"),
        audiences: vec!["api".into()],
        algorithms: vec![Algorithm::Hs256],
        keys: KeySetSettings {
            source: Source::Secret(Secret::new(SECRET.to_vec())),
            refresh: RefreshSettings::default(),
            copy_file: None,
        },
        leeway: Duration::ZERO,
        max_lifetime: None,
        token_type: TokenType::Any,
        scopes: path("scope"),
        roles: path("roles"),
    }
}

/// A token of that issuer, of about 500 bytes.
fn token(issuer: usize, number: usize) -> String {
    let claims = json!({
        "iss": format!("https://id.example.com/realms/{issuer:06}"), "aud": "api", "sub": format!("user-{number}"),
        "exp": NOW.as_secs() + 3600, "iat": NOW.as_secs(), "scope": "openid profile orders:read orders:write",
        "roles": ["customer", "beta"], "email": format!("user-{number}@example.com"), "tenant": "t-42",
        "jti": format!("b5a1d5a8-9a3a-4a71-8f6e-{number:012}"),
    });
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn verifier(issuers: Vec<IssuerSettings>, cache_bytes: u64) -> Verifier {
    let fetching = Fetching {
        clock: Arc::new(SystemClock),
        client: Client::new().unwrap(),
        runtime: tokio::runtime::Handle::current(),
        observer: Arc::new(|_| ()),
    };
    let cache = Arc::new(VerifiedCache::new(cache_bytes, Arc::new(|_| ())));
    Verifier::new(issuers, None, &fetching, cache, None).unwrap()
}

fn claims_of(verifier: &Verifier, token: &str) -> Arc<VerifiedClaims> {
    let mut claims = pin!(verifier.verify(token, NOW));
    // It gives way once, and waits for nobody.
    loop {
        if let Some(claims) = claims.as_mut().now_or_never() {
            return claims.unwrap();
        }
    }
}

fn verify() {
    let mut part = Part::new("verify a token that is known, tokens kept");
    for size in [1, 100, 10_000, 100_000] {
        let verifier = verifier(vec![issuer(0)], 1 << 30);
        let tokens: Vec<_> = (0..size).map(|number| token(0, number)).collect();
        for token in &tokens {
            claims_of(&verifier, token);
        }
        // A stride that meets them in no order.
        part.row(&size.to_string(), |call| claims_of(&verifier, &tokens[call * 7919 % size]));
    }
    let mut part = Part::new("verify a token that is not (HS256), issuers");
    for size in [1, 10, 100, 1000] {
        let verifier = verifier((0..size).map(issuer).collect(), 0);
        let tokens: Vec<_> = (0..size).map(|number| token(number, 0)).collect();
        part.row(&size.to_string(), |call| claims_of(&verifier, &tokens[call * 7919 % size]));
    }
    let mut part = Part::new("verify a token of our own that is not known");
    for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa, SigningAlgorithm::Rs256] {
        let folder = std::env::temp_dir().join(format!("portcullis-parts-{}", std::process::id()));
        let lifetime = Duration::from_secs(600);
        let signer = Signer::load_or_create(
            &folder,
            "https://gw.example".into(),
            vec!["api".into()],
            lifetime,
            algorithm,
        );
        let signer = signer.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let session = SessionRef {
            session: SessionId::from_bytes([1; 16]),
            user: UserKey::from_bytes([2; 12]),
            generation: 0,
            epoch: 0,
        };
        let claims = json!({"scope": "orders:read orders:write", "roles": ["customer"]});
        let token = signer
            .mint("user-1", claims.as_object().unwrap(), session, NOW.plus(Duration::from_secs(3600)), NOW)
            .unwrap()
            .token;
        let cache = Arc::new(VerifiedCache::new(0, Arc::new(|_| ())));
        let verifier = Verifier::own_only(signer.own_issuer(), cache);
        part.row(algorithm.as_str(), |_| claims_of(&verifier, &token));
    }
}

/// A signature is checked by the key of its name, wherever that stands in the set.
fn try_keys() {
    let mut part = Part::new("check a signature (Ed25519), keys in the set");
    for size in [1, 10, 100] {
        let pairs: Vec<_> =
            (0..size).map(|_| aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap()).collect();
        let jwk = |(number, pair): (usize, &aws_lc_rs::signature::Ed25519KeyPair)| {
            let public = aws_lc_rs::signature::KeyPair::public_key(pair);
            json!({"kty": "OKP", "crv": "Ed25519", "kid": format!("k{number}"), "x": URL_SAFE_NO_PAD.encode(public)})
        };
        let keys: Vec<Value> = pairs.iter().enumerate().map(jwk).collect();
        let set = KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        let signature = pairs[size - 1].sign(b"message");
        let kid = format!("k{}", size - 1);
        part.row(&size.to_string(), |_| {
            set.verify(Some(&kid), Algorithm::EdDsa, b"message", signature.as_ref())
        });
    }
}

fn ask_for_revocations() {
    let mut part = Part::new("ask whether a session has ended, sessions ended");
    let session = |number: usize| {
        let mut bytes = [0; 16];
        // As random as the real ones.
        let number = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        bytes.copy_from_slice(&number.to_be_bytes());
        SessionId::from_bytes(bytes)
    };
    for size in [0, 1000, 100_000, 1_000_000] {
        let revocations = Revocations::new(Duration::from_secs(3600), NOW);
        let user = UserKey::from_bytes([2; 12]);
        let until = NOW.plus(Duration::from_secs(3600));
        let ended: Vec<_> =
            (0..size).map(|n| Revocation::Session { session: session(n), user, until }).collect();
        revocations.apply(&ended);
        part.row(&size.to_string(), |call| {
            let session = session(size + call % 4096);
            revocations.is_revoked(&SessionRef { session, user, generation: 0, epoch: 0 })
        });
    }
}

/// On the embedded store, durably: each ends the longest idle of the fifty that the user may have.
fn open_a_session() {
    let mut part = Part::new("open a session, embedded store, sessions the user had");
    let user = UserKey::from_bytes([2; 12]);
    let folder = std::env::temp_dir().join(format!("portcullis-parts-{}", std::process::id()));
    for size in [100, 1000, 10_000] {
        let file = folder.join(format!("{size}.redb"));
        let store = EmbeddedStore::open(&file, RotationPolicy::default(), Arc::new(SystemClock)).unwrap();
        let open = async |number: usize| {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&number.to_be_bytes());
            let new = NewSession {
                id: SessionId::from_bytes(id),
                user,
                secret_hash: [5; 32],
                subject: "user-1".to_owned(),
                claims: serde_json::Map::new(),
                delivery: Delivery::Body,
                absolute_expiry: Timestamp::from_secs(u64::MAX / 4000),
                device: None,
                address: None,
                known_epoch: 0,
            };
            store.open(new).await.unwrap()
        };
        let runtime = tokio::runtime::Handle::current();
        for number in 0..size {
            runtime.block_on(open(number));
        }
        part.row(&size.to_string(), |call| runtime.block_on(open(size + call)));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

fn decide() {
    let verifier = verifier(vec![issuer(0)], 1 << 20);
    let claims = claims_of(&verifier, &token(0, 0));
    let (requirement, plan) = (Requirement::default(), ForwardPlan::default());
    let mut part = Part::new("authorize, four identity headers");
    part.row("at hand", |_| authorize(&requirement, &plan, Caller::Verified(Arc::clone(&claims))));
    part.row("made anew", |_| {
        let claims = Arc::new(VerifiedClaims::clone(&claims));
        authorize(&requirement, &plan, Caller::Verified(claims))
    });
}

fn sort_out_headers() {
    let mut part = Part::new("look for header names that are not passed on, fields");
    let identity: Vec<HeaderName> =
        ForwardPlan::default().headers.iter().map(|rule| rule.name.name().clone()).collect();
    let protected = ProtectedNames::new(&identity).unwrap();
    let usual =
        ["host", "user-agent", "accept", "accept-encoding", "authorization", "cookie", "x-b3-traceid"];
    for size in [7, 70] {
        let names: Vec<String> = (0..size)
            .map(|n| if n < 7 { usual[n].to_owned() } else { format!("{}-{n}", usual[n % 7]) })
            .collect();
        part.row(&size.to_string(), |_| {
            names.iter().filter(|name| protected.is_dropped(name, false)).count()
        });
    }
}
