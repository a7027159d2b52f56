//! Password hashes that users bring along: they open the door, and are replaced where they stand.

use crate::support::config::PASSWORD;
use crate::support::{Config, Gateway, Sessions, eventually, post};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// bcrypt's, scrypt's and PBKDF2's hashes of `U*U`, `password` and `Password`, from their published test vectors.
const BCRYPT: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
const SCRYPT: &str = "$scrypt$ln=10,r=8,p=16$TmFDbA$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDaxyevuUqD7m2DYMvfoswGQA";
const PBKDF2: &str = "$pbkdf2-sha256$i=80000$TmFDbA$TdzY9guYviGDDO5e8icB+WQaRBjQTAQUrv8Ih2s0q1ah1CWhIlgzVJrbhBtRybMXaicr3ruh0HhHj2Kzl/M8jQ";

fn login(gateway: &Gateway, user: &str, password: &str) -> u16 {
    let body = json!({ "username": user, "password": password, "delivery": "body" });
    post("/auth/login").json(&body).send(&gateway.address()).status
}

#[test]
fn hashes_of_other_kinds_open_the_door_and_are_replaced_where_they_stand() {
    let users = format!(
        "# Ours; do not touch.\nusers:\n  - username: anna      # since 2009\n    password_hash: {BCRYPT}\n  \
         - {{ username: ben, password_hash: '{SCRYPT}' }}\n  - username: cleo\n    password_hash: \"{PBKDF2}\"\n    \
         claims: {{ roles: [ clerk ] }}\n"
    );
    let config = Config::new().sessions(Sessions::embedded()).file("users.yaml", users.clone());
    let gateway = Gateway::start(&config);
    for user in ["anna", "ben", "cleo"] {
        assert_eq!(login(&gateway, user, PASSWORD), 401, "{user}");
    }
    assert_eq!(gateway.folder().read("users.yaml"), users, "a wrong password replaces nothing");
    let right = [("anna", "U*U", BCRYPT), ("ben", "password", SCRYPT), ("cleo", "Password", PBKDF2)];
    for (user, password, hash) in right {
        assert_eq!(login(&gateway, user, password), 200, "{user}");
        let replaced = || !gateway.folder().read("users.yaml").contains(hash);
        assert!(
            eventually(Duration::from_secs(20), replaced),
            "{user}'s hash is not replaced\n{}",
            gateway.stderr()
        );
    }
    // All else is as it was.
    let now = gateway.folder().read("users.yaml");
    let new: Vec<&str> =
        now.split(['"', '\'', ' ', '\n']).filter(|word| word.starts_with("$argon2id$")).collect();
    assert_eq!(new.len(), 3, "{now}");
    let back =
        new.iter().zip([BCRYPT, SCRYPT, PBKDF2]).fold(now.clone(), |text, (new, old)| text.replace(new, old));
    assert_eq!(back, users);
    // The new ones are those of the same passwords, here and after a restart.
    let mut gateway = gateway;
    gateway.restart();
    for (user, password, _) in right {
        assert_eq!((login(&gateway, user, password), login(&gateway, user, PASSWORD)), (200, 401), "{user}");
    }
}

/// Where many log in at once, the machine's other work must not wait for it.
#[test]
fn hashing_has_the_lowest_priority_and_no_huge_pages() {
    let gateway = Gateway::start(&Config::new().sessions(Sessions::embedded()));
    assert_eq!(login(&gateway, "alice", PASSWORD), 200);
    let process = PathBuf::from(format!("/proc/{}", gateway.process()));
    let read = |name: &str| fs::read_to_string(process.join(name)).unwrap();
    let field = |text: &str, name: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines.map(|rest| rest.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(field(&read("status"), "THP_enabled:"), ["0"]);
    let mappings = field(&read("smaps"), "VmFlags:");
    assert!(!mappings.is_empty());
    assert!(
        !mappings.iter().any(|flags| flags.split(' ').any(|flag| flag == "hg")),
        "huge pages are asked for"
    );

    let threads = fs::read_dir(process.join("task")).unwrap();
    let (hashing, others): (Vec<_>, Vec<_>) = threads
        .map(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            let (name, fields) = stat.rsplit_once(')').unwrap();
            // Field 19 of proc_pid_stat(5); the name was the second.
            let nice: i32 = fields.split_whitespace().nth(16).unwrap().parse().unwrap();
            (name.split_once('(').unwrap().1.to_owned(), nice)
        })
        .partition(|(name, _)| name.starts_with("password-"));
    assert!(!hashing.is_empty() && hashing.iter().all(|(_, nice)| *nice == 19), "{hashing:?}");
    assert!(!others.is_empty() && others.iter().all(|(_, nice)| *nice < 19), "{others:?}");
}
