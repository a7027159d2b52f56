//! The test of the tree: imports point down, every file says what it owns, nothing grows out of hand, and the
//! tests that the documents name are there.

use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module may import, besides itself. `LEAVES` may be imported by everyone.
const IMPORTS: &[(&str, &[&str])] = &[
    ("key_set", &[]),
    ("session", &[]),
    ("directory", &[]),
    ("token", &["key_set", "session::id"]),
    ("policy", &["token"]),
    ("endpoints", &["token", "session", "directory"]),
    ("gateway", &["policy", "token", "key_set", "session", "endpoints"]),
    ("config", &["key_set", "session", "directory", "token", "policy", "endpoints", "gateway"]),
];
const LEAVES: &[&str] = &[
    "breaker",
    "clock",
    "secret",
    "json",
    "gcra",
    "panics",
    "reply",
    "reason",
    "outbound",
    "metrics",
    "access_log",
    "traces",
];
const TOPS: &[&str] = &["app", "admin", "cli", "main", "lib"];

/// Which paths under `src/` own a library; nobody else may name it.
const OWNERS: &[(&str, &[&str])] = &[
    ("pingora_core", &["gateway", "admin", "app"]),
    ("pingora_proxy", &["gateway", "admin", "app"]),
    ("pingora_http", &["gateway", "admin", "app"]),
    ("redis", &["session/redis"]),
    ("redb", &["session/embedded"]),
    ("jsonwebtoken", &["token", "key_set"]),
    ("saphyr_parser", &["config/yaml"]),
    ("quick_cache", &["token/verified_cache", "token/assertion"]),
    ("prometheus", &["metrics"]),
    ("argon2", &["directory/password_hash"]),
    ("bcrypt", &["directory/stored"]),
    ("scrypt", &["directory/stored"]),
    ("reqwest", &["outbound"]),
    ("opentelemetry", &["traces"]),
    ("opentelemetry_sdk", &["traces"]),
    ("opentelemetry_otlp", &["traces"]),
    ("hickory_resolver", &["gateway/upstream/resolve"]),
    ("sqlx", &["directory/sql"]),
    ("tokio_rustls", &["directory/ldap"]),
    ("rustls_native_certs", &["directory/ldap"]),
];
const MOST_LINES: usize = 400;
const MAIN_LINES: usize = 60;
const VAGUE: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "core"];

/// A source file: its path below `src/` or `tests/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The top-level module it belongs to.
    fn module(&self) -> &str {
        let top = self.path.split('/').next().unwrap_or_default();
        top.strip_suffix(".rs").unwrap_or(top)
    }

    /// Its lines of code: no blank lines, no comments, not its module of unit tests.
    fn code(&self) -> Vec<&str> {
        let shipped = self.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = shipped.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
    }

    fn lies_in(&self, owner: &str) -> bool {
        let rest = self.path.strip_prefix(owner);
        rest.is_some_and(|rest| rest.starts_with('/') || rest.starts_with('.'))
    }
}

fn sources(root: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let read = |path: &PathBuf| Source {
        path: path.strip_prefix(&root).expect("a path below the root").display().to_string(),
        text: fs::read_to_string(path).expect("a readable source file"),
    };
    files.iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The modules of this crate that the code names, two levels deep (`session::id`).
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let whole_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if whole_word {
            paths(&code[at + "crate::".len()..], &mut found);
        }
    }
    found
}

fn paths(rest: &str, found: &mut Vec<String>) {
    let Some(group) = rest.strip_prefix('{') else {
        found.push(path(rest));
        return;
    };
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(path(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(path(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|path| !path.is_empty());
}

fn path(text: &str) -> String {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    text[..end].split("::").filter(|part| !part.is_empty()).take(2).collect::<Vec<_>>().join("::")
}

fn wrong_imports(source: &Source) -> Vec<String> {
    let module = source.module();
    if TOPS.contains(&module) {
        return Vec::new();
    }
    let allowed = IMPORTS.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
    if allowed.is_none() && !LEAVES.contains(&module) {
        return vec![format!("{}: module {module} has no place in the table of imports", source.path)];
    }
    let allowed = allowed.unwrap_or_default();
    let code = source.code().join("\n");
    let wrong = imports(&code).into_iter().filter(|import| {
        let top = import.split("::").next().unwrap_or_default();
        // A macro of this crate is named without a module.
        let known =
            LEAVES.contains(&top) || TOPS.contains(&top) || IMPORTS.iter().any(|(name, _)| *name == top);
        known && top != module && !LEAVES.contains(&top) && !allowed.iter().any(|a| *a == top || a == import)
    });
    wrong
        .map(|import| format!("{}: imports {import}, which does not lie below {module}", source.path))
        .collect()
}

fn wrong_libraries(source: &Source) -> Vec<String> {
    let code = source.code().join("\n");
    let wrong = OWNERS.iter().filter(|(library, owners)| {
        !owners.iter().any(|owner| source.lies_in(owner)) && names_library(&code, library)
    });
    wrong.map(|(library, owners)| format!("{}: names {library}, owned by {owners:?}", source.path)).collect()
}

fn names_library(code: &str, library: &str) -> bool {
    code.match_indices(&format!("{library}::")).any(|(at, _)| {
        // `session::redis::` is a module of ours, and `my_redis::` another word.
        !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn wrong_size(source: &Source) -> Vec<String> {
    let most = if source.path == "main.rs" { MAIN_LINES } else { MOST_LINES };
    let lines = source.code().len();
    if lines > most {
        vec![format!("{}: {lines} lines of code, at most {most}", source.path)]
    } else {
        Vec::new()
    }
}

fn wrong_opening(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or_default();
    let opening: String = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
    let sentence = first.starts_with("//! ") && opening.contains('.');
    if sentence { Vec::new() } else { vec![format!("{}: does not start with a `//!` sentence", source.path)] }
}

fn wrong_words(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let code = source.code().join("\n");
    // Put together here, so that this file does not name them itself.
    for word in ["todo", "unimplemented", "dbg"] {
        if code.contains(&format!("{word}!(")) {
            wrong.push(format!("{}: {word}!", source.path));
        }
    }
    let mut parts = source.path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
    if parts.any(|part| VAGUE.contains(&part)) {
        wrong.push(format!("{}: the name says nothing", source.path));
    }
    wrong
}

#[track_caller]
fn nothing_wrong(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    assert!(!sources.is_empty());
    let wrong: Vec<_> = sources.iter().flat_map(rule).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_point_down() {
    nothing_wrong(&sources("src"), wrong_imports);
}

#[test]
fn each_library_has_one_owner() {
    nothing_wrong(&sources("src"), wrong_libraries);
}

#[test]
fn no_file_is_too_long_and_main_is_short() {
    nothing_wrong(&sources("src"), wrong_size);
}

#[test]
fn every_file_starts_with_a_sentence_of_what_it_owns() {
    nothing_wrong(&sources("src"), wrong_opening);
    nothing_wrong(&sources("tests"), wrong_opening);
}

#[test]
fn nothing_is_left_undone_and_every_name_says_something() {
    nothing_wrong(&sources("src"), wrong_words);
    nothing_wrong(&sources("tests"), wrong_words);
}

/// What is wrong with the rows of a table of tests: the last cell of each names tests, or says why there are
/// none.
fn wrong_rows(document: &str, files: &[Source]) -> Vec<String> {
    let lines: Vec<&str> = document.lines().collect();
    let heads = lines.windows(2).filter(|pair| pair[1].starts_with("|--")).map(|pair| pair[0]);
    let heads: Vec<_> = heads.collect();
    let rows = lines.iter().filter(|line| line.starts_with("| ") && !heads.contains(line));
    let mut wrong = Vec::new();
    for row in rows {
        let held = row.trim_end_matches(['|', ' ']).rsplit(" | ").next().unwrap_or_default();
        let named: Vec<_> = held.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !held.starts_with("not applicable: ") {
            wrong.push(format!("no test and no reason: {row}"));
        }
        wrong.extend(named.iter().filter(|name| !is_test(name, files)).map(|name| format!("no test {name}")));
    }
    wrong
}

/// Whether a test of this name is in the file of its path.
fn is_test(name: &str, files: &[Source]) -> bool {
    let Some((module, name)) = name.rsplit_once("::") else { return false };
    let path = format!("{}.rs", module.replace("::", "/"));
    files.iter().filter(|file| file.path == path).any(|file| {
        let mut attributes = Vec::new();
        for line in file.text.lines().map(str::trim) {
            let rest = line.strip_prefix("async ").unwrap_or(line);
            if rest
                .strip_prefix("fn ")
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with('('))
            {
                return attributes
                    .iter()
                    .any(|line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
            }
            if line.starts_with("#[") || line.starts_with("//") {
                attributes.push(line);
            } else {
                attributes.clear();
            }
        }
        false
    })
}

#[test]
fn the_tests_that_the_tables_of_the_documents_name_are_there() {
    let files: Vec<_> = sources("src").into_iter().chain(sources("tests")).collect();
    for (name, least) in [("docs/security-tests.md", 70), ("docs/security-model.md", 35)] {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let document = fs::read_to_string(document).expect("the tables");
        let wrong = wrong_rows(&document, &files);
        assert!(wrong.is_empty(), "{name}: {}", wrong.join("\n"));
        let rows = document.lines().filter(|line| line.starts_with("| ")).count();
        assert!(rows > least, "{name}: {rows} rows");
    }
}

#[test]
fn a_table_that_names_no_test_is_found_out() {
    let text = "//! X.\n#[test]\nfn held() {}\n\nfn no_test() {}\n#[tokio::test]\nasync fn waits() {}\n";
    let files = [Source { path: "a/b.rs".into(), text: text.into() }];
    let row = |cell: &str| {
        wrong_rows(&format!("| reference | what | held by |\n|---|---|---|\n| R | w | {cell} |\n"), &files)
            .len()
    };
    assert_eq!((row("`a::b::held`"), row("`a::b::held` `a::b::waits`")), (0, 0));
    assert_eq!(row("not applicable: nothing of the kind"), 0);
    for cell in ["", "later", "`a::b::hel`", "`a::b::held_too`", "`a::held`", "`held`", "`a::b::no_test`"] {
        assert_eq!(row(cell), 1, "{cell}");
    }
    assert_eq!(row("`a::b::held` `a::b::gone`"), 1);
}

#[test]
fn the_rules_of_the_tree_catch_what_they_forbid() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let upward = "//! X.\nuse crate::{clock, gateway::{a, b}};\nuse crate::session::store::X;\n";
    assert_eq!(wrong_imports(&source("token/mod.rs", upward)).len(), 2);
    assert!(wrong_imports(&source("token/mod.rs", "use crate::session::id::SessionId;")).is_empty());
    assert_eq!(wrong_imports(&source("clock.rs", "fn f() -> crate::session::X {}")).len(), 1);
    assert_eq!(wrong_imports(&source("novelty.rs", "")).len(), 1);
    assert!(
        wrong_imports(&source("clock.rs", "// crate::app\n#[cfg(test)]\nmod tests { use crate::app; }"))
            .is_empty()
    );
    assert!(wrong_imports(&source("clock.rs", "x\n#[cfg(test)]\nmod tests { use crate::app; }")).is_empty());

    assert_eq!(wrong_libraries(&source("policy/mod.rs", "use redis::Client;")).len(), 1);
    assert!(wrong_libraries(&source("config/mod.rs", "use crate::session::redis::Store;")).is_empty());
    assert!(wrong_libraries(&source("session/redis.rs", "use redis::Client;")).is_empty());
    assert_eq!(wrong_libraries(&source("session/redis_store.rs", "use redis::Client;")).len(), 1);

    let long = "let x = 1;\n".repeat(MOST_LINES + 1);
    assert_eq!(wrong_size(&source("a.rs", &long)).len(), 1);
    assert!(
        wrong_size(&source("a.rs", &format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}"))).is_empty()
    );
    assert_eq!(wrong_size(&source("main.rs", &"let x = 1;\n".repeat(MAIN_LINES + 1))).len(), 1);

    assert_eq!(wrong_opening(&source("a.rs", "use x;\n")).len(), 1);
    assert!(wrong_opening(&source("a.rs", "//! What it owns,\n//! in two lines.\n")).is_empty());
    assert_eq!(wrong_words(&source("a/util.rs", &format!("{}!()", "todo"))).len(), 2);
}
