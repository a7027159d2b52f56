//! A Redis primary dies with what only it had heard of: nobody is logged out, nobody is logged in again.

use crate::support::person::{Tokens, call, login, login_as, logout, refresh, refresh_request};
use crate::support::redis_group::Watched;
use crate::support::site::Site;
use crate::support::{Gateway, eventually, post, wait_for};
use std::time::Duration;

/// How long a failover may keep everyone waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Refreshes as soon as the store answers; nothing else may be said before.
#[track_caller]
fn refresh_after_the_outage(gateway: &Gateway, token: &str) -> Tokens {
    let answer = wait_for(PATIENCE, || {
        let answer = refresh(gateway, token);
        assert!(answer.status == 503 || answer.status == 200, "{}: {}", answer.status, answer.text());
        (answer.status == 200).then_some(answer)
    });
    Tokens::from_body(answer.expect("the store never came back"))
}

#[test]
fn a_failover_that_loses_rotations_logs_nobody_out() {
    let mut watched = Watched::start();
    let site = Site::new(&watched.store(), "{}");
    let (one, two) = (site.gateway(), site.gateway());
    let before: Vec<Tokens> = (0..6).map(|_| login(&one)).collect();
    watched.cut_off_the_replica();
    // Only the primary hears of these.
    let after: Vec<Tokens> =
        before.iter().take(4).map(|tokens| Tokens::from_body(refresh(&two, &tokens.refresh))).collect();
    for (old, new) in before.iter().zip(&after) {
        assert_ne!(old.refresh, new.refresh);
        let key = &watched.replica.keys(&format!("rs:*:{}", old.session))[0];
        assert_eq!(
            watched.replica.ask(&format!("BITFIELD_RO {key} GET u32 32")),
            "0",
            "the replica has heard of it"
        );
    }
    watched.fail_over();
    for (tokens, gateway) in after.iter().zip([&one, &two].into_iter().cycle()) {
        let next = refresh_after_the_outage(gateway, &tokens.refresh);
        assert_eq!(next.session, tokens.session);
        assert_eq!(call(&one, &next.access), 200);
        assert_eq!(call(&two, &next.access), 200);
        // The other gateway may find the new primary a moment later.
        refresh_after_the_outage(&two, &next.refresh);
    }
    let healed =
        |gateway: &Gateway| gateway.metric("portcullis_session_events_total", &[("event", "refresh_healed")]);
    assert!((healed(&one) + healed(&two) - 4.0).abs() < 0.5, "{} and {}", healed(&one), healed(&two));
    // Those whose sessions the replica knew as they were.
    for tokens in &before[4..] {
        refresh_after_the_outage(&two, &tokens.refresh);
    }
}

#[test]
fn a_failover_that_loses_logouts_logs_nobody_in() {
    let mut watched = Watched::start();
    let site = Site::new(&watched.store(), "{}");
    let (one, two) = (site.gateway(), site.gateway());
    let (ended, everywhere, stays) = (login(&one), login_as(&one, "bob"), login(&two));
    watched.cut_off_the_replica();
    logout(&one, &ended.refresh).expect(204);
    post("/auth/logout-all").bearer(&everywhere.access).send(&two.address()).expect(200);
    let gone = [&ended, &everywhere];
    let refused = || {
        let mut all = gone.iter().flat_map(|tokens| [(&one, tokens), (&two, tokens)]);
        all.all(|(gateway, tokens)| call(gateway, &tokens.access) == 401)
    };
    assert!(eventually(Duration::from_secs(5), refused), "the logout is not felt");
    let key = &watched.replica.keys(&format!("rs:*:{}", ended.session))[0];
    assert_eq!(
        watched.replica.ask(&format!("BITFIELD_RO {key} GET u8 8")),
        "0",
        "the replica has heard of it"
    );
    assert!(watched.replica.keys("us:*").is_empty(), "the replica has heard of it");

    watched.fail_over();
    // From the first answer on: refused, by both gateways.
    for gateway in [&two, &one] {
        for tokens in gone {
            let answer = wait_for(PATIENCE, || {
                assert!(refused());
                let answer = refresh(gateway, &tokens.refresh);
                assert_ne!(answer.status, 200, "who logged out is logged in again");
                (answer.status != 503).then_some(answer)
            });
            let answer = answer.expect("the store never came back").expect(401);
            assert_eq!(answer.member("code"), "session_revoked");
        }
    }
    // The store is told again: then a gateway that never heard of it knows too.
    let told = || {
        watched.replica.ask(&format!("BITFIELD_RO {key} GET u8 8")) == "1"
            && !watched.replica.keys("us:*").is_empty()
    };
    assert!(eventually(Duration::from_secs(5), told), "the store was not told again");
    let new = site.gateway();
    for tokens in gone {
        assert_eq!(call(&new, &tokens.access), 401);
        assert_eq!(refresh(&new, &tokens.refresh).expect(401).member("code"), "session_revoked");
    }
    refresh_after_the_outage(&one, &stays.refresh);
    let again = refresh_request(&login_as(&two, "bob").refresh);
    again.send(&one.address()).expect(200);
}
