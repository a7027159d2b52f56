//! The hash that is verified for names that nobody has, so that they take as long as those that somebody has.

use super::password_hash::{Cost, PasswordHash};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Kinds of hashes that are told apart; a directory with more is no longer followed.
const MOST_KINDS: usize = 64;

/// The cost most of the hashes have; of several such, the highest.
pub(super) fn usual_cost(costs: impl Iterator<Item = Cost>) -> Cost {
    let mut counts: HashMap<Cost, usize> = HashMap::new();
    for cost in costs {
        *counts.entry(cost).or_default() += 1;
    }
    usual(&counts)
}

fn usual(counts: &HashMap<Cost, usize>) -> Cost {
    counts.iter().max_by_key(|&(&cost, &count)| (count, cost)).map_or(Cost::DEFAULT, |(&cost, _)| cost)
}

/// A hash of nobody that costs this, or at least what ours cost.
pub(super) fn hash(cost: Cost) -> Option<Arc<PasswordHash>> {
    let hash = PasswordHash::of_nobody(cost).or_else(|| PasswordHash::of_nobody(Cost::DEFAULT));
    hash.map(Arc::new)
}

/// For a directory whose hashes are seen one by one: the cost most of those had that it was asked for.
pub(super) struct Nobody {
    seen: Mutex<HashMap<Cost, usize>>,
    hash: ArcSwap<PasswordHash>,
}

impl Nobody {
    pub(super) fn new() -> Option<Self> {
        let hash = ArcSwap::new(hash(Cost::DEFAULT)?);
        Some(Self { seen: Mutex::default(), hash })
    }

    /// A user's hash costs this.
    pub(super) fn saw(&self, cost: Cost) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains_key(&cost) && seen.len() >= MOST_KINDS {
            return;
        }
        let count = seen.entry(cost).or_default();
        *count = count.saturating_add(1);
        let usual = usual(&seen);
        if usual != self.hash.load().cost()
            && let Some(hash) = hash(usual)
        {
            self.hash.store(hash);
        }
    }

    pub(super) fn hash(&self) -> Arc<PasswordHash> {
        self.hash.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::stored::Work;

    #[test]
    fn nobody_costs_what_most_users_cost() {
        let bcrypt = |rounds| Cost::Other(Work::Bcrypt { rounds });
        assert_eq!(usual_cost(std::iter::empty()), Cost::DEFAULT);
        assert_eq!(usual_cost([bcrypt(5), bcrypt(4), bcrypt(4)].into_iter()), bcrypt(4));
        let nobody = Nobody::new().unwrap();
        assert_eq!(nobody.hash().cost(), Cost::DEFAULT);
        for (cost, usual) in [(5, 5), (4, 5), (4, 4), (5, 5), (6, 5)] {
            nobody.saw(bcrypt(cost));
            assert_eq!(nobody.hash().cost(), bcrypt(usual));
        }
    }

    #[test]
    fn a_directory_of_ever_new_costs_is_followed_no_further() {
        let nobody = Nobody::new().unwrap();
        for iterations in 1..10_000 {
            nobody.saw(Cost::Other(Work::Pbkdf2 {
                digest: crate::directory::stored::Digest::Sha256,
                iterations,
            }));
        }
        assert_eq!(nobody.seen.lock().unwrap().len(), MOST_KINDS);
    }
}
