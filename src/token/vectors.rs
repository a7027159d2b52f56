//! Published test vectors: what others agree is a good signature is one here, and what is not is not.

use super::jws;
use crate::key_set::{Algorithm, KeySet, Verdict};
use crate::reason::Reason;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const SIGNATURES: &str = include_str!("../../tests/data/wycheproof/json_web_signature_test.json");
const KEYS: &str = include_str!("../../tests/data/wycheproof/json_web_key_test.json");

/// The signature vectors whose verdict is another here, on purpose.
const OTHER_SIGNATURES: &[(u64, &str)] = &[
    (346, "the token says PS384, its key `alg: PS256`: a key with an `alg` is for that alone"),
    (347, "P-521 is not among our algorithms"),
    (350, "the token says PS384, its key `alg: PS256`"),
    (351, "P-521 is not among our algorithms"),
    (367, "its text is that of 357, which is valid: the padding it is named for is not in it"),
    (370, "its text is that of 357, which is valid"),
    (372, "a character outside base64url in the header: a token has one spelling"),
    (373, "a character outside base64url in the payload"),
];

/// The key-set vectors whose verdict is another here, on purpose.
const OTHER_KEYS: &[(u64, &str)] = &[
    (2, "a shared secret in a key set is never used"),
    (13, "a shared secret in a key set is never used"),
    (14, "a shared secret in a key set is never used"),
    (15, "a shared secret in a key set is never used"),
];

/// Whether a token's signature is good by these keys, as the verifier judges it.
fn accepts(keys: &KeySet, token: &str) -> bool {
    jws::parse(token).is_ok_and(|jws| {
        let kid = jws.header.kid.as_deref();
        keys.verify(kid, jws.header.algorithm, jws.signed, &jws.signature) == Verdict::Good
    })
}

fn jwks(keys: &Value) -> Option<KeySet> {
    KeySet::from_jwks(keys.to_string().as_bytes()).ok()
}

/// One key as its owner would give it to us: a secret in a file, a public key in a set.
fn single(jwk: &Value) -> Option<KeySet> {
    let secret = jwk["k"].as_str().map(|k| KeySet::from_secret(&URL_SAFE_NO_PAD.decode(k).unwrap()));
    secret.or_else(|| jwks(&json!({ "keys": [jwk] })))
}

/// Holds every vector against its verdict, or against the opposite if it is listed.
#[track_caller]
fn hold(file: &str, others: &[(u64, &str)], keys: impl Fn(&Value) -> Option<KeySet>) -> (usize, usize) {
    let file: Value = serde_json::from_str(file).unwrap();
    let (mut good, mut bad, mut listed, mut wrong) = (0, 0, 0, Vec::new());
    for group in file["testGroups"].as_array().unwrap() {
        let keys = keys(&group["key"]);
        for vector in group["tests"].as_array().unwrap() {
            let id = vector["tcId"].as_u64().unwrap();
            let accepted = keys.as_ref().is_some_and(|keys| accepts(keys, vector["jws"].as_str().unwrap()));
            let differs = others.iter().any(|(other, _)| *other == id);
            listed += usize::from(differs);
            *(if accepted { &mut good } else { &mut bad }) += 1;
            if accepted != ((vector["result"] == "valid") != differs) {
                wrong.push(format!("{id} {}: accepted {accepted}", vector["comment"]));
            }
        }
    }
    println!("{good} vectors accepted and {bad} refused, {listed} of them other than their authors would");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(listed, others.len(), "a listed vector is not there");
    assert_eq!(
        Some(good + bad),
        file["numberOfTests"].as_u64().and_then(|count| usize::try_from(count).ok())
    );
    (good, bad)
}

#[test]
fn wycheproofs_signatures_get_their_verdicts() {
    assert!([367, 370].iter().all(|id| vector(*id).1 == vector(357).1));
    assert_eq!(hold(SIGNATURES, OTHER_SIGNATURES, single), (42, 359));
}

#[test]
fn wycheproofs_key_sets_get_their_verdicts() {
    assert_eq!(hold(KEYS, OTHER_KEYS, jwks), (1, 25));
}

#[test]
fn the_vectors_come_without_private_keys() {
    for file in [SIGNATURES, KEYS] {
        let file: Value = serde_json::from_str(file).unwrap();
        for group in file["testGroups"].as_array().unwrap() {
            let keys = group["key"]["keys"].as_array().cloned().unwrap_or_else(|| vec![group["key"].clone()]);
            for key in keys {
                let private =
                    ["d", "p", "q", "dp", "dq", "qi", "oth"].iter().any(|name| key.get(name).is_some());
                assert!(!private, "{}", group["comment"]);
            }
        }
    }
}

/// The key and the token of a signature vector.
fn vector(id: u64) -> (Value, String) {
    let file: Value = serde_json::from_str(SIGNATURES).unwrap();
    for group in file["testGroups"].as_array().unwrap() {
        if let Some(found) = group["tests"].as_array().unwrap().iter().find(|vector| vector["tcId"] == id) {
            return (group["key"].clone(), found["jws"].as_str().unwrap().to_owned());
        }
    }
    panic!("no vector {id}")
}

/// RFC 7520 section 4. Its keys have no `alg`; those that others published with the examples do.
#[test]
fn the_examples_of_rfc_7520_get_their_verdicts() {
    let verdict = |id| {
        let (mut key, token) = vector(id);
        key.as_object_mut().unwrap().remove("alg");
        single(&key).is_some_and(|keys| accepts(&keys, &token))
    };
    assert!(verdict(345), "4.1, RS256");
    assert!(verdict(346), "4.2, PS384");
    assert!(!verdict(347), "4.3, ES512, which we do not know");
    assert!(verdict(348), "4.4, HS256");
    assert_eq!(jws::parse(&vector(347).1).err(), Some(Reason::UnsupportedAlgorithm));
    let (key, token) = vector(348);
    let keys = single(&key).unwrap();
    let parts: Vec<_> = token.split('.').collect();
    let [protected, payload, signature] = parts[..] else { panic!("three parts") };
    assert!(!accepts(&keys, &format!("{protected}..{signature}")), "4.5, a detached payload is not there");
    let one = json!({ "protected": protected, "signature": signature });
    let flat = json!({ "payload": payload, "protected": protected, "signature": signature });
    for json in [json!({ "payload": payload, "signatures": [one] }), flat] {
        assert_eq!(jws::parse(&json.to_string()).err(), Some(Reason::MalformedToken), "4.6 to 4.8, JSON");
    }
}

/// RFC 7515 appendices A.4 to A.6; A.1 to A.3, which we verify, are among the tests of the key set.
#[test]
fn the_examples_of_rfc_7515_that_we_do_not_know_are_refused() {
    let es512 = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2\
        SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    let unsecured = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9\
        pc19yb290Ijp0cnVlfQ.";
    for token in [es512, unsecured] {
        assert_eq!(jws::parse(token).err(), Some(Reason::UnsupportedAlgorithm));
    }
    // RFC 7515 appendix E: an extension that nobody knows, and is critical.
    let critical = "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxl\
        LmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJTA.";
    assert_eq!(jws::parse(critical).err(), Some(Reason::MalformedToken));
    assert!(Algorithm::parse("ES512").is_none());
}
