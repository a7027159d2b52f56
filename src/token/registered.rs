//! The registered claims (RFC 7519 section 4.1), read with their types: a claim that is present with the
//! wrong one is a refusal, whether the claim is required or not.

use crate::clock::Timestamp;
use crate::json::ClaimPath;
use crate::reason::Reason;
use crate::session::id::{SessionId, SessionRef, UserKey};
use serde_json::{Map, Number, Value};
use std::time::Duration;

type Claims = Map<String, Value>;

/// The claims that every access token is judged by.
#[derive(Debug, PartialEq)]
pub(super) struct Registered {
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) expires: Timestamp,
    not_before: Timestamp,
    issued: Option<Timestamp>,
}

/// The `iss`, which decides what everything else is judged by.
pub(super) fn issuer(claims: &Claims) -> Result<&str, Reason> {
    let issuer = claims.get("iss").ok_or(Reason::MissingClaim)?;
    issuer.as_str().ok_or(Reason::MalformedToken)
}

/// Reads the others; `exp` and `aud` must be there.
pub(super) fn read(claims: &Claims) -> Result<Registered, Reason> {
    Ok(Registered {
        subject: match claims.get("sub") {
            None => String::new(),
            Some(subject) => subject.as_str().ok_or(Reason::MalformedToken)?.to_owned(),
        },
        expires: date(claims, "exp")?.ok_or(Reason::MissingClaim)?,
        not_before: date(claims, "nbf")?.unwrap_or_default(),
        issued: date(claims, "iat")?,
        audiences: match claims.get("aud").ok_or(Reason::MissingClaim)? {
            Value::String(audience) => vec![audience.clone()],
            Value::Array(audiences) => strings(audiences)?,
            _ => return Err(Reason::MalformedToken),
        },
    })
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
fn date(claims: &Claims, name: &str) -> Result<Option<Timestamp>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(seconds)) => Ok(Some(timestamp(seconds))),
        Some(_) => Err(Reason::MalformedToken),
    }
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
    use serde_json::json;

    fn with(name: &str, value: Value) -> Result<Registered, Reason> {
        let mut claims = json!({"iss": "i", "aud": "a", "exp": 2000, "sub": "s"});
        claims[name] = value;
        read(claims.as_object().unwrap())
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
        assert_eq!(issuer(json!({"iss": ["i"]}).as_object().unwrap()), Err(Reason::MalformedToken));
        assert_eq!(issuer(json!({"iss": null}).as_object().unwrap()), Err(Reason::MalformedToken));
    }

    #[test]
    fn iss_exp_and_aud_are_required_and_the_rest_is_not() {
        let empty = Map::new();
        assert_eq!(issuer(&empty), Err(Reason::MissingClaim));
        assert_eq!(read(json!({"aud": "a"}).as_object().unwrap()), Err(Reason::MissingClaim));
        assert_eq!(read(json!({"exp": 1}).as_object().unwrap()), Err(Reason::MissingClaim));
        assert!(read(json!({"exp": 1, "aud": []}).as_object().unwrap()).unwrap().audiences.is_empty());
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
            let claims = read(claims.as_object().unwrap()).unwrap();
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
}
