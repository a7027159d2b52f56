//! The process's limit of open files: each connection takes one, and most requests another to their upstream.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what the system allows; the usual soft limit of 1024 is kept for programs of another age.
/// Says so if that is less than the connections that the configuration allows.
pub(super) fn allow(connections: usize) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    if let Some(limit) = maximum.filter(|limit| *limit < connections as u64) {
        tracing::warn!(
            limit,
            connections,
            "the system allows fewer open files than server.limits.connections; raise the hard limit (ulimit -Hn, \
             LimitNOFILE), or lower the other"
        );
    }
}
