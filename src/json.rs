//! JSON objects read strictly: a repeated member is malformed at every level (RFC 8259 section 4 leaves
//! it open, RFC 7519 section 4 lets us refuse), and so is anything after the object. And objects written quickly.

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Why bytes are not a strict JSON object.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, not UTF-8, nested too deeply, or with a repeated member.
    #[error("malformed JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
}

/// Reads one JSON object.
///
/// # Errors
/// [`JsonError`] for anything but exactly one object without repeated members.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match value(bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err(JsonError::NotAnObject),
    }
}

/// Reads one JSON value. The library's own reader takes an object for another value if its first member has one of the
/// names it uses itself (`$serde_json::private::RawValue`).
///
/// # Errors
/// [`JsonError::Malformed`] for anything but exactly one value without repeated members.
pub fn value(bytes: &[u8]) -> Result<Value, JsonError> {
    let Strict(value) = match std::str::from_utf8(bytes) {
        // Looked through once, and not text by text.
        Ok(text) => serde_json::from_str(text),
        // Refused, and it says where.
        Err(_) => serde_json::from_slice(bytes),
    }?;
    Ok(value)
}

/// Reads an object within another value, for `deserialize_with`.
///
/// # Errors
/// For what is no object, or has a repeated member.
pub fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    match Strict::deserialize(deserializer)? {
        Strict(Value::Object(map)) => Ok(map),
        Strict(_) => Err(D::Error::custom(JsonError::NotAnObject)),
    }
}

/// Whether a number is the very one that was written: beyond 64 bits a whole number is read as the nearest
/// double, and others with it.
pub fn is_exact(number: &Number) -> bool {
    /// From here on doubles are further apart than whole numbers.
    const LARGE: f64 = 9_007_199_254_740_992.0;
    number.is_u64() || number.is_i64() || number.as_f64().is_some_and(|number| number.abs() < LARGE)
}

/// A way to a claim: a member name, or names joined by dots for nested objects. A claim whose own name
/// is the whole dotted text wins over the nested reading (`https://example.com/roles`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// From the configuration's text; `None` if a name in it is empty.
    pub fn parse(text: &str) -> Option<Self> {
        (!text.split('.').any(str::is_empty)).then(|| Self(text.to_owned()))
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value this path leads to. `null` counts as absent.
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let found = claims.get(&self.0).or_else(|| {
            let mut names = self.0.split('.');
            let first = claims.get(names.next()?)?;
            names.try_fold(first, |value, name| value.as_object()?.get(name))
        })?;
        (!found.is_null()).then_some(found)
    }
}

/// A JSON object that is written member by member, in their order. Most texts in our answers and tokens stand there as
/// they are, so they are copied and not gone through sign by sign.
pub struct ObjectWriter {
    text: Vec<u8>,
    sound: bool,
}

impl ObjectWriter {
    /// An object with room for so many bytes.
    pub fn new(room: usize) -> Self {
        Self { text: Vec::with_capacity(room), sound: true }
    }

    /// Adds a text.
    pub fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.put_text(text);
    }

    /// Adds a text of the program's own under a name of its own, neither with anything in it that JSON would escape.
    pub fn bare(&mut self, name: &'static str, text: &'static str) {
        debug_assert!(is_bare(name) && is_bare(text), "{name} {text}");
        self.text.push(if self.text.is_empty() { b'{' } else { b',' });
        for part in ["\"", name, "\":\"", text, "\""] {
            self.text.extend_from_slice(part.as_bytes());
        }
    }

    /// Adds a whole number.
    pub fn number(&mut self, name: &str, number: u64) {
        self.value(name, &number);
    }

    /// Adds what is neither.
    pub fn value(&mut self, name: &str, value: &impl Serialize) {
        self.name(name);
        self.put(value);
    }

    /// The object; `None` if a value had no form in JSON.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        let last = if self.text.is_empty() { &b"{}"[..] } else { b"}" };
        self.text.extend_from_slice(last);
        self.sound.then_some(self.text)
    }

    fn name(&mut self, name: &str) {
        self.text.push(if self.text.is_empty() { b'{' } else { b',' });
        self.put_text(name);
        self.text.push(b':');
    }

    fn put_text(&mut self, text: &str) {
        if is_bare(text) {
            self.text.push(b'"');
            self.text.extend_from_slice(text.as_bytes());
            self.text.push(b'"');
        } else {
            self.put(&text);
        }
    }

    fn put(&mut self, value: &impl Serialize) {
        self.sound &= serde_json::to_writer(&mut self.text, value).is_ok();
    }
}

/// Whether a text stands in a JSON string as it is (RFC 8259 section 7).
pub fn is_bare(text: &str) -> bool {
    // Without stopping at the first sign that does not, so that the compiler takes many at once.
    let odd = |b: u8| matches!(b, ..b' ' | b'"' | b'\\');
    !text.bytes().fold(false, |found, b| found | odd(b))
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = map.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is repeated"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_member_is_malformed_at_every_level() {
        assert!(object(br#"{"a":1,"a":2}"#).is_err());
        assert!(object(br#"{"x":[{"a":1,"\u0061":2}]}"#).is_err());
        assert!(object(br#"{"a":{"b":1},"b":1}"#).is_ok());
    }

    #[test]
    fn only_one_object_and_nothing_else_is_accepted() {
        for bad in ["", "[]", "1", "{} {}", "{}x", "{\"a\":NaN}", "\u{feff}{}", "{'a':1}"] {
            assert!(object(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(object(b"{\"a\":\xff}").is_err());
        assert!(object(" {\"a\":[1,-2,3.5,null,true,\"x\"]} ".as_bytes()).is_ok());
    }

    #[test]
    fn an_object_is_written_as_it_would_be_read() {
        let texts = ["", "plain", "\"", "\\", "\u{1f}", "\u{7f}", "\n", "é\u{2028}", "a\"b", "\u{10ffff}"];
        for text in texts {
            let mut writer = ObjectWriter::new(0);
            writer.text(text, text);
            writer.bare("b", "plain");
            writer.number("n", u64::MAX);
            writer.value("v", &serde_json::json!([text, {"x": null}]));
            let read = object(&writer.finish().unwrap()).unwrap();
            let expected =
                serde_json::json!({ text: text, "b": "plain", "n": u64::MAX, "v": [text, {"x": null}] });
            assert_eq!(Value::Object(read), expected);
        }
        assert_eq!(ObjectWriter::new(0).finish().unwrap(), b"{}");
    }

    #[test]
    fn what_has_no_form_in_json_spoils_the_object() {
        let mut writer = ObjectWriter::new(0);
        writer.value("v", &std::collections::HashMap::from([((), 1)]));
        writer.text("t", "x");
        assert_eq!(writer.finish(), None);
    }

    #[test]
    fn no_name_of_a_member_makes_another_value_of_its_object() {
        for name in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
            for text in ["[\"admin\"]", "x", "1"] {
                let plain = Value::Object([(name.to_owned(), text.into())].into_iter().collect());
                let written = serde_json::to_vec(&serde_json::json!({ "a": [plain] })).unwrap();
                assert_eq!(object(&written).unwrap()["a"][0], plain);
            }
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(object(deep.as_bytes()).is_err());
    }

    #[test]
    fn a_number_that_may_stand_for_others_is_not_exact() {
        let exact = |text: &str| {
            is_exact(object(format!("{{\"n\":{text}}}").as_bytes()).unwrap()["n"].as_number().unwrap())
        };
        for text in ["0", "-9223372036854775808", "18446744073709551615", "1.5", "-0.1", "9007199254740991.0"]
        {
            assert!(exact(text), "{text}");
        }
        for text in ["18446744073709551616", "-9223372036854775809", "9007199254740993.0", "1e300"] {
            assert!(!exact(text), "{text}");
        }
    }

    #[test]
    fn large_integers_keep_every_digit() {
        let map =
            object(br#"{"id":9007199254740993,"n":-9223372036854775808,"u":18446744073709551615}"#).unwrap();
        assert_eq!(map["id"].to_string(), "9007199254740993");
        assert_eq!(map["n"].to_string(), "-9223372036854775808");
        assert_eq!(map["u"].to_string(), "18446744073709551615");
    }
}
