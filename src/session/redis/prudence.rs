//! Settings of a server that would end sessions behind everyone's back: said in the log at each connect.

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisResult, Value};

/// Looks at a server and warns. Best effort: a server may refuse to tell.
pub(super) async fn inspect(mut connection: MultiplexedConnection) {
    let mut pipe = Pipeline::new();
    pipe.ignore_errors();
    pipe.cmd("INFO").arg("memory").cmd("INFO").arg("persistence").cmd("CONFIG").arg("GET").arg("save");
    let answers: RedisResult<Vec<Value>> = pipe.query_async(&mut connection).await;
    let mut answers = answers.unwrap_or_default().into_iter();
    let mut text = || answers.next().and_then(|answer| String::from_redis_value(answer).ok());
    let (memory, persistence) = (text().unwrap_or_default(), text().unwrap_or_default());
    let save = answers.next().and_then(|answer| Vec::<String>::from_redis_value(answer).ok());
    for warning in warnings(&memory, &persistence, save.as_deref()) {
        tracing::warn!("Redis {warning}");
    }
}

/// What is imprudent, from the answers to `INFO memory`, `INFO persistence` and `CONFIG GET save`.
fn warnings(memory: &str, persistence: &str, save: Option<&[String]>) -> Vec<&'static str> {
    let field = |info: &str, name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let mut warnings = Vec::new();
    if field(memory, "maxmemory_policy").is_some_and(|policy| policy != "noeviction") {
        warnings.push(
            "may evict sessions when it is full, which logs their users out; set maxmemory-policy noeviction",
        );
    }
    let no_log = field(persistence, "aof_enabled").is_some_and(|enabled| enabled == "0");
    if no_log && save.is_some_and(|save| save.get(1).is_some_and(String::is_empty)) {
        warnings.push("keeps nothing on disk, so that its restart logs everyone out; set appendonly yes");
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_imprudent_is_warned_of() {
        let save = |text: &str| vec!["save".to_owned(), text.to_owned()];
        let (evicts, keeps) =
            ("maxmemory:9\r\nmaxmemory_policy:volatile-lru\r\n", "maxmemory_policy:noeviction\r\n");
        let (log, none) = ("aof_enabled:1\r\n", "aof_enabled:0\r\n");
        let count = |memory, persistence, save: Option<&[String]>| warnings(memory, persistence, save).len();
        assert_eq!(count(evicts, none, Some(&save(""))), 2);
        assert_eq!(count(evicts, log, Some(&save(""))), 1);
        assert_eq!(count(keeps, none, Some(&save("3600 1"))), 0);
        assert_eq!(count(keeps, none, Some(&save(""))), 1);
        assert_eq!(count(keeps, none, None), 0);
        assert_eq!(count("", "", None), 0);
    }
}
