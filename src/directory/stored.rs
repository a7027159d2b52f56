//! Password hashes of other kinds than ours, as users bring them along: bcrypt, scrypt and PBKDF2. They are verified
//! within bounds, and made nowhere.

use super::password_hash::HashError;
use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{NO_PAD, STANDARD_NO_PAD};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use subtle::ConstantTimeEq as _;

/// The most rounds of bcrypt, as a power of two: each login takes about two seconds at the most.
const MOST_BCRYPT: u32 = 15;
const LEAST_BCRYPT: u32 = 4;

/// The most that scrypt may take: memory in bytes, and passes over 128 bytes.
const MOST_SCRYPT_BYTES: u64 = 1 << 30;
const MOST_SCRYPT_WORK: u64 = 1 << 23;

/// The most iterations of PBKDF2.
const MOST_PBKDF2: u32 = 5_000_000;

/// Bytes of a salt and of a hash in PHC form. Shorter ones would be guessed without the password.
const SALT_BYTES: RangeInclusive<usize> = 4..=64;
const OUTPUT_BYTES: RangeInclusive<usize> = 16..=64;

/// Bytes of a password that bcrypt looks at.
const BCRYPT_BYTES: usize = 72;

/// bcrypt's own alphabet. The bits beyond the last byte are not always zero.
const BCRYPT_BASE64: GeneralPurpose =
    GeneralPurpose::new(&BCRYPT, NO_PAD.with_decode_allow_trailing_bits(true));

/// A hash of one of these kinds.
pub(super) struct Stored {
    work: Work,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// What verifying one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// bcrypt with two to the power of `rounds`.
    Bcrypt {
        /// The logarithm of the rounds.
        rounds: u32,
    },
    /// scrypt.
    Scrypt {
        /// The logarithm of `N`.
        log_n: u8,
        /// The block size.
        r: u32,
        /// How often it is done, one after the other.
        p: u32,
    },
    /// PBKDF2 with HMAC.
    Pbkdf2 {
        /// The hash.
        digest: Digest,
        /// How often.
        iterations: u32,
    },
}

/// The hash below PBKDF2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Stored {
    /// Reads a hash of one of these kinds; `None` if it is of another.
    pub(super) fn parse(text: &str) -> Option<Result<Self, HashError>> {
        let mut parts = text.strip_prefix('$')?.split('$');
        match parts.next()? {
            "2a" | "2b" | "2y" => Some(bcrypt(parts.next()?, parts.next()?, parts.next())),
            "scrypt" => Some(phc(text, scrypt)),
            "pbkdf2-sha256" => Some(phc(text, |params| pbkdf2(params, Digest::Sha256))),
            "pbkdf2-sha512" => Some(phc(text, |params| pbkdf2(params, Digest::Sha512))),
            _ => None,
        }
    }

    /// A hash of no password that takes the same work; it verifies nothing.
    pub(super) fn of_nobody(work: Work) -> Self {
        Self { work, salt: vec![0; 16], output: Vec::new() }
    }

    /// Whether no other password has the same hash for want of looking.
    pub(super) fn sees_all_of(&self, password: &[u8]) -> bool {
        !matches!(self.work, Work::Bcrypt { .. }) || (password.len() < BCRYPT_BYTES && !password.contains(&0))
    }

    pub(super) const fn work(&self) -> Work {
        self.work
    }

    /// Whether it is the hash of `password`.
    pub(super) fn verifies(&self, password: &[u8]) -> bool {
        let length = if self.output.is_empty() { 32 } else { self.output.len() };
        let output = self.work.done(password, &self.salt, length);
        output.is_some_and(|output| bool::from(output.ct_eq(&self.output)))
    }
}

impl Work {
    fn done(self, password: &[u8], salt: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut output = vec![0; length];
        match self {
            Self::Bcrypt { rounds } => {
                // It reads a text with its end (NUL), and no more than so many bytes of both.
                let mut text: Vec<u8> = password.iter().copied().chain([0]).collect();
                text.truncate(BCRYPT_BYTES);
                // The last byte was lost in the first implementation, and is in none since.
                output = bcrypt::bcrypt(rounds, salt.try_into().ok()?, &text).get(..23)?.to_vec();
            }
            Self::Scrypt { log_n, r, p } => {
                scrypt::scrypt(password, salt, &scrypt::Params::new(log_n, r, p).ok()?, &mut output).ok()?;
            }
            Self::Pbkdf2 { digest, iterations } => {
                let algorithm = match digest {
                    Digest::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
                    Digest::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
                };
                pbkdf2::derive(algorithm, NonZeroU32::new(iterations)?, salt, password, &mut output);
            }
        }
        Some(output)
    }

    /// The work, if it is within bounds.
    fn bounded(self) -> Result<Self, HashError> {
        let (asked, fine) = match self {
            Self::Bcrypt { rounds } => {
                (format!("cost {rounds}, at most {MOST_BCRYPT}"), rounds <= MOST_BCRYPT)
            }
            Self::Scrypt { log_n, r, p } => {
                let n = 1_u64.checked_shl(log_n.into()).unwrap_or(u64::MAX);
                let bytes = n.saturating_mul(r.into()).saturating_mul(128);
                let work = n.saturating_mul(r.into()).saturating_mul(p.into());
                let most = "at most 1GiB of memory, and N*r*p of 2^23";
                let fine = bytes <= MOST_SCRYPT_BYTES && work <= MOST_SCRYPT_WORK;
                (format!("ln={log_n}, r={r}, p={p}, {most}"), fine)
            }
            Self::Pbkdf2 { iterations, .. } => {
                (format!("i={iterations}, at most {MOST_PBKDF2}"), iterations <= MOST_PBKDF2)
            }
        };
        if fine { Ok(self) } else { Err(HashError::TooCostly(asked)) }
    }
}

/// `$2y$10$` and 22 characters of salt, 31 of hash.
fn bcrypt(rounds: &str, rest: &str, more: Option<&str>) -> Result<Stored, HashError> {
    let digits = rounds.len() == 2 && rounds.bytes().all(|byte| byte.is_ascii_digit());
    let rounds: u32 = rounds.parse().map_err(|_| HashError::Malformed)?;
    let (salt, output) = rest.split_at_checked(22).ok_or(HashError::Malformed)?;
    let decoded = |text: &str, length: usize| {
        let bytes = BCRYPT_BASE64.decode(text).ok()?;
        (bytes.len() == length).then_some(bytes)
    };
    let (salt, output) = decoded(salt, 16).zip(decoded(output, 23)).ok_or(HashError::Malformed)?;
    if !digits || more.is_some() || rounds < LEAST_BCRYPT {
        return Err(HashError::Malformed);
    }
    Ok(Stored { work: Work::Bcrypt { rounds }.bounded()?, salt, output })
}

/// `$scrypt$ln=15,r=8,p=1$salt$hash`: parameters in any order, salt and hash as base64 without padding.
fn phc(text: &str, work: impl FnOnce(&[(&str, u32)]) -> Option<Work>) -> Result<Stored, HashError> {
    let parts: Vec<&str> = text.split('$').skip(2).collect();
    let [params, salt, output] = parts.as_slice() else { return Err(HashError::Malformed) };
    let params: Option<Vec<_>> = params.split(',').map(param).collect();
    let work = work(&params.ok_or(HashError::Malformed)?).ok_or(HashError::Malformed)?;
    let decoded = |text: &str, range: RangeInclusive<usize>| {
        STANDARD_NO_PAD.decode(text).ok().filter(|bytes| range.contains(&bytes.len()))
    };
    let parts = decoded(salt, SALT_BYTES).zip(decoded(output, OUTPUT_BYTES));
    let (salt, output) = parts.ok_or(HashError::Malformed)?;
    Ok(Stored { work: work.bounded()?, salt, output })
}

fn param(text: &str) -> Option<(&str, u32)> {
    let (name, value) = text.split_once('=')?;
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    Some((name, value.parse().ok().filter(|_| digits)?))
}

/// The one parameter of this name.
fn number(params: &[(&str, u32)], name: &str) -> Option<u32> {
    let mut values = params.iter().filter(|(own, _)| *own == name).map(|(_, value)| *value);
    values.next().filter(|_| values.next().is_none())
}

fn scrypt(params: &[(&str, u32)]) -> Option<Work> {
    let (log_n, r, p) = (number(params, "ln")?, number(params, "r")?, number(params, "p")?);
    let log_n = u8::try_from(log_n).ok()?;
    (log_n > 0 && log_n < 64 && r > 0 && p > 0).then_some(Work::Scrypt { log_n, r, p })
}

fn pbkdf2(params: &[(&str, u32)], digest: Digest) -> Option<Work> {
    let iterations = number(params, "i").filter(|iterations| *iterations > 0)?;
    Some(Work::Pbkdf2 { digest, iterations })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifies(text: &str, password: &str) -> bool {
        Stored::parse(text).unwrap().unwrap().verifies(password.as_bytes())
    }

    fn refused(text: &str) -> HashError {
        Stored::parse(text).unwrap().err().unwrap()
    }

    /// Made by libxcrypt.
    #[test]
    fn what_another_implementation_of_bcrypt_made_verifies() {
        let long = "a".repeat(100);
        for (password, text) in [
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
            ("", "$2b$05$abcdefghijklmnopqrstuu0oImNDIy4flhldV9YqunRgBAePKmw7m"),
            ("p\u{e4}ssword", "$2y$06$ZYXWVUTSRQPONMLKJIHGFeuKagO5/E29iEeU5.na5MNJCnRvFWE9a"),
            (long.as_str(), "$2a$04$abcdefghijklmnopqrstuuBzzIgyKkz7xMWYSzkIjUSnxEQFQ0WNe"),
        ] {
            assert!(verifies(text, password), "{text}");
            assert!(!verifies(text, "other"), "{text}");
            let renamed = text.replacen("$2a$", "$2b$", 1);
            assert!(verifies(&renamed, password), "{renamed}");
        }
    }

    /// RFC 7914 section 12 and section 11, written as PHC strings.
    #[test]
    fn the_vectors_of_rfc_7914_verify() {
        let base64 = |hex: &str| {
            let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes.collect::<Vec<_>>())
        };
        let salt = base64::engine::general_purpose::STANDARD_NO_PAD.encode("NaCl");
        let output = base64(
            "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb9\
             4a83ee6d8360cbdfa2cc0640",
        );
        let text = format!("$scrypt$ln=10,r=8,p=16${salt}${output}");
        assert!(verifies(&text, "password") && !verifies(&text, "Password"));
        let output = base64(
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56a1d425a1225833549adb841b51c9b3176a272bde\
             bba1d078478f62b397f33c8d",
        );
        let text = format!("$pbkdf2-sha256$i=80000${salt}${output}");
        assert!(verifies(&text, "Password") && !verifies(&text, "password"));
    }

    #[test]
    fn a_hash_that_could_exhaust_the_machine_is_refused() {
        let rest = "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        for text in [
            format!("$2a$16${rest}"),
            format!("$2b$31${rest}"),
            "$scrypt$ln=24,r=8,p=1$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
            "$scrypt$ln=17,r=8,p=9$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
            "$scrypt$ln=63,r=4294967295,p=4294967295$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
            "$pbkdf2-sha256$i=5000001$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
            "$pbkdf2-sha512$i=4294967295$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
        ] {
            assert!(matches!(refused(&text), HashError::TooCostly(_)), "{text}");
        }
    }

    #[test]
    fn damaged_hashes_are_refused_and_other_kinds_are_not_ours() {
        let good = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        for text in [
            &good[..59],
            &format!("{good}x"),
            &format!("{good}$"),
            &good.replace("$05$", "$5$"),
            &good.replace("$05$", "$03$"),
            &good.replace("$05$", "$+5$"),
            &good.replace("CCC", "C+C"),
            "$scrypt$ln=0,r=8,p=1$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ",
            "$scrypt$ln=10,r=8$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ",
            "$scrypt$ln=10,r=8,p=1$c29tZXNhbHQ",
            "$pbkdf2-sha256$i=0$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ",
            "$pbkdf2-sha256$c29tZXNhbHQ$AQEBAQEBAQEBAQEBAQEBAQ",
        ] {
            assert_eq!(refused(text), HashError::Malformed, "{text}");
        }
        for text in
            ["", "$", "$2x$05$CC", "$2$", "$argon2id$v=19", "$1$x$y", "$pbkdf2-md5$i=1$c29tZXNhbHQ$aaaa"]
        {
            assert!(Stored::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_hash_of_nobody_verifies_nothing() {
        for work in [
            Work::Bcrypt { rounds: 4 },
            Work::Scrypt { log_n: 4, r: 1, p: 1 },
            Work::Pbkdf2 { digest: Digest::Sha512, iterations: 10 },
        ] {
            for password in ["", "x"] {
                assert!(!Stored::of_nobody(work).verifies(password.as_bytes()), "{work:?}");
            }
        }
    }
}
