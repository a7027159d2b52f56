//! Large bodies pass in pieces: megabytes that one side has no room for stay with the other, not in the gateway.

use crate::support::measure::{Memory, scale};
use crate::support::script::{curl, curl_into};
use crate::support::tunnel::{Arrived, Tunnels};
use crate::support::wait::let_pass;
use crate::support::{Config, Gateway};
use std::io::{self, Read, Write};
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// Mebibytes that the gateway may grow by, for all transfers at once.
const ROOM: u64 = 32;

/// How long a receiver pauses after its first mebibyte. A proxy that reads on meanwhile has it all by then.
const PAUSE: Duration = Duration::from_millis(1500);

/// A mebibyte of which no two stretches are alike, near enough.
fn piece() -> Vec<u8> {
    (0..MIB).map(|at| u8::try_from(at * at % 251).expect("a byte")).collect()
}

/// Reads so many times the piece, with a pause after the first; panics if it is anything else.
fn receive(count: usize, from: &mut impl Read) -> io::Result<()> {
    let (piece, mut arrived) = (piece(), vec![0; MIB]);
    for number in 0..count {
        from.read_exact(&mut arrived)?;
        assert!(arrived == piece, "mebibyte {number} is not what was sent");
        if number == 0 {
            let_pass(PAUSE);
        }
    }
    Ok(())
}

/// A backend that gives and takes so many mebibytes, or one by POST.
fn backend(count: usize) -> Tunnels {
    let serve = move |head: &str, wire: &mut Arrived| {
        if head.starts_with("GET") {
            write!(wire.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", count * MIB)?;
            let piece = piece();
            return (0..count).try_for_each(|_| wire.get_mut().write_all(&piece));
        }
        if head.starts_with("POST") {
            wire.read_exact(&mut vec![0; MIB])?;
        } else {
            receive(count, wire)?;
        }
        wire.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall of it")
    };
    Tunnels::start(move |head, mut wire| serve(head, &mut wire))
}

/// `PORTCULLIS_SOAK_TRANSFER` is how many mebibytes each transfer has.
#[test]
fn large_uploads_and_downloads_do_not_gather_in_the_gateway() {
    let count = scale("PORTCULLIS_SOAK_TRANSFER", 64) as usize;
    let upstream = backend(count);
    let gateway = Gateway::start(
        &Config::new()
            .listener("http2: true")
            .upstream_raw("app", &upstream.settings())
            .server("limits", "{ body_bytes: 0 }")
            .route("{ name: all, match: { path: /** }, upstream: app, auth: public }"),
    );
    let (url, versions) =
        (format!("http://{}/x", gateway.address()), ["--http1.1", "--http2-prior-knowledge"]);
    let (one, all) = (gateway.folder().write("one", piece()), gateway.folder().path().join("all"));
    let mut body = std::fs::File::create(&all).expect("a file");
    let piece = piece();
    (0..count).try_for_each(|_| body.write_all(&piece)).expect("room for the file");
    let (one, all) = (format!("@{one}"), all.display().to_string());
    // Every way once, so that what is there for good is there before.
    for version in versions {
        assert_eq!(curl(&[version, "--header", "Expect:", "--data-binary", &one, &url]), "all of it");
    }
    let before = Memory::of(gateway.process());
    std::thread::scope(|scope| {
        for version in versions {
            let (url, all) = (&url, &all);
            scope.spawn(move || {
                curl_into(&[version, url], |body| receive(count, body).expect("the whole answer"));
            });
            scope.spawn(move || {
                assert_eq!(curl(&[version, "--header", "Expect:", "--upload-file", all, url]), "all of it");
            });
        }
    });
    let after = Memory::of(gateway.process());
    let grown = after.peak.saturating_sub(before.now) / 1024;
    println!("4 transfers of {count} MiB at once: {} KiB before, at most {} KiB", before.now, after.peak);
    assert!(grown < ROOM, "the gateway grew by {grown} MiB");
}
