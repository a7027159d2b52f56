//! How much room a session takes in Redis, however long it lives.

use super::RedisStore;
use super::keys;
use super::server::Server;
use super::tests::{new_session, token};
use crate::session::family::{Outcome, RotationPolicy};
use crate::session::store::{NewSession, SessionStore as _};
use serde_json::json;
use std::time::Duration;

/// Bytes that one session may take with its index.
const ROOM: u64 = 600;
/// Bytes of a session, of its user's index, and of its user's epoch.
fn sizes(server: &Server, new: &NewSession) -> [u64; 3] {
    let keys = [keys::session(new.user, new.id), keys::index(new.user), keys::user(new.user)];
    keys.map(|key| server.query(&format!("MEMORY USAGE {key}")))
}

/// A session as a login from a browser opens it.
fn typical() -> NewSession {
    let serde_json::Value::Object(claims) =
        json!({ "email": "alice@example.com", "roles": ["clerk"], "scope": "orders:read orders:write" })
    else {
        panic!("claims are an object")
    };
    let address = Some("192.0.2.17".parse().unwrap());
    NewSession { claims, device: Some("Firefox on Linux".to_owned()), address, ..new_session() }
}

/// `PORTCULLIS_SOAK_ROTATIONS` is how many rotations there are.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "how long a test runs is no setting of the product")]
async fn a_session_takes_as_much_room_after_ever_so_many_rotations_as_after_a_few() {
    let rotations = std::env::var("PORTCULLIS_SOAK_ROTATIONS");
    let rotations: u32 = rotations.map_or(5_000, |number| number.parse().expect("a number"));
    let server = Server::start();
    let policy =
        RotationPolicy { grace: Duration::ZERO, coalesce: Duration::ZERO, ..RotationPolicy::default() };
    let store = RedisStore::connect_lazily(&server.settings(), policy).unwrap();
    let new = typical();
    store.open(new.clone()).await.unwrap();
    // One logout-all of the past: the user's epoch is there too.
    store.end_all(new.user).await.unwrap();
    let new = NewSession { id: new_session().id, ..new };
    store.open(new.clone()).await.unwrap();

    let keys: u64 = server.query("DBSIZE");
    let mut seen = Vec::new();
    for generation in 0..rotations {
        assert_eq!(store.rotate(&token(&new, generation)).await.unwrap().outcome, Outcome::Rotated);
        if [100, 1_000, rotations].contains(&(generation + 1)) {
            seen.push((generation + 1, sizes(&server, &new)));
        }
    }
    println!("bytes of session, index and epoch after so many rotations: {seen:?}");
    let (_, first) = seen[0];
    let (_, last @ [session, index, _]) = seen[seen.len() - 1];
    assert_eq!(last, first, "{seen:?}");
    assert!(session + index <= ROOM, "{seen:?}");
    assert_eq!(server.query::<u64>("DBSIZE"), keys, "rotations made keys");
}
