//! Taking a token apart (RFC 7515 section 7.1): canonical base64url, strict JSON, and only the header
//! parameters we understand. Nothing here is verified yet.

use crate::json;
use crate::key_set::Algorithm;
use crate::reason::Reason;
use base64::Engine as _;
use base64::engine::Simd;
use base64::engine::general_purpose::NO_PAD;
use serde_json::Value;
use std::cell::RefCell;
use std::sync::LazyLock;

/// Many characters at a time where the machine can: a token's parts are long.
static BASE64URL: LazyLock<Simd> = LazyLock::new(|| Simd::url_safe(NO_PAD));

thread_local! {
    /// The header that this thread read last, and its text.
    static LAST: RefCell<Option<(Box<str>, Header)>> = const { RefCell::new(None) };
}

/// A JWS taken apart.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) header: Header,
    /// What it carries; nobody has looked into it.
    pub(super) payload: Vec<u8>,
    /// What the signature is over: the first two parts as they came.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// The header parameters that count. Keys and addresses of keys in a header (`jwk`, `jku`, `x5c`, `x5u`)
/// are never looked at: whoever made the token could put their own there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) kind: Kind,
}

/// What `typ` says the token is (RFC 7515 section 4.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unsaid,
    Jwt,
    AccessToken,
    Other,
}

/// Takes a JWS in compact form apart. The header is read first: of a token that it condemns nothing else is.
pub(super) fn parse(token: &str) -> Result<Jws<'_>, Reason> {
    let (signed, signature) = split_last(token).ok_or(Reason::MalformedToken)?;
    let (header, payload) = signed.split_once('.').ok_or(Reason::MalformedToken)?;
    // A further dot (five parts are a JWE) is no base64url.
    let header = remembered(header)?;
    let (payload, signature) = (decode(payload)?, decode(signature)?);
    Ok(Jws { header, payload, signed: signed.as_bytes(), signature })
}

/// At the last dot, which is far into the token.
fn split_last(token: &str) -> Option<(&str, &str)> {
    let dot = memchr::memrchr(b'.', token.as_bytes())?;
    Some((token.get(..dot)?, token.get(dot + 1..)?))
}

/// Without padding and with zero trailing bits, so that one token has one spelling (RFC 4648 section 3.5).
fn decode(part: &str) -> Result<Vec<u8>, Reason> {
    BASE64URL.decode(part).map_err(|_| Reason::MalformedToken)
}

/// The header that a part of a token is. All tokens of one key begin alike, so the last is remembered.
fn remembered(part: &str) -> Result<Header, Reason> {
    LAST.with_borrow_mut(|last| match last {
        Some((text, header)) if **text == *part => Ok(header.clone()),
        _ => {
            let header = header(&decode(part)?)?;
            *last = Some((part.into(), header.clone()));
            Ok(header)
        }
    })
}

fn header(header: &[u8]) -> Result<Header, Reason> {
    let header = json::object(header).map_err(|_| Reason::MalformedToken)?;
    // We understand no extension, so a critical one is refused (RFC 7515 section 4.1.11), and so is an
    // unencoded payload (RFC 7797), which has to be critical.
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Reason::MalformedToken);
    }
    let text = |name| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Reason::MalformedToken),
    };
    let (alg, kid, typ) = (text("alg")?.ok_or(Reason::MalformedToken)?, text("kid")?, text("typ")?);
    Ok(Header {
        algorithm: Algorithm::parse(alg).ok_or(Reason::UnsupportedAlgorithm)?,
        kid: kid.map(ToOwned::to_owned),
        kind: typ.map_or(Kind::Unsaid, kind),
    })
}

fn kind(typ: &str) -> Kind {
    let typ = typ.to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "jwt" => Kind::Jwt,
        "at+jwt" => Kind::AccessToken,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::registered::Claimed;
    use super::*;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    fn refusal(token: &str) -> Option<Reason> {
        parse(token).and_then(|jws| Claimed::find(&jws.payload).map(drop)).err()
    }

    fn header_refusal(header: &str) -> Option<Reason> {
        refusal(&token(header, "{}"))
    }

    #[test]
    fn the_example_of_rfc_7515_is_taken_apart() {
        // RFC 7515 appendix A.1; the header holds a line break between its members.
        let example = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
            eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
            dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let jws = parse(example).unwrap();
        assert_eq!(jws.header, Header { algorithm: Algorithm::Hs256, kid: None, kind: Kind::Jwt });
        assert_eq!(json::object(&jws.payload).unwrap()["iss"], "joe");
        assert_eq!(jws.signed, &example.as_bytes()[..example.rfind('.').unwrap()]);
        assert_eq!(jws.signature.len(), 32);
    }

    #[test]
    fn a_header_that_is_remembered_is_that_of_no_other_token() {
        let headers =
            [r#"{"alg":"RS256","kid":"a"}"#, r#"{"alg":"RS256","kid":"b"}"#, r#"{"alg":"ES256"}"#, "{}"];
        let expected = headers.map(|text| header(text.as_bytes()));
        for (first, second) in (0..4).flat_map(|first| (0..4).map(move |second| (first, second))) {
            for one in [first, second, second, first] {
                let token = token(headers[one], "{}");
                assert_eq!(parse(&token).map(|jws| jws.header), expected[one]);
            }
        }
    }

    #[test]
    fn every_other_shape_is_malformed() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        assert_eq!(refusal(&good), None);
        let (header, rest) = good.split_once('.').unwrap();
        let bad = [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            header.into(),
            format!("{header}."),
            format!("{header}.."),
            format!(".{rest}"),
            format!("{good}."),
            format!("{good}.AAAA"),
            format!("{good}.AAAA.AAAA"),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}="),
            good.replace('.', ".."),
            good.replacen('.', "=.", 1),
            good.replace("AAAA", "AA+A"),
            good.replace("AAAA", "AA/A"),
            good.replace("AAAA", "AAA A"),
            good.replace("AAAA", "AAAAA"),
            "prt_abc".into(),
            "prt_a.b.c".into(),
            "\u{1F511}.\u{1F511}.\u{1F511}".into(),
        ];
        for token in &bad {
            assert_eq!(refusal(token), Some(Reason::MalformedToken), "{token:?}");
        }
    }

    #[test]
    fn trailing_bits_make_no_second_spelling() {
        let good = token(r#"{"alg":"RS256"}"#, "{}").replace("AAAA", "AA");
        assert_eq!(refusal(&good), None);
        for last in ["AB", "AP", "Af"] {
            assert_eq!(refusal(&good.replace(".AA", &format!(".{last}"))), Some(Reason::MalformedToken));
        }
    }

    proptest! {
        #[test]
        fn the_same_text_is_base64url_however_many_characters_are_read_at_a_time(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in 0_usize..4,
            (place, other) in any::<(prop::sample::Index, char)>(),
        ) {
            let mut text = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert_eq!(decode(&text), Ok(bytes));
            text.truncate(text.len().saturating_sub(cut));
            prop_assert_eq!(decode(&text).ok(), URL_SAFE_NO_PAD.decode(&text).ok());
            text.insert(place.index(text.len() + 1), other);
            prop_assert_eq!(decode(&text).ok(), URL_SAFE_NO_PAD.decode(&text).ok());
        }
    }

    #[test]
    fn every_byte_at_every_place_is_told_from_base64url() {
        let text = "A".repeat(160);
        for place in 0..text.len() {
            for byte in 0_u8..128 {
                let mut other = text.clone().into_bytes();
                other[place] = byte;
                let other = String::from_utf8(other).unwrap();
                assert_eq!(decode(&other).ok(), URL_SAFE_NO_PAD.decode(&other).ok(), "{place} {byte}");
            }
        }
    }

    #[test]
    fn no_spelling_of_none_is_an_algorithm() {
        for alg in ["none", "None", "NONE", "nOnE", "", " ", "none ", "rs256", "RS256\\u0000", "HS2566"] {
            let header = format!(r#"{{"alg":"{alg}"}}"#);
            assert_eq!(header_refusal(&header), Some(Reason::UnsupportedAlgorithm), "{alg:?}");
        }
        for header in
            [r#"{"alg":null}"#, r#"{"alg":["RS256"]}"#, r#"{"alg":256}"#, "{}", r#"{"ALG":"RS256"}"#]
        {
            assert_eq!(header_refusal(header), Some(Reason::MalformedToken), "{header}");
        }
    }

    #[test]
    fn a_header_we_do_not_wholly_understand_is_refused() {
        for header in [
            r#"{"alg":"RS256","crit":["exp"]}"#,
            r#"{"alg":"RS256","crit":[]}"#,
            r#"{"alg":"RS256","crit":null}"#,
            r#"{"alg":"RS256","b64":false}"#,
            r#"{"alg":"RS256","b64":true}"#,
            r#"{"alg":"RS256","crit":["b64"],"b64":false}"#,
            r#"{"alg":"RS256","kid":1}"#,
            r#"{"alg":"RS256","kid":null}"#,
            r#"{"alg":"RS256","typ":1}"#,
            r#"{"alg":"RS256","alg":"RS256"}"#,
            r#"{"alg":"RS256","\u0061lg":"none"}"#,
            r#"{"alg":"none","alg":"RS256"}"#,
            r#"[{"alg":"RS256"}]"#,
            r#"{"alg":"RS256"} "#.repeat(2).as_str(),
            "\u{feff}{\"alg\":\"RS256\"}",
        ] {
            assert_eq!(header_refusal(header), Some(Reason::MalformedToken), "{header}");
        }
    }

    #[test]
    fn keys_in_a_header_are_passed_over() {
        let header =
            r#"{"alg":"RS256","jwk":{"kty":"oct"},"jku":"http://evil.example","x5u":"x","x5c":["y"]}"#;
        assert_eq!(header_refusal(header), None);
    }

    #[test]
    fn typ_is_read_with_or_without_application_in_any_case() {
        let kind = |typ: &str| {
            parse(&token(&format!(r#"{{"alg":"RS256","typ":"{typ}"}}"#), "{}")).unwrap().header.kind
        };
        assert_eq!(kind("JWT"), Kind::Jwt);
        assert_eq!(kind("application/jwt"), Kind::Jwt);
        assert_eq!(kind("at+JWT"), Kind::AccessToken);
        assert_eq!(kind("Application/AT+jwt"), Kind::AccessToken);
        for other in ["", "logout+jwt", "dpop+jwt", "JWT ", "application/application/jwt", "rt+jwt", "ID"] {
            assert_eq!(kind(other), Kind::Other, "{other:?}");
        }
        assert_eq!(parse(&token(r#"{"alg":"RS256"}"#, "{}")).unwrap().header.kind, Kind::Unsaid);
    }
}
