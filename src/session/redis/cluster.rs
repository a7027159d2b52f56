//! Redis Cluster: which server holds each of our shards. There are only sixteen hash slots to know.

use super::call::Question;
use super::node::{Failure, Node, Place, is_wrong_server};
use super::settings::{Access, Address, SettingsError};
use crate::session::id::UserKey;
use arc_swap::ArcSwapOption;
use futures_util::future::{join_all, select_ok};
use redis::{ErrorKind, FromRedisValue, Pipeline, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How often a call follows the news that its shard has moved.
const REDIRECTIONS: usize = 3;

/// The servers, as far as they are known. While a shard's hash slot is being moved from one to another, its
/// operations fail; afterwards they follow it.
pub(super) struct Cluster {
    access: Access,
    seeds: Vec<Address>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    /// The server of each shard.
    routes: Vec<ArcSwapOption<Node>>,
    learning: tokio::sync::Mutex<()>,
}

impl Cluster {
    pub(super) fn new(access: Access, seeds: Vec<Address>) -> Result<Self, SettingsError> {
        if access.database() != 0 {
            return Err(SettingsError::Database);
        }
        Ok(Self {
            access,
            seeds,
            nodes: Mutex::default(),
            routes: (0..UserKey::SHARDS).map(|_| ArcSwapOption::empty()).collect(),
            learning: tokio::sync::Mutex::new(()),
        })
    }

    /// Asks the server of a shard. It is asked again only where it said that the shard is elsewhere, and so
    /// did nothing.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        shard: u8,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let mut redirected = 0;
        loop {
            let node = self.route(shard, deadline).await?;
            let failure = match node.ask(question, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match &failure {
                Failure::Refused(error) if error.kind() == moved() && redirected < REDIRECTIONS => {
                    redirected += 1;
                    let route = self.routes.get(usize::from(shard));
                    match error.redirect_node().and_then(|(address, _)| parse(address, &node)) {
                        Some(address) => route.map(|route| route.store(self.node(&address))),
                        None => route.map(|route| route.store(None)),
                    };
                    continue;
                }
                Failure::Refused(error) if error.kind() == moved() || is_wrong_server(error) => {
                    self.forget(&node);
                }
                Failure::Broken(_) | Failure::Late(true) => self.forget(&node),
                Failure::Refused(_) | Failure::Late(false) | Failure::NotAsked => {}
            }
            return Err(failure);
        }
    }

    /// The shards by the server they lie on, for questions to several at once. A shard whose server is not
    /// known stands alone.
    pub(super) async fn grouped(&self, deadline: Instant) -> Vec<Vec<u8>> {
        let shards = 0..UserKey::SHARDS;
        let routes = join_all(shards.clone().map(|shard| self.route(shard, deadline))).await;
        let mut groups: Vec<(Option<Arc<Node>>, Vec<u8>)> = Vec::new();
        for (shard, node) in shards.zip(routes) {
            let node = node.ok();
            let same = |known: &Option<Arc<Node>>| matches!((known, &node), (Some(known), Some(node)) if Arc::ptr_eq(known, node));
            match groups.iter_mut().find(|(known, _)| same(known)) {
                Some((_, members)) => members.push(shard),
                None => groups.push((node, vec![shard])),
            }
        }
        groups.into_iter().map(|(_, shards)| shards).collect()
    }

    /// The server of a shard, if it is known.
    pub(super) fn known(&self, shard: u8) -> Option<Arc<Node>> {
        self.routes.get(usize::from(shard)).and_then(ArcSwapOption::load_full)
    }

    async fn route(&self, shard: u8, deadline: Instant) -> Result<Arc<Node>, Failure> {
        if let Some(node) = self.known(shard) {
            return Ok(node);
        }
        let Ok(_one_at_a_time) = tokio::time::timeout_at(deadline.into(), self.learning.lock()).await else {
            return Err(Failure::Late(false));
        };
        if let Some(node) = self.known(shard) {
            return Ok(node);
        }
        self.learn(deadline).await?;
        self.known(shard).ok_or_else(|| {
            let what = "the cluster has no server for a hash slot";
            Failure::Refused((ErrorKind::Client, what).into())
        })
    }

    /// Asks every known server who holds which slots, and believes the first that knows.
    async fn learn(&self, deadline: Instant) -> Result<(), Failure> {
        let asked: Vec<_> = {
            let mut addresses = self.seeds.clone();
            addresses.extend(self.nodes().keys().filter(|known| !self.seeds.contains(known)).cloned());
            addresses.iter().filter_map(|address| self.node(address)).collect()
        };
        let mut pipe = Pipeline::new();
        pipe.cmd("CLUSTER").arg("SLOTS");
        let question = Question::Commands(&pipe);
        let answers = asked.iter().map(|node| {
            Box::pin(async {
                let (rows,): (Vec<Vec<Value>>,) = node.ask(&question, deadline).await?;
                Range::all(rows, node).ok_or_else(|| {
                    let what = "a server that knows no slots of a cluster";
                    Failure::Refused((ErrorKind::Client, what).into())
                })
            })
        });
        let (ranges, _) = select_ok(answers).await?;
        for (shard, route) in (0..UserKey::SHARDS).zip(&self.routes) {
            let slot = slot(shard);
            let range = ranges.iter().find(|range| (range.first..=range.last).contains(&slot));
            route.store(range.and_then(|range| range.servers.first()).and_then(|primary| self.node(primary)));
        }
        // Replicas are kept in mind too: when their primary is gone, they know.
        let servers: Vec<_> = ranges.iter().flat_map(|range| &range.servers).collect();
        for address in &servers {
            self.node(address);
        }
        self.nodes().retain(|address, _| servers.contains(&address) || self.seeds.contains(address));
        Ok(())
    }

    /// Whoever holds what this one held is to be asked for anew.
    fn forget(&self, node: &Arc<Node>) {
        for route in &self.routes {
            route.compare_and_swap(node, None);
        }
    }

    fn node(&self, address: &Address) -> Option<Arc<Node>> {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get(address) {
            return Some(Arc::clone(node));
        }
        let client = self.access.client(address).ok()?;
        let node = Arc::new(Node::new(Place::Fixed(client, address.clone())));
        nodes.insert(address.clone(), Arc::clone(&node));
        Some(node)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Address, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A range of hash slots and its servers, the primary first.
struct Range {
    first: u16,
    last: u16,
    servers: Vec<Address>,
}

impl Range {
    /// Those that `CLUSTER SLOTS` lists, as told by `node`; `None` if there are none.
    fn all(rows: Vec<Vec<Value>>, node: &Node) -> Option<Vec<Self>> {
        let ranges: Vec<_> = rows.into_iter().filter_map(|row| Self::read(row, node)).collect();
        (!ranges.is_empty()).then_some(ranges)
    }

    fn read(row: Vec<Value>, node: &Node) -> Option<Self> {
        let mut row = row.into_iter();
        let first = u16::from_redis_value(row.next()?).ok()?;
        let last = u16::from_redis_value(row.next()?).ok()?;
        let server = |value: Value| {
            let mut parts = Vec::<Value>::from_redis_value(value).ok()?.into_iter();
            let host = Option::<String>::from_redis_value(parts.next()?).ok()?;
            let port = u16::from_redis_value(parts.next()?).ok()?;
            // A server that does not know how it is reached leaves its name out: as we reached it, then.
            let host = host.filter(|host| !host.is_empty() && host != "?");
            Some((host.or_else(|| node.host().map(str::to_owned))?, port))
        };
        Some(Self { first, last, servers: row.filter_map(server).collect() })
    }
}

const fn moved() -> ErrorKind {
    ErrorKind::Server(redis::ServerErrorKind::Moved)
}

/// `host:port`; IPv6 without brackets; an empty host is that of the server which said it.
fn parse(address: &str, said_by: &Node) -> Option<Address> {
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { said_by.host()? } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

/// The hash slot of a shard's keys: CRC-16 of what stands in their braces (Redis Cluster specification, "Key
/// distribution model").
pub(super) fn slot(shard: u8) -> u16 {
    let crc = shard.to_string().bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_are_those_that_redis_computes() {
        // From CLUSTER KEYSLOT.
        assert_eq!([0, 1, 9, 10, 15].map(slot), [13907, 9842, 10106, 247, 4178]);
    }
}
