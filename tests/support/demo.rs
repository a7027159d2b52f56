//! What `make run` starts, on ports of its own: the gateway with `conf/portcullis.yaml`, and the demo backend.

use super::client::get;
use super::folder::Folder;
use super::ports::free_port;
use super::wait::eventually;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START: Duration = Duration::from_secs(30);

/// A child process that says nothing and ends with the value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the process starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The backend, with the page of `examples/browser`.
pub(crate) struct DemoUpstream(#[allow(dead_code, reason = "it ends with the value")] Running);

impl DemoUpstream {
    /// Starts it, and waits until it accepts connections.
    #[track_caller]
    pub(crate) fn start(address: &str) -> Self {
        // Cargo builds it beside the gateway.
        let program =
            Path::new(env!("CARGO_BIN_EXE_portcullis")).with_file_name("examples").join("demo_upstream");
        let mend = "run `cargo build --example demo_upstream`";
        assert!(program.exists(), "{} is missing: {mend}", program.display());
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/browser");
        let demo = Self(Running::start(Command::new(program).arg(address).arg(page)));
        assert!(eventually(START, || TcpStream::connect(address).is_ok()), "nobody listens on {address}");
        demo
    }
}

/// The whole demo.
pub(crate) struct Demo {
    _upstream: DemoUpstream,
    _gateway: Running,
    folder: Folder,
    ports: [(&'static str, u16); 3],
}

impl Demo {
    #[track_caller]
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        let ports = [("8080", free_port()), ("9090", free_port()), ("9001", free_port())];
        let conf = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
            folder.write(name, moved(&ports, fs::read_to_string(path).expect("a file of the demo")))
        };
        let (config, _) = (conf("portcullis.yaml"), conf("users.yaml"));
        let [_, admin, upstream] = ports.map(|(_, port)| format!("127.0.0.1:{port}"));
        let upstream = DemoUpstream::start(&upstream);
        let run = ["run", "--config", config.as_str()];
        let gateway = Running::start(Command::new(env!("CARGO_BIN_EXE_portcullis")).args(run));
        let ready = || get("/readyz").try_send(&admin).is_ok_and(|response| response.status == 200);
        assert!(eventually(START, ready), "the demo gateway is not ready");
        Self { _upstream: upstream, _gateway: gateway, folder, ports }
    }

    /// The folder of its configuration.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A text about the demo, with the ports it has here.
    pub(crate) fn moved(&self, text: String) -> String {
        moved(&self.ports, text)
    }
}

fn moved(ports: &[(&str, u16)], text: String) -> String {
    ports
        .iter()
        .fold(text, |text, (from, to)| text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}")))
}
