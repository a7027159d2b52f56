//! The registered claims (RFC 7519 section 4.1), read with their types: a claim that is present with the
//! wrong one is a refusal, whether the claim is required or not. They are read where they stand in the payload, so that
//! of a forged token no more is made than it takes to refuse it.

use crate::clock::Timestamp;
use crate::json::ClaimPath;
use crate::reason::Reason;
use crate::session::id::{SessionId, SessionRef, UserKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::time::Duration;

type Claims = Map<String, Value>;

/// The claims that every access token is judged by, each still JSON. The others are passed over, and a repeated one
/// of them is not noticed.
#[derive(Debug, Deserialize)]
pub(super) struct Claimed<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    iss: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    sub: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    aud: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    exp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    nbf: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    iat: Option<&'a RawValue>,
}

/// `null` is a value too, and of the wrong type.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Those claims, with their types.
#[derive(Debug, PartialEq)]
pub(super) struct Registered {
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) expires: Timestamp,
    not_before: Timestamp,
    issued: Option<Timestamp>,
}

impl<'a> Claimed<'a> {
    /// Finds them in a payload.
    pub(super) fn find(payload: &'a [u8]) -> Result<Self, Reason> {
        let text = std::str::from_utf8(payload).map_err(|_| Reason::MalformedToken)?;
        // What is read here would be found in an array too, by its place.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(Reason::MalformedToken);
        }
        serde_json::from_str(text).map_err(|_| Reason::MalformedToken)
    }

    /// The `iss`, which decides what everything else is judged by.
    pub(super) fn issuer(&self) -> Result<Cow<'a, str>, Reason> {
        let issuer = self.iss.ok_or(Reason::MissingClaim)?.get();
        match serde_json::from_str(issuer) {
            Ok(bare) => Ok(Cow::Borrowed(bare)),
            // With an escape in it, it stands nowhere as it is meant.
            Err(_) => typed(issuer).map(Cow::Owned),
        }
    }

    /// Reads the others; `exp` and `aud` must be there.
    pub(super) fn read(&self) -> Result<Registered, Reason> {
        Ok(Registered {
            subject: self.sub.map_or(Ok(String::new()), |subject| typed(subject.get()))?,
            expires: date(self.exp)?.ok_or(Reason::MissingClaim)?,
            not_before: date(self.nbf)?.unwrap_or_default(),
            issued: date(self.iat)?,
            audiences: match self.aud.ok_or(Reason::MissingClaim)?.get() {
                one if one.starts_with('"') => vec![typed(one)?],
                several => typed(several)?,
            },
        })
    }
}

/// A claim's value; malformed if it is of another type.
fn typed<T: DeserializeOwned>(value: &str) -> Result<T, Reason> {
    serde_json::from_str(value).map_err(|_| Reason::MalformedToken)
}

impl Registered {
    /// Holds the times against `now`: expired from `exp` on (RFC 7519 section 4.1.4), not valid before `nbf`,
    /// and not issued in the future.
    pub(super) fn check_times(&self, now: Timestamp, late: Duration, early: Duration) -> Result<(), Reason> {
        if self.expires.plus(late) <= now {
            return Err(Reason::Expired);
        }
        let now = now.plus(early);
        if self.not_before > now || self.issued.is_some_and(|issued| issued > now) {
            Err(Reason::NotYetValid)
        } else {
            Ok(())
        }
    }

    /// Has it expire so long after its `iat` at the latest.
    pub(super) fn end_after(&mut self, longest: Duration) {
        let latest = self.issued.map(|issued| issued.plus(longest));
        self.expires = latest.map_or(self.expires, |latest| latest.min(self.expires));
    }

    /// How long the token is good, counted from its `iat`, or from now if it has none.
    pub(super) fn lifetime(&self, now: Timestamp) -> Duration {
        self.expires.since(self.issued.unwrap_or(now))
    }
}

/// The values at each of the paths, without repetition: an array of strings, or a string, which `split`
/// says whether to split at spaces.
pub(super) fn collect(claims: &Claims, paths: &[ClaimPath], split: bool) -> Result<Vec<String>, Reason> {
    let mut collected: Vec<String> = Vec::new();
    for value in paths.iter().filter_map(|path| path.find(claims)) {
        let values = match value {
            Value::String(text) if split => {
                text.split(' ').filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
            }
            Value::String(text) => vec![text.clone()],
            Value::Array(values) => strings(values)?,
            _ => return Err(Reason::MalformedToken),
        };
        for value in values {
            if !collected.contains(&value) {
                collected.push(value);
            }
        }
    }
    Ok(collected)
}

/// The private claims of our own tokens. `None` if one is absent or not as we write it.
pub(super) fn session(claims: &Claims) -> Option<SessionRef> {
    let text = |name| claims.get(name).and_then(Value::as_str);
    let number = |name| claims.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    Some(SessionRef {
        session: SessionId::parse(text("sid")?)?,
        user: UserKey::parse(text("usr")?)?,
        generation: number("gen")?,
        epoch: number("uep")?,
    })
}

fn strings(values: &[Value]) -> Result<Vec<String>, Reason> {
    let strings = values.iter().map(|value| value.as_str().map(ToOwned::to_owned));
    strings.collect::<Option<_>>().ok_or(Reason::MalformedToken)
}

/// A `NumericDate`: seconds, whole or fractional. What lies before the epoch or beyond our time is moved to it.
fn date(claim: Option<&RawValue>) -> Result<Option<Timestamp>, Reason> {
    claim.map(|seconds| typed(seconds.get()).map(|seconds| timestamp(&seconds))).transpose()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast saturates, as it should"
)]
fn timestamp(seconds: &Number) -> Timestamp {
    if let Some(seconds) = seconds.as_u64() {
        return Timestamp::from_secs(seconds);
    }
    Timestamp::from_millis(seconds.as_f64().map_or(0, |seconds| (seconds * 1000.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use proptest::prelude::*;
    use serde_json::json;

    fn with(name: &str, value: Value) -> Result<Registered, Reason> {
        let mut claims = json!({"iss": "i", "aud": "a", "exp": 2000, "sub": "s"});
        claims[name] = value;
        read(&claims)
    }

    fn read(claims: &Value) -> Result<Registered, Reason> {
        Claimed::find(claims.to_string().as_bytes())?.read()
    }

    fn issuer(payload: &str) -> Result<String, Reason> {
        Claimed::find(payload.as_bytes())?.issuer().map(Cow::into_owned)
    }

    fn times(name: &str, value: Value, now: u64) -> Result<(), Reason> {
        let leeway = Duration::from_secs(10);
        with(name, value)?.check_times(Timestamp::from_secs(now), leeway, leeway)
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_malformed_whether_required_or_not() {
        let wrong = [json!(null), json!("2000"), json!(true), json!([2000]), json!({"a": 1})];
        for name in ["exp", "nbf", "iat"] {
            for value in &wrong {
                assert_eq!(with(name, value.clone()), Err(Reason::MalformedToken), "{name} {value}");
            }
        }
        for value in [json!(null), json!(1), json!(true), json!(["s"]), json!({})] {
            assert_eq!(with("sub", value.clone()), Err(Reason::MalformedToken), "sub {value}");
        }
        for value in [
            json!(null),
            json!(1),
            json!(true),
            json!({"a": 1}),
            json!(["a", 1]),
            json!([["a"]]),
            json!([null]),
        ] {
            assert_eq!(with("aud", value.clone()), Err(Reason::MalformedToken), "aud {value}");
        }
        for payload in [r#"{"iss":["i"]}"#, r#"{"iss":null}"#, r#"{"iss":1}"#] {
            assert_eq!(issuer(payload), Err(Reason::MalformedToken), "{payload}");
        }
    }

    #[test]
    fn a_claim_is_found_however_it_is_spelt() {
        for payload in [
            r#"{"iss":"https://i/x"}"#,
            r#" { "x" : {"iss":"j"}, "iss" : "https:\/\/i\/x" } "#,
            r#"{"\u0069ss":"https://i\u002fx","exp":"not looked at"}"#,
        ] {
            assert_eq!(issuer(payload).as_deref(), Ok("https://i/x"), "{payload}");
        }
    }

    #[test]
    fn what_is_no_object_or_says_a_claim_twice_is_malformed() {
        for payload in [
            "",
            "null",
            "1",
            r#"["i"]"#,
            r#"["i","s","a",1,1,1]"#,
            r#"{"iss":"i"} {}"#,
            r#"{"iss":"i"}x"#,
            r#"{"iss":"i","iss":"i"}"#,
            r#"{"iss":"i","exp":1,"exp":1}"#,
            r#"{"iss":"i","\u0069ss":"i"}"#,
            "{\"iss\":\"i\",\"x\":\"\u{0}\"}",
            "\u{feff}{\"iss\":\"i\"}",
            r#"{"iss":"i","x":}"#,
            r#"{"iss":"\ud800"}"#,
        ] {
            assert_eq!(issuer(payload), Err(Reason::MalformedToken), "{payload}");
        }
        assert_eq!(Claimed::find(b"{\"iss\":\"\xff\"}").err(), Some(Reason::MalformedToken));
        let deep = format!(r#"{{"iss":"i","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(issuer(&deep).as_deref(), Ok("i"), "passed over, not gone into");
    }

    #[test]
    fn iss_exp_and_aud_are_required_and_the_rest_is_not() {
        assert_eq!(issuer("{}"), Err(Reason::MissingClaim));
        assert_eq!(read(&json!({"aud": "a"})), Err(Reason::MissingClaim));
        assert_eq!(read(&json!({"exp": 1})), Err(Reason::MissingClaim));
        assert!(read(&json!({"exp": 1, "aud": []})).unwrap().audiences.is_empty());
    }

    #[test]
    fn a_token_expires_at_exp_plus_leeway_and_begins_at_nbf_and_iat_less_leeway() {
        assert_eq!(times("exp", json!(2000), 2009), Ok(()));
        assert_eq!(times("exp", json!(2000), 2010), Err(Reason::Expired));
        assert_eq!(times("exp", json!(2000.5), 2010), Ok(()));
        for name in ["nbf", "iat"] {
            assert_eq!(times(name, json!(1000), 990), Ok(()));
            assert_eq!(times(name, json!(1000), 989), Err(Reason::NotYetValid));
            assert_eq!(times(name, json!(1000.25), 990), Err(Reason::NotYetValid));
        }
    }

    #[test]
    fn a_lifetime_counts_from_iat_or_from_now() {
        let lifetime = |claims: Value| {
            let claims = read(&claims).unwrap();
            claims.lifetime(Timestamp::from_secs(1500)).as_secs()
        };
        assert_eq!(lifetime(json!({"aud": "a", "exp": 2000, "iat": 1000})), 1000);
        assert_eq!(lifetime(json!({"aud": "a", "exp": 2000})), 500);
        assert_eq!(lifetime(json!({"aud": "a", "exp": 2000, "iat": 3000})), 0);
        assert!(lifetime(json!({"aud": "a", "exp": u64::MAX, "iat": 0})) > 1 << 50);
    }

    #[test]
    fn extreme_dates_neither_wrap_nor_panic() {
        for past in [json!(0), json!(-1), json!(-0.0), json!(i64::MIN), json!(-1e300)] {
            assert_eq!(times("exp", past.clone(), 1000), Err(Reason::Expired), "{past}");
            assert_eq!(times("nbf", past.clone(), 1000), Ok(()), "{past}");
        }
        for future in [json!(u64::MAX), json!(i64::MAX), json!(1e300), json!(1e19)] {
            assert_eq!(times("exp", future.clone(), 1000), Ok(()), "{future}");
            assert_eq!(times("nbf", future.clone(), 1000), Err(Reason::NotYetValid), "{future}");
        }
        let end = with("exp", json!(2000)).unwrap();
        assert_eq!(end.check_times(Timestamp::from_secs(1), Duration::MAX, Duration::MAX), Ok(()));
    }

    #[test]
    fn scopes_are_split_and_roles_are_not() {
        let claims =
            json!({"scope": "a  b", "scp": ["b", "c d"], "role": "x y", "deep": {"roles": ["z"]}, "n": 1});
        let claims = claims.as_object().unwrap();
        let paths =
            |names: &[&str]| names.iter().map(|name| ClaimPath::parse(name).unwrap()).collect::<Vec<_>>();
        assert_eq!(collect(claims, &paths(&["scope", "scp"]), true).unwrap(), ["a", "b", "c d"]);
        assert_eq!(collect(claims, &paths(&["role", "deep.roles"]), false).unwrap(), ["x y", "z"]);
        assert_eq!(collect(claims, &paths(&["absent"]), false).unwrap(), Vec::<String>::new());
        assert_eq!(collect(claims, &paths(&["n"]), true), Err(Reason::MalformedToken));
    }

    #[test]
    fn the_private_claims_must_be_exactly_as_we_write_them() {
        let session = SessionRef {
            session: SessionId::from_bytes([1; 16]),
            user: UserKey::from_bytes([2; 12]),
            generation: 7,
            epoch: u32::MAX,
        };
        let good = json!({
            "sid": session.session.to_string(), "usr": session.user.to_string(), "gen": 7, "uep": u32::MAX,
        });
        assert_eq!(self::session(good.as_object().unwrap()), Some(session));
        let wrong =
            [json!(null), json!("x"), json!(-1), json!(1.5), json!(u64::from(u32::MAX) + 1), json!([])];
        for name in ["sid", "usr", "gen", "uep"] {
            for value in &wrong {
                let mut claims = good.clone();
                claims[name] = value.clone();
                assert_eq!(self::session(claims.as_object().unwrap()), None, "{name} {value}");
            }
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(name);
            assert_eq!(self::session(claims.as_object().unwrap()), None, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        /// Two readers of one text that differ are a way around the one of them.
        #[test]
        fn what_is_found_in_the_text_is_what_the_strict_object_holds(
            members in prop::collection::vec((
                prop::sample::select(vec!["iss", r"\u0069ss", "sub", "aud", "exp", "nbf", "x", "ISS", ""]),
                prop::sample::select(vec![
                    r#""a""#, r#""a\/\u0062""#, r#""""#, "1", "-1", "1.5e3", "null", "true", "[]", r#"["a","b"]"#,
                    r#"["a",1]"#, r#"{"iss":"b"}"#, r#"[[{"aud":[]}]]"#,
                ]),
            ), 0..6),
            space in prop::sample::select(vec!["", " ", "\n\t"]),
        ) {
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}")).collect();
            let payload = format!("{space}{{{}{space}}}{space}", members.join(","));
            let found = Claimed::find(payload.as_bytes());
            let Ok(strict) = json::object(payload.as_bytes()) else { return Ok(()) };
            let found = found.unwrap();
            let iss = strict.get("iss").map(|iss| iss.as_str().map(ToOwned::to_owned));
            let expected = iss.ok_or(Reason::MissingClaim).and_then(|iss| iss.ok_or(Reason::MalformedToken));
            prop_assert_eq!(found.issuer().map(Cow::into_owned), expected);
            if let Ok(registered) = found.read() {
                let audiences = match &strict["aud"] {
                    Value::Array(audiences) => audiences.clone(),
                    one => vec![one.clone()],
                };
                prop_assert_eq!(json!(registered.audiences), Value::Array(audiences));
                prop_assert_eq!(&*registered.subject, strict.get("sub").map_or("", |sub| sub.as_str().unwrap()));
                prop_assert_eq!(registered.expires, timestamp(strict["exp"].as_number().unwrap()));
                let dates = [("nbf", Some(registered.not_before)), ("iat", registered.issued)];
                for (name, found) in dates {
                    let strict = strict.get(name).map(|date| timestamp(date.as_number().unwrap()));
                    prop_assert_eq!(found.unwrap_or_default(), strict.unwrap_or_default());
                }
            }
        }
    }
}
