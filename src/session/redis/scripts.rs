//! The scripts, one per transition, and the rules' numbers that they share with `family`.

use super::call::Script;
use super::decode;
use crate::session::family::{HEAL_GENERATIONS, LINGER, RECOVERIES, RECOVERY_PERIOD};
use crate::session::store::EndReason;

const PRELUDE: &str = include_str!("prelude.lua");

pub(super) struct Scripts {
    pub(super) open: Script,
    pub(super) rotate: Script,
    pub(super) end: Script,
    pub(super) end_all: Script,
    pub(super) confirm: Script,
    pub(super) reapply: Script,
    pub(super) reapply_all: Script,
    pub(super) take: Script,
    pub(super) give_back: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let numbers = format!(
            "local LINGER, HEAL, RECOVERIES, PERIOD, LAST = {}, {HEAL_GENERATIONS}, {RECOVERIES}, {}, {}\n\
             local LOGOUT, REUSED = {}, {}\n",
            LINGER.as_millis(),
            RECOVERY_PERIOD.as_millis(),
            u32::MAX,
            decode::end_code(EndReason::Logout),
            decode::end_code(EndReason::Reused),
        );
        let with_prelude = |script: &str| Script::new(format!("{numbers}{PRELUDE}\n{script}"));
        Self {
            open: with_prelude(include_str!("open.lua")),
            rotate: with_prelude(include_str!("rotate.lua")),
            end: with_prelude(include_str!("end.lua")),
            end_all: with_prelude(include_str!("end_all.lua")),
            reapply: with_prelude(include_str!("reapply.lua")),
            reapply_all: with_prelude(include_str!("reapply_all.lua")),
            take: with_prelude(include_str!("take.lua")),
            give_back: with_prelude(include_str!("give_back.lua")),
            confirm: with_prelude(include_str!("confirm.lua")),
        }
    }
}
