//! What is asked of a server: a script, or commands sent together.

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisResult, ServerErrorKind, ToRedisArgs};

/// A script and its name among those that a server knows.
pub(super) struct Script {
    code: String,
    hash: String,
}

impl Script {
    pub(super) fn new(code: String) -> Self {
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    pub(super) fn call(&self) -> Call<'_> {
        Call { script: self, keys: Vec::new(), args: Vec::new() }
    }
}

/// A script with its keys, which all lie in one hash slot, and its arguments.
pub(super) struct Call<'a> {
    script: &'a Script,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call<'_> {
    pub(super) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command
    }
}

pub(super) enum Question<'a> {
    Script(&'a Call<'a>),
    Commands(&'a Pipeline),
}

impl Question<'_> {
    pub(super) async fn ask<T: FromRedisValue>(&self, mut connection: impl ConnectionLike) -> RedisResult<T> {
        let call = match self {
            Self::Commands(pipeline) => return pipeline.query_async(&mut connection).await,
            Self::Script(call) => call,
        };
        match call.command("EVALSHA", &call.script.hash).query_async(&mut connection).await {
            // The server was restarted, or became the primary just now.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call.command("EVAL", &call.script.code).query_async(&mut connection).await
            }
            result => result,
        }
    }
}
