//! The revocation feed: one stream per shard, all of a server read in one round trip.

use super::decode::{self, Entry};
use super::keys;
use super::link::Link;
use crate::session::id::UserKey;
use crate::session::store::{Cursor, Revocation, StoreError};

/// Entries taken from each stream at a time.
const PAGE: usize = 1000;

/// Reads on after `cursor`.
///
/// Each read begins with the entry last seen. If that is not there any more, it has outlived the access
/// tokens it was about, or this is another Redis, or one that lost its latest writes; one cannot tell, and so
/// everything is to be read again, since hearing of a revocation twice does no harm.
///
/// Where only some servers of a cluster answer, what they say is passed on, and the failure is told as soon
/// as they have nothing more to say.
pub(super) async fn read(link: &Link, cursor: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
    let mut seen = places(cursor);
    let (streams, failure) = fetch(link, &seen).await;
    for (place, entries) in seen.iter().zip(&streams) {
        let Some(entries) = entries else { continue };
        let there = entries.first().is_some_and(|(id, _)| Some(id) == place.as_ref());
        if place.is_some() && !there {
            return Ok((Vec::new(), Cursor::default()));
        }
    }

    let mut found = Vec::new();
    for (place, entries) in seen.iter_mut().zip(streams) {
        let known = usize::from(place.is_some());
        for (id, fields) in entries.unwrap_or_default().into_iter().skip(known) {
            found.extend(decode::revocation(&fields)?);
            *place = Some(id);
        }
    }
    match failure {
        Some(failure) if found.is_empty() => Err(failure),
        _ => {
            let places: Vec<_> = seen.iter().map(|place| place.as_deref().unwrap_or_default()).collect();
            Ok((found, Cursor(places.join(","))))
        }
    }
}

/// The entry last seen in each shard's stream. What is no place of ours is the beginning.
fn places(cursor: &Cursor) -> Vec<Option<String>> {
    let mut places: Vec<_> = cursor.0.split(',').map(|id| is_entry_id(id).then(|| id.to_owned())).collect();
    places.resize(usize::from(UserKey::SHARDS), None);
    places
}

fn is_entry_id(id: &str) -> bool {
    let is_number = |part: &str| part.parse::<u64>().is_ok();
    id.split_once('-').is_some_and(|(millis, sequence)| is_number(millis) && is_number(sequence))
}

async fn fetch(link: &Link, seen: &[Option<String>]) -> (Vec<Option<Vec<Entry>>>, Option<StoreError>) {
    let questions: Vec<_> = (0..UserKey::SHARDS)
        .zip(seen)
        .map(|(shard, place)| {
            let mut command = redis::cmd("XRANGE");
            let from = place.as_deref().unwrap_or("-");
            command.arg(keys::stream(shard)).arg(from).arg("+").arg("COUNT").arg(PAGE);
            command
        })
        .collect();
    link.every_shard(&questions).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_is_none_of_ours_is_the_beginning() {
        for text in ["", "nonsense", "1-2-3,-,1-", ",,,,,,,,,,,,,,,,,,,,,,"] {
            assert_eq!(places(&Cursor(text.to_owned())), vec![None; 16], "{text}");
        }
        assert_eq!(places(&Cursor("5-0,x".to_owned()))[0], Some("5-0".to_owned()));
    }
}
