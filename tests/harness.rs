//! The ground under the other tests: the fake neighbours and the raw client do what they say.

use crate::support::redis::Redis;
use crate::support::token::parts;
use crate::support::{Connection, Issuer, Key, Reply, Upstream, get, post};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::{Duration, Instant};

#[test]
fn the_fake_upstream_keeps_what_it_received_to_the_letter() {
    let upstream = Upstream::echo();
    let address = upstream.authority();
    let mut connection = Connection::open(&address).unwrap();
    connection
        .send("POST /a/%2e?q=1 HTTP/1.1\r\nHOST: x\r\nX_odd:  two  \r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nT: 1\r\n\r\n")
        .unwrap();
    let response = connection.read_response(false).unwrap().expect(200);
    assert_eq!(response.text(), "hi");
    let received = upstream.last();
    assert_eq!(received.line, "POST /a/%2e?q=1 HTTP/1.1");
    assert_eq!(received.header_lines, ["HOST: x", "X_odd:  two  ", "Transfer-Encoding: chunked"]);
    assert_eq!(received.trailers, ["T: 1"]);
    assert_eq!(received.folded("x--ODD"), ["X_odd:  two  "]);

    let response = connection.exchange(&post("/b").body("whole")).unwrap().expect(200);
    assert_eq!(response.text(), "whole");
    assert_eq!((upstream.hits(), upstream.connections()), (2, 1));
}

#[test]
fn the_fake_upstream_can_be_slow_break_off_and_refuse() {
    let upstream = Upstream::answering(|received| match received.target() {
        "/slow" => Reply::ok("late").after(Duration::from_millis(50)),
        "/chunks" => Reply::Chunked(vec![b"one".to_vec(), b"two".to_vec()]),
        "/broken" => Reply::CloseMidBody { promised: 10, sent: b"some".to_vec() },
        _ => Reply::Close,
    });
    let address = upstream.authority();
    let start = Instant::now();
    assert_eq!(get("/slow").send(&address).text(), "late");
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(get("/chunks").send(&address).text(), "onetwo");
    assert!(get("/broken").try_send(&address).is_err());
    assert!(get("/close").try_send(&address).is_err());
    upstream.stop();
    assert!(get("/slow").try_send(&address).is_err());
}

#[test]
fn the_fake_issuer_counts_its_fetches_and_signs_what_its_key_set_verifies() {
    let mut issuer = Issuer::start();
    let address = issuer.id().trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let discovery = get("/realms/staff/.well-known/openid-configuration").send(&address).json();
    assert_eq!(discovery["issuer"], issuer.id());
    assert_eq!(discovery["jwks_uri"], issuer.key_set_url());
    let jwk = get("/realms/staff/certs").send(&address).json()["keys"][0].clone();
    assert_eq!(issuer.fetches(), 1);

    let bytes = |text: &serde_json::Value| URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap();
    let token = issuer.sign();
    let (message, signature) = token.rsplit_once('.').unwrap();
    RsaPublicKeyComponents { n: bytes(&jwk["n"]), e: bytes(&jwk["e"]) }
        .verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
    let (header, claims) = parts(&token);
    assert_eq!((header["kid"].as_str(), claims["iss"].as_str()), (Some("rsa-0"), Some(issuer.id().as_str())));

    issuer.rotate(Key::p256("second"));
    let jwk = get("/realms/staff/certs").send(&address).json()["keys"][0].clone();
    let point = [vec![4], bytes(&jwk["x"]), bytes(&jwk["y"])].concat();
    let token = issuer.sign();
    let (message, signature) = token.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();

    issuer.break_with(Reply::status(500, "no"));
    assert_eq!(get("/realms/staff/certs").send(&address).status, 500);
    issuer.mend();
    assert_eq!(get("/realms/staff/certs").send(&address).status, 200);
    assert_eq!((issuer.fetches(), issuer.requests().len()), (4, 5));
    issuer.stop();
    assert!(get("/realms/staff/certs").try_send(&address).is_err());
}

#[test]
fn redis_keeps_its_data_over_a_kill_and_stops_answering_while_paused() {
    let mut redis = Redis::start();
    assert_eq!(redis.command(&["SET", "k", "v"]).unwrap(), "OK");
    assert_eq!(redis.command(&["EVAL", "return 1", "0"]).unwrap(), "1");
    assert_eq!(redis.script_calls(), 1);
    redis.stop();
    assert!(redis.command(&["GET", "k"]).is_err());
    redis.start_again();
    assert_eq!(redis.command(&["GET", "k"]).unwrap(), "v");
    redis.pause();
    assert!(redis.command(&["GET", "k"]).is_err());
    redis.resume();
    assert_eq!(redis.command(&["GET", "k"]).unwrap(), "v");
}
