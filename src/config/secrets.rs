//! The environment and secret files: the one place that reads either.

use super::finding::Report;
use super::yaml::{self, Kind, Node, Scalar, Style};
use std::io::Read;
use std::path::Path;

/// Where `${NAME}` is looked up.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
#[allow(clippy::disallowed_methods, reason = "this is the one owner of the environment")]
pub(super) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a variable of the environment says something.
pub fn is_set(name: &str) -> bool {
    process_environment(name).is_some_and(|value| !value.is_empty())
}

/// Replaces `${NAME}` and `${NAME:-default}` in every value of the tree (not in keys).
pub(super) fn interpolate(node: &mut Node, path: &str, environment: Environment<'_>, report: &Report) {
    let at = node.mark;
    match &mut node.kind {
        Kind::Scalar(scalar) if scalar.text.contains("${") => match replace(&scalar.text, environment) {
            Ok(text) => *scalar = Scalar { text, style: Style::Environment },
            Err(Unresolved { what, mend }) => {
                report.error(at, path, what, mend);
                node.kind = Kind::Broken;
            }
        },
        Kind::Sequence(nodes) => {
            for (index, node) in nodes.iter_mut().enumerate() {
                interpolate(node, &yaml::item(path, index), environment, report);
            }
        }
        Kind::Mapping(entries) => {
            for entry in entries {
                interpolate(&mut entry.value, &yaml::member(path, &entry.key), environment, report);
            }
        }
        Kind::Scalar(_) | Kind::Null | Kind::Broken => {}
    }
}

struct Unresolved {
    what: String,
    mend: String,
}

fn replace(text: &str, environment: Environment<'_>) -> Result<String, Unresolved> {
    let malformed = |what: &str| Unresolved {
        what: what.to_owned(),
        mend: "write ${NAME} or ${NAME:-default}, NAME of letters, digits and _".to_owned(),
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let (inside, after) = after.split_once('}').ok_or_else(|| malformed("a `${` without its `}`"))?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let well_formed = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if !well_formed {
            return Err(malformed("a `${…}` that names no environment variable"));
        }
        if default.is_some_and(|default| default.contains("${")) {
            return Err(Unresolved {
                what: "a default with a `${` of its own, which would stay as it is".to_owned(),
                mend: format!("write a plain default, or put the whole value into {name}"),
            });
        }
        // As in a shell, `:-` also covers a variable that is set to nothing.
        let value = environment(name).filter(|value| default.is_none() || !value.is_empty());
        match (value, default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(Unresolved {
                    what: format!("the environment variable {name} is not set"),
                    mend: format!("set it, or give a default: ${{{name}:-default}}"),
                });
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The bytes of a file of at most `limit` bytes.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, std::io::Error> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("it is a folder"));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        Ok(bytes)
    } else {
        Err(std::io::Error::other(format!("it is longer than {limit} bytes")))
    }
}

/// What an I/O error says, without the number of the system's error.
pub(super) fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn replaced(text: &str) -> Result<String, String> {
        replace(text, &lookup).map_err(|e| e.what)
    }

    #[test]
    fn names_are_replaced_and_defaults_stand_in() {
        assert_eq!(replaced("x${A}y${A}").unwrap(), "xalphayalpha");
        assert_eq!(replaced("${B:-beta}").unwrap(), "beta");
        assert_eq!(replaced("${B:-}").unwrap(), "");
        assert_eq!(replaced("${EMPTY:-e}${EMPTY}").unwrap(), "e");
        assert_eq!(replaced("cost: 5$ $A $$").unwrap(), "cost: 5$ $A $$");
    }

    #[test]
    fn an_unset_or_malformed_name_is_an_error() {
        assert_eq!(replaced("${B}").unwrap_err(), "the environment variable B is not set");
        assert_eq!(replaced("${A").unwrap_err(), "a `${` without its `}`");
        for text in ["${B:-https://${A}}", "x${A:-${B:-c}}y"] {
            let what = "a default with a `${` of its own, which would stay as it is";
            assert_eq!(replaced(text).unwrap_err(), what, "{text}");
        }
        for text in ["${}", "${1A}", "${A-b}", "${A B}"] {
            assert_eq!(replaced(text).unwrap_err(), "a `${…}` that names no environment variable", "{text}");
        }
    }

    #[test]
    fn a_replaced_value_is_not_replaced_again() {
        let lookup = |name: &str| (name == "A").then(|| "${B}".to_owned());
        assert_eq!(replace("${A}", &lookup).map_err(|e| e.what).unwrap(), "${B}");
    }
}
