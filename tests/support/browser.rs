//! Chromium without a window, driven by the `WebDriver` protocol (W3C): pages, tabs, forms, reloads.

use super::client::{Connection, request};
use super::folder::Folder;
use super::ports::free_port;
use super::wait::{eventually, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for the start of a browser.
const START: Duration = Duration::from_secs(90);
/// The name of an element in the answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Root has no sandbox, a container's `/dev/shm` is small, and no proxy of this machine's user is asked.
const ARGUMENTS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-proxy-server",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--window-size=900,780",
];

/// The program that starts browsers; it ends with the value.
struct Driver {
    child: Child,
    address: String,
}

impl Driver {
    fn start() -> Self {
        let port = free_port();
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={port}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = driver
            .spawn()
            .unwrap_or_else(|why| panic!("chromedriver: {why}; apt-get install chromium chromium-driver"));
        let driver = Self { child, address: format!("127.0.0.1:{port}") };
        let ready = || driver.ask("GET", "/status", None).is_ok_and(|status| status["ready"] == true);
        assert!(eventually(PATIENCE, ready), "chromedriver does not answer");
        driver
    }

    /// The value of the answer; an error with what it says.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let mut call = request(method, path);
        if let Some(body) = body {
            call = call.json(body);
        }
        let answer = Connection::open(&self.address).and_then(|c| c.patience(START).exchange(&call));
        let answer = answer.map_err(|why| why.to_string())?;
        if answer.status == 200 { Ok(answer.json()["value"].take()) } else { Err(answer.text()) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.ask("GET", "/shutdown", None);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser with a fresh profile, at one of its tabs. It ends with the value.
pub(crate) struct Browser {
    session: String,
    driver: Driver,
    _profile: Folder,
}

impl Browser {
    #[track_caller]
    pub(crate) fn start() -> Self {
        let (driver, profile) = (Driver::start(), Folder::new());
        let own = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.iter().copied().chain([own.as_str()]).collect();
        let options = json!({ "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "acceptInsecureCerts": true, "goog:chromeOptions": options } } });
        let session = driver
            .ask("POST", "/session", Some(&wanted))
            .unwrap_or_else(|why| panic!("no browser: {why}\napt-get install chromium chromium-driver"));
        let session = session["sessionId"].as_str().expect("a session").to_owned();
        Self { session, driver, _profile: profile }
    }

    fn try_ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        self.driver.ask(method, &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        match self.try_ask(method, path, body) {
            Ok(value) => value,
            Err(why) => panic!("{method} {path} {}: {why}", body.unwrap_or(&Value::Null)),
        }
    }

    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.ask("POST", "/url", Some(&json!({ "url": url })));
    }

    #[track_caller]
    pub(crate) fn reload(&self) {
        self.ask("POST", "/refresh", Some(&json!({})));
    }

    /// Opens another tab, empty, and goes there; its name.
    #[track_caller]
    pub(crate) fn another_tab(&self) -> String {
        let tab = self.ask("POST", "/window/new", Some(&json!({ "type": "tab" })));
        let tab = tab["handle"].as_str().expect("a name").to_owned();
        self.go_to(&tab);
        tab
    }

    /// The name of the tab one is at.
    #[track_caller]
    pub(crate) fn tab(&self) -> String {
        self.ask("GET", "/window", None).as_str().expect("a name").to_owned()
    }

    #[track_caller]
    pub(crate) fn go_to(&self, tab: &str) {
        self.ask("POST", "/window", Some(&json!({ "handle": tab })));
    }

    /// Closes this tab and goes to another.
    #[track_caller]
    pub(crate) fn close(&self, then: &str) {
        self.ask("DELETE", "/window", None);
        self.go_to(then);
    }

    /// Runs this before anything else in every page that this tab opens from now on.
    #[track_caller]
    pub(crate) fn beforehand(&self, script: &str) {
        let call = json!({ "cmd": "Page.addScriptToEvaluateOnNewDocument", "params": { "source": script } });
        self.ask("POST", "/goog/cdp/execute", Some(&call));
    }

    /// What the body of a function returns in the page; promises are waited for.
    #[track_caller]
    pub(crate) fn run(&self, body: &str) -> Value {
        self.ask("POST", "/execute/sync", Some(&json!({ "script": body, "args": [] })))
    }

    /// Waits until an expression, or what it promises, is true in the page.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str) {
        let script = format!("return Promise.resolve({expression}).then(Boolean)");
        let script = json!({ "script": script, "args": [] });
        let said = wait_for(PATIENCE, || {
            let said = self.try_ask("POST", "/execute/sync", Some(&script));
            // Every look takes its share of the machine that the page needs.
            thread::sleep(Duration::from_millis(40));
            (said == Ok(Value::Bool(true))).then_some(())
        });
        if said.is_none() {
            self.photograph("failed");
            panic!("never: {expression}; the page says {:?}", self.run("return document.body.innerText"));
        }
    }

    /// Waits until there is such an element, shown.
    #[track_caller]
    pub(crate) fn sees(&self, selector: &str) {
        self.until(&format!("document.querySelector({selector:?})?.checkVisibility()"));
    }

    #[track_caller]
    fn element(&self, selector: &str) -> String {
        self.sees(selector);
        let found =
            self.ask("POST", "/element", Some(&json!({ "using": "css selector", "value": selector })));
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        let path = format!("/element/{}/click", self.element(selector));
        self.ask("POST", &path, Some(&json!({})));
    }

    /// Writes into a field, in place of what is there.
    #[track_caller]
    pub(crate) fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/clear"), Some(&json!({})));
        self.ask("POST", &format!("/element/{element}/value"), Some(&json!({ "text": text })));
    }

    /// The cookies that go with the page one is at.
    #[track_caller]
    pub(crate) fn cookies(&self) -> Vec<Value> {
        self.ask("GET", "/cookie", None).as_array().expect("a list").clone()
    }

    /// Saves what is to be seen as `target/tmp/browser/NAME.png`.
    #[track_caller]
    pub(crate) fn photograph(&self, name: &str) {
        let image = self.ask("GET", "/screenshot", None);
        let image = STANDARD.decode(image.as_str().expect("text")).expect("base64");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{name}.png")), image).expect("a file");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.try_ask("DELETE", "", None);
    }
}
