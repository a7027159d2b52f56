//! Refresh-token rotation as a pure state machine: what happens when generation g is presented.

use std::time::Duration;

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
