//! Clients and backends that people really use: a WebSocket library, gRPC, curl. None of them is ours.

use crate::support::config::cheap_users;
use crate::support::person::{login, logout};
use crate::support::script::{Script, curl};
use crate::support::tls::Authority;
use crate::support::{Config, Gateway, Issuer, Sessions, Upstream};

/// The name that the gateway's certificate is for.
const NAME: &str = "gate.example.test";

/// A backend that is a script and says where it listens.
struct Backend {
    script: Script,
    port: String,
}

impl Backend {
    fn start(script: &str) -> Self {
        let mut script = Script::start(script, &[]);
        let port = script.line();
        Self { script, port }
    }

    /// An `upstreams:` entry for it.
    fn settings(&self, more: &str) -> String {
        format!("{{ endpoints: [\"http://127.0.0.1:{}\"]{more} }}", self.port)
    }
}

/// With a listener that speaks HTTP/2 over TLS, where the client asks for it.
fn over_tls(config: Config, authority: &Authority) -> Config {
    let shown = authority.identity(&[NAME]);
    config
        .listener("tls: { certificate: cert.pem, private_key: key.pem }, http2: true")
        .file("cert.pem", shown.certificate_pem.clone())
        .file("key.pem", shown.key_pem.clone())
}

fn websocket(act: &str, gateway: &Gateway, token: &str) -> Script {
    Script::start("websocket_client.py", &[act, &format!("ws://{}/ws", gateway.address()), token])
}

#[test]
fn a_websocket_library_talks_through_the_gateway_with_all_it_has() {
    let (backend, issuer) = (Backend::start("websocket_server.py"), Issuer::start());
    let gateway = Gateway::start(
        &Config::new()
            .upstream_raw("app", &backend.settings(""))
            .issuer("corp", &issuer.settings())
            .route("{ name: ws, match: { path: /ws }, upstream: app, upgrade: true }")
            .set("log", "{ level: info, access: true }"),
    );
    websocket("talk", &gateway, &issuer.sign()).finish();
    assert_eq!(websocket("refused", &gateway, "").finish(), ["401"]);
    assert!(gateway.metric_becomes("portcullis_requests_total", &[("route", "ws"), ("code", "101")], 4.0));
    assert!(gateway.metric_becomes("portcullis_requests_cut_total", &[], 0.0));
}

#[test]
fn a_websocket_library_is_told_1008_when_the_token_or_the_session_ends() {
    let (backend, issuer) = (Backend::start("websocket_server.py"), Issuer::start());
    let gateway = Gateway::start(
        &Config::new()
            .upstream_raw("app", &backend.settings(""))
            .sessions(Sessions::embedded())
            .file("users.yaml", cheap_users(&["alice"]))
            .issuer("corp", &issuer.settings_with(", leeway: 1s"))
            .route("{ name: ws, match: { path: /ws }, upstream: app, upgrade: true }"),
    );
    let tokens = login(&gateway);
    let mut loses_session = websocket("wait", &gateway, &tokens.access);
    assert_eq!(loses_session.line(), "connected");
    logout(&gateway, &tokens.refresh).expect(204);
    assert_eq!(loses_session.finish(), ["1008"]);

    let token = issuer.token().expires_in(6).sign(&issuer.key);
    let mut loses_token = websocket("wait", &gateway, &token);
    assert_eq!(loses_token.line(), "connected");
    assert_eq!(loses_token.finish(), ["1008"]);
    assert_eq!(websocket("refused", &gateway, &token).finish(), ["401"]);
}

/// A gateway before a gRPC backend, both of them over HTTP/2.
struct Grpc {
    backend: Backend,
    issuer: Issuer,
    gateway: Gateway,
    /// Where the client finds whom to trust; nothing if it does not speak TLS.
    roots: String,
}

impl Grpc {
    fn start(tls: bool) -> Self {
        let (backend, issuer) = (Backend::start("grpc_server.py"), Issuer::start());
        let config = Config::new()
            .upstream_raw("app", &backend.settings(", http2: true, timeouts: { read: 60s }"))
            .issuer("corp", &issuer.settings())
            .sessions(Sessions::embedded())
            .file("users.yaml", cheap_users(&["alice"]))
            .set("forward", "{ headers: { X-Auth-Subject: sub } }")
            .route("{ name: grpc, match: { path: /test.Backend/**, methods: [POST] }, upstream: app }");
        let authority = Authority::new();
        let gateway =
            Gateway::start(&if tls { over_tls(config, &authority) } else { config.listener("http2: true") });
        let roots = if tls { gateway.folder().write("roots.pem", authority.pem()) } else { String::new() };
        Self { backend, issuer, gateway, roots }
    }

    /// Starts a client that does this with this token.
    fn client(&self, act: &str, token: &str) -> Script {
        Script::start("grpc_client.py", &[act, &self.gateway.address(), token, &self.roots])
    }
}

#[test]
fn grpc_makes_its_four_kinds_of_calls_in_cleartext_and_over_tls() {
    for tls in [false, true] {
        let grpc = Grpc::start(tls);
        assert_eq!(grpc.client("talk,metadata,errors", &grpc.issuer.sign()).finish(), [""; 0]);
        let answered =
            grpc.gateway.metric("portcullis_requests_total", &[("route", "grpc"), ("code", "200")]);
        assert!(answered >= 9.0, "{answered} calls");
    }
}

#[test]
fn a_grpc_call_that_its_caller_gave_up_ends_at_the_backend_too() {
    let mut grpc = Grpc::start(false);
    let token = grpc.issuer.sign();
    grpc.client("cancel", &token).finish();
    assert_eq!(grpc.backend.script.line(), "gone");
    grpc.gateway.log_line(|line| line["path"] == "/test.Backend/stream");
    grpc.client("deadline", &token).finish();
    assert_eq!(grpc.backend.script.line(), "hangs");
    assert_eq!(grpc.backend.script.line(), "gone");
}

#[test]
fn a_grpc_caller_that_is_refused_gets_the_status_for_it() {
    let grpc = Grpc::start(false);
    let reached = |gateway: &Gateway| gateway.metric("portcullis_upstream_seconds_count", &[]);
    assert_eq!(grpc.client("refused", "").finish(), ["UNAUTHENTICATED"; 2]);
    assert_eq!(grpc.client("refused", "nonsense").finish(), ["UNAUTHENTICATED"; 2]);
    assert!(reached(&grpc.gateway) < 0.5, "a refused call reached the backend");
    grpc.client("metadata", &grpc.issuer.sign()).finish();
    assert!(reached(&grpc.gateway) > 0.5, "nothing is counted");

    let narrow = Config::new()
        .listener("http2: true")
        .upstream_raw("app", &grpc.backend.settings(", http2: true"))
        .issuer("corp", &grpc.issuer.settings())
        .route("{ name: grpc, match: { path: /test.Backend/** }, upstream: app, auth: { scopes: [admin] } }");
    let narrow = Gateway::start(&narrow);
    let mut client =
        Script::start("grpc_client.py", &["refused", &narrow.address(), &grpc.issuer.sign(), ""]);
    assert_eq!(client.finish(), ["PERMISSION_DENIED"; 2]);
    assert!(reached(&narrow) < 0.5, "a refused call reached the backend");
}

#[test]
fn a_grpc_stream_ends_with_its_session_and_at_the_backend_too() {
    let mut grpc = Grpc::start(false);
    let tokens = login(&grpc.gateway);
    let mut client = grpc.client("wait", &tokens.access);
    assert_eq!(client.line(), "connected");
    logout(&grpc.gateway, &tokens.refresh).expect(204);
    assert_eq!(client.finish(), ["CANCELLED"]);
    assert_eq!(grpc.backend.script.line(), "gone");
    assert_eq!(grpc.client("refused", &tokens.access).finish(), ["UNAUTHENTICATED"; 2]);
}

#[test]
fn curl_speaks_http_2_over_tls_by_alpn_and_in_cleartext_by_prior_knowledge() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = Gateway::start(&over_tls(Config::public(&upstream), &authority));
    let roots = gateway.folder().write("roots.pem", authority.pem());
    let body = gateway.folder().write("body", "some words ".repeat(50_000));
    let (address, said) = (gateway.address(), "\n%{http_version} %{http_code}");
    let port = address.rsplit(':').next().expect("a port");
    let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/x"));
    let secure = ["--cacert", &roots, "--resolve", &resolve, "--write-out", said, &url];
    let sent = format!("@{body}");
    for (versions, speaks) in
        [(&["--http2"][..], "2"), (&["--http1.1"], "1.1"), (&["--http2", "--data-binary", &sent], "2")]
    {
        let answer = curl(&[versions, &secure].concat());
        let (back, ended) = answer.rsplit_once('\n').expect("two lines");
        assert_eq!(ended, format!("{speaks} 200"), "{versions:?}");
        assert_eq!(back.len(), if versions.len() > 1 { 550_000 } else { 0 }, "{versions:?}");
    }

    let gateway = Gateway::start(&Config::public(&upstream).listener("http2: true"));
    let url = format!("http://{}/x", gateway.address());
    // What offers an upgrade to HTTP/2 stays at HTTP/1.1: nobody does that any more (RFC 9113 section 3.1).
    for (version, speaks) in
        [("--http2-prior-knowledge", "2"), ("--http2", "1.1"), ("--http1.1", "1.1"), ("--http1.0", "1.1")]
    {
        let answer = curl(&[version, "--data-binary", &sent, "--write-out", said, &url]);
        let (back, ended) = answer.rsplit_once('\n').expect("two lines");
        assert_eq!((back.len(), ended), (550_000, format!("{speaks} 200").as_str()), "{version}");
    }
}
