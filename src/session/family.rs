//! Refresh-token rotation as a pure state machine: what happens when generation g is presented.

use super::id::SessionRef;
use super::refresh_token::Presented;
use super::store::EndReason;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How far ahead of the store a token may be and still be explained by writes the store lost.
pub const HEAL_GENERATIONS: u32 = 3;

/// Recoveries a session may have in [`RECOVERY_PERIOD`]; they bound how long a thief goes unnoticed who
/// refreshes but never uses an access token.
pub const RECOVERIES: u8 = 3;

/// The period [`RECOVERIES`] is counted over.
pub const RECOVERY_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// How long a store keeps what has expired, so that a clock that was ahead does no lasting harm.
pub const LINGER: Duration = Duration::from_secs(5 * 60);

/// How much longer than an access token its revocation is kept: clocks differ, and a token may be minted
/// a moment after the session was ended.
const REVOCATION_MARGIN: Duration = Duration::from_secs(60);

/// What became of a presented refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The current generation: a successor was made.
    Rotated,
    /// The current generation, younger than `coalesce`: returned unchanged.
    Same,
    /// The previous generation within `grace`: the same successor again.
    Retry,
    /// The previous generation, later, while nobody has used the successor.
    Recovered,
    /// The store was behind the token (it lost a write): it caught up.
    Healed,
    /// An earlier generation was replayed: the session is ended.
    Reused,
    /// The session was ended before.
    Revoked,
    /// The session ran out (idle or absolute).
    Expired,
    /// The store knows no such session: expired long ago, or lost.
    Unknown,
    /// The token is further ahead of the store than lost writes explain. Never counted as theft.
    Ahead,
    /// The MAC is right but the secret is not the session's: the MAC key may have leaked.
    Mismatch,
}

impl Outcome {
    /// Whether new tokens may be handed out.
    pub const fn grants(self) -> bool {
        match self {
            Self::Rotated | Self::Same | Self::Retry | Self::Recovered | Self::Healed => true,
            Self::Reused | Self::Revoked | Self::Expired | Self::Unknown | Self::Ahead | Self::Mismatch => {
                false
            }
        }
    }
}

/// How long the generation before the current one recovers while the current one was never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostResponse {
    /// Until an access token of the current generation is seen in use.
    UntilUsed,
    /// That, but at most this long after the rotation.
    Within(Duration),
}

/// What a replay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReuse {
    /// The session whose token was replayed.
    Session,
    /// Every session of the user.
    User,
}

/// The rules of rotation (`sessions.refresh_token`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationPolicy {
    /// A session ends when it is not refreshed for this long.
    pub idle: Duration,
    /// A session ends this long after login.
    pub absolute: Duration,
    /// The previous generation still gets the same successor for this long.
    pub grace: Duration,
    /// A generation younger than this is returned unchanged; at least `grace`.
    pub coalesce: Duration,
    /// How long n-1 recovers while n was never used.
    pub lost_response: LostResponse,
    /// What a replay ends.
    pub on_reuse: OnReuse,
    /// How long an access token lives: revocations are kept that long, and a little more.
    pub access_token_lifetime: Duration,
    /// Living sessions a user may have; the longest idle are ended beyond it.
    pub max_per_user: u32,
}

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(7 * 24 * 3600),
            absolute: Duration::from_secs(30 * 24 * 3600),
            grace: Duration::from_secs(30),
            coalesce: Duration::from_secs(60),
            lost_response: LostResponse::UntilUsed,
            on_reuse: OnReuse::Session,
            access_token_lifetime: Duration::from_secs(10 * 60),
            max_per_user: 50,
        }
    }
}

impl RotationPolicy {
    /// These rules without any tolerance: each generation is accepted once (`strict: true`).
    #[must_use]
    pub const fn strict(self) -> Self {
        Self {
            grace: Duration::ZERO,
            coalesce: Duration::ZERO,
            lost_response: LostResponse::Within(Duration::ZERO),
            ..self
        }
    }

    /// How long a revocation is kept: as long as an access token may be alive, and a minute.
    pub const fn revocation_lifetime(&self) -> Duration {
        self.access_token_lifetime.saturating_add(REVOCATION_MARGIN)
    }
}

/// Where a session's family of refresh tokens stands. Its size does not grow with its rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// SHA-256 of the secret that all its tokens carry.
    pub secret_hash: [u8; 32],
    /// When the user logged in.
    #[serde(with = "millis")]
    pub created: Timestamp,
    /// The current generation.
    pub generation: u32,
    /// When the current generation was made.
    #[serde(with = "millis")]
    pub rotated: Timestamp,
    /// When the current generation was made or, if later, recovered: grace and coalescing count from here.
    #[serde(with = "millis")]
    pub handed: Timestamp,
    /// An access token of the current generation was seen in use, so its tokens have arrived.
    pub confirmed: bool,
    /// Recoveries since `recoveries_since`.
    pub recoveries: u8,
    /// Start of the present [`RECOVERY_PERIOD`].
    #[serde(with = "millis")]
    pub recoveries_since: Timestamp,
    /// The user's epoch at login.
    pub epoch: u32,
    /// Last login or refresh.
    #[serde(with = "millis")]
    pub last_seen: Timestamp,
    /// The session ends here unless it is refreshed before.
    #[serde(with = "millis")]
    pub idle_expiry: Timestamp,
    /// The session ends here at the latest.
    #[serde(with = "millis")]
    pub absolute_expiry: Timestamp,
    /// Why it was ended, if it was.
    pub ended: Option<EndReason>,
}

/// What all sessions of a user share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserState {
    /// Sessions opened under a lower epoch are ended.
    pub epoch: u32,
}

impl UserState {
    /// The state that ends every session there is. The epoch is a counter; that it never lies behind the
    /// clock only keeps it rising should the store have lost the counter.
    #[must_use]
    pub fn raised(self, now: Timestamp) -> Self {
        let clock = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        Self { epoch: self.epoch.saturating_add(1).max(clock) }
    }
}

/// What a presented token leads to. What is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// What happened.
    pub outcome: Outcome,
    /// The family from now on; always there if the outcome grants.
    pub family: Option<Family>,
    /// The user's state from now on.
    pub user: Option<UserState>,
}

impl Family {
    /// The family of a session that is opened now.
    pub fn open(
        secret_hash: [u8; 32],
        user: UserState,
        absolute_expiry: Timestamp,
        now: Timestamp,
        policy: &RotationPolicy,
    ) -> Self {
        Self {
            secret_hash,
            created: now,
            generation: 0,
            rotated: now,
            handed: now,
            confirmed: false,
            recoveries: 0,
            recoveries_since: now,
            epoch: user.epoch,
            last_seen: now,
            idle_expiry: absolute_expiry.min(now.plus(policy.idle)),
            absolute_expiry,
            ended: None,
        }
    }

    /// Whether the session is neither ended nor expired.
    pub fn is_alive(&self, user: UserState, now: Timestamp) -> bool {
        !self.is_revoked(user) && !self.is_expired(now)
    }

    /// Whether the session was ended, by itself or with all of the user's.
    pub fn is_revoked(&self, user: UserState) -> bool {
        self.ended.is_some() || self.epoch < user.epoch
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.idle_expiry || now >= self.absolute_expiry
    }

    /// The family after an access token of `seen` was verified; `None` if that changes nothing.
    #[must_use]
    pub fn confirmed_by(&self, seen: &SessionRef) -> Option<Self> {
        let news = seen.generation == self.generation && !self.confirmed && self.ended.is_none();
        news.then_some(Self { confirmed: true, ..*self })
    }

    fn recoverable(&self, now: Timestamp, policy: &RotationPolicy) -> bool {
        let in_time = match policy.lost_response {
            LostResponse::UntilUsed => true,
            LostResponse::Within(limit) => !limit.is_zero() && now.since(self.rotated) <= limit,
        };
        in_time && !self.confirmed && (self.recoveries < RECOVERIES || self.recovery_period_is_over(now))
    }

    /// A period that lies in the future was begun under a clock that has since been put right.
    fn recovery_period_is_over(&self, now: Timestamp) -> bool {
        now < self.recoveries_since || now.since(self.recoveries_since) >= RECOVERY_PERIOD
    }

    fn seen(self, now: Timestamp, policy: &RotationPolicy) -> Self {
        Self {
            last_seen: now,
            idle_expiry: self.absolute_expiry.min(now.plus(policy.idle)),
            // A rotation in the future was noted under a clock that was ahead: from now on it counts as
            // done now, or grace and coalescing would last until that clock's time comes.
            rotated: self.rotated.min(now),
            handed: self.handed.min(now),
            ..self
        }
    }

    fn advanced(self, generation: u32, now: Timestamp, policy: &RotationPolicy) -> Self {
        Self { generation, rotated: now, handed: now, confirmed: false, ..self.seen(now, policy) }
    }

    fn recovered(self, now: Timestamp, policy: &RotationPolicy) -> Self {
        let (recoveries, recoveries_since) = if self.recovery_period_is_over(now) {
            (1, now)
        } else {
            (self.recoveries.saturating_add(1), self.recoveries_since)
        };
        Self { recoveries, recoveries_since, handed: now, ..self.seen(now, policy) }
    }
}

/// The stored form of a [`Timestamp`].
mod millis {
    use super::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(at.as_millis())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp::from_millis)
    }
}

/// Decides what a presented token leads to, given what the store holds of its session (`None`: nothing)
/// and of its user. The first condition that holds decides; every store follows this order.
pub fn rotate(
    family: Option<&Family>,
    user: UserState,
    presented: &Presented,
    now: Timestamp,
    policy: &RotationPolicy,
) -> Transition {
    let refused = |outcome| Transition { outcome, family: None, user: None };
    let granted = |outcome, family| Transition { outcome, family: Some(family), user: None };

    let Some(&family) = family else { return refused(Outcome::Unknown) };
    // Nothing is ended here: it would let whoever has the MAC key end anybody's session.
    if family.secret_hash != presented.secret_hash {
        return refused(Outcome::Mismatch);
    }
    if family.is_revoked(user) {
        return refused(Outcome::Revoked);
    }
    if family.is_expired(now) {
        return refused(Outcome::Expired);
    }

    let age = now.since(family.handed);
    if presented.generation > family.generation {
        let gap = presented.generation - family.generation;
        if gap > HEAL_GENERATIONS {
            return refused(Outcome::Ahead);
        }
        // Whoever presents a generation was handed it: it is confirmed, and no successor is made that could
        // overtake requests still under way with the one before.
        let caught_up = Family { confirmed: true, ..family.advanced(presented.generation, now, policy) };
        return granted(Outcome::Healed, caught_up);
    }
    match family.generation - presented.generation {
        // The first refresh after login always rotates: a client that just logged in learns at once
        // whether it can keep what it is handed.
        0 if family.generation > 0 && age < policy.coalesce => {
            granted(Outcome::Same, family.seen(now, policy))
        }
        0 => match family.generation.checked_add(1) {
            Some(next) => granted(Outcome::Rotated, family.advanced(next, now, policy)),
            None => granted(Outcome::Same, family.seen(now, policy)),
        },
        1 if !policy.grace.is_zero() && age <= policy.grace => {
            granted(Outcome::Retry, family.seen(now, policy))
        }
        1 if family.recoverable(now, policy) => granted(Outcome::Recovered, family.recovered(now, policy)),
        _ => Transition {
            outcome: Outcome::Reused,
            family: Some(Family { ended: Some(EndReason::Reused), ..family }),
            user: match policy.on_reuse {
                OnReuse::Session => None,
                OnReuse::User => Some(user.raised(now)),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::id::{SessionId, UserKey};
    use proptest::prelude::*;

    const LOGIN: Timestamp = Timestamp::from_secs(1_000_000);
    const SESSION: SessionId = SessionId::from_bytes([1; 16]);
    const USER: UserKey = UserKey::from_bytes([2; 12]);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn token(generation: u32) -> Presented {
        Presented {
            session: SESSION,
            user: USER,
            secret_hash: [3; 32],
            generation,
            absolute_expiry: LOGIN.plus(RotationPolicy::default().absolute),
        }
    }

    fn access_token(generation: u32) -> SessionRef {
        SessionRef { session: SESSION, user: USER, generation, epoch: 0 }
    }

    /// One session and its clock, driven the way a store drives it.
    struct Session {
        family: Family,
        user: UserState,
        now: Timestamp,
        policy: RotationPolicy,
    }

    impl Session {
        fn under(policy: RotationPolicy) -> Self {
            let user = UserState::default();
            let end = LOGIN.plus(policy.absolute);
            Self { family: Family::open([3; 32], user, end, LOGIN, &policy), user, now: LOGIN, policy }
        }

        fn new() -> Self {
            Self::under(RotationPolicy::default())
        }

        /// A session at generation `n`, whose tokens arrived and were used.
        fn at_generation(n: u32) -> Self {
            let mut session = Self::new();
            for generation in 0..n {
                session.after(secs(600));
                assert_eq!(session.present(generation), Outcome::Rotated);
                session.used(generation + 1);
            }
            session.after(secs(600));
            session
        }

        fn after(&mut self, wait: Duration) {
            self.now = self.now.plus(wait);
        }

        fn used(&mut self, generation: u32) {
            if let Some(family) = self.family.confirmed_by(&access_token(generation)) {
                self.family = family;
            }
        }

        fn present(&mut self, generation: u32) -> Outcome {
            let step = rotate(Some(&self.family), self.user, &token(generation), self.now, &self.policy);
            self.family = step.family.unwrap_or(self.family);
            self.user = step.user.unwrap_or(self.user);
            step.outcome
        }
    }

    #[test]
    fn a_session_the_store_does_not_hold_is_unknown() {
        let step = rotate(None, UserState::default(), &token(0), LOGIN, &RotationPolicy::default());
        assert_eq!(step, Transition { outcome: Outcome::Unknown, family: None, user: None });
    }

    #[test]
    fn another_secret_under_a_right_mac_is_a_mismatch_and_ends_nothing() {
        let session = Session::at_generation(2);
        let presented = Presented { secret_hash: [4; 32], ..token(0) };
        let step = rotate(Some(&session.family), session.user, &presented, session.now, &session.policy);
        assert_eq!(step, Transition { outcome: Outcome::Mismatch, family: None, user: None });
    }

    #[test]
    fn an_ended_session_is_revoked_even_when_it_would_have_expired() {
        let mut session = Session::at_generation(1);
        session.family.ended = Some(EndReason::Logout);
        session.after(secs(365 * 24 * 3600));
        assert_eq!(session.present(1), Outcome::Revoked);
    }

    #[test]
    fn a_session_of_an_earlier_epoch_is_revoked() {
        let mut session = Session::at_generation(1);
        session.user = session.user.raised(session.now);
        assert_eq!(session.present(1), Outcome::Revoked);
    }

    #[test]
    fn a_session_not_refreshed_for_idle_is_expired() {
        let mut session = Session::at_generation(1);
        let idle = session.policy.idle;
        session.now = session.family.last_seen.plus(idle);
        assert_eq!(session.present(1), Outcome::Expired);
        session.now = session.now.minus(Duration::from_millis(1));
        assert_eq!(session.present(1), Outcome::Rotated);
    }

    #[test]
    fn refreshing_does_not_carry_a_session_past_its_absolute_end() {
        let mut session = Session::new();
        let mut generation = 0;
        while session.now < session.family.absolute_expiry {
            assert_eq!(session.present(generation), Outcome::Rotated);
            generation += 1;
            session.after(secs(6 * 24 * 3600));
        }
        assert_eq!(session.present(generation), Outcome::Expired);
    }

    #[test]
    fn the_first_refresh_after_login_rotates_and_an_early_second_returns_the_same() {
        let mut session = Session::new();
        assert_eq!(session.present(0), Outcome::Rotated);
        session.after(secs(59));
        assert_eq!(session.present(1), Outcome::Same);
        assert_eq!(session.family.generation, 1);
        session.after(secs(1));
        assert_eq!(session.present(1), Outcome::Rotated);
        assert_eq!(session.family.generation, 2);
    }

    #[test]
    fn the_same_token_again_keeps_the_session_from_idling_out() {
        let mut session = Session::under(RotationPolicy { idle: secs(10), ..RotationPolicy::default() });
        session.present(0);
        for _ in 0..5 {
            session.after(secs(9));
            assert_eq!(session.present(1), Outcome::Same);
        }
    }

    #[test]
    fn the_previous_generation_gets_the_same_successor_until_grace_is_over() {
        let mut session = Session::at_generation(4);
        assert_eq!(session.present(4), Outcome::Rotated);
        session.used(5);
        for _ in 0..30 {
            session.after(secs(1));
            assert_eq!(session.present(4), Outcome::Retry);
            assert_eq!(session.family.generation, 5);
        }
        session.after(Duration::from_millis(1));
        assert_eq!(session.present(4), Outcome::Reused, "grace must not slide");
    }

    #[test]
    fn an_unused_successor_is_handed_out_again_however_late_and_grace_begins_anew() {
        let mut session = Session::at_generation(4);
        session.present(4);
        session.after(secs(3 * 24 * 3600));
        assert_eq!(session.present(4), Outcome::Recovered);
        session.used(5);
        session.after(secs(30));
        assert_eq!(session.present(4), Outcome::Retry);
        session.after(secs(1));
        assert_eq!(session.present(4), Outcome::Reused);
    }

    #[test]
    fn recoveries_are_three_a_day() {
        let mut session = Session::at_generation(4);
        session.present(4);
        for _ in 0..RECOVERIES {
            session.after(secs(3600));
            assert_eq!(session.present(4), Outcome::Recovered);
        }
        let mut next_day = Session { now: session.now.plus(RECOVERY_PERIOD), ..session };
        assert_eq!(next_day.present(4), Outcome::Recovered);
        assert_eq!(next_day.family.recoveries, 1);
        next_day.family = session.family;
        next_day.now = session.now.plus(secs(3600));
        assert_eq!(next_day.present(4), Outcome::Reused);
    }

    #[test]
    fn recovery_within_a_duration_counts_from_the_rotation_and_does_not_slide() {
        let lost_response = LostResponse::Within(secs(600));
        let mut session = Session::under(RotationPolicy { lost_response, ..RotationPolicy::default() });
        session.present(0);
        session.after(secs(500));
        assert_eq!(session.present(0), Outcome::Recovered);
        session.after(secs(100));
        assert_eq!(session.present(0), Outcome::Recovered);
        session.after(secs(31));
        assert_eq!(session.present(0), Outcome::Reused);
    }

    #[test]
    fn a_used_successor_ends_recovery_at_once() {
        let mut session = Session::new();
        session.present(0);
        session.used(1);
        session.after(secs(31));
        assert_eq!(session.present(0), Outcome::Reused);
    }

    #[test]
    fn use_of_another_generation_confirms_nothing() {
        let mut session = Session::new();
        session.present(0);
        session.used(0);
        session.used(2);
        assert!(!session.family.confirmed);
    }

    #[test]
    fn a_replay_of_any_earlier_generation_ends_the_session() {
        for replayed in 0..50 {
            let mut session = Session::at_generation(51);
            assert_eq!(session.present(replayed), Outcome::Reused, "generation {replayed}");
            assert_eq!(session.family.ended, Some(EndReason::Reused));
            assert_eq!(session.present(51), Outcome::Revoked);
            assert_eq!(session.user.epoch, 0);
        }
    }

    #[test]
    fn a_replay_may_be_made_to_end_all_the_users_sessions() {
        let mut session = Session::at_generation(3);
        session.policy.on_reuse = OnReuse::User;
        assert_eq!(session.present(0), Outcome::Reused);
        assert!(session.user.epoch > session.family.epoch);
    }

    #[test]
    fn a_store_that_lost_writes_catches_up() {
        for gap in 1..=HEAL_GENERATIONS {
            let mut session = Session::at_generation(3);
            assert_eq!(session.present(3 + gap), Outcome::Healed);
            assert_eq!(session.family.generation, 3 + gap);
            assert_eq!(session.present(3 + gap), Outcome::Same);
            assert_eq!(session.present(2 + gap), Outcome::Retry, "a tab that is a moment late");
        }
        let mut session = Session::at_generation(3);
        let before = session.family;
        assert_eq!(session.present(4 + HEAL_GENERATIONS), Outcome::Ahead);
        assert_eq!(session.present(u32::MAX), Outcome::Ahead);
        assert_eq!(session.family, before, "being ahead is no accusation");
    }

    #[test]
    fn strict_accepts_each_generation_once() {
        let mut session = Session::under(RotationPolicy::default().strict());
        assert_eq!(session.present(0), Outcome::Rotated);
        assert_eq!(session.present(1), Outcome::Rotated);
        assert_eq!(session.present(1), Outcome::Reused);
    }

    #[test]
    fn the_last_generation_there_can_be_stays() {
        let mut session = Session::new();
        session.family.generation = u32::MAX;
        session.after(secs(600));
        assert_eq!(session.present(u32::MAX), Outcome::Same);
        session.family.generation = u32::MAX - 1;
        assert_eq!(session.present(u32::MAX), Outcome::Healed);
        assert_eq!(session.family.generation, u32::MAX);
    }

    #[test]
    fn a_clock_put_back_by_an_hour_delays_the_end_of_grace_only_once() {
        let mut session = Session::at_generation(4);
        session.present(4);
        session.used(5);
        session.now = session.now.minus(secs(3600));
        assert_eq!(session.present(4), Outcome::Retry);
        session.after(secs(31));
        assert_eq!(session.present(4), Outcome::Reused);
    }

    #[test]
    fn the_epoch_rises_even_if_clock_and_counter_went_back() {
        let state = UserState { epoch: 7 };
        assert_eq!(state.raised(Timestamp::from_secs(0)).epoch, 8);
        assert_eq!(state.raised(Timestamp::from_secs(100)).epoch, 100);
        assert!(state.raised(LOGIN).raised(LOGIN).epoch > state.raised(LOGIN).epoch);
        assert_eq!(UserState { epoch: u32::MAX }.raised(Timestamp::MAX).epoch, u32::MAX);
    }

    fn families() -> impl Strategy<Value = (Family, UserState, Timestamp)> {
        let times = (0_u64..100_000, 0_u64..100_000, 0_u64..100_000, 0_u64..200_000);
        let ended = prop::option::of(Just(EndReason::Logout));
        (times, any::<bool>(), 0_u8..=4, 0_u32..12, 0_u32..2, 0_u32..2, ended).prop_map(
            |((rotated, later, period, now), confirmed, recoveries, generation, epoch, user, ended)| {
                let rotated = LOGIN.plus(secs(rotated));
                let family = Family {
                    generation,
                    rotated,
                    handed: rotated.plus(secs(later)),
                    confirmed,
                    recoveries,
                    recoveries_since: LOGIN.plus(secs(period)),
                    epoch,
                    last_seen: rotated,
                    ended,
                    ..Session::new().family
                };
                (family, UserState { epoch: user }, LOGIN.plus(secs(now)))
            },
        )
    }

    proptest! {
        #[test]
        fn one_call_makes_at_most_one_new_generation((family, user, now) in families(), g in 0_u32..20) {
            let step = rotate(Some(&family), user, &token(g), now, &RotationPolicy::default());
            let Some(next) = step.family else { return Ok(()) };
            prop_assert_eq!(next.secret_hash, family.secret_hash);
            prop_assert_eq!(next.absolute_expiry, family.absolute_expiry);
            match step.outcome {
                Outcome::Rotated => prop_assert_eq!(next.generation, family.generation + 1),
                Outcome::Healed => prop_assert_eq!((next.generation, next.confirmed), (g, true)),
                _ => prop_assert_eq!(next.generation, family.generation),
            }
            if step.outcome.grants() {
                prop_assert!(next.generation == g || next.generation == g + 1);
            }
        }

        #[test]
        fn a_token_two_or_more_behind_ends_a_living_session(
            (family, _, now) in families(),
            g in 0_u32..20,
            behind in 2_u32..100,
        ) {
            let family = Family { generation: g + behind, ended: None, ..family };
            let user = UserState { epoch: family.epoch };
            let step = rotate(Some(&family), user, &token(g), now, &RotationPolicy::default());
            prop_assert_eq!(step.outcome, Outcome::Reused);
            let after = step.family.unwrap();
            prop_assert_eq!(after.ended, Some(EndReason::Reused));
            prop_assert!(!after.is_alive(user, now));
        }

        #[test]
        fn what_is_ended_never_grants((family, user, now) in families(), g in 0_u32..20) {
            prop_assume!(family.ended.is_some() || family.epoch < user.epoch);
            let step = rotate(Some(&family), user, &token(g), now, &RotationPolicy::default());
            prop_assert_eq!(step, Transition { outcome: Outcome::Revoked, family: None, user: None });
        }

        #[test]
        fn an_earlier_clock_accuses_nobody_whom_the_right_one_would_not(
            (family, user, now) in families(),
            g in 0_u32..20,
            back in 0_u64..1_000_000,
        ) {
            // The budget of recoveries is the exception by intent: it is a limit per time.
            prop_assume!(family.recoveries < RECOVERIES);
            let policy = RotationPolicy::default();
            let earlier = now.minus(secs(back));
            let before = rotate(Some(&family), user, &token(g), earlier, &policy);
            let right = rotate(Some(&family), user, &token(g), now, &policy);
            if before.outcome == Outcome::Reused {
                prop_assert!(matches!(right.outcome, Outcome::Reused | Outcome::Expired));
            }
        }

        #[test]
        fn clients_that_keep_what_they_get_are_never_accused(
            steps in prop::collection::vec((0_u8..4, 0_u64..20_000, any::<bool>()), 1..60),
        ) {
            // Two tabs share one jar; a response may be lost; the clock may go back by up to a minute.
            let mut session = Session::under(RotationPolicy { idle: secs(1 << 30), ..RotationPolicy::default() });
            let mut jar = 0;
            for (what, wait, lost) in steps {
                match what {
                    0 => session.now = session.now.minus(secs(wait % 60)),
                    _ => session.after(secs(wait)),
                }
                if session.now >= session.family.absolute_expiry { break }
                let racing = jar;
                let outcome = session.present(jar);
                prop_assert!(outcome.grants(), "{:?} at {:?}", outcome, session.family);
                if lost && session.family.recoveries < RECOVERIES {
                    continue;
                }
                jar = session.family.generation;
                session.used(jar);
                let outcome = session.present(racing);
                prop_assert!(outcome.grants(), "the slower tab: {:?} at {:?}", outcome, session.family);
            }
        }
    }
}
