//! Verified claims as header fields for the upstream.
//!
//! No two texts share a header value, and no value can be read as another header, as more elements than
//! there are, or as other text after an upstream trims it.

use crate::json;
use crate::json::ClaimPath;
use crate::token::claims::VerifiedClaims;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, InvalidHeaderName};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that the names and values of all identity headers of a request may have together: upstreams
/// commonly refuse requests whose header block is much longer.
pub const IDENTITY_BYTES: usize = 8 * 1024;

/// How a claim is written into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFormat {
    /// Text, number or boolean; a list joined by spaces, without its empty elements. `%`, non-ASCII (UTF-8),
    /// spaces at either end and spaces in list elements are percent-encoded.
    Text,
    /// A list joined by commas; commas in elements are percent-encoded, and what [`Self::Text`] encodes.
    Csv,
    /// JSON in ASCII, everything else escaped.
    Json,
    /// JSON as unpadded base64url (RFC 4648 section 5).
    Base64UrlJson,
}

/// What happens if the claim is absent, `null` or an empty list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentClaim {
    /// No header.
    Omit,
    /// A header with an empty value, for anonymous callers too.
    Empty,
    /// The request is denied. Anonymous callers have no claims and are not concerned.
    Reject,
}

/// A header's name, and how HTTP/1 upstreams see it spelled: some compare letter by letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName {
    name: HeaderName,
    spelled: Bytes,
}

impl FieldName {
    /// The name, whose spelling counts for nothing.
    pub const fn name(&self) -> &HeaderName {
        &self.name
    }

    /// The name as it was written.
    pub const fn spelled(&self) -> &Bytes {
        &self.spelled
    }
}

impl std::str::FromStr for FieldName {
    type Err = InvalidHeaderName;

    fn from_str(text: &str) -> Result<Self, InvalidHeaderName> {
        Ok(Self { name: text.parse()?, spelled: Bytes::copy_from_slice(text.as_bytes()) })
    }
}

/// One identity header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    /// The header.
    pub name: FieldName,
    /// The claim. `scope` and `roles` read the scopes and roles from wherever the issuer keeps them.
    pub claim: ClaimPath,
    /// How it is written.
    pub format: HeaderFormat,
    /// What to do without it.
    pub absent: AbsentClaim,
    /// Bytes the value may have; `None` leaves only [`IDENTITY_BYTES`].
    pub max_bytes: Option<usize>,
}

/// What becomes of the client's `Authorization` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationHeader {
    /// Removed.
    Strip,
    /// Forwarded as it came.
    Pass,
}

/// The header of the assertion: our own signed word about the caller, which an upstream can check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertionRule {
    /// The header.
    pub header: FieldName,
    /// How long each lives.
    pub lifetime: Duration,
}

/// Identity headers with their values, in order.
pub type Identity = Arc<[(FieldName, HeaderValue)]>;

/// What a route tells its upstream about the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPlan {
    /// The identity headers, in order. Routes that have the same share them.
    pub headers: Arc<[HeaderRule]>,
    /// The client's own token.
    pub authorization: AuthorizationHeader,
    /// The assertion, if there is to be one.
    pub assertion: Option<AssertionRule>,
}

/// A claim does not fit into its header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the claim for {header} cannot be forwarded: {why}")]
pub struct Unforwardable {
    /// The header.
    pub header: HeaderName,
    /// What is wrong.
    pub why: WhyUnforwardable,
}

/// What keeps a claim from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WhyUnforwardable {
    /// The rule rejects tokens without the claim.
    #[error("it is absent")]
    Absent,
    /// A control character, which a header cannot carry.
    #[error("it has a control character")]
    ControlCharacter,
    /// An object, or a list of lists or objects, has no form as text or csv.
    #[error("it is nested, which only the JSON formats can carry")]
    Nested,
    /// A number of which not every digit is known.
    #[error("it has a number of which not every digit is known")]
    Inexact,
    /// Longer than the rule or the budget of all headers allows.
    #[error("it is too long")]
    TooLong,
    /// A scope with a space in it, which would be two scopes in an assertion.
    #[error("a scope has a space in it")]
    AmbiguousScope,
}

impl Default for ForwardPlan {
    /// Subject, issuer, scopes and roles; the token itself stays here.
    fn default() -> Self {
        let text = |name: &str, claim| Some(HeaderRule::text(name.parse().ok()?, ClaimPath::parse(claim)?));
        let csv = |rule| HeaderRule { format: HeaderFormat::Csv, max_bytes: Some(4 * 1024), ..rule };
        let headers = [
            text("X-Auth-Subject", "sub"),
            text("X-Auth-Issuer", "iss"),
            text("X-Auth-Scopes", "scope"),
            text("X-Auth-Roles", "roles").map(csv),
        ];
        Self {
            headers: headers.into_iter().flatten().collect(),
            authorization: AuthorizationHeader::Strip,
            assertion: None,
        }
    }
}

impl HeaderRule {
    /// The short form `Name: claim`.
    pub const fn text(name: FieldName, claim: ClaimPath) -> Self {
        Self { name, claim, format: HeaderFormat::Text, absent: AbsentClaim::Omit, max_bytes: None }
    }

    /// The header's value, `None` for no header.
    fn value(&self, claims: &VerifiedClaims) -> Result<Option<String>, WhyUnforwardable> {
        let Some(claim) = Claim::find(&self.claim, claims) else {
            return match self.absent {
                AbsentClaim::Omit => Ok(None),
                AbsentClaim::Empty => Ok(Some(String::new())),
                AbsentClaim::Reject => Err(WhyUnforwardable::Absent),
            };
        };
        let value = match self.format {
            HeaderFormat::Text => claim.joined(' ')?,
            HeaderFormat::Csv => claim.joined(',')?,
            HeaderFormat::Json => ascii(&claim.json()?),
            HeaderFormat::Base64UrlJson => URL_SAFE_NO_PAD.encode(claim.json()?),
        };
        match self.max_bytes {
            Some(most) if value.len() > most => Err(WhyUnforwardable::TooLong),
            _ => Ok(Some(value)),
        }
    }
}

impl ForwardPlan {
    /// The identity headers of a verified caller: made once, and at hand when the same token comes again.
    ///
    /// # Errors
    /// [`Unforwardable`] if a claim cannot be carried by its header, or all are longer than
    /// [`IDENTITY_BYTES`].
    pub fn identity(&self, claims: &VerifiedClaims) -> Result<Identity, Unforwardable> {
        if let Some(made) = claims.kept::<Made>().filter(|made| Arc::ptr_eq(&made.rules, &self.headers)) {
            return Ok(Arc::clone(&made.identity));
        }
        let identity: Identity = self.make(claims)?.into();
        claims.keep(Made { rules: Arc::clone(&self.headers), identity: Arc::clone(&identity) });
        Ok(identity)
    }

    fn make(&self, claims: &VerifiedClaims) -> Result<Vec<(FieldName, HeaderValue)>, Unforwardable> {
        let mut headers = Vec::with_capacity(self.headers.len());
        let mut bytes = 0;
        for rule in self.headers.iter() {
            let unforwardable = |why| Unforwardable { header: rule.name.name.clone(), why };
            let Some(value) = rule.value(claims).map_err(unforwardable)? else { continue };
            let value = HeaderValue::try_from(value)
                .map_err(|_| unforwardable(WhyUnforwardable::ControlCharacter))?;
            bytes += size(&rule.name, &value);
            if bytes > IDENTITY_BYTES {
                return Err(unforwardable(WhyUnforwardable::TooLong));
            }
            headers.push((rule.name.clone(), value));
        }
        Ok(headers)
    }

    /// The identity headers of an anonymous caller: the empty ones.
    pub fn anonymous_identity(&self) -> Identity {
        let empty = self.headers.iter().filter(|rule| rule.absent == AbsentClaim::Empty);
        empty.map(|rule| (rule.name.clone(), HeaderValue::from_static(""))).collect()
    }
}

/// What was made for one list of rules.
struct Made {
    rules: Arc<[HeaderRule]>,
    identity: Identity,
}

/// Whether one more header fits beside the others.
pub(super) fn fits(
    headers: &Identity,
    name: &FieldName,
    value: &HeaderValue,
) -> Result<(), WhyUnforwardable> {
    let bytes: usize = headers.iter().map(|(name, value)| size(name, value)).sum();
    if bytes + size(name, value) > IDENTITY_BYTES { Err(WhyUnforwardable::TooLong) } else { Ok(()) }
}

fn size(name: &FieldName, value: &HeaderValue) -> usize {
    name.spelled.len() + value.len()
}

/// A claim that is there.
enum Claim<'a> {
    /// Scopes or roles.
    Words(&'a [String]),
    /// Any other.
    Value(&'a Value),
}

impl<'a> Claim<'a> {
    fn find(path: &ClaimPath, claims: &'a VerifiedClaims) -> Option<Self> {
        let words = |words: &'a [String]| (!words.is_empty()).then_some(Self::Words(words));
        match path.as_str() {
            "scope" => words(claims.scopes()),
            "roles" => words(claims.roles()),
            _ => match path.find(claims.all())? {
                Value::Array(elements) if elements.is_empty() => None,
                value => Some(Self::Value(value)),
            },
        }
    }

    fn joined(&self, separator: char) -> Result<String, WhyUnforwardable> {
        let mut text = String::new();
        match self {
            Self::Words(words) => {
                for (n, word) in words.iter().enumerate() {
                    if begin_element(&mut text, n, word.is_empty(), separator) {
                        push_encoded(&mut text, word, Some(separator))?;
                    }
                }
            }
            Self::Value(Value::Array(elements)) => {
                for (n, element) in elements.iter().enumerate() {
                    if begin_element(&mut text, n, *element == "", separator) {
                        push_scalar(&mut text, element, Some(separator))?;
                    }
                }
            }
            // One text is no list: its spaces are its own, but in csv it is a list of one.
            Self::Value(value) => push_scalar(&mut text, value, (separator == ',').then_some(separator))?,
        }
        Ok(text)
    }

    fn json(&self) -> Result<String, WhyUnforwardable> {
        match self {
            Self::Words(words) => Ok(Value::from(words.to_vec()).to_string()),
            Self::Value(value) if is_exact(value) => Ok(value.to_string()),
            Self::Value(_) => Err(WhyUnforwardable::Inexact),
        }
    }
}

/// Whether every number in a value is the one the token wrote.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => json::is_exact(number),
        Value::Array(elements) => elements.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Parts an element from those before it. Empty words between spaces cannot be told apart, so there are
/// none; between commas they can.
fn begin_element(text: &mut String, element: usize, empty: bool, separator: char) -> bool {
    if separator == ' ' && empty {
        return false;
    }
    if element > 0 && !(separator == ' ' && text.is_empty()) {
        text.push(separator);
    }
    true
}

fn push_scalar(text: &mut String, value: &Value, separator: Option<char>) -> Result<(), WhyUnforwardable> {
    match value {
        Value::String(value) => push_encoded(text, value, separator)?,
        Value::Number(number) if json::is_exact(number) => text.push_str(&number.to_string()),
        Value::Number(_) => return Err(WhyUnforwardable::Inexact),
        Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
        Value::Null | Value::Array(_) | Value::Object(_) => return Err(WhyUnforwardable::Nested),
    }
    Ok(())
}

/// Appends a text with `%`, non-ASCII, the separator and spaces at either end percent-encoded.
fn push_encoded(text: &mut String, value: &str, separator: Option<char>) -> Result<(), WhyUnforwardable> {
    let last = value.len().saturating_sub(1);
    for (at, character) in value.char_indices() {
        if character.is_control() {
            return Err(WhyUnforwardable::ControlCharacter);
        }
        // HTTP trims spaces at the ends of a value (RFC 9110 section 5.5), list readers those of elements.
        let trimmed = character == ' ' && (at == 0 || at == last);
        if character == '%' || !character.is_ascii() || Some(character) == separator || trimmed {
            let mut bytes = [0; 4];
            text.extend(percent_encoding::percent_encode(
                character.encode_utf8(&mut bytes).as_bytes(),
                percent_encoding::NON_ALPHANUMERIC,
            ));
        } else {
            text.push(character);
        }
    }
    Ok(())
}

/// JSON text with everything but printable ASCII as `\u` escapes (RFC 8259 section 7). Such characters
/// can only stand within its strings.
fn ascii(json: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~') {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn rule(claim: &str, format: HeaderFormat) -> HeaderRule {
        let claim = ClaimPath::parse(claim).unwrap();
        HeaderRule { format, ..HeaderRule::text("x-auth-claim".parse().unwrap(), claim) }
    }

    fn written(claim: &Value, format: HeaderFormat) -> Result<Option<String>, WhyUnforwardable> {
        rule("c", format).value(&VerifiedClaims::sample("corp", &json!({ "c": claim })))
    }

    #[track_caller]
    fn writes(claim: &Value, format: HeaderFormat, expected: &str) {
        assert_eq!(written(claim, format), Ok(Some(expected.to_owned())), "{claim}");
    }

    #[test]
    fn text_is_plain_where_it_can_be_and_percent_encoded_where_not() {
        for (claim, expected) in [
            (json!("orders:read orders:write"), "orders:read orders:write"),
            (json!("a,b;c=\"d\""), "a,b;c=\"d\""),
            (json!("100%"), "100%25"),
            (json!("%41"), "%2541"),
            (json!("Jörg"), "J%C3%B6rg"),
            (json!("\u{10a}x"), "%C4%8Ax"),
            (json!(" a  b "), "%20a  b%20"),
            (json!(9_007_199_254_740_993_u64), "9007199254740993"),
            (json!(-5), "-5"),
            (json!(1.5), "1.5"),
            (json!(true), "true"),
            (json!(["a", "b c", 3]), "a b%20c 3"),
            (json!(["", "a", ""]), "a"),
            (json!(""), ""),
        ] {
            writes(&claim, HeaderFormat::Text, expected);
        }
    }

    #[test]
    fn a_list_in_csv_has_as_many_elements_as_the_claim() {
        for (claim, expected) in [
            (json!(["user", "admin"]), "user,admin"),
            (json!(["user,admin"]), "user%2Cadmin"),
            (json!("user,admin"), "user%2Cadmin"),
            (json!([" a", "b "]), "%20a,b%20"),
            (json!(["x y", "50%", "ü"]), "x y,50%25,%C3%BC"),
            (json!(["", "a"]), ",a"),
        ] {
            writes(&claim, HeaderFormat::Csv, expected);
        }
    }

    #[test]
    fn control_characters_and_nested_values_have_no_form_as_text() {
        for claim in ["a\nb", "a\r\nX-Admin: 1", "\0", "tab\t", "\u{7f}", "\u{85}"] {
            for claim in [json!(claim), json!([claim])] {
                for format in [HeaderFormat::Text, HeaderFormat::Csv] {
                    assert_eq!(written(&claim, format), Err(WhyUnforwardable::ControlCharacter), "{claim}");
                }
            }
        }
        for claim in [json!({"a": 1}), json!([["a"]]), json!([{"a": 1}]), json!([null])] {
            for format in [HeaderFormat::Text, HeaderFormat::Csv] {
                assert_eq!(written(&claim, format), Err(WhyUnforwardable::Nested), "{claim}");
            }
        }
    }

    #[test]
    fn a_number_is_told_as_it_was_written_or_not_at_all() {
        let read = |number: &str| {
            let claims = format!("{{\"c\":{number}}}");
            Value::Object(json::object(claims.as_bytes()).unwrap())["c"].clone()
        };
        let formats =
            [HeaderFormat::Text, HeaderFormat::Csv, HeaderFormat::Json, HeaderFormat::Base64UrlJson];
        for number in ["9007199254740993", "-9223372036854775808", "18446744073709551615", "0.1", "-1.5"] {
            for format in formats {
                let expected = match format {
                    HeaderFormat::Base64UrlJson => URL_SAFE_NO_PAD.encode(number),
                    _ => number.to_owned(),
                };
                writes(&read(number), format, &expected);
            }
        }
        for number in ["18446744073709551616", "-9223372036854775809", "123456789012345678901", "1e20"] {
            for format in formats {
                for claim in [read(number), read(&format!("[{number}]"))] {
                    assert_eq!(written(&claim, format), Err(WhyUnforwardable::Inexact), "{claim}");
                }
            }
            let nested = read(&format!("{{\"a\":[{number}]}}"));
            assert_eq!(written(&nested, HeaderFormat::Json), Err(WhyUnforwardable::Inexact));
        }
    }

    #[test]
    fn json_is_ascii_and_keeps_its_value() {
        let claim = json!({"n": "J\u{f6}rg \u{1f600}\u{7f}\n", "big": 9_007_199_254_740_993_u64});
        let text = written(&claim, HeaderFormat::Json).unwrap().unwrap();
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text}");
        assert!(text.contains("J\\u00f6rg \\ud83d\\ude00\\u007f\\n"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), claim);
        let encoded = written(&claim, HeaderFormat::Base64UrlJson).unwrap().unwrap();
        let decoded = URL_SAFE_NO_PAD.decode(encoded).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), claim);
    }

    #[test]
    fn an_absent_claim_is_omitted_empty_or_rejected() {
        for claims in [json!({}), json!({"c": null}), json!({"c": []})] {
            let claims = VerifiedClaims::sample("corp", &claims);
            let value = |absent| HeaderRule { absent, ..rule("c", HeaderFormat::Text) }.value(&claims);
            assert_eq!(value(AbsentClaim::Omit), Ok(None));
            assert_eq!(value(AbsentClaim::Empty), Ok(Some(String::new())));
            assert_eq!(value(AbsentClaim::Reject), Err(WhyUnforwardable::Absent));
        }
    }

    #[test]
    fn an_anonymous_caller_gets_only_the_empty_headers() {
        let rules = [AbsentClaim::Omit, AbsentClaim::Empty, AbsentClaim::Reject].map(|absent| {
            let name = format!("x-{absent:?}").parse().unwrap();
            HeaderRule { name, absent, ..rule("c", HeaderFormat::Text) }
        });
        let plan = ForwardPlan { headers: rules.into(), ..ForwardPlan::default() };
        let empty = ("x-Empty".parse().unwrap(), HeaderValue::from_static(""));
        assert_eq!(plan.anonymous_identity(), [empty].into());
    }

    #[test]
    fn what_was_made_for_one_list_of_headers_is_at_hand_and_serves_no_other() {
        let claims = VerifiedClaims::sample("corp", &json!({"sub": "u1", "email": "e"}));
        let plan = ForwardPlan::default();
        let made = plan.identity(&claims).unwrap();
        assert!(Arc::ptr_eq(&made, &plan.clone().identity(&claims).unwrap()));
        let email = HeaderRule::text("X-Email".parse().unwrap(), ClaimPath::parse("email").unwrap());
        let other = ForwardPlan { headers: [email].into(), ..plan.clone() };
        let header = |identity: Identity| identity[0].0.name().to_string();
        assert_eq!(header(other.identity(&claims).unwrap()), "x-email");
        assert_eq!(header(plan.identity(&claims).unwrap()), "x-auth-subject");
    }

    #[test]
    fn by_default_subject_issuer_scopes_and_roles_are_told() {
        let mut claims = VerifiedClaims::sample(
            "corp",
            &json!({"sub": "u1", "iss": "https://id.example", "scope": "a b", "roles": ["r,1", "s"]}),
        );
        let told = |claims: &VerifiedClaims| -> Vec<String> {
            let headers = ForwardPlan::default().identity(claims).unwrap();
            let spelled = |name: &FieldName| String::from_utf8(name.spelled().to_vec()).unwrap();
            headers.iter().map(|(name, v)| format!("{}: {}", spelled(name), v.to_str().unwrap())).collect()
        };
        assert_eq!(
            told(&claims),
            [
                "X-Auth-Subject: u1",
                "X-Auth-Issuer: https://id.example",
                "X-Auth-Scopes: a b",
                "X-Auth-Roles: r%2C1,s"
            ]
        );
        claims = VerifiedClaims::sample("corp", &json!({"sub": "u1"}));
        assert_eq!(told(&claims), ["X-Auth-Subject: u1"]);
    }

    #[test]
    fn too_long_is_refused_and_never_cut() {
        let claims = |len: usize| VerifiedClaims::sample("corp", &json!({"c": "x".repeat(len)}));
        let rule = HeaderRule { max_bytes: Some(16), ..rule("c", HeaderFormat::Text) };
        assert!(rule.value(&claims(16)).unwrap().is_some());
        assert_eq!(rule.value(&claims(17)), Err(WhyUnforwardable::TooLong));

        let half = HeaderRule { max_bytes: None, ..rule };
        let plan = ForwardPlan { headers: [half.clone(), half].into(), ..ForwardPlan::default() };
        let fits = IDENTITY_BYTES / 2 - "x-auth-claim".len();
        assert_eq!(plan.identity(&claims(fits)).unwrap().len(), 2);
        assert_eq!(plan.identity(&claims(fits + 1)).unwrap_err().why, WhyUnforwardable::TooLong);
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_printable_ascii_and_survives_trimming(text in ".*", list: bool) {
            let claim = if list { json!([text, "x", text]) } else { json!(text) };
            for format in
                [HeaderFormat::Text, HeaderFormat::Csv, HeaderFormat::Json, HeaderFormat::Base64UrlJson]
            {
                if let Ok(Some(value)) = written(&claim, format) {
                    prop_assert!(value.bytes().all(|b| (0x20..0x7f).contains(&b)));
                    prop_assert_eq!(value.trim(), value.as_str());
                }
            }
        }

        #[test]
        fn csv_splits_back_into_the_very_elements(words in prop::collection::vec("[^\\p{Cc}]*", 1..5)) {
            let value = written(&json!(words), HeaderFormat::Csv).unwrap().unwrap();
            let read: Vec<_> = value
                .split(',')
                .map(|word| percent_encoding::percent_decode_str(word.trim()).decode_utf8().unwrap().into_owned())
                .collect();
            prop_assert_eq!(read, words);
        }

        #[test]
        fn two_subjects_never_share_a_value(one in "[ -~]{0,6}|\\PC{0,3}", other in "[ -~]{0,6}|\\PC{0,3}") {
            let value = |text: &str| written(&json!(text), HeaderFormat::Text);
            if let (Ok(first), Ok(second)) = (value(&one), value(&other)) {
                prop_assert_eq!(first == second, one == other);
            }
        }
    }
}
