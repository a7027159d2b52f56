//! The way to Redis: which server a question goes to, and how long its answer may take.

use super::call::{Call, Question};
use super::cluster::Cluster;
use super::keys;
use super::node::{Node, Place};
use super::sentinel::Sentinels;
use super::settings::{Access, RedisSettings, Servers, SettingsError};
use crate::session::id::UserKey;
use crate::session::store::StoreError;
use futures_util::future::join_all;
use redis::{Cmd, FromRedisValue, Pipeline, Value};
use std::slice;
use std::time::{Duration, Instant};

pub(super) struct Link {
    servers: Topology,
    timeout: Duration,
}

enum Topology {
    /// One server at a time holds everything.
    One(Node),
    /// Each shard has its own.
    Cluster(Cluster),
}

impl Link {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, SettingsError> {
        let access = |urls: &[_]| Access::new(urls, settings.ca.as_ref());
        let servers = match &settings.servers {
            Servers::One(url) => {
                let (access, mut addresses) = access(slice::from_ref(url))?;
                let address = addresses.pop().ok_or(SettingsError::Url)?;
                Topology::One(Node::new(Place::Fixed(access.client(&address)?, address)))
            }
            Servers::Cluster(urls) => {
                let (access, seeds) = access(urls)?;
                Topology::Cluster(Cluster::new(access, seeds)?)
            }
            Servers::Sentinel { nodes, master } => {
                let (access, sentinels) = access(nodes)?;
                let sentinels = Sentinels::new(access, &sentinels, master.clone())?;
                Topology::One(Node::new(Place::Watched(sentinels)))
            }
        };
        Ok(Self { servers, timeout: settings.timeout })
    }

    /// Runs a script on the server of a shard, in which all its keys lie.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        shard: u8,
        call: &Call<'_>,
    ) -> Result<T, StoreError> {
        self.script_by(shard, call, self.deadline()).await
    }

    /// The same, answered before `deadline`: several together take no longer than one.
    pub(super) async fn script_by<T: FromRedisValue>(
        &self,
        shard: u8,
        call: &Call<'_>,
        deadline: Instant,
    ) -> Result<T, StoreError> {
        self.ask(shard, &Question::Script(call), deadline).await
    }

    /// Sends commands together to the server of a shard and waits for all their answers.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        shard: u8,
        pipe: &Pipeline,
    ) -> Result<T, StoreError> {
        self.ask(shard, &Question::Commands(pipe), self.deadline()).await
    }

    /// Asks every shard its own question, in one round trip to each server. Where a server does not answer,
    /// so do none of its shards; the first failure is told too.
    pub(super) async fn every_shard<T: FromRedisValue>(
        &self,
        questions: &[Cmd],
    ) -> (Vec<Option<T>>, Option<StoreError>) {
        let groups = match &self.servers {
            Topology::One(_) => vec![(0..UserKey::SHARDS).collect()],
            Topology::Cluster(cluster) => cluster.grouped(self.deadline()).await,
        };
        let asked = groups.into_iter().map(async |shards: Vec<u8>| {
            let mut pipe = Pipeline::with_capacity(shards.len());
            for question in shards.iter().filter_map(|shard| questions.get(usize::from(*shard))) {
                pipe.add_command(question.clone());
            }
            let first = shards.first().copied().unwrap_or_default();
            let answers: Result<Vec<Value>, _> = self.pipeline(first, &pipe).await;
            (shards, answers)
        });
        let mut all: Vec<_> = questions.iter().map(|_| None).collect();
        let mut failure = None;
        for (shards, answers) in join_all(asked).await {
            match answers {
                Ok(answers) => {
                    for (shard, answer) in shards.into_iter().zip(answers) {
                        match (all.get_mut(usize::from(shard)), T::from_redis_value(answer)) {
                            (Some(place), Ok(answer)) => *place = Some(answer),
                            (_, Err(error)) => failure = Some(StoreError::Corrupt(error.to_string())),
                            (None, Ok(_)) => {}
                        }
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        (all, failure)
    }

    /// Gives a replica a moment to follow, so that what was just written to a shard survives the server that
    /// took it. Best effort.
    pub(super) async fn replicated(&self, shard: u8) {
        let key = keys::written(shard);
        match &self.servers {
            Topology::One(node) => node.replicated(&key).await,
            Topology::Cluster(cluster) => {
                if let Some(node) = cluster.known(shard) {
                    node.replicated(&key).await;
                }
            }
        }
    }

    async fn ask<T: FromRedisValue>(
        &self,
        shard: u8,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<T, StoreError> {
        let answer = match &self.servers {
            Topology::One(node) => node.ask(question, deadline).await,
            Topology::Cluster(cluster) => cluster.ask(shard, question, deadline).await,
        };
        answer.map_err(StoreError::from)
    }

    /// When an operation that begins now must have its answer.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}
