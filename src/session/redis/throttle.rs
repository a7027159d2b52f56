//! The login throttle of all gateways on one Redis: the bucket of a network in one hash slot, those of an
//! account in another, each asked by one script.

use super::{RedisStore, keys, millis};
use crate::session::store::StoreError;
use crate::session::throttle::{
    Acquittal, Attempt, Bucket, KNOWN_FOR, SharedThrottle, ThrottleSettings, Verdict,
};
use async_trait::async_trait;
use std::time::{Duration, Instant};

impl RedisStore {
    async fn take_from(
        &self,
        shard: u8,
        buckets: &[(String, Bucket)],
        marks: impl Iterator<Item = String>,
        deadline: Instant,
    ) -> Result<(Duration, usize), StoreError> {
        let mut script = self.scripts.take.call();
        script.arg(self.time()).arg(buckets.len());
        for (key, bucket) in buckets {
            script.key(key.clone()).arg(millis(bucket.capacity())).arg(millis(bucket.every));
        }
        for mark in marks {
            script.key(mark);
        }
        let (wait, counted) = self.link.script_by(shard, &script, deadline).await?;
        Ok((Duration::from_millis(wait), counted))
    }

    async fn give_back_to(
        &self,
        shard: u8,
        buckets: &[(String, Bucket)],
        mark: Option<String>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut script = self.scripts.give_back.call();
        script.arg(self.time()).arg(millis(KNOWN_FOR));
        for (key, bucket) in buckets {
            script.key(key.clone()).arg(millis(bucket.every));
        }
        if let Some(mark) = mark {
            script.key(mark);
        }
        self.link.script_by(shard, &script, deadline).await
    }
}

#[async_trait]
impl SharedThrottle for RedisStore {
    async fn take(&self, attempt: &Attempt, settings: &ThrottleSettings) -> Result<Verdict, StoreError> {
        let deadline = self.link.deadline();
        let network = of_network(attempt, settings);
        let (wait, _) = self.take_from(attempt.network_shard, &network, std::iter::empty(), deadline).await?;
        if !wait.is_zero() {
            return Ok(Verdict::Refused(wait));
        }
        let account = of_account(attempt, settings);
        let shard = attempt.account_shard;
        let names = attempt.formerly.iter().chain([&attempt.account_network]);
        let marks = names.map(|name| keys::known_network(shard, *name));
        let taken = self.take_from(shard, &account, marks, deadline).await;
        match taken {
            Ok((Duration::ZERO, counted)) => {
                return Ok(Verdict::Granted { stranger: counted == account.len() });
            }
            // As if it had never been asked; if that fails too, the network has one try less until it refills.
            Ok(_) | Err(_) => drop(self.give_back_to(attempt.network_shard, &network, None, deadline).await),
        }
        taken.map(|(wait, _)| Verdict::Refused(wait))
    }

    async fn give_back(
        &self,
        attempt: &Attempt,
        stranger: bool,
        why: Acquittal,
        settings: &ThrottleSettings,
    ) -> Result<(), StoreError> {
        let deadline = self.link.deadline();
        let network = of_network(attempt, settings);
        let mut account = of_account(attempt, settings).to_vec();
        account.truncate(if stranger { 2 } else { 1 });
        let shard = attempt.account_shard;
        let mark = (why == Acquittal::Right).then(|| keys::known_network(shard, attempt.account_network));
        let of_network = async {
            if why.spares_network() {
                self.give_back_to(attempt.network_shard, &network, None, deadline).await
            } else {
                Ok(())
            }
        };
        let of_account = self.give_back_to(shard, &account, mark, deadline);
        let (network, account) = tokio::join!(of_network, of_account);
        network.and(account)
    }
}

fn of_network(attempt: &Attempt, settings: &ThrottleSettings) -> [(String, Bucket); 1] {
    [(keys::network(attempt.network_shard, attempt.network), settings.network)]
}

/// The one that does not count tries from a known network stands last.
fn of_account(attempt: &Attempt, settings: &ThrottleSettings) -> [(String, Bucket); 2] {
    let shard = attempt.account_shard;
    [
        (keys::account_network(shard, attempt.account_network), settings.account_network),
        (keys::account(shard, attempt.account), settings.account),
    ]
}
