//! Keys derived from the deployment's master secret, one per purpose.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

const SALT: &[u8] = b"portcullis";

/// HKDF-SHA-256 (RFC 5869) for one block of output, which is one HMAC to extract and one to expand. Done
/// here because the library's form can fail, for lengths that this one cannot have.
pub(super) fn derive(master: &[u8], purpose: &str, deployment: &str) -> Zeroizing<[u8; 32]> {
    let salt = hmac::Key::new(hmac::HMAC_SHA256, SALT);
    let extracted = hmac::sign(&salt, master);
    let mut expand = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref()));
    for part in info(purpose, deployment) {
        expand.update(part);
    }
    expand.update(&[1]);
    Zeroizing::new(leading(expand.sign().as_ref()))
}

/// The purpose is one of ours and holds no NUL, so the two parts cannot run into each other.
fn info<'a>(purpose: &'a str, deployment: &'a str) -> [&'a [u8]; 3] {
    [purpose.as_bytes(), b"\0", deployment.as_bytes()]
}

/// The first bytes of `long`; it is always a SHA-256 output here, and so longer than any `N` asked for.
pub(super) fn leading<const N: usize>(long: &[u8]) -> [u8; N] {
    let mut short = [0; N];
    for (to, from) in short.iter_mut().zip(long) {
        *to = *from;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::hkdf;

    #[test]
    fn the_derivation_is_that_of_the_library() {
        let ours = derive(b"master", "purpose", "deployment");
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(b"master");
        let info = info("purpose", "deployment");
        let mut theirs = [0; 32];
        prk.expand(&info, hkdf::HKDF_SHA256).unwrap().fill(&mut theirs).unwrap();
        assert_eq!(*ours, theirs);
    }
}
