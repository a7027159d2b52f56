//! Verified claims as header fields for the upstream.
//!
//! No two different claims share a header value by accident of encoding, and no value can be read as
//! another header, as more elements than there are, or as other text after an upstream trims it.

use crate::token::claims::{ClaimPath, VerifiedClaims};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

/// Bytes that the names and values of all identity headers of a request may have together: upstreams
/// commonly refuse requests whose header block is much longer.
pub const IDENTITY_BYTES: usize = 8 * 1024;

/// How a claim is written into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFormat {
    /// Text, number or boolean; a list joined by spaces. `%`, non-ASCII (UTF-8), spaces at either end and
    /// spaces in list elements are percent-encoded.
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

/// One identity header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    /// The header.
    pub name: HeaderName,
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

/// What a route tells its upstream about the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPlan {
    /// The identity headers, in order.
    pub headers: Vec<HeaderRule>,
    /// The client's own token.
    pub authorization: AuthorizationHeader,
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
    /// Longer than the rule or the budget of all headers allows.
    #[error("it is too long")]
    TooLong,
}

impl Default for ForwardPlan {
    /// Subject, issuer, scopes and roles; the token itself stays here.
    fn default() -> Self {
        let text =
            |name, claim| Some(HeaderRule::text(HeaderName::from_static(name), ClaimPath::parse(claim)?));
        let csv = |rule| HeaderRule { format: HeaderFormat::Csv, max_bytes: Some(4 * 1024), ..rule };
        let headers = [
            text("x-auth-subject", "sub"),
            text("x-auth-issuer", "iss"),
            text("x-auth-scopes", "scope"),
            text("x-auth-roles", "roles").map(csv),
        ];
        Self { headers: headers.into_iter().flatten().collect(), authorization: AuthorizationHeader::Strip }
    }
}

impl HeaderRule {
    /// The short form `Name: claim`.
    pub const fn text(name: HeaderName, claim: ClaimPath) -> Self {
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
            HeaderFormat::Json => ascii(&claim.json()),
            HeaderFormat::Base64UrlJson => URL_SAFE_NO_PAD.encode(claim.json()),
        };
        match self.max_bytes {
            Some(most) if value.len() > most => Err(WhyUnforwardable::TooLong),
            _ => Ok(Some(value)),
        }
    }
}

impl ForwardPlan {
    /// The identity headers of a verified caller.
    ///
    /// # Errors
    /// [`Unforwardable`] if a claim cannot be carried by its header, or all are longer than
    /// [`IDENTITY_BYTES`].
    pub fn identity(&self, claims: &VerifiedClaims) -> Result<Vec<(HeaderName, HeaderValue)>, Unforwardable> {
        let mut headers = Vec::with_capacity(self.headers.len());
        let mut left = IDENTITY_BYTES;
        for rule in &self.headers {
            let unforwardable = |why| Unforwardable { header: rule.name.clone(), why };
            let Some(value) = rule.value(claims).map_err(unforwardable)? else { continue };
            left = left
                .checked_sub(rule.name.as_str().len() + value.len())
                .ok_or_else(|| unforwardable(WhyUnforwardable::TooLong))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| unforwardable(WhyUnforwardable::ControlCharacter))?;
            headers.push((rule.name.clone(), value));
        }
        Ok(headers)
    }

    /// The identity headers of an anonymous caller: the empty ones.
    pub fn anonymous_identity(&self) -> Vec<(HeaderName, HeaderValue)> {
        let empty = self.headers.iter().filter(|rule| rule.absent == AbsentClaim::Empty);
        empty.map(|rule| (rule.name.clone(), HeaderValue::from_static(""))).collect()
    }
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
                    push_separator(&mut text, n, separator);
                    push_encoded(&mut text, word, Some(separator))?;
                }
            }
            Self::Value(Value::Array(elements)) => {
                for (n, element) in elements.iter().enumerate() {
                    push_separator(&mut text, n, separator);
                    push_scalar(&mut text, element, Some(separator))?;
                }
            }
            // One text is no list: its spaces are its own, but in csv it is a list of one.
            Self::Value(value) => push_scalar(&mut text, value, (separator == ',').then_some(separator))?,
        }
        Ok(text)
    }

    fn json(&self) -> String {
        match self {
            Self::Words(words) => Value::from(words.to_vec()).to_string(),
            Self::Value(value) => value.to_string(),
        }
    }
}

fn push_separator(text: &mut String, element: usize, separator: char) {
    if element > 0 {
        text.push(separator);
    }
}

fn push_scalar(text: &mut String, value: &Value, separator: Option<char>) -> Result<(), WhyUnforwardable> {
    match value {
        Value::String(value) => push_encoded(text, value, separator)?,
        Value::Number(number) => text.push_str(&number.to_string()),
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
