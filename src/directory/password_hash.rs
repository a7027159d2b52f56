//! A password hash: read with bounds on what verifying it may cost, verified, and made.

use super::stored::{Stored, Work};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::fmt;
use subtle::ConstantTimeEq;

/// The most memory one verification may take, in KiB.
pub const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// The most work one verification may take, in passes over a KiB: 8 passes over [`MAX_MEMORY_KIB`].
pub const MAX_WORK_KIB: u64 = 8 * 1024 * 1024;

const SALT: usize = 16;
const OUTPUT: usize = 32;

/// A password hash that can be verified within bounds.
pub struct PasswordHash(Kind);

enum Kind {
    /// As we make them.
    Argon2(Argon2Hash),
    /// As users bring them along.
    Other(Stored),
}

struct Argon2Hash {
    algorithm: Algorithm,
    version: Version,
    params: Params,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// What verifying a hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cost {
    /// By Argon2.
    Argon2(Argon2Cost),
    /// By another function.
    Other(Work),
}

/// What Argon2 costs: memory in KiB, passes, lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Argon2Cost {
    /// Memory in KiB (`m`).
    pub memory_kib: u32,
    /// Passes over it (`t`).
    pub passes: u32,
    /// Lanes (`p`), computed one after the other.
    pub lanes: u32,
}

/// Why a text is not a password hash this version verifies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// A known kind that this version does not verify.
    #[error("{0} hashes are not supported; use argon2id (portcullis hash-password)")]
    Unsupported(&'static str),
    /// Not a password hash, or an unknown kind.
    #[error(
        "not a hash of a kind that is known: argon2, scrypt or pbkdf2 in PHC form ($argon2id$v=19$m=…,t=…,p=…$salt$hash), \
         or bcrypt ($2b$…)"
    )]
    Malformed,
    /// Verifying it would take more memory or time than one login may.
    #[error("asks for too much: {0}")]
    TooCostly(String),
}

/// A worker's memory, kept from one hash to the next: page faults would cost more than the hash itself.
#[derive(Default)]
pub struct Memory(Vec<Block>);

impl Memory {
    /// Memory beyond this, in KiB, is given back after use.
    const KEPT_KIB: usize = 64 * 1024;

    fn blocks(&mut self, params: &Params) -> &mut [Block] {
        let count = params.block_count();
        if self.0.len() < count {
            self.0.resize_with(count, Block::new);
        }
        self.0.get_mut(..count).unwrap_or_default()
    }

    fn trim(&mut self) {
        self.0.truncate(Self::KEPT_KIB);
        self.0.shrink_to(Self::KEPT_KIB);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} KiB)", self.0.len())
    }
}

impl PasswordHash {
    /// Reads a hash: argon2, scrypt and pbkdf2 in PHC form, and bcrypt.
    ///
    /// # Errors
    /// [`HashError`], also for parameters with which one login could exhaust the machine.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        if let Some(stored) = Stored::parse(text) {
            return stored.map(|stored| Self(Kind::Other(stored)));
        }
        if let Some(kind) = unsupported_kind(text) {
            return Err(HashError::Unsupported(kind));
        }
        let phc = argon2::PasswordHash::new(text).map_err(|_| HashError::Malformed)?;
        let algorithm = phc.algorithm.as_str().parse().map_err(|_| HashError::Malformed)?;
        // The reference implementation reads an absent version as 0x10.
        let version = phc.version.unwrap_or(0x10).try_into().map_err(|_| HashError::Malformed)?;
        let mut params = Params::try_from(&phc.params).map_err(|_| HashError::Malformed)?;
        let (Some(salt), Some(output)) = (phc.salt, phc.hash) else { return Err(HashError::Malformed) };
        if phc.params.is_empty() || !params.keyid().is_empty() || !params.data().is_empty() {
            return Err(HashError::Malformed);
        }
        params = Params::new(params.m_cost(), params.t_cost(), params.p_cost(), Some(output.len()))
            .map_err(|_| HashError::Malformed)?;
        let (memory, passes) = (params.m_cost(), params.t_cost());
        let work = u64::from(memory).saturating_mul(passes.into());
        if memory > MAX_MEMORY_KIB || work > MAX_WORK_KIB {
            let most = format!("at most m={MAX_MEMORY_KIB} and m*t={MAX_WORK_KIB}");
            return Err(HashError::TooCostly(format!("m={memory}, t={passes}, {most}")));
        }
        let (salt, output) = (salt.as_ref().to_vec(), output.as_bytes().to_vec());
        Ok(Self(Kind::Argon2(Argon2Hash { algorithm, version, params, salt, output })))
    }

    /// A hash of no password that takes the same work as others of `cost`; it verifies nothing.
    /// `None` if Argon2 has no such parameters.
    pub fn of_nobody(cost: Cost) -> Option<Self> {
        let Argon2Cost { memory_kib, passes, lanes } = match cost {
            Cost::Argon2(cost) => cost,
            Cost::Other(work) => return Some(Self(Kind::Other(Stored::of_nobody(work)))),
        };
        let params = Params::new(memory_kib, passes, lanes, Some(OUTPUT)).ok()?;
        let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
        Some(Self(Kind::Argon2(Argon2Hash {
            algorithm,
            version,
            params,
            salt: vec![0; SALT],
            output: Vec::new(),
        })))
    }

    /// What verifying it costs.
    pub fn cost(&self) -> Cost {
        match &self.0 {
            Kind::Argon2(hash) => Cost::Argon2(hash.cost()),
            Kind::Other(stored) => Cost::Other(stored.work()),
        }
    }

    /// Whether a hash of ours should take its place, now that its password is known. Where it does not tell this
    /// password from all others, it stays.
    pub fn is_outdated_for(&self, password: &[u8]) -> bool {
        match &self.0 {
            Kind::Argon2(_) => false,
            Kind::Other(stored) => stored.sees_all_of(password),
        }
    }

    /// Whether it is the hash of `password`.
    pub fn verifies(&self, password: &[u8], memory: &mut Memory) -> bool {
        match &self.0 {
            Kind::Argon2(hash) => hash.verifies(password, memory),
            Kind::Other(stored) => stored.verifies(password),
        }
    }
}

impl Argon2Hash {
    fn cost(&self) -> Argon2Cost {
        let params = &self.params;
        Argon2Cost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() }
    }

    fn verifies(&self, password: &[u8], memory: &mut Memory) -> bool {
        let mut output = vec![0; self.params.output_len().unwrap_or(OUTPUT)];
        let argon2 = Argon2::new(self.algorithm, self.version, self.params.clone());
        let blocks = memory.blocks(&self.params);
        let hashed = argon2.hash_password_into_with_memory(password, &self.salt, &mut output, blocks);
        memory.trim();
        hashed.is_ok() && bool::from(output.ct_eq(&self.output))
    }
}

impl Argon2Cost {
    /// What new hashes cost (OWASP's minimum for Argon2id): 19 MiB, two passes, one lane.
    pub const DEFAULT: Self = Self {
        memory_kib: Params::DEFAULT_M_COST,
        passes: Params::DEFAULT_T_COST,
        lanes: Params::DEFAULT_P_COST,
    };
}

impl Cost {
    /// What new hashes cost.
    pub const DEFAULT: Self = Self::Argon2(Argon2Cost::DEFAULT);
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").field("cost", &self.cost()).finish_non_exhaustive()
    }
}

/// Makes the PHC string of a password with the default cost.
///
/// # Errors
/// Argon2's own, which no password of a size that fits in memory meets.
pub fn hash_password(password: &[u8], salt: [u8; SALT]) -> Result<String, argon2::Error> {
    let Argon2Cost { memory_kib, passes, lanes } = Argon2Cost::DEFAULT;
    let params = Params::new(memory_kib, passes, lanes, Some(OUTPUT))?;
    let mut output = [0; OUTPUT];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
        password,
        &salt,
        &mut output,
    )?;
    let [salt, output] = [&salt[..], &output[..]].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    Ok(format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${output}"))
}

fn unsupported_kind(text: &str) -> Option<&'static str> {
    const KINDS: [(&str, &str); 8] = [
        ("$2", "other bcrypt"),
        ("$7$", "crypt's scrypt"),
        ("$pbkdf2", "other PBKDF2"),
        ("$1$", "MD5-crypt"),
        ("$5$", "SHA-256-crypt"),
        ("$6$", "SHA-512-crypt"),
        ("$y$", "yescrypt"),
        ("{", "LDAP-style"),
    ];
    KINDS.iter().find(|(prefix, _)| text.starts_with(prefix)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argon2(memory_kib: u32) -> Cost {
        Cost::Argon2(Argon2Cost { memory_kib, passes: 1, lanes: 1 })
    }

    #[test]
    fn hashes_of_other_kinds_verify_and_are_outdated_but_where_they_are_blind() {
        let text = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let hash = PasswordHash::parse(text).unwrap();
        let mut memory = Memory::default();
        assert!(hash.verifies(b"U*U", &mut memory) && !hash.verifies(b"U*V", &mut memory));
        assert!(hash.is_outdated_for(b"U*U") && hash.is_outdated_for(&[b'a'; 71]));
        assert!(!hash.is_outdated_for(&[b'a'; 72]), "what it does not look at must not become a password");
        assert!(!PasswordHash::parse(&hash_password(b"x", [3; 16]).unwrap()).unwrap().is_outdated_for(b"x"));
        assert!(PasswordHash::of_nobody(hash.cost()).unwrap().cost() == hash.cost());
    }

    const SALTED: &str = "c29tZXNhbHRzb21lc2FsdA";

    fn text(params: &str) -> String {
        format!("$argon2id$v=19${params}${SALTED}${}", STANDARD_NO_PAD.encode([1; 32]))
    }

    #[test]
    fn a_made_hash_verifies_its_password_and_no_other() {
        let text = hash_password("pässword\0x".as_bytes(), [3; 16]).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let hash = PasswordHash::parse(&text).unwrap();
        let mut memory = Memory::default();
        assert!(hash.verifies("pässword\0x".as_bytes(), &mut memory));
        for other in ["", "pässword", "pässword\0", "pässword\0xx"] {
            assert!(!hash.verifies(other.as_bytes(), &mut memory), "{other:?}");
        }
    }

    /// Made with the reference implementation's command line tool (its README's example).
    #[test]
    fn the_reference_implementations_hash_verifies() {
        let text = "$argon2i$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b+dWRWJTmaaJObG";
        assert!(PasswordHash::parse(text).unwrap().verifies(b"password", &mut Memory::default()));
    }

    #[test]
    fn every_byte_of_a_long_password_counts() {
        let long = vec![b'a'; 1024];
        let hash = PasswordHash::parse(&hash_password(&long, [3; 16]).unwrap()).unwrap();
        let mut other = long.clone();
        other[1023] = b'b';
        let mut memory = Memory::default();
        assert!(hash.verifies(&long, &mut memory));
        assert!(!hash.verifies(&other, &mut memory) && !hash.verifies(&long[..72], &mut memory));
    }

    #[test]
    fn a_hash_of_nobody_verifies_nothing() {
        let hash = PasswordHash::of_nobody(argon2(8)).unwrap();
        assert!(!hash.verifies(b"", &mut Memory::default()));
    }

    #[test]
    fn a_hash_that_could_exhaust_the_machine_is_refused() {
        assert!(PasswordHash::parse(&text("m=19456,t=2,p=1")).is_ok());
        for params in
            ["m=1048577,t=1,p=1", "m=4294967295,t=1,p=1", "m=1048576,t=9,p=1", "m=8,t=4294967295,p=1"]
        {
            let refused = PasswordHash::parse(&text(params)).unwrap_err();
            assert!(matches!(refused, HashError::TooCostly(_)), "{params}: {refused}");
        }
    }

    #[test]
    fn other_kinds_are_named_and_garbage_is_refused() {
        let error = |text: &str| PasswordHash::parse(text).unwrap_err();
        assert_eq!(error("$2x$05$CCCCCCCCCCCCCCCCCCCCC"), HashError::Unsupported("other bcrypt"));
        assert_eq!(error("$pbkdf2$i=1,l=32$c29tZXNhbHQ$aaaa"), HashError::Unsupported("other PBKDF2"));
        assert_eq!(error("$1$salt$hash"), HashError::Unsupported("MD5-crypt"));
        let cut = text("m=8,t=1,p=1");
        for bad in [
            "",
            "secret",
            "$",
            "$argon2id$",
            "$argon2x$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aaaaaaaaaaaaaaaaaaaaaa",
            &text("m=0,t=1,p=1"),
            &text("m=8,t=0,p=1"),
            &text("m=8,t=1,p=2"),
            &text("m=8,t=1,p=1,keyid=AAAA"),
            &cut.replace("v=19", "v=99"),
            cut.rsplit_once('$').unwrap().0,
        ] {
            assert_eq!(error(bad), HashError::Malformed, "{bad}");
        }
    }

    #[test]
    fn memory_is_reused_and_a_large_one_given_back() {
        let mut memory = Memory::default();
        PasswordHash::of_nobody(argon2(80 * 1024)).unwrap().verifies(b"", &mut memory);
        assert_eq!(memory.0.len(), Memory::KEPT_KIB);
        PasswordHash::of_nobody(argon2(8)).unwrap().verifies(b"", &mut memory);
        assert_eq!(memory.0.len(), Memory::KEPT_KIB);
    }
}
