//! Whatever an LDAP directory answers, or somebody in its place: it ends no gateway, takes no memory, and logs nobody in.

use crate::support::ldap_server::{Answer, Asked, FLOOD, LdapServer, done, element, entry, message, result};
use crate::support::person::{login_as, login_request};
use crate::support::tls::Authority;
use crate::support::token::parts;
use crate::support::{Config, Gateway, Sessions, eventually};
use serde_json::json;
use std::time::Duration;

const NAME: &str = "user_dn: \"uid={username},ou=people,dc=example,dc=com\"";

/// Where a server shows what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Plain,
    BeforeTls,
    AfterStartTls,
    Tls,
}

impl Layer {
    fn server(self, authority: &Authority) -> LdapServer {
        LdapServer::start(authority.identity(&["localhost"]).server(), self == Self::Tls)
    }

    fn gateway(self, server: &LdapServer, authority: &Authority, throttle: &str) -> Gateway {
        let port = server.port();
        let way = match self {
            Self::Plain => format!("\"ldap://localhost:{port}\""),
            Self::BeforeTls | Self::AfterStartTls => {
                format!("\"ldap://localhost:{port}\", start_tls: true, ca_file: ca.pem")
            }
            Self::Tls => format!("\"ldaps://localhost:{port}\", ca_file: ca.pem"),
        };
        let users = format!("{{ ldap: {{ url: {way}, {NAME}, timeout: 10s, claims: {{ email: mail }} }} }}");
        let sessions = Sessions::embedded().set("users", &users).throttle(throttle);
        Gateway::start(&Config::new().sessions(sessions).file("ca.pem", authority.pem()))
    }
}

/// What a directory answers that knows alice, with everything beside it that may be passed over.
fn honest(asked: Asked, number: u8) -> Answer {
    let notice = message(0, &[&result(0x78, 0)]);
    let news = message(number, &[&element(0x79, &[])]);
    let elsewhere = message(number, &[&element(0x73, &[&element(4, &[b"ldap://x/"])])]);
    let controls = element(0xa0, &[&element(0x30, &[&element(4, &[b"1.2.3"])])]);
    once(&match asked {
        Asked::StartTls => done(asked, number, 0),
        Asked::Bind => [notice, message(number, &[&result(0x61, 0), &controls])].concat(),
        Asked::Search => {
            let alice = entry(number, &[("UID", &["alice"]), ("mail", &["alice@example.com"])]);
            [notice, news, elsewhere, alice, done(asked, number, 0)].concat()
        }
    })
}

/// Elements in each other, 240 kB of them: one call on the stack for each would be far too many.
fn nested() -> Vec<u8> {
    const LEVELS: u32 = 40_000;
    let level = |level: u32| [&[0x30, 0x84], &((LEVELS - 1 - level) * 6).to_be_bytes()[..]].concat();
    (0..LEVELS).flat_map(level).collect()
}

/// In place of what ends the answer to the request.
type Attack = fn(Asked, u8) -> Answer;

fn tag(asked: Asked) -> u8 {
    if asked == Asked::StartTls { 0x78 } else { 0x61 }
}

fn once(bytes: &[u8]) -> Answer {
    (bytes.to_vec(), Vec::new())
}

/// Answers that are none, and what the log says of them.
const ATTACKS: &[(Attack, &str)] = &[
    (|_, _| once(&nested()), "an element of tag 0x30 where 0x02 has to be"),
    (
        |asked, number| once(&message(number, &[&element(tag(asked), &[&nested()])])),
        "an element of tag 0x30 where 0x0a has to be",
    ),
    (
        // Nobody asks what is in the controls.
        |asked, number| once(&message(number, &[&result(tag(asked), 52), &element(0xa0, &[&nested()])])),
        "with result code 52",
    ),
    (|_, _| once(b"\x30\x80\x02\x01\x01\x00\x00"), "a length of a form that LDAP does not allow"),
    (|_, _| once(b"\x30\xff\xff\xff\xff\xff\xff\xff"), "a length of a form that LDAP does not allow"),
    (|_, _| once(b"\x30\x00"), "a part of it is missing"),
    (|_, _| once(b"\x30\x05\x02\x7f\x01\x61\x00"), "a part of it is longer than what holds it"),
    (|_, _| once(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "an element of tag 0x48 where 0x30 has to be"),
    (|asked, number| once(&done(asked, number + 1, 0)), "it is no answer to what was asked"),
    (|_, number| once(&done(Asked::Search, number, 0)), "it is no answer to what was asked"),
    // One message without an end, and messages without an end.
    (|_, _| (b"\x30\x84\x7f\xff\xff\xff".to_vec(), vec![b'x'; 1 << 16]), "it is longer than 256 KiB"),
    (|_, _| (Vec::new(), message(0, &[&result(0x78, 0)]).repeat(1000)), "it is longer than 256 KiB"),
];

fn every_attack(layer: Layer) {
    let authority = Authority::new();
    let server = layer.server(&authority);
    let gateway = layer.gateway(&server, &authority, "{ burst: 2, every: 1h }");
    let logs_in = || {
        server.answer(honest);
        let alice = parts(&login_as(&gateway, "alice").access).1;
        assert_eq!((&alice["sub"], &alice["email"]), (&json!("alice"), &json!("alice@example.com")));
    };
    logs_in();
    let target = if layer == Layer::BeforeTls { Asked::StartTls } else { Asked::Bind };
    for &(attack, said) in ATTACKS {
        let (binds, floods) = (server.binds(), server.flooded().len());
        let count = || gateway.stderr().matches(said).count();
        let before = count();
        server.answer(
            move |asked, number| {
                if asked == target { attack(asked, number) } else { honest(asked, number) }
            },
        );
        let answer = login_request("alice").send(&gateway.address());
        assert_eq!(answer.status, 503, "{layer:?}, {said}: {}", answer.text());
        let told = eventually(Duration::from_secs(10), || count() > before);
        assert!(told, "{layer:?}, {said}: {}", gateway.stderr());
        // Before there is TLS no password is said.
        assert_eq!(server.binds() - binds, usize::from(target == Asked::Bind), "{layer:?}, {said}");
        // The connection is closed, whatever else would come.
        if !attack(target, 1).1.is_empty() {
            assert!(
                eventually(Duration::from_secs(20), || server.flooded().len() > floods),
                "{layer:?}, {said}"
            );
            let sent = server.flooded()[floods];
            assert!(sent < FLOOD / 3, "{layer:?}, {said}: {sent} bytes were taken");
        }
        // The gateway lives and asks the next time; and no try is lost, for after the second none would be left.
        logs_in();
    }
    assert!(gateway.metric("portcullis_panics_total", &[]) < 0.5, "a panic was contained");
}

#[test]
fn no_answer_in_plain_text_ends_the_gateway() {
    every_attack(Layer::Plain);
}

#[test]
fn no_answer_before_starttls_ends_the_gateway() {
    every_attack(Layer::BeforeTls);
}

#[test]
fn no_answer_after_starttls_ends_the_gateway() {
    every_attack(Layer::AfterStartTls);
}

#[test]
fn no_answer_over_ldaps_ends_the_gateway() {
    every_attack(Layer::Tls);
}

#[test]
fn no_password_is_said_to_a_directory_that_does_not_encrypt() {
    let authority = Authority::new();
    let server = Layer::BeforeTls.server(&authority);
    let gateway = Layer::BeforeTls.gateway(&server, &authority, "{ burst: 2, every: 1h }");
    // Refused, and granted by somebody who says in plain text what a directory would say under TLS.
    let granted: Attack = |asked, number| {
        let alice = entry(3, &[("uid", &["alice"])]);
        once(&[done(asked, number, 0), done(Asked::Bind, 2, 0), alice, done(Asked::Search, 3, 0)].concat())
    };
    let refused: Attack = |asked, number| once(&done(asked, number, 53));
    for (attack, said) in
        [(refused, "it answered the request for TLS with result code 53"), (granted, "corrupt message")]
    {
        server.answer(attack);
        login_request("alice").send(&gateway.address()).expect(503);
        assert!(gateway.says(said), "{}", gateway.stderr());
        assert_eq!(server.binds(), 0);
    }
    server.answer(honest);
    login_as(&gateway, "alice");
}

#[test]
fn an_entry_that_cannot_be_read_is_no_outage_and_costs_its_user_tries() {
    let authority = Authority::new();
    let server = Layer::Plain.server(&authority);
    let gateway = Layer::Plain.gateway(&server, &authority, "{ burst: 7, every: 1h }");
    let entries: &[(Attack, &str)] = &[
        (
            |_, number| {
                let alice = entry(number, &[("uid", &["alice"])]);
                once(&[alice.clone(), alice, done(Asked::Search, number, 0)].concat())
            },
            "the user's own entry cannot be read: it has more than one entry",
        ),
        (
            |_, number| {
                let long = "x".repeat(256 << 10);
                once(
                    &[
                        entry(number, &[("uid", &["alice"]), ("mail", &[&long])]),
                        done(Asked::Search, number, 0),
                    ]
                    .concat(),
                )
            },
            "the user's own entry cannot be read: it is longer than 256 KiB",
        ),
        (
            |_, number| (Vec::new(), message(number, &[&element(0x73, &[])]).repeat(1000)),
            "the user's own entry cannot be read: it is longer than 256 KiB",
        ),
        (
            |_, number| once(&message(number, &[&element(0x64, &[&nested()])])),
            "the user's own entry cannot be read: it has an element of tag 0x30 where 0x04 has to be",
        ),
        (
            |_, number| once(&[entry(number, &[("uid", &[])]), done(Asked::Search, number, 0)].concat()),
            "0 values of uid",
        ),
        (|_, number| once(&done(Asked::Search, number, 0)), "let users read their own entry"),
    ];
    for &(attack, said) in entries {
        server.answer(
            move |asked, number| {
                if asked == Asked::Search { attack(asked, number) } else { honest(asked, number) }
            },
        );
        let answer = login_request("alice").send(&gateway.address());
        assert_eq!(answer.status, 503, "{said}: {}", answer.text());
        assert!(gateway.says(said), "{said}: {}", gateway.stderr());
    }
    // No outage in all of it: the directory was asked each time. The seventh try is the last.
    assert_eq!(server.binds(), entries.len());
    server.answer(|asked, number| once(&done(asked, number, 49)));
    login_request("alice").send(&gateway.address()).expect(401);
    assert_eq!(
        login_request("alice").send(&gateway.address()).expect(429).member("code"),
        "too_many_attempts"
    );
    assert!(gateway.metric("portcullis_panics_total", &[]) < 0.5, "a panic was contained");
}
