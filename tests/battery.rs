//! Some hundred raw requests, each with a name, against three backends that read a path each in its own way:
//! none answers what is protected, none reads an identity that the client wrote, and none receives a request
//! that was not judged.

use crate::support::frames::RawRequest;
use crate::support::http_server::Received;
use crate::support::{Config, Connection, Gateway, Issuer, Reply, Upstream};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// What only somebody with a token may read.
const MARKER: &str = "the-protected-resource";
/// What a client says it is.
const FORGED: &str = "mallory";

/// How a backend finds the resource of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Style {
    /// As it stands on the wire.
    AsIs,
    /// Decoded, with `\` for `/`, in the manner of file servers.
    Decoding,
    /// Without what follows a `;` in each segment, then decoded, in the manner of servlet containers.
    Semicolons,
}

impl Style {
    const ALL: [Self; 3] = [Self::AsIs, Self::Decoding, Self::Semicolons];

    const fn host(self) -> &'static str {
        match self {
            Self::AsIs => "as-is.test",
            Self::Decoding => "decoding.test",
            Self::Semicolons => "semicolons.test",
        }
    }

    /// Whether this target is the protected resource.
    fn protects(self, target: &str) -> bool {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let path = match path.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => path,
        };
        let path = match self {
            Self::AsIs => return is_protected(path),
            Self::Decoding => decoded(path).replace('\\', "/"),
            Self::Semicolons => {
                let cut: Vec<_> =
                    path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
                decoded(&cut.join("/"))
            }
        };
        let mut resolved: Vec<&str> = Vec::new();
        for segment in path.split('/') {
            // What some systems drop from the end of a name.
            match segment.split('\0').next().unwrap_or_default().trim_end_matches(' ') {
                "" | "." => {}
                ".." => {
                    resolved.pop();
                }
                segment => resolved.push(segment.trim_end_matches('.')),
            }
        }
        is_protected(&format!("/{}", resolved.join("/")))
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn is_protected(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

/// Answers with the marker for what is protected, and with everything it would take for an identity.
fn answer(style: Style, received: &Received) -> Reply {
    let body = if style.protects(received.target()) { MARKER } else { "open" };
    let mut said: Vec<_> = ["x-auth-subject", "x-auth-roles", "x-auth-assertion"]
        .iter()
        .flat_map(|name| received.folded(name))
        .map(ToOwned::to_owned)
        .collect();
    said.extend(received.trailers.clone());
    Reply::ok(format!("{body} {}", said.join(" "))).with("X-Resource", body)
}

struct Field {
    gateway: Gateway,
    upstreams: Vec<(Style, Upstream)>,
    issuer: Issuer,
}

impl Field {
    fn start() -> Self {
        let issuer = Issuer::start();
        let upstreams = Style::ALL.map(|style| (style, Upstream::answering(move |r| answer(style, r))));
        let mut config = Config::new()
            .listener("http2: true")
            .server("limits", "{ body_timeout: 300ms, header_timeout: 1s, idle_timeout: 100ms }")
            .issuer("corp", &issuer.settings())
            .set(
                "forward",
                "{ headers: { X-Auth-Subject: sub, X-Auth-Roles: { claim: roles, format: csv } } }",
            );
        for (style, upstream) in &upstreams {
            let (host, name) = (style.host(), style.host().replace('.', "-"));
            config = config.upstream(&name, &[upstream]);
            for (route, path, auth) in [
                ("all", "/**", "public"),
                ("optional", "/optional/**", "optional"),
                ("required", "/required/**", "required"),
                ("admin", "/admin/**", "required"),
            ] {
                config = config.route(&format!(
                    "{{ name: {name}-{route}, match: {{ hosts: [{host}], path: {path} }}, upstream: {name}, auth: {auth} }}"
                ));
            }
        }
        Self { gateway: Gateway::start(&config), upstreams: upstreams.into(), issuer }
    }

    /// Everything that comes back, in the end.
    fn fire(&self, shot: &Shot) -> String {
        let address = self.gateway.address();
        let bytes = match &shot.wire {
            Wire::One(bytes) => bytes,
            Wire::Two(request) => {
                let answer = request.send(&address).unwrap();
                return format!("{:?} {}", answer.status, String::from_utf8_lossy(&answer.body));
            }
        };
        let mut connection = Connection::open(&address).unwrap().patience(Duration::from_secs(3));
        let _ = connection.send(bytes);
        let mut all = String::new();
        while let Ok(response) = connection.read_response(shot.head_only) {
            all += &format!("{} {:?} {}\n", response.status, response.headers, response.text());
            // What is left is a second answer, or the end of a connection that idles.
        }
        all
    }

    /// Fires all, some at a time, and gives the names of those that hit something.
    fn fire_all(&self, shots: &[Shot]) -> Vec<String> {
        let (next, hits) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while let Some(shot) = shots.get(next.fetch_add(1, Ordering::SeqCst)) {
                        let answer = self.fire(shot);
                        if answer.contains(MARKER) || answer.contains(FORGED) {
                            hits.lock().unwrap().push(format!("{}: {answer}", shot.name));
                        }
                    }
                });
            }
        });
        hits.into_inner().unwrap()
    }

    /// The requests each backend received that no line of the access log accounts for.
    fn unjudged(&self) -> Vec<String> {
        let received: Vec<_> = self
            .upstreams
            .iter()
            .flat_map(|(style, upstream)| upstream.requests().into_iter().map(move |r| (*style, r)))
            .collect();
        let judged = || -> HashMap<String, Value> {
            let lines = self.gateway.log_lines().into_iter();
            lines.map(|line| (line["requestId"].as_str().unwrap_or_default().to_owned(), line)).collect()
        };
        let id = |received: &Received| received.header("x-request-id").unwrap_or_default().to_owned();
        crate::support::eventually(Duration::from_secs(5), || {
            let judged = judged();
            received.iter().all(|(_, received)| judged.contains_key(&id(received)))
        });
        let judged = judged();
        let mut seen = HashSet::new();
        let mut unjudged = Vec::new();
        for (style, received) in &received {
            let path = received.target().split('?').next().unwrap_or_default();
            let is_judged = judged.get(&id(received)).is_some_and(|line| {
                line["host"] == style.host()
                    && line["method"] == received.method()
                    && line["path"] == path
                    && matches!(line["reason"].as_str(), Some("ok" | "anonymous"))
            });
            let forged = received.header_lines.join("\n").contains(FORGED);
            let anonymous = received.folded("x-auth-subject").is_empty();
            if !is_judged
                || forged
                || !received.trailers.is_empty()
                || (style.protects(received.target()) && anonymous)
                || !seen.insert(id(received))
            {
                unjudged.push(format!("{style:?}: {received:?}"));
            }
        }
        unjudged
    }
}

enum Wire {
    One(Vec<u8>),
    Two(RawRequest),
}

struct Shot {
    name: String,
    wire: Wire,
    head_only: bool,
}

impl Shot {
    fn one(name: String, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { name, head_only: bytes.starts_with(b"HEAD"), wire: Wire::One(bytes) }
    }

    fn two(name: String, request: RawRequest) -> Self {
        Self { name: format!("h2 {name}"), wire: Wire::Two(request), head_only: false }
    }
}

/// What some backend may take for `/admin/secret`, and for which no token is shown.
const PATHS: &[(&str, &str)] = &[
    ("plain", "/admin/secret"),
    ("the folder", "/admin"),
    ("trailing slash", "/admin/"),
    ("query", "/admin/secret?public"),
    ("empty query", "/admin?"),
    ("query with a path", "/admin/secret?/../../open"),
    ("first letter encoded", "/%61dmin/secret"),
    ("last letter encoded", "/admi%6e/secret"),
    ("capital hex", "/admi%6E/secret"),
    ("all letters encoded", "/%61%64%6d%69%6e/secret"),
    ("letters below encoded", "/admin/%73ecret"),
    ("encoded slash before", "%2fadmin/secret"),
    ("encoded slash", "/admin%2fsecret"),
    ("encoded slash in capitals", "/admin%2Fsecret"),
    ("two encoded slashes", "/%2fadmin%2fsecret"),
    ("doubly encoded slash", "/admin%252fsecret"),
    ("encoded backslash", "/admin%5csecret"),
    ("backslash", "/admin\\secret"),
    ("backslash at the front", "\\admin\\secret"),
    ("slash and backslash", "/\\admin/secret"),
    ("two slashes", "//admin/secret"),
    ("three slashes", "///admin/secret"),
    ("two slashes inside", "/admin//secret"),
    ("dot segment", "/./admin/secret"),
    ("dot segment inside", "/admin/./secret"),
    ("out of the open part", "/open/../admin/secret"),
    ("out of two open parts", "/a/b/../../admin/secret"),
    ("above the root", "/../admin/secret"),
    ("far above the root", "/../../../../admin/secret"),
    ("encoded dots", "/open/%2e%2e/admin/secret"),
    ("one dot encoded", "/open/.%2e/admin/secret"),
    ("encoded dots in capitals", "/open/%2E%2E/admin/secret"),
    ("doubly encoded dots", "/open/%252e%252e/admin/secret"),
    ("encoded dots and slash", "/open%2f..%2fadmin/secret"),
    ("dots and encoded backslash", "/open/..%5cadmin/secret"),
    ("dots and backslash", "/open/..\\admin\\secret"),
    ("parameter", "/admin;x/secret"),
    ("empty parameter", "/admin;/secret"),
    ("parameter with a value", "/admin;jsessionid=1/secret"),
    ("parameter below", "/admin/secret;x"),
    ("parameter on the dots", "/open/..;/admin/secret"),
    ("parameter with a slash on the dots", "/open/..;x=y/admin/secret"),
    ("parameter before", "/;x/admin/secret"),
    ("parameter on an empty segment", "/;/admin/secret"),
    ("encoded semicolon", "/admin%3bx/secret"),
    ("encoded semicolon on the dots", "/open/..%3b/admin/secret"),
    ("two semicolons", "/admin;;/secret"),
    ("semicolon and dot", "/.;/admin/secret"),
    ("semicolon in a letter", "/adm;x=in/../admin/secret"),
    ("encoded NUL", "/admin%00/secret"),
    ("encoded NUL and an ending", "/admin/secret%00.css"),
    ("encoded line end", "/admin/secret%0a"),
    ("encoded carriage return", "/admin%0d/secret"),
    ("encoded tab", "/admin%09/secret"),
    ("encoded space", "/admin%20/secret"),
    ("dot at the end", "/admin./secret"),
    ("dots at the end", "/admin../secret"),
    ("encoded dot at the end", "/admin%2e/secret"),
    ("dot and space at the end", "/admin.%20/secret"),
    ("encoded question mark", "/admin%3f/secret"),
    ("encoded hash", "/admin%23/secret"),
    ("hash", "/open#/../admin/secret"),
    ("hash after", "/admin/secret#open"),
    ("overlong slash", "/admin%c0%afsecret"),
    ("overlong dots", "/open/%c0%ae%c0%ae/admin/secret"),
    ("long overlong slash", "/admin%e0%80%afsecret"),
    ("unfinished escape", "/admin/secret%"),
    ("escape of half a byte", "/admin/secret%2"),
    ("escape of no byte", "/admin%zz/secret"),
    ("escape in the manner of scripts", "/%u0061dmin/secret"),
    ("wide slash", "/admin%ef%bc%8fsecret"),
    ("wide letter", "/%ef%bd%81dmin/secret"),
    ("invisible letter", "/%e2%80%8badmin/secret"),
    ("absolute form", "http://HOST/admin/secret"),
    ("absolute form with two slashes", "http://HOST//admin/secret"),
    ("absolute form with dots", "http://HOST/open/../admin/secret"),
    ("absolute form in capitals", "HTTP://HOST/admin/secret"),
    ("absolute form of TLS", "https://HOST/admin/secret"),
    ("absolute form with a user", "http://user@HOST/admin/secret"),
    ("absolute form of another host", "http://other.test/admin/secret"),
    ("a space", "/open /../admin/secret"),
    ("a version in the target", "/admin/secret HTTP/1.1"),
    ("no slash", "admin/secret"),
    ("asterisk", "*"),
    ("asterisk and path", "*/admin/secret"),
    ("scheme only", "http:/admin/secret"),
];

fn paths() -> Vec<Shot> {
    let mut shots = Vec::new();
    for style in Style::ALL {
        let host = style.host();
        for (name, target) in PATHS {
            let target = target.replace("HOST", host);
            let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Auth-Subject: {FORGED}\r\n\r\n");
            shots.push(Shot::one(format!("path: {name} ({style:?})"), head));
            shots.push(Shot::two(format!("path: {name} ({style:?})"), RawRequest::new("GET", host, &target)));
        }
        for method in
            ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "get", "TRACE", "CONNECT"]
        {
            let head =
                format!("{method} /admin/secret HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
            shots.push(Shot::one(format!("method: {method} ({style:?})"), head));
        }
        for (name, field) in [
            ("another target", "X-Original-URL: /admin/secret"),
            ("another target, folded", "x_rewrite.url: /admin/secret"),
            ("another target of a proxy", "X-Forwarded-Uri: /admin/secret"),
            ("another method", "X-HTTP-Method-Override: GET"),
            ("a token that is none", "Authorization: Bearer x"),
            ("a token without a signature", "Authorization: Bearer eyJhbGciOiJub25lIn0.e30."),
            ("basic credentials", "Authorization: Basic YWRtaW46YWRtaW4="),
            ("a token in a cookie", "Cookie: access_token=x; Authorization=Bearer"),
            ("a health checker", "User-Agent: GoogleHC/1.0"),
            ("an internal address", "X-Forwarded-For: 127.0.0.1"),
            ("a preflight", "Access-Control-Request-Method: GET\r\nOrigin: https://a.test"),
        ] {
            let head = format!("OPTIONS /admin/secret HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n");
            shots.push(Shot::one(format!("unlocked by {name} ({style:?})"), head.clone()));
            let head = head.replacen("OPTIONS /admin/secret", "GET /admin/secret", 1);
            shots.push(Shot::one(format!("opened by {name} ({style:?})"), head));
        }
    }
    shots
}

/// Every spelling of a name that some reader folds into it: each character that may stand in a field name in
/// place of the hyphens, single, doubled, mixed, at the ends; in several cases.
fn aliases(name: &str) -> Vec<String> {
    let mut aliases = vec![name.to_owned(), name.to_lowercase(), name.to_uppercase()];
    for mark in "!#$%&'*+-.^_`|~".chars() {
        for other in [mark.to_string(), mark.to_string().repeat(2), format!("-{mark}"), format!("{mark}_")] {
            aliases.push(name.replace('-', &other));
        }
        aliases.push(format!("{mark}{name}"));
        aliases.push(format!("{name}{mark}"));
        aliases.push(name.replacen('-', &mark.to_string(), 1).to_uppercase());
    }
    aliases.sort();
    aliases.dedup();
    aliases
}

fn headers(token: &str) -> Vec<Shot> {
    let mut shots = Vec::new();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let mut sent = HashSet::new();
    for (at, alias) in aliases("X-Auth-Subject").into_iter().enumerate() {
        let style = Style::ALL[at % 3];
        let host = style.host();
        for (route, auth) in [("open", ""), ("optional", ""), ("required", bearer.as_str())] {
            for (name, before, after) in [
                ("before", format!("{alias}: {FORGED}\r\n"), String::new()),
                ("after", String::new(), format!("{alias}: {FORGED}\r\n")),
                ("nominated", String::new(), format!("{alias}: {FORGED}\r\nConnection: {alias}, close\r\n")),
            ] {
                let head = format!("GET /{route}/x HTTP/1.1\r\n{before}Host: {host}\r\n{auth}{after}\r\n");
                shots.push(Shot::one(format!("alias: {alias} {name} on {route}"), head));
            }
        }
        let trailer = format!(
            "POST /open HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTrailer: {alias}\r\n\r\n\
             1\r\nx\r\n0\r\n{alias}: {FORGED}\r\n\r\n"
        );
        shots.push(Shot::one(format!("alias: {alias} in a trailer"), trailer));
        // Names have small letters in HTTP/2.
        let alias = alias.to_lowercase();
        if !sent.insert(alias.clone()) {
            continue;
        }
        let request =
            RawRequest::new("GET", host, "/optional/x").field("authorization", &format!("Bearer {token}"));
        shots.push(Shot::two(format!("alias: {alias}"), request.clone().field(&alias, FORGED)));
        let request = RawRequest::new("POST", host, "/open").body(b"x").trailer(&alias, FORGED);
        shots.push(Shot::two(format!("alias: {alias} in a trailer"), request));
    }
    shots
}

/// Bytes in which another request may hide; `HIDDEN` is that request, `LENGTH` its length, `HEX` that in hex.
const FRAMES: &[(&str, &str)] = &[
    (
        "length and chunks",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks and length",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\nContent-Length: LENGTH\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "two lengths",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: 0\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "two lengths the other way",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: LENGTH\r\nContent-Length: 0\r\n\r\nHIDDEN",
    ),
    ("a list of lengths", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: 0, LENGTH\r\n\r\nHIDDEN"),
    ("a length with a sign", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: +0\r\n\r\nHIDDEN"),
    ("a length in hex", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: 0xHEX\r\n\r\nHIDDEN"),
    ("a length with a fraction", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: 0.0\r\n\r\nHIDDEN"),
    ("a negative length", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: -1\r\n\r\nHIDDEN"),
    ("an empty length", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: \r\n\r\nHIDDEN"),
    (
        "an overflowing length",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length: 18446744073709551616\r\n\r\nHIDDEN",
    ),
    (
        "a length with a space before the colon",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length : LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "a length with a tab before the colon",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length\t: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "a length spelled with an underscore",
        "POST PATH HTTP/1.1\r\nHOST\r\nContent_Length: LENGTH\r\n\r\nHIDDEN",
    ),
    ("a folded length", "POST PATH HTTP/1.1\r\nHOST\r\nContent-Length:\r\n LENGTH\r\n\r\nHIDDEN"),
    (
        "a length after a bare line feed",
        "POST PATH HTTP/1.1\r\nHOST\r\nX: y\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "a length after a bare return",
        "POST PATH HTTP/1.1\r\nHOST\r\nX: y\rContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    ("a length behind a NUL", "POST PATH HTTP/1.1\r\nHOST\r\nX: y\0Content-Length: LENGTH\r\n\r\nHIDDEN"),
    ("an unknown coding", "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nHIDDEN"),
    (
        "a coding before the chunks",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "a coding after the chunks",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks twice",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks in capitals with a length",
        "POST PATH HTTP/1.1\r\nHOST\r\nTRANSFER-ENCODING: Chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks with a vertical tab",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: \x0bchunked\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "chunks with a space before the colon",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks in a folded line",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks spelled with an underscore",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks in quotes",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "chunks with a parameter",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "an empty coding",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: \r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    ("chunks in HTTP/1.0", "POST PATH HTTP/1.0\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN"),
    (
        "a length in HTTP/1.0 kept alive",
        "POST PATH HTTP/1.0\r\nHOST\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\nHIDDEN",
    ),
    (
        "a nominated length",
        "POST PATH HTTP/1.1\r\nHOST\r\nConnection: Content-Length\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "a nominated coding",
        "POST PATH HTTP/1.1\r\nHOST\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk that is too short",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk that is too long",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk of negative size",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nHIDDEN",
    ),
    (
        "a chunk size with a prefix",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk size with an underscore",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0_0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk size with a space",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0 \r\n\r\nHIDDEN",
    ),
    (
        "an overflowing chunk size",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nHIDDEN",
    ),
    ("an empty chunk size", "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n\r\nHIDDEN"),
    (
        "chunk lines that end in line feeds",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\nHIDDEN",
    ),
    (
        "a chunk that ends in a bare return",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk extension with a line feed",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "a chunk extension that hides a request",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\nHEX;a=\"\r\nHIDDEN\r\n0\r\n\r\nHIDDEN",
    ),
    (
        "a request in a trailer",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\nHIDDEN",
    ),
    (
        "a trailer that is no field",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHIDDEN",
    ),
    (
        "a last chunk without its end",
        "POST PATH HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHIDDEN\r\n\r\n",
    ),
    ("a body of GET", "GET PATH HTTP/1.1\r\nHOST\r\nContent-Length: LENGTH\r\n\r\nHIDDEN"),
    ("a body of HEAD", "HEAD PATH HTTP/1.1\r\nHOST\r\nContent-Length: LENGTH\r\n\r\nHIDDEN"),
    ("a body of OPTIONS", "OPTIONS PATH HTTP/1.1\r\nHOST\r\nContent-Length: LENGTH\r\n\r\nHIDDEN"),
    (
        "a body that is waited for",
        "POST PATH HTTP/1.1\r\nHOST\r\nExpect: 100-continue\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "an expectation nobody knows",
        "POST PATH HTTP/1.1\r\nHOST\r\nExpect: x\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    ("data after CONNECT", "CONNECT a.test:443 HTTP/1.1\r\nHOST\r\n\r\nHIDDEN"),
    (
        "data after an upgrade",
        "GET PATH HTTP/1.1\r\nHOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nHIDDEN",
    ),
    (
        "an upgrade with a body",
        "POST PATH HTTP/1.1\r\nHOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: LENGTH\r\n\r\nHIDDEN",
    ),
    (
        "an upgrade to HTTP/2",
        "GET PATH HTTP/1.1\r\nHOST\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\nHIDDEN",
    ),
    (
        "an upgrade with chunks",
        "POST PATH HTTP/1.1\r\nHOST\r\nConnection: Upgrade\r\nUpgrade: foo\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN",
    ),
    ("a pipelined request", "GET PATH HTTP/1.1\r\nHOST\r\n\r\nHIDDEN"),
    ("a pipelined request after empty lines", "\r\n\r\nGET PATH HTTP/1.1\r\nHOST\r\n\r\n\r\nHIDDEN"),
    ("line feeds alone", "GET PATH HTTP/1.1\nHOST\n\nHIDDEN"),
    ("a header block that ends twice", "GET PATH HTTP/1.1\r\nHOST\r\n\n\r\nHIDDEN"),
    ("a folded line", "GET PATH HTTP/1.1\r\nHOST\r\nX: y\r\n HIDDEN"),
    ("a header without a name", "GET PATH HTTP/1.1\r\nHOST\r\n: y\r\n\r\nHIDDEN"),
    ("a header without a colon", "GET PATH HTTP/1.1\r\nHOST\r\nX\r\n\r\nHIDDEN"),
    ("a version nobody speaks", "GET PATH HTTP/1.9\r\nHOST\r\n\r\nHIDDEN"),
    ("no version", "GET PATH\r\nHOST\r\n\r\nHIDDEN"),
    ("two spaces in the request line", "GET  PATH  HTTP/1.1\r\nHOST\r\n\r\nHIDDEN"),
    ("a request line in the target", "GET PATH HTTP/1.1\r\nX: HTTP/1.1\r\nHOST\r\n\r\nHIDDEN"),
    ("two hosts", "GET PATH HTTP/1.1\r\nHOST\r\nHost: other.test\r\n\r\nHIDDEN"),
    ("no host", "GET PATH HTTP/1.1\r\nX: y\r\n\r\nHIDDEN"),
    ("a host with a space before the colon", "GET PATH HTTP/1.1\r\nHOST\r\nHost : other.test\r\n\r\nHIDDEN"),
];

fn frames() -> Vec<Shot> {
    let mut shots = Vec::new();
    for style in Style::ALL {
        let host = style.host();
        let hidden = format!(
            "GET /admin/secret HTTP/1.1\r\nHost: {host}\r\nX-Auth-Subject: {FORGED}\r\nX-Hidden: 1\r\n\r\n"
        );
        for (name, bytes) in FRAMES {
            for path in ["/open", "/admin/secret"] {
                let bytes = bytes
                    .replace("HOST", &format!("Host: {host}"))
                    .replace("PATH", path)
                    .replace("LENGTH", &hidden.len().to_string())
                    .replace("HEX", &format!("{:x}", hidden.len()))
                    .replace("HIDDEN", &hidden);
                shots.push(Shot::one(format!("framing: {name} on {path} ({style:?})"), bytes));
            }
        }
        let h2 = |path| RawRequest::new("POST", host, path);
        let line = format!("1\r\nHost: {host}\r\n\r\n{hidden}");
        for (name, request) in [
            ("a line end in a value", h2("/open").field("x-a", &line)),
            ("a line end in a path", h2(&format!("/open HTTP/1.1\r\nHost: {host}\r\n\r\n{hidden}"))),
            (
                "a line end in a method",
                RawRequest::new(
                    &format!("GET /admin/secret HTTP/1.1\r\nHost: {host}\r\n\r\nGET"),
                    host,
                    "/open",
                ),
            ),
            ("a line end in an authority", RawRequest::new("GET", &format!("{host}\r\nX: y"), "/open")),
            ("a line end in a name", h2("/open").field(&format!("x\r\n\r\n{hidden}"), "1")),
            ("a name in capitals", h2("/open").field("X-Auth-Subject", FORGED)),
            ("a name with a colon", h2("/open").field("x-auth-subject:x", FORGED)),
            ("a name with a space", h2("/open").field("x-auth-subject ", FORGED)),
            ("a length that is too short", h2("/open").field("content-length", "1").body(hidden.as_bytes())),
            (
                "a length that is too long",
                h2("/open").field("content-length", "9999").body(hidden.as_bytes()),
            ),
            ("a length of nothing", h2("/open").field("content-length", "0").body(hidden.as_bytes())),
            (
                "two lengths",
                h2("/open")
                    .field("content-length", "0")
                    .field("content-length", &hidden.len().to_string())
                    .body(hidden.as_bytes()),
            ),
            (
                "a coding",
                h2("/open")
                    .field("transfer-encoding", "chunked")
                    .body(format!("0\r\n\r\n{hidden}").as_bytes()),
            ),
            (
                "a connection field",
                h2("/open").field("connection", "x-auth-subject").field("x-auth-subject", FORGED),
            ),
            ("an upgrade", h2("/open").field("upgrade", "websocket").field("connection", "upgrade")),
            ("another host field", h2("/open").field("host", "other.test")),
            ("a host field for the authority", h2("/admin/secret").without(":authority").field("host", host)),
            ("two paths", h2("/open").field(":path", "/admin/secret")),
            ("two methods", h2("/admin/secret").field(":method", "GET")),
            ("no path", h2("/open").without(":path")),
            ("an empty path", h2("")),
            ("no method", h2("/open").without(":method")),
            ("no scheme", h2("/open").without(":scheme")),
            (
                "a path in the scheme",
                h2("/open").without(":scheme").field(":scheme", "http://x/admin/secret?"),
            ),
            (
                "a pseudo-header field after others",
                h2("/open").without(":path").field("x-a", "1").field(":path", "/admin/secret"),
            ),
            ("an unknown pseudo-header field", h2("/open").field(":x-auth-subject", FORGED)),
            ("a pseudo-header field in a trailer", h2("/open").body(b"x").trailer(":path", "/admin/secret")),
            ("an authority with a path", RawRequest::new("GET", &format!("{host}/admin/secret"), "/open")),
            (
                "an extended CONNECT",
                RawRequest::new("CONNECT", host, "/admin/secret").field(":protocol", "websocket"),
            ),
        ] {
            shots.push(Shot::two(format!("framing: {name} ({style:?})"), request));
        }
    }
    shots
}

#[track_caller]
fn nothing_hit(field: &Field, shots: &[Shot], least: usize) {
    let names: HashSet<_> = shots.iter().map(|shot| &shot.name).collect();
    assert_eq!(names.len(), shots.len(), "each shot has its own name");
    assert!(shots.len() >= least, "{} shots", shots.len());
    let hits = field.fire_all(shots);
    assert!(hits.is_empty(), "{} of {} hit:\n{}", hits.len(), shots.len(), hits.join("\n"));
    let unjudged = field.unjudged();
    assert!(unjudged.is_empty(), "{} requests were not judged:\n{}", unjudged.len(), unjudged.join("\n"));
    // Much that is odd is harmless and passes: had nothing arrived, nothing would have been shown.
    let arrived: usize = field.upstreams.iter().map(|(_, upstream)| upstream.hits()).sum();
    assert!(arrived > 10, "only {arrived} arrived");
    assert!(field.gateway.metric("portcullis_panics_total", &[]) < 0.5, "a panic was contained");
}

#[test]
fn no_spelling_of_a_path_gets_at_what_is_protected() {
    let field = Field::start();
    nothing_hit(&field, &paths(), 300);
}

#[test]
fn no_spelling_of_an_identity_header_is_read_as_ours() {
    let field = Field::start();
    let token = field.issuer.sign();
    nothing_hit(&field, &headers(&token), 300);
    for (style, upstream) in &field.upstreams {
        let known: Vec<_> =
            upstream.requests().into_iter().filter(|r| r.target().starts_with("/required")).collect();
        assert!(known.len() > 30, "{style:?}: {}", known.len());
        assert!(known.iter().all(|r| r.header("x-auth-subject") == Some("f:9c1:maria")));
    }
    let spoofed = field.gateway.metric("portcullis_identity_header_spoof_total", &[]);
    assert!(spoofed > 300.0, "{spoofed}");
}

#[test]
fn no_framing_hides_a_request() {
    let field = Field::start();
    nothing_hit(&field, &frames(), 300);
}

#[test]
fn a_request_that_went_round_the_gateway_would_be_seen() {
    let field = Field::start();
    assert!(field.unjudged().is_empty());
    for (style, upstream) in &field.upstreams {
        let mut connection = Connection::open(&upstream.authority()).unwrap();
        let hidden = format!("GET /admin/secret HTTP/1.1\r\nHost: {}\r\n\r\n", style.host());
        connection.send(format!("GET /open HTTP/1.1\r\nHost: x\r\n\r\n{hidden}")).unwrap();
        connection.read_response(false).unwrap();
        assert!(connection.read_response(false).unwrap().text().contains(MARKER));
    }
    assert_eq!(field.unjudged().len(), 6);
}

#[test]
fn the_three_backends_are_as_lax_as_they_should_be() {
    let protects = |style: Style| PATHS.iter().filter(|(_, target)| style.protects(target)).count();
    // Were the gateway to let everything through, this many shots would hit.
    assert!(protects(Style::AsIs) > 10, "{}", protects(Style::AsIs));
    assert!(protects(Style::Decoding) > 35, "{}", protects(Style::Decoding));
    assert!(protects(Style::Semicolons) > 40, "{}", protects(Style::Semicolons));
    assert!(!Style::AsIs.protects("/open") && !Style::Semicolons.protects("/open;x/admin"));
}
