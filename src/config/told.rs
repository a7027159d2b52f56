//! What `conf/reference.yaml` tells of each key: its sentence and the value it shows, of keys that stand in a comment
//! too.

use super::finding::Report;
use super::yaml::{self, Entry, Kind, Node};
use std::path::Path;

/// Every key with a sentence about it.
pub(super) const REFERENCE: &str = include_str!("../../conf/reference.yaml");

/// Comments that begin further right go on with the sentence above.
const FAR: usize = 30;

/// The reference, with the keys in comments among the others.
pub(super) struct Told {
    pub(super) root: Node,
    lines: Vec<Line>,
}

#[derive(Default)]
struct Line {
    about: Option<String>,
    commented: bool,
}

impl Told {
    /// Reads the reference; `None` if a comment spoils it.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (mut plain, mut lines) = (String::new(), Vec::<Line>::new());
        for line in text.lines() {
            let (key, told) = line_of(line, &mut lines);
            plain.push_str(&key);
            plain.push('\n');
            lines.push(told);
        }
        let report = Report::new(Path::new(""));
        let root = yaml::parse(&plain, &report)?;
        report.conclude().ok()?;
        Some(Self { root, lines })
    }

    /// The sentence about a key.
    pub(super) fn about(&self, entry: &Entry) -> Option<&str> {
        self.line(entry)?.about.as_deref()
    }

    /// Whether the reference leaves the key out, and only shows it.
    pub(super) fn is_commented(&self, entry: &Entry) -> bool {
        self.line(entry).is_some_and(|line| line.commented)
    }

    fn line(&self, entry: &Entry) -> Option<&Line> {
        self.lines.get(entry.mark.line.checked_sub(1)?)
    }
}

/// What stands on a line but for its sentence, which may be the rest of an earlier one.
fn line_of(line: &str, above: &mut [Line]) -> (String, Line) {
    let inner = line.trim_start();
    let indent = line.len() - inner.len();
    if let Some(hidden) = inner.strip_prefix("# ") {
        if let Some(rest) = far(line) {
            if let Some(about) = above.iter_mut().rev().find_map(|line| line.about.as_mut()) {
                about.push(' ');
                about.push_str(rest);
            }
            return Default::default();
        }
        if !is_key(hidden.trim_start()) {
            return Default::default();
        }
        return (format!("{:indent$}{hidden}", ""), Line { about: sentence(hidden), commented: true });
    }
    (line.to_owned(), Line { about: sentence(inner), commented: false })
}

/// The text of a comment that begins far to the right, on a line of nothing else.
fn far(line: &str) -> Option<&str> {
    let (before, text) = line.rsplit_once("# ")?;
    let alone = before.chars().all(|c| c == ' ' || c == '#');
    (alone && before.len() >= FAR).then_some(text.trim())
}

fn is_key(text: &str) -> bool {
    let name: usize = text.bytes().take_while(|b| b.is_ascii_lowercase() || *b == b'_').count();
    name > 0 && text.get(name..).is_some_and(|rest| rest == ":" || rest.starts_with(": "))
}

/// The sentence at the end of a line.
fn sentence(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" # ")?;
    (!before.trim().is_empty()).then(|| after.trim().to_owned())
}

/// A value as it may stand behind its key, unless it is a mapping of something.
pub(super) fn shown(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(scalar.text.clone()),
        Kind::Sequence(nodes) => {
            let items: Option<Vec<_>> = nodes.iter().map(shown).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Kind::Mapping(entries) => entries.is_empty().then(|| "{}".to_owned()),
        Kind::Null | Kind::Broken => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_go_on_and_keys_in_comments_are_keys() {
        let text = "# Prose: no key.\na:                               # one\n                                 # two\n  \
                    # b: 1                          # three\n  #                               # four\n  \
                    #   # no sentence\n  c: 2\n";
        let told = Told::read(text).unwrap();
        let Kind::Mapping(top) = &told.root.kind else { panic!() };
        assert_eq!((told.about(&top[0]), told.is_commented(&top[0])), (Some("one two"), false));
        let Kind::Mapping(inner) = &top[0].value.kind else { panic!() };
        assert_eq!((inner[0].key.as_str(), told.about(&inner[0])), ("b", Some("three four")));
        assert!(told.is_commented(&inner[0]) && !told.is_commented(&inner[1]));
        assert_eq!((told.about(&inner[1]), shown(&inner[1].value).as_deref()), (None, Some("2")));
    }
}
