//! The life of a signing key: published before it signs, and for as long as what it signed is good.

use crate::support::gateway::command;
use crate::support::person::{call, login};
use crate::support::redis::Redis;
use crate::support::site::Site;
use crate::support::token::parts;
use crate::support::{Folder, Gateway, Sessions, eventually, get};
use serde_json::Value;
use std::fs;
use std::time::{Duration, SystemTime};

const LONG: Duration = Duration::from_secs(30);

fn keys(folder: &Folder, arguments: &[&str]) -> String {
    let exit = command(folder, &[&["keys"], arguments, &["--config", "portcullis.yaml"]].concat(), "");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}

/// Each key's stage and `kid`, by stage.
fn listed(folder: &Folder) -> Vec<(String, String)> {
    let list: Value = serde_json::from_str(&keys(folder, &["list", "--json"])).unwrap();
    let member = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    let keys = list.as_array().unwrap().iter();
    let mut stages: Vec<_> = keys.map(|key| (member(key, "stage"), member(key, "kid"))).collect();
    stages.sort();
    stages
}

fn published(gateway: &Gateway) -> Vec<String> {
    let answer = get("/.well-known/jwks.json").send(&gateway.address()).expect(200);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn kid(access: &str) -> String {
    parts(access).0["kid"].as_str().unwrap().to_owned()
}

#[test]
fn a_new_key_is_published_first_then_signs_and_every_gateway_accepts_both() {
    let redis = Redis::start();
    let site = Site::on(redis.port(), "{}");
    let (one, other) = (site.gateway(), site.gateway());
    let before = login(&one).access;
    let old = kid(&before);
    assert_eq!(published(&one), std::slice::from_ref(&old));

    let after = Duration::from_secs(6);
    let made = SystemTime::now();
    keys(one.folder(), &["rotate", "--after", "6s"]);
    let stages = listed(one.folder());
    let new = stages[1].1.clone();
    assert_eq!(stages, [("active".to_owned(), old.clone()), ("pending".to_owned(), new.clone())]);
    let both = |gateway: &Gateway| {
        let kids = published(gateway);
        kids.len() == 2 && kids.contains(&old) && kids.contains(&new)
    };
    // Another is not made while one waits.
    let again = command(one.folder(), &["keys", "rotate", "--config", "portcullis.yaml"], "");
    assert!(again.code == Some(1) && again.stderr.contains("is pending already"), "{again:?}");
    for gateway in [&one, &other] {
        assert!(eventually(LONG, || both(gateway)), "published");
    }
    let meanwhile = login(&one).access;
    // On a machine that slept through the pending time this shows nothing.
    if made.elapsed().unwrap() + Duration::from_secs(1) < after {
        assert_eq!(kid(&meanwhile), old);
    }
    let signs = ("active".to_owned(), new.clone());
    assert!(eventually(LONG, || listed(one.folder()).contains(&signs)), "the new key signs");
    let later = login(&one).access;
    assert_eq!(kid(&later), new);
    for gateway in [&one, &other] {
        assert_eq!((call(gateway, &before), call(gateway, &later)), (200, 200));
    }
    assert_eq!(listed(one.folder()), [("active".to_owned(), new.clone()), ("retired".to_owned(), old)]);

    // Its file gone, nothing of the old key is accepted any more.
    let list: Value = serde_json::from_str(&keys(one.folder(), &["list", "--json"])).unwrap();
    let retired = list.as_array().unwrap().iter().find(|key| key["stage"] == "retired").unwrap();
    fs::remove_file(retired["file"].as_str().unwrap()).unwrap();
    for gateway in [&one, &other] {
        assert!(eventually(LONG, || published(gateway) == std::slice::from_ref(&new)), "published");
        assert!(eventually(LONG, || call(gateway, &before) == 401), "refused");
        assert_eq!(call(gateway, &later), 200);
    }
}

#[test]
fn a_broken_key_changes_nothing_and_a_spent_one_is_removed() {
    let config = crate::support::Config::new().sessions(Sessions::embedded());
    let gateway = Gateway::start(&config);
    let folder = gateway.folder().path().join("data/keys");
    let before = published(&gateway);
    fs::write(folder.join("broken.pem"), "no key").unwrap();
    assert!(eventually(LONG, || gateway.stderr().contains("the new signing keys are refused")), "told");
    assert_eq!(published(&gateway), before);
    fs::remove_file(folder.join("broken.pem")).unwrap();

    // A key that took over long ago: what there was before is of no use any more.
    let exit =
        command(gateway.folder(), &["keys", "rotate", "--after", "0s", "--config", "portcullis.yaml"], "");
    assert!(exit.code == Some(0) && exit.stderr.contains("warning"), "{exit:?}");
    let made = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let made = made.filter(|path| !path.ends_with("1-active.pem")).collect::<Vec<_>>();
    assert_eq!(made.len(), 1);
    fs::rename(&made[0], folder.join("20200101T000000Z.pem")).unwrap();
    let said = keys(gateway.folder(), &["rotate"]);
    assert!(said.contains("removed ") && said.contains("1-active.pem; nothing it signed is good"), "{said}");
    let stages: Vec<_> = listed(gateway.folder()).into_iter().map(|(stage, _)| stage).collect();
    assert_eq!(stages, ["active", "pending"]);
}
