//! Time and chance: the two ambient inputs, behind one seam so that tests can set them.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The end of time: later than every other timestamp.
    pub const MAX: Self = Self(u64::MAX);

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch (the unit of `exp`, RFC 7519 section 2).
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The time passed since the Unix epoch.
    pub const fn since_epoch(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// This instant moved forward, stopping at [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// This instant moved back, stopping at the epoch.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// As a name that sorts by time: `20261122T041130Z`, in UTC and whole seconds.
    pub fn to_compact(self) -> String {
        let seconds = i64::try_from(self.as_secs()).unwrap_or(i64::MAX);
        let Ok(time) = time::OffsetDateTime::from_unix_timestamp(seconds) else { return String::new() };
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
    }

    /// From such a name; `None` for any other text.
    pub fn from_compact(text: &str) -> Option<Self> {
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse::<u16>().ok()
        };
        let small = |from| number(from, from + 2).and_then(|number| u8::try_from(number).ok());
        let form = text.len() == 16 && text.get(8..9) == Some("T") && text.ends_with('Z');
        let month = time::Month::try_from(small(4).filter(|_| form)?).ok()?;
        let date = time::Date::from_calendar_date(i32::from(number(0, 4)?), month, small(6)?).ok()?;
        let time = date.with_hms(small(9)?, small(11)?, small(13)?).ok()?.assume_utc();
        u64::try_from(time.unix_timestamp()).ok().map(Self::from_secs)
    }

    /// As RFC 3339 writes it, in UTC with milliseconds; empty beyond the year 9999.
    pub fn to_rfc3339(self) -> String {
        let seconds = i64::try_from(self.as_secs()).unwrap_or(i64::MAX);
        let Ok(time) = time::OffsetDateTime::from_unix_timestamp(seconds) else { return String::new() };
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        let year = u64::try_from(year).unwrap_or_default();
        // By hand, because every line of the access log has one.
        let mut text = String::with_capacity("2026-11-22T04:11:30.123Z".len());
        let parts = [(year / 100, ""), (year % 100, ""), (u8::from(month).into(), "-"), (day.into(), "-")];
        let clock = [(hour.into(), "T"), (minute.into(), ":"), (second.into(), ":")];
        for (number, before) in parts.into_iter().chain(clock) {
            text.push_str(before);
            push_two(&mut text, number);
        }
        let millis = self.0 % 1000;
        text.push('.');
        text.push(digit(millis / 100));
        push_two(&mut text, millis % 100);
        text.push('Z');
        text
    }
}

fn digit(number: u64) -> char {
    char::from(u8::try_from(number % 10).unwrap_or_default() + b'0')
}

fn push_two(text: &mut String, number: u64) {
    text.push(digit(number / 10));
    text.push(digit(number));
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where the current time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The current wall-clock time.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one owner of the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(millis(since_epoch))
    }
}

/// A clock that moves only when told to: for tests, simulations and offline policy checks.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.as_millis()))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Sets the clock, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Fresh random bytes from the system's generator.
///
/// # Errors
/// [`NoEntropy`] when the system's generator fails; no caller may go on without it.
#[allow(clippy::disallowed_methods, reason = "this is the one owner of randomness")]
pub fn random_bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0_u8; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(bytes)
}

thread_local! {
    static UNIQUE: ([RandomState; 2], Cell<u64>) = (std::array::from_fn(|_| RandomState::new()), Cell::new(0));
}

/// Bytes that nobody else makes, at a twentieth of the price of [`random_bytes`]: for names that are no secret.
/// A keyed hash of a counter, with keys of this thread alone.
pub fn unique_bytes() -> [u8; 16] {
    UNIQUE.with(|(keys, counter)| {
        let number = counter.replace(counter.get().wrapping_add(1));
        let [high, low] = keys.each_ref().map(|key| u128::from(key.hash_one(number)));
        (high << 64 | low).to_be_bytes()
    })
}

/// The system's random generator failed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's random generator failed")]
pub struct NoEntropy;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp::MAX.plus(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(Timestamp::from_secs(1).minus(Duration::from_secs(5)), Timestamp::from_millis(0));
        assert_eq!(Timestamp::from_secs(1).since(Timestamp::from_secs(2)), Duration::ZERO);
    }

    #[test]
    fn a_time_is_written_in_utc() {
        assert_eq!(Timestamp::from_millis(1_700_000_000_123).to_rfc3339(), "2023-11-14T22:13:20.123Z");
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_210_096_007, "2024-02-29T12:34:56.007Z"),
            (1_709_210_096_100, "2024-02-29T12:34:56.100Z"),
            (253_402_300_799_990, "9999-12-31T23:59:59.990Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_rfc3339(), text);
        }
        assert_eq!(Timestamp::MAX.to_rfc3339(), "");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Timestamp::from_secs(10));
        assert_eq!(clock.now().as_secs(), 10);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().as_millis(), 11_500);
    }
}
