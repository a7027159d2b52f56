//! A new process takes over from the old one on the same host: what is being served goes on, and a new one that
//! cannot serve changes nothing.

use crate::support::person::{call, login, refresh};
use crate::support::redis::Redis;
use crate::support::site::Site;
use crate::support::{Config, Connection, Gateway, Reply, Sessions, Upstream, eventually, get};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const SOCKET: &str = "run.sock";

fn config(upstream: &Upstream) -> Config {
    Config::public(upstream).server("upgrade_socket", SOCKET)
}

#[test]
fn a_request_under_way_is_finished_by_the_old_process_and_the_next_one_served_by_the_new() {
    let upstream = Upstream::start();
    upstream.answer(|received| {
        let late = if received.target() == "/late" { 1500 } else { 0 };
        Reply::ok("whole").after(Duration::from_millis(late))
    });
    let mut gateway = Gateway::start(&config(&upstream));
    let address = gateway.address();
    let before = gateway.process();
    let running = {
        let address = address.clone();
        thread::spawn(move || get("/late").try_send(&address))
    };
    assert!(eventually(SOON, || upstream.hits() == 1));
    // A balancer may look through a connection that it keeps; the host must not seem to stop.
    let mut probe = Connection::open(&gateway.admin()).unwrap();
    let probing = thread::spawn(move || {
        let mut answers = Vec::new();
        while let Ok(answer) = probe.exchange(&get("/readyz")) {
            answers.push(answer.status);
            thread::sleep(Duration::from_millis(10));
        }
        answers
    });
    gateway.rewrite(&config(&upstream).route("{ name: new, match: { path: /new }, upstream: app }"));
    let status = gateway.hand_over();
    assert!(status.success(), "{status}");
    let answers = probing.join().unwrap();
    assert!(answers.len() > 1 && answers.iter().all(|status| *status == 200), "{answers:?}");
    let answer = running.join().unwrap().expect("the request was cut").expect(200);
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("whole", Some("close")));
    assert_ne!(gateway.process(), before);
    get("/").send(&address).expect(200);
    get("/new").send(&address).expect(401);
    get("/readyz").send(&gateway.admin()).expect(200);
    // And once more.
    assert!(gateway.hand_over().success());
    get("/").send(&address).expect(200);
    gateway.terminate();
    assert!(gateway.ended_within(SOON).expect("still running").success());
    assert!(Connection::open(&address).is_err(), "somebody listens still");
}

#[test]
fn sessions_in_redis_go_on_in_the_new_process_and_one_that_never_gets_ready_changes_nothing() {
    let redis = Redis::start();
    let site =
        Site::on(redis.port(), "{ idle: 1h }").configured(|config| config.server("upgrade_socket", SOCKET));
    let mut gateway = site.gateway();
    let tokens = login(&gateway);
    // Without the store it cannot know what was ended, so it waits.
    redis.pause();
    let mut waiting = gateway.successor();
    let asked = || gateway.stderr().contains("a new process asks for the listening sockets");
    assert!(eventually(SOON, asked), "{}{}", waiting.text(), gateway.stderr());
    assert_eq!(call(&gateway, &tokens.access), 200);
    assert!(waiting.runs(), "{}", waiting.text());
    waiting.kill9();
    let told = || gateway.stderr().contains("this one serves on");
    assert!(eventually(SOON, told), "{}", gateway.stderr());
    redis.resume();
    assert_eq!(call(&gateway, &tokens.access), 200);

    let status = gateway.hand_over();
    assert!(status.success(), "{status}");
    assert_eq!(call(&gateway, &tokens.access), 200);
    refresh(&gateway, &tokens.refresh).expect(200);
}

#[test]
fn a_new_process_that_cannot_serve_changes_nothing_and_says_why() {
    let upstream = Upstream::start();
    let gateway = Gateway::start(&config(&upstream));
    let embedded = Gateway::start(&config(&upstream).sessions(Sessions::embedded()));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = gateway.folder().read("portcullis.yaml");
    let elsewhere = text.replace(&gateway.admin(), &taken.local_addr().unwrap().to_string());
    gateway.folder().write("file", "not to be lost");
    for (name, broken, why) in [
        ("broken", text.replace("upstream: app", "upstream: none"), "routes[0].upstream"),
        ("taken", elsewhere, "in use"),
        ("file", text.replace(SOCKET, "file"), "cannot listen on"),
        (
            "nowhere",
            text.replace(&format!("upgrade_socket: {SOCKET}"), "trusted_proxies: []"),
            "upgrade_socket",
        ),
    ] {
        let file = format!("{name}.yaml");
        gateway.folder().write(&file, broken);
        let exit = gateway.refuses_successor(&file);
        assert_eq!(exit.code, Some(1), "{name}: {exit:?}");
        assert!(exit.stderr.contains(why), "{name}: {exit:?}");
        get("/").send(&gateway.address()).expect(200);
        get("/readyz").send(&gateway.admin()).expect(200);
    }
    assert_eq!(gateway.folder().read("file"), "not to be lost");

    let exit = embedded.refuses_successor("portcullis.yaml");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("one process at a time can hold the file"), "{exit:?}");
    let tokens = login(&embedded);
    refresh(&embedded, &tokens.refresh).expect(200);
}

#[test]
fn a_file_that_is_no_socket_is_not_overwritten() {
    let upstream = Upstream::start();
    let exit = Gateway::fail(&config(&upstream).file(SOCKET, "a file of somebody"));
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains("something else lies there"), "{exit:?}");
}
