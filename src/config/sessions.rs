//! The section `sessions`: our own issuer, its tokens and its endpoints.

use super::reader::{Fields, Value};
use super::session_secrets::{self, SecretPlan};
use super::store::{self, StoreConfig};
use super::users::{self, UsersConfig};
use super::web;
use crate::endpoints::cookie::{CookieSettings, SameSite};
use crate::endpoints::origin::Origin;
use crate::endpoints::settings::{DeliveryRule, Naming, Prefix, Settings};
use crate::gateway::settings::{ListenerSettings, ServerSettings};
use crate::secret::Secret;
use crate::session::family::{LostResponse, OnReuse, RotationPolicy};
use crate::session::throttle::{Bucket, ThrottleSettings};
use crate::token::key_folder;
use crate::token::signer::SigningAlgorithm;
use crate::token::verifier::IssuerSettings;
use std::path::PathBuf;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// The section `sessions`.
#[derive(Debug)]
pub struct SessionsConfig {
    /// The exact `iss` of our tokens; no other issuer has it.
    pub issuer: String,
    /// The `aud` of our tokens; at least one.
    pub audiences: Vec<String>,
    /// The secret that refresh tokens are authenticated with.
    pub secret: SecretPlan,
    /// Secrets under which none are made any more, or none yet, and which are accepted all the same.
    pub previous_secrets: Vec<Secret<Vec<u8>>>,
    /// The folder of the signing keys, one of which is made at first start if it is empty or absent.
    pub signing_keys: PathBuf,
    /// How long an access token lives.
    pub lifetime: Duration,
    /// What access tokens are signed with.
    pub algorithm: SigningAlgorithm,
    /// How refresh tokens rotate.
    pub rotation: RotationPolicy,
    /// What the endpoints are told.
    pub endpoints: Settings,
    /// How many logins may be tried.
    pub throttle: ThrottleSettings,
    /// Where sessions are kept.
    pub store: StoreConfig,
    /// Who may log in.
    pub users: UsersConfig,
}

pub(super) fn sessions(
    value: &Value<'_>,
    server: &ServerSettings,
    issuers: &[IssuerSettings],
) -> Option<SessionsConfig> {
    let known = &[
        "issuer",
        "audiences",
        "secret_file",
        "previous_secret_files",
        "signing_keys",
        "access_token",
        "refresh_token",
        "delivery",
        "cookie",
        "endpoints",
        "allowed_origins",
        "max_per_user",
        "throttle",
        "store",
        "users",
    ];
    let fields = value.fields(known, &[])?;
    let issuer = fields
        .require("issuer", "give the address clients reach this gateway by, such as https://api.example.com")
        .and_then(|value| own_issuer(&value, issuers));
    let store = fields.require("store", "add embedded or redis").and_then(|value| store::store(&value));
    let users =
        fields.require("users", "add file: { path: users.yaml }").and_then(|value| users::users(&value));
    let secret = file_or(&fields, "secret_file", "data/secret")
        .and_then(|file| session_secrets::current(&fields, &file, store.as_ref()));
    let previous_secrets = fields
        .get("previous_secret_files")
        .map(|value| session_secrets::previous(&value, secret.as_ref()))
        .unwrap_or_default();
    let (lifetime, algorithm) = access_token(fields.get("access_token").as_ref());
    let signing_keys = signing_keys(&fields, algorithm, store.as_ref());
    let rotation = RotationPolicy {
        access_token_lifetime: lifetime,
        max_per_user: number_u32(&fields, "max_per_user", RotationPolicy::default().max_per_user, 1_000_000),
        ..fields.get("refresh_token").map_or_else(RotationPolicy::default, |value| refresh_token(&value))
    };
    let (prefix, naming) = endpoints(&fields)?;
    let endpoints = Settings {
        cookie: cookie(&fields, &prefix)?,
        prefix,
        naming,
        delivery: delivery(&fields),
        allowed_origins: fields
            .get("allowed_origins")
            .map(|value| allowed_origins(&value))
            .unwrap_or_default(),
        issuer_origin: issuer.as_deref().and_then(Origin::of_url),
        rotation,
    };
    warn_of_cookies_in_plain(&fields, &endpoints, server, issuer.as_deref());
    Some(SessionsConfig {
        issuer: issuer?,
        audiences: audiences(&fields),
        secret: secret?,
        previous_secrets,
        signing_keys: signing_keys?,
        lifetime,
        algorithm,
        rotation,
        endpoints,
        throttle: throttle(&fields),
        store: store?,
        users: users?,
    })
}

fn own_issuer(value: &Value<'_>, issuers: &[IssuerSettings]) -> Option<String> {
    let issuer = value.text()?;
    if let Some(other) = issuers.iter().find(|other| other.issuer == issuer) {
        let what = format!("issuers.{} has the same issuer", other.name);
        value.error(what, "tokens are told apart by `iss`: give this gateway an issuer of its own");
    }
    if Origin::of_url(&issuer).is_none() {
        value.warning(
            "no http or https URL: behind a proxy that ends TLS, the gateway's own pages would be refused as foreign",
            "give the address clients reach this gateway by, such as https://api.example.com",
        );
    }
    Some(issuer)
}

/// Browsers keep our cookies only from https and from their own machine. An https issuer tells that TLS
/// ends in front of us.
fn warn_of_cookies_in_plain(
    fields: &Fields<'_>,
    endpoints: &Settings,
    server: &ServerSettings,
    issuer: Option<&str>,
) {
    let reachable =
        |listener: &ListenerSettings| listener.tls.is_empty() && !listener.address.ip().is_loopback();
    let https = issuer.is_some_and(|issuer| issuer.starts_with("https://"));
    if endpoints.delivery != DeliveryRule::Body && !https && server.listeners.iter().any(reachable) {
        fields.place_of("delivery").warning(
            fields.scope(),
            "browsers drop the refresh-token cookie on plain http off their own machine",
            "add tls to the listeners, or end TLS in front and write an https issuer",
        );
    }
}

/// The path a key names, or its default's: both relative to the configuration.
fn file_or(fields: &Fields<'_>, key: &str, default: &str) -> Option<PathBuf> {
    match fields.get(key) {
        Some(value) => value.file(),
        None => Some(fields.scope().folder.join(default)),
    }
}

fn audiences(fields: &Fields<'_>) -> Vec<String> {
    let Some(value) = fields.get("audiences") else { return vec!["api".to_owned()] };
    let mend = "write a list such as [api]";
    if value.is_empty_list() {
        value.error("no audience", mend);
    }
    value.texts(mend)
}

fn signing_keys(
    fields: &Fields<'_>,
    algorithm: SigningAlgorithm,
    store: Option<&StoreConfig>,
) -> Option<PathBuf> {
    let folder = file_or(fields, "signing_keys", "data/keys")?;
    let place = fields.place_of("signing_keys");
    match key_folder::read(&folder) {
        Err(problem) => {
            let mend = "give a folder in which every *.pem is a private key (PKCS#8)";
            place.error(fields.scope(), problem.to_string(), mend);
        }
        Ok(files) if files.is_empty() => {
            if matches!(store, Some(StoreConfig::Redis(_))) {
                place.warning(
                    fields.scope(),
                    format!("{} holds no key yet: each gateway would make its own", folder.display()),
                    "start one gateway first, and give its folder to the others",
                );
            }
        }
        Ok(files) if files.iter().all(|file| file.key.algorithm() != algorithm) => {
            let what = format!("{} holds no {algorithm} key", folder.display());
            place.error(fields.scope(), what, "add one, or choose another access_token.algorithm");
        }
        Ok(_) => {}
    }
    Some(folder)
}

fn access_token(value: Option<&Value<'_>>) -> (Duration, SigningAlgorithm) {
    let default = (RotationPolicy::default().access_token_lifetime, SigningAlgorithm::default());
    let Some(fields) = value.and_then(|value| value.fields(&["lifetime", "algorithm"], &[])) else {
        return default;
    };
    let lifetime = fields.duration("lifetime", default.0);
    if let Some(value) = fields.get("lifetime") {
        if lifetime > HOUR {
            value.warning("what a user may do is looked at again only after more than 1h", "10m is usual");
        } else if lifetime.is_zero() {
            value.warning("access tokens expire the moment they are made", "write a duration such as 10m");
        }
    }
    let words: Vec<_> = SigningAlgorithm::ALL.iter().map(|a| (a.as_str(), *a)).collect();
    (lifetime, fields.word("algorithm", &words, default.1))
}

fn refresh_token(value: &Value<'_>) -> RotationPolicy {
    let mut policy = RotationPolicy::default();
    let known = &["idle", "absolute", "grace", "coalesce", "lost_response", "on_reuse", "strict"];
    let Some(fields) = value.fields(known, &[]) else { return policy };
    policy.idle = fields.duration("idle", policy.idle);
    policy.absolute = fields.duration("absolute", policy.absolute);
    for key in ["idle", "absolute"] {
        if let Some(value) = fields.get(key).filter(Value::duration_is_zero) {
            value.warning("sessions expire the moment they begin", "write a duration such as 7d");
        }
    }
    // Of the two the one that is not written gives way to the other.
    policy.grace = fields.duration("grace", policy.grace);
    policy.coalesce = fields.duration("coalesce", policy.coalesce);
    match (fields.get("grace"), fields.get("coalesce")) {
        (Some(_), None) => policy.coalesce = policy.coalesce.max(policy.grace),
        (None, Some(_)) => policy.grace = policy.grace.min(policy.coalesce),
        _ => {}
    }
    if let Some(lost) = fields.get("lost_response").and_then(|value| lost_response(&value)) {
        policy.lost_response = lost;
    }
    let words = [("session", OnReuse::Session), ("user", OnReuse::User)];
    policy.on_reuse = fields.word("on_reuse", &words, policy.on_reuse);
    if fields.boolean("strict", false) {
        for key in ["grace", "coalesce", "lost_response"] {
            if let Some(value) = fields.get(key) {
                value.warning("has no effect with strict: true", "remove this key or strict");
            }
        }
        policy.grace = Duration::ZERO;
        policy.coalesce = Duration::ZERO;
        policy.lost_response = LostResponse::Within(Duration::ZERO);
        return policy;
    }
    check_times(&fields, &policy);
    policy
}

fn check_times(fields: &Fields<'_>, policy: &RotationPolicy) {
    if policy.coalesce < policy.grace
        && let Some(value) = fields.get("coalesce")
    {
        value.error(
            format!("coalesce ({:?}) is shorter than grace ({:?})", policy.coalesce, policy.grace),
            "set coalesce to at least grace, or shorten grace",
        );
    }
    if let Some(value) = fields.get("grace").filter(|_| policy.grace > Duration::from_secs(300)) {
        value.warning(
            "a stolen token goes unnoticed for more than 5m after its use",
            "30s covers slow clients",
        );
    }
    if let Some(value) = fields.get("coalesce").filter(|_| policy.coalesce > Duration::from_secs(300)) {
        value.warning(
            "a refresh token stays the same for more than 5m, and its theft goes unnoticed for as long",
            "60s covers tabs that race",
        );
    }
    if let Some(value) = fields.get("idle").or_else(|| fields.get("absolute"))
        && policy.idle > policy.absolute
    {
        value.warning("idle is longer than absolute and never takes effect", "shorten idle");
    }
}

fn lost_response(value: &Value<'_>) -> Option<LostResponse> {
    if value.is_text("until_used") {
        return Some(LostResponse::UntilUsed);
    }
    value.duration_or("until_used").map(LostResponse::Within)
}

fn delivery(fields: &Fields<'_>) -> DeliveryRule {
    let words =
        [("client", DeliveryRule::Client), ("cookie", DeliveryRule::Cookie), ("body", DeliveryRule::Body)];
    fields.word("delivery", &words, DeliveryRule::Client)
}

fn endpoints(fields: &Fields<'_>) -> Option<(Prefix, Naming)> {
    let default = || Prefix::parse("/auth");
    let Some(fields) = fields.get("endpoints").and_then(|value| value.fields(&["prefix", "naming"], &[]))
    else {
        return Some((default()?, Naming::CamelCase));
    };
    let prefix = fields.get("prefix").and_then(|value| {
        let mend = "write a path of letters, digits, hyphens, dots and underscores, such as /auth";
        value.parsed("a prefix", mend, Prefix::parse)
    });
    let words = [("camelCase", Naming::CamelCase), ("oauth", Naming::OAuth)];
    Some((prefix.or_else(default)?, fields.word("naming", &words, Naming::CamelCase)))
}

fn cookie(fields: &Fields<'_>, prefix: &Prefix) -> Option<CookieSettings> {
    let section = fields.get("cookie");
    let fields = section.as_ref().and_then(|value| value.fields(&["name", "path", "same_site"], &[]));
    let text = |key, default: &str| {
        let value = fields.as_ref().and_then(|fields| fields.get(key));
        value.map_or_else(|| Some(default.to_owned()), |value| value.text())
    };
    let name = text("name", "__Secure-refresh_token");
    let path = text("path", prefix.as_str());
    let words = [("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];
    let same_site =
        fields.as_ref().map_or(SameSite::Strict, |f| f.word("same_site", &words, SameSite::Strict));
    let made = CookieSettings::new(&name?, &path?, same_site);
    let section = section.as_ref();
    match made {
        Ok(cookie) => {
            let refresh = format!("{}/refresh", prefix.as_str());
            if let Some(value) = section.filter(|_| !cookie.reaches(&refresh)) {
                let what = format!("browsers would not send this cookie to {refresh}");
                value.error(what, format!("use path: {}, or remove path", prefix.as_str()));
            }
            Some(cookie)
        }
        Err(error) => {
            if let Some(value) = section {
                value.error(error.to_string(), "mend the name or the path of the cookie");
            }
            None
        }
    }
}

fn allowed_origins(value: &Value<'_>) -> Vec<Origin> {
    value
        .items("write a list such as [https://app.example.com]")
        .iter()
        .filter_map(web::page_origin)
        .collect()
}

fn throttle(fields: &Fields<'_>) -> ThrottleSettings {
    let bucket = |burst, seconds| Bucket { burst, every: Duration::from_secs(seconds) };
    let mut throttle =
        ThrottleSettings { account_network: bucket(5, 30), network: bucket(30, 2), account: bucket(20, 60) };
    let known = &["account_network", "network", "account"];
    let Some(fields) = fields.get("throttle").and_then(|value| value.fields(known, &[])) else {
        return throttle;
    };
    let buckets = [
        ("account_network", &mut throttle.account_network),
        ("network", &mut throttle.network),
        ("account", &mut throttle.account),
    ];
    for (key, bucket) in buckets {
        let Some(fields) = fields.get(key).and_then(|value| value.fields(&["burst", "every"], &[])) else {
            continue;
        };
        bucket.burst = number_u32(&fields, "burst", bucket.burst, 1_000_000_000);
        bucket.every = fields.duration("every", bucket.every);
        if let Some(value) = fields.get("every").filter(Value::duration_is_zero) {
            value.warning("passwords can be guessed without limit", "write a duration such as 30s");
        }
    }
    throttle
}

fn number_u32(fields: &Fields<'_>, key: &str, default: u32, most: u32) -> u32 {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let number = fields.get(key).and_then(|value| value.number(1, most));
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}
