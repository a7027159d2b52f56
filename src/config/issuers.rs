//! The section `issuers`: whose access tokens are accepted beside our own.

use super::pem;
use super::reader::{Fields, Value};
use super::web;
use crate::json::ClaimPath;
use crate::key_set::{Algorithm, KeyHost, KeySet, KeySetSettings, RefreshSettings, SkippedKey, Source};
use crate::secret::Secret;
use crate::token::claims::GATEWAY_ISSUER;
use crate::token::verifier::{IssuerSettings, TokenType};
use http::Uri;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECRET_MAX_BYTES: u64 = 64 * 1024;
const KEY_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Clocks that differ by more need mending, not forgiving.
const LONGEST_LEEWAY: Duration = Duration::from_secs(3600);

pub(super) fn issuers(value: &Value<'_>) -> Vec<IssuerSettings> {
    let mut issuers: Vec<IssuerSettings> = Vec::new();
    for (name, value) in value.named("write one `name: { issuer: …, audiences: […], key_set: … }` per issuer")
    {
        web::check_name(&value, name);
        if name == GATEWAY_ISSUER {
            value.error("this name means our own issuer, which `sessions` sets up", "choose another name");
        }
        let Some(issuer) = issuer(name, &value) else { continue };
        if let Some(other) = issuers.iter().find(|other| other.issuer == issuer.issuer) {
            let what = format!("issuers.{} has the same issuer", other.name);
            value.error(what, "tokens are told apart by `iss`: merge the two, or mend the `issuer` of one");
        }
        let copy = issuer.keys.copy_file.as_ref();
        if let Some(other) =
            issuers.iter().find(|other| copy.is_some() && other.keys.copy_file.as_ref() == copy)
        {
            let what = format!("issuers.{} keeps the copy of its keys in the same file", other.name);
            value.error(what, "give one of the two another key_set.copy_file");
        }
        issuers.push(issuer);
    }
    issuers
}

fn issuer(name: &str, value: &Value<'_>) -> Option<IssuerSettings> {
    let known = &[
        "issuer",
        "audiences",
        "algorithms",
        "key_set",
        "refresh",
        "leeway",
        "max_lifetime",
        "token_type",
        "claims",
    ];
    let fields = value.fields(known, &[])?;
    let issuer = fields.require("issuer", "give the exact `iss` of its tokens").and_then(|v| v.text());
    let audiences = audiences(&fields);
    let key_set = fields
        .require("key_set", "give one of url, discovery, file, secret_file")
        .and_then(|value| key_set(name, &value, issuer.as_deref()));
    let algorithms = algorithms(&fields, key_set.as_ref().map(|(source, _)| source));
    let refresh = fields.get("refresh").map_or_else(RefreshSettings::default, |value| refresh(&value));
    let leeway = leeway(&fields);
    let max_lifetime = fields.get("max_lifetime");
    if let Some(value) = max_lifetime.as_ref().filter(|value| value.duration_is_zero()) {
        value.warning(
            "no token is good for so short a time",
            "write a duration such as 1h, or remove the key",
        );
    }
    let token_type =
        fields.word("token_type", &[("any", TokenType::Any), ("at+jwt", TokenType::AtJwt)], TokenType::Any);
    let claims = fields.get("claims").and_then(|value| value.fields(&["scopes", "roles"], &[]));
    let places = |key, default: &[&str]| {
        let value = claims.as_ref().and_then(|claims| claims.get(key));
        value.map_or_else(
            || default.iter().filter_map(|path| ClaimPath::parse(path)).collect(),
            |value| value.items("write a list such as [roles]").iter().filter_map(claim_path).collect(),
        )
    };
    let (source, copy_file) = key_set?;
    Some(IssuerSettings {
        name: name.to_owned(),
        issuer: issuer?,
        audiences,
        algorithms,
        keys: KeySetSettings { source, refresh, copy_file },
        leeway,
        max_lifetime: max_lifetime.and_then(|value| value.duration()),
        token_type,
        scopes: places("scopes", &["scope", "scp"]),
        roles: places("roles", &["roles", "realm_access.roles"]),
    })
}

fn leeway(fields: &Fields<'_>) -> Duration {
    let leeway = fields.duration("leeway", Duration::from_secs(30));
    let Some(value) = fields.get("leeway") else { return leeway };
    if leeway > LONGEST_LEEWAY {
        value.error("tokens would stay good for more than 1h after they expire", "30s covers usual clocks");
    } else if leeway > Duration::from_secs(300) {
        value.warning("tokens stay good for more than 5m after they expire", "30s covers usual clocks");
    }
    leeway
}

fn audiences(fields: &Fields<'_>) -> Vec<String> {
    let mend = "give the `aud` values meant for this gateway, such as [orders-api]";
    let Some(value) = fields.require("audiences", mend) else { return Vec::new() };
    if value.is_empty_list() {
        value.error("no audience", mend);
    }
    value.texts(mend)
}

pub(super) fn claim_path(value: &Value<'_>) -> Option<ClaimPath> {
    value.parsed(
        "a claim",
        "write a name, or names joined by dots such as realm_access.roles",
        ClaimPath::parse,
    )
}

/// Where the keys are, and where a copy of them is kept.
fn key_set(name: &str, value: &Value<'_>, issuer: Option<&str>) -> Option<(Source, Option<PathBuf>)> {
    let known = &["url", "discovery", "jwks_hosts", "copy_file", "file", "secret_file"];
    let fields = value.fields(known, &[])?;
    let (key, value) = fields.exactly_one(&["url", "discovery", "file", "secret_file"])?;
    if let Some(hosts) = fields.get("jwks_hosts").filter(|_| key != "discovery") {
        hosts.error("says where discovery may find keys, and nothing is discovered here", "remove it");
    }
    let is_fetched = matches!(key, "url" | "discovery");
    let copy_file = match fields.get("copy_file") {
        Some(value) if is_fetched => value.file(),
        Some(value) => {
            value.error("only keys that are fetched are copied", "remove it");
            None
        }
        None if is_fetched => Some(fields.scope().folder.join("data/key_sets").join(format!("{name}.json"))),
        None => None,
    };
    let source = match key {
        "url" => {
            let uri = web::url(&value, "write a URL such as https://id.example.com/certs")?;
            warn_of_plain_http(&value, &uri);
            Source::Url(value.text()?)
        }
        "discovery" => {
            let mend = "write a list such as [www.googleapis.com]";
            let hosts = fields.get("jwks_hosts").map(|hosts| hosts.items(mend)).unwrap_or_default();
            discovery(&value, issuer)?;
            Source::Discovery(hosts.iter().filter_map(key_host).collect())
        }
        "file" => {
            let file = value.file()?;
            key_file(&value, &file);
            Source::File(file)
        }
        _ => Source::Secret(Secret::new(pem::read(&value, &value.file()?, SECRET_MAX_BYTES)?)),
    };
    Some((source, copy_file))
}

fn key_host(value: &Value<'_>) -> Option<KeyHost> {
    value.parsed("a host", "write a name such as www.googleapis.com, with a port if it is unusual", |text| {
        let (host, port) = web::split_port(text)?;
        (web::is_host(host) && port != Some(0)).then(|| KeyHost::new(host, port))
    })
}

/// The file is read again whenever it changes; here only so that a mistake is found before the start.
fn key_file(value: &Value<'_>, file: &Path) {
    let Some(text) = pem::read(value, file, KEY_FILE_MAX_BYTES) else { return };
    match KeySet::from_text(&text) {
        Ok(keys) => {
            for SkippedKey { kid, flaw } in keys.skipped() {
                let key = kid.as_ref().map_or_else(|| "a key".to_owned(), |kid| format!("the key {kid:?}"));
                value.warning(format!("{key} is not used: {flaw}"), "mend the key, or remove it");
            }
        }
        Err(error) => {
            let what = format!("{} is no key set: {error}", file.display());
            value.error(what, "give a JWKS, or PEM public keys");
        }
    }
}

/// Whether keys can be discovered for the issuer.
fn discovery(value: &Value<'_>, issuer: Option<&str>) -> Option<()> {
    if !value.boolean()? {
        value.error(
            "false says nothing about where the keys are",
            "write discovery: true, or url, file or secret_file",
        );
        return None;
    }
    let Ok(uri) = issuer?.parse::<Uri>() else {
        value.error("the issuer is no URL to discover from", "give the key set's url instead");
        return None;
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        value.error("the issuer is no http or https URL to discover from", "give the key set's url instead");
        return None;
    }
    warn_of_plain_http(value, &uri);
    Some(())
}

fn warn_of_plain_http(value: &Value<'_>, uri: &Uri) {
    if web::is_plain_off_loopback(uri) {
        value.warning(
            "keys come over plain http: whoever sits between can replace them",
            "use https off this machine",
        );
    }
}

fn algorithms(fields: &Fields<'_>, source: Option<&Source>) -> Vec<Algorithm> {
    let secret = match source {
        Some(Source::Secret(secret)) => Some(secret),
        _ => None,
    };
    let Some(list) = fields.get("algorithms") else {
        if secret.is_some() {
            let mend = "add algorithms: [HS256], or HS384 or HS512";
            fields.error("a secret verifies none of the default algorithms", mend);
        }
        return Algorithm::DEFAULT.to_vec();
    };
    let mend = "write a list such as [RS256, ES256]";
    if list.is_empty_list() {
        list.error("no algorithm", mend);
    }
    let words: Vec<_> = Algorithm::ALL.iter().map(|algorithm| (algorithm.as_str(), *algorithm)).collect();
    let mut algorithms = Vec::new();
    for item in list.items(mend) {
        let Some(algorithm) = item.word(&words) else { continue };
        match (algorithm.shortest_secret(), secret, source) {
            (Some(_), None, Some(_)) => {
                item.error(
                    "a shared-secret algorithm with public keys",
                    "use RS*, PS*, ES* or EdDSA, or secret_file",
                );
            }
            (None, Some(_), _) => {
                item.error("a public-key algorithm with secret_file", "use HS256, HS384 or HS512");
            }
            (Some(least), Some(secret), _) if secret.expose().len() < least => {
                let what = format!("{algorithm} needs a secret of at least {least} bytes");
                item.error(what, "make a longer one (RFC 7518 section 3.2): head -c 64 /dev/urandom > FILE");
            }
            _ => {}
        }
        if algorithm.is_hmac() {
            item.warning(
                "whoever can verify these tokens can also make them",
                "let the issuer sign with a key pair if it can",
            );
        }
        algorithms.push(algorithm);
    }
    algorithms
}

fn refresh(value: &Value<'_>) -> RefreshSettings {
    let mut refresh = RefreshSettings::default();
    let Some(fields) = value.fields(&["every", "stale_for", "timeout", "cooldown"], &[]) else {
        return refresh;
    };
    refresh.every = fields.duration("every", refresh.every);
    refresh.stale_for = fields.duration("stale_for", refresh.stale_for);
    refresh.timeout = fields.duration("timeout", refresh.timeout);
    refresh.cooldown = fields.duration("cooldown", refresh.cooldown);
    if let Some(value) = fields.get("every").filter(|_| refresh.every < Duration::from_secs(10)) {
        value.warning("asks the issuer for its keys more than every 10s", "10m is usual");
    }
    for key in ["timeout", "cooldown"] {
        if let Some(value) = fields.get(key).filter(Value::duration_is_zero) {
            let what = match key {
                "timeout" => "no fetch can succeed in no time",
                _ => "every token with an unknown key asks the issuer again",
            };
            value.warning(what, "write a duration such as 3s");
        }
    }
    refresh
}
