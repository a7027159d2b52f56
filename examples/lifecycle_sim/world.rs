//! The clients' side: tabs that share a cookie jar, a network that delays and loses, a thief; in time order.

use crate::random::Random;
use crate::server::{Rules, Server, Tally};
use portcullis::clock::Timestamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const WEEK: u64 = 7 * 24 * HOUR;
const LOGIN: u64 = 1_000_000 * SECOND;

/// When a tab refreshes: at 80 to 95 % of the ten minutes that its access token lives.
const REFRESH: (u64, u64) = (8 * MINUTE, 9 * MINUTE + 30 * SECOND);
/// One wake-up in ten comes only after a sleep of this long.
const SLEEP: (u64, u64) = (20 * MINUTE, 12 * HOUR);
/// The tabs that wake up together refresh within this time.
const BURST: u64 = 8 * SECOND;
/// What a message takes that is not stalled.
const TRAVEL: (u64, u64) = (10, 300);
/// Messages in a thousand that stall.
const STALLED: u64 = 30;
/// Wake-ups in a thousand with a failover, at any moment of [`FAILOVER_WITHIN`].
const FAILOVERS: u64 = 20;
const FAILOVER_WITHIN: u64 = 20 * SECOND;
/// Half of the tabs whose response is lost try again after this long; the others at the next wake-up.
const RETRY: (u64, u64) = (SECOND, 60 * SECOND);
/// Half of the access tokens are used within the first, the others within the second.
const USED_SOON: u64 = 2 * SECOND;
const USED_LATER: u64 = 8 * MINUTE;

/// What a thief does with the copy of a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thief {
    /// Refreshes when it suits, and uses the access tokens.
    Ordinary,
    /// Refreshes when it suits, and uses no access token at the gateway.
    Quiet,
    /// Refreshes some seconds after each refresh of the victim.
    InStep,
}

/// The circumstances of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) tabs: u64,
    /// Responses in a thousand that never arrive.
    pub(crate) lost: u64,
    /// The longest a stalled message takes, in seconds.
    pub(crate) stall: u64,
    pub(crate) sleeps: bool,
    pub(crate) failovers: bool,
    pub(crate) thief: Option<Thief>,
}

impl Scenario {
    /// Four tabs; two responses in a hundred are lost.
    pub(crate) const HARSH: Self =
        Self { tabs: 4, lost: 20, stall: 10, sleeps: true, failovers: false, thief: None };
    /// Two tabs; two responses in a thousand are lost.
    pub(crate) const MILD: Self = Self { tabs: 2, lost: 2, ..Self::HARSH };

    /// One tab that is always awake and loses nothing, so that whatever ends the session is the theft.
    pub(crate) const fn theft(thief: Thief) -> Self {
        Self { tabs: 1, lost: 0, sleeps: false, thief: Some(thief), ..Self::HARSH }
    }
}

/// How a week went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    /// When the session was ended, in milliseconds after login; `None` if it lasted.
    pub(crate) ended: Option<u64>,
    /// When the token was copied, in milliseconds after login.
    pub(crate) stolen: Option<u64>,
    pub(crate) tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Victim,
    Thief,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Some tabs begin to refresh.
    Wake,
    /// The thief copies the token in the victim's jar.
    Steal,
    /// A refresh is begun with what the jar holds now.
    Send(Who),
    /// A refresh request arrives with the token of a generation.
    Arrive(Who, u32),
    /// The answer arrives; a token that did not change is not set again.
    Receive { who: Who, generation: u32, set: bool },
    /// An access token of a generation is used.
    Use(u32),
    /// The store fails over.
    FailOver,
}

/// One session from login on.
struct World {
    scenario: Scenario,
    random: Random,
    server: Server,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    jar: u32,
    loot: Option<u32>,
    stolen: Option<u64>,
}

/// Runs one session for a week, or until it is ended.
pub(crate) fn week(scenario: Scenario, rules: Rules, seed: u64) -> Course {
    let mut world = World {
        scenario,
        random: Random::seeded(seed),
        server: Server::new(rules, Timestamp::from_millis(LOGIN)),
        now: LOGIN,
        events: BinaryHeap::new(),
        jar: 0,
        loot: None,
        stolen: None,
    };
    world.within((0, MINUTE), Event::Wake);
    if scenario.thief.is_some() {
        world.within((HOUR, 2 * HOUR), Event::Steal);
    }
    let mut ended = None;
    while let Some(Reverse((at, event))) = world.events.pop() {
        if at >= LOGIN + WEEK {
            break;
        }
        world.now = at;
        if !world.happens(event) {
            ended = Some(at - LOGIN);
            break;
        }
    }
    Course { ended, stolen: world.stolen, tally: world.server.tally }
}

impl World {
    /// Plans `event` for a moment at `from` or later, and before `to`, from now.
    fn within(&mut self, (from, to): (u64, u64), event: Event) {
        let at = self.now + self.random.between(from, to);
        self.events.push(Reverse((at, event)));
    }

    /// Sends a message: `event` is its arrival.
    fn message(&mut self, event: Event) {
        let stalls = self.random.chance(STALLED);
        let travel = if stalls { (TRAVEL.1, self.scenario.stall * SECOND) } else { TRAVEL };
        self.within(travel, event);
    }

    /// `false` if the session is over.
    fn happens(&mut self, event: Event) -> bool {
        match event {
            Event::Wake => self.wake(),
            Event::Steal => {
                self.loot = Some(self.jar);
                self.stolen = Some(self.now - LOGIN);
                if self.scenario.thief != Some(Thief::InStep) {
                    self.within((0, 10 * MINUTE), Event::Send(Who::Thief));
                }
            }
            Event::Send(who) => self.send(who),
            Event::Arrive(who, generation) => return self.arrive(who, generation),
            Event::Receive { who, generation, set } => self.receive(who, generation, set),
            Event::Use(generation) => self.server.used(generation),
            Event::FailOver => self.server.fail_over(),
        }
        true
    }

    fn wake(&mut self) {
        for _ in 0..self.random.between(1, self.scenario.tabs + 1) {
            self.within((0, BURST), Event::Send(Who::Victim));
        }
        if self.scenario.failovers && self.random.chance(FAILOVERS) {
            self.within((0, FAILOVER_WITHIN), Event::FailOver);
        }
        let asleep = self.scenario.sleeps && self.random.chance(100);
        self.within(if asleep { SLEEP } else { REFRESH }, Event::Wake);
    }

    fn send(&mut self, who: Who) {
        let generation = match who {
            Who::Victim => {
                if self.scenario.thief == Some(Thief::InStep) && self.loot.is_some() {
                    self.within((10 * SECOND, 15 * SECOND), Event::Send(Who::Thief));
                }
                self.jar
            }
            Who::Thief => {
                if self.scenario.thief != Some(Thief::InStep) {
                    self.within(REFRESH, Event::Send(Who::Thief));
                }
                self.loot.unwrap_or_default()
            }
        };
        self.message(Event::Arrive(who, generation));
    }

    fn arrive(&mut self, who: Who, generation: u32) -> bool {
        let outcome = self.server.present(generation, Timestamp::from_millis(self.now));
        if !outcome.grants() {
            return false;
        }
        let handed = self.server.generation();
        if !self.random.chance(self.scenario.lost) {
            self.message(Event::Receive { who, generation: handed, set: handed != generation });
        } else if self.random.chance(500) {
            self.within(RETRY, Event::Send(who));
        }
        true
    }

    /// The last answer wins, as in a browser, even if an earlier one overtook it.
    fn receive(&mut self, who: Who, generation: u32, set: bool) {
        match who {
            Who::Victim if set => self.jar = generation,
            Who::Thief => self.loot = Some(generation),
            Who::Victim => {}
        }
        if who == Who::Victim || self.scenario.thief != Some(Thief::Quiet) {
            let soon = self.random.chance(500);
            self.within((0, if soon { USED_SOON } else { USED_LATER }), Event::Use(generation));
        }
    }
}
