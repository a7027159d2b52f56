//! The server: one session under the state machine that the gateway runs, in a store that may fail over.

use portcullis::clock::Timestamp;
use portcullis::session::family::{Family, Outcome, RotationPolicy, UserState, rotate};
use portcullis::session::id::{SessionId, SessionRef, UserKey};
use portcullis::session::refresh_token::Presented;

const SESSION: SessionId = SessionId::from_bytes([1; 16]);
const USER: UserKey = UserKey::from_bytes([2; 12]);
const SECRET_HASH: [u8; 32] = [3; 32];

/// A rule taken out of the state machine, to see what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// Recovery does not begin grace and coalescing anew.
    Restart,
    /// A token ahead of the store is refused.
    Healing,
    /// Recoveries are not counted.
    Budget,
}

/// The rules a session lives under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) policy: RotationPolicy,
    pub(crate) without: Without,
}

/// What the server did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) recovered: u32,
    pub(crate) healed: u32,
}

/// The store's record of the session, and what it was before the last rotation.
pub(crate) struct Server {
    rules: Rules,
    family: Family,
    before_rotation: Family,
    pub(crate) tally: Tally,
}

impl Server {
    pub(crate) fn new(rules: Rules, now: Timestamp) -> Self {
        let end = now.plus(rules.policy.absolute);
        let family = Family::open(SECRET_HASH, UserState::default(), end, now, &rules.policy);
        Self { rules, family, before_rotation: family, tally: Tally::default() }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.family.generation
    }

    /// Presents the refresh token of `generation`.
    pub(crate) fn present(&mut self, generation: u32, now: Timestamp) -> Outcome {
        if self.rules.without == Without::Budget {
            self.family.recoveries = 0;
        }
        let absolute_expiry = self.family.absolute_expiry;
        let token =
            Presented { session: SESSION, user: USER, secret_hash: SECRET_HASH, generation, absolute_expiry };
        let step = rotate(Some(&self.family), UserState::default(), &token, now, &self.rules.policy);
        let outcome = match (step.outcome, self.rules.without) {
            (Outcome::Healed, Without::Healing) => return Outcome::Ahead,
            (outcome, _) => outcome,
        };
        if let Some(mut next) = step.family {
            if next.generation != self.family.generation {
                self.before_rotation = self.family;
            }
            if outcome == Outcome::Recovered && self.rules.without == Without::Restart {
                next.handed = self.family.handed;
            }
            self.family = next;
        }
        self.tally.recovered += u32::from(outcome == Outcome::Recovered);
        self.tally.healed += u32::from(outcome == Outcome::Healed);
        outcome
    }

    /// The gateway saw an access token of `generation` in use.
    pub(crate) fn used(&mut self, generation: u32) {
        let seen = SessionRef { session: SESSION, user: USER, generation, epoch: 0 };
        if let Some(family) = self.family.confirmed_by(&seen) {
            self.family = family;
        }
    }

    /// A replica takes over that has neither the last rotation nor what was written after it.
    pub(crate) fn fail_over(&mut self) {
        self.family = self.before_rotation;
    }
}
