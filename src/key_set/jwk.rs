//! Reading one key of a JWKS (RFC 7517, RFC 7518 section 6, RFC 8037).

use super::Algorithm;
use super::key::{Flaw, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// Members that only a private or shared key has (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The key's `kid`, even if the rest of it is no good; for the log.
pub(super) fn kid(jwk: &Value) -> Option<&str> {
    jwk.get("kid")?.as_str()
}

/// Reads a key that a remote set offers for verifying signatures.
pub(super) fn parse(jwk: &Value) -> Result<Key, Flaw> {
    let jwk = jwk.as_object().ok_or(Flaw::NotAnObject)?;
    let kid = text(jwk, "kid")?;
    let key_type = text(jwk, "kty")?.ok_or(Flaw::Missing("kty"))?;
    if key_type == "oct" {
        return Err(Flaw::SharedSecret);
    }
    if PRIVATE.iter().any(|member| jwk.contains_key(*member)) {
        return Err(Flaw::Private);
    }
    check_purpose(jwk)?;
    let algorithm =
        text(jwk, "alg")?.map(|name| Algorithm::parse(name).ok_or(Flaw::AlgorithmMismatch)).transpose()?;
    let key = match key_type {
        "RSA" => Key::rsa(&bytes(jwk, "n")?, &bytes(jwk, "e")?)?,
        "EC" => elliptic(jwk)?,
        "OKP" => edwards(jwk)?,
        _ => return Err(Flaw::UnsupportedType),
    };
    let key = match algorithm {
        Some(algorithm) => key.only_for(algorithm)?,
        None => key,
    };
    Ok(key.named(kid.map(ToOwned::to_owned)))
}

fn check_purpose(jwk: &Map<String, Value>) -> Result<(), Flaw> {
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(Flaw::NotForSignatures);
    }
    match jwk.get("key_ops") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => Ok(()),
        Some(Value::Array(_)) => Err(Flaw::NotForVerification),
        Some(_) => Err(Flaw::WrongType("key_ops")),
    }
}

fn elliptic(jwk: &Map<String, Value>) -> Result<Key, Flaw> {
    let curve = text(jwk, "crv")?.ok_or(Flaw::Missing("crv"))?;
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    let point = [[4].as_slice(), &x, &y].concat();
    // A coordinate has the full length, zeros included (RFC 7518 section 6.2.1.2).
    match (curve, x.len(), y.len()) {
        ("P-256", 32, 32) => Key::p256(&point),
        ("P-384", 48, 48) => Key::p384(&point),
        ("P-256" | "P-384", _, _) => Err(Flaw::Invalid),
        _ => Err(Flaw::UnsupportedCurve),
    }
}

fn edwards(jwk: &Map<String, Value>) -> Result<Key, Flaw> {
    match text(jwk, "crv")? {
        Some("Ed25519") => {}
        Some(_) => return Err(Flaw::UnsupportedCurve),
        None => return Err(Flaw::Missing("crv")),
    }
    let x = bytes(jwk, "x")?;
    if x.len() == 32 { Key::ed25519(&x) } else { Err(Flaw::Invalid) }
}

/// A string member; `null` counts as absent, as some issuers write it.
fn text<'a>(jwk: &'a Map<String, Value>, member: &'static str) -> Result<Option<&'a str>, Flaw> {
    match jwk.get(member) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Flaw::WrongType(member)),
    }
}

fn bytes(jwk: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, Flaw> {
    let text = text(jwk, member)?.ok_or(Flaw::Missing(member))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Flaw::Encoding(member))
}
