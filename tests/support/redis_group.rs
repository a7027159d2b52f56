//! Several real Redis servers together: a primary with its replica and a sentinel, and a cluster.

use super::ports::free_port;
use super::redis::Redis;
use super::wait::eventually;
use std::time::Duration;

/// A primary, its replica, and a sentinel that makes the replica the primary when the primary dies.
pub(crate) struct Watched {
    pub(crate) primary: Redis,
    pub(crate) replica: Redis,
    sentinel: Redis,
}

const PROMPT: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

impl Watched {
    pub(crate) fn start() -> Self {
        let primary = Redis::start_with(&PROMPT);
        let of = format!("127.0.0.1 {}", primary.port());
        let replica = Redis::start_with(&[&PROMPT[..], &["--replicaof", &of]].concat());
        replica.comes_to_say("INFO replication", "master_link_status:up");
        primary.comes_to_say("INFO replication", "state=online");
        let sentinel = Redis::sentinel_of(&primary);
        sentinel.comes_to_say("INFO sentinel", "status=ok,address=127.0.0.1");
        sentinel.comes_to_say("INFO sentinel", "slaves=1,");
        Self { primary, replica, sentinel }
    }

    /// The keys under `redis:` in the configuration.
    pub(crate) fn store(&self) -> String {
        let port = self.sentinel.port();
        format!("sentinel: {{ nodes: [\"redis://127.0.0.1:{port}\"], master: mymaster }}, timeout: 500ms")
    }

    /// Lets the replica have all there is, and nothing from then on. Stopping its process would not do: what
    /// is on its way to it outlives the primary, and is read when it goes on.
    pub(crate) fn cut_off_the_replica(&self) {
        let offset = |server: &Redis| {
            let said = server.ask("INFO replication");
            said.lines().find_map(|line| line.strip_prefix("master_repl_offset:").map(str::to_owned))
        };
        let followed = || offset(&self.primary) == offset(&self.replica);
        assert!(eventually(Duration::from_secs(20), followed), "the replica does not follow");
        self.replica.ask("CONFIG SET masterauth nonsense");
        self.primary.ask("CLIENT KILL TYPE replica");
        self.replica.comes_to_say("INFO replication", "master_link_status:down");
    }

    /// `kill -9` for the primary; returns when the replica has taken its place.
    pub(crate) fn fail_over(&mut self) {
        self.primary.stop();
        self.replica.comes_to_say("INFO replication", "role:master");
    }
}

/// A cluster of three primaries, with one replica each.
pub(crate) struct Cluster {
    /// The primaries first.
    pub(crate) servers: Vec<Redis>,
}

const PRIMARIES: usize = 3;

impl Cluster {
    pub(crate) fn start() -> Self {
        let buses: Vec<u16> = (0..2 * PRIMARIES).map(|_| free_port()).collect();
        let servers: Vec<Redis> = buses.iter().map(|bus| member(*bus)).collect();
        let all = || servers.iter();
        for (n, server) in all().enumerate() {
            server.ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1));
            server.ask(&format!("CLUSTER MEET 127.0.0.1 {} {}", servers[0].port(), buses[0]));
        }
        for (n, primary) in all().enumerate().take(PRIMARIES) {
            let (from, to) = (16_384 * n / PRIMARIES, 16_384 * (n + 1) / PRIMARIES - 1);
            primary.ask(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
        }
        let known = format!("cluster_known_nodes:{}", servers.len());
        all().for_each(|server| server.comes_to_say("CLUSTER INFO", &known));
        for (n, replica) in all().enumerate().skip(PRIMARIES) {
            let primary = servers[n % PRIMARIES].ask("CLUSTER MYID");
            replica.comes_to_say("CLUSTER NODES", &primary);
            replica.ask(&format!("CLUSTER REPLICATE {primary}"));
        }
        all().for_each(|server| server.comes_to_say("CLUSTER INFO", "cluster_state:ok"));
        for replica in all().skip(PRIMARIES) {
            replica.comes_to_say("INFO replication", "master_link_status:up");
        }
        Self { servers }
    }

    /// The keys under `redis:` in the configuration; it names only two of the servers.
    pub(crate) fn store(&self) -> String {
        let [one, two] = [&self.servers[1], &self.servers[5]].map(Redis::port);
        format!("cluster: [\"redis://127.0.0.1:{one}\", \"redis://127.0.0.1:{two}\"], timeout: 10s")
    }

    pub(crate) fn primaries(&self) -> &[Redis] {
        &self.servers[..PRIMARIES]
    }
}

fn member(bus: u16) -> Redis {
    Redis::start_with(
        &[
            &PROMPT[..],
            &["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()],
            &["--cluster-node-timeout", "5000", "--cluster-replica-validity-factor", "0"],
        ]
        .concat(),
    )
}
