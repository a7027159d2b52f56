//! The directory in a file: a table of users, replaced as a whole when the file changes.

use super::password::PasswordPool;
use super::password_hash::{HashError, PasswordHash};
use super::{Credentials, DirectoryError, Identity, RESERVED_CLAIMS, Standing, UserDirectory, nobody};
use crate::secret::Secret;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the users are (`sessions.users.file`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// The path of `users.yaml`.
    pub path: PathBuf,
}

/// One user as the file has it.
#[derive(Debug, Clone)]
pub struct UserRecord {
    /// The login name.
    pub username: String,
    /// The password's hash in PHC form.
    pub password_hash: Secret<String>,
    /// The subject; the username if absent.
    pub subject: Option<String>,
    /// Further claims.
    pub claims: Map<String, Value>,
    /// Whether the user may not log in or refresh.
    pub disabled: bool,
}

/// A record that cannot be a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("user {username:?}: {problem}")]
pub struct RecordError {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its username.
    pub username: String,
    /// What is wrong.
    pub problem: RecordProblem,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// A username or subject that is empty, too long, or has a control character.
    #[error("the {0} must have 1 to {MAX_NAME} bytes and no control character")]
    Name(&'static str),
    /// The same username twice.
    #[error("the username is used twice")]
    RepeatedUsername,
    /// The same subject twice: the two would share their sessions.
    #[error("the subject {0:?} is another user's")]
    RepeatedSubject(String),
    /// The hash cannot be verified.
    #[error("password_hash: {0}")]
    Hash(#[from] HashError),
    /// A claim the gateway sets itself.
    #[error("the claim {0:?} is set by the gateway itself")]
    ReservedClaim(String),
    /// `scope` or `roles` of a type that no reader expects.
    #[error("the claim {0:?} must be {1}")]
    ClaimType(&'static str, &'static str),
    /// The claims would make tokens that are too large for request headers.
    #[error("the claims take {0} bytes as JSON; at most {MAX_CLAIMS} fit in a token")]
    ClaimsTooLarge(usize),
}

const MAX_NAME: usize = 255;
const MAX_CLAIMS: usize = 4096;

/// A hash in the file that is not of the kind we make, and one of the same password that is.
#[derive(Debug)]
pub struct Upgrade {
    /// As it stands in the file.
    pub old: Secret<String>,
    /// What should stand there.
    pub new: Secret<String>,
}

/// Who is told of hashes that should be replaced.
pub type UpgradeObserver = Arc<dyn Fn(Upgrade) + Send + Sync>;

#[derive(Debug)]
struct User {
    identity: Identity,
    hash: Arc<PasswordHash>,
    /// As it stands in the file.
    text: Secret<String>,
    disabled: bool,
}

#[derive(Debug)]
struct Table {
    by_username: HashMap<String, Arc<User>>,
    by_subject: HashMap<String, Arc<User>>,
    /// Verified for names that are not in the table, so that they take as long as those that are.
    nobody: Arc<PasswordHash>,
}

/// Users from a file.
pub struct FileDirectory {
    table: ArcSwap<Table>,
    pool: Arc<PasswordPool>,
    upgrades: UpgradeObserver,
}

impl std::fmt::Debug for FileDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDirectory").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Whether these records can be users, without becoming any.
///
/// # Errors
/// Every record that cannot be a user.
pub fn check(records: &[UserRecord]) -> Result<(), Vec<RecordError>> {
    Table::new(records.to_vec()).map(drop)
}

impl FileDirectory {
    /// A directory of these users.
    ///
    /// # Errors
    /// Every record that cannot be a user.
    pub fn new(records: Vec<UserRecord>, pool: Arc<PasswordPool>) -> Result<Self, Vec<RecordError>> {
        let upgrades = Arc::new(|_| ());
        Ok(Self { table: ArcSwap::from_pointee(Table::new(records)?), pool, upgrades })
    }

    /// Tells who it is of hashes that should be replaced, after a good login.
    #[must_use]
    pub fn telling(self, upgrades: UpgradeObserver) -> Self {
        Self { upgrades, ..self }
    }

    /// Makes a hash of our kind from a password that was just found right. Nobody waits for it.
    fn upgrade(&self, user: &User, password: Secret<String>) {
        let (pool, upgrades) = (Arc::clone(&self.pool), Arc::clone(&self.upgrades));
        let old = user.text.clone();
        tokio::spawn(async move {
            // A pool that is busy has better things to do; the next login comes.
            if let Ok(new) = pool.make(password).await {
                upgrades(Upgrade { old, new });
            }
        });
    }

    /// Puts other users in the place of all of these, at once.
    ///
    /// # Errors
    /// Every record that cannot be a user; the users stay as they were.
    pub fn replace(&self, records: Vec<UserRecord>) -> Result<(), Vec<RecordError>> {
        self.table.store(Arc::new(Table::new(records)?));
        Ok(())
    }
}

#[async_trait]
impl UserDirectory for FileDirectory {
    async fn authenticate(&self, credentials: Credentials) -> Result<Option<Identity>, DirectoryError> {
        let table = self.table.load_full();
        let user = table.by_username.get(&credentials.username);
        let hash = user.map_or(&table.nobody, |user| &user.hash);
        let outdated = hash.is_outdated_for(credentials.password.expose().as_bytes());
        let kept = outdated.then(|| credentials.password.clone());
        let right = self.pool.verify(Arc::clone(hash), credentials.password).await?;
        let user = user.filter(|user| right && !user.disabled);
        if let (Some(user), Some(password)) = (user, kept) {
            self.upgrade(user, password);
        }
        Ok(user.map(|user| user.identity.clone()))
    }

    async fn standing(&self, subject: &str) -> Result<Standing, DirectoryError> {
        let table = self.table.load();
        let user = table.by_subject.get(subject).filter(|user| !user.disabled);
        Ok(user.map_or(Standing::Gone, |user| Standing::Current(user.identity.clone())))
    }
}

impl Table {
    fn new(records: Vec<UserRecord>) -> Result<Self, Vec<RecordError>> {
        let (mut by_username, mut by_subject) = (HashMap::new(), HashMap::new());
        let mut errors = Vec::new();
        for (index, record) in records.into_iter().enumerate() {
            let username = record.username.clone();
            let user = match User::try_from(record) {
                Ok(user) => Arc::new(user),
                Err(problem) => {
                    errors.push(RecordError { index, username, problem });
                    continue;
                }
            };
            let subject = user.identity.subject.clone();
            if by_subject.insert(subject.clone(), Arc::clone(&user)).is_some() {
                let problem = RecordProblem::RepeatedSubject(subject);
                errors.push(RecordError { index, username: username.clone(), problem });
            }
            if by_username.insert(username.clone(), user).is_some() {
                errors.push(RecordError { index, username, problem: RecordProblem::RepeatedUsername });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let cost = nobody::usual_cost(by_username.values().map(|user| user.hash.cost()));
        match nobody::hash(cost) {
            Some(nobody) => Ok(Self { by_username, by_subject, nobody }),
            None => Err(errors),
        }
    }
}

impl TryFrom<UserRecord> for User {
    type Error = RecordProblem;

    fn try_from(record: UserRecord) -> Result<Self, RecordProblem> {
        let UserRecord { username, password_hash, subject, claims, disabled } = record;
        if !is_name(&username) {
            return Err(RecordProblem::Name("username"));
        }
        let subject = subject.unwrap_or(username);
        if !is_name(&subject) {
            return Err(RecordProblem::Name("subject"));
        }
        check_claims(&claims)?;
        let hash = Arc::new(PasswordHash::parse(password_hash.expose())?);
        Ok(Self { identity: Identity { subject, claims }, hash, text: password_hash, disabled })
    }
}

/// Whether a text can be a username or a subject.
pub(super) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Whether a directory may give these claims.
pub(super) fn check_claims(claims: &Map<String, Value>) -> Result<(), RecordProblem> {
    if let Some(name) = claims.keys().find(|name| RESERVED_CLAIMS.contains(&name.as_str())) {
        return Err(RecordProblem::ReservedClaim(name.clone()));
    }
    if claims.get("scope").is_some_and(|scope| !scope.is_string()) {
        return Err(RecordProblem::ClaimType("scope", "one string, scopes separated by spaces"));
    }
    let strings = |roles: &Value| roles.as_array().is_some_and(|roles| roles.iter().all(Value::is_string));
    if claims.get("roles").is_some_and(|roles| !strings(roles)) {
        return Err(RecordProblem::ClaimType("roles", "a list of strings"));
    }
    let size = serde_json::to_string(claims).map_or(usize::MAX, |json| json.len());
    if size > MAX_CLAIMS { Err(RecordProblem::ClaimsTooLarge(size)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::password::PoolSettings;
    use crate::directory::password::tests::stalled;
    use crate::directory::password_hash::hash_password;
    use serde_json::json;

    fn record(username: &str, password: &str) -> UserRecord {
        UserRecord {
            username: username.to_owned(),
            password_hash: Secret::new(hash_password(password.as_bytes(), [1; 16]).unwrap()),
            subject: None,
            claims: Map::new(),
            disabled: false,
        }
    }

    fn pool() -> Arc<PasswordPool> {
        Arc::new(PasswordPool::start(PoolSettings::default()).unwrap())
    }

    fn with_claims(claims: &Value) -> UserRecord {
        UserRecord { claims: claims.as_object().unwrap().clone(), ..record("alice", "x") }
    }

    fn problem(records: Vec<UserRecord>) -> RecordProblem {
        FileDirectory::new(records, pool()).unwrap_err().remove(0).problem
    }

    async fn login(directory: &FileDirectory, username: &str, password: &str) -> Option<Identity> {
        let password = Secret::new(password.to_owned());
        directory.authenticate(Credentials { username: username.to_owned(), password }).await.unwrap()
    }

    #[tokio::test]
    async fn the_right_password_yields_the_identity_and_everything_else_none() {
        let bob = UserRecord {
            subject: Some("u-2".to_owned()),
            claims: json!({"roles": ["clerk"]}).as_object().unwrap().clone(),
            ..record("bob", "b-secret")
        };
        let eve = UserRecord { disabled: true, ..record("eve", "e-secret") };
        let directory = FileDirectory::new(vec![record("alice", "a-secret"), bob, eve], pool()).unwrap();
        assert_eq!(login(&directory, "alice", "a-secret").await.unwrap().subject, "alice");
        let bob = login(&directory, "bob", "b-secret").await.unwrap();
        assert_eq!((bob.subject.as_str(), &bob.claims["roles"]), ("u-2", &json!(["clerk"])));
        for (username, password) in
            [("alice", "b-secret"), ("alice", ""), ("Alice", "a-secret"), ("eve", "e-secret"), ("nobody", "")]
        {
            assert_eq!(login(&directory, username, password).await, None, "{username}");
        }
    }

    #[tokio::test]
    async fn a_removed_or_disabled_user_is_gone_after_a_replacement() {
        let directory = FileDirectory::new(vec![record("alice", "x"), record("bob", "x")], pool()).unwrap();
        assert!(matches!(directory.standing("alice").await.unwrap(), Standing::Current(_)));
        let disabled = UserRecord { disabled: true, ..record("bob", "x") };
        directory.replace(vec![disabled]).unwrap();
        assert_eq!(directory.standing("alice").await.unwrap(), Standing::Gone);
        assert_eq!(directory.standing("bob").await.unwrap(), Standing::Gone);
        assert_eq!(login(&directory, "alice", "x").await, None);
    }

    /// bcrypt's hash of `U*U`.
    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    #[tokio::test]
    async fn after_a_good_login_a_hash_of_another_kind_is_replaced_and_after_a_bad_one_it_is_not() {
        let old = UserRecord { password_hash: Secret::new(BCRYPT.to_owned()), ..record("alice", "x") };
        let gone = UserRecord {
            password_hash: Secret::new(BCRYPT.to_owned()),
            disabled: true,
            ..record("carol", "x")
        };
        let (told, mut upgrades) = tokio::sync::mpsc::unbounded_channel();
        let directory = FileDirectory::new(vec![old, gone, record("bob", "U*U")], pool()).unwrap();
        let directory = directory.telling(Arc::new(move |upgrade| told.send(upgrade).unwrap()));
        assert_eq!(login(&directory, "alice", "wrong").await, None);
        assert_eq!(login(&directory, "carol", "U*U").await, None);
        assert!(login(&directory, "bob", "U*U").await.is_some());
        assert!(login(&directory, "alice", "U*U").await.is_some());
        let Upgrade { old, new } = upgrades.recv().await.unwrap();
        assert_eq!(old.expose(), BCRYPT);
        assert!(new.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let made = PasswordHash::parse(new.expose()).unwrap();
        let mut memory = crate::directory::password_hash::Memory::default();
        assert!(made.verifies(b"U*U", &mut memory) && !made.verifies(b"wrong", &mut memory));
        assert!(upgrades.try_recv().is_err(), "one login, one upgrade");
    }

    #[tokio::test]
    async fn unknown_names_cost_what_users_of_another_kind_cost() {
        let old = || UserRecord { password_hash: Secret::new(BCRYPT.to_owned()), ..record("a", "x") };
        let other = UserRecord { username: "b".into(), ..old() };
        let directory = FileDirectory::new(vec![old(), other, record("c", "x")], pool()).unwrap();
        let table = directory.table.load();
        assert_eq!(table.nobody.cost(), table.by_username["a"].hash.cost());
        assert_ne!(table.nobody.cost(), table.by_username["c"].hash.cost());
    }

    #[tokio::test]
    async fn a_bad_replacement_changes_nothing() {
        let directory = FileDirectory::new(vec![record("alice", "x")], pool()).unwrap();
        let bad = UserRecord { password_hash: Secret::new("plain".to_owned()), ..record("bob", "x") };
        let errors = directory.replace(vec![record("carol", "x"), bad]).unwrap_err();
        assert_eq!((errors[0].index, errors[0].username.as_str()), (1, "bob"));
        assert!(login(&directory, "alice", "x").await.is_some());
    }

    #[tokio::test]
    async fn every_login_costs_a_hash_whether_or_not_there_is_such_a_user() {
        let (pool, _queue) = stalled(8);
        let pool = Arc::new(pool);
        let eve = UserRecord { disabled: true, ..record("eve", "x") };
        let directory = FileDirectory::new(vec![record("alice", "x"), eve], Arc::clone(&pool)).unwrap();
        for (n, username) in ["alice", "eve", "nobody", ""].into_iter().enumerate() {
            tokio::select! {
                biased;
                _ = login(&directory, username, "x") => panic!("{username:?} was judged without a hash"),
                () = std::future::ready(()) => assert_eq!(pool.waiting(), n + 1),
            }
        }
        let table = directory.table.load();
        assert_eq!(table.nobody.cost(), table.by_username["alice"].hash.cost());
    }

    #[test]
    fn records_that_cannot_be_users_are_named() {
        assert_eq!(problem(vec![record("", "x")]), RecordProblem::Name("username"));
        assert_eq!(problem(vec![record("a\nb", "x")]), RecordProblem::Name("username"));
        let twice = vec![record("a", "x"), UserRecord { subject: Some("s".into()), ..record("a", "x") }];
        assert_eq!(problem(twice), RecordProblem::RepeatedUsername);
        let shared = vec![record("a", "x"), UserRecord { subject: Some("a".into()), ..record("b", "x") }];
        assert_eq!(problem(shared), RecordProblem::RepeatedSubject("a".to_owned()));
        let crypt = UserRecord { password_hash: Secret::new("$6$x$y".into()), ..record("a", "x") };
        assert_eq!(problem(vec![crypt]), RecordProblem::Hash(HashError::Unsupported("SHA-512-crypt")));
    }

    #[test]
    fn claims_the_gateway_sets_and_claims_no_reader_expects_are_refused() {
        for name in RESERVED_CLAIMS {
            let refused = problem(vec![with_claims(&json!({ *name: "x" }))]);
            assert_eq!(refused, RecordProblem::ReservedClaim((*name).to_owned()));
        }
        assert!(matches!(problem(vec![with_claims(&json!({"scope": ["a"]}))]), RecordProblem::ClaimType(..)));
        assert!(matches!(problem(vec![with_claims(&json!({"roles": "a"}))]), RecordProblem::ClaimType(..)));
        let large = json!({"x": "y".repeat(MAX_CLAIMS)});
        assert!(matches!(problem(vec![with_claims(&large)]), RecordProblem::ClaimsTooLarge(_)));
    }
}
