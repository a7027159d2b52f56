//! Redis Sentinel: asks which server is the primary, and takes it only if it says so itself.

use super::node::connect;
use super::settings::{Access, Address, SettingsError};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::aio::MultiplexedConnection;
use redis::{Client, ErrorKind, RedisError, RedisResult, Value};

pub(super) struct Sentinels {
    /// Each with the user that the URL names, and without.
    asked: Vec<(Client, Client)>,
    master: String,
    primary: Access,
}

impl Sentinels {
    pub(super) fn new(primary: Access, sentinels: &[Address], master: String) -> Result<Self, SettingsError> {
        let (known, unknown) = primary.of_sentinels();
        let asked = sentinels
            .iter()
            .map(|address| Ok((known.client(address)?, unknown.client(address)?)))
            .collect::<Result<_, SettingsError>>()?;
        Ok(Self { asked, master, primary })
    }

    /// A connection to the primary. All sentinels are asked at once, so that one that is gone costs nothing;
    /// one that missed a failover is not believed, since the server it names says that it is a replica.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut answers: FuturesUnordered<_> =
            self.asked.iter().map(|(known, unknown)| self.ask(known, unknown)).collect();
        let mut failure = RedisError::from((ErrorKind::Client, "there is no sentinel to ask"));
        let mut tried = Vec::new();
        while let Some(answer) = answers.next().await {
            let result = match answer {
                Ok(address) if tried.contains(&address) => continue,
                Ok(address) => {
                    let result = self.connect_to(&address).await;
                    tried.push(address);
                    result
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask(&self, known: &Client, unknown: &Client) -> RedisResult<Address> {
        let mut sentinel = match connect(known).await {
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => connect(unknown).await?,
            result => result?,
        };
        let address: Option<Address> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.master)
            .query_async(&mut sentinel)
            .await?;
        address.ok_or_else(|| {
            (ErrorKind::Client, "the sentinel knows no such master", self.master.clone()).into()
        })
    }

    async fn connect_to(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        let client = self.primary.client(address).map_err(|error| {
            RedisError::from((ErrorKind::Client, "the sentinel named no usable address", error.to_string()))
        })?;
        let mut connection = connect(&client).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
            _ => Err((ErrorKind::Client, "the server that the sentinel named is no primary").into()),
        }
    }
}
