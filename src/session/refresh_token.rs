//! The refresh token: MAC'd, counted, bound to session, user, delivery and deployment. Pure.
//!
//! A token is `prt_` and the base64url form of 72 bytes:
//!
//! | bytes | what |
//! |------:|------|
//! | 1 | version (1) |
//! | 1 | key id |
//! | 1 | delivery |
//! | 1 | shard of the user |
//! | 12 | user key |
//! | 16 | session id |
//! | 16 | secret of the session |
//! | 4 | generation, big endian |
//! | 4 | absolute expiry in seconds since the epoch, big endian |
//! | 16 | HMAC-SHA-256 of all before, truncated |
//!
//! Only the generation changes over a session's life, so the successor of a token is a pure function of
//! it: whoever computes it, on whichever gateway, gets the same one, and a family cannot fork.

use super::derive::{derive, leading};
use super::id::{SessionId, UserKey};
use super::store::Delivery;
use crate::clock::Timestamp;
use crate::secret::Secret;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What every refresh token starts with; secret scanners look for it.
pub const PREFIX: &str = "prt_";

const VERSION: u8 = 1;
const SIGNED: usize = 56;
const MAC: usize = 16;
const BYTES: usize = SIGNED + MAC;
const CHARACTERS: usize = BYTES / 3 * 4;

/// A refresh token whose MAC, delivery and absolute expiry were checked; the store has not been asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// The session it claims.
    pub session: SessionId,
    /// The user it belongs to.
    pub user: UserKey,
    /// SHA-256 of the secret inside it.
    pub secret_hash: [u8; 32],
    /// Its generation.
    pub generation: u32,
    /// When the session ends at the latest.
    pub absolute_expiry: Timestamp,
}

/// A parsed token, with what it takes to make the same session's token of another generation.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What the store is asked about.
    pub presented: Presented,
    /// How the token travels.
    pub delivery: Delivery,
    secret: Secret<[u8; 16]>,
}

/// Why a string is not a refresh token that may be shown to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not the shape of a refresh token.
    #[error("this is not a refresh token")]
    Malformed,
    /// The MAC does not match: made up, altered, of another deployment, or of a retired key.
    #[error("the refresh token was not made here")]
    Forged,
    /// Genuine, but it came in the body though it belongs in a cookie, or the reverse.
    #[error("the refresh token came by the wrong way")]
    WrongDelivery,
    /// Genuine, but its session has reached its absolute end.
    #[error("the refresh token has expired")]
    Expired,
}

/// Makes and reads refresh tokens.
pub struct RefreshTokens {
    deployment: String,
    current: Keys,
    previous: Vec<Keys>,
}

/// What is derived from one master secret: a key per purpose, so that no use of one helps against another.
struct Keys {
    id: u8,
    mac: hmac::Key,
    user: hmac::Key,
}

impl RefreshTokens {
    /// Derives the keys from the deployment's master secret; a token of one deployment is forged in any
    /// other, even if they share the secret.
    pub fn new(master: &[u8], deployment: &str) -> Self {
        Self {
            deployment: deployment.to_owned(),
            current: Keys::derive(master, deployment),
            previous: Vec::new(),
        }
    }

    /// Also accepts tokens made under an earlier master secret; none are minted under it. Keep it for as
    /// long as a session lives at most: a replay under a forgotten key is only refused, not detected.
    #[must_use]
    pub fn with_previous(mut self, master: &[u8]) -> Self {
        self.previous.push(Keys::derive(master, &self.deployment));
        self
    }

    /// How the stores name `subject`.
    pub fn user_key(&self, subject: &str) -> UserKey {
        self.current.user_key(subject)
    }

    /// Every name the stores may know `subject` by: the current one, then those under earlier secrets.
    pub fn user_keys(&self, subject: &str) -> impl Iterator<Item = UserKey> {
        std::iter::once(&self.current).chain(&self.previous).map(move |keys| keys.user_key(subject))
    }

    /// Makes a token. `absolute_expiry` is rounded down to the second.
    pub fn mint(
        &self,
        session: SessionId,
        user: UserKey,
        secret: &Secret<[u8; 16]>,
        delivery: Delivery,
        absolute_expiry: Timestamp,
        generation: u32,
    ) -> Secret<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        bytes.extend_from_slice(&[VERSION, self.current.id, delivery_byte(delivery), user.shard()]);
        bytes.extend_from_slice(user.as_bytes());
        bytes.extend_from_slice(session.as_bytes());
        bytes.extend_from_slice(secret.expose());
        bytes.extend_from_slice(&generation.to_be_bytes());
        let expiry = u32::try_from(absolute_expiry.as_secs()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&expiry.to_be_bytes());
        let mac = self.current.sign(&bytes);
        bytes.extend_from_slice(&mac);

        let mut token = String::with_capacity(PREFIX.len() + CHARACTERS);
        token.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&bytes[..], &mut token);
        Secret::new(token)
    }

    /// Makes the token of another generation of the session `parsed` belongs to.
    pub fn mint_generation(&self, parsed: &Parsed, generation: u32) -> Secret<String> {
        let Presented { session, user, absolute_expiry, .. } = parsed.presented;
        self.mint(session, user, &parsed.secret, parsed.delivery, absolute_expiry, generation)
    }

    /// Reads a token that came by `delivery`. Does no I/O: what is not ours costs the store nothing.
    ///
    /// # Errors
    /// [`TokenError`], checked in the order of its variants, so that only the owner of a genuine token
    /// learns more than that it is not one.
    pub fn parse(&self, token: &str, delivery: Delivery, now: Timestamp) -> Result<Parsed, TokenError> {
        let raw = decode(token).ok_or(TokenError::Malformed)?;
        let (signed, mac) = raw.split_last_chunk::<MAC>().ok_or(TokenError::Malformed)?;
        let (key_id, parsed) = read(signed).ok_or(TokenError::Malformed)?;

        let mut genuine = false;
        for keys in std::iter::once(&self.current).chain(&self.previous).filter(|keys| keys.id == key_id) {
            genuine |= bool::from(keys.sign(signed).as_slice().ct_eq(mac.as_slice()));
        }
        if !genuine {
            return Err(TokenError::Forged);
        }
        if parsed.delivery != delivery {
            return Err(TokenError::WrongDelivery);
        }
        if now >= parsed.presented.absolute_expiry {
            return Err(TokenError::Expired);
        }
        Ok(parsed)
    }
}

impl fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshTokens").field("deployment", &self.deployment).finish_non_exhaustive()
    }
}

impl Keys {
    fn derive(master: &[u8], deployment: &str) -> Self {
        let [id, ..] = *derive(master, "key id", deployment);
        Self {
            id,
            mac: hmac::Key::new(hmac::HMAC_SHA256, &derive(master, "refresh token", deployment)[..]),
            user: hmac::Key::new(hmac::HMAC_SHA256, &derive(master, "user key", deployment)[..]),
        }
    }

    fn sign(&self, signed: &[u8]) -> [u8; MAC] {
        leading(hmac::sign(&self.mac, signed).as_ref())
    }

    fn user_key(&self, subject: &str) -> UserKey {
        UserKey::from_bytes(leading(hmac::sign(&self.user, subject.as_bytes()).as_ref()))
    }
}

/// What a store keeps of a session's secret: its SHA-256.
pub fn secret_hash(secret: &Secret<[u8; 16]>) -> [u8; 32] {
    leading(digest::digest(&digest::SHA256, secret.expose()).as_ref())
}

/// 96 characters are whole groups of four: no padding, no trailing bits, hence one spelling per token.
fn decode(token: &str) -> Option<Zeroizing<[u8; BYTES]>> {
    let text = token.strip_prefix(PREFIX).filter(|text| text.len() == CHARACTERS)?;
    let mut raw = Zeroizing::new([0; BYTES]);
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut raw[..]).ok()?;
    (length == BYTES).then_some(raw)
}

fn read(mut signed: &[u8]) -> Option<(u8, Parsed)> {
    let rest = &mut signed;
    let [version, key_id, delivery, shard] = take(rest)?;
    let user = UserKey::from_bytes(take(rest)?);
    let session = SessionId::from_bytes(take(rest)?);
    let secret = Secret::new(take(rest)?);
    let generation = u32::from_be_bytes(take(rest)?);
    let absolute_expiry = Timestamp::from_secs(u32::from_be_bytes(take(rest)?).into());
    if version != VERSION || shard != user.shard() || !rest.is_empty() {
        return None;
    }
    let delivery = match delivery {
        0 => Delivery::Cookie,
        1 => Delivery::Body,
        _ => return None,
    };
    let presented =
        Presented { session, user, secret_hash: secret_hash(&secret), generation, absolute_expiry };
    Some((key_id, Parsed { presented, delivery, secret }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

const fn delivery_byte(delivery: Delivery) -> u8 {
    match delivery {
        Delivery::Cookie => 0,
        Delivery::Body => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    const END: Timestamp = Timestamp::from_secs(2_000);

    fn tokens() -> RefreshTokens {
        RefreshTokens::new(b"a master secret of thirty-two byte", "https://id.example.com")
    }

    fn token(tokens: &RefreshTokens, generation: u32) -> Secret<String> {
        let user = tokens.user_key("alice");
        let session = SessionId::from_bytes([7; 16]);
        tokens.mint(session, user, &Secret::new([9; 16]), Delivery::Cookie, END, generation)
    }

    #[test]
    fn a_token_has_a_hundred_characters_and_our_prefix() {
        let token = token(&tokens(), 0);
        assert_eq!(token.expose().len(), 100);
        assert!(token.expose().starts_with("prt_"));
    }

    #[test]
    fn the_successor_is_the_same_whoever_computes_it() {
        let (here, there) = (tokens(), tokens());
        let first = here.parse(token(&here, 3).expose(), Delivery::Cookie, NOW).unwrap();
        assert_eq!(here.mint_generation(&first, 4).expose(), token(&there, 4).expose());
    }

    #[test]
    fn another_deployment_or_secret_calls_it_forged() {
        let token = token(&tokens(), 0);
        let elsewhere =
            RefreshTokens::new(b"a master secret of thirty-two byte", "https://staging.example.com");
        assert_eq!(elsewhere.parse(token.expose(), Delivery::Cookie, NOW).unwrap_err(), TokenError::Forged);
        let other = RefreshTokens::new(b"another master secret of 32 bytes", "https://id.example.com");
        assert_eq!(other.parse(token.expose(), Delivery::Cookie, NOW).unwrap_err(), TokenError::Forged);
    }

    #[test]
    fn a_token_under_an_earlier_secret_still_reads_and_its_successor_is_under_the_new_one() {
        let old = tokens();
        let new = RefreshTokens::new(b"the next master secret, also long", "https://id.example.com");
        let both = RefreshTokens::new(b"the next master secret, also long", "https://id.example.com")
            .with_previous(b"a master secret of thirty-two byte");
        let parsed = both.parse(token(&old, 0).expose(), Delivery::Cookie, NOW).unwrap();
        let successor = both.mint_generation(&parsed, 1);
        let again = new.parse(successor.expose(), Delivery::Cookie, NOW).unwrap();
        assert_eq!(again.presented, Presented { generation: 1, ..parsed.presented });
        assert_eq!(
            both.user_keys("alice").collect::<Vec<_>>(),
            [new.user_key("alice"), old.user_key("alice")]
        );
    }

    #[test]
    fn delivery_is_judged_before_expiry_and_after_the_mac() {
        let tokens = tokens();
        let token = token(&tokens, 0);
        assert_eq!(tokens.parse(token.expose(), Delivery::Body, END).unwrap_err(), TokenError::WrongDelivery);
        assert_eq!(tokens.parse(token.expose(), Delivery::Cookie, END).unwrap_err(), TokenError::Expired);
        let last = END.minus(std::time::Duration::from_millis(1));
        assert!(tokens.parse(token.expose(), Delivery::Cookie, last).is_ok());
    }

    #[test]
    fn an_expiry_beyond_the_year_2106_is_held_back_to_it() {
        let tokens = tokens();
        let user = tokens.user_key("alice");
        let token = tokens.mint(
            SessionId::from_bytes([1; 16]),
            user,
            &Secret::new([2; 16]),
            Delivery::Body,
            Timestamp::MAX,
            0,
        );
        let parsed = tokens.parse(token.expose(), Delivery::Body, NOW).unwrap();
        assert_eq!(parsed.presented.absolute_expiry, Timestamp::from_secs(u32::MAX.into()));
    }

    #[test]
    fn debug_shows_neither_keys_nor_secret() {
        let tokens = tokens();
        let parsed = tokens.parse(token(&tokens, 0).expose(), Delivery::Cookie, NOW).unwrap();
        assert!(format!("{parsed:?}").contains("[redacted]"));
        assert_eq!(format!("{tokens:?}"), "RefreshTokens { deployment: \"https://id.example.com\", .. }");
    }

    proptest! {
        #[test]
        fn what_is_minted_is_read_back(
            session: [u8; 16],
            secret: [u8; 16],
            subject: String,
            generation: u32,
            seconds in 1_001_u32..,
            body: bool,
        ) {
            let tokens = tokens();
            let delivery = if body { Delivery::Body } else { Delivery::Cookie };
            let user = tokens.user_key(&subject);
            let session = SessionId::from_bytes(session);
            let secret = Secret::new(secret);
            let end = Timestamp::from_secs(seconds.into());
            let token = tokens.mint(session, user, &secret, delivery, end, generation);
            let parsed = tokens.parse(token.expose(), delivery, NOW).unwrap();
            let expected = Presented {
                session,
                user,
                secret_hash: secret_hash(&secret),
                generation,
                absolute_expiry: end,
            };
            prop_assert_eq!(parsed.presented, expected);
        }

        #[test]
        fn no_altered_token_is_accepted(bit in 0..BYTES * 8) {
            let tokens = tokens();
            let token = token(&tokens, 5);
            let mut raw = URL_SAFE_NO_PAD.decode(&token.expose()[PREFIX.len()..]).unwrap();
            raw[bit / 8] ^= 1 << (bit % 8);
            let altered = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(raw));
            let refusal = tokens.parse(&altered, Delivery::Cookie, NOW).unwrap_err();
            prop_assert!(matches!(refusal, TokenError::Forged | TokenError::Malformed));
        }

        #[test]
        fn one_token_has_one_spelling(at in 0_usize..100, with: char) {
            let tokens = tokens();
            let token = token(&tokens, 5);
            let mut spelt: Vec<char> = token.expose().chars().collect();
            prop_assume!(spelt[at] != with);
            spelt[at] = with;
            let spelt: String = spelt.into_iter().collect();
            prop_assert!(tokens.parse(&spelt, Delivery::Cookie, NOW).is_err());
        }

        #[test]
        fn no_string_panics(text: String, tail in "[A-Za-z0-9_-]{90,100}") {
            let tokens = tokens();
            prop_assert!(tokens.parse(&text, Delivery::Cookie, NOW).is_err());
            let text = format!("{PREFIX}{tail}");
            prop_assert!(tokens.parse(&text, Delivery::Cookie, NOW).is_err());
        }
    }
}
