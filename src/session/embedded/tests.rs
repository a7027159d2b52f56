//! The embedded store against the common claims, and what only a file can get wrong.

use super::{EmbeddedStore, OpenError, rows};
use crate::clock::{Clock, ManualClock, random_bytes};
use crate::session::conformance::{self, Rig, every_store_must};
use crate::session::family::{LINGER, Outcome, RotationPolicy};
use crate::session::id::{SessionId, SessionRef, UserKey};
use crate::session::refresh_token::Presented;
use crate::session::store::{Cursor, Delivery, EndReason, NewSession, SessionStore, StoreError};
use async_trait::async_trait;
use redb::backends::FileBackend;
use redb::{BackendError, Database, ReadableDatabase as _, ReadableTableMetadata as _, StorageBackend};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A folder of its own for each test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = SessionId::from_bytes(random_bytes().unwrap());
        Self(std::env::temp_dir().join(format!("portcullis-sessions-{name}")))
    }

    fn file(&self) -> PathBuf {
        self.0.join("data/sessions.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct Embedded {
    store: Arc<dyn SessionStore>,
    inner: Arc<EmbeddedStore>,
    clock: Arc<ManualClock>,
    _folder: Folder,
}

#[async_trait]
impl Rig for Embedded {
    async fn start(policy: RotationPolicy) -> Self {
        let folder = Folder::new();
        let clock = conformance::clock();
        let inner = Arc::new(EmbeddedStore::open(&folder.file(), policy, clock.clone()).unwrap());
        Self { store: inner.clone(), inner, clock, _folder: folder }
    }

    fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn damage(&self, user: UserKey, session: SessionId) {
        let txn = self.inner.handle.get().unwrap().begin_write().unwrap();
        {
            let mut sessions = txn.open_table(rows::SESSIONS).unwrap();
            sessions.insert(rows::session_key(user, session), &b"{\"family\":7}"[..]).unwrap();
        }
        txn.commit().unwrap();
    }
}

every_store_must!(Embedded);

fn open(path: &Path, clock: &Arc<ManualClock>) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(path, RotationPolicy::default(), clock.clone())
}

fn new_session(clock: &ManualClock) -> NewSession {
    NewSession {
        id: SessionId::from_bytes(random_bytes().unwrap()),
        user: UserKey::from_bytes(random_bytes().unwrap()),
        secret_hash: [5; 32],
        subject: "alice".to_owned(),
        claims: serde_json::Map::new(),
        delivery: Delivery::Body,
        absolute_expiry: clock.now().plus(Duration::from_secs(1_000_000)),
        device: None,
        address: None,
        known_epoch: 0,
    }
}

fn token(new: &NewSession, generation: u32) -> Presented {
    Presented {
        session: new.id,
        user: new.user,
        secret_hash: new.secret_hash,
        generation,
        absolute_expiry: new.absolute_expiry,
    }
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let _first = open(&folder.file(), &clock).unwrap();
    let refusal = open(&folder.file(), &clock).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    assert!(refusal.to_string().contains("in use by another process"));
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, clock) = (Folder::new(), conformance::clock());
    drop(open(&folder.file(), &clock).unwrap());
    let mode = || std::fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(folder.file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&folder.file(), &clock).unwrap());
    assert_eq!(mode(), 0o600);
}

#[tokio::test]
async fn a_file_that_is_no_session_store_is_refused() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    std::fs::create_dir_all(folder.file().parent().unwrap()).unwrap();
    std::fs::write(folder.file(), vec![b'x'; 20_000]).unwrap();
    let refusal = open(&folder.file(), &clock).unwrap_err();
    assert!(refusal.to_string().contains("sessions.redb"), "{refusal}");
}

#[tokio::test]
async fn a_file_altered_behind_our_back_is_refused_or_whole_but_never_a_panic() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    {
        let store = open(&folder.file(), &clock).unwrap();
        for _ in 0..20 {
            store.open(new_session(&clock)).await.unwrap();
        }
    }
    let whole = std::fs::read(folder.file()).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut altered = whole.clone();
        altered.iter_mut().skip(at).take(64).for_each(|byte| *byte ^= 0xff);
        std::fs::write(folder.file(), altered).unwrap();
        refused += u32::from(open(&folder.file(), &clock).is_err());
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_later_layout_is_refused() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    drop(open(&folder.file(), &clock).unwrap());
    {
        let database = Database::open(folder.file()).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(rows::NUMBERS).unwrap().insert(rows::FORMAT, 3).unwrap();
        txn.commit().unwrap();
    }
    assert!(matches!(open(&folder.file(), &clock), Err(OpenError::Layout { found: 3, .. })));
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let (kept, ended) = (new_session(&clock), new_session(&clock));
    let mut cursor = Cursor::default();
    {
        let store = open(&folder.file(), &clock).unwrap();
        store.open(kept.clone()).await.unwrap();
        store.open(ended.clone()).await.unwrap();
        store.rotate(&token(&kept, 0)).await.unwrap();
        store.end(ended.user, ended.id, EndReason::Logout).await.unwrap();
        cursor = store.revocations(&cursor).await.unwrap().1;
    }
    let store = open(&folder.file(), &clock).unwrap();
    assert_eq!(store.rotate(&token(&kept, 0)).await.unwrap().outcome, Outcome::Retry);
    assert_eq!(store.rotate(&token(&ended, 0)).await.unwrap().outcome, Outcome::Revoked);
    assert_eq!(store.revocations(&cursor).await.unwrap().0, []);
    assert_eq!(store.revocations(&Cursor::default()).await.unwrap().0.len(), 1);
    store.end(kept.user, kept.id, EndReason::Logout).await.unwrap();
    assert_eq!(store.revocations(&cursor).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn what_has_expired_is_swept_and_cursors_stay_good() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let store = open(&folder.file(), &clock).unwrap();
    for _ in 0..100 {
        let new = new_session(&clock);
        store.open(new.clone()).await.unwrap();
        store.end(new.user, new.id, EndReason::Logout).await.unwrap();
        store.end_all(new.user).await.unwrap();
    }
    let (found, cursor) = store.revocations(&Cursor::default()).await.unwrap();
    assert_eq!(found.len(), 200);

    clock.advance(RotationPolicy::default().absolute * 2 + LINGER);
    for _ in 0..50 {
        let new = new_session(&clock);
        store.open(new.clone()).await.unwrap();
    }
    let txn = store.handle.get().unwrap().begin_read().unwrap();
    assert!(txn.open_table(rows::SESSIONS).unwrap().len().unwrap() <= 60);
    assert_eq!(txn.open_table(rows::ENDED).unwrap().len().unwrap(), 0);
    assert_eq!(txn.open_table(rows::USERS).unwrap().len().unwrap(), 0);
    assert_eq!(txn.open_table(rows::REVOCATIONS).unwrap().len().unwrap(), 0);
    drop(txn);
    store.end_all(UserKey::from_bytes([1; 12])).await.unwrap();
    assert_eq!(store.revocations(&cursor).await.unwrap().0.len(), 1);
}

/// How many sessions lie where those of a user are gone through, and how many where they are in nobody's way.
fn counts(store: &EmbeddedStore) -> (u64, u64) {
    let txn = store.handle.get().unwrap().begin_read().unwrap();
    let count = |table| txn.open_table(table).unwrap().len().unwrap();
    (count(rows::SESSIONS), count(rows::ENDED))
}

#[tokio::test]
async fn what_is_ended_is_in_nobodys_way_and_still_known() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let store = open(&folder.file(), &clock).unwrap();
    let user = UserKey::from_bytes([7; 12]);
    let mut all = Vec::new();
    for _ in 0..120 {
        let new = NewSession { user, ..new_session(&clock) };
        store.open(new.clone()).await.unwrap();
        all.push(new);
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(counts(&store), (50, 70));
    store.end(user, all[119].id, EndReason::Logout).await.unwrap();
    clock.advance(Duration::from_secs(100));
    for _ in 0..2 {
        store.rotate(&token(&all[118], 0)).await.unwrap();
        clock.advance(Duration::from_secs(100));
    }
    store.rotate(&token(&all[118], 1)).await.unwrap();
    clock.advance(Duration::from_secs(100));
    assert_eq!(store.rotate(&token(&all[118], 0)).await.unwrap().outcome, Outcome::Reused);
    assert_eq!(counts(&store), (48, 72));
    assert_eq!(store.list(user).await.unwrap().len(), 48);

    let revoked = async |store: &EmbeddedStore, new: &NewSession| {
        let reference = SessionRef { session: new.id, user, generation: 0, epoch: new.known_epoch };
        assert!(store.is_ended(&reference).await.unwrap());
        assert!(!store.end(user, new.id, EndReason::Logout).await.unwrap());
        assert_eq!(store.rotate(&token(new, 0)).await.unwrap().outcome, Outcome::Revoked);
        // The answer to its login may have been lost, and be asked for again.
        assert_eq!(store.open(new.clone()).await.unwrap().session.id, new.id);
    };
    for at in [0, 69, 118, 119] {
        revoked(&store, &all[at]).await;
    }
    assert_eq!(store.end_all(user).await.unwrap().ended, 48);
    assert_eq!(counts(&store), (0, 120));
    store.confirm(&[SessionRef { session: all[100].id, user, generation: 0, epoch: 0 }]).await.unwrap();
    drop(store);
    let store = open(&folder.file(), &clock).unwrap();
    for new in &all {
        revoked(&store, new).await;
    }
    assert_eq!(counts(&store), (0, 120));
}

#[tokio::test]
async fn what_an_earlier_version_left_among_the_living_is_put_away() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let store = open(&folder.file(), &clock).unwrap();
    let user = UserKey::from_bytes([7; 12]);
    let new = NewSession { user, ..new_session(&clock) };
    store.open(new.clone()).await.unwrap();
    store.end(user, new.id, EndReason::Logout).await.unwrap();
    let txn = store.handle.get().unwrap().begin_write().unwrap();
    {
        let key = rows::session_key(user, new.id);
        let mut ended = txn.open_table(rows::ENDED).unwrap();
        let value = ended.remove(key).unwrap().unwrap().value().to_vec();
        txn.open_table(rows::SESSIONS).unwrap().insert(key, &*value).unwrap();
    }
    txn.commit().unwrap();
    assert_eq!(counts(&store), (1, 0));
    assert_eq!(store.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Revoked);
    let other = NewSession { user, ..new_session(&clock) };
    store.open(other).await.unwrap();
    assert_eq!(counts(&store), (1, 1));
    assert_eq!(store.rotate(&token(&new, 0)).await.unwrap().outcome, Outcome::Revoked);
}

#[tokio::test]
async fn a_session_that_cannot_be_read_keeps_nobody_from_logging_in_or_out() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let store = open(&folder.file(), &clock).unwrap();
    let user = UserKey::from_bytes([7; 12]);
    let [odd, other] = [(); 2].map(|()| NewSession { user, ..new_session(&clock) });
    store.open(odd.clone()).await.unwrap();
    let txn = store.handle.get().unwrap().begin_write().unwrap();
    txn.open_table(rows::SESSIONS).unwrap().insert(rows::session_key(user, odd.id), &b"{}"[..]).unwrap();
    txn.commit().unwrap();
    assert!(matches!(store.rotate(&token(&odd, 0)).await, Err(StoreError::Corrupt(_))));
    store.open(other.clone()).await.unwrap();
    assert_eq!(store.end_all(user).await.unwrap().ended, 1);
    assert_eq!(store.rotate(&token(&other, 0)).await.unwrap().outcome, Outcome::Revoked);
}

/// A disk that is full when told so.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

#[tokio::test]
async fn a_full_disk_is_an_outage_that_ends_when_there_is_room_again() {
    let (folder, clock) = (Folder::new(), conformance::clock());
    let full = Arc::new(AtomicBool::new(false));
    let (path, disk) = (folder.file(), Arc::clone(&full));
    let store = EmbeddedStore::open_by(&folder.file(), RotationPolicy::default(), clock.clone(), move || {
        let full = Arc::clone(&disk);
        super::open_backend(&path, move |file| Disk { file, full })
    })
    .unwrap();
    let new = new_session(&clock);
    store.open(new.clone()).await.unwrap();

    full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = store.rotate(&token(&new, 0)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    full.store(false, Ordering::SeqCst);
    let patience = Instant::now() + Duration::from_secs(20);
    let outcome = loop {
        match store.rotate(&token(&new, 0)).await {
            Ok(rotation) => break rotation.outcome,
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(matches!(outcome, Outcome::Rotated | Outcome::Retry), "{outcome:?}");
}

/// Set for the process that is to be killed; names the file it writes.
const CHILD: &str = "PORTCULLIS_TEST_SESSIONS_FILE";

/// Not a test by itself: what [`what_was_acknowledged_survives_a_kill`] starts and kills.
#[test]
fn child_that_writes_until_killed() {
    #[expect(clippy::disallowed_methods, reason = "the way into a child process")]
    let Some(path) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(Path::new(&path), &conformance::clock()).unwrap());
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                loop {
                    let new = new_session(&conformance::clock());
                    store.open(new.clone()).await.unwrap();
                    assert!(store.rotate(&token(&new, 0)).await.unwrap().outcome.grants());
                    println!("\nacknowledged {} {}", new.user, new.id);
                }
            });
        }
        writers.join_all().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    use std::io::BufRead as _;
    let folder = Folder::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "session::embedded::tests::child_that_writes_until_killed"])
        .env(CHILD, folder.file())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 100 {
        let line = lines.next().expect("the child ended by itself").unwrap();
        acknowledged.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let later = lines.map_while(Result::ok);
    acknowledged.extend(later.filter_map(|line| Some(line.strip_prefix("acknowledged ")?.to_owned())));

    let store = open(&folder.file(), &conformance::clock()).unwrap();
    for line in &acknowledged {
        let (user, id) = line.split_once(' ').unwrap();
        // The last line may have been cut off by the kill.
        let Some(id) = SessionId::parse(id) else { continue };
        let sessions = store.list(UserKey::parse(user).unwrap()).await.unwrap();
        assert_eq!(sessions.len(), 1, "{line} was acknowledged and is lost");
        assert_eq!((sessions[0].id, sessions[0].generation), (id, 1));
    }
}
