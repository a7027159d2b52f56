//! The sections `admin` and `forward_auth`: listeners that are not for clients.

use super::reader::Value;
use super::{secrets, server};
use crate::gateway::forward_auth::Asker;
use crate::gateway::settings::{AdminSettings, ForwardAuthSettings, ServerSettings};
use crate::secret::Secret;
use crate::token::bearer;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// Bytes below which a token is thought to be guessable.
const PRUDENT: usize = 32;
const MOST: u64 = 4096;

pub(super) fn admin(value: &Value<'_>, server: &ServerSettings, has_sessions: bool) -> Option<AdminSettings> {
    let fields = value.fields(&["address", "token_file"], &[])?;
    let address = fields.get("address").map_or(Some(DEFAULT), |value| address(&value, server));
    let token = fields.get("token_file").map(|value| {
        if !has_sessions {
            value.error("there are no sessions that anybody could end", "add sessions, or remove it");
        }
        token(&value)
    });
    Some(AdminSettings { address: address?, token: token.flatten() })
}

pub(super) fn forward_auth(
    value: &Value<'_>,
    server: &ServerSettings,
    admin: Option<&AdminSettings>,
) -> Option<ForwardAuthSettings> {
    let fields = value.fields(&["address", "proxy"], &[])?;
    let value = fields.require("address", "add the address to bind, such as 127.0.0.1:9191")?;
    let address = server::address(&value)?;
    let taken = server.listeners.iter().map(|listener| listener.address);
    if taken.chain(admin.map(|admin| admin.address)).any(|other| server::overlap(other, address)) {
        value.error(
            format!("{address} is the address of another listener"),
            "give the decisions an address of their own, such as 127.0.0.1:9191",
        );
    }
    if !address.ip().is_loopback() {
        value.warning(
            "whoever reaches this address can ask which tokens pass",
            "use a loopback address, or close the port to all but the proxy",
        );
    }
    let askers = [("nginx", Asker::Nginx), ("traefik", Asker::Traefik), ("envoy", Asker::Envoy)];
    let proxy = fields.get("proxy").and_then(|value| value.word(&askers));
    Some(ForwardAuthSettings { address, proxy })
}

fn address(value: &Value<'_>, server: &ServerSettings) -> Option<SocketAddr> {
    let address = server::address(value)?;
    if server.listeners.iter().any(|listener| server::overlap(listener.address, address)) {
        value.error(
            format!("{address} is a listener for clients"),
            "give the admin listener an address of its own, such as 127.0.0.1:9090",
        );
    }
    if !address.ip().is_loopback() {
        value.warning(
            "metrics are open to everyone who reaches this address",
            "use a loopback address, or close the port to all but the monitoring",
        );
    }
    Some(address)
}

/// The token that a backend shows: the file's text, without the end of its line.
fn token(value: &Value<'_>) -> Option<Secret<String>> {
    let file = value.file()?;
    let token = match read(&file) {
        Ok(token) => token,
        Err((what, mend)) => {
            value.error(what, mend);
            return None;
        }
    };
    if token.expose().len() < PRUDENT {
        value.warning(
            format!("the token in {} has less than {PRUDENT} characters", file.display()),
            "make one that nobody guesses: head -c 32 /dev/urandom | base64 > FILE",
        );
    }
    Some(token)
}

fn read(file: &Path) -> Result<Secret<String>, (String, &'static str)> {
    let bytes = secrets::read_file(file, MOST).map_err(|problem| {
        let what = format!("cannot read {}: {}", file.display(), secrets::why(&problem));
        (what, "give the path of a readable file, relative to this configuration")
    })?;
    let bytes = Secret::new(bytes);
    let text = std::str::from_utf8(bytes.expose()).unwrap_or_default();
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if !bearer::is_b64token(text) {
        let what = format!("{} holds no token that can be sent as Bearer", file.display());
        return Err((what, "make one: head -c 32 /dev/urandom | base64 > FILE"));
    }
    Ok(Secret::new(text.to_owned()))
}
