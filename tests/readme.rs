//! The README and the documents tell the truth: their lines, run as printed, print what they say, and whatever is not
//! run is counted.

use crate::support::demo::Demo;
use crate::support::document::{blocks, fits, read, root, run, steps};
use crate::support::folder::Folder;
use crate::support::gateway::command;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

#[test]
fn the_walk_through_of_the_readme_prints_what_it_says() {
    let begun = SystemTime::now();
    let demo = Demo::start();
    let steps = steps(&demo.moved(read("README.md")));
    assert!(steps.len() > 10, "the README has its walk-through");
    run(&steps, demo.folder().path());
    // What a newcomer waits for beside the build, reading apart.
    let first = steps.iter().position(|step| step.command.contains("Authorization: Bearer")).unwrap();
    let called =
        fs::metadata(demo.folder().path().join(format!("walk/{first}"))).unwrap().modified().unwrap();
    let took = called.duration_since(begun).unwrap();
    println!("from the start to the first request with a token: {} ms", took.as_millis());
    assert!(took < Duration::from_secs(120));
}

/// The files that a document shows: YAML blocks that begin with `# NAME.yaml`.
fn shown_files(text: &str) -> Vec<(String, String)> {
    let named = blocks(text).into_iter().filter(|block| block.kind == "yaml").filter_map(|block| {
        let name = block.text.lines().next()?.strip_prefix("# ")?;
        (name.rsplit_once('.')?.1 == "yaml").then(|| (name.to_owned(), block.text.clone()))
    });
    named.collect()
}

/// Documents whose lines need no running gateway, and how many steps each has at least.
const RUN_HERE: &[(&str, usize)] =
    &[("docs/commands.md", 8), ("docs/signing-keys.md", 3), ("docs/migration.md", 4)];
/// Those whose lines other tests run: the walk-through above, and the tests of the recipes.
const RUN_ELSEWHERE: &[&str] = &[
    "README.md",
    "examples/recipes/compose/README.md",
    "examples/recipes/kubernetes/README.md",
    "examples/recipes/legacy-wsgi/README.md",
    "examples/recipes/observe/README.md",
    "examples/recipes/systemd/README.md",
];
/// How many blocks of commands are not run, in which documents. Each says why.
const NOT_RUN: &[(&str, usize)] = &[
    ("README.md", 1),
    ("docs/container.md", 2),
    ("docs/lifecycle.md", 1),
    ("docs/performance.md", 1),
    ("examples/recipes/compose/README.md", 1),
    ("examples/recipes/keycloak/README.md", 1),
    ("examples/recipes/kubernetes/README.md", 1),
    ("examples/recipes/legacy-wsgi/README.md", 1),
    ("examples/recipes/observe/README.md", 1),
    ("examples/recipes/systemd/README.md", 1),
];

#[test]
fn the_lines_of_the_documents_print_what_they_say() {
    for (document, least) in RUN_HERE {
        let folder = Folder::new();
        folder.write("portcullis.yaml", read("conf/portcullis.yaml"));
        folder.write("users.yaml", read("conf/users.yaml"));
        let text = read(document);
        for (name, content) in shown_files(&text) {
            folder.write(&name, content);
        }
        let steps = steps(&text);
        assert!(steps.len() >= *least, "{document} has its lines");
        run(&steps, folder.path());
    }
}

/// The documents of the tree, by their paths.
fn documents() -> Vec<String> {
    let mut folders = vec![root(), root().join("docs")];
    let recipes = fs::read_dir(root().join("examples/recipes")).unwrap();
    folders.extend(recipes.map(|entry| entry.unwrap().path()));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = files.map(|entry| entry.unwrap().path());
    let documents = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let named = documents.map(|path| path.strip_prefix(root()).unwrap().display().to_string());
    let mut named: Vec<_> = named.collect();
    named.sort();
    named
}

/// Whether a line is meant for a shell.
fn is_command(line: &str) -> bool {
    const PROGRAMS: &[&str] = &[
        "$",
        "cargo",
        "cat",
        "curl",
        "docker",
        "echo",
        "head",
        "install",
        "kill",
        "kubectl",
        "make",
        "mkdir",
        "openssl",
        "podman",
        "portcullis",
        "python3",
        "redis-cli",
        "sed",
        "sh",
        "sudo",
        "systemctl",
    ];
    let mut words = line.split_whitespace();
    words.next().is_some_and(|word| PROGRAMS.contains(&word)) && words.next().is_some()
}

/// The synopses of our own commands in a document: in `text` blocks and between backticks.
fn synopses(document: &str) -> Vec<String> {
    let texts = blocks(document).into_iter().filter(|block| block.kind == "text");
    let mut found: Vec<String> =
        texts.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let prose = document.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    found.extend(prose.split('`').skip(1).step_by(2).map(str::to_owned));
    found.retain(|line| line.starts_with("portcullis "));
    found
}

#[test]
fn every_command_in_a_document_is_run_or_counted_as_not_run() {
    let (mut not_run, mut run) = (BTreeMap::new(), Vec::new());
    let documents = documents();
    for document in &documents {
        let text = read(document);
        for block in blocks(&text) {
            let reason = block.kind.strip_prefix("sh not-run: ");
            match (block.kind.as_str(), reason) {
                ("console" | "sh", _) => run.push(document.as_str()),
                (_, Some(why)) => {
                    assert!(why.len() > 10, "{document}: why is it not run?");
                    println!("not run: {document}: {why}");
                    *not_run.entry(document.as_str()).or_insert(0) += 1;
                }
                ("text", _) => {
                    let mut lines = block.text.lines().filter(|line| !line.starts_with("portcullis "));
                    assert!(
                        !lines.any(is_command),
                        "{document}: commands in a block of text: {}",
                        block.text
                    );
                }
                ("yaml" | "nginx" | "ini" | "js", _) => {
                    let lines = block.text.lines();
                    assert!(!lines.into_iter().any(is_command), "{document}: {}", block.text);
                }
                (kind, _) => panic!("{document}: a block of the kind {kind:?}"),
            }
        }
        // Nor outside the fences.
        for line in text.split("```").step_by(2).flat_map(str::lines) {
            assert!(!line.strip_prefix("    ").is_some_and(is_command), "{document}: {line}");
        }
    }
    run.dedup();
    let mut known: Vec<_> =
        RUN_HERE.iter().map(|(name, _)| *name).chain(RUN_ELSEWHERE.iter().copied()).collect();
    known.sort_unstable();
    run.sort_unstable();
    assert_eq!(run, known);
    assert_eq!(not_run.into_iter().collect::<Vec<_>>(), NOT_RUN);
}

#[test]
fn every_synopsis_names_commands_and_options_that_there_are() {
    let folder = Folder::new();
    let mut help: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for document in documents() {
        for line in synopses(&read(&document)) {
            let line = line.split(" #").next().unwrap();
            let mut words = line.split([' ', '[', ']', '/', '|']).filter(|word| !word.is_empty()).skip(1);
            let first = words.next().unwrap_or_default();
            let rest: Vec<_> = words.collect();
            let subs = rest.iter().filter(|word| first == "keys" && ["list", "rotate"].contains(word));
            let mut subs: Vec<_> = subs.map(|sub| vec![first, sub]).collect();
            if subs.is_empty() {
                subs.push(vec![first]);
            }
            let mut told = String::new();
            for sub in subs {
                told += help.entry(sub.join(" ")).or_insert_with(|| {
                    let said = command(&folder, &[&sub[..], &["--help"]].concat(), "");
                    assert_eq!(said.code, Some(0), "{document}: {line}");
                    said.stdout
                });
            }
            for option in rest.iter().filter(|word| word.starts_with("--")) {
                let option = option.trim_end_matches(|c: char| !c.is_ascii_lowercase());
                assert!(
                    told.contains(&format!("{option} ")) || told.contains(&format!("{option}\n")),
                    "{document}: {line}: {option}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} synopses");
}

#[test]
fn the_reference_of_the_configuration_is_what_the_command_prints() {
    let printed = command(&Folder::new(), &["schema", "--markdown"], "");
    assert_eq!(printed.code, Some(0));
    let same = printed.stdout == read("docs/configuration.md");
    assert!(same, "run `portcullis schema --markdown > docs/configuration.md`");
}

#[test]
fn the_fragments_of_configuration_in_the_documents_name_keys_and_words_that_there_are() {
    const OURS: &[&str] =
        &["server", "admin", "forward_auth", "log", "issuers", "sessions", "upstreams", "forward", "routes"];
    let (folder, mut seen) = (Folder::new(), 0);
    for document in documents() {
        let fragments = blocks(&read(&document)).into_iter().filter(|block| block.kind == "yaml");
        for fragment in fragments.map(|block| block.text) {
            let first = fragment.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
            if !OURS.contains(&first.split(':').next().unwrap_or_default()) {
                continue;
            }
            folder.write("fragment.yaml", &fragment);
            let said = command(&folder, &["check", "--config", "fragment.yaml"], "").stderr;
            // What a fragment leaves out, and files that are not there, are no fault of the document.
            for wrong in ["unknown key", "is not one of", "expected ", "not supported yet", "not valid YAML"]
            {
                assert!(!said.contains(wrong), "{document}: {said}");
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} fragments");
}

#[test]
fn what_is_meant_for_a_shell_is_recognised() {
    for line in ["$ ls", "curl -s http://x", "  make test", "portcullis check --config F"] {
        assert!(is_command(line), "{line}");
    }
    for line in ["make", "curls it", "listen 127.0.0.1:80;", "", "cat"] {
        assert!(!is_command(line), "{line}");
    }
    let text = "`portcullis a --b`\n```console\n$ portcullis no\n```\nand `portcullis c`\n```text\nportcullis d\n```\n";
    assert_eq!(synopses(text), ["portcullis d", "portcullis a --b", "portcullis c"]);
}

#[test]
fn the_pattern_of_the_readme_can_fail() {
    assert!(fits("a…c", "abbbc") && fits("…", "x") && fits("ab", "ab"));
    assert!(!fits("a…c", "abbb") && !fits("ab", "abc") && !fits("x…", "ab") && !fits("a…b…c", "a-c"));
}
