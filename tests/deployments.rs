//! The recipes that say how gateways are run: Docker Compose, Kubernetes, systemd. Their files agree with one another
//! and with what the gateway does, and what they describe runs.

use crate::support::document::{run, steps};
use crate::support::gateway::command;
use crate::support::http_server::{HttpServer, Received};
use crate::support::person::{Tokens, refresh};
use crate::support::recipe::{ADMIN, LISTENER, Recipe};
use crate::support::redis::Redis;
use crate::support::script::yaml;
use crate::support::{Folder, Gateway, Issuer, Reply, Upstream, get, post, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Seconds that stopping takes beside `delay` and `drain`, at most.
const REST: u64 = 3;
/// How long a failover may keep everyone waiting.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[track_caller]
fn list(value: &Value) -> Vec<&str> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(text).collect()
}

/// The seconds of `10s`.
#[track_caller]
fn seconds(value: &Value) -> u64 {
    text(value).strip_suffix('s').and_then(|number| number.parse().ok()).expect("seconds")
}

/// How long a gateway with this configuration takes to stop, at most.
#[track_caller]
fn longest_stop(config: &Value) -> u64 {
    let shutdown = &config["server"]["shutdown"];
    seconds(&shutdown["delay"]) + seconds(&shutdown["drain"]) + REST
}

/// The port of an address.
#[track_caller]
fn port(address: &Value) -> u64 {
    text(address).rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
}

#[track_caller]
fn login(gateway: &Gateway, user: &str, password: &str) -> Tokens {
    let credentials = json!({ "username": user, "password": password });
    Tokens::from_body(post("/auth/login").json(&credentials).send(&gateway.address()))
}

#[track_caller]
fn call(gateway: &Gateway, access: &str) -> u16 {
    get("/").header("Host", "api.example.com").bearer(access).send(&gateway.address()).status
}

/// The warnings of `portcullis check`, by the keys they are about; panics if there is an error.
#[track_caller]
fn warnings(folder: &Folder, file: &str) -> Vec<String> {
    let said = command(folder, &["check", "--config", file], "");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let about = |line: &str| line.split_once(" warning: ")?.1.split_once(": ").map(|(key, _)| key.to_owned());
    said.stderr.lines().filter_map(about).collect()
}

#[test]
fn the_compose_file_agrees_with_the_files_beside_it() {
    let recipe = Recipe::named("compose");
    let compose = &yaml(&recipe.original("compose.yaml"))[0];
    let config = &yaml(&recipe.original("portcullis.yaml"))[0];
    let services = compose["services"].as_object().unwrap();
    let like = |prefix: &'static str| {
        services.iter().filter(move |(name, _)| name.starts_with(prefix)).map(|(_, service)| service)
    };
    assert_eq!(["redis-", "sentinel-", "gateway-"].map(|prefix| like(prefix).count()), [2, 3, 2]);

    for (name, service) in services {
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert!(name == "app" || service["healthcheck"]["test"].is_array(), "{name}");
        for (awaited, how) in service["depends_on"].as_object().into_iter().flatten() {
            assert_eq!(how["condition"], "service_healthy", "{name}");
            assert!(services[awaited]["healthcheck"].is_object(), "{name} waits for {awaited}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten().map(text) {
            let source = volume.split(':').next().unwrap();
            let there = match source.strip_prefix("./") {
                Some(file) => recipe.path(file).is_file(),
                None => compose["volumes"].get(source).is_some(),
            };
            assert!(there, "{name}: {volume}");
        }
        let networks = &service["networks"];
        let named: Vec<&str> = match networks.as_object() {
            Some(networks) => networks.keys().map(String::as_str).collect(),
            None => list(networks),
        };
        // Nobody but the gateways is on both.
        let expected: &[&str] = match name.split('-').next().unwrap() {
            "gateway" => &["edge", "store"],
            "app" => &["edge"],
            _ => &["store"],
        };
        assert_eq!(named, expected, "{name}");
    }
    assert_eq!(compose["networks"]["store"]["internal"], true);

    // Who names an address names that of the right service.
    let address = |name: &str| text(&services[name]["networks"]["store"]["ipv4_address"]);
    let sentinel = recipe.original("sentinel.conf");
    assert!(sentinel.contains(&format!("sentinel monitor mymaster {} 6379 2\n", address("redis-1"))));
    assert_eq!(list(&services["redis-2"]["command"])[2..], ["--replicaof", address("redis-1"), "6379"]);
    let store = &config["sessions"]["store"]["redis"]["sentinel"];
    let expected = [1, 2, 3].map(|n| format!("redis://{}:26379", address(&format!("sentinel-{n}"))));
    assert_eq!(
        (list(&store["nodes"]), text(&store["master"])),
        (expected.iter().map(String::as_str).collect(), "mymaster")
    );
    assert!(sentinel.contains("port 26379\n"));

    for gateway in like("gateway-") {
        assert_eq!((&gateway["read_only"], &gateway["cap_drop"]), (&json!(true), &json!(["ALL"])));
        assert_eq!(gateway["security_opt"], json!(["no-new-privileges:true"]));
        assert!(seconds(&gateway["stop_grace_period"]) > longest_stop(config));
        let published = text(&gateway["ports"][0]).rsplit_once(':').unwrap().1;
        assert_eq!(published.parse(), Ok(port(&config["server"]["listeners"][0]["address"])));
        let secret = text(&gateway["secrets"][0]);
        assert_eq!(text(&config["sessions"]["secret_file"]), format!("/run/secrets/{secret}"));
        assert_eq!(compose["secrets"][secret]["file"], "./secret");
        let keys = text(&config["sessions"]["signing_keys"]);
        assert!(list(&gateway["volumes"]).iter().any(|volume| {
            matches!(volume.split_once(':'), Some(("state", path)) if keys.starts_with(path))
        }));
        assert!(
            text(&gateway["healthcheck"]["test"][3])
                .contains(&format!("/{} ", port(&config["admin"]["address"])))
        );
    }
    assert!(
        services["gateway-2"]["depends_on"]["gateway-1"].is_object(),
        "two would make a signing key each"
    );
}

#[test]
fn two_gateways_behind_sentinels_run_as_the_compose_file_has_them_and_survive_the_primary() {
    let as_written = Recipe::named("compose");
    let compose = &yaml(&as_written.original("compose.yaml"))[0];
    let arguments = |service: &str| list(&compose["services"][service]["command"])[2..].join(" ");
    // Its README makes the secret.
    let made = as_written.copy();
    run(&steps(&made.read("README.md")), made.path());

    let mut primary = Redis::configured(&as_written.original("redis.conf"), &[]);
    let place = format!("127.0.0.1 {}", primary.port());
    let replicaof = arguments("redis-2").replace("172.30.7.11 6379", &place);
    let (option, of) = replicaof.split_once(' ').unwrap();
    let replica = Redis::configured(&as_written.original("redis.conf"), &[option, of]);
    replica.comes_to_say("INFO replication", "master_link_status:up");
    let watching = Recipe::named("compose").moved("172.30.7.11 6379", &place).text("sentinel.conf");
    let sentinels = [(); 3].map(|()| Redis::configured(&watching, &["--sentinel"]));
    for sentinel in &sentinels {
        sentinel.comes_to_say("INFO sentinel", "slaves=1,sentinels=3");
    }

    let backend = Upstream::start();
    let shared = made.path().display().to_string();
    let mut recipe = Recipe::named("compose")
        .moved("0.0.0.0:8080", LISTENER)
        .moved("http://app:80", &backend.url())
        .moved("/run/secrets/session_secret", &format!("{shared}/secret"))
        .moved("/var/lib/portcullis", &shared);
    for (n, sentinel) in sentinels.iter().enumerate() {
        let node = format!("127.0.0.1:{}", sentinel.port());
        recipe = recipe.moved(&format!("172.30.7.2{}:26379", n + 1), &node);
    }
    // One after the other, as depends_on has it: the first makes the key.
    let config = recipe.config();
    let gateways = [Gateway::start(&config), Gateway::start(&config)];
    assert_eq!(fs::read_dir(made.path().join("keys")).unwrap().count(), 1, "one signing key");
    for gateway in &gateways {
        assert!(healthy(compose, gateway.admin().rsplit_once(':').unwrap().1));
    }
    assert!(!healthy(compose, "1"));

    let [one, two] = &gateways;
    let tokens = login(one, "alice", "wonderland");
    let next = Tokens::from_body(refresh(two, &tokens.refresh));
    assert_eq!(next.session, tokens.session);
    assert_ne!(next.refresh, tokens.refresh);
    let heard_everywhere = |access: &str| [one, two].map(|gateway| call(gateway, access));
    assert_eq!(heard_everywhere(&next.access), [200, 200]);

    primary.stop();
    for gateway in [one, two] {
        let answer = wait_for(PATIENCE, || {
            // What is verified is not asked of the store.
            assert_eq!(heard_everywhere(&next.access), [200, 200]);
            let answer = refresh(gateway, &next.refresh);
            assert!(answer.status == 503 || answer.status == 200, "{}: {}", answer.status, answer.text());
            (answer.status == 200).then_some(answer)
        });
        let after = Tokens::from_body(answer.expect("the store never came back"));
        assert_eq!(after.session, next.session);
        assert_eq!(heard_everywhere(&after.access), [200, 200]);
    }
    replica.comes_to_say("INFO replication", "role:master");
}

/// What the compose file's healthcheck of the gateways finds on this port.
fn healthy(compose: &Value, port: &str) -> bool {
    let test = list(&compose["services"]["gateway-1"]["healthcheck"]["test"]);
    let [_, program, option, script] = test[..] else { panic!("{test:?}") };
    let script = script.replace("/9090", &format!("/{port}"));
    Command::new(program).args([option, &script]).output().expect("bash").status.success()
}

/// The Kubernetes objects of a file.
struct Objects(Vec<Value>);

impl Objects {
    fn of(file: &str) -> Self {
        Self(yaml(&Recipe::named("kubernetes").original(file)))
    }

    #[track_caller]
    fn get(&self, kind: &str, name: &str) -> &Value {
        let mut found = self.0.iter().filter(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn config(&self) -> &str {
        text(&self.get("ConfigMap", "portcullis")["data"]["portcullis.yaml"])
    }
}

#[test]
fn the_kubernetes_manifests_agree_with_the_configuration_in_them() {
    let (objects, secrets) = (Objects::of("manifests.yaml"), Objects::of("secret.yaml"));
    let config = &yaml(objects.config())[0];
    let deployment = objects.get("Deployment", "portcullis");
    let pod = &deployment["spec"]["template"];
    let [container] = &pod["spec"]["containers"].as_array().unwrap()[..] else { panic!("one container") };

    // Everybody means the same pods, and they are in the same namespace.
    let labels = &pod["metadata"]["labels"];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &objects.get("Service", "portcullis")["spec"]["selector"],
        &objects.get("PodDisruptionBudget", "portcullis")["spec"]["selector"]["matchLabels"],
        &objects.get("NetworkPolicy", "portcullis")["spec"]["podSelector"]["matchLabels"],
        &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    for object in objects.0.iter().chain(&secrets.0).filter(|it| it["kind"] != "Namespace") {
        let behind = object["metadata"]["name"] == "shop-behind-portcullis";
        assert_eq!(object["metadata"]["namespace"], if behind { "shop" } else { "portcullis" });
    }

    // Ports are those that the gateway listens on.
    let (http, admin) =
        (port(&config["server"]["listeners"][0]["address"]), port(&config["admin"]["address"]));
    let named = |name: &str, number: u64| json!({ "name": name, "containerPort": number });
    assert_eq!(container["ports"], json!([named("http", http), named("admin", admin)]));
    assert_eq!(
        objects.get("Service", "portcullis")["spec"]["ports"],
        json!([{ "name": "http", "port": 80, "targetPort": "http" }])
    );
    let policy = &objects.get("NetworkPolicy", "portcullis")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
    let [clients, monitoring] = &policy["ingress"].as_array().unwrap()[..] else { panic!("two rules") };
    let only = |number: u64| json!([{ "port": number, "protocol": "TCP" }]);
    assert_eq!((&clients["ports"], &monitoring["ports"]), (&only(http), &only(admin)));
    assert!(monitoring["from"][0]["namespaceSelector"].is_object(), "who may reach the admin listener");
    let behind = &objects.get("NetworkPolicy", "shop-behind-portcullis")["spec"]["ingress"];
    assert_eq!(&behind[0]["from"][0]["podSelector"]["matchLabels"], labels);
    let upstream = text(&config["upstreams"]["shop"]["endpoints"][0]);
    assert_eq!(behind[0]["ports"], only(upstream.rsplit_once(':').unwrap().1.parse().unwrap()));

    // Probes ask what is there, and readiness is off before anything closes.
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "admin" }), "{probe}");
    }
    let readiness = &container["readinessProbe"];
    let number = |value: &Value| value.as_u64().expect("a number");
    let off = number(&readiness["periodSeconds"]) * number(&readiness["failureThreshold"])
        + number(&readiness["timeoutSeconds"]);
    assert!(seconds(&config["server"]["shutdown"]["delay"]) > off);
    assert!(number(&pod["spec"]["terminationGracePeriodSeconds"]) > longest_stop(config));
    assert!(container.get("lifecycle").is_none(), "the delay of the shutdown is enough");
    let replicas = number(&deployment["spec"]["replicas"]);
    assert!(
        replicas >= 2
            && number(&objects.get("PodDisruptionBudget", "portcullis")["spec"]["minAvailable"]) < replicas
    );
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);

    // Every path of the configuration is on a volume, and is in it.
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert_eq!(volumes.len(), mounts.len());
    let volume_at = |path: &str| {
        let on = |mount: &&Value| {
            path.strip_prefix(text(&mount["mountPath"]))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mount = mounts.iter().find(on).unwrap_or_else(|| panic!("{path} is on no volume"));
        (mount, volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("the volume"))
    };
    assert_eq!(list(&container["args"]), ["run", "--config", "/etc/portcullis/portcullis.yaml"]);
    assert_eq!(volume_at("/etc/portcullis/portcullis.yaml").1["configMap"]["name"], "portcullis");
    let sessions = &config["sessions"];
    for path in
        [&sessions["secret_file"], &config["admin"]["token_file"], &sessions["store"]["redis"]["url_file"]]
    {
        let (mount, volume) = volume_at(text(path));
        let secret = secrets.get("Secret", text(&volume["secret"]["secretName"]));
        let key = text(path).rsplit_once('/').unwrap().1;
        assert!(secret["stringData"][key].is_string(), "{path}");
        assert_eq!(mount["readOnly"], true);
    }
    let (_, keys) = volume_at(text(&sessions["signing_keys"]));
    let keys = &secrets.get("Secret", text(&keys["secret"]["secretName"]))["stringData"];
    assert!(
        keys.as_object().unwrap().keys().all(|name| name.rsplit_once('.').is_some_and(|it| it.1 == "pem"))
    );
    let (written, data) = volume_at(text(&config["issuers"]["corp"]["key_set"]["copy_file"]));
    assert!(data["emptyDir"].is_object() && written.get("readOnly").is_none());

    // As little as can be.
    let of_pod = &pod["spec"]["securityContext"];
    assert_eq!(of_pod["runAsNonRoot"], true);
    assert!(number(&of_pod["runAsUser"]) > 0);
    assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    let context = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    assert_eq!(container["securityContext"], context);
    let user = format!("USER {0}:{0}\n", of_pod["runAsUser"]);
    assert!(crate::support::document::read("Dockerfile").contains(&user), "the user of the image");
}

/// A folder as the kubelet mounts it: names lead to files in a folder that is replaced as a whole.
fn mount(folder: &Folder, name: &str, files: &[(String, Vec<u8>)]) -> String {
    let path = folder.path().join(name);
    for (file, content) in files {
        folder.write(&format!("{name}/..2026_11_22/{file}"), content);
        std::os::unix::fs::symlink(format!("..data/{file}"), path.join(file)).unwrap();
    }
    std::os::unix::fs::symlink("..2026_11_22", path.join("..data")).unwrap();
    path.display().to_string()
}

/// The files of a folder.
fn files(folder: &Folder, name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder.path().join(name)).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn knows_alice(request: &Received) -> Reply {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match request.target() {
        "/internal/login" if body["password"] == "wonderland" => Reply::json(&json!({ "sub": "u-1" })),
        "/internal/login" => Reply::status(401, "no"),
        _ => Reply::ok("shop"),
    }
}

#[test]
fn the_configuration_for_kubernetes_is_valid_and_runs_on_mounted_secrets() {
    let objects = Objects::of("manifests.yaml");
    let recipe = Recipe::named("kubernetes");
    // What the README says makes the configuration and the secrets.
    let made = recipe.copy();
    run(&steps(&made.read("README.md")), made.path());
    assert_eq!(yaml(&made.read("portcullis.yaml")), yaml(objects.config()));

    let (issuer, shop, redis) = (Issuer::start(), HttpServer::start(knows_alice), Redis::forgetful());
    let mut secrets = files(&made, "secrets");
    for (name, content) in &mut secrets {
        if name == "redis.url" {
            *content = redis.url().into_bytes();
        }
    }
    let (secrets, keys) =
        (mount(&made, "mounted", &secrets), mount(&made, "mounted-keys", &files(&made, "keys")));
    let in_place = |secrets: &str, keys: &str| {
        let config = objects.config().replace("/run/secrets/portcullis-keys", keys);
        let config = config.replace("/run/secrets/portcullis", secrets);
        config.replace("/var/lib/portcullis", &made.path().join("data").display().to_string())
    };
    made.write("checked.yaml", in_place(&secrets, &keys));
    assert_eq!(warnings(&made, "checked.yaml"), ["admin.address", "sessions.users.http.url"]);

    let text = in_place(&secrets, &keys)
        .replace("0.0.0.0:8080", LISTENER)
        .replace("0.0.0.0:9090", ADMIN)
        .replace("https://id.example.com", &format!("http://{}", issuer.authority()))
        .replace("shop.shop.svc:8080", &shop.address().to_string());
    let gateway = Gateway::start(&crate::support::Config::written(text));
    get("/livez").send(&gateway.admin()).expect(200);
    let tokens = login(&gateway, "alice", "wonderland");
    assert_eq!(call(&gateway, &tokens.access), 200);
    let staff = issuer.token().set("aud", json!("shop-api")).sign(&issuer.key);
    assert_eq!((call(&gateway, &staff), call(&gateway, "no")), (200, 401));

    // With the values that are shown in its place nothing starts.
    for secret in &Objects::of("secret.yaml").0 {
        for (name, value) in secret["stringData"].as_object().unwrap() {
            made.write(
                &format!("{}/{name}", secret["metadata"]["name"].as_str().unwrap()),
                value.as_str().unwrap(),
            );
        }
    }
    let folder = |name: &str| made.path().join(name).display().to_string();
    made.write("shown.yaml", in_place(&folder("portcullis"), &folder("portcullis-keys")));
    let said = command(&made, &["check", "--config", "shown.yaml"], "");
    assert_eq!(said.code, Some(1));
    for key in
        ["admin.token_file", "sessions.secret_file", "sessions.signing_keys", "sessions.store.redis.url_file"]
    {
        assert!(
            said.stderr.lines().any(|line| line.contains(key) && !line.contains("warning")),
            "{key}: {}",
            said.stderr
        );
    }
}

/// The values of a key in the unit.
fn settings<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_systemd_unit_is_sound_closed_and_agrees_with_its_configuration() {
    let recipe = Recipe::named("systemd");
    let unit = recipe.original("portcullis.service");
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let folder = Folder::new();
    let installed = folder.write("portcullis.service", unit.replace("/usr/bin/portcullis", binary));
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(arguments).arg(&installed).env("SYSTEMD_COLORS", "0").output();
        let output =
            output.unwrap_or_else(|why| panic!("systemd-analyze: {why}; `make test-tools` installs it"));
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), said)
    };
    // What it says of other units of this machine is not about this one.
    let (sound, said) = analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    assert!(sound && !said.contains("portcullis.service"), "{said}");
    // Tenths of systemd's exposure level: 1.5 of 10.
    let (closed, said) = analyze(&["security", "--offline=yes", "--threshold=15", "--no-pager"]);
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(closed, "{said}");

    let config = recipe.original("portcullis.yaml");
    assert_eq!(
        settings(&unit, "ExecStart"),
        ["/usr/bin/portcullis run --config /etc/portcullis/portcullis.yaml"]
    );
    assert_eq!(settings(&unit, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    for required in [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "MemoryDenyWriteExecute=yes",
        "CapabilityBoundingSet=",
        "DynamicUser=yes",
    ] {
        assert!(unit.lines().any(|line| line == required), "{required}");
    }
    let stop = settings(&unit, "TimeoutStopSec")[0];
    assert!(seconds(&json!(stop)) > longest_stop(&yaml(&config)[0]));
    let handed: Vec<_> =
        settings(&unit, "LoadCredential").iter().map(|line| line.split(':').next().unwrap()).collect();
    let wanted: Vec<_> =
        config.split("${CREDENTIALS_DIRECTORY}/").skip(1).map(|rest| rest.lines().next().unwrap()).collect();
    assert_eq!(handed.len(), wanted.len());
    assert!(wanted.iter().all(|name| handed.contains(name)), "{wanted:?} of {handed:?}");
    assert!(config.contains("${STATE_DIRECTORY}/") && settings(&unit, "StateDirectory") == ["portcullis"]);
}

#[test]
fn the_configuration_for_systemd_runs_on_what_systemd_hands_over() {
    let backend = Upstream::start();
    let recipe = Recipe::named("systemd").moved("127.0.0.1:9001", &backend.authority());
    let made = recipe.copy();
    // Its README makes the credentials, and checks.
    run(&steps(&made.read("README.md")), made.path());
    let at = |name: &str| made.path().join(name).display().to_string();
    let config = recipe
        .config()
        .environment("CREDENTIALS_DIRECTORY", &at("secrets"))
        .environment("STATE_DIRECTORY", &at("state"));
    let gateway = Gateway::start(&config);
    let tokens = login(&gateway, "alice", "wonderland");
    assert_eq!(call(&gateway, &tokens.access), 200);
    let token = made.read("secrets/admin.token");
    let revoke = post("/users/alice/revoke").bearer(token.trim_end());
    assert_eq!(revoke.send(&gateway.admin()).expect(200).json(), json!({ "revoked": 1 }));
    assert!(made.path().join("state/sessions.redb").is_file());
    // Nothing is written beside the configuration, where systemd lets nobody write.
    let mut beside: Vec<_> =
        fs::read_dir(gateway.folder().path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["README.md", "portcullis.service", "portcullis.yaml", "users.yaml"]);
    gateway.reload(&config, "ok");
}
