//! Names of upstreams are resolved in the background, for as long as their DNS server says.

use crate::support::http_server::HttpServer;
use crate::support::ports::free_port;
use crate::support::wait::let_pass;
use crate::support::{Config, Gateway, Reply, eventually, get};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const ONE: [u8; 4] = [127, 0, 0, 1];
const TWO: [u8; 4] = [127, 0, 0, 2];

/// What a name server says of every name.
#[derive(Clone)]
enum Says {
    /// These addresses, for so many seconds. Where only IPv6 is asked for, in the form that leads to IPv4.
    Addresses(Vec<[u8; 4]>, u32),
    /// One thing of IPv4, another of IPv6.
    Each(Box<[Says; 2]>),
    /// It is another name for one of which it says this.
    Alias(Box<Says>),
    /// There is no such name.
    Nobody,
    /// This address, but after a moment.
    Slowly([u8; 4], Duration),
    /// SERVFAIL.
    Failure,
    /// Nothing at all.
    Silence,
}

/// A name server; it ends with the value.
struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    /// Questions for addresses of IPv4, and of IPv6.
    asked: Arc<[AtomicUsize; 2]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    fn start(says: Says) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::default());
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (Arc::clone(&says), Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (says, asked, stop) = shared;
            let mut buffer = [0; 1500];
            while !stop.load(Ordering::SeqCst) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                let says = says.lock().unwrap().clone();
                if let Some(answer) = answer(&buffer[..length], &says, &asked) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self { address, says, asked, stop, thread: Some(thread) }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn asked(&self) -> usize {
        self.asked[0].load(Ordering::SeqCst)
    }

    /// Waits until there was a whole round of questions since now; `family` is one that gets answers, so that it is
    /// asked about once a round.
    #[track_caller]
    fn asked_again(&self, family: usize) {
        let asked = || self.asked[family].load(Ordering::SeqCst);
        let before = asked();
        assert!(eventually(SOON, || asked() > before + 1), "it is not asked again");
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// `real.example.test`, on the wire.
const REAL: &[u8] = b"\x04real\x07example\x04test\0";

/// The answer to a question (RFC 1035 section 4.1).
fn answer(query: &[u8], mut says: &Says, asked: &[AtomicUsize; 2]) -> Option<Vec<u8>> {
    let name = query.get(12..)?;
    let end = 12 + name.iter().position(|byte| *byte == 0)? + 1;
    let question = query.get(12..end + 4)?;
    let ipv4 = query.get(end..end + 2)? == [0, 1];
    if !name.starts_with(REAL) {
        asked[usize::from(!ipv4)].fetch_add(1, Ordering::SeqCst);
    }
    let mut both = true;
    if let Says::Each(each) = says {
        (says, both) = (&each[usize::from(!ipv4)], false);
    }
    let mut alias = false;
    if let Says::Alias(of) = says {
        (says, alias) = (of, !name.starts_with(REAL));
    }
    let (addresses, ttl, code) = match says {
        _ if alias => (&[][..], 0, 0),
        Says::Addresses(addresses, ttl) if ipv4 || !both => (addresses.as_slice(), *ttl, 0),
        Says::Slowly(address, moment) if ipv4 => {
            thread::sleep(*moment);
            (std::slice::from_ref(address), 60, 0)
        }
        Says::Addresses(..) | Says::Slowly(..) => (&[][..], 0, 0),
        Says::Each(_) | Says::Alias(_) => panic!("nested otherwise"),
        Says::Nobody => (&[][..], 0, 3),
        Says::Failure => (&[][..], 0, 2),
        Says::Silence => return None,
    };
    let mut out = query.get(..2)?.to_vec();
    let count = u8::try_from(addresses.len()).ok()? + u8::from(alias);
    out.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    out.extend(question);
    let mut record = |kind: u8, data: &[u8]| {
        // The name of the question, and IN.
        out.extend([0xc0, 12, 0, kind, 0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend([0, u8::try_from(data.len()).unwrap()]);
        out.extend(data);
    };
    if alias {
        record(5, REAL);
    }
    for address in addresses {
        let mapped = Ipv4Addr::from(*address).to_ipv6_mapped().octets();
        if ipv4 { record(1, address) } else { record(28, &mapped) }
    }
    Some(out)
}

/// Two backends on one port of two addresses, behind one name.
struct Site {
    port: u16,
    backends: Vec<HttpServer>,
}

impl Site {
    fn new() -> Self {
        let port = free_port();
        let backend =
            |(ip, name): ([u8; 4], &'static str)| HttpServer::start_on(ip, port, move |_| Reply::ok(name));
        Self { port, backends: [(ONE, "one"), (TWO, "two")].into_iter().map(backend).collect() }
    }

    fn gateway(&self, names: &NameServer) -> Gateway {
        Gateway::start(&self.config("app", names))
    }

    fn config(&self, name: &str, names: &NameServer) -> Config {
        let upstream = format!(
            "{{ endpoints: [\"http://app.example.test:{}\"], resolvers: [\"{}\"] }}",
            self.port, names.address
        );
        let route = format!("{{ name: all, match: {{ path: /** }}, upstream: {name}, auth: public }}");
        Config::new().upstream_raw(name, &upstream).route(&route)
    }
}

/// Of IPv4 and of IPv6.
fn each(ipv4: Says, ipv6: Says) -> Says {
    Says::Each(Box::new([ipv4, ipv6]))
}

fn at(address: [u8; 4]) -> Says {
    Says::Addresses(vec![address], 1)
}

/// Who answers: round robin goes to all there are.
fn all(gateway: &Gateway) -> Vec<String> {
    let mut all: Vec<_> = (0..6).map(|_| who(gateway)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn who(gateway: &Gateway) -> String {
    let answer = get("/").send(&gateway.address());
    if answer.status == 200 { answer.text() } else { answer.status.to_string() }
}

#[test]
fn a_name_is_resolved_again_when_its_time_to_live_ends() {
    let (site, names) = (Site::new(), NameServer::start(Says::Addresses(vec![ONE], 1)));
    let gateway = site.gateway(&names);
    assert!(eventually(SOON, || who(&gateway) == "one"));
    names.say(Says::Addresses(vec![TWO], 1));
    assert!(eventually(SOON, || who(&gateway) == "two"), "the new address is not taken");
    // It moved: nobody goes to the old one any more.
    let before = site.backends[0].received().len();
    assert!((0..20).all(|_| who(&gateway) == "two"));
    assert_eq!(site.backends[0].received().len(), before);
    // Both: both are used.
    names.say(Says::Addresses(vec![ONE, TWO], 3600));
    assert!(eventually(SOON, || who(&gateway) == "one"));
    assert!(eventually(SOON, || who(&gateway) == "two"));
    // Good for an hour, it is asked for again only at the ceiling of a minute.
    let asked = names.asked();
    let_pass(Duration::from_secs(3));
    assert_eq!(names.asked(), asked);
}

#[test]
fn a_name_server_that_fails_or_is_silent_takes_no_address_away() {
    let (site, names) = (Site::new(), NameServer::start(Says::Addresses(vec![ONE], 0)));
    let gateway = site.gateway(&names);
    assert!(eventually(SOON, || who(&gateway) == "one"));
    for says in [Says::Failure, Says::Silence] {
        names.say(says);
        let asked = names.asked();
        assert!(eventually(SOON, || names.asked() > asked + 2), "it is not asked again");
        assert_eq!(who(&gateway), "one");
    }
    assert!(gateway.says("cannot resolve a name"));
    names.say(Says::Addresses(vec![TWO], 60));
    assert!(eventually(SOON, || who(&gateway) == "two"), "it has not recovered");
}

#[test]
fn a_reload_waits_for_the_addresses_of_names_that_are_new() {
    let (site, names) = (Site::new(), NameServer::start(Says::Addresses(vec![ONE], 60)));
    let gateway = site.gateway(&names);
    assert!(eventually(SOON, || who(&gateway) == "one"));
    names.say(Says::Slowly(ONE, Duration::from_millis(500)));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let answers = std::iter::from_fn(|| (!stop.load(Ordering::SeqCst)).then(|| who(&gateway)));
            answers.collect::<Vec<_>>()
        });
        // The same place under another name is another upstream.
        gateway.reload(&site.config("renamed", &names), "ok");
        let_pass(Duration::from_millis(200));
        stop.store(true, Ordering::SeqCst);
        let answers = asking.join().unwrap();
        assert!(answers.len() > 5 && answers.iter().all(|answer| answer == "one"), "{answers:?}");
    });
    // A name that nobody knows holds up the rest for a while, and then no longer.
    names.say(Says::Silence);
    gateway.reload(&site.config("again", &names), "ok");
    assert_eq!(who(&gateway), "502");
}

#[test]
fn what_fails_for_one_family_takes_none_of_its_addresses_away() {
    fails_by_halves(|says| says);
}

#[test]
fn the_same_holds_for_another_name_of_a_name() {
    fails_by_halves(|says| Says::Alias(Box::new(says)));
}

#[track_caller]
fn fails_by_halves(form: fn(Says) -> Says) {
    let names = NameServer::start(each(form(at(ONE)), form(at(TWO))));
    let site = Site::new();
    let gateway = site.gateway(&names);
    assert_eq!(all(&gateway), ["one", "two"]);
    for (says, answered) in
        [(each(form(Says::Failure), form(at(TWO))), 1), (each(form(at(ONE)), form(Says::Failure)), 0)]
    {
        names.say(says);
        names.asked_again(answered);
        assert_eq!(all(&gateway), ["one", "two"]);
    }
    assert!(gateway.says("cannot resolve a name"));
    // The word that there is none is one.
    names.say(each(form(at(ONE)), form(Says::Addresses(vec![], 1))));
    assert!(eventually(SOON, || all(&gateway) == ["one"]), "an address stays that is no more");
    names.say(each(form(Says::Failure), form(at(TWO))));
    assert!(eventually(SOON, || all(&gateway) == ["one", "two"]), "it has not recovered");
    names.say(each(form(Says::Nobody), form(at(TWO))));
    assert!(eventually(SOON, || all(&gateway) == ["two"]), "an address stays that is no more");
    // Of a name that has none at all, the last ones stay.
    names.say(form(Says::Nobody));
    names.asked_again(1);
    assert_eq!(who(&gateway), "two");
}

#[test]
fn silence_about_one_family_takes_none_of_its_addresses_away() {
    let (site, names) = (Site::new(), NameServer::start(each(at(ONE), at(TWO))));
    let gateway = site.gateway(&names);
    assert_eq!(all(&gateway), ["one", "two"]);
    names.say(each(Says::Silence, at(TWO)));
    names.asked_again(1);
    assert_eq!(all(&gateway), ["one", "two"]);
}

#[test]
fn one_family_is_enough_to_begin_with() {
    for (says, expected) in [
        (each(at(ONE), Says::Failure), "one"),
        (each(Says::Failure, at(TWO)), "two"),
        (each(at(ONE), Says::Silence), "one"),
    ] {
        let (site, names) = (Site::new(), NameServer::start(says));
        let gateway = site.gateway(&names);
        assert!(eventually(SOON, || all(&gateway) == [expected]), "what is known is not used");
        names.say(each(at(ONE), at(TWO)));
        assert!(eventually(SOON, || all(&gateway) == ["one", "two"]), "the other does not come");
    }
}

#[test]
fn a_gateway_that_starts_waits_for_the_addresses_of_its_upstreams() {
    let slowly = Says::Slowly(ONE, Duration::from_millis(700));
    let (site, names) = (Site::new(), NameServer::start(slowly));
    let gateway = Gateway::start_live(&site.config("app", &names));
    // Who comes now is let wait, and told no lie.
    assert_eq!(who(&gateway), "one");
    assert_eq!(get("/readyz").send(&gateway.admin()).status, 200);
}

#[test]
fn a_name_server_that_is_silent_holds_up_a_start_for_a_while_only() {
    let (site, names) = (Site::new(), NameServer::start(Says::Silence));
    let mut gateway = Gateway::start_live(&site.config("app", &names));
    let waiting = get("/readyz").send(&gateway.admin()).expect(503);
    assert!(waiting.text().contains("the addresses of upstreams"), "{}", waiting.text());
    let ready = || get("/readyz").send(&gateway.admin()).status == 200;
    assert!(eventually(SOON, ready), "one name keeps all of it from serving");
    assert_eq!(who(&gateway), "502");
    names.say(at(ONE));
    assert!(eventually(SOON, || who(&gateway) == "one"));
    // A start that waits can be stopped.
    names.say(Says::Silence);
    gateway.terminate();
    assert!(gateway.ended_within(SOON).is_some());
    let mut gateway = Gateway::start_live(&site.config("app", &names));
    gateway.terminate();
    assert!(gateway.ended_within(Duration::from_secs(4)).is_some_and(|status| status.success()));
}
