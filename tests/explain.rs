//! `routes`, `explain` and `test`: what they say, what they leave alone, and how they fail.

use crate::support::gateway::{Exit, command};
use crate::support::{Config, Folder, Issuer, Sessions, Upstream};
use serde_json::{Value, json};

const CONFIG: &str = "portcullis.yaml";

/// A folder with a configuration that no gateway ever ran with.
fn folder(config: &Config) -> Folder {
    let folder = Folder::new();
    config.write_files(&folder);
    folder.write(CONFIG, config.render(&[18080, 19090]));
    folder
}

fn explained(folder: &Folder, arguments: &[&str], input: &str) -> Value {
    let whole = [&["explain", "--config", CONFIG, "--json"], arguments].concat();
    let exit = command(folder, &whole, input);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    serde_json::from_str(&exit.stdout).unwrap()
}

fn tested(folder: &Folder, cases: &str) -> Exit {
    folder.write("cases.yaml", cases);
    command(folder, &["test", "--config", CONFIG, "cases.yaml"], "")
}

fn names(folder: &Folder) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn without_the_keys_of_an_issuer_explain_says_so_and_asks_only_when_told_to() {
    let (upstream, issuer) = (Upstream::start(), Issuer::start());
    let config = Config::to(&upstream)
        .issuer("corp", &issuer.settings())
        .sessions(Sessions::embedded())
        .route("{ name: a, match: { path: /a }, upstream: app, forward: { authorization: pass } }");
    let folder = folder(&config);
    let before = names(&folder);
    let token = issuer.sign();

    let said = explained(&folder, &["GET", "http://h/a", "--token", &token], "");
    assert_eq!(
        (&said["decision"], &said["reason"]),
        (&json!("deny"), &json!("keys_unavailable")),
        "{said:#}"
    );
    assert_eq!(said["status"], 503);
    let note = said["notes"][0].as_str().unwrap();
    assert!(note.contains("the keys of corp") && note.contains("--fetch"), "{note}");
    assert_eq!(issuer.requests().len(), 0, "nothing is asked of the network");

    let said = explained(&folder, &["GET", "http://h/a", "--token", "-", "--fetch"], &format!("{token}\n"));
    assert_eq!((&said["decision"], &said["reason"]), (&json!("allow"), &json!("ok")), "{said:#}");
    assert_eq!(said["caller"]["issuer"], "corp");
    assert!(!said.to_string().contains(&token), "a token is not printed");
    assert_eq!((issuer.requests().len(), upstream.connections()), (1, 0));
    assert_eq!(names(&folder), before, "nothing is written");
}

#[test]
fn explain_shows_each_check_up_to_the_one_that_fails() {
    let config = Config::new()
        .sessions(Sessions::embedded())
        .upstream_raw("app", "{ endpoints: [\"http://app.internal:1\"] }");
    let config = config.route(
        "{ name: a, match: { path: /a, methods: [GET] }, upstream: app, auth: { scopes: [s], roles: [r, q] } }",
    );
    let folder = folder(&config);
    let case = |claims: &str| {
        let cases = format!(
            "cases: [{{ name: c, request: {{ url: \"http://h/a\" }}, claims: {claims}, expect: {{ decision: allow }} }}]"
        );
        folder.write("cases.yaml", cases);
        let exit = command(&folder, &["test", "--config", CONFIG, "--json", "cases.yaml"], "");
        let said: Value = serde_json::from_str(&exit.stdout).unwrap();
        let checks = said["cases"][0]["result"]["checks"].as_array().unwrap().clone();
        let told =
            checks.iter().map(|check| format!("{} {}", check["check"], check["outcome"]).replace('"', ""));
        (exit.code, told.collect::<Vec<_>>())
    };
    let start = ["request ok", "route ok", "token ok", "audience ok"];
    let whole = |rest: &[&str]| [&start, rest].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        case("{ iss: gateway, sub: u, scope: s, roles: [q] }"),
        (Some(0), whole(&["scopes ok", "roles ok", "headers ok"]))
    );
    assert_eq!(case("{ iss: gateway, sub: u, roles: [q] }"), (Some(1), whole(&["scopes failed"])));
    assert_eq!(case("{ iss: gateway, sub: u, scope: s }"), (Some(1), whole(&["scopes ok", "roles failed"])));
    // An `aud` that is given counts; our issuer goes by its name and by its `iss`.
    let (code, checks) = case(&format!("{{ iss: \"{}\", aud: other, sub: u }}", Sessions::ISSUER));
    assert_eq!((code, checks.last().unwrap().as_str()), (Some(1), "audience failed"));
}

#[test]
fn a_file_of_cases_reports_every_error_at_its_place() {
    let config = Config::new().upstream_raw("app", "{ endpoints: [\"http://127.0.0.1:1\"] }");
    let folder = folder(&config.route("{ name: a, match: { path: /a }, upstream: app, auth: public }"));
    let exit = tested(
        &folder,
        "cases:\n  - name: one\n    request: { url: /a }\n    expect: { decison: allow }\n  - name: two\n    \
         request: { url: \"http://h/a\" }\n    claims: { iss: nobody }\n    expect: { reason: okay }\n  - name: one\n    \
         request: { url: \"http://h/a\", headers: { \"a b\": c } }\n    claims: { iss: x }\n    token: t\n    expect: {}\n",
    );
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""), "{exit:?}");
    for expected in [
        "cases.yaml:3:21: cases[0].request.url: \"/a\" is not an http or https URL",
        "cases.yaml:4:15: cases[0].expect.decison: unknown key; did you mean decision?",
        "cases.yaml:7:20: cases[1].claims.iss: \"nobody\" is no issuer of the configuration",
        "cases.yaml:8:23: cases[1].expect.reason: \"okay\" is not one of ok, anonymous",
        "cases.yaml:10:53: cases[2].request.headers[\"a b\"]: not the name of a header field",
        "cases.yaml:12:12: cases[2].token: one too many",
        "cases.yaml:13:13: cases[2].expect: expects nothing",
    ] {
        assert!(exit.stderr.contains(expected), "{expected}\nis missing in\n{}", exit.stderr);
    }
    assert_eq!(exit.stderr.lines().count(), 7, "{}", exit.stderr);
}

#[test]
fn headers_that_are_expected_are_looked_at_and_no_others() {
    let config = Config::new().upstream_raw("app", "{ endpoints: [\"http://127.0.0.1:1\"] }");
    let folder = folder(&config.route("{ name: a, match: { path: /a }, upstream: app, auth: public }"));
    let case = |expect: &str| {
        let exit = tested(
            &folder,
            &format!(
                "cases: [{{ name: c, request: {{ url: \"https://h/a\", headers: {{ X-A: [one, two], Connection: X-B, X-B: x }} }}, \
                 expect: {{ headers: {{ {expect} }} }} }}]"
            ),
        );
        exit.code
    };
    assert_eq!(case("x-a: \"one, two\", X-Forwarded-Proto: https, X-B: null"), Some(0));
    assert_eq!(case("X-A: one"), Some(1));
    assert_eq!(case("X-B: x"), Some(1));
    assert_eq!(case("X-A: null"), Some(1));
    assert_eq!(case("X-A: \"\""), Some(1));
}

#[test]
fn the_routes_that_ask_for_nothing_are_listed_and_an_invalid_configuration_is_not() {
    let mut config = Config::new()
        .sessions(Sessions::embedded())
        .upstream_raw("app", "{ endpoints: [\"http://127.0.0.1:1\"] }");
    for (name, auth) in [
        ("open", "public"),
        ("maybe", "optional"),
        ("closed", "required"),
        ("seen", "{ enforce: false, roles: [r] }"),
    ] {
        config = config
            .route(&format!("{{ name: {name}, match: {{ path: /{name} }}, upstream: app, auth: {auth} }}"));
    }
    let good = folder(&config);
    let list = |arguments: &[&str]| {
        let exit = command(&good, &[&["routes", "--config", CONFIG, "--json"], arguments].concat(), "");
        let routes: Value = serde_json::from_str(&exit.stdout).unwrap();
        let names = routes.as_array().unwrap().iter().map(|route| route["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["open", "maybe", "closed", "seen"]);
    assert_eq!(list(&["--public"]), ["open", "maybe", "seen"]);

    let broken = folder(&config.route("{ name: x, match: { path: x }, upstream: app }"));
    for arguments in
        [&["routes", "--config", CONFIG][..], &["explain", "--config", CONFIG, "GET", "http://h/"]]
    {
        let exit = command(&broken, arguments, "");
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(1), ""), "{exit:?}");
        assert!(exit.stderr.contains("portcullis.yaml:") && exit.stderr.contains("match.path"), "{exit:?}");
    }
}
