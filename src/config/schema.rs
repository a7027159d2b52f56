//! The JSON Schema of the configuration (`portcullis schema`), made by letting the reader read examples and noting
//! what it asks of each value. What the reader changes, the schema changes with it.

use super::finding::Report;
use super::told::{self, REFERENCE, Told};
use super::trace::{Ask, Trace};
use super::yaml::{self, Entry, Kind, Node};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What the reference shows only in a comment: the other forms of a value, and keys without a default. What these
/// name need not be there.
const FORMS: &[&str] = &[
    "forward_auth: { address: \"127.0.0.1:4\", proxy: nginx }",
    "telemetry: { otlp: \"http://127.0.0.1:5\" }",
    "admin: { address: \"127.0.0.1:3\", token_file: f }",
    "server: { listeners: [{ address: \"127.0.0.1:1\", tls: { certificate: c, private_key: k } }, \
     { address: \"127.0.0.1:2\", tls: [{ certificate: c, private_key: k }] }], trusted_proxies: [10.0.0.0/8], \
     upgrade_socket: f }",
    "issuers: { a: { issuer: \"https://a\", audiences: [x], max_lifetime: 1h, algorithms: [ES256], \
     key_set: { discovery: true, jwks_hosts: [h] } }, b: { key_set: { file: f } }, c: { key_set: { secret_file: f } } }",
    "sessions: { store: { redis: { url: \"redis://127.0.0.1\", timeout: 1s, ca_file: f } }, \
     previous_secret_files: [f], allowed_origins: [\"https://a\"], refresh_token: { lost_response: 1h } }",
    "sessions: { store: { redis: { url_file: f } } }",
    "sessions: { store: { redis: { cluster: [\"redis://127.0.0.1\"] } } }",
    "sessions: { store: { redis: { sentinel: { nodes: [\"redis://127.0.0.1\"], master: m } } } }",
    "sessions: { users: { http: { url: \"http://127.0.0.1\", timeout: 1s, format: json, fields: { a: b }, \
     refused: [401], subject: sub, claims: { a: b } } } }",
    "sessions: { users: { sql: { url: \"sqlite:f\", query: \"select ?\", timeout: 1s, ca_file: f } } }",
    "sessions: { users: { ldap: { url: \"ldap://127.0.0.1\", start_tls: true, ca_file: f, timeout: 1s, \
     user_dn: \"uid={username}\", subject: uid, claims: { a: b } } } }",
    "sessions: { users: { ldap: { url: \"ldap://127.0.0.1\", user_dn: \"uid={username}\", claims: { a: [b] } } } }",
    "sessions: { users: { sql: { url_file: f, query: \"select ?\" } } }",
    "upstreams: { a: { endpoints: [\"https://a\"], health_check: { path: /, interval: 1s, timeout: 1s, healthy: 1, unhealthy: 1 }, tls: { server_name: a, ca_file: f, \
     client_certificate: f, client_private_key: f }, resolvers: [127.0.0.1] } }",
    "sessions: {}\nforward: { headers: { X-A: a, X-B: { claim: a, format: csv, absent: omit, max_bytes: 1KiB } }, \
     assertion: { header: X-C, lifetime: 1m } }",
    "sessions: {}\nroutes: [{ name: a, match: { path: /a, hosts: [h], methods: [GET] }, upstream: u, \
     auth: { mode: optional, issuers: [gateway], audiences: [a], scopes: [a], roles: [a], claims: { a: [b] }, \
     enforce: true, revocation: eventual }, forward: { headers: { X-A: a, X-B: { claim: a, format: csv, absent: omit, \
     max_bytes: 1KiB } }, assertion: { header: X-C, lifetime: 1m } }, \
     rewrite: { strip_prefix: /a }, \
     allow_in_path: [\";\"], upgrade: false, cors: { origins: [\"https://a\"], credentials: true, max_age: 1m }, \
     rate_limit: { requests: 1, per: 1s, by: subject }, limits: { body_bytes: 1MiB }, \
     timeouts: { connect: 1s, read: 1s, write: 1s, idle: 1s } }, { name: b, match: { path: /b }, auth: public }]",
];

/// What a configuration may hold, with what the reference tells of it.
pub(super) fn shape() -> Shape {
    let mut shape = shape_of(REFERENCE);
    for form in FORMS {
        shape = shape.merged(shape_of(form));
    }
    if let Some(told) = Told::read(REFERENCE) {
        shape.hear(&told.root, 0, &told);
    }
    shape
}

/// The schema.
pub fn schema() -> Value {
    let mut schema = shape().schema();
    let about = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of Portcullis",
        "$defs": {
            "environment": {
                "description": "A value from the environment: ${NAME}, or ${NAME:-default}",
                "type": "string",
                "pattern": "\\$\\{",
            },
        },
    });
    if let (Value::Object(schema), Value::Object(about)) = (&mut schema, about) {
        schema.extend(about);
    }
    schema
}

/// What the reader asks of a document.
fn shape_of(text: &str) -> Shape {
    let (report, trace) = (Report::new(Path::new("")), Trace::default());
    let Some(root) = yaml::parse(text, &report) else { return Shape::default() };
    // What is wrong with a document is not looked at: it names files that are not there.
    let _ = super::compile(Path::new(""), &root, &|_| None, &report, Some(&trace));
    Shape::of(&root, &trace)
}

/// What may stand in a place.
#[derive(Debug, Default, Clone)]
pub(super) struct Shape {
    /// The sentence of the reference about it.
    pub(super) about: Option<String>,
    /// The value that the reference has for it, and does not only show in a comment.
    pub(super) value: Option<String>,
    pub(super) object: Option<Object>,
    /// What may stand under a name of the user's choice.
    pub(super) named: Option<Box<Shape>>,
    /// What may stand in a list.
    pub(super) list: Option<Box<Shape>>,
    pub(super) scalars: Vec<Ask>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Object {
    pub(super) known: Vec<&'static str>,
    pub(super) required: Vec<String>,
    pub(super) one_of: Vec<Vec<String>>,
    /// What holds without a key, as the reader has it.
    pub(super) defaults: BTreeMap<String, String>,
    pub(super) members: BTreeMap<String, Shape>,
}

impl Shape {
    fn of(node: &Node, trace: &Trace) -> Self {
        let mut shape = Self::default();
        let entries: &[Entry] = if let Kind::Mapping(entries) = &node.kind { entries } else { &[] };
        let below = |entry: &Entry| Self::of(&entry.value, trace);
        for ask in trace.of(node) {
            match ask {
                Ask::Fields(known) => {
                    let object = shape.object.get_or_insert_default();
                    object.known = known.to_vec();
                    let own = entries.iter().filter(|entry| known.contains(&entry.key.as_str()));
                    object.members = own.map(|entry| (entry.key.clone(), below(entry))).collect();
                }
                Ask::Required(key) => shape.object.get_or_insert_default().required.push(key),
                Ask::OneOf(keys) => shape.object.get_or_insert_default().one_of.push(keys),
                Ask::Default(key, text) => {
                    shape.object.get_or_insert_default().defaults.insert(key, text);
                }
                Ask::Named => {
                    let all = entries.iter().map(below).reduce(Self::merged);
                    shape.named = Some(Box::new(all.unwrap_or_default()));
                }
                Ask::List => {
                    let nodes: &[Node] = if let Kind::Sequence(nodes) = &node.kind { nodes } else { &[] };
                    let all = nodes.iter().map(|node| Self::of(node, trace)).reduce(Self::merged);
                    shape.list = Some(Box::new(all.unwrap_or_default()));
                }
                scalar => shape.scalars.push(scalar),
            }
        }
        shape
    }

    /// Takes along what the reference tells of it and of everything in it; its key stands on `line`.
    fn hear(&mut self, node: &Node, line: usize, told: &Told) {
        match &node.kind {
            Kind::Sequence(nodes) => {
                if let Some(list) = &mut self.list {
                    for node in nodes {
                        list.hear(node, line, told);
                    }
                }
            }
            Kind::Mapping(entries) => {
                for entry in entries {
                    let member = self.object.as_mut().and_then(|object| object.members.get_mut(&entry.key));
                    if let Some(member) = member {
                        // A line tells of the first key on it.
                        let about = told.about(entry).filter(|_| entry.mark.line != line);
                        member.about = about.map(ToOwned::to_owned);
                        member.value = told::shown(&entry.value).filter(|_| !told.is_commented(entry));
                        member.hear(&entry.value, entry.mark.line, told);
                    } else if let Some(named) = &mut self.named {
                        named.hear(&entry.value, entry.mark.line, told);
                    }
                }
            }
            Kind::Null | Kind::Scalar(_) | Kind::Broken => {}
        }
    }

    /// What may stand where either may.
    fn merged(self, other: Self) -> Self {
        let either = |one: Option<Box<Self>>, other: Option<Box<Self>>| match (one, other) {
            (Some(one), Some(other)) => Some(Box::new(one.merged(*other))),
            (one, other) => one.or(other),
        };
        let object = match (self.object, other.object) {
            (Some(one), Some(other)) => Some(one.merged(other)),
            (one, other) => one.or(other),
        };
        let mut scalars = self.scalars;
        for ask in other.scalars {
            if !scalars.contains(&ask) {
                scalars.push(ask);
            }
        }
        Self {
            about: None,
            value: None,
            object,
            named: either(self.named, other.named),
            list: either(self.list, other.list),
            scalars,
        }
    }

    fn schema(&self) -> Value {
        let mut forms: Vec<Value> = Vec::new();
        forms.extend(self.object.as_ref().map(Object::schema));
        forms.extend(
            self.named
                .as_ref()
                .map(|named| json!({ "type": "object", "additionalProperties": named.schema() })),
        );
        forms.extend(self.list.as_ref().map(|list| json!({ "type": "array", "items": list.schema() })));
        forms.extend(self.scalars.iter().filter_map(scalar));
        // Text may hold what comes from the environment anyway.
        if !self.scalars.is_empty() && !self.scalars.contains(&Ask::Text) {
            forms.push(json!({ "$ref": "#/$defs/environment" }));
        }
        let mut schema = match forms.len() {
            1 => forms.pop().unwrap_or_default(),
            _ => json!({ "anyOf": forms }),
        };
        if let (Value::Object(schema), Some(about)) = (&mut schema, &self.about) {
            schema.insert("description".to_owned(), about.as_str().into());
        }
        schema
    }
}

impl Object {
    /// What one document does not ask for is not required.
    fn merged(mut self, other: Self) -> Self {
        self.required.retain(|key| other.required.contains(key));
        for (key, shape) in other.members {
            let before = self.members.remove(&key).unwrap_or_default();
            self.members.insert(key, before.merged(shape));
        }
        self.defaults.extend(other.defaults);
        for keys in other.one_of {
            if !self.one_of.contains(&keys) {
                self.one_of.push(keys);
            }
        }
        self
    }

    fn schema(&self) -> Value {
        let property = |key: &&str| {
            let member = self.members.get(*key).map_or(Value::Bool(true), Shape::schema);
            ((*key).to_owned(), member)
        };
        let properties: Map<String, Value> = self.known.iter().map(property).collect();
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if let Value::Object(schema) = &mut schema {
            if !self.required.is_empty() {
                schema.insert("required".to_owned(), json!(self.required));
            }
            let one = |keys: &Vec<String>| -> Value {
                json!({ "oneOf": keys.iter().map(|key| json!({ "required": [key] })).collect::<Vec<_>>() })
            };
            if !self.one_of.is_empty() {
                schema.insert("allOf".to_owned(), self.one_of.iter().map(one).collect());
            }
        }
        schema
    }
}

fn scalar(ask: &Ask) -> Option<Value> {
    Some(match ask {
        Ask::Text => json!({ "type": "string" }),
        Ask::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Ask::Boolean => json!({ "type": "boolean" }),
        Ask::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Ask::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        // A plain `0` is none.
        Ask::Size => {
            json!({ "type": ["string", "integer"], "pattern": "^(0|[0-9]+(B|KiB|MiB|GiB))$", "maximum": 0 })
        }
        Ask::Word(words) => json!({ "enum": words }),
        Ask::Fields(_) | Ask::Required(_) | Ask::OneOf(_) | Ask::Default(..) | Ask::Named | Ask::List => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    /// Debian's, and no other that may be in the way.
    const VALIDATOR: &str = "/usr/bin/jsonschema";

    /// Which of the documents are valid by the schema, as another reader of JSON Schema has it, and what it says.
    fn judged(documents: &[Value]) -> (Vec<bool>, String) {
        let name = u64::from_ne_bytes(crate::clock::random_bytes().unwrap());
        let folder = std::env::temp_dir().join(format!("portcullis-schema-{name:016x}"));
        fs::create_dir(&folder).unwrap();
        let file = |name: String, value: &Value| {
            let path = folder.join(name);
            fs::write(&path, value.to_string()).unwrap();
            path
        };
        let schema = file("schema.json".into(), &schema());
        let named = |(n, document)| file(format!("instance-{n}.json"), document);
        let instances: Vec<PathBuf> = documents.iter().enumerate().map(named).collect();
        let mut command = Command::new(VALIDATOR);
        command.args(["--output", "pretty"]);
        for instance in &instances {
            command.arg("-i").arg(instance);
        }
        let output = command.arg(schema).output();
        fs::remove_dir_all(&folder).unwrap();
        let output = output.unwrap_or_else(|why| panic!("{VALIDATOR}: {why}; install python3-jsonschema"));
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let valid = |path: &PathBuf| said.contains(&format!("===[SUCCESS]===({})", path.display()));
        let invalid = |path: &PathBuf| said.contains(&format!("]===({})", path.display()));
        assert!(instances.iter().all(invalid), "the validator says nothing of some documents: {said}");
        (instances.iter().map(valid).collect(), said)
    }

    /// A YAML file as the JSON that an editor takes it for.
    fn json_of(node: &Node) -> Value {
        match &node.kind {
            Kind::Null | Kind::Broken => Value::Null,
            Kind::Sequence(nodes) => nodes.iter().map(json_of).collect(),
            Kind::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), json_of(&entry.value))).collect()
            }
            Kind::Scalar(scalar) if scalar.style == yaml::Style::Plain => match scalar.text.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                text => text.parse().map_or_else(|_| Value::from(text), Value::Number),
            },
            Kind::Scalar(scalar) => Value::from(scalar.text.as_str()),
        }
    }

    fn parsed(file: &Path) -> Option<Value> {
        let report = Report::new(file);
        let root = yaml::parse(&fs::read_to_string(file).ok()?, &report)?;
        report.conclude().is_ok().then(|| json_of(&root))
    }

    fn corpus(folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(Path::new("tests/config_corpus").join(folder)).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        assert!(files.len() > 5, "{folder}");
        files
    }

    #[test]
    fn every_valid_configuration_is_valid_by_the_schema() {
        let conf = ["conf/reference.yaml", "conf/portcullis.yaml"].map(PathBuf::from);
        let files: Vec<_> = corpus("risky").into_iter().chain(conf).collect();
        let documents: Vec<_> = files.iter().map(|file| parsed(file).unwrap()).collect();
        let (valid, said) = judged(&documents);
        let invalid: Vec<_> =
            files.iter().zip(valid).filter(|(_, valid)| !valid).map(|(file, _)| file).collect();
        assert!(invalid.is_empty(), "{invalid:?}\n{said}");
    }

    #[test]
    fn what_is_unknown_missing_or_of_the_wrong_type_is_invalid_by_the_schema() {
        let typed =
            [": unknown key;", ": missing;", "expected a mapping", "expected a list", "is not one of"];
        // The schema does not look into the environment, nor at the users.
        let beyond = ["the value from the environment", "users[", ": users:", "is not set"];
        let told = |file: &PathBuf| fs::read_to_string(file.with_extension("expected")).unwrap();
        let concerns = |file: &PathBuf| {
            let told = told(file);
            typed.iter().any(|what| told.contains(what)) && !beyond.iter().any(|what| told.contains(what))
        };
        let files = corpus("wrong").into_iter().filter(concerns);
        let read: Vec<_> = files.filter_map(|file| Some((parsed(&file)?, file))).collect();
        let (documents, files): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let (valid, _) = judged(&documents);
        let passed: Vec<_> =
            files.iter().zip(valid).filter(|(_, valid)| *valid).map(|(file, _)| told(file)).collect();
        assert!(passed.is_empty(), "{}", passed.join("\n"));
        assert!(files.len() > 10, "{} files", files.len());
    }

    /// Whether every value that the schema allows is described, with the way to those that are not.
    fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
        match schema {
            Value::Bool(_) => found.push(path.to_owned()),
            Value::Object(members) => {
                if members.get("anyOf").is_some_and(|forms| forms.as_array().is_some_and(Vec::is_empty)) {
                    found.push(path.to_owned());
                }
                for (key, value) in members {
                    match key.as_str() {
                        "properties" => {
                            for (key, value) in value.as_object().unwrap() {
                                undescribed(value, &format!("{path}.{key}"), found);
                            }
                        }
                        "items" => undescribed(value, &format!("{path}[]"), found),
                        "additionalProperties" if value.is_object() => {
                            undescribed(value, &format!("{path}.*"), found);
                        }
                        "anyOf" => {
                            for form in value.as_array().unwrap() {
                                undescribed(form, path, found);
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    #[test]
    fn the_schema_says_of_every_key_what_may_stand_there() {
        let mut found = Vec::new();
        undescribed(&schema(), "", &mut found);
        assert!(found.is_empty(), "add an example to FORMS for {}", found.join(", "));
    }

    /// The keys of a schema, or of a document.
    fn keys(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            Value::Object(members) => {
                for (key, value) in members {
                    if let ("properties", Value::Object(properties)) = (key.as_str(), value) {
                        found.extend(properties.keys().cloned());
                        properties.values().for_each(|value| keys(value, found));
                    } else {
                        keys(value, found);
                    }
                }
            }
            _ => {}
        }
    }

    #[test]
    fn the_schema_and_the_reference_have_the_same_keys() {
        let mut found = Vec::new();
        keys(&schema(), &mut found);
        let words = |line: &str| -> Vec<String> {
            line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map(ToOwned::to_owned).collect()
        };
        let mentioned: Vec<String> = REFERENCE.lines().flat_map(words).collect();
        for key in &found {
            assert!(mentioned.contains(key), "{key} is in the schema, and the reference does not show it");
        }
        // The other way: the reference is valid by the schema, which knows no other keys.
        assert!(found.len() > 100, "{} keys", found.len());
    }
}
