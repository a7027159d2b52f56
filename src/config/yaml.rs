//! A YAML file as a tree in which every key and value knows its line and column.
//!
//! Stricter than YAML: one document, text keys, no key twice, and no anchors, aliases, tags or merge keys,
//! so that what a file says is what is written there, and no small file can unfold into a large one.

use super::finding::{Mark, Report};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};
use std::collections::HashMap;

/// Files beyond this are refused before they are parsed.
pub(super) const MAX_BYTES: u64 = 4 * 1024 * 1024;
const MAX_DEPTH: usize = 32;
/// Enough for ten thousand routes or users; beyond it a file takes longer to read than anyone waits.
const MAX_NODES: usize = 250_000;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) kind: Kind,
}

/// Two nodes are equal if they say the same, wherever they stand.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Already reported; whoever meets it keeps quiet.
    Broken,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: may be a number or a truth value.
    Plain,
    /// In quotes or a block: text.
    Quoted,
    /// Partly from the environment: of any type, and never shown.
    Environment,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) mark: Mark,
    pub(super) key: String,
    pub(super) value: Node,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

/// The path of member `key` of what is at `path`.
pub(super) fn member(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

/// The path of item `index` of what is at `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// The tree of a file; `None` if it is no YAML at all, which was then reported.
pub(super) fn parse(text: &str, report: &Report) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { parser: Parser::new_from_str(text), report, nodes: 0 };
    builder.document()
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    report: &'a Report,
    nodes: usize,
}

fn mark(marker: Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        match self.parser.next_event()? {
            Ok(event) => Some(event),
            Err(error) => {
                let what = format!("not valid YAML: {}", error.info());
                self.report.error(mark(*error.marker()), "", what, "mend the syntax here or just above");
                None
            }
        }
    }

    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    let what = "a second YAML document";
                    self.report.error(mark(span.start), "", what, "keep to one document: remove the `---`");
                    return None;
                }
                event => root = Some(self.node(event, span, "", 0)?),
            }
        }
        Some(root.unwrap_or(Node { mark: Mark { line: 1, column: 1 }, kind: Kind::Null }))
    }

    fn node(&mut self, event: Event<'a>, span: Span, path: &str, depth: usize) -> Option<Node> {
        let at = mark(span.start);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let what = format!("more than {MAX_NODES} values");
            self.report.error(at, path, what, "no gateway needs that many: split the configuration");
            return None;
        }
        if depth > MAX_DEPTH {
            let what = format!("nested more than {MAX_DEPTH} deep");
            self.report.error(at, path, what, "no key of a configuration lies that deep: check the brackets");
            return None;
        }
        let (decorated, mut kind) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor > 0 || tag.is_some(), scalar(&text, style)),
            Event::SequenceStart(anchor, tag) => {
                (anchor > 0 || tag.is_some(), Kind::Sequence(self.sequence(path, depth)?))
            }
            Event::MappingStart(anchor, tag) => {
                (anchor > 0 || tag.is_some(), Kind::Mapping(self.mapping(path, depth)?))
            }
            _ => (true, Kind::Broken),
        };
        if decorated {
            let what = "anchors (&), aliases (*) and tags (!) are not allowed";
            self.report.error(at, path, what, "write the value out, or put text that starts so in quotes");
            kind = Kind::Broken;
        }
        Some(Node { mark: at, kind })
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Some(nodes);
            }
            nodes.push(self.node(event, span, &item(path, nodes.len()), depth + 1)?);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Option<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Some(entries),
                Event::Scalar(text, _, 0, None) => Some(text.into_owned()),
                event => {
                    let found = self.node(event, span, path, depth + 1)?;
                    if !matches!(found.kind, Kind::Broken) {
                        let mend = "write a key as plain text followed by a colon";
                        self.report.error(found.mark, path, "a key that is not text", mend);
                    }
                    None
                }
            };
            let at = mark(span.start);
            let (event, span) = self.next()?;
            let Some(key) = key else {
                self.node(event, span, path, depth + 1)?;
                continue;
            };
            let path = member(path, &key);
            let value = self.node(event, span, &path, depth + 1)?;
            if key == "<<" {
                self.report.error(at, &path, "merge keys are not allowed", "write the keys out");
            } else if let Some(line) = seen.get(&key) {
                let what = format!("this key stands here twice, first in line {line}");
                self.report.error(at, &path, what, "keep one of the two");
            } else {
                seen.insert(key.clone(), at.line);
                entries.push(Entry { mark: at, key, value });
            }
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Kind {
    if style == ScalarStyle::Plain {
        if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Kind::Null;
        }
        return Kind::Scalar(Scalar { text: text.to_owned(), style: Style::Plain });
    }
    Kind::Scalar(Scalar { text: text.to_owned(), style: Style::Quoted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn errors(text: &str) -> Vec<String> {
        let report = Report::new(Path::new("f"));
        parse(text, &report);
        report
            .conclude()
            .err()
            .map(|e| e.errors.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    }

    fn tree(text: &str) -> Node {
        let report = Report::new(Path::new("f"));
        let node = parse(text, &report).unwrap();
        report.conclude().unwrap();
        node
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let root = tree("a: 1\nb:\n  - x\n  - {c: \"y\"}\n");
        let Kind::Mapping(entries) = root.kind else { panic!("a mapping") };
        assert_eq!(entries[0].mark, Mark { line: 1, column: 1 });
        assert_eq!(entries[0].value.mark, Mark { line: 1, column: 4 });
        let Kind::Sequence(items) = &entries[1].value.kind else { panic!("a sequence") };
        assert_eq!(items[0].mark, Mark { line: 3, column: 5 });
        let Kind::Mapping(inner) = &items[1].kind else { panic!("a mapping") };
        assert_eq!(inner[0].mark, Mark { line: 4, column: 6 });
        assert_eq!(inner[0].value.mark, Mark { line: 4, column: 9 });
    }

    #[test]
    fn a_repeated_key_is_reported_at_its_second_place() {
        let expected = ["f:3:3: a.b: this key stands here twice, first in line 2; keep one of the two"];
        assert_eq!(errors("a:\n  b: 1\n  b: 2\n"), expected);
    }

    #[test]
    fn anchors_aliases_tags_and_merge_keys_are_refused() {
        for text in ["a: &x 1\n", "a: !!str 1\n", "a: &x {b: 1}\n", "a: &x 1\nb: *x\n", "a: !x [1]\n"] {
            assert!(errors(text).iter().any(|e| e.contains("not allowed")), "{text}");
        }
    }

    #[test]
    fn deep_nesting_and_second_documents_are_refused() {
        assert!(errors(&"[".repeat(40))[0].contains("nested more than 32 deep"));
        assert!(errors(&"{a: ".repeat(40))[0].contains("nested more than 32 deep"));
        assert_eq!(errors(&"[".repeat(1_000_000)).len(), 1);
        assert_eq!(errors(&"- ".repeat(1_000_000)).len(), 1);
        assert!(errors(&"- a\n".repeat(MAX_NODES))[0].contains("more than 250000 values"));
        assert!(errors("a: 1\n---\nb: 1\n")[0].contains("second YAML document"));
    }

    #[test]
    fn an_alias_bomb_is_a_short_error() {
        use std::fmt::Write;
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
        for n in 1..30 {
            let reference = format!("*a{}, ", n - 1).repeat(8);
            writeln!(bomb, "a{n}: &a{n} [{reference}]").unwrap();
        }
        assert!(!errors(&bomb).is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a:\\[\\]{},&*!|>'\"%@`#?~ \n\t0\u{e9}]{0,60}") {
            errors(&text);
        }
    }
}
