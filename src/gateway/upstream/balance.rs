//! Which target a request goes to: by turns, or by the highest random weight of its key and the target.
//!
//! The weights of a key rank all targets. Without its first target a key goes to its second, and no other key
//! moves; gateways that know the same targets agree without a word.

use std::net::IpAddr;

/// How one request orders the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Order {
    /// The target at this place, counted round and round.
    Turn(usize),
    /// The target with the highest weight for this key.
    Key(u64),
}

impl Order {
    /// Chooses among candidates, each with the hash that names it.
    pub(super) fn choose<'a, T>(
        self,
        candidates: impl Iterator<Item = &'a T> + Clone,
        name: impl Fn(&T) -> u64,
    ) -> Option<&'a T> {
        match self {
            Self::Turn(turn) => {
                let at = turn.checked_rem(candidates.clone().count())?;
                candidates.into_iter().nth(at)
            }
            Self::Key(key) => candidates.max_by_key(|candidate| mix(key ^ name(candidate))),
        }
    }
}

/// The key of a verified caller. The issuer's length keeps the two texts apart.
pub(super) fn caller_key(issuer: &str, subject: &str) -> u64 {
    let length = (issuer.len() as u64).to_be_bytes();
    hash([length.as_slice(), issuer.as_bytes(), subject.as_bytes()])
}

/// The key of a client that nobody vouches for.
pub(super) fn address_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => hash([address.octets().as_slice()]),
        IpAddr::V6(address) => hash([address.octets().as_slice()]),
    }
}

/// FNV-1a, well mixed: the same on every machine and in every version, as the standard library's hash is not.
pub(super) fn hash<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let bytes = parts.into_iter().flatten();
    let folded = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(folded)
}

/// The finalizer of `SplitMix64`: every bit of the input moves about half of the output's.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize, salt: u64) -> Vec<u64> {
        (0..count).map(|n| hash([format!("10.{salt}.0.{n}:9001").as_bytes()])).collect()
    }

    fn chosen(names: &[u64], key: u64) -> u64 {
        *Order::Key(key).choose(names.iter(), |name| *name).unwrap()
    }

    fn subjects(count: usize) -> impl Iterator<Item = u64> {
        (0..count).map(|n| caller_key("https://issuer.example.test", &format!("user-{n}")))
    }

    #[test]
    fn turns_go_round_and_nobody_is_nobody() {
        let names = names(3, 0);
        let turn = |turn| Order::Turn(turn).choose(names.iter(), |name| *name);
        assert_eq!(
            (0..4).map(|n| turn(n).unwrap()).collect::<Vec<_>>(),
            [&names[0], &names[1], &names[2], &names[0]]
        );
        assert_eq!(Order::Turn(7).choose([].iter(), |name| *name), None);
        assert_eq!(Order::Key(7).choose([].iter(), |name| *name), None);
    }

    #[test]
    fn issuer_and_subject_do_not_run_together() {
        assert_ne!(caller_key("ab", "c"), caller_key("a", "bc"));
    }

    /// A gateway of another build must agree about where a key goes.
    #[test]
    fn the_hash_is_fixed_for_ever() {
        assert_eq!(hash([b"10.0.0.1:9001".as_slice()]), hash([b"10.0.0.1:".as_slice(), b"9001"]));
        assert_eq!(hash([b"".as_slice()]), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(caller_key("gateway", "u-1"), 8_045_625_910_498_603_586);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_target_gets_about_its_share(count in 2_usize..12, salt in 0_u64..250) {
            let names = names(count, salt);
            let keys = 4000;
            let mut hits = vec![0_usize; count];
            for key in subjects(keys) {
                let at = names.iter().position(|name| *name == chosen(&names, key)).unwrap();
                hits[at] += 1;
            }
            // The spread is that of chance: within 6 standard deviations of the mean.
            let mean = keys / count;
            let bound = 6 * mean.isqrt();
            for hit in &hits {
                prop_assert!(hit.abs_diff(mean) <= bound, "{hits:?}, each {mean} ± {bound}");
            }
        }

        #[test]
        fn only_the_keys_of_a_target_that_goes_move_and_they_spread(count in 3_usize..12, salt in 0_u64..250) {
            let all = names(count, salt);
            let (gone, rest) = all.split_first().unwrap();
            let mut moved = 0_usize;
            let mut to = std::collections::HashSet::new();
            for key in subjects(2000) {
                let (before, after) = (chosen(&all, key), chosen(rest, key));
                if before == *gone {
                    moved += 1;
                    to.insert(after);
                } else {
                    prop_assert_eq!(before, after);
                }
            }
            // A share of 1/n, and chance.
            let share = 2000 / count;
            prop_assert!(moved <= share + 6 * share.isqrt(), "{moved} of 2000 moved among {count}");
            prop_assert_eq!(to.len(), rest.len());
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(key in any::<u64>(), turn in 0_usize..9) {
            let names = names(9, 1);
            let mut turned = names.clone();
            turned.rotate_left(turn);
            prop_assert_eq!(chosen(&names, key), chosen(&turned, key));
        }
    }
}
