//! A backend ends all sessions of a user on the admin listener, and nobody else can.

use crate::support::client::Request;
use crate::support::person::{call, login, login_as, logout, refresh};
use crate::support::redis::Redis;
use crate::support::site::Site;
use crate::support::{Config, Gateway, Sessions, eventually, get, post, request};
use std::time::Duration;

const TOKEN: &str = "c2VjcmV0LW9mLXRoZS1hZG1pbi1saXN0ZW5lcg==";

fn with_token(config: Config) -> Config {
    config.admin("token_file", "admin.token").file("admin.token", format!("{TOKEN}\n"))
}

fn revoke(subject: &str) -> Request {
    post(&format!("/users/{subject}/revoke")).bearer(TOKEN)
}

#[test]
fn whoever_has_the_token_ends_all_sessions_of_a_user_at_every_gateway() {
    let mut redis = Redis::start();
    let site = Site::on(redis.port(), "{}").configured(with_token);
    let (one, two) = (site.gateway(), site.gateway());
    let (first, second, other) = (login(&one), login(&two), login_as(&two, "bob"));

    let answer = revoke("alice").send(&one.admin()).expect(200);
    assert_eq!(answer.json()["revoked"], 2);
    assert!(answer.header("x-request-id").is_some());
    for tokens in [&first, &second] {
        assert_eq!(call(&one, &tokens.access), 401);
        assert_eq!(refresh(&two, &tokens.refresh).expect(401).member("code"), "session_revoked");
        assert!(eventually(Duration::from_secs(5), || call(&two, &tokens.access) == 401));
    }
    assert_eq!((call(&one, &other.access), call(&two, &other.access)), (200, 200));
    // Told twice, or told of nobody: no harm.
    assert_eq!(revoke("alice").send(&two.admin()).expect(200).json()["revoked"], 0);
    assert_eq!(revoke("nobody%2Fat-all").send(&two.admin()).expect(200).json()["revoked"], 0);
    assert_eq!(call(&two, &login(&one).access), 200);

    let line = one.log_line(|line| line["event"] == "user_revoked");
    assert_eq!((&line["log"], &line["subject"]), (&"audit".into(), &"alice".into()));
    assert!(one.metric_becomes("portcullis_session_events_total", &[("event", "logout_all")], 1.0));

    // What the store did not record is not claimed.
    redis.stop();
    let refused = revoke("bob").send(&one.admin()).expect(503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.member("code"), "temporarily_unavailable");
    redis.start_again();
    let ended = || revoke("bob").send(&one.admin()).status == 200;
    assert!(eventually(Duration::from_secs(20), ended), "the store never came back");
    assert!(eventually(Duration::from_secs(5), || call(&two, &other.access) == 401));
}

#[test]
fn nobody_else_can() {
    let gateway = Gateway::start(&with_token(Config::new().sessions(Sessions::embedded())));
    let tokens = login(&gateway);
    let path = "/users/alice/revoke";
    let refused = post(path).send(&gateway.admin()).expect(401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    for wrong in ["x", &TOKEN[1..], &format!("{TOKEN}="), &tokens.access, &"x".repeat(9000)] {
        let refused = post(path).bearer(wrong).send(&gateway.admin()).expect(401);
        assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"), "{wrong}");
    }
    post(path).header("Authorization", &format!("Basic {TOKEN}")).send(&gateway.admin()).expect(400);
    post(path).bearer(TOKEN).bearer(TOKEN).send(&gateway.admin()).expect(400);
    let refused = get(path).bearer(TOKEN).send(&gateway.admin()).expect(405);
    assert_eq!(refused.header("allow"), Some("POST"));
    for missing in ["/users//revoke", "/users/a/b/revoke", "/users/alice", "/users/%ff/revoke"] {
        post(missing).bearer(TOKEN).send(&gateway.admin()).expect(404);
    }
    revoke("alice").send(&gateway.address()).expect(404);
    let status = gateway.metric("portcullis_session_events_total", &[("event", "logout_all")]);
    assert!(status.abs() < 0.5, "{status}");
    logout(&gateway, &refresh(&gateway, &tokens.refresh).expect(200).member("refreshToken")).expect(204);
    // A body that nobody asked for is no harm to the connection.
    let with_body = request("POST", path).bearer(TOKEN).body("{}").send(&gateway.admin());
    with_body.expect(200);
}
