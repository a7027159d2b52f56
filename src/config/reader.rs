//! Typed reading of the tree: each wrong value is reported where it stands, and reading goes on.

use super::finding::{Mark, Report};
use super::secrets::Environment;
use super::trace::{Ask, Trace};
use super::units;
use super::yaml::{self, Entry, Kind, Node, Scalar, Style};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every section needs beside its own keys.
pub(super) struct Scope<'a> {
    pub(super) report: &'a Report,
    /// The folder of the configuration file, which relative paths are relative to.
    pub(super) folder: &'a Path,
    /// For the files it names.
    pub(super) environment: Environment<'a>,
    /// Who is told what is asked of each value, if anybody wants to know.
    pub(super) trace: Option<&'a Trace>,
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Where a key stands, or where it would.
#[derive(Debug)]
pub(super) struct Place {
    mark: Mark,
    path: String,
}

impl Place {
    pub(super) fn error(&self, scope: &Scope<'_>, what: impl Into<String>, mend: impl Into<String>) {
        scope.report.error(self.mark, &self.path, what, mend);
    }

    pub(super) fn warning(&self, scope: &Scope<'_>, what: impl Into<String>, mend: impl Into<String>) {
        scope.report.warning(self.mark, &self.path, what, mend);
    }
}

/// A value and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Value<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) node: &'a Node,
    pub(super) path: String,
}

/// A mapping whose keys were checked against the known ones.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    scope: &'a Scope<'a>,
    node: &'a Node,
    entries: &'a [Entry],
    pub(super) mark: Mark,
    pub(super) path: String,
    known: &'static [&'static str],
}

impl<'a> Value<'a> {
    pub(super) fn error(&self, what: impl Into<String>, mend: impl Into<String>) {
        self.scope.report.error(self.node.mark, &self.path, what, mend);
    }

    pub(super) fn warning(&self, what: impl Into<String>, mend: impl Into<String>) {
        self.scope.report.warning(self.node.mark, &self.path, what, mend);
    }

    /// Tells what is asked of this value.
    pub(super) fn ask(&self, ask: impl FnOnce() -> Ask) {
        if let Some(trace) = self.scope.trace {
            trace.note(self.node, ask());
        }
    }

    /// Reports that this is something else than `expected`.
    fn mistyped(&self, expected: &str, mend: &str) {
        let found = match &self.node.kind {
            Kind::Broken => return,
            Kind::Null => "nothing",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
            Kind::Scalar(Scalar { style: Style::Environment, .. }) => "something else from the environment",
            Kind::Scalar(scalar) => guess(scalar),
        };
        self.error(format!("expected {expected}, found {found}"), mend);
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.node.kind, Kind::Mapping(_))
    }

    /// Whether this is a list; reports nothing.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::Sequence(_))
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.kind, Kind::Sequence(nodes) if nodes.is_empty())
    }

    /// Whether this is a well-formed duration of no length; reports nothing.
    pub(super) fn duration_is_zero(&self) -> bool {
        matches!(&self.node.kind, Kind::Scalar(s) if units::duration(&s.text) == Some(Duration::ZERO))
    }

    /// Whether this is exactly that text; reports nothing.
    pub(super) fn is_text(&self, text: &str) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.text == text)
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.node.kind, Kind::Scalar(_))
    }

    /// The offending text for a message, unless it came from the environment.
    pub(super) fn shown(&self) -> String {
        match &self.node.kind {
            Kind::Scalar(Scalar { text, style: Style::Plain | Style::Quoted }) => {
                let short: String = text.chars().take(60).collect();
                format!("{short:?}{}", if short.len() < text.len() { "…" } else { "" })
            }
            _ => "the value from the environment".to_owned(),
        }
    }

    fn scalar(&self, expected: &str, mend: &str) -> Option<&'a Scalar> {
        if let Kind::Scalar(scalar) = &self.node.kind {
            return Some(scalar);
        }
        self.mistyped(expected, mend);
        None
    }

    /// A mapping of `known` keys; those `not_yet` served are refused as such, all others as unknown.
    pub(super) fn fields(&self, known: &'static [&'static str], not_yet: &[&str]) -> Option<Fields<'a>> {
        self.ask(|| Ask::Fields(known));
        let Kind::Mapping(entries) = &self.node.kind else {
            self.mistyped("a mapping", &format!("the keys here are {}", known.join(", ")));
            return None;
        };
        for Entry { mark, key, .. } in entries {
            let path = yaml::member(&self.path, key);
            if not_yet.contains(&key.as_str()) {
                self.scope.report.error(*mark, &path, "not supported yet", "remove this key");
            } else if !known.contains(&key.as_str()) {
                let mend = match units::nearest(key, known.iter().copied()) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("the keys here are {}", known.join(", ")),
                };
                self.scope.report.error(*mark, &path, "unknown key", mend);
            }
        }
        let (scope, node, mark) = (self.scope, self.node, self.node.mark);
        Some(Fields { scope, node, entries, mark, path: self.path.clone(), known })
    }

    /// A mapping whose keys are names of the user's choice: each name and its value.
    pub(super) fn named(&self, mend: &str) -> Vec<(&'a str, Value<'a>)> {
        self.ask(|| Ask::Named);
        let Kind::Mapping(entries) = &self.node.kind else {
            self.mistyped("a mapping", mend);
            return Vec::new();
        };
        entries.iter().map(|entry| (entry.key.as_str(), self.at(entry))).collect()
    }

    /// The keys of a mapping, whatever they hold; none if this is no mapping.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let entries: &[Entry] = if let Kind::Mapping(entries) = &self.node.kind { entries } else { &[] };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// A member of a mapping, whatever its other keys.
    pub(super) fn member(&self, key: &str) -> Option<Value<'a>> {
        let Kind::Mapping(entries) = &self.node.kind else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| self.at(entry))
    }

    fn at(&self, entry: &'a Entry) -> Value<'a> {
        Value { scope: self.scope, node: &entry.value, path: yaml::member(&self.path, &entry.key) }
    }

    /// A list.
    pub(super) fn items(&self, mend: &str) -> Vec<Value<'a>> {
        self.ask(|| Ask::List);
        let Kind::Sequence(nodes) = &self.node.kind else {
            self.mistyped("a list", mend);
            return Vec::new();
        };
        let at = |(index, node)| Value { scope: self.scope, node, path: yaml::item(&self.path, index) };
        nodes.iter().enumerate().map(at).collect()
    }

    /// A list of texts, none empty.
    pub(super) fn texts(&self, mend: &str) -> Vec<String> {
        self.items(mend).iter().filter_map(Value::text).collect()
    }

    /// Text that is not empty.
    pub(super) fn text(&self) -> Option<String> {
        self.ask(|| Ask::Text);
        let scalar = self.scalar("text", "write it on one line after the colon")?;
        if scalar.style == Style::Plain && guess(scalar) != "text" {
            self.mistyped("text", "put it in quotes");
            return None;
        }
        if scalar.text.is_empty() {
            self.error("is empty", "write a value, or remove the key");
            return None;
        }
        if scalar.text.chars().any(char::is_control) {
            self.error("contains a control character", "remove line ends, tabs and the like");
            return None;
        }
        Some(scalar.text.clone())
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.ask(|| Ask::Boolean);
        match self.scalar("true or false", "write true or false")? {
            Scalar { text, style: Style::Plain | Style::Environment } if text == "true" => Some(true),
            Scalar { text, style: Style::Plain | Style::Environment } if text == "false" => Some(false),
            _ => {
                self.mistyped("true or false", "write true or false, without quotes");
                None
            }
        }
    }

    /// A whole number within `min..=max`.
    pub(super) fn number(&self, min: usize, max: usize) -> Option<usize> {
        self.ask(|| Ask::Number(min, max));
        let mend = format!("write a number from {min} to {max}");
        let scalar = self.scalar("a number", &mend)?;
        if scalar.style == Style::Quoted || !scalar.text.bytes().all(|b| b.is_ascii_digit()) {
            self.mistyped("a whole number", &mend);
            return None;
        }
        let number = scalar.text.parse().ok().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.error(format!("{} is out of range", self.shown()), mend);
        }
        number
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        self.read_duration("write a whole number and ms, s, m, h or d, such as 10s")
    }

    /// A duration, where `word` is possible too and was looked for before.
    pub(super) fn duration_or(&self, word: &str) -> Option<Duration> {
        self.ask(|| Ask::Word(vec![word.to_owned()]));
        self.read_duration(&format!("write {word}, or a whole number and ms, s, m, h or d, such as 10s"))
    }

    fn read_duration(&self, mend: &str) -> Option<Duration> {
        self.ask(|| Ask::Duration);
        let scalar = self.scalar("a duration", mend)?;
        let duration = units::duration(&scalar.text);
        if duration.is_none() {
            self.error(format!("{} is not a duration", self.shown()), mend);
        }
        duration
    }

    /// A size in bytes.
    pub(super) fn size(&self) -> Option<u64> {
        self.ask(|| Ask::Size);
        let mend = "write a whole number and B, KiB, MiB or GiB, such as 64KiB";
        let scalar = self.scalar("a size", mend)?;
        let size = units::size(&scalar.text);
        if size.is_none() {
            self.error(format!("{} is not a size", self.shown()), mend);
        }
        size
    }

    /// A size from 1 byte to 1 MiB, which is as much as is read of a header block at all.
    pub(super) fn header_size(&self) -> Option<usize> {
        let size = self.size()?;
        if size == 0 || size > 1 << 20 {
            self.error(format!("{} is out of range", self.shown()), "write a size from 1B to 1MiB");
            return None;
        }
        usize::try_from(size).ok()
    }

    /// One of a closed list of words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        self.ask(|| Ask::Word(words.iter().map(|(word, _)| (*word).to_owned()).collect()));
        let list = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let scalar = self.scalar("a word", &format!("write one of {}", list()))?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == scalar.text) {
            return Some(*value);
        }
        let mend = match units::nearest(&scalar.text, words.iter().map(|(word, _)| *word)) {
            Some(meant) if scalar.style != Style::Environment => format!("did you mean {meant}?"),
            _ => format!("write one of {}", list()),
        };
        self.error(format!("{} is not one of {}", self.shown(), list()), mend);
        None
    }

    /// A file or folder, relative to the configuration's own.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.text().map(|text| self.scope.folder.join(text))
    }

    /// Whatever `parse` makes of the text; what it refuses is reported as not being `expected`.
    pub(super) fn parsed<T>(
        &self,
        expected: &str,
        mend: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text()?;
        let value = parse(&text);
        if value.is_none() {
            self.error(format!("{} is not {expected}", self.shown()), mend);
        }
        value
    }
}

impl<'a> Fields<'a> {
    /// The value of a key, if the key is there.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        debug_assert!(self.known.contains(&key), "{key} is read, but not among the known keys");
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Value { scope: self.scope, node: &entry.value, path: yaml::member(&self.path, key) })
    }

    /// The value of a key that has to be there.
    pub(super) fn require(&self, key: &str, mend: &str) -> Option<Value<'a>> {
        if let Some(trace) = self.scope.trace {
            trace.note(self.node, Ask::Required(key.to_owned()));
        }
        let value = self.get(key);
        if value.is_none() {
            self.scope.report.error(self.mark, &yaml::member(&self.path, key), "missing", mend);
        }
        value
    }

    pub(super) fn scope(&self) -> &'a Scope<'a> {
        self.scope
    }

    /// Where a key's value stands, or the mapping that lacks the key.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let mark = self.get(key).map_or(self.mark, |value| value.node.mark);
        Place { mark, path: yaml::member(&self.path, key) }
    }

    /// The one of several keys that excludes the others.
    pub(super) fn exactly_one(&self, keys: &[&'static str]) -> Option<(&'static str, Value<'a>)> {
        if let Some(trace) = self.scope.trace {
            trace.note(self.node, Ask::OneOf(keys.iter().map(|key| (*key).to_owned()).collect()));
        }
        let mut present = keys.iter().filter_map(|key| Some((*key, self.get(key)?)));
        let first = present.next();
        let list = || keys.join(", ");
        // An unknown key was reported when the keys were looked at, and may be one of these misspelt.
        let all_known = self.entries.iter().all(|entry| self.known.contains(&entry.key.as_str()));
        if first.is_none() && all_known {
            let what = if self.entries.is_empty() { "empty" } else { "incomplete" };
            self.error(what, format!("give exactly one of {}", list()));
        }
        let mut alone = true;
        for (_, value) in present {
            alone = false;
            value.error("one too many", format!("keep exactly one of {}", list()));
        }
        first.filter(|_| alone)
    }

    pub(super) fn error(&self, what: impl Into<String>, mend: impl Into<String>) {
        self.scope.report.error(self.mark, &self.path, what, mend);
    }

    pub(super) fn warning(&self, what: impl Into<String>, mend: impl Into<String>) {
        self.scope.report.warning(self.mark, &self.path, what, mend);
    }

    /// Tells what holds without a key.
    pub(super) fn told_default(&self, key: &str, default: impl FnOnce() -> String) {
        if let Some(trace) = self.scope.trace {
            trace.note(self.node, Ask::Default(key.to_owned(), default()));
        }
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        self.told_default(key, || default.to_string());
        self.get(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    pub(super) fn duration(&self, key: &str, default: Duration) -> Duration {
        self.told_default(key, || units::told(default));
        self.get(key).and_then(|value| value.duration()).unwrap_or(default)
    }

    pub(super) fn number(&self, key: &str, default: usize, min: usize, max: usize) -> usize {
        self.told_default(key, || default.to_string());
        self.get(key).and_then(|value| value.number(min, max)).unwrap_or(default)
    }

    pub(super) fn header_size(&self, key: &str, default: usize) -> usize {
        self.get(key).and_then(|value| value.header_size()).unwrap_or(default)
    }

    pub(super) fn word<T: Copy + PartialEq>(&self, key: &str, words: &[(&str, T)], default: T) -> T {
        if let Some((word, _)) = words.iter().find(|(_, value)| *value == default) {
            self.told_default(key, || (*word).to_owned());
        }
        self.get(key).and_then(|value| value.word(words)).unwrap_or(default)
    }
}

/// What YAML 1.2 takes a scalar for.
fn guess(scalar: &Scalar) -> &'static str {
    let text = scalar.text.as_str();
    if scalar.style != Style::Plain {
        return "text";
    }
    if matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE") {
        return "a truth value";
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && (text.parse::<f64>().is_ok() || text.starts_with("0x") || text.starts_with("0o"));
    if numeric { "a number" } else { "text" }
}
