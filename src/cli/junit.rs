//! Test results as `JUnit` XML, which build servers read.

use super::test::{Difference, Tried};
use std::fmt::Write as _;
use std::path::Path;

/// Cases of one file.
pub(super) struct Suite<'a> {
    pub(super) file: &'a Path,
    pub(super) tried: &'a [Tried<'a>],
}

pub(super) fn xml(suite: &Suite<'_>) -> String {
    let file = escaped(&suite.file.display().to_string());
    let failures = suite.tried.iter().filter(|tried| !tried.differences.is_empty()).count();
    let (tests, mut text) =
        (suite.tried.len(), String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n"));
    let _ = writeln!(
        text,
        "  <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\">"
    );
    for Tried { case, differences, .. } in suite.tried {
        let name = escaped(&case.name);
        let _ = write!(
            text,
            "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{}\"",
            case.line
        );
        if differences.is_empty() {
            text.push_str("/>\n");
            continue;
        }
        let line = |Difference { what, expected, found }: &Difference| {
            format!("{what}: expected {expected}, found {found}")
        };
        let lines: Vec<String> = differences.iter().map(line).collect();
        let first = lines.first().map(|line| escaped(line)).unwrap_or_default();
        let all = escaped(&lines.join("\n"));
        let _ = writeln!(text, ">\n      <failure message=\"{first}\">{all}</failure>\n    </testcase>");
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// Text in an element or an attribute. XML 1.0 has no way to write most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_breaks_the_document() {
        assert_eq!(escaped("a<b>&\"\u{1b}\n"), "a&lt;b&gt;&amp;&quot;\u{fffd}&#10;");
    }
}
