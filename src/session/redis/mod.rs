//! The Redis store: any number of gateways, one atomic script per transition, Redis's clock.

mod call;
mod cluster;
mod decode;
mod feed;
mod keys;
mod link;
mod node;
mod prudence;
mod scripts;
mod sentinel;
mod settings;
mod throttle;

pub use settings::{RedisSettings, Servers, SettingsError};

use super::family::{LostResponse, OnReuse, Outcome, RotationPolicy};
use super::id::{SessionId, SessionRef, UserKey};
use super::record::Details;
use super::refresh_token::Presented;
use super::store::{
    Cursor, EndReason, EndedAll, NewSession, Opened, Revocation, Rotation, SessionRecord, SessionStore,
    StoreError,
};
use crate::clock::{Clock, Timestamp};
use async_trait::async_trait;
use call::{Call, Script};
use decode::corrupt;
use futures_util::future::try_join_all;
use link::Link;
use redis::Pipeline;
use scripts::Scripts;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The largest whole number that Lua can hold exactly.
const LARGEST: u64 = 1 << 53;

/// Sessions in Redis.
pub struct RedisStore {
    link: Link,
    scripts: Scripts,
    policy: RotationPolicy,
    /// Replaces Redis's clock, in tests.
    clock: Option<Arc<dyn Clock>>,
}

impl RedisStore {
    /// A store that connects when it is first used, and again whenever the connection is lost.
    ///
    /// # Errors
    /// [`SettingsError`] if the settings cannot be used; that Redis does not answer is no error here.
    pub fn connect_lazily(settings: &RedisSettings, policy: RotationPolicy) -> Result<Self, SettingsError> {
        Ok(Self { link: Link::new(settings)?, scripts: Scripts::new(), policy, clock: None })
    }

    /// The first argument of every script: empty lets Redis use its own clock.
    fn time(&self) -> String {
        self.clock.as_ref().map_or_else(String::new, |clock| clock.now().as_millis().to_string())
    }

    fn revocation_lifetime(&self) -> u64 {
        millis(self.policy.revocation_lifetime())
    }

    /// A script about one session, with its keys.
    fn about<'a>(&self, script: &'a Script, user: UserKey, session: SessionId) -> Call<'a> {
        let mut script = script.call();
        script
            .key(keys::session(user, session))
            .key(keys::user(user))
            .key(keys::index(user))
            .key(keys::stream(user.shard()))
            .key(keys::evicted(user))
            .arg(self.time());
        script
    }

    /// A script about all sessions of a user.
    fn about_all<'a>(&self, script: &'a Script, user: UserKey) -> Call<'a> {
        let mut script = script.call();
        script
            .key(keys::user(user))
            .key(keys::index(user))
            .key(keys::stream(user.shard()))
            .arg(self.time())
            .arg(user.to_string())
            .arg(self.revocation_lifetime())
            .arg(millis(self.policy.absolute));
        script
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn open(&self, new: NewSession) -> Result<Opened, StoreError> {
        let details = serde_json::to_vec(&Details::from(new.clone()))
            .map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let mut script = self.about(&self.scripts.open, new.user, new.id);
        script
            .arg(&new.secret_hash[..])
            .arg(new.id.to_string())
            .arg(&details[..])
            .arg(new.absolute_expiry.as_millis().min(LARGEST))
            .arg(millis(self.policy.idle))
            .arg(self.policy.max_per_user.max(1))
            .arg(self.revocation_lifetime())
            .arg(new.user.to_string())
            .arg(millis(self.policy.absolute))
            .arg(new.known_epoch);
        let (record, evicted): (Vec<u8>, Vec<String>) = self.link.script(new.user.shard(), &script).await?;
        let session = decode::with_details(new.user, new.id, &decode::family(&record)?.0, &details)?;
        let evicted = evicted.iter().map(|id| decode::session_id(id)).collect::<Result<_, _>>()?;
        Ok(Opened { session, evicted })
    }

    async fn rotate(&self, presented: &Presented) -> Result<Rotation, StoreError> {
        let Presented { user, session, .. } = *presented;
        let lost_response = match self.policy.lost_response {
            LostResponse::UntilUsed => "-1".to_owned(),
            LostResponse::Within(limit) => millis(limit).to_string(),
        };
        let on_reuse = match self.policy.on_reuse {
            OnReuse::Session => "session",
            OnReuse::User => "user",
        };
        let mut script = self.about(&self.scripts.rotate, user, session);
        script
            .arg(&presented.secret_hash[..])
            .arg(presented.generation)
            .arg(session.to_string())
            .arg(user.to_string())
            .arg(millis(self.policy.idle))
            .arg(millis(self.policy.grace))
            .arg(millis(self.policy.coalesce))
            .arg(lost_response)
            .arg(on_reuse)
            .arg(self.revocation_lifetime())
            .arg(millis(self.policy.absolute));
        let (word, record, raised): (String, Option<Vec<u8>>, Option<u32>) =
            self.link.script(user.shard(), &script).await?;
        let outcome = decode::outcome(&word)?;
        if outcome == Outcome::Reused {
            self.link.replicated(user.shard()).await;
        }
        let session = record.map(|record| decode::session(user, session, &record)).transpose()?;
        if outcome.grants() && session.is_none() {
            return Err(corrupt("a grant without a session"));
        }
        Ok(Rotation { outcome, session, raised })
    }

    async fn end(&self, user: UserKey, session: SessionId, why: EndReason) -> Result<bool, StoreError> {
        let mut script = self.about(&self.scripts.end, user, session);
        script.arg(session.to_string()).arg(decode::end_code(why)).arg(self.revocation_lifetime());
        let ended = self.link.script(user.shard(), &script).await?;
        self.link.replicated(user.shard()).await;
        Ok(ended)
    }

    async fn end_all(&self, user: UserKey) -> Result<EndedAll, StoreError> {
        let script = self.about_all(&self.scripts.end_all, user);
        let (ended, epoch) = self.link.script(user.shard(), &script).await?;
        self.link.replicated(user.shard()).await;
        Ok(EndedAll { ended, epoch })
    }

    async fn list(&self, user: UserKey) -> Result<Vec<SessionRecord>, StoreError> {
        let mut pipe = Pipeline::new();
        pipe.cmd("ZRANGE").arg(keys::index(user)).arg(0).arg(-1);
        let (entries,): (Vec<String>,) = self.link.pipeline(user.shard(), &pipe).await?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::with_capacity(entries.len());
        let mut pipe = Pipeline::with_capacity(2 + entries.len());
        pipe.cmd("TIME").cmd("GET").arg(keys::user(user));
        for entry in &entries {
            let id = decode::session_id(entry.split(':').next().unwrap_or_default())?;
            pipe.cmd("GET").arg(keys::session(user, id));
            ids.push(id);
        }
        let answers: Vec<redis::Value> = self.link.pipeline(user.shard(), &pipe).await?;
        decode::living(user, &ids, answers, self.clock.as_ref().map(|clock| clock.now()))
    }

    async fn confirm(&self, seen: &[SessionRef]) -> Result<(), StoreError> {
        let mut shards: BTreeMap<u8, Vec<&SessionRef>> = BTreeMap::new();
        for seen in seen {
            shards.entry(seen.user.shard()).or_default().push(seen);
        }
        for (shard, seen) in shards {
            let mut script = self.scripts.confirm.call();
            script.arg(self.time());
            for seen in seen {
                script.key(keys::session(seen.user, seen.session)).arg(seen.generation);
            }
            let () = self.link.script(shard, &script).await?;
        }
        Ok(())
    }

    async fn revocations(&self, after: &Cursor) -> Result<(Vec<Revocation>, Cursor), StoreError> {
        feed::read(&self.link, after).await
    }

    async fn reapply(&self, known: &[Revocation]) -> Result<(), StoreError> {
        let again = known.iter().map(async |known| match *known {
            Revocation::Session { session, user, .. } => {
                let mut script = self.about(&self.scripts.reapply, user, session);
                script.arg(session.to_string()).arg(self.revocation_lifetime());
                self.link.script::<()>(user.shard(), &script).await
            }
            Revocation::User { user, epoch, .. } => {
                let mut script = self.about_all(&self.scripts.reapply_all, user);
                script.arg(epoch);
                self.link.script::<()>(user.shard(), &script).await
            }
        });
        try_join_all(again).await.map(drop)
    }

    async fn is_ended(&self, token: &SessionRef) -> Result<bool, StoreError> {
        let SessionRef { user, session, .. } = *token;
        let mut pipe = Pipeline::new();
        pipe.cmd("GETRANGE").arg(keys::session(user, session)).arg(0).arg(decode::STATE - 1);
        pipe.cmd("GET").arg(keys::user(user));
        pipe.cmd("ZSCORE").arg(keys::evicted(user)).arg(session.to_string());
        let (state, epoch, evicted): (Vec<u8>, Option<u32>, Option<f64>) =
            self.link.pipeline(user.shard(), &pipe).await?;
        // What is not there is an empty range.
        let is_alive = !state.is_empty() && decode::family(&state)?.0.ended.is_none();
        let raised = token.epoch < epoch.unwrap_or_default();
        Ok(!is_alive || raised || evicted.is_some())
    }

    async fn clocks(&self) -> Result<Vec<Timestamp>, StoreError> {
        let questions: Vec<_> = (0..UserKey::SHARDS).map(|_| redis::cmd("TIME")).collect();
        let (answers, failure) = self.link.every_shard(&questions).await;
        let replaced = self.clock.as_ref().map(|clock| clock.now());
        let clocks: Vec<_> =
            answers.into_iter().flatten().map(|said| replaced.unwrap_or(decode::server_time(said))).collect();
        match failure {
            Some(failure) if clocks.is_empty() => Err(failure),
            _ => Ok(clocks),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(LARGEST).min(LARGEST)
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod sentinel_tests;
#[cfg(test)]
mod server;
#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod throttle_tests;
#[cfg(test)]
mod tls_tests;
