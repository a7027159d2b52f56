//! A request as it is written on a command line or in a file of tests, as the bytes that a client would send.

use crate::config::policies::is_whole_url;
use crate::gateway::rehearsal::Trial;
use crate::token::claims::VerifiedClaims;
use http::{HeaderName, HeaderValue};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

/// A request in words.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: &'a [(String, String)],
    pub(super) token: Option<&'a str>,
    pub(super) from: IpAddr,
}

/// Why words are no request that can be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskedError {
    #[error(
        "{0:?} is not an http or https URL; give the whole of it, such as https://api.example.com/orders"
    )]
    Url(String),
    #[error("{0:?} is not a method")]
    Method(String),
    #[error("{0:?} is not a header field; write it as 'Name: value'")]
    Header(String),
    #[error("the token has a line end or another control character in it")]
    Token,
}

impl Asked<'_> {
    /// What is sent: the target is everything behind the authority, byte for byte.
    pub(super) fn trial(&self, caller: Option<Arc<VerifiedClaims>>) -> Result<Trial, AskedError> {
        if !is_whole_url(self.url) {
            return Err(AskedError::Url(self.url.to_owned()));
        }
        if self.method.is_empty() || !self.method.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AskedError::Method(self.method.to_owned()));
        }
        let tls = self.url.starts_with("https://");
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let slash = if target.starts_with('/') { "" } else { "/" };
        let mut head = format!("{} {slash}{target} HTTP/1.1\r\n", self.method);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let _ = write!(head, "Host: {authority}\r\n");
        }
        for (name, value) in self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(token) = self.token {
            if token.contains(char::is_control) {
                return Err(AskedError::Token);
            }
            let _ = write!(head, "Authorization: Bearer {token}\r\n");
        }
        head.push_str("\r\n");
        Ok(Trial { head: head.into_bytes(), from: self.from, tls, caller })
    }
}

/// A header field from `Name: value`.
pub(super) fn header(text: &str) -> Result<(String, String), AskedError> {
    let wrong = || AskedError::Header(text.to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let value = value.trim();
    if HeaderName::try_from(name).is_err() || HeaderValue::from_str(value).is_err() {
        return Err(wrong());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(url: &str, headers: &[(String, String)]) -> String {
        let asked = Asked { method: "GET", url, headers, token: None, from: IpAddr::from([127, 0, 0, 1]) };
        String::from_utf8(asked.trial(None).unwrap().head).unwrap()
    }

    #[test]
    fn the_target_is_sent_as_it_was_written() {
        for (url, target) in [
            ("http://h", "/"),
            ("http://h?a=b", "/?a=b"),
            ("https://h:8443/a/../b;c%2fd?x#y", "/a/../b;c%2fd?x#y"),
            ("http://h#f", "/#f"),
        ] {
            assert!(head(url, &[]).starts_with(&format!("GET {target} HTTP/1.1\r\nHost: h")), "{url}");
        }
        let host = [header("hOsT: other").unwrap()];
        assert_eq!(head("http://h/", &host), "GET / HTTP/1.1\r\nhOsT: other\r\n\r\n");
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for url in ["", "/a", "ftp://h/", "http://", "http:///a", "http://h/\r\nX: y"] {
            let asked =
                Asked { method: "GET", url, headers: &[], token: None, from: IpAddr::from([127, 0, 0, 1]) };
            assert!(matches!(asked.trial(None), Err(AskedError::Url(_))), "{url}");
            let asked = Asked { method: "G T", url: "http://h/", ..asked };
            assert!(matches!(asked.trial(None), Err(AskedError::Method(_))));
            let asked = Asked { method: "GET", token: Some("a\r\nb"), ..asked };
            assert!(matches!(asked.trial(None), Err(AskedError::Token)));
        }
        for text in ["", "name", "na me: x", "a: b\r\nc: d"] {
            assert!(header(text).is_err(), "{text:?}");
        }
        assert_eq!(header("X-A:  b c ").unwrap(), ("X-A".to_owned(), "b c".to_owned()));
    }
}
