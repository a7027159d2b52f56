//! `sessions.users.ldap`: users of an LDAP directory.

use super::reader::{Fields, Value};
use super::{pem, sql_directory, web};
use crate::directory::RESERVED_CLAIMS;
use crate::directory::ldap::{ClaimSource, Encryption, LdapDirectory, LdapSettings, Template, is_attribute};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn ldap(value: &Value<'_>) -> Option<LdapSettings> {
    let known = &["url", "start_tls", "ca_file", "timeout", "user_dn", "subject", "claims"];
    let fields = value.fields(known, &[])?;
    let timeout = sql_directory::timeout(&fields, TIMEOUT);
    let start_tls = fields.boolean("start_tls", false);
    let url = fields.require("url", "give the directory's address, such as ldaps://ldap.example.com");
    let url = url.and_then(|value| url_of(&value, start_tls));
    let mend = "write the name of a user's entry, such as uid={username},ou=people,dc=example,dc=com";
    let user_dn = fields
        .require("user_dn", mend)
        .and_then(|value| value.parsed("the name of an entry with {username} in it", mend, Template::parse));
    let subject = subject(&fields, user_dn.as_ref());
    let claims = fields.get("claims").map(|value| claims(&value)).unwrap_or_default();
    let ca = fields.get("ca_file");
    let plain = url.as_ref().is_some_and(|url| url.encryption == Encryption::None);
    if let Some(value) = ca.as_ref().filter(|_| plain) {
        value.error("a plain connection has no certificate to verify", "use ldaps://, or start_tls: true");
    }
    let ca = match ca {
        Some(value) => Some((pem::certificates(&value, &value.file()?)?.pem, value)),
        None => None,
    };
    let (ca, place) = ca.unzip();
    let (Url { host, port, encryption }, user_dn, subject) = (url?, user_dn?, subject?);
    let settings = LdapSettings { host, port, encryption, ca, timeout, user_dn, subject, claims };
    if let Err(error) = LdapDirectory::new(settings.clone()) {
        place.as_ref().unwrap_or(value).error(error.to_string(), "give the certificates of your authority");
        return None;
    }
    Some(settings)
}

struct Url {
    host: String,
    port: u16,
    encryption: Encryption,
}

fn url_of(value: &Value<'_>, start_tls: bool) -> Option<Url> {
    let mend = "write ldaps://host or ldap://host, with a port if need be";
    let text = value.text()?;
    let (tls, authority) = match text.split_once("://") {
        Some(("ldaps", authority)) => (true, authority),
        Some(("ldap", authority)) => (false, authority),
        _ => {
            value.error("not an ldaps or ldap URL", mend);
            return None;
        }
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let Some((host, port)) =
        web::split_port(authority).filter(|(host, port)| web::is_host(host) && *port != Some(0))
    else {
        value.error("not a URL of a host and a port alone", mend);
        return None;
    };
    if tls && start_tls {
        value.error("ldaps is encrypted from the start", "use ldap:// with start_tls, or remove start_tls");
    }
    if (tls || start_tls) && host.starts_with('[') {
        value
            .error("a certificate cannot be verified for an IPv6 address here", "write the name of the host");
    }
    let encryption = match (tls, start_tls) {
        (true, _) => Encryption::Tls,
        (false, true) => Encryption::StartTls,
        (false, false) => Encryption::None,
    };
    if encryption == Encryption::None && !web::is_loopback(host) {
        value.warning(
            "passwords go over plain ldap: whoever sits between reads them",
            "use ldaps://, or start_tls: true, off this machine",
        );
    }
    let port = port.unwrap_or(if tls { 636 } else { 389 });
    Some(Url { host: web::unbracketed(host).to_owned(), port, encryption })
}

fn subject(fields: &Fields<'_>, user_dn: Option<&Template>) -> Option<String> {
    if let Some(value) = fields.get("subject") {
        return attribute(&value);
    }
    let naming = user_dn?.naming_attribute();
    if naming.is_none() {
        let what = "no attribute of user_dn is the username alone, so that it could be the subject";
        fields.error(what, "add subject, an attribute that never changes, such as entryUUID");
    }
    naming.map(str::to_owned)
}

fn attribute(value: &Value<'_>) -> Option<String> {
    let name = |text: &str| is_attribute(text).then(|| text.to_owned());
    value.parsed("the name of an attribute", "write a name such as mail", name)
}

fn claims(value: &Value<'_>) -> Vec<ClaimSource> {
    let named = value.named("write one `claim: attribute` per claim");
    let claim = |(name, value): &(&str, Value<'_>)| {
        if RESERVED_CLAIMS.contains(name) {
            value.error(format!("the claim {name:?} is set by the gateway itself"), "remove it");
            return None;
        }
        let list = value.is_list();
        let attribute = if list {
            let items = value.items("write one attribute in brackets, such as [memberOf]");
            let [one] = items.as_slice() else {
                value.error("not one attribute", "write one attribute in brackets, such as [memberOf]");
                return None;
            };
            attribute(one)?
        } else {
            attribute(value)?
        };
        Some(ClaimSource { claim: (*name).to_owned(), attribute, list })
    };
    named.iter().filter_map(claim).collect()
}
