//! From a reason to the answer a client gets: status, challenge and a text that says what to mend.

use crate::policy::Denial;
use crate::reason::Reason;
use crate::reply::{Challenge, Reply};
use http::header;
use std::time::Duration;

/// How soon to try again when the gateway lacks something it needs.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Methods a 405 names; CONNECT and TRACE are never served (RFC 9110 section 15.5.6 wants `Allow`).
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What the client of a refused request is told, in a sentence.
pub(super) fn detail(reason: Reason) -> &'static str {
    status_and_detail(reason).1
}

/// The answer to a refused request. The body has the status too, so it is not to be altered later (RFC 9457
/// section 3.1.2).
pub(super) fn reply(denial: &Denial, status: u16, request_id: &str, html_only: bool) -> Reply {
    let detail = detail(denial.reason);
    let reply = Reply::problem(status, denial.reason, detail, request_id, html_only);
    match denial.reason {
        Reason::NoToken => reply.challenge(&Challenge::Bare),
        Reason::MalformedCredentials => reply.challenge(&Challenge::InvalidRequest(detail)),
        Reason::TokenTooLarge
        | Reason::MalformedToken
        | Reason::UnsupportedAlgorithm
        | Reason::UnknownIssuer
        | Reason::UnknownKey
        | Reason::BadSignature
        | Reason::WrongType
        | Reason::Expired
        | Reason::NotYetValid
        | Reason::LifetimeTooLong
        | Reason::WrongAudience
        | Reason::MissingClaim
        | Reason::Revoked => reply.challenge(&Challenge::InvalidToken(detail)),
        Reason::InsufficientScope | Reason::InsufficientRole | Reason::ClaimMismatch => {
            reply.challenge(&Challenge::InsufficientScope(&denial.scopes))
        }
        Reason::KeysUnavailable | Reason::StoreUnavailable => reply.retry_after(RETRY_AFTER),
        Reason::MethodNotAllowed => reply.with_static(header::ALLOW, METHODS),
        Reason::Ok
        | Reason::Anonymous
        | Reason::Preflight
        | Reason::NoRoute
        | Reason::UnforwardableClaim
        | Reason::BadPath
        | Reason::BadRequest
        | Reason::HeaderTooLarge
        | Reason::TargetTooLong
        | Reason::BodyTooLarge
        | Reason::BodyTimeout
        | Reason::RateLimited
        | Reason::UpstreamUnreachable
        | Reason::UpstreamTimeout
        | Reason::Internal => reply,
    }
}

/// The status a request refused for this reason is answered with.
pub(super) fn status(reason: Reason) -> u16 {
    status_and_detail(reason).0
}

/// Fixed texts: nothing a client sent is ever repeated to it.
fn status_and_detail(reason: Reason) -> (u16, &'static str) {
    match reason {
        Reason::NoRoute => (404, "No route serves this host, path and method."),
        Reason::NoToken => (401, "This route needs an access token in the Authorization header."),
        Reason::MalformedCredentials => {
            (400, "Exactly one Authorization header with the Bearer scheme and one token is expected")
        }
        Reason::TokenTooLarge => (401, "The access token is too long"),
        Reason::MalformedToken => (401, "The access token is malformed"),
        Reason::UnsupportedAlgorithm => {
            (401, "The access token is signed with an algorithm that is not accepted")
        }
        Reason::UnknownIssuer => (401, "The access token's issuer is not accepted here"),
        Reason::UnknownKey => (401, "The access token is signed with an unknown key"),
        Reason::BadSignature => (401, "The access token's signature is not valid"),
        Reason::WrongType => (401, "This is not an access token"),
        Reason::Expired => (401, "The access token expired"),
        Reason::NotYetValid => (401, "The access token is not valid yet"),
        Reason::LifetimeTooLong => (401, "The access token is good for longer than is accepted"),
        Reason::WrongAudience => (401, "The access token is meant for another audience"),
        Reason::MissingClaim => (401, "The access token lacks a required claim"),
        Reason::Revoked => (401, "The access token was revoked"),
        Reason::InsufficientScope => (403, "The access token lacks a scope this route needs."),
        Reason::InsufficientRole => (403, "The access token has none of the roles this route needs."),
        Reason::ClaimMismatch => (403, "A claim of the access token does not have a value this route needs."),
        Reason::UnforwardableClaim => (403, "A claim of the access token cannot be passed on in a header."),
        Reason::KeysUnavailable => (503, "The issuer's keys are not available at the moment."),
        Reason::StoreUnavailable => (503, "The session store is not available at the moment."),
        Reason::BadPath => (400, "The path is ambiguous; send it in its plain form."),
        Reason::BadRequest => (400, "The request is malformed."),
        Reason::MethodNotAllowed => (405, "This method is not served."),
        Reason::HeaderTooLarge => (431, "The header block is too large or has too many fields."),
        Reason::TargetTooLong => (414, "The request target is too long."),
        Reason::BodyTooLarge => (413, "The body is larger than this route accepts."),
        Reason::BodyTimeout => (408, "The body did not arrive in time."),
        Reason::RateLimited => (429, "Too many requests."),
        Reason::UpstreamUnreachable => (502, "The service behind this route cannot be reached."),
        Reason::UpstreamTimeout => (504, "The service behind this route did not answer in time."),
        Reason::Ok | Reason::Anonymous | Reason::Preflight | Reason::Internal => {
            (500, "The gateway failed to handle this request.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn reply(denial: &Denial) -> Reply {
        super::reply(denial, status(denial.reason), "id", false)
    }

    #[test]
    fn every_challenge_is_a_header_value_and_every_reason_has_a_status() {
        for reason in Reason::ALL {
            let reply = reply(&Denial::new(*reason));
            assert!((400..=599).contains(&reply.status), "{reason}");
            let challenged = reply.headers.iter().any(|(name, _)| name == header::WWW_AUTHENTICATE);
            assert_eq!(challenged, reply.status == 401 || challenged, "{reason}: a 401 needs a challenge");
        }
    }

    #[test]
    fn missing_scopes_are_named_in_the_challenge() {
        let denial = Denial {
            reason: Reason::InsufficientScope,
            scopes: "orders:read orders:write".into(),
            unforwardable: None,
        };
        let reply = reply(&denial);
        let expected = "Bearer error=\"insufficient_scope\", scope=\"orders:read orders:write\"";
        assert!(reply.headers.contains(&(header::WWW_AUTHENTICATE, HeaderValue::from_static(expected))));
        assert_eq!(reply.status, 403);
    }

    #[test]
    fn the_page_of_reasons_has_each_with_its_status() {
        let page = include_str!("../../docs/reason-codes.md");
        let (page, _) = page.split_once("\n## ").unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: Vec<(&str, &str)> = rows
            .filter_map(|row| {
                let (word, rest) = row.split_once("` | ")?;
                Some((word, rest.split(" |").next()?))
            })
            .collect();
        let expected: Vec<(&str, String)> = Reason::ALL
            .iter()
            .map(|reason| {
                let status = match reason {
                    Reason::Ok | Reason::Anonymous => "–".to_owned(),
                    Reason::Preflight => "204".to_owned(),
                    refused => status(*refused).to_string(),
                };
                (reason.as_str(), status)
            })
            .collect();
        let expected: Vec<(&str, &str)> =
            expected.iter().map(|(word, status)| (*word, status.as_str())).collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn an_outage_is_no_accusation() {
        for reason in [Reason::KeysUnavailable, Reason::StoreUnavailable] {
            let reply = reply(&Denial::new(reason));
            assert_eq!(reply.status, 503);
            assert!(reply.headers.iter().any(|(name, _)| name == header::RETRY_AFTER));
            assert!(!reply.headers.iter().any(|(name, _)| name == header::WWW_AUTHENTICATE));
        }
    }
}
