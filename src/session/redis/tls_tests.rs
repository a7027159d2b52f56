//! The Redis store over TLS, as a user with no more rights than it needs.

use super::server::{Server, free_port};
use super::tests::{access_token, new_session, token};
use super::{RedisSettings, RedisStore, Servers};
use crate::secret::Secret;
use crate::session::family::{Outcome, RotationPolicy};
use crate::session::store::{Cursor, EndReason, SessionStore as _, StoreError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::time::Duration;

/// What the user of a gateway may do.
const RIGHTS: &str =
    "~r[sdvw]:* ~u[sxe]:* ~t[napk]:* -@all +@read +@write +@scripting +@connection +time +info +role +wait";

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Sealed {
    server: Server,
    tls_port: u16,
    ca: Vec<u8>,
}

impl Sealed {
    fn start() -> Self {
        let (authority, key) = (authority(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let server = Server::start();
        let folder = server.folder();
        std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        let reserved = free_port();
        let tls_port = reserved.local_addr().unwrap().port();
        drop(reserved);
        let () = redis::cmd("CONFIG")
            .arg(&["SET", "tls-auth-clients", "no", "tls-cert-file", "cert.pem", "tls-key-file", "key.pem"])
            .arg(&["tls-port", &tls_port.to_string()])
            .query(&mut server.connection())
            .unwrap();
        Self { server, tls_port, ca: authority.pem().into_bytes() }
    }

    fn store(&self, start: &str, ca: Option<Vec<u8>>) -> RedisStore {
        let url = format!("{start}localhost:{}", self.tls_port);
        let servers = Servers::One(Secret::new(url));
        let settings = RedisSettings { servers, timeout: Duration::from_secs(10), ca };
        RedisStore::connect_lazily(&settings, RotationPolicy::default()).unwrap()
    }
}

#[tokio::test]
async fn only_a_certificate_of_the_given_authority_is_trusted() {
    let sealed = Sealed::start();
    sealed.store("rediss://", Some(sealed.ca.clone())).open(new_session()).await.unwrap();
    for (start, ca) in
        [("rediss://", None), ("rediss://", Some(authority().pem().into_bytes())), ("redis://", None)]
    {
        let refused = sealed.store(start, ca).open(new_session()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{start}: {refused:?}");
    }
}

#[tokio::test]
async fn a_user_of_few_rights_is_enough_and_a_wrong_password_is_not() {
    let sealed = Sealed::start();
    let () = sealed.server.query(&format!("ACL SETUSER gateway on >hunter2 {RIGHTS}"));
    let () = sealed.server.query("ACL SETUSER default off");
    let store = sealed.store("rediss://gateway:hunter2@", Some(sealed.ca.clone()));
    let new = new_session();
    store.open(new.clone()).await.unwrap();
    assert_eq!(store.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Rotated);
    store.confirm(&[access_token(&new)]).await.unwrap();
    assert_eq!(store.list(new.user).await.unwrap().len(), 1);
    assert!(store.end(new.user, new.id, EndReason::Logout).await.unwrap());
    assert!(store.is_ended(&access_token(&new)).await.unwrap());
    let (ended, _) = store.revocations(&Cursor::default()).await.unwrap();
    store.reapply(&ended).await.unwrap();
    store.end_all(new.user).await.unwrap();
    store.clocks().await.unwrap();

    let wrong = sealed.store("rediss://gateway:hunter3@", Some(sealed.ca.clone()));
    let refused = wrong.rotate(&token(&new, 0)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)));
    assert!(!refused.to_string().contains("hunter"), "{refused}");
}
