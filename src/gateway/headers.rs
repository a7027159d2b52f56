//! Which header fields of a client never reach an upstream, and what is said about the client instead.

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

/// The fields that carry identity: only the gateway may set them.
#[derive(Debug, Clone)]
pub struct ProtectedNames {
    /// Folded, sorted, distinct.
    identity: Vec<Box<[u8]>>,
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
            Ok(Self { identity: names.into_iter().map(|(form, _)| form.into_bytes().into()).collect() })
        } else {
            Err(errors)
        }
    }

    /// Whether a field of this name would be read as an identity header. From a client it is a forgery.
    /// Does not allocate.
    pub fn is_identity(&self, name: &str) -> bool {
        self.identity.binary_search_by(|own| own.iter().copied().cmp(folded(name))).is_ok()
    }

    /// Whether a client's field of this name must go: it would be read as an identity header, or as another
    /// target or method. Does not allocate.
    pub fn is_protected(&self, name: &str) -> bool {
        self.is_identity(name) || REROUTING.iter().any(|form| folds_to(name, form))
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
        let mut addresses: Vec<_> =
            believed(peer, came.addresses.iter().copied(), trusted).map(|a| a.to_string()).collect();
        addresses.reverse();
        let came = if is_trusted(peer, trusted) { came } else { ForwardedClaims::default() };
        let proto = match came.proto.map(last_entry) {
            Some("https") => "https",
            Some("http") => "http",
            _ if tls => "https",
            _ => "http",
        };
        let host = came.host.map(last_entry).filter(|host| is_authority(host)).unwrap_or(host);
        Self { addresses: addresses.join(", "), proto, host: host.to_owned() }
    }
}

fn last_entry(value: &str) -> &str {
    value.rsplit(',').next().unwrap_or_default().trim()
}

fn is_authority(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    !text.is_empty() && text.bytes().all(good)
}
