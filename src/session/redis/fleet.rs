//! A real Redis Cluster of a test's own.

use super::server::{Server, free_port, until};
use super::settings::{RedisSettings, Servers};
use crate::secret::Secret;
use std::time::Duration;

pub(super) struct Fleet {
    /// The primaries first.
    pub(super) servers: Vec<Server>,
    pub(super) primaries: usize,
}

impl Fleet {
    /// So many primaries, with `replicas` each.
    pub(super) fn start(primaries: usize, replicas: usize) -> Self {
        let servers: Vec<_> = (0..primaries * (1 + replicas)).map(|_| member()).collect();
        let fleet = Self { servers, primaries };
        let all = &fleet.servers;
        for (n, server) in all.iter().enumerate() {
            let () = server.query(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1));
            if n > 0 {
                let bus = all[0].query::<Vec<String>>("CONFIG GET cluster-port").remove(1);
                let () = server.query(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", all[0].port));
            }
        }
        for (n, primary) in all.iter().enumerate().take(primaries) {
            let (from, to) = (16_384 * n / primaries, 16_384 * (n + 1) / primaries - 1);
            let () = primary.query(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
        }
        let known = format!("cluster_known_nodes:{}\r", all.len());
        until("everyone knows everyone", || all.iter().all(|server| server.says("CLUSTER INFO", &known)));
        for (n, server) in all.iter().enumerate().skip(primaries) {
            let primary = fleet.id(n % primaries);
            until("it knows its primary", || server.says("CLUSTER NODES", &primary));
            let () = server.query(&format!("CLUSTER REPLICATE {primary}"));
        }
        let ok = "cluster_state:ok\r";
        until("all is well", || all.iter().all(|server| server.says("CLUSTER INFO", ok)));
        let up = "master_link_status:up\r";
        until("replicas follow", || {
            all[primaries..].iter().all(|server| server.says("INFO replication", up))
        });
        let shown = |server: &Server| server.query::<Vec<Vec<redis::Value>>>("CLUSTER SLOTS");
        let complete = |server: &Server| {
            let rows = shown(server);
            rows.len() == primaries && rows.iter().all(|row| row.len() == 3 + replicas)
        };
        until("everyone knows the replicas", || all.iter().all(complete));
        fleet
    }

    pub(super) fn id(&self, n: usize) -> String {
        self.servers[n].query("CLUSTER MYID")
    }

    /// Which primary holds a slot.
    pub(super) fn holder(&self, slot: u16) -> usize {
        (0..self.primaries).find(|n| usize::from(slot) < 16_384 * (n + 1) / self.primaries).unwrap()
    }

    /// Names only two of the servers.
    pub(super) fn settings(&self) -> RedisSettings {
        let urls = self.servers.iter().rev().take(2).map(|server| Secret::new(server.url())).collect();
        RedisSettings { servers: Servers::Cluster(urls), timeout: Duration::from_secs(10), ca: None }
    }
}

fn member() -> Server {
    let bus = free_port();
    let port = bus.local_addr().unwrap().port().to_string();
    drop(bus);
    Server::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &port,
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
        "--cluster-replica-validity-factor",
        "0",
    ])
}
