//! The reference of the configuration for people (`portcullis schema --markdown`), made like the schema: what the
//! reader asks of each value, with the sentences of `conf/reference.yaml`.

use super::schema::{Object, Shape, shape};
use super::trace::Ask;
use std::fmt::Write as _;

const INTRODUCTION: &str = "\
# The configuration, key by key

Made by `portcullis schema --markdown` from what the reader of the configuration asks for and from the sentences of
[`conf/reference.yaml`](../conf/reference.yaml), which shows the same as one file. `*` stands for a name of your
choice, `[]` for each item of a list.

- A *duration* is a whole number and a unit: `300ms`, `10s`, `5m`, `12h`, `14d`. A *size* is a whole number and a unit:
  `512B`, `64KiB`, `10MiB`, `1GiB`; `0` is none.
- `${NAME}` in a value is replaced from the environment; `${NAME:-default}` gives a default, in which nothing is
  replaced. An unset name without one is an error. There is no way to write a `${` that is not replaced, but what comes
  from the environment is not looked into again.
- Relative paths are relative to the configuration file.
- An unknown key is an error. `portcullis check --config FILE` shows every error with its place and its mend.
- A key with the default – may be left out. What then holds is told as *absent:*, or by the defaults of the keys in it;
  where neither is, there is no such thing.
";

/// The reference.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    let root = shape();
    let Some(top) = &root.object else { return out };
    for key in &top.known {
        let Some(section) = top.members.get(*key) else { continue };
        let mut rows = Vec::new();
        push(&mut rows, top, key, key, None);
        below(&mut rows, section, key, None);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n## `{key}`\n\n| key | type | default | what it is |\n|---|---|---|---|");
        for Row { path, kind, default, about } in rows {
            let _ = writeln!(out, "| `{path}` | {kind} | {default} | {about} |");
        }
    }
    out
}

struct Row {
    path: String,
    kind: String,
    default: String,
    about: String,
}

/// The rows of everything in a value. `inherited` is where the defaults of all of it come from, if from elsewhere.
fn below(rows: &mut Vec<Row>, shape: &Shape, path: &str, inherited: Option<&str>) {
    if let Some(object) = &shape.object {
        for key in &object.known {
            let Some(member) = object.members.get(*key) else { continue };
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            push(rows, object, key, &path, inherited);
            let elsewhere = member.about.as_deref().and_then(|about| split(about).0);
            below(rows, member, &path, elsewhere.or(inherited));
        }
    }
    // What a route puts in the place of a whole mapping is told where that stands.
    if let (Some(named), None) = (&shape.named, inherited) {
        below(rows, named, &format!("{path}.*"), None);
    }
    // What may be one or a list of the same is told once.
    if let (Some(list), None) = (&shape.list, &shape.object) {
        below(rows, list, &format!("{path}[]"), inherited);
    }
}

fn push(rows: &mut Vec<Row>, object: &Object, key: &str, path: &str, inherited: Option<&str>) {
    let Some(member) = object.members.get(key) else { return };
    let (told, sentence) = split(member.about.as_deref().unwrap_or_default());
    let required = object.required.iter().any(|required| required == key);
    let alternative = object.one_of.iter().any(|keys| keys.iter().any(|other| other == key));
    // Header names are the user's choice, and so is what the reference says of them.
    let own = member.value.as_ref().filter(|_| !path.starts_with("forward.headers."));
    let default = match (told.or(inherited), own.or_else(|| object.defaults.get(key))) {
        _ if required => "required".to_owned(),
        _ if alternative => "–".to_owned(),
        (Some(elsewhere), _) => escaped(elsewhere),
        (None, Some(value)) => format!("`{}`", value.replace('|', "\\|")),
        (None, None) => "–".to_owned(),
    };
    let told = sentence.split_once("; ").unwrap_or((sentence, ""));
    let mut about = escaped(if told.0.starts_with("exactly one") { told.1 } else { sentence });
    for keys in member.object.iter().flat_map(|object| &object.one_of) {
        let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
        let _ =
            write!(about, "{}exactly one of {}", if about.is_empty() { "" } else { "; " }, keys.join(", "));
    }
    rows.push(Row { path: path.to_owned(), kind: kind(member), default, about });
}

/// What a sentence of the reference says about the default, and the rest of it.
fn split(about: &str) -> (Option<&str>, &str) {
    let (first, rest) = about.split_once("; ").unwrap_or((about, ""));
    match first.strip_prefix("default: ") {
        Some(default) => (Some(default), rest),
        None if first == "required" => (None, rest),
        None => (None, about.strip_prefix("required: ").unwrap_or(about)),
    }
}

/// What may stand there.
fn kind(shape: &Shape) -> String {
    let mut forms: Vec<String> = Vec::new();
    forms.extend(shape.object.as_ref().map(|_| "mapping".to_owned()));
    forms.extend(shape.named.as_ref().map(|_| "mapping of names".to_owned()));
    forms.extend(shape.list.as_ref().map(|list| match kind(list) {
        kind if kind == "mapping" => "list of mappings".to_owned(),
        kind => format!("list of {kind}"),
    }));
    forms.extend(shape.scalars.iter().filter_map(scalar));
    forms.join(", or ")
}

fn scalar(ask: &Ask) -> Option<String> {
    Some(match ask {
        Ask::Text => "text".to_owned(),
        Ask::Scalar => "text, number, `true` or `false`".to_owned(),
        Ask::Boolean => "`true` or `false`".to_owned(),
        Ask::Number(least, most) => format!("{least} to {most}"),
        Ask::Duration => "duration".to_owned(),
        Ask::Size => "size".to_owned(),
        Ask::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" "),
        Ask::Fields(_) | Ask::Required(_) | Ask::OneOf(_) | Ask::Default(..) | Ask::Named | Ask::List => {
            return None;
        }
    })
}

/// Text that Markdown leaves as it is, but for what stands in backticks.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut code = false;
    for c in text.chars() {
        code ^= c == '`';
        if c == '|' || (!code && matches!(c, '*' | '_' | '<' | '[')) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::units;

    fn rows() -> Vec<Row> {
        let mut rows = Vec::new();
        below(&mut rows, &shape(), "", None);
        rows
    }

    fn row(path: &str) -> Row {
        rows().into_iter().find(|row| row.path == path).unwrap_or_else(|| panic!("no {path}"))
    }

    #[test]
    fn each_key_is_told_with_its_type_its_default_and_its_sentence() {
        for (path, kind, default, about) in [
            ("server.limits.body_bytes", "size", "`10MiB`", "413 beyond; 0 = no limit"),
            ("server.threads", "0 to 1024", "`0`", "worker threads; 0 = one per core"),
            ("issuers.*.issuer", "text", "required", "the exact `iss`"),
            ("issuers.*.key_set.url", "text", "–", "a JWKS"),
            ("sessions.store.redis.timeout", "duration", "`300ms`", "the deadline of each operation"),
            ("upstreams.*.health_check.unhealthy", "1 to 100", "`3`", "bad checks in a row that put it out"),
            (
                "upstreams.*.tls.server_name",
                "text",
                "–",
                "absent: each endpoint's host name; needed for IP addresses",
            ),
            ("routes[].limits.body_bytes", "size", "server.limits.body\\_bytes", ""),
            ("routes[].timeouts.read", "duration", "the upstream's, one by one", ""),
            ("routes[].rate_limit.by", "`subject` `address`", "`subject`", ""),
            ("forward.headers.*.format", "`text` `csv` `json` `base64url-json`", "`text`", ""),
            ("forward.headers.*.max_bytes", "size", "–", ""),
            ("log.format", "`json` `text`", "`json`", "json \\| text"),
        ] {
            let row = row(path);
            assert_eq!((row.kind.as_str(), row.default.as_str()), (kind, default), "{path}");
            assert!(about.is_empty() || row.about == about, "{path}: {}", row.about);
        }
        assert!(row("sessions.store").about.ends_with("exactly one of `embedded`, `redis`"));
    }

    #[test]
    fn the_reader_and_the_reference_name_the_same_defaults() {
        fn compare(shape: &Shape, path: &str, compared: &mut usize) {
            for object in shape.object.iter().filter(|_| !path.starts_with(".forward.headers")) {
                for (key, member) in &object.members {
                    let path = format!("{path}.{key}");
                    let elsewhere =
                        member.about.as_deref().is_some_and(|about| about.starts_with("default: "));
                    if let (Some(value), Some(default), false) =
                        (&member.value, object.defaults.get(key), elsewhere)
                    {
                        let same = value == default
                            || units::duration(value)
                                .is_some_and(|value| units::duration(default) == Some(value));
                        assert!(same, "{path}: {value} in the reference, {default} for the reader");
                        *compared += 1;
                    }
                    compare(member, &path, compared);
                }
            }
            for (inner, mark) in [(&shape.named, ".*"), (&shape.list, "[]")] {
                if let Some(inner) = inner {
                    compare(inner, &format!("{path}{mark}"), compared);
                }
            }
        }
        let mut compared = 0;
        compare(&shape(), "", &mut compared);
        assert!(compared > 30, "{compared}");
    }

    #[test]
    fn no_key_is_left_without_a_word() {
        let rows = rows();
        let told = |path: &str| {
            rows.iter()
                .any(|row| row.path == path && (!row.about.is_empty() || row.default.contains("above")))
        };
        let plain = ["timeouts", "claims", "match", "strip_prefix"];
        let silent: Vec<_> = rows
            .iter()
            .filter(|row| row.about.is_empty() && row.kind != "mapping" && !row.default.contains([' ', '.']))
            // One line may tell of a mapping and all that is in it.
            .filter(|row| !row.path.rsplit_once('.').is_some_and(|(parent, _)| told(parent)))
            .filter(|row| !plain.iter().any(|word| row.path.ends_with(&format!(".{word}"))))
            .map(|row| &row.path)
            .collect();
        assert!(silent.is_empty(), "{silent:?}");
    }
}
