//! How often one caller may use a route: what is counted, and what clients are told about it.

use super::Gateway;
use super::context::RequestContext;
use super::snapshot::ServedRoute;
use crate::gcra::{Bucket, Ledger};
use crate::token::claims::VerifiedClaims;
use aws_lc_rs::digest;
use http::header::{HeaderName, HeaderValue};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Parts of the counters with a lock each, held for a few instructions.
const SHARDS: usize = 64;

/// Callers counted at one time, on all routes together. Beyond it those are forgotten who used least of theirs.
const CAPACITY: usize = 256 * 1024;

/// Fields of draft-ietf-httpapi-ratelimit-headers, in the form it has since version 08.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// How often one caller may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    requests: u32,
    per: Duration,
    by: By,
}

/// Who is one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The verified subject of an issuer; whoever is nobody's subject counts by address.
    Subject,
    /// The client's address, after trusted proxies; a /64 of IPv6.
    Address,
}

impl RateLimit {
    /// As many `requests` at once; they come back evenly, all of them in the time `per`.
    pub fn new(requests: u32, per: Duration, by: By) -> Self {
        Self { requests: requests.max(1), per, by }
    }

    fn bucket(&self) -> Bucket {
        Bucket { burst: self.requests, every: self.per / self.requests }
    }
}

/// How a caller stands with a limit after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    limit: RateLimit,
    counted_by: By,
    left: u32,
    full_in: Duration,
    /// How long until a request is let through again; zero if this one was.
    pub(super) wait: Duration,
}

impl Standing {
    /// What an answer says about it.
    pub(super) fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let name = match self.counted_by {
            By::Subject => "subject",
            By::Address => "address",
        };
        let RateLimit { requests, per, .. } = self.limit;
        // The window is in whole seconds there, or is not told.
        let is_whole = per.subsec_nanos() == 0 && !per.is_zero();
        let window = if is_whole { format!(";w={}", per.as_secs()) } else { String::new() };
        let policy = format!("\"{name}\";q={requests}{window}");
        let limit = format!("\"{name}\";r={};t={}", self.left, seconds(self.full_in));
        let fields = [(POLICY, policy), (LIMIT, limit)];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.try_into().ok()?))).collect()
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Who is counted.
#[derive(Debug, Clone, Copy)]
enum Caller<'a> {
    Subject { issuer: &'a str, subject: &'a str },
    Address(IpAddr),
}

/// Whom a counter belongs to, shortened. 128 bits, so that nobody finds another caller with their own counter.
type Name = [u8; 16];

/// What was counted, for as long as the gateway runs: a reload leaves the counters of routes alone that keep
/// their name and their limit.
pub(super) struct Counters {
    shards: Vec<Mutex<Ledger<Name>>>,
    /// Callers cannot choose their shard.
    hasher: RandomState,
    start: Instant,
}

impl Counters {
    pub(super) fn new() -> Self {
        let shard = || Mutex::new(Ledger::new(CAPACITY / SHARDS));
        let shards = std::iter::repeat_with(shard).take(SHARDS).collect();
        Self { shards, hasher: RandomState::new(), start: Instant::now() }
    }

    /// Counts a request, if there is one left. A refused one costs nothing.
    fn take(&self, route: &str, limit: RateLimit, caller: Caller<'_>, now: Duration) -> Standing {
        let bucket = limit.bucket();
        let name = name(route, limit, caller);
        let counted_by = if matches!(caller, Caller::Subject { .. }) { By::Subject } else { By::Address };
        let told = |full_at: Option<Duration>, wait| Standing {
            limit,
            counted_by,
            left: bucket.left(full_at, now),
            full_in: full_at.unwrap_or(now).saturating_sub(now),
            wait,
        };
        let shard = usize::try_from(self.hasher.hash_one(name) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(shard) else { return told(None, Duration::ZERO) };
        let mut ledger = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = ledger.wait(&name, bucket, now);
        if wait.is_zero() {
            ledger.take(name, bucket, now);
        }
        told(ledger.until(&name), wait)
    }
}

/// Every part has its length before it, so that no two callers look alike.
fn name(route: &str, limit: RateLimit, caller: Caller<'_>) -> Name {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut put = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    put(route.as_bytes());
    put(&limit.requests.to_be_bytes());
    put(&limit.per.as_nanos().to_be_bytes());
    match caller {
        Caller::Subject { issuer, subject } => {
            put(issuer.as_bytes());
            put(subject.as_bytes());
        }
        Caller::Address(address) => match address.to_canonical() {
            IpAddr::V4(address) => put(&address.octets()),
            // The half that a customer of a provider has to choose freely is left out.
            IpAddr::V6(address) => {
                put(&Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).octets());
            }
        },
    }
    let mut name = Name::default();
    name.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    name
}

impl Gateway {
    /// Whether a request is within its route's limit, where that counts at this point of its way. It counts
    /// addresses before anything is verified, and subjects once one is authorised.
    pub(super) fn is_within_rate(
        &self,
        ctx: &mut RequestContext,
        served: &ServedRoute,
        by: By,
        claims: Option<&VerifiedClaims>,
    ) -> bool {
        let Some(limit) = served.route.rate_limit.filter(|limit| limit.by == by) else { return true };
        let caller = match claims {
            Some(claims) => Caller::Subject { issuer: claims.issuer(), subject: claims.subject() },
            None => Caller::Address(ctx.client),
        };
        let Some(counters) = &self.counters else { return true };
        let now = counters.start.elapsed();
        let standing = counters.take(served.route.name(), limit, caller, now);
        let within = standing.wait.is_zero();
        ctx.standing = Some(standing);
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const NOW: Duration = Duration::from_secs(100);

    fn limit(requests: u32, per: Duration) -> RateLimit {
        RateLimit::new(requests, per, By::Subject)
    }

    fn subject<'a>(issuer: &'a str, subject: &'a str) -> Caller<'a> {
        Caller::Subject { issuer, subject }
    }

    fn address(text: &str) -> Caller<'static> {
        Caller::Address(text.parse().unwrap())
    }

    fn granted(counters: &Counters, route: &str, caller: Caller<'_>) -> bool {
        counters.take(route, limit(1, Duration::from_secs(60)), caller, NOW).wait.is_zero()
    }

    #[test]
    fn each_route_and_each_caller_has_its_own_count() {
        let counters = Counters::new();
        for (route, caller) in [
            ("a", subject("corp", "u1")),
            ("b", subject("corp", "u1")),
            ("a", subject("corp", "u2")),
            ("a", subject("other", "u1")),
            ("a", subject("corpu", "1")),
            ("a", address("10.0.0.1")),
            ("a", address("10.0.0.2")),
            ("a", address("2001:db8::1")),
            ("a", address("2001:db8:0:1::1")),
        ] {
            assert!(granted(&counters, route, caller), "{route} {caller:?}");
            assert!(!granted(&counters, route, caller), "{route} {caller:?}");
        }
        for same in ["2001:db8::ffff:1", "::ffff:10.0.0.1"] {
            assert!(!granted(&counters, "a", address(same)), "{same}");
        }
        // Another limit counts anew.
        assert!(counters.take("a", limit(2, NOW), subject("corp", "u1"), NOW).wait.is_zero());
    }

    #[test]
    fn rates_far_above_one_a_millisecond_are_kept() {
        let counters = Counters::new();
        let limit = limit(100_000, Duration::from_secs(1));
        let take = |now| counters.take("a", limit, subject("i", "s"), now).wait.is_zero();
        assert_eq!((0..150_000).filter(|_| take(NOW)).count(), 100_000);
        let later = NOW + Duration::from_millis(1);
        assert_eq!((0..1000).filter(|_| take(later)).count(), 100);
    }

    #[test]
    fn clients_are_told_what_is_left_and_when_to_come_back() {
        let counters = Counters::new();
        let told = |limit, caller| -> (Vec<String>, Duration) {
            let standing: Standing = counters.take("a", limit, caller, NOW);
            let fields = standing.fields();
            (fields.iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect(), standing.wait)
        };
        let minute = limit(2, Duration::from_secs(60));
        let caller = subject("i", "s");
        assert_eq!(told(minute, caller).0, ["\"subject\";q=2;w=60", "\"subject\";r=1;t=30"]);
        assert_eq!(told(minute, caller).0, ["\"subject\";q=2;w=60", "\"subject\";r=0;t=60"]);
        let refused =
            (vec!["\"subject\";q=2;w=60".to_owned(), "\"subject\";r=0;t=60".to_owned()], NOW * 3 / 10);
        assert_eq!(told(minute, caller), refused);
        let half = limit(4, Duration::from_millis(500));
        assert_eq!(told(half, address("::1")).0, ["\"address\";q=4", "\"address\";r=3;t=1"]);
        assert_eq!(told(limit(1, Duration::ZERO), caller).0, ["\"subject\";q=1", "\"subject\";r=1;t=0"]);
    }

    #[test]
    fn many_threads_take_no_more_than_there_is() {
        let counters = Arc::new(Counters::new());
        let take = |counters: Arc<Counters>| {
            let taken = move || {
                let limit = limit(1000, Duration::from_secs(3600));
                let granted = |_: &u32| counters.take("a", limit, subject("i", "s"), NOW).wait.is_zero();
                (0..1000_u32).filter(granted).count()
            };
            std::thread::spawn(taken)
        };
        let threads: Vec<_> = (0..4).map(|_| take(Arc::clone(&counters))).collect();
        assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1000);
    }
}
