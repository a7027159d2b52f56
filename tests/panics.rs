//! A panic costs no more than what it happened in: injected in every place there is, it is counted and told, and
//! everything works on.
//!
//! Builds with debug assertions, as tests are, panic in a place when a file of its name appears in a folder.

use crate::support::person::{call, login, login_request, logout, refresh};
use crate::support::tls::Authority;
use crate::support::{
    Config, Connection, Folder, Gateway, Issuer, Sessions, Upstream, eventually, get, http2,
};
use serde_json::json;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);
const METRIC: &str = "portcullis_panics_total";

/// A gateway with all there is that works in the background, and where panics are injected.
struct Scene {
    upstream: Upstream,
    issuer: Issuer,
    panics: Folder,
    gateway: Gateway,
}

impl Scene {
    fn start() -> Self {
        let (upstream, issuer, panics) = (Upstream::start(), Issuer::start(), Folder::new());
        let identity = Authority::new().identity(&["localhost"]);
        let config = Config::new()
            .upstream_with("app", &[&upstream], ", health_check: { path: /, interval: 200ms }")
            // A name that is asked for again every second.
            .upstream_raw("lost", "{ endpoints: [\"http://nowhere.invalid:1\"] }")
            .issuer("corp", &issuer.settings_with(", refresh: { cooldown: 0s }"))
            .sessions(Sessions::embedded().set("access_token", "{ algorithm: RS256 }"))
            .set("forward", "{ assertion: { header: X-Auth-Assertion, lifetime: 60s } }")
            .listener("http2: true")
            .server("upgrade_socket", "run.sock")
            .another_listener("tls: { certificate: cert.pem, private_key: key.pem }")
            .file("cert.pem", identity.certificate_pem)
            .file("key.pem", identity.key_pem)
            .route("{ name: api, match: { path: /api/** }, upstream: app }")
            .route("{ name: open, match: { path: /open/** }, upstream: app, auth: public }")
            .environment("PORTCULLIS_DEBUG_PANICS", &panics.path().display().to_string());
        let gateway = Gateway::start(&config);
        Self { upstream, issuer, panics, gateway }
    }

    /// Makes the next work in a place panic, and waits until that is counted and told.
    #[track_caller]
    fn strike(&self, place: &str, provoke: impl FnOnce(&Self)) {
        self.strike_all(&[place], provoke);
    }

    #[track_caller]
    fn strike_all(&self, places: &[&str], provoke: impl FnOnce(&Self)) {
        let before: Vec<_> = places.iter().map(|place| self.counted(place)).collect();
        for place in places {
            self.panics.write(place, "");
        }
        provoke(self);
        for (place, before) in places.iter().zip(before) {
            let counted = || self.counted(place) > before + 0.5;
            assert!(eventually(SOON, counted), "no panic in {place}\n{}", self.gateway.stderr());
            let line = |text: &str| text.contains("a panic was contained") && text.contains(place);
            let told = || self.gateway.stderr().lines().any(line);
            assert!(eventually(SOON, told), "nothing is told of {place}\n{}", self.gateway.stderr());
        }
    }

    fn counted(&self, place: &str) -> f64 {
        self.gateway.metric(METRIC, &[("place", place)])
    }

    /// Everything a client wants.
    #[track_caller]
    fn serves(&self) {
        let (gateway, address) = (&self.gateway, self.gateway.address());
        get("/readyz").send(&gateway.admin()).expect(200);
        get("/open/1").send(&address).expect(200);
        get("/api/1").bearer(&self.issuer.sign()).send(&address).expect(200);
        let tokens = login(gateway);
        get("/api/1").bearer(&tokens.access).send(&address).expect(200);
        refresh(gateway, &tokens.refresh).expect(200);
        logout(gateway, &tokens.refresh).expect(204);
        assert!(eventually(SOON, || call(gateway, &tokens.access) == 401), "{}", gateway.stderr());
    }
}

#[test]
fn a_panic_in_a_request_costs_that_request_alone() {
    let scene = Scene::start();
    let address = scene.gateway.address();
    let mut other = Connection::open(&address).unwrap();
    other.exchange(&get("/open/1")).unwrap().expect(200);

    scene.strike("request", |_| {
        get("/open/1").send(&address).expect(500);
    });
    let line = scene.gateway.log_line(|line| line["status"] == 500);
    assert_eq!(line["reason"], "internal_error", "{line}");
    let code = [("code", "500")];
    assert!(scene.gateway.metric_becomes("portcullis_requests_total", &code, 1.0));
    scene.strike("request", |_| {
        assert_eq!(http2::fetch(&format!("http://{address}/open/1"), &[], None).status, 500);
    });

    scene.strike("connection", |scene| {
        // Whichever is at work next is struck, and there are others than this.
        let cut = || {
            let mut connection = Connection::open(&address).unwrap();
            let served = connection.exchange(&get("/open/1"));
            scene.panics.write("connection", "");
            served.is_err() || connection.exchange(&get("/open/1")).is_err()
        };
        assert!(eventually(SOON, cut), "no connection was cut");
        // What was not needed shall strike nobody else.
        let _ = std::fs::remove_file(scene.panics.path().join("connection"));
    });
    other.exchange(&get("/open/1")).unwrap().expect(200);
    drop(other);
    assert!(scene.gateway.metric_becomes("portcullis_connections", &[], 0.0), "a place was not given back");
    scene.serves();
}

#[test]
fn a_panic_in_the_background_ends_nothing_for_long() {
    let scene = Scene::start();
    let (gateway, address) = (&scene.gateway, scene.gateway.address());
    scene.serves();

    // What looks again and again by itself.
    let restless = [
        "reload",
        "certificates",
        "users",
        "signing_keys",
        "resolver",
        "health_checks",
        "upstream_connections",
        "revocations",
        "store",
    ];
    scene.strike_all(&restless, |_| ());
    // They are looked through still.
    scene.strike("upstream_connections", |_| {
        get("/open/1").send(&address).expect(200);
    });
    scene.strike("listener", |_| drop(Connection::open(&address).unwrap()));
    scene.strike("access_log", |_| {
        get("/open/1").send(&address).expect(200);
    });
    scene.strike("passwords", |_| {
        login_request("alice").send(&address).expect(503);
    });
    let meeting = gateway.folder().path().join("run.sock");
    scene.strike("handover", |_| drop(UnixStream::connect(&meeting).unwrap()));
    let offered = || {
        let mut stream = UnixStream::connect(&meeting).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.read(&mut [0; 10]).is_ok_and(|count| count == 10)
    };
    assert!(offered(), "nobody hands the sockets over any more");
    let tokens = login(gateway);
    scene.strike("signatures", |_| {
        get("/api/1").bearer(&tokens.access).send(&address).expect(500);
    });
    scene.strike("confirmations", |_| {
        refresh(gateway, &tokens.refresh).expect(200);
        get("/api/1").bearer(&login(gateway).access).send(&address).expect(200);
    });
    // An outage, no accusation.
    scene.strike("key_sets", |scene| {
        let unknown = scene.issuer.token().header("kid", json!("unknown")).sign(&scene.issuer.key);
        get("/api/1").bearer(&unknown).send(&address).expect(503);
    });
    // A logout that the store could not take, for another panic, is promised all the same and kept.
    let promised = login(gateway);
    scene.strike("logouts", |scene| {
        let deferred = || {
            scene.panics.write("store", "");
            logout(gateway, &promised.refresh).status == 202
        };
        assert!(eventually(SOON, deferred), "{}", gateway.stderr());
    });
    let ended = || refresh(gateway, &promised.refresh).status == 401;
    assert!(eventually(SOON, ended), "{}", gateway.stderr());

    scene.serves();
    let followed = || {
        let before = scene.upstream.hits();
        eventually(SOON, || scene.upstream.hits() > before)
    };
    assert!(followed(), "nobody checks the upstream any more");
    gateway.folder().write("portcullis.yaml", "nonsense");
    gateway.folder().write("users.yaml", "users: []\n");
    gateway.folder().write("cert.pem", "no certificate");
    let refused = || gateway.stderr().contains("the new configuration is refused");
    assert!(eventually(SOON, refused), "nobody follows the configuration any more\n{}", gateway.stderr());
    let gone = || login_request("alice").send(&address).status == 401;
    assert!(eventually(SOON, gone), "nobody follows the users any more\n{}", gateway.stderr());
    let refused = || gateway.stderr().contains("the new certificates are refused");
    assert!(eventually(SOON, refused), "nobody follows the certificates any more\n{}", gateway.stderr());
    assert!(scene.counted("elsewhere") < 0.5, "{}", gateway.stderr());
}

#[test]
fn a_panic_in_what_holds_all_together_ends_the_process_with_its_reason() {
    let mut scene = Scene::start();
    scene.panics.write("process", "");
    // It wakes for that.
    scene.gateway.terminate();
    let status = scene.gateway.ended_within(SOON).expect("it runs on");
    assert_eq!(status.code(), Some(1));
    let last = "the gateway cannot go on: a panic";
    assert!(scene.gateway.says(last), "{}", scene.gateway.stderr());
}
