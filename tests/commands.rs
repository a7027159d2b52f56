//! The commands besides `run`: `check` and `hash-password`.

use crate::support::config::PASSWORD;
use crate::support::gateway::{Exit, command};
use crate::support::{Config, Folder, Gateway, Issuer, Sessions, Upstream, post};
use serde_json::json;

fn check(config: &str) -> Exit {
    let folder = Folder::new();
    folder.write("portcullis.yaml", config);
    folder.write("users.yaml", crate::support::config::users());
    command(&folder, &["check", "--config", "portcullis.yaml"], "")
}

fn said(exit: &Exit) -> String {
    format!("{}{}", exit.stdout, exit.stderr)
}

#[test]
fn a_valid_configuration_passes_the_check_without_any_network() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .sessions(Sessions::embedded())
        .route("{ name: a, match: { path: /a }, upstream: app }");
    let exit = check(&config.render(&[18080, 19090]));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!((issuer.requests().len(), upstream.connections()), (0, 0));
}

#[test]
fn every_error_is_reported_at_once_with_file_line_column_path_and_mend() {
    let exit = check(
        "server:\n  listeners:\n    - address: 127.0.0.1:99999\n  threads: many\nupstream: {}\nupstreams:\n  \
         app: { endpoints: [\"ftp://127.0.0.1:1\"] }\nroutes:\n  - name: a\n    match: { path: a/b }\n    \
         upstream: ap\n    auth: { mode: required, scopes: orders }\n",
    );
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let said = said(&exit);
    for (line, path) in [
        (3, "server.listeners[0].address"),
        (4, "server.threads"),
        (5, "upstream"),
        (7, "upstreams.app.endpoints[0]"),
        (10, "routes[0].match.path"),
        (11, "routes[0].upstream"),
        (12, "routes[0].auth.scopes"),
    ] {
        let start = format!("portcullis.yaml:{line}:");
        let found = said.lines().any(|said| said.contains(&start) && said.contains(&format!(" {path}: ")));
        assert!(found, "{start} … {path} is missing in\n{said}");
    }
}

#[test]
fn two_routes_for_the_same_request_are_an_error_that_names_both() {
    let upstream = Upstream::start();
    let tie = Config::to(&upstream)
        .route("{ name: first, match: { path: \"/a/{x}\", methods: [GET] }, upstream: app }")
        .route("{ name: second, match: { path: \"/a/{y}\", methods: [GET, POST] }, upstream: app }");
    let exit = check(&tie.render(&[18080, 19090]));
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let said = said(&exit);
    assert!(
        said.contains("routes[1].match: ") && said.contains("routes[0].match (route \"first\")"),
        "{said}"
    );
    // Disjoint methods are no tie.
    let fine = Config::to(&upstream)
        .route("{ name: first, match: { path: \"/a/{x}\", methods: [GET] }, upstream: app }")
        .route("{ name: second, match: { path: \"/a/{y}\", methods: [POST] }, upstream: app }");
    assert_eq!(check(&fine.render(&[18080, 19090])).code, Some(0));
}

#[test]
fn values_come_from_the_environment_and_an_unset_name_is_an_error() {
    let upstream = Upstream::start();
    let config = Config::new()
        .environment("TEST_BACKEND", &upstream.url())
        .upstream_raw("app", "{ endpoints: [\"${TEST_BACKEND}\"], host: \"${TEST_HOST:-fallback.test}\" }")
        .route("{ name: all, match: { path: /** }, upstream: app, auth: public }");
    let gateway = Gateway::start(&config);
    crate::support::get("/").send(&gateway.address()).expect(200);
    assert_eq!(upstream.last().header("host"), Some("fallback.test"));
    let exit = check(&config.render(&[18080, 19090]));
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(said(&exit).contains("TEST_BACKEND"), "{exit:?}");
}

#[test]
fn imprudent_choices_are_warnings_and_not_errors() {
    let upstream = Upstream::start();
    let settings = "{ issuer: \"http://id.example.com\", audiences: [a], key_set: { url: \"http://id.example.com/certs\" } }";
    let config = Config::to(&upstream)
        .issuer("corp", settings)
        .route("{ name: a, match: { path: /a }, upstream: app }");
    let exit = check(&config.render(&[18080, 19090]));
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let said = said(&exit).to_lowercase();
    assert!(said.contains("warning") && said.contains("issuers.corp"), "{said}");
}

#[test]
fn a_file_that_is_missing_or_no_yaml_is_an_error_with_its_name() {
    let folder = Folder::new();
    let exit = command(&folder, &["check", "--config", "missing.yaml"], "");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(said(&exit).contains("missing.yaml"), "{exit:?}");
    let exit = check("server: [\n");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(said(&exit).contains("portcullis.yaml:"), "{exit:?}");
}

#[test]
fn a_hashed_password_logs_its_user_in() {
    let folder = Folder::new();
    for input in ["correct horse\n", "correct horse\r\n", "correct horse"] {
        let exit = command(&folder, &["hash-password"], input);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let hash = exit.stdout.trim_end();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(!exit.stderr.contains("correct horse") && !exit.stdout.contains("correct horse"));
        let upstream = Upstream::start();
        let list = format!("users:\n  - {{ username: dora, password_hash: \"{hash}\" }}\n");
        let config = Config::public(&upstream).sessions(Sessions::embedded()).file("users.yaml", list);
        let gateway = Gateway::start(&config);
        for (password, status) in [("correct horse", 200), ("correct horse\n", 401), (PASSWORD, 401)] {
            let body = json!({ "username": "dora", "password": password, "delivery": "body" });
            post("/auth/login").json(&body).send(&gateway.address()).expect(status);
        }
    }
    let again = command(&folder, &["hash-password"], "correct horse\n").stdout;
    assert_ne!(again, command(&folder, &["hash-password"], "correct horse\n").stdout, "the salt repeats");
    assert_ne!(command(&folder, &["hash-password"], "").code, Some(0), "no password is no password");
}

#[test]
fn an_unknown_command_or_a_missing_argument_says_how_it_is_used() {
    let folder = Folder::new();
    for arguments in [&["fly"][..], &["run"], &["check"], &[]] {
        let exit = command(&folder, arguments, "");
        assert_ne!(exit.code, Some(0), "{arguments:?}");
        assert!(said(&exit).to_lowercase().contains("usage"), "{exit:?}");
    }
    let help = command(&folder, &["--help"], "");
    assert_eq!(help.code, Some(0));
    for name in ["run", "check", "hash-password"] {
        assert!(help.stdout.contains(name), "{}", help.stdout);
    }
}
