//! Which header fields of a client never reach an upstream, and what is said about the client instead.

use crate::access_log::push_address;
use http::header::HeaderName;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// Fields some upstreams take another target or method from than the request line's.
const REROUTING: [&str; 5] =
    ["x-original-url", "x-rewrite-url", "x-http-method", "x-http-method-override", "x-method-override"];

/// Fields that speak for the connection or for earlier proxies, and their families.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded", "x-real-ip"];

/// Fields with a meaning of their own, which cannot carry an identity.
const RESERVED: [&str; 33] = [
    "accept",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-request-id",
];

/// The name as the laxest reader sees it: lower case, each run of other characters than letters and digits
/// one `-`, none at either end. CGI, WSGI and PHP fold names nearly so into variables.
fn folded(name: &str) -> impl Iterator<Item = u8> {
    let mut rest = name.bytes().skip_while(|b| !b.is_ascii_alphanumeric()).peekable();
    std::iter::from_fn(move || {
        let byte = rest.next()?;
        if byte.is_ascii_alphanumeric() {
            return Some(byte.to_ascii_lowercase());
        }
        while rest.next_if(|b| !b.is_ascii_alphanumeric()).is_some() {}
        rest.peek().map(|_| b'-')
    })
}

/// The folded form of a name: two names that some upstream may take for one have the same.
pub fn fold(name: &str) -> String {
    folded(name).map(char::from).collect()
}

fn folds_to(name: &str, form: &str) -> bool {
    folded(name).eq(form.bytes())
}

/// Why a name cannot be an identity header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderNameError {
    /// The name, in this or another spelling, already means something.
    #[error(
        "`{0}` has a meaning of its own and cannot carry an identity; take another name, such as `X-Auth-…`"
    )]
    Reserved(String),
    /// Two names that an upstream may take for one.
    #[error(
        "upstreams may take `{0}` and `{1}` for one header; write both alike or give them different names"
    )]
    Alike(String, String),
}

/// The identifier of the request, which is made or taken over but never passed on in another spelling.
const REQUEST_ID: &str = "x-request-id";

/// What says where a body ends. In another spelling it says nothing here, and might to a backend that folds names.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// The fields that carry identity: only the gateway may set them.
#[derive(Debug, Clone)]
pub struct ProtectedNames {
    /// Folded, sorted, distinct.
    identity: Vec<Box<[u8]>>,
    /// One bit for each letter and digit that a folded name begins with which is not simply passed on.
    begins: u64,
}

/// The bit of a name's first letter or digit; none for a name without any.
fn beginning(name: &str) -> u64 {
    let first = name.bytes().find(u8::is_ascii_alphanumeric);
    first.and_then(|byte| char::from(byte).to_digit(36)).map_or(0, |digit| 1 << digit)
}

impl ProtectedNames {
    /// From the names of all identity and assertion headers of all routes.
    ///
    /// # Errors
    /// Every [`HeaderNameError`].
    pub fn new<'a>(identity: impl IntoIterator<Item = &'a HeaderName>) -> Result<Self, Vec<HeaderNameError>> {
        let mut names: Vec<_> =
            identity.into_iter().map(|name| (fold(name.as_str()), name.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        let reserved = |form: &str| form.is_empty() || RESERVED.contains(&form) || REROUTING.contains(&form);
        let mut errors: Vec<_> = names
            .iter()
            .filter(|(form, _)| reserved(form))
            .map(|(_, name)| HeaderNameError::Reserved((*name).to_owned()))
            .collect();
        let pairs = names.iter().zip(names.iter().skip(1));
        errors.extend(
            pairs
                .filter(|((form, _), (next, _))| form == next)
                .map(|((_, one), (_, other))| HeaderNameError::Alike((*one).to_owned(), (*other).to_owned())),
        );
        if errors.is_empty() {
            let identity: Vec<_> = names.into_iter().map(|(form, _)| form).collect();
            let others = REROUTING.iter().chain(&FORWARDED).chain(&FRAMING).copied().chain([REQUEST_ID]);
            let begins = identity
                .iter()
                .map(String::as_str)
                .chain(others)
                .map(beginning)
                .fold(0, |all, one| all | one);
            Ok(Self { identity: identity.into_iter().map(|form| form.into_bytes().into()).collect(), begins })
        } else {
            Err(errors)
        }
    }

    /// Whether a field of this name would be read as an identity header. From a client it is a forgery.
    /// Does not allocate.
    pub fn is_identity(&self, name: &str) -> bool {
        self.begins & beginning(name) != 0
            && self.identity.binary_search_by(|own| own.iter().copied().cmp(folded(name))).is_ok()
    }

    /// Whether a client's field of this name does not reach the upstream as it came. Does not allocate, and
    /// for most names looks at one letter.
    pub fn is_dropped(&self, name: &str, peer_is_trusted: bool) -> bool {
        self.begins & beginning(name) != 0
            && (self.is_protected(name)
                || drops_forwarded(name, peer_is_trusted)
                || FRAMING.iter().any(|form| name != *form && folds_to(name, form))
                || folds_to(name, REQUEST_ID))
    }

    /// Whether a client's field of this name must go: it would be read as an identity header, or as another
    /// target or method. Does not allocate.
    pub fn is_protected(&self, name: &str) -> bool {
        self.is_identity(name) || REROUTING.iter().any(|form| folds_to(name, form))
    }

    /// The fields of [`Self::is_protected`] in their plain spelling, for a proxy that takes them away itself.
    pub fn plain(&self) -> impl Iterator<Item = &str> {
        // They are ASCII: they were folded.
        self.identity.iter().filter_map(|form| std::str::from_utf8(form).ok()).chain(REROUTING)
    }
}

/// Whether a field belongs to the family that speaks for earlier proxies: `Forwarded`, `X-Forwarded` and
/// all that begin so, `X-Real-IP`, in every spelling. Does not allocate.
pub fn is_forwarded(name: &str) -> bool {
    FORWARDED.iter().any(|form| folds_to(name, form)) || folded(name).take(12).eq("x-forwarded-".bytes())
}

/// Whether a client's field of that family must go: always, unless a trusted proxy sent it in its proper
/// spelling and it is not one of those that [`Forwarded`] rebuilds.
pub fn drops_forwarded(name: &str, peer_is_trusted: bool) -> bool {
    let rebuilt = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    is_forwarded(name)
        && !(peer_is_trusted
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && name.len() == folded(name).count()
            && !rebuilt.iter().any(|form| folds_to(name, form)))
}

/// Whether the peer is a proxy whose word is taken. An IPv4 address mapped into IPv6 counts as itself.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// The client's address: the peer's, or what trusted proxies say, read from the right up to the first
/// address that is no trusted proxy. `x_forwarded_for` are the field's values in the order they came.
pub fn client_address<'a, V>(peer: IpAddr, x_forwarded_for: V, trusted: &[IpNet]) -> IpAddr
where
    V: IntoIterator<Item = &'a str, IntoIter: DoubleEndedIterator>,
{
    believed(peer, x_forwarded_for, trusted).last().unwrap_or(peer)
}

/// The addresses on the way to the client as far as they are believed, the peer first, the client last.
fn believed<'a, V>(peer: IpAddr, x_forwarded_for: V, trusted: &[IpNet]) -> impl Iterator<Item = IpAddr>
where
    V: IntoIterator<Item = &'a str, IntoIter: DoubleEndedIterator>,
{
    let mut entries = x_forwarded_for.into_iter().rev().flat_map(|value| value.rsplit(','));
    // What is no address ends the chain: what stands left of it was not seen by any proxy we trust.
    std::iter::successors(Some(peer.to_canonical()), move |speaker| {
        if is_trusted(*speaker, trusted) { address(entries.next()?.trim()) } else { None }
    })
}

/// An address with or without a port, in brackets or not.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// What came in the forwarded fields of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardedClaims<'a> {
    /// The values of `X-Forwarded-For`, in order.
    pub addresses: &'a [&'a str],
    /// The last value of `X-Forwarded-Proto`.
    pub proto: Option<&'a str>,
    /// The last value of `X-Forwarded-Host`.
    pub host: Option<&'a str>,
}

impl ForwardedClaims<'_> {
    /// Whether the client came by TLS: what the trusted peer says, else what its connection is. Of a list the
    /// last entry counts: it is the one the peer itself wrote.
    pub fn is_https(&self, tls: bool) -> bool {
        match self.proto.map(last_entry) {
            Some("https") => true,
            Some("http") => false,
            _ => tls,
        }
    }
}

/// The forwarded fields an upstream is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// `X-Forwarded-For`: the client, the trusted proxies after it, the peer.
    pub addresses: String,
    /// `X-Forwarded-Proto`: `http` or `https`.
    pub proto: &'static str,
    /// `X-Forwarded-Host`: the host the client asked for.
    pub host: String,
}

impl Forwarded {
    /// From the connection itself (peer, TLS or not, the request's `Host`), and from what came if the peer
    /// is trusted. Of a list the last entry counts: it is the one the peer itself wrote.
    pub fn rebuild(
        peer: IpAddr,
        tls: bool,
        host: &str,
        came: ForwardedClaims<'_>,
        trusted: &[IpNet],
    ) -> Self {
        if !is_trusted(peer, trusted) {
            let (addresses, host) = (text_of(peer.to_canonical()), host.to_owned());
            return Self { addresses, proto: if tls { "https" } else { "http" }, host };
        }
        let mut addresses: Vec<_> =
            believed(peer, came.addresses.iter().copied(), trusted).map(text_of).collect();
        addresses.reverse();
        let proto = if came.is_https(tls) { "https" } else { "http" };
        let host = came.host.map(last_entry).filter(|host| is_authority(host)).unwrap_or(host);
        Self { addresses: addresses.join(", "), proto, host: host.to_owned() }
    }
}

fn text_of(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    push_address(&mut text, address);
    text
}

fn last_entry(value: &str) -> &str {
    value.rsplit(',').next().unwrap_or_default().trim()
}

fn is_authority(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    !text.is_empty() && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::try_from(*name).unwrap()).collect()
    }

    fn protected(identity: &[&str]) -> ProtectedNames {
        ProtectedNames::new(&names(identity)).unwrap()
    }

    #[test]
    fn every_spelling_of_an_identity_header_is_a_forgery() {
        let protected = protected(&["X-Auth-Subject", "X-Auth-Roles", "Remote_User"]);
        for name in [
            "X-Auth-Subject",
            "x-auth-subject",
            "X_Auth_Subject",
            "X.AUTH.SUBJECT",
            "x--auth__subject",
            "-X-Auth-Subject",
            "X-Auth-Subject_",
            "X!Auth~Subject",
            "x-auth.roles",
            "remote-user",
            "REMOTE.USER",
        ] {
            assert!(protected.is_identity(name) && protected.is_protected(name), "{name}");
        }
        for name in [
            "X-Auth",
            "X-Auth-Subject-Id",
            "XAuthSubject",
            "X-Auth-Subjec",
            "X-Auth-Email",
            "Accept",
            "",
            "-",
        ] {
            assert!(!protected.is_protected(name), "{name}");
        }
    }

    #[test]
    fn fields_that_reroute_are_protected_and_no_forgery() {
        let protected = protected(&[]);
        for name in [
            "X-Original-URL",
            "x_rewrite_url",
            "X-HTTP-Method",
            "X-HTTP-Method-Override",
            "X.Method.Override",
        ] {
            assert!(protected.is_protected(name) && !protected.is_identity(name), "{name}");
        }
        assert!(!protected.is_protected("X-Original-Host"));
    }

    #[test]
    fn every_spelling_of_what_is_not_passed_on_is_dropped() {
        let protected = protected(&["Remote-User", "9-Lives"]);
        for name in [
            "remote_user",
            "--9.lives",
            "X_Method_Override",
            "x.request.id",
            "FORWARDED",
            "x-forwarded-y",
            "content_length",
            "transfer.encoding",
        ] {
            assert!(protected.is_dropped(name, false), "{name}");
        }
        for name in [
            "",
            "-",
            "Host",
            "Accept",
            "X-Other",
            "Remote",
            "Forward",
            "9-Live",
            "content-length",
            "transfer-encoding",
        ] {
            assert!(!protected.is_dropped(name, false), "{name}");
        }
        assert!(!protected.is_dropped("X-Forwarded-Prefix", true));
    }

    #[test]
    fn folding_is_lower_case_with_one_separator() {
        for (name, folded) in
            [("X-Auth", "x-auth"), ("__a..B--", "a-b"), ("", ""), ("--", ""), ("a", "a"), ("a1-2", "a1-2")]
        {
            assert_eq!(fold(name), folded, "{name}");
        }
    }

    #[test]
    fn names_with_a_meaning_of_their_own_carry_no_identity() {
        for name in
            ["Host", "content_length", "Transfer.Encoding", "X-Forwarded-For", "x_real_ip", "Cookie", "--"]
        {
            let errors = ProtectedNames::new(&names(&[name])).unwrap_err();
            assert!(matches!(errors[..], [HeaderNameError::Reserved(_)]), "{name}");
        }
        assert!(ProtectedNames::new(&names(&["X-Forwarded-User", "X-Forwarded-Email"])).is_ok());
    }

    #[test]
    fn two_spellings_of_one_name_are_an_error_and_the_same_name_twice_is_none() {
        assert!(ProtectedNames::new(&names(&["X-Auth-Subject", "x-auth-subject"])).is_ok());
        let errors = ProtectedNames::new(&names(&["X-Auth-Subject", "Date", "X_Auth_Subject"])).unwrap_err();
        assert_eq!(
            errors,
            [
                HeaderNameError::Reserved("date".into()),
                HeaderNameError::Alike("x-auth-subject".into(), "x_auth_subject".into())
            ]
        );
    }

    #[test]
    fn the_forwarded_family_is_dropped_in_every_spelling() {
        for name in [
            "Forwarded",
            "X-Forwarded-For",
            "x_forwarded_proto",
            "X.Forwarded.Host",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Server",
            "X-Forwarded",
            "x__real-ip",
            "X-Forwarded-User",
        ] {
            assert!(drops_forwarded(name, false), "{name}");
        }
        for name in ["X-Forward", "Forwarded-Not", "X-Forwardedfor", "X-Real-IPs", "Via"] {
            assert!(!drops_forwarded(name, false), "{name}");
        }
        for (name, dropped) in [
            ("X-Forwarded-Prefix", false),
            ("Forwarded", false),
            ("X-Real-IP", false),
            ("X_Forwarded_Prefix", true),
            ("X-Forwarded--Prefix", true),
            ("X-Forwarded-Prefix-", true),
            ("X-Forwarded-For", true),
            ("X-Forwarded-Proto", true),
            ("x-forwarded-host", true),
        ] {
            assert_eq!(drops_forwarded(name, true), dropped, "{name}");
        }
    }

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into()
    }

    #[test]
    fn the_clients_address_is_the_first_from_the_right_that_is_no_trusted_proxy() {
        for (peer, values, client) in [
            ("203.0.113.9", vec!["1.2.3.4"], "203.0.113.9"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", vec!["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", vec!["6.6.6.6", "1.2.3.4 , 10.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", vec!["6.6.6.6, 1.2.3.4", "10.9.9.9,fd00::1"], "1.2.3.4"),
            ("10.0.0.1", vec!["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
            ("10.0.0.1", vec!["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec!["1.2.3.4,"], "10.0.0.1"),
            ("10.0.0.1", vec!["1.2.3.4:5678"], "1.2.3.4"),
            ("10.0.0.1", vec!["[2001:db8::1]:5678"], "2001:db8::1"),
            ("10.0.0.1", vec!["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", vec!["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", vec!["::ffff:1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", vec!["1.2.3.4"], "1.2.3.4"),
            ("fd00::2", vec!["1.2.3.4"], "1.2.3.4"),
        ] {
            let found = client_address(peer.parse().unwrap(), values.iter().copied(), &trusted());
            assert_eq!(found.to_string(), client, "{peer} {values:?}");
        }
    }

    #[test]
    fn a_stranger_is_told_of_as_the_connection_shows_it() {
        let came =
            ForwardedClaims { addresses: &["6.6.6.6"], proto: Some("https"), host: Some("evil.example") };
        let peer = "203.0.113.9".parse().unwrap();
        let forwarded = Forwarded::rebuild(peer, false, "api.example.com", came, &trusted());
        let expected =
            Forwarded { addresses: "203.0.113.9".into(), proto: "http", host: "api.example.com".into() };
        assert_eq!(forwarded, expected);
        let forwarded = Forwarded::rebuild(peer, true, "api.example.com", came, &[]);
        assert_eq!(forwarded.proto, "https");
    }

    #[test]
    fn a_trusted_proxy_is_believed_as_far_as_it_saw() {
        let peer = "10.0.0.1".parse().unwrap();
        let came = ForwardedClaims {
            addresses: &["6.6.6.6, 1.2.3.4", "10.9.9.9"],
            proto: Some("http, https"),
            host: Some("evil.example, shop.example:8443"),
        };
        let forwarded = Forwarded::rebuild(peer, false, "inner", came, &trusted());
        assert_eq!(forwarded.addresses, "1.2.3.4, 10.9.9.9, 10.0.0.1");
        assert_eq!(forwarded.proto, "https");
        assert_eq!(forwarded.host, "shop.example:8443");
        let odd = ForwardedClaims { addresses: &[], proto: Some("gopher"), host: Some("a b") };
        let forwarded = Forwarded::rebuild(peer, true, "inner", odd, &trusted());
        assert_eq!((forwarded.proto, forwarded.host.as_str()), ("https", "inner"));
    }
}
