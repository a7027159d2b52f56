//! The fields of a request's JSON body, with strict types.

use super::Body;
use super::fault::Fault;
use crate::json;
use http::{HeaderMap, header};
use serde_json::{Map, Value};

/// A request's fields; none, if it had no body. Unknown ones are ignored.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body. An empty one needs no media type.
    pub(super) fn read(headers: &HeaderMap, body: &Body) -> Result<Self, Fault> {
        let bytes = match body {
            Body::Bytes(bytes) => bytes,
            Body::TooLarge => return Err(Fault::BodyTooLarge),
            Body::TimedOut => return Err(Fault::BodyTimeout),
        };
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        if !is_json(headers) {
            return Err(Fault::UnsupportedMediaType);
        }
        json::object(bytes).map(Self).map_err(|_| Fault::Malformed("The body must be one JSON object"))
    }

    /// A field that must be a string.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Fault::Malformed("A field has the wrong type")),
        }
    }

    /// The refresh token, in either spelling.
    pub(super) fn refresh_token(&self) -> Result<Option<&str>, Fault> {
        match (self.text("refreshToken")?, self.text("refresh_token")?) {
            (Some(one), Some(other)) if one != other => {
                Err(Fault::Malformed("refreshToken and refresh_token differ"))
            }
            (one, other) => Ok(one.or(other)),
        }
    }
}

/// Exactly one `Content-Type`, `application/json` with or without parameters. Pages cannot send it
/// cross-site without a preflight.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderValue;

    fn headers(types: &[&'static str]) -> HeaderMap {
        types.iter().map(|value| (header::CONTENT_TYPE, HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    fn read(body: &'static str) -> Result<Fields, Fault> {
        Fields::read(&headers(&["application/json"]), &Body::Bytes(Bytes::from_static(body.as_bytes())))
    }

    #[test]
    fn only_one_json_media_type_is_json() {
        for good in ["application/json", "Application/JSON; charset=utf-8", " application/json;x"] {
            assert!(is_json(&headers(&[good])), "{good}");
        }
        for bad in [
            &[][..],
            &["text/plain"],
            &["application/jsonp"],
            &["text/plain; application/json"],
            &["application/x-www-form-urlencoded"],
            &["application/json, text/plain"],
            &["application/json", "text/plain"],
        ] {
            assert!(!is_json(&headers(bad)), "{bad:?}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_type_is_malformed_and_never_absent() {
        for body in [r#"{"refreshToken":null}"#, r#"{"refreshToken":1}"#, r#"{"refresh_token":["x"]}"#] {
            assert!(matches!(read(body).unwrap().refresh_token(), Err(Fault::Malformed(_))), "{body}");
        }
        assert!(matches!(read(r#"{"a":1,"a":1}"#), Err(Fault::Malformed(_))));
        assert!(matches!(read("[]"), Err(Fault::Malformed(_))));
    }

    #[test]
    fn both_spellings_are_read_and_may_not_contradict() {
        assert_eq!(read(r#"{"refresh_token":"x"}"#).unwrap().refresh_token(), Ok(Some("x")));
        assert_eq!(
            read(r#"{"refreshToken":"x","refresh_token":"x"}"#).unwrap().refresh_token(),
            Ok(Some("x"))
        );
        let both = read(r#"{"refreshToken":"x","refresh_token":"y"}"#).unwrap();
        assert!(matches!(both.refresh_token(), Err(Fault::Malformed(_))));
    }

    #[test]
    fn an_empty_body_needs_no_media_type_and_any_other_does() {
        let form = headers(&["application/x-www-form-urlencoded"]);
        assert!(Fields::read(&form, &Body::Bytes(Bytes::new())).is_ok());
        let body = Body::Bytes(Bytes::from_static(b"{}"));
        assert_eq!(Fields::read(&form, &body).err(), Some(Fault::UnsupportedMediaType));
        assert_eq!(Fields::read(&form, &Body::TooLarge).err(), Some(Fault::BodyTooLarge));
        assert_eq!(Fields::read(&form, &Body::TimedOut).err(), Some(Fault::BodyTimeout));
    }
}
