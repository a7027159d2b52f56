//! What is compared: processes with their configuration in a folder of this run's own, and the tokens.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Pingora with nothing on top.
    Passthrough,
    /// The gateway; with everything on: routing, policy, identity headers, metrics.
    Portcullis {
        /// Whether it writes a line for each request.
        access_log: bool,
    },
    /// HAProxy with the same checks.
    Haproxy,
    /// Envoy with its cache of tokens; it looks at neither scope nor role, and forwards one claim.
    Envoy,
}

/// A folder with keys and configurations, which ends with the value.
pub struct Site {
    folder: PathBuf,
    upstream: SocketAddr,
    key: RsaKeyPair,
}

/// A peer that runs.
pub struct Running {
    child: Child,
    pub port: u16,
}

impl Site {
    pub fn new(upstream: SocketAddr) -> Self {
        let folder = std::env::temp_dir().join(format!("portcullis-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let text = STANDARD.encode(public.as_ref());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
        fs::write(folder.join("key.pem"), pem).unwrap();
        // A key of 2048 bits with the usual exponent ends in the modulus and `02 03 01 00 01`.
        let der = public.as_ref();
        let modulus = URL_SAFE_NO_PAD.encode(&der[der.len() - 5 - 256..der.len() - 5]);
        let jwk =
            json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "bench", "n": modulus, "e": "AQAB"});
        fs::write(folder.join("keys.json"), json!({ "keys": [jwk] }).to_string()).unwrap();
        Self { folder, upstream, key }
    }

    /// A token as an identity provider makes them, of about 790 bytes.
    pub fn token(&self, number: usize) -> String {
        self.sign("bench", number)
    }

    /// A token that names a key the issuer does not have.
    pub fn of_unknown_key(&self) -> String {
        self.sign("other", 0)
    }

    fn sign(&self, kid: &str, number: usize) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": kid});
        let claims = json!({
            "iss": "bench-issuer", "aud": "bench-api", "sub": format!("user-{number:07}"), "iat": now,
            "exp": now + 12 * 3600, "jti": format!("b5a1d5a8-9a3a-4a71-8f6e-{number:012}"),
            "client_id": "bench-web", "scope": "openid profile orders:read orders:write",
            "email": format!("user-{number:07}@example.test"), "roles": ["customer", "beta"], "tenant": "t-42",
        });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token that is well-formed and not signed by the key.
    pub fn forged(&self, number: usize) -> String {
        let (good, other) = (self.token(number), self.token(number + 1));
        let [signed, signature] = [&good, &other].map(|token| token.rsplit_once('.').unwrap());
        format!("{}.{}", signed.0, signature.1)
    }

    /// Starts a peer under `wrapper` (`taskset -c 1`, `valgrind …`) and waits until it listens.
    pub fn start(&self, peer: Peer, wrapper: &[String]) -> Running {
        let port = free_port();
        let arguments = match peer {
            Peer::Passthrough => {
                let bench = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
                vec![bench, "passthrough".into(), format!("127.0.0.1:{port}"), self.upstream.to_string()]
            }
            Peer::Portcullis { access_log } => {
                let config = self.portcullis(port, access_log);
                vec![env!("CARGO_BIN_EXE_portcullis").into(), "run".into(), "--config".into(), config]
            }
            Peer::Haproxy => vec!["haproxy".into(), "-db".into(), "-f".into(), self.haproxy(port)],
            Peer::Envoy => {
                let rest = ["--concurrency", "1", "-l", "critical", "--disable-hot-restart"].map(Into::into);
                [vec!["envoy".into(), "-c".into(), self.envoy(port)], rest.into()].concat()
            }
        };
        let words: Vec<&String> = wrapper.iter().chain(&arguments).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        let mut running = Running { child, port };
        let patience = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(running.child.try_wait().unwrap().is_none(), "{peer:?} has ended");
            assert!(Instant::now() < patience, "{peer:?} does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    fn portcullis(&self, port: u16, access_log: bool) -> String {
        let Self { upstream, .. } = self;
        let text = format!(
            "server: {{ listeners: [{{ address: \"127.0.0.1:{port}\", http2: true }}], threads: 1 }}\n\
             log: {{ access: {access_log}, level: warn }}\n\
             issuers:\n  bench:\n    issuer: bench-issuer\n    audiences: [bench-api]\n    \
             algorithms: [RS256]\n    key_set: {{ file: keys.json }}\n\
             upstreams:\n  up: {{ endpoints: [\"http://{upstream}\"] }}\n\
             routes:\n  - name: orders\n    match: {{ path: /orders/**, methods: [GET, POST] }}\n    \
             upstream: up\n    auth: {{ scopes: [orders:read], roles: [customer] }}\n"
        );
        self.write(&format!("portcullis-{access_log}.yaml"), &text)
    }

    fn haproxy(&self, port: u16) -> String {
        let (upstream, key) = (self.upstream, self.folder.join("key.pem"));
        let refuse = "http-request return status 401 content-type application/json string {}";
        let text = format!(
            "global\n nbthread 1\n maxconn 4000\n tune.bufsize 32768\n\
             defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 60s\n\
             frontend in\n bind 127.0.0.1:{port}\n http-request del-header x-auth-subject\n \
             http-request set-var(txn.t) http_auth_bearer\n \
             http-request set-var(txn.alg) var(txn.t),jwt_header_query('$.alg')\n \
             http-request set-var(txn.iss) var(txn.t),jwt_payload_query('$.iss')\n \
             http-request set-var(txn.aud) var(txn.t),jwt_payload_query('$.aud')\n \
             http-request set-var(txn.exp) var(txn.t),jwt_payload_query('$.exp','int')\n \
             http-request set-var(txn.now) date()\n \
             {refuse} unless {{ var(txn.alg) -m str RS256 }}\n \
             {refuse} unless {{ var(txn.t),jwt_verify(txn.alg,\"{}\") 1 }}\n \
             {refuse} unless {{ var(txn.iss) -m str bench-issuer }} {{ var(txn.aud) -m str bench-api }}\n \
             {refuse} if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}\n \
             http-request set-header x-auth-subject %[var(txn.t),jwt_payload_query('$.sub')]\n \
             default_backend up\nbackend up\n http-reuse always\n server up {upstream} pool-max-conn 512\n",
            key.display()
        );
        self.write("haproxy.cfg", &text)
    }

    fn envoy(&self, port: u16) -> String {
        let kind = |path: &str| format!("type.googleapis.com/envoy.extensions.filters.{path}");
        let at = |port| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
        let provider = json!({
            "issuer": "bench-issuer",
            "audiences": ["bench-api"],
            "local_jwks": { "filename": self.folder.join("keys.json") },
            "claim_to_headers": [{ "header_name": "x-auth-subject", "claim_name": "sub" }],
            "jwt_cache_config": { "jwt_cache_size": 20_000 },
        });
        let rule = json!({ "match": { "prefix": "/orders/" }, "requires": { "provider_name": "bench" } });
        let check = json!({
            "name": "jwt",
            "typed_config": {
                "@type": kind("http.jwt_authn.v3.JwtAuthentication"),
                "providers": { "bench": provider },
                "rules": [rule],
            },
        });
        let router = json!({ "name": "router", "typed_config": { "@type": kind("http.router.v3.Router") } });
        let all = json!({ "match": { "prefix": "/" }, "route": { "cluster": "up" } });
        let manager = json!({
            "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [all] }] },
            "http_filters": [check, router],
        });
        let filter = json!({ "name": "manager", "typed_config": manager });
        let listener =
            json!({ "name": "in", "address": at(port), "filter_chains": [{ "filters": [filter] }] });
        let endpoint = json!({ "endpoint": { "address": at(self.upstream.port()) } });
        let cluster = json!({
            "name": "up",
            "type": "STATIC",
            "load_assignment": { "cluster_name": "up", "endpoints": [{ "lb_endpoints": [endpoint] }] },
        });
        let resources = json!({ "listeners": [listener], "clusters": [cluster] });
        self.write("envoy.json", &json!({ "static_resources": resources }).to_string())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Running {
    /// CPU time that all threads had so far, by the scheduler's own account.
    pub fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
