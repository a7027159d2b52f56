//! The revocation feed: one stream per shard, all read in one round trip.

use super::decode::{self, Entry};
use super::keys;
use super::link::Link;
use crate::session::id::UserKey;
use crate::session::store::{Cursor, Revocation, StoreError};
use redis::Pipeline;

/// Entries taken from each stream at a time.
const PAGE: usize = 1000;

/// Reads on after `cursor`.
///
/// Each read begins with the entry last seen. If that is not there any more, it has outlived the access
/// tokens it was about, or this is another Redis, or one that lost its latest writes; where one cannot tell,
/// the stream is read again from its beginning, since hearing of a revocation twice does no harm.
pub(super) async fn read(link: &Link, cursor: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
    let mut seen = places(cursor);
    let mut streams = fetch(link, &seen).await?;
    let mut lost = false;
    for (place, entries) in seen.iter_mut().zip(&streams) {
        let there = entries.first().is_some_and(|(id, _)| Some(id) == place.as_ref());
        if place.is_some() && !there {
            *place = None;
            lost = true;
        }
    }
    if lost {
        streams = fetch(link, &seen).await?;
    }

    let mut found = Vec::new();
    for (place, entries) in seen.iter_mut().zip(streams) {
        let known = usize::from(place.is_some());
        for (id, fields) in entries.into_iter().skip(known) {
            found.extend(decode::revocation(&fields)?);
            *place = Some(id);
        }
    }
    let places: Vec<_> = seen.iter().map(|place| place.as_deref().unwrap_or_default()).collect();
    Ok((found, Cursor(places.join(","))))
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

async fn fetch(link: &Link, seen: &[Option<String>]) -> Result<Vec<Vec<Entry>>, StoreError> {
    let mut pipe = Pipeline::with_capacity(seen.len());
    for (shard, place) in (0..UserKey::SHARDS).zip(seen) {
        let from = place.as_deref().unwrap_or("-");
        pipe.cmd("XRANGE").arg(keys::stream(shard)).arg(from).arg("+").arg("COUNT").arg(PAGE);
    }
    link.pipeline(&pipe).await
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
