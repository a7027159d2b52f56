//! Seeded random walks: the same operations against a store and against the rules themselves.

use super::{Rig, access_token, feed, new_session, token};
use crate::clock::{Clock as _, Timestamp};
use crate::session::family::{
    self, Family, HEAL_GENERATIONS, LINGER, LostResponse, OnReuse, Outcome, RotationPolicy, UserState,
};
use crate::session::id::{SessionId, UserKey};
use crate::session::store::{EndReason, NewSession, Revocation};
use std::collections::HashMap;
use std::time::Duration;

const WALKS: u64 = 40;
const STEPS: usize = 200;

/// `SplitMix64`: small, and a seed gives the same walk everywhere.
pub(in crate::session) struct Dice(pub(in crate::session) u64);

impl Dice {
    pub(in crate::session) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(in crate::session) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

/// What a store should hold, by the rules.
struct Model {
    policy: RotationPolicy,
    sessions: HashMap<SessionId, (UserKey, Family)>,
    users: HashMap<UserKey, UserState>,
    revoked: Vec<Revocation>,
}

impl Model {
    fn user(&self, user: UserKey) -> UserState {
        self.users.get(&user).copied().unwrap_or_default()
    }

    fn alive(&self, user: UserKey, now: Timestamp) -> Vec<SessionId> {
        let mut alive: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, (owner, family))| *owner == user && family.is_alive(self.user(user), now))
            .map(|(id, (_, family))| (family.last_seen, *id))
            .collect();
        alive.sort_unstable();
        alive.into_iter().map(|(_, id)| id).collect()
    }

    fn end(&mut self, session: SessionId, why: EndReason, now: Timestamp) {
        let (user, family) = self.sessions.get_mut(&session).unwrap();
        family.ended = Some(why);
        let user = *user;
        let until = now.plus(self.policy.revocation_lifetime());
        self.revoked.push(Revocation::Session { session, user, until });
    }

    fn raise(&mut self, user: UserKey, to: UserState, now: Timestamp) {
        self.users.insert(user, to);
        let until = now.plus(self.policy.revocation_lifetime());
        self.revoked.push(Revocation::User { user, epoch: to.epoch, until });
    }

    fn last_seen(&self, sessions: &[SessionId]) -> Vec<Timestamp> {
        sessions.iter().map(|session| self.sessions[session].1.last_seen).collect()
    }

    /// The sessions that must go to make room for one more.
    fn excess(&self, user: UserKey, now: Timestamp) -> Vec<SessionId> {
        let mut excess = self.alive(user, now);
        let room = self.policy.max_per_user as usize - 1;
        excess.truncate(excess.len().saturating_sub(room));
        excess
    }

    fn open(&mut self, new: &NewSession, evicted: &[SessionId], now: Timestamp) {
        for session in evicted {
            self.end(*session, EndReason::Evicted, now);
        }
        let state = self.user(new.user);
        let family = Family::open(new.secret_hash, state, new.absolute_expiry, now, &self.policy);
        self.sessions.insert(new.id, (new.user, family));
    }

    fn rotate(&mut self, new: &NewSession, generation: u32, now: Timestamp) -> (Outcome, Family) {
        let (user, family) = self.sessions.get(&new.id).copied().unwrap();
        let presented = token(new, generation);
        let step = family::rotate(Some(&family), self.user(user), &presented, now, &self.policy);
        let family = step.family.unwrap_or(family);
        self.sessions.insert(new.id, (user, family));
        if step.outcome == Outcome::Reused {
            self.end(new.id, EndReason::Reused, now);
        }
        if let Some(state) = step.user {
            self.raise(user, state, now);
        }
        (step.outcome, family)
    }
}

fn policy(dice: &mut Dice) -> RotationPolicy {
    let lost_responses = [
        LostResponse::UntilUsed,
        LostResponse::Within(Duration::from_secs(90)),
        LostResponse::Within(Duration::ZERO),
    ];
    let policy = RotationPolicy {
        idle: Duration::from_secs(*dice.pick(&[300, 7 * 24 * 3600, 30 * 24 * 3600])),
        grace: Duration::from_secs(*dice.pick(&[0, 30])),
        coalesce: Duration::from_secs(*dice.pick(&[30, 60])),
        lost_response: *dice.pick(&lost_responses),
        on_reuse: *dice.pick(&[OnReuse::Session, OnReuse::User]),
        max_per_user: *dice.pick(&[1, 3, 50]),
        ..RotationPolicy::default()
    };
    if dice.roll(5) == 0 { policy.strict() } else { policy }
}

pub(in crate::session) async fn random_walks_agree_with_the_rules<R: Rig>() {
    for seed in 0..WALKS {
        let mut dice = Dice(seed);
        let policy = policy(&mut dice);
        let rig = R::start(policy).await;
        Walk {
            rig: &rig,
            dice,
            users: [super::user(), super::user()],
            opened: Vec::new(),
            hostile: seed % 2 == 0,
            latest: rig.clock().now(),
            model: Model { policy, sessions: HashMap::new(), users: HashMap::new(), revoked: Vec::new() },
        }
        .go(&format!("seed {seed}"))
        .await;
    }
}

struct Walk<'a, R> {
    rig: &'a R,
    dice: Dice,
    users: [UserKey; 2],
    opened: Vec<NewSession>,
    /// Whether sessions are ended and old tokens replayed; otherwise sessions live long.
    hostile: bool,
    /// The latest time there was: the clock goes back from it, but not so far that a store that removed
    /// what had expired by then could be told from one that did not.
    latest: Timestamp,
    model: Model,
}

impl<R: Rig> Walk<'_, R> {
    async fn go(mut self, seed: &str) {
        for step in 0..STEPS {
            self.step(&format!("{seed}, step {step}, {:?}", self.model.policy)).await;
        }
        let revoked = feed(self.rig).await;
        for revocation in &revoked {
            assert!(self.model.revoked.contains(revocation), "{seed}: {revocation:?} never happened");
        }
        for revocation in &self.model.revoked {
            let (Revocation::Session { until, .. } | Revocation::User { until, .. }) = revocation;
            let due = until.plus(LINGER) < self.latest;
            assert!(due || revoked.contains(revocation), "{seed}: {revocation:?} is missing");
        }
    }

    async fn step(&mut self, at: &str) {
        let clock = self.rig.clock();
        match self.dice.roll(40) {
            0 => self.open(at).await,
            1 if self.opened.is_empty() || self.hostile => self.open(at).await,
            2 if self.hostile => self.end(at).await,
            3 if self.dice.roll(4) == 0 => self.end_all(at).await,
            4..=7 => self.confirm().await,
            8 => self.list(at).await,
            9 | 10 => {
                let back = Duration::from_secs(self.dice.roll(90));
                let floor = self.latest.minus(LINGER / 2);
                clock.set(clock.now().minus(back).max(floor));
            }
            11..=18 => {
                let waits = [
                    1, 999, 1_000, 29_999, 30_000, 30_001, 59_000, 60_000, 90_000, 300_000, 40_000_000,
                    86_400_000,
                ];
                clock.advance(Duration::from_millis(*self.dice.pick(&waits)));
                self.latest = self.latest.max(clock.now());
            }
            _ => self.rotate(at).await,
        }
    }

    /// One of those opened, mostly of the last few.
    fn some_session(&mut self) -> NewSession {
        let last = self.opened.len().saturating_sub(if self.dice.roll(5) == 0 { 50 } else { 2 });
        self.dice.pick(&self.opened[last..]).clone()
    }

    async fn open(&mut self, at: &str) {
        let mut new = new_session(self.rig, *self.dice.pick(&self.users));
        let lifetime = Duration::from_secs(*self.dice.pick(&[200, 30 * 24 * 3600, 300 * 24 * 3600]));
        new.absolute_expiry = self.rig.clock().now().plus(lifetime);
        let now = self.rig.clock().now();
        // Now and then the gateway knows of a logout-all that the store has forgotten.
        let epoch = self.model.user(new.user).epoch;
        new.known_epoch = epoch.saturating_sub(u32::try_from(self.dice.roll(2)).unwrap());
        if self.hostile && self.dice.roll(5) == 0 {
            new.known_epoch = epoch + 1;
            self.model.raise(new.user, UserState { epoch: epoch + 1 }, now);
        }
        let opened = super::open(self.rig, &new).await;
        // Of sessions seen in the same millisecond either may go first.
        let excess = self.model.excess(new.user, now);
        assert_eq!(self.model.last_seen(&opened.evicted), self.model.last_seen(&excess), "{at}");
        self.model.open(&new, &opened.evicted, now);
        let (_, family) = self.model.sessions[&new.id];
        assert_eq!(opened.session.epoch, family.epoch, "{at}");
        assert_eq!(opened.session.idle_expiry, family.idle_expiry, "{at}");
        self.opened.push(new);
    }

    async fn rotate(&mut self, at: &str) {
        if self.opened.is_empty() {
            return;
        }
        let new = self.some_session();
        let current = self.model.sessions[&new.id].1.generation;
        // Mostly the tokens honest clients hold, sometimes a replay, sometimes one of a write that was lost.
        let generation = match self.dice.roll(40) {
            0 if self.hostile => u32::try_from(self.dice.roll(u64::from(current) + 1)).unwrap(),
            1 => current + 1 + u32::try_from(self.dice.roll(5)).unwrap(),
            2..=24 => current.saturating_sub(1),
            _ => current,
        };
        let now = self.rig.clock().now();
        let (outcome, session) = super::rotate(self.rig, &new, generation).await;
        let (expected, family) = self.model.rotate(&new, generation, now);
        // Of what has expired, a store need not keep whether it was ended before, nor that it ever was.
        let gone = matches!(outcome, Outcome::Unknown | Outcome::Expired)
            && matches!(expected, Outcome::Revoked | Outcome::Expired)
            && now >= family.idle_expiry;
        assert!(gone || outcome == expected, "{at}: {generation} gave {outcome:?}, not {expected:?}");
        if let Some(session) = session {
            assert_eq!(session.generation, family.generation, "{at}");
            assert_eq!(session.last_seen, family.last_seen, "{at}");
            assert_eq!(session.idle_expiry, family.idle_expiry, "{at}");
            assert!(session.generation.abs_diff(current) <= HEAL_GENERATIONS, "{at}");
        }
    }

    async fn confirm(&mut self) {
        if self.opened.is_empty() {
            return;
        }
        let new = self.some_session();
        let (_, family) = self.model.sessions.get_mut(&new.id).unwrap();
        let behind = u32::from(self.dice.roll(4) == 0);
        let seen = access_token(&new, family.generation.saturating_sub(behind));
        *family = family.confirmed_by(&seen).unwrap_or(*family);
        self.rig.store().confirm(&[seen]).await.unwrap();
    }

    async fn end(&mut self, at: &str) {
        if self.opened.is_empty() {
            return;
        }
        let new = self.dice.pick(&self.opened).clone();
        let now = self.rig.clock().now();
        let alive = self.model.alive(new.user, now).contains(&new.id);
        let ended = self.rig.store().end(new.user, new.id, EndReason::Logout).await.unwrap();
        assert_eq!(ended, alive, "{at}");
        if alive {
            self.model.end(new.id, EndReason::Logout, now);
        }
    }

    async fn end_all(&mut self, at: &str) {
        let user = *self.dice.pick(&self.users);
        let now = self.rig.clock().now();
        let ended = self.rig.store().end_all(user).await.unwrap();
        assert_eq!(ended.ended as usize, self.model.alive(user, now).len(), "{at}");
        let raised = self.model.user(user).raised(now);
        assert_eq!(ended.epoch, raised.epoch, "{at}");
        self.model.raise(user, raised, now);
    }

    async fn list(&mut self, at: &str) {
        let user = *self.dice.pick(&self.users);
        let mut expected = self.model.alive(user, self.rig.clock().now());
        let mut listed = super::listed(self.rig, user).await;
        // Sessions seen in the same millisecond may come in either order.
        expected.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, expected, "{at}");
    }
}
