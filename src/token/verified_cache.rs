//! Tokens verified before: what makes a signature check rare. Only good tokens are kept, each under its whole
//! text, and each hit checks again what may have changed since.
//!
//! Once much is kept, a token is kept when it comes for the second time: those that come once, as machines fetch them for each
//! call, take nobody's place and cost no memory that is out of the processor's reach.

use super::claims::VerifiedClaims;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, Weighter};
use serde_json::{Map, Value};
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// How a look-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The token was verified before and is still good.
    Hit,
    /// It has to be verified.
    Miss,
}

/// Who is told of each look-up.
pub type LookupObserver = Arc<dyn Fn(Lookup) + Send + Sync>;

/// The cache. It outlives a change of the configuration; its entries do not.
pub struct VerifiedCache {
    entries: Cache<Token, Entry, Weight, RandomState>,
    observer: LookupObserver,
    numbers: AtomicU64,
    /// Bytes that may still be filled with tokens that come for the first time.
    free: AtomicU64,
    came: Came,
}

/// Which tokens have come once. It forgets, and may take one token for another: all that hangs on it is when a good
/// token is kept.
struct Came {
    /// In groups; a token has its place in one of them.
    marks: Box<[[AtomicU32; 4]]>,
    /// Which of a full group the next mark takes the place of.
    next: AtomicUsize,
    hasher: RandomState,
}

impl Came {
    const GROUPS: usize = 1 << 14;

    fn new() -> Self {
        let group = |_| std::array::from_fn(|_| AtomicU32::new(0));
        let marks = (0..Self::GROUPS).map(group).collect();
        Self { marks, next: AtomicUsize::new(0), hasher: RandomState::new() }
    }

    /// Notes that a token comes; whether it came before.
    fn again(&self, token: &[u8]) -> bool {
        let [a, b, c, d, place @ ..] = self.hasher.hash_one(Sought(token)).to_ne_bytes();
        // Zero is no mark.
        let mark = u32::from_ne_bytes([a, b, c, d]) | 1;
        let place = u32::from_ne_bytes(place) as usize % Self::GROUPS;
        let Some(group) = self.marks.get(place) else { return false };
        let find = |mark| group.iter().find(|known| known.load(Ordering::Relaxed) == mark);
        if let Some(known) = find(mark) {
            known.store(0, Ordering::Relaxed);
            return true;
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed) % group.len();
        if let Some(place) = find(0).or_else(|| group.get(next)) {
            place.store(mark, Ordering::Relaxed);
        }
        false
    }
}

/// A token's text, compared whole. A digest of it would cost more than all the rest of a look-up.
#[derive(PartialEq, Eq)]
struct Token(Box<[u8]>);

/// A token that is looked for.
struct Sought<'a>(&'a [u8]);

/// A verified token, and by what it was verified.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) claims: Arc<VerifiedClaims>,
    /// Which verifier, hence which configuration.
    pub(super) verifier: u64,
    /// Which of that verifier's issuers.
    pub(super) issuer: usize,
    /// Which generation of that issuer's keys.
    pub(super) generation: u64,
    /// The memory that it takes, about.
    bytes: u64,
}

impl Entry {
    pub(super) fn new(claims: Arc<VerifiedClaims>, verifier: u64, issuer: usize, generation: u64) -> Self {
        let all = claims.all();
        let lists = [&claims.scopes, &claims.roles, &claims.audiences];
        let lists: usize = lists.into_iter().map(|list| texts(list)).sum();
        // What is said comes up again as header values.
        let bytes = ENTRY_BYTES + members(all) + text(&claims.subject) + lists + said(all);
        Self { claims, verifier, issuer, generation, bytes: bytes as u64 }
    }
}

/// What one entry takes beside its claims and the token's text.
const ENTRY_BYTES: usize = 700;

/// A node of an object's tree, which has 11 members at most, and 5 at least if it is not the only one.
const NODE_BYTES: usize = 640;

/// What the members of an object take.
fn members(object: &Map<String, Value>) -> usize {
    let nodes = match object.len() {
        0 => 0,
        1..=11 => 1,
        more => more.div_ceil(5),
    };
    let members = object.iter().map(|(name, value)| text(name) + heap(value));
    nodes * NODE_BYTES + members.sum::<usize>()
}

/// What a claim takes beside the value itself.
fn heap(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(value) => text(value),
        Value::Array(elements) => {
            grown(elements.len()) * size_of::<Value>() + elements.iter().map(heap).sum::<usize>()
        }
        Value::Object(object) => members(object),
    }
}

fn texts(list: &[String]) -> usize {
    grown(list.len()) * size_of::<String>() + list.iter().map(|value| text(value)).sum::<usize>()
}

fn text(text: &str) -> usize {
    text.len().next_multiple_of(8)
}

/// Elements that a list has room for which came one by one.
fn grown(elements: usize) -> usize {
    if elements == 0 { 0 } else { elements.next_power_of_two().max(4) }
}

/// The texts of claims, one behind the other.
fn said(object: &Map<String, Value>) -> usize {
    fn value(of: &Value) -> usize {
        match of {
            Value::Null | Value::Bool(_) | Value::Number(_) => size_of::<Value>(),
            Value::String(text) => text.len(),
            Value::Array(elements) => elements.iter().map(value).sum(),
            Value::Object(object) => said(object),
        }
    }
    object.values().map(value).sum()
}

#[derive(Clone)]
struct Weight;

impl Weighter<Token, Entry> for Weight {
    fn weight(&self, token: &Token, entry: &Entry) -> u64 {
        token.0.len() as u64 + entry.bytes
    }
}

/// A usual entry, by which the cache is laid out.
const USUAL_BYTES: u64 = 4096;

/// Of the end of a token this much is hashed. It is the signature's: no two good tokens have the same by
/// chance, and only who can sign good tokens could choose it.
const HASHED_BYTES: usize = 32;

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let text = self.0;
        state.write(text.get(text.len().saturating_sub(HASHED_BYTES)..).unwrap_or_default());
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Sought(&self.0).hash(state);
    }
}

impl Equivalent<Token> for Sought<'_> {
    fn equivalent(&self, token: &Token) -> bool {
        *self.0 == *token.0
    }
}

/// What a gateway's verified tokens may take together, in bytes: enough for some 19,000 of 800 bytes each.
pub const VERIFIED_CACHE_BYTES: u64 = 64 * 1024 * 1024;

impl VerifiedCache {
    /// A cache of about `max_bytes` bytes; zero keeps nothing.
    pub fn new(max_bytes: u64, observer: LookupObserver) -> Self {
        let usual = usize::try_from(max_bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        let entries = Cache::with(usual, max_bytes, Weight, RandomState::new(), DefaultLifecycle::default());
        let free = AtomicU64::new(max_bytes / 4);
        Self { entries, observer, numbers: AtomicU64::new(1), free, came: Came::new() }
    }

    /// A number no other verifier of this cache has, and no other token: higher than all before, and than 0.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The claims of a token that is kept, if `is_good` says that it still is. The text may be any.
    pub(super) fn get(
        &self,
        token: &[u8],
        is_good: impl FnOnce(&Entry) -> bool,
    ) -> Option<Arc<VerifiedClaims>> {
        let entry = self.entries.get(&Sought(token)).filter(is_good)?;
        (self.observer)(Lookup::Hit);
        Some(entry.claims)
    }

    /// A token has to be verified.
    pub(super) fn missed(&self) {
        (self.observer)(Lookup::Miss);
    }

    pub(super) fn insert(&self, token: &str, entry: Entry) {
        let token = token.as_bytes();
        let bytes = token.len() as u64 + entry.bytes;
        let fill = |free: u64| free.checked_sub(bytes);
        let fits = || self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill).is_ok();
        let keep = match self.entries.peek(&Sought(token)) {
            // Verified anew after a change of the keys or the configuration, it has its place already. It is not an older
            // verifier's to take: each would verify what it has kept for the other.
            Some(kept) => kept.verifier <= entry.verifier,
            None => fits() || self.came.again(token),
        };
        if keep {
            self.entries.insert(Token(token.into()), entry);
        }
    }
}

impl fmt::Debug for VerifiedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedCache").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cache(max_bytes: u64) -> VerifiedCache {
        VerifiedCache::new(max_bytes, Arc::new(|_| ()))
    }

    fn entry(subject: &str) -> Entry {
        let claims = Arc::new(VerifiedClaims::sample("corp", &json!({ "sub": subject })));
        Entry::new(claims, 0, 0, 0)
    }

    #[test]
    fn tokens_that_end_alike_are_kept_apart() {
        let cache = cache(1 << 20);
        let end = "x".repeat(2 * HASHED_BYTES);
        for subject in ["a", "b"] {
            cache.insert(&format!("{subject}{end}"), entry(subject));
        }
        for subject in ["a", "b"] {
            assert_eq!(cache.get(format!("{subject}{end}").as_bytes(), |_| true).unwrap().subject(), subject);
        }
        for other in ["", "x", &end, &format!("c{end}"), &format!("a{end}x"), &format!("A{end}")] {
            assert!(cache.get(other.as_bytes(), |_| true).is_none(), "{other}");
        }
    }

    #[test]
    fn ten_thousand_usual_tokens_are_at_hand() {
        let cache = cache(VERIFIED_CACHE_BYTES);
        let all = 0..10_000;
        let (text, end) = ("x".repeat(750), "y".repeat(20));
        let token = |number| format!("{text}{number:020}{end}");
        let usual = json!({
            "iss": "https://id.example.com/realms/staff", "sub": "5a0f1d0e-4a34-4c4b-9d0c-1f8f5e6d7c8b",
            "aud": ["api", "orders"], "exp": 1_800_000_300, "iat": 1_800_000_000,
            "jti": "b5a1d5a8-9a3a-4a71-8f6e-000000000000", "client_id": "orders-web", "tenant": "t-42",
            "scope": "openid profile orders:read orders:write", "email": "user-0000001@example.com",
            "roles": ["clerk", "beta"],
        });
        let claims = Arc::new(VerifiedClaims::sample("corp", &usual));
        let misses = || {
            let is_missing = |token: &String| cache.get(token.as_bytes(), |_| true).is_none();
            let missed = all.clone().map(token).filter(is_missing);
            missed.map(|token| cache.insert(&token, Entry::new(Arc::clone(&claims), 0, 0, 0))).count()
        };
        assert_eq!(misses(), all.len());
        // What did not find room at once has come for the second time then; a few marks may have been lost.
        let second = misses();
        assert!((1..all.len()).contains(&second), "{second}: {cache:?}");
        assert!(misses() < 20, "{cache:?}");
        let one = cache.entries.weight() / cache.entries.len() as u64;
        assert!((3000..USUAL_BYTES).contains(&one), "{one}");
    }

    #[test]
    fn once_much_is_kept_a_token_that_comes_once_is_not() {
        let cache = cache(1 << 20);
        let token = |number: usize| format!("{number:0500}");
        let kept = |number| cache.get(token(number).as_bytes(), |_| true).is_some();
        for number in 0..1000 {
            cache.insert(&token(number), entry("a"));
        }
        let first = (0..1000).filter(|number| kept(*number)).count();
        assert!(kept(0) && kept(100) && !kept(999), "{cache:?}");
        assert!(cache.entries.weight() <= (1 << 20) / 4, "{cache:?}");
        cache.insert(&token(999), entry("a"));
        assert!(kept(999));
        assert_eq!((0..1000).filter(|number| kept(*number)).count(), first + 1);
    }

    #[test]
    fn what_is_kept_and_no_longer_good_gives_its_place_to_the_same_token() {
        let cache = cache(1 << 20);
        for number in 0..1000 {
            cache.insert(&format!("{number:0500}"), entry("a"));
        }
        // Not all have found room, and no more has room.
        let kept = cache.entries.len();
        assert!(kept < 1000, "{cache:?}");
        let is_new = |entry: &Entry| entry.verifier == 1;
        for number in 0..kept {
            let token = format!("{number:0500}");
            assert!(cache.get(token.as_bytes(), is_new).is_none());
            cache.insert(&token, Entry { verifier: 1, ..entry("a") });
            assert!(cache.get(token.as_bytes(), is_new).is_some(), "{number}");
        }
        assert_eq!(cache.entries.len(), kept);
    }

    #[test]
    fn what_a_later_verifier_keeps_is_not_given_to_an_earlier_one() {
        let cache = cache(1 << 20);
        for number in [1, 0, 2, 1] {
            cache.insert("token", Entry { verifier: number, ..entry("a") });
        }
        assert!(cache.get(b"token", |entry| entry.verifier == 2).is_some());
    }

    #[test]
    fn what_a_token_says_counts_wherever_it_stands() {
        let bytes =
            |claims: Value| Entry::new(Arc::new(VerifiedClaims::sample("corp", &claims)), 0, 0, 0).bytes;
        let none = bytes(json!({}));
        let long = "x".repeat(1000);
        for (claims, least) in [
            (json!({ "a": long }), 2000),
            (json!({ "a": [long] }), 2000),
            (json!({ "a": {"b": {"c": long}} }), 2000),
            // Names do not come up again, but each is there as often as it is said.
            (json!({ &long: 1 }), 1000),
            (json!({ "sub": long, "scope": long, "roles": long, "aud": long }), 12 * 1000),
            // An object takes a node, and a list has room for four.
            (json!({ "a": vec![json!({"b": 1}); 40] }), 40 * NODE_BYTES),
            (json!({ "a": vec![json!({}); 40] }), 64 * size_of::<Value>()),
            (json!({ "a": vec![json!([1]); 40] }), 40 * 4 * size_of::<Value>()),
            (json!({ "scope": "a ".repeat(500) }), 512 * size_of::<String>()),
            (Value::Object((0..100).map(|n| (n.to_string(), json!(1))).collect()), 100 / 11 * NODE_BYTES),
        ] {
            assert!(
                bytes(claims.clone()) >= none + least as u64,
                "{claims}: {}",
                bytes(claims.clone()) - none
            );
        }
    }

    #[test]
    fn it_stays_within_its_bytes_and_may_have_none() {
        let small = cache(100_000);
        for number in 0..1000 {
            for _ in 0..2 {
                small.insert(&format!("{number:0500}"), entry("a"));
            }
        }
        assert!(small.entries.weight() <= 100_000 && small.entries.len() > 10, "{small:?}");
        let none = cache(0);
        none.insert("a", entry("a"));
        assert!(none.get(b"a", |_| true).is_none());
    }
}
