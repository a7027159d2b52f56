//! Who may log in is said by a database: one query, whose columns become the claims.

use crate::directories::dies_hangs_and_comes_back;
use crate::support::config::{cheap_hash, costly_hash};
use crate::support::daemon::Breakable;
use crate::support::database::{DATABASE_PASSWORD, Postgres, sqlite};
use crate::support::mariadb::MariaDb;
use crate::support::measure::processor_time;
use crate::support::person::{login_as, login_request, refresh};
use crate::support::tls::Authority;
use crate::support::token::parts;
use crate::support::{Config, Folder, Gateway, Response, Sessions, Upstream, eventually, get, post};
use serde_json::json;
use std::time::Duration;

const BCRYPT: &str = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

fn wrong(gateway: &Gateway, user: &str) -> Response {
    let body = json!({ "username": user, "password": "wrong", "delivery": "body" });
    post("/auth/login").json(&body).send(&gateway.address())
}

fn login(gateway: &Gateway, user: &str, password: &str) -> Response {
    let body = json!({ "username": user, "password": password, "delivery": "body" });
    post("/auth/login").json(&body).send(&gateway.address())
}

fn failures(gateway: &Gateway) -> f64 {
    gateway.metric("portcullis_session_events_total", &[("event", "login_failed")])
}

/// A table of users in a file: alice, a clerk; carol, who is not active; dora, who has no password; two Eves.
fn table() -> String {
    let hash = cheap_hash();
    format!(
        "create table users (id integer primary key, login text, password_hash text, email text, roles text, \
         age integer, staff boolean, weight real, active boolean, photo blob); \
         insert into users values (1, 'alice', '{hash}', 'alice@example.com', '[\"clerk\"]', 42, true, 61.5, true, null), \
         (2, 'carol', '{hash}', null, '[]', null, false, null, false, null), \
         (3, 'dora', null, null, '[]', null, false, null, true, null), \
         (4, 'eve', '{hash}', null, '[]', null, false, null, true, null), \
         (5, 'eve', '{hash}', null, '[]', null, false, null, true, null), \
         (6, 'frank', '!', null, '[]', null, false, null, true, null), \
         (7, 'gina', '{BCRYPT}', null, '[]', null, false, null, true, null), \
         (8, 'hugo', '{hash}', null, 'clerk', null, false, null, true, x'00');"
    )
}

const QUERY: &str = "select id as subject, password_hash, email, roles as 'roles:json', age, staff, weight from users \
                     where login = ? and active";

fn of_file(query: &str, more: &str) -> Sessions {
    Sessions::embedded()
        .set("users", &format!("{{ sql: {{ url: \"sqlite:users.db\", query: \"{query}\"{more} }} }}"))
}

fn start_beside(folder: &Folder, query: &str) -> Gateway {
    let url = format!("sqlite://{}/users.db", folder.path().display());
    let users = format!("{{ sql: {{ url: \"{url}\", query: \"{query}\" }} }}");
    Gateway::start(&Config::new().sessions(Sessions::embedded().set("users", &users)))
}

#[test]
fn columns_become_claims_and_reach_the_upstream() {
    let folder = Folder::new();
    sqlite(&folder.path().join("users.db"), &table());
    let upstream = Upstream::start();
    let users = format!(
        "{{ sql: {{ url: \"sqlite://{}/users.db\", query: \"{QUERY}\" }} }}",
        folder.path().display()
    );
    let config = Config::to(&upstream)
        .sessions(Sessions::embedded().set("users", &users))
        .set("forward", "{ headers: { X-Auth-Subject: sub, X-Auth-Email: email, X-Auth-Roles: roles } }")
        .route("{ name: api, match: { path: /api/** }, upstream: app, auth: required }");
    let gateway = Gateway::start(&config);
    let tokens = login_as(&gateway, "alice");
    let claims = parts(&tokens.access).1;
    assert_eq!((&claims["sub"], &claims["email"]), (&json!("1"), &json!("alice@example.com")));
    assert_eq!((&claims["roles"], &claims["age"]), (&json!(["clerk"]), &json!(42)));
    assert_eq!((&claims["staff"], &claims["weight"]), (&json!(true), &json!(61.5)));
    assert_eq!(claims.get("password_hash"), None);
    get("/api/x").bearer(&tokens.access).send(&gateway.address()).expect(200);
    let got = upstream.last();
    assert_eq!(
        (got.header("x-auth-subject"), got.header("x-auth-email")),
        (Some("1"), Some("alice@example.com"))
    );

    // NULL is no claim, and a hash of another kind opens as well.
    let gina = login(&gateway, "gina", "U*U").expect(200);
    assert_eq!(parts(&gina.member("accessToken")).1.get("email"), None);

    // Wrong, unknown, inactive, without a password, with a hash that locks: all the same to who asks.
    for user in ["alice", "nobody", "", "\u{e4}\u{f6}", "a\u{0}b", "alice\n"] {
        assert_eq!(wrong(&gateway, user).expect(401).member("code"), "invalid_credentials", "{user:?}");
    }
    for user in ["nobody", "carol", "dora", "frank", "Alice", "alice "] {
        let refused = login_request(user).send(&gateway.address()).expect(401);
        assert_eq!(refused.member("code"), "invalid_credentials", "{user:?}");
    }
    assert!(gateway.says("a user's password hash verifies nothing"), "frank is named in the log");

    // What is in a name is only ever a name.
    for name in [
        "alice' or '1'='1",
        "' or 1=1 --",
        "alice'; drop table users; --",
        "alice\"; delete from users; --",
        "alice' union select 1, password_hash from users --",
        "?",
        "$1",
        "%",
        "alice\\",
        "(select login from users)",
    ] {
        login_request(name).send(&gateway.address()).expect(401);
    }
    login_as(&gateway, "alice");
    // A refresh goes on without the database.
    std::fs::remove_file(folder.path().join("users.db")).unwrap();
    refresh(&gateway, &tokens.refresh).expect(200);
}

#[test]
fn a_query_that_names_nobody_for_certain_is_an_outage_that_the_log_explains() {
    let folder = Folder::new();
    sqlite(&folder.path().join("users.db"), &table());
    let select = "select id as subject, password_hash";
    for (query, user, early, said) in [
        (format!("{select} from users where login = ?"), "eve", false, "more than one row"),
        (
            "select id, password_hash from users where login = ?".into(),
            "alice",
            true,
            "gives no column subject",
        ),
        (
            "select id as subject from users where login = ?".into(),
            "alice",
            true,
            "gives no column password_hash",
        ),
        (
            "select id as subject from users where login = ?".into(),
            "nobody",
            true,
            "gives no column password_hash",
        ),
        (format!("{select} from users where login = ? or email = ?"), "alice", true, "asks for 2 values"),
        (format!("{select} from people where login = ?"), "alice", true, "no such table"),
        (
            format!("{select}, email as sid from users where login = ?"),
            "alice",
            true,
            "set by the gateway itself",
        ),
        (
            format!("{select}, photo from users where login = ?"),
            "hugo",
            false,
            "\\\"photo\\\" is of the type BLOB",
        ),
        (format!("{select}, roles from users where login = ?"), "hugo", false, "must be a list of strings"),
        (format!("{select}, roles as 'r:json' from users where login = ?"), "hugo", false, "holds no JSON"),
        (
            "select email as subject, password_hash from users where login = ?".into(),
            "hugo",
            false,
            "column subject must",
        ),
    ] {
        let gateway = start_beside(&folder, &query);
        if early {
            assert!(gateway.says("the query cannot be used"), "{query}\n{}", gateway.stderr());
            assert!(gateway.says(said), "{query}\n{}", gateway.stderr());
        }
        let answer = login_request(user).send(&gateway.address());
        assert_eq!(answer.status, 503, "{query}: {}", answer.text());
        assert!(gateway.says(said), "{query}\n{}", gateway.stderr());
        assert!(failures(&gateway).abs() < 0.5);
    }
}

#[test]
fn a_database_that_is_not_there_yet_keeps_nothing_from_starting() {
    let gateway = Gateway::start(&Config::new().sessions(of_file(QUERY, "")));
    assert!(gateway.says("the database does not answer yet"));
    login_request("alice").send(&gateway.address()).expect(503);
    sqlite(&gateway.folder().path().join("users.db"), &table());
    let logs_in = || login_request("alice").send(&gateway.address()).status == 200;
    assert!(eventually(Duration::from_secs(10), logs_in));
    assert!(failures(&gateway).abs() < 0.5);
}

#[test]
fn unknown_names_take_as_long_as_wrong_passwords() {
    // So costly that nothing else counts.
    let hash = costly_hash(32 * 1024, 3);
    let folder = Folder::new();
    sqlite(
        &folder.path().join("users.db"),
        &format!(
            "create table users (login text, password_hash text); \
             insert into users values ('alice', '{hash}'), ('dora', null);"
        ),
    );
    let gateway = start_beside(&folder, "select login as subject, password_hash from users where login = ?");
    login_as(&gateway, "alice");
    // Work, and not time: the machine may have other things to do.
    let work = |user: &str| {
        let before = processor_time(gateway.process());
        for _ in 0..3 {
            wrong(&gateway, user).expect(401);
        }
        processor_time(gateway.process()).saturating_sub(before)
    };
    // Noise only adds: the least of the one against the most of the other.
    let known = work("alice").min(work("alice"));
    assert!(known > Duration::from_millis(100), "{known:?} is too little to compare");
    for user in ["nobody", "dora", "a\u{0}b"] {
        let unknown = work(user).max(work(user));
        println!("alice {known:?}, {user:?} {unknown:?}");
        assert!(unknown * 2 > known, "{user:?} takes {unknown:?}, alice {known:?}");
    }
}

/// Users with every type that is understood.
fn postgres_table() -> String {
    let hash = cheap_hash();
    format!(
        "create type office as enum ('north', 'south'); create domain mail as text; \
         create table users (id uuid primary key, login text, password_hash varchar(200), email mail, roles text[], \
         office office, small smallint, age int, number bigint, staff boolean, weight real, height double precision, \
         address jsonb, note json, code char(3), since timestamptz, active boolean); \
         insert into users values ('0b6ee0a6-3a3e-4d54-8d3c-6ad9f6b3a001', 'alice', '{hash}', 'alice@example.com', \
         '{{clerk,lead}}', 'north', 1, 42, 9007199254740993, true, 0.1, 1.75, '{{\"city\": \"Bern\"}}', '[1, null]', 'abc', \
         now(), true), \
         ('0b6ee0a6-3a3e-4d54-8d3c-6ad9f6b3a002', 'carol', '{hash}', null, '{{}}', null, null, null, null, null, null, \
         null, null, null, null, now(), false), \
         ('0b6ee0a6-3a3e-4d54-8d3c-6ad9f6b3a003', 'ben', '{hash}', null, null, null, null, null, null, null, null, \
         null, null, null, null, now(), true);"
    )
}

const POSTGRES_QUERY: &str = "select id as subject, password_hash, email, roles, office, small, age, number, staff, \
                              weight, height, address, note, code from users where login = $1 and active";

#[test]
fn users_of_postgresql_log_in_over_a_verified_connection() {
    let authority = Authority::new();
    let server = Postgres::start(&authority.identity(&["localhost"]), &postgres_table());
    let sessions = |query: &str| {
        let users = format!("{{ sql: {{ url: \"${{DATABASE}}\", ca_file: ca.pem, query: \"{query}\" }} }}");
        Config::new()
            .sessions(Sessions::embedded().set("users", &users))
            .environment("DATABASE", &server.url())
    };
    let config = sessions(POSTGRES_QUERY).file("ca.pem", authority.pem());
    let gateway = Gateway::start(&config);
    assert!(gateway.says("the query can be used"));
    let claims = parts(&login_as(&gateway, "alice").access).1;
    for (claim, value) in [
        ("sub", json!("0b6ee0a6-3a3e-4d54-8d3c-6ad9f6b3a001")),
        ("email", json!("alice@example.com")),
        ("roles", json!(["clerk", "lead"])),
        ("office", json!("north")),
        ("small", json!(1)),
        ("age", json!(42)),
        ("number", json!(9_007_199_254_740_993_i64)),
        ("staff", json!(true)),
        ("weight", json!(0.1)),
        ("height", json!(1.75)),
        ("address", json!({ "city": "Bern" })),
        ("note", json!([1, null])),
        ("code", json!("abc")),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    let ben = parts(&login_as(&gateway, "ben").access).1;
    assert!(ben.get("roles").is_none() && ben.get("email").is_none(), "{ben}");
    wrong(&gateway, "alice").expect(401);
    for user in ["nobody", "carol", "alice' or '1'='1", "'; drop table users; --", "$1", "a\u{0}", "\\"] {
        login_request(user).send(&gateway.address()).expect(401);
    }
    login_as(&gateway, "alice");
    let encrypted = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) \
                     where application_name = 'portcullis' and ssl";
    assert_ne!(server.run(encrypted).trim(), "0");

    // Another authority's server is not asked.
    let gateway = Gateway::start(&sessions(POSTGRES_QUERY).file("ca.pem", Authority::new().pem()));
    login_request("alice").send(&gateway.address()).expect(503);
    assert!(gateway.says("certificate"));
    assert!(!(gateway.stderr() + &gateway.stdout()).contains(DATABASE_PASSWORD));

    // The URL from a file; a type that is not understood; a name that the query makes something else of.
    let columns = "select id as subject, password_hash, since from users where login = $1";
    let number = "select id as subject, password_hash from users where age = $1::int";
    for (query, user, said) in [(columns, "alice", "TIMESTAMPTZ"), (number, "my-s3cret", "SQLSTATE 22P02")] {
        let users = format!("{{ sql: {{ url_file: url, query: \"{query}\" }} }}");
        let config = Config::new()
            .sessions(Sessions::embedded().set("users", &users))
            .file("url", server.url() + "\n");
        let gateway = Gateway::start(&config);
        login_request(user).send(&gateway.address()).expect(503);
        assert!(gateway.says(said), "{}", gateway.stderr());
        let written = gateway.stderr() + &gateway.stdout();
        assert!(!written.contains(DATABASE_PASSWORD) && !written.contains("my-s3cret"), "{written}");
    }
}

#[test]
fn a_name_that_the_database_cannot_write_down_is_nobodys() {
    let authority = Authority::new();
    let server = Postgres::start(&authority.identity(&["localhost"]), "");
    server.run("create database west encoding 'LATIN1' locale 'C' template template0");
    let table = format!(
        "create table users (login text, password_hash text); insert into users values ('zo\u{eb}', '{}')",
        cheap_hash()
    );
    server.run_in("west", &table);
    let query = "select login as subject, password_hash from users where login = $1";
    let url = server.url_of("west");
    let users = format!("{{ sql: {{ url: \"{url}\", query: \"{query}\", timeout: 20s }} }}");
    let gateway = Gateway::start(&Config::new().sessions(Sessions::embedded().set("users", &users)));
    login_as(&gateway, "zo\u{eb}");
    let open = || server.run("select pid from pg_stat_activity where application_name = 'portcullis'");
    // The one that tried the query out goes.
    assert!(eventually(Duration::from_secs(20), || open().lines().count() == 1), "{}", open());
    let before = open();
    know_zoe_alone(&gateway);
    assert_eq!(open(), before, "a connection is thrown away for such a name");
}

/// Zoë logs in, and who has a name of another script has it asked in vain.
#[track_caller]
fn know_zoe_alone(gateway: &Gateway) {
    login_as(gateway, "zo\u{eb}");
    for name in ["\u{96ea}", "zoe\u{308}", "\u{1f600}", "\u{b0}C"] {
        let refused = login_request(name).send(&gateway.address());
        assert_eq!(refused.status, 401, "{name}: {}\n{}", refused.text(), gateway.stderr());
    }
    assert!((failures(gateway) - 4.0).abs() < 0.5, "a wrong name counts as one");
    login_as(gateway, "zo\u{eb}");
}

#[test]
fn a_database_that_dies_or_hangs_costs_no_try_and_comes_back() {
    let authority = Authority::new();
    let mut server = Postgres::start(&authority.identity(&["localhost"]), &postgres_table());
    let users =
        format!("{{ sql: {{ url: \"{}\", query: \"{POSTGRES_QUERY}\", timeout: 3s }} }}", server.url());
    let gateway = dies_hangs_and_comes_back(&mut server, &users);
    // Connections from before a restart are of no use, and nobody notices.
    server.stop();
    server.start_again();
    login_request("alice").send(&gateway.address()).expect(200);
    assert!(!(gateway.stderr() + &gateway.stdout()).contains(DATABASE_PASSWORD));
}

#[test]
fn more_logins_than_connections_wait_for_one_another() {
    let authority = Authority::new();
    let server = Postgres::start(&authority.identity(&["localhost"]), &postgres_table());
    let slow =
        "select id as subject, password_hash, pg_sleep(0.2)::text as slept from users where login = $1";
    let users = format!("{{ sql: {{ url: \"{}\", query: \"{slow}\", timeout: 20s }} }}", server.url());
    let gateway = Gateway::start(&Config::new().sessions(Sessions::embedded().set("users", &users)));
    let most = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..16).map(|_| scope.spawn(|| login_request("alice").send(&gateway.address()).status)).collect();
        let open = "select count(*) from pg_stat_activity where application_name = 'portcullis'";
        let mut most = 0;
        while !all.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            most = most.max(server.run(open).trim().parse::<u32>().unwrap());
        }
        let statuses: Vec<u16> = all.into_iter().map(|login| login.join().unwrap()).collect();
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        most
    });
    assert!((1..=8).contains(&most), "{most} connections");
    println!("at most {most} connections");
}

const MARIADB_QUERY: &str = "select id as subject, password_hash, email, roles as `roles:json`, office, age, number, \
                             staff, weight, height from users where login = ? and active";

#[test]
fn users_of_mariadb_log_in_over_a_verified_connection() {
    let hash = cheap_hash();
    let authority = Authority::new();
    let table = format!(
        "create table users (id bigint unsigned primary key auto_increment, login varchar(100) unique, \
         password_hash varchar(200), email text, roles json, office enum('north', 'south'), age int, \
         number bigint unsigned, staff boolean, weight float, height double, born date, active boolean); \
         insert into users (login, password_hash, email, roles, office, age, number, staff, weight, height, born, active) \
         values ('alice', '{hash}', 'alice@example.com', '[\"clerk\"]', 'north', -42, 18446744073709551615, true, 0.1, \
         1.75, '2000-01-01', true), ('carol', '{hash}', null, null, null, null, null, null, null, null, null, false); \
         create table west (login varchar(100) character set latin1, password_hash varchar(200)); \
         insert into west values (convert(x'7a6feb' using latin1), '{hash}');"
    );
    let mut server = MariaDb::start(&authority.identity(&["localhost"]), &table);
    let url = server.url();
    let asking = |query: &str, ca: String| {
        let users =
            format!("{{ sql: {{ url: \"{url}\", ca_file: ca.pem, query: \"{query}\", timeout: 5s }} }}");
        let config = Config::new().sessions(Sessions::embedded().set("users", &users)).file("ca.pem", ca);
        Gateway::start(&config)
    };
    let gateway = asking(MARIADB_QUERY, authority.pem());
    assert!(gateway.says("the query can be used"), "{}", gateway.stderr());
    let claims = parts(&login_as(&gateway, "alice").access).1;
    for (claim, value) in [
        ("sub", json!("1")),
        ("email", json!("alice@example.com")),
        ("roles", json!(["clerk"])),
        ("office", json!("north")),
        ("age", json!(-42)),
        ("number", json!(u64::MAX)),
        ("staff", json!(true)),
        ("weight", json!(0.1)),
        ("height", json!(1.75)),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    // Names that the database takes for one are one user.
    assert_eq!(parts(&login_as(&gateway, "ALICE").access).1["sub"], json!("1"));
    wrong(&gateway, "alice").expect(401);
    for user in
        ["nobody", "carol", "alice' or '1'='1", "\\' or 1=1 -- ", "alice\\", "' union select 1, 2 #", "?"]
    {
        login_request(user).send(&gateway.address()).expect(401);
    }
    // Names that it cannot write down, a type that is not understood, and another authority.
    know_zoe_alone(&asking(
        "select login as subject, password_hash from west where login = ?",
        authority.pem(),
    ));
    let other =
        asking("select id as subject, password_hash, born from users where login = ?", authority.pem());
    login_request("alice").send(&other.address()).expect(503);
    assert!(other.says("is of the type DATE"), "{}", other.stderr());
    let other = asking(MARIADB_QUERY, Authority::new().pem());
    login_request("alice").send(&other.address()).expect(503);
    assert!(other.says("certificate"), "{}", other.stderr());
    drop(other);

    let failed = failures(&gateway);
    server.pause();
    login_request("alice").send(&gateway.address()).expect(503);
    server.resume();
    let logs_in = || login_request("alice").send(&gateway.address()).status == 200;
    assert!(eventually(Duration::from_secs(20), logs_in));
    server.stop();
    login_request("alice").send(&gateway.address()).expect(503);
    server.start_again();
    assert!(eventually(Duration::from_secs(20), logs_in));
    assert!((failures(&gateway) - failed).abs() < 0.5, "an outage counted as a failure");
    assert!(!(gateway.stderr() + &gateway.stdout()).contains(DATABASE_PASSWORD));
}
