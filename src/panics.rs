//! A panic is a bug, and stays where it happened: contained there, with the work begun again, and told and
//! counted by the place.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

/// Time before work that panicked is begun again.
const AGAIN: Duration = Duration::from_millis(500);

macro_rules! places {
    ($($(#[$doc:meta])* $variant:ident => $word:literal,)+) => {
        /// Where this process does its work: the closed list of the metric's label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Place { $($(#[$doc])* $variant,)+ }

        impl Place {
            /// Every place.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word users see.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

places! {
    /// Deciding about a request.
    Request => "request",
    /// A client's connection, with all else that is done for its requests.
    Connection => "connection",
    /// Accepting connections.
    Listener => "listener",
    /// Taking over a changed configuration.
    Reload => "reload",
    /// Taking over changed certificates.
    Certificates => "certificates",
    /// Taking over a changed users file, asking a directory.
    Users => "users",
    /// Following the signing keys.
    SigningKeys => "signing_keys",
    /// Fetching issuers' keys.
    KeySets => "key_sets",
    /// Resolving upstreams' names.
    Resolver => "resolver",
    /// Checking upstreams' health.
    HealthChecks => "health_checks",
    /// Closing connections to upstreams that are not needed any more.
    UpstreamConnections => "upstream_connections",
    /// Following the store's feed of what was ended.
    Revocations => "revocations",
    /// Comparing this machine's clock with the store's.
    StoreClock => "store_clock",
    /// Telling the store which tokens are in use.
    Confirmations => "confirmations",
    /// Carrying out logouts that the store could not take.
    Logouts => "logouts",
    /// Reading and writing the session store.
    Store => "store",
    /// Verifying passwords.
    Passwords => "passwords",
    /// Slow signatures, on threads of their own.
    Signatures => "signatures",
    /// Writing access and audit lines.
    AccessLog => "access_log",
    /// Handing the listening sockets to a new process.
    Handover => "handover",
    /// What holds all of it together.
    Process => "process",
    /// Anywhere else: the tasks of libraries.
    Elsewhere => "elsewhere",
}

tokio::task_local! {
    static HERE: Place;
}

impl Place {
    /// Where the running thread is at work: what a panic hook asks.
    pub fn here() -> Self {
        HERE.try_with(|place| *place).unwrap_or(Self::Elsewhere)
    }
}

/// The work panicked, and was dropped where it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a panic, which is a fault of the gateway; see the log")]
pub struct Panicked;

/// Does the work; a panic in it ends nothing else.
///
/// # Errors
/// [`Panicked`].
pub async fn contain<T>(place: Place, work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    let watched = poll_fn(|cx| {
        injected(place);
        work.as_mut().poll(cx)
    });
    HERE.scope(place, AssertUnwindSafe(watched).catch_unwind()).await.map_err(|_| Panicked)
}

/// The same for work that does not wait.
///
/// # Errors
/// [`Panicked`].
pub fn contain_now<T>(place: Place, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let watched = || {
        injected(place);
        work()
    };
    HERE.sync_scope(place, || catch_unwind(AssertUnwindSafe(watched))).map_err(|_| Panicked)
}

/// The same for work that blocks: it gets a thread of its own.
///
/// # Errors
/// [`Panicked`], also when the runtime is stopping.
pub async fn contain_blocking<T: Send + 'static>(
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    let done = tokio::task::spawn_blocking(move || contain_now(place, work)).await;
    done.unwrap_or(Err(Panicked))
}

/// Does work in the background to its end. After a panic it is begun again, with the state it has left.
pub async fn keep_up<S, T>(
    place: Place,
    mut state: S,
    work: impl for<'a> Fn(&'a mut S) -> BoxFuture<'a, T>,
) -> T {
    loop {
        if let Ok(ended) = contain(place, work(&mut state)).await {
            return ended;
        }
        tokio::time::sleep(AGAIN).await;
        tracing::warn!(place = place.as_str(), "work that panicked is begun again");
    }
}

/// For tests, and only in builds with debug assertions: panics if in the folder that the environment names there
/// is a file with the name of the place, and takes the file away. Release builds have nothing of the kind.
#[cfg(debug_assertions)]
fn injected(place: Place) {
    #[expect(clippy::disallowed_methods, reason = "no setting: a release build does not look")]
    let folder = std::env::var_os("PORTCULLIS_DEBUG_PANICS");
    if let Some(folder) = folder {
        let file = std::path::Path::new(&folder).join(place.as_str());
        assert!(std::fs::remove_file(file).is_err(), "injected");
    }
}

#[cfg(not(debug_assertions))]
const fn injected(_: Place) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_begun_again_with_its_state_until_it_ends() {
        let times = keep_up(Place::Users, 0, |times| {
            Box::pin(async {
                *times += 1;
                assert_eq!(Place::here(), Place::Users);
                tokio::task::yield_now().await;
                assert_eq!(Place::here(), Place::Users);
                assert!(*times > 1, "the first time");
                *times
            })
        });
        assert_eq!(times.await, 2);
        assert_eq!(Place::here(), Place::Elsewhere);
    }

    #[tokio::test]
    async fn a_panic_reaches_its_caller_as_an_error() {
        assert_eq!(contain(Place::Store, async { 7 }).await, Ok(7));
        assert_eq!(contain(Place::Store, async { panic!("here") }).await, Err::<(), _>(Panicked));
        assert_eq!(contain_now(Place::Store, Place::here), Ok(Place::Store));
        assert_eq!(contain_now(Place::Store, || panic!("here")), Err::<(), _>(Panicked));
        assert_eq!(contain_blocking(Place::Store, Place::here).await, Ok(Place::Store));
        assert_eq!(contain_blocking(Place::Store, || panic!("here")).await, Err::<(), _>(Panicked));
    }

    #[test]
    fn every_place_has_its_own_word() {
        let mut words: Vec<_> = Place::ALL.iter().map(|place| place.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Place::ALL.len());
    }
}
