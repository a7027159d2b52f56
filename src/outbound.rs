//! The only HTTP client: no redirects, no proxies from the environment, one deadline for the whole
//! exchange, a byte cap while reading, and errors that say what failed.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// What one exchange may cost at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the name look-up to the last byte of the body.
    pub timeout: Duration,
    /// The longest body taken, in bytes.
    pub max_bytes: usize,
}

/// An answer of any status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code; 3xx too, for redirects are not followed.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body of a 200.
    ///
    /// # Errors
    /// [`OutboundError::Status`] for every other status.
    pub fn ok(self) -> Result<Bytes, OutboundError> {
        if self.status == 200 { Ok(self.body) } else { Err(OutboundError::Status(self.status)) }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The client could not be made.
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
    /// Nobody is asked.
    #[error("not asked: nothing leaves this machine")]
    Offline,
    /// Not an `http` or `https` address.
    #[error("not an http or https address")]
    Address,
    /// The host has no address.
    #[error("the name cannot be resolved: {0}")]
    Dns(String),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The deadline passed.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The status is not the one needed.
    #[error("answered with status {0}")]
    Status(u16),
    /// The body is over the cap.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// The exchange broke off, or was not HTTP.
    #[error("the exchange broke off: {0}")]
    Broken(String),
}

impl OutboundError {
    /// One word of a closed list, for metric labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Setup(_) => "setup",
            Self::Offline => "offline",
            Self::Address => "address",
            Self::Dns(_) => "dns",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Timeout(_) => "timeout",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::Broken(_) => "broken",
        }
    }
}

/// The client. Clones share one connection pool.
#[derive(Debug, Clone)]
pub struct Client(Option<reqwest::Client>);

impl Client {
    /// A client that trusts the system's roots.
    ///
    /// # Errors
    /// [`OutboundError::Setup`] if no TLS provider is installed in the process.
    pub fn new() -> Result<Self, OutboundError> {
        // Where the system has no roots (a bare container), plain HTTP must still work, and https must fail
        // when it is used: an empty root store does just that.
        let client = builder().build().or_else(|_| builder().tls_certs_only([]).build());
        client.map(|client| Self(Some(client))).map_err(|error| OutboundError::Setup(chain(&error)))
    }

    /// A client that asks nobody.
    pub const fn offline() -> Self {
        Self(None)
    }

    /// `GET`, expecting JSON.
    ///
    /// # Errors
    /// [`OutboundError`] if there is no complete answer within the limits.
    pub async fn get(&self, url: &str, limits: Limits) -> Result<Answer, OutboundError> {
        self.send(self.client()?.get(address(url)?), limits).await
    }

    /// `POST` of a JSON body, expecting JSON.
    ///
    /// # Errors
    /// [`OutboundError`] if there is no complete answer within the limits.
    pub async fn post_json(&self, url: &str, body: Vec<u8>, limits: Limits) -> Result<Answer, OutboundError> {
        let request = self.client()?.post(address(url)?).header(CONTENT_TYPE, "application/json").body(body);
        self.send(request, limits).await
    }

    /// `POST` of a form, expecting JSON.
    ///
    /// # Errors
    /// [`OutboundError`] if there is no complete answer within the limits.
    pub async fn post_form(
        &self,
        url: &str,
        fields: &[(&str, String)],
        limits: Limits,
    ) -> Result<Answer, OutboundError> {
        self.send(self.client()?.post(address(url)?).form(fields), limits).await
    }

    fn client(&self) -> Result<&reqwest::Client, OutboundError> {
        self.0.as_ref().ok_or(OutboundError::Offline)
    }

    async fn send(&self, request: reqwest::RequestBuilder, limits: Limits) -> Result<Answer, OutboundError> {
        let exchange = exchange(request.header(ACCEPT, "application/json"), limits.max_bytes);
        let answer = tokio::time::timeout(limits.timeout, exchange).await;
        answer.unwrap_or(Err(OutboundError::Timeout(limits.timeout)))
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .pool_idle_timeout(Duration::from_secs(30))
}

fn address(url: &str) -> Result<reqwest::Url, OutboundError> {
    let url = reqwest::Url::parse(url).map_err(|_| OutboundError::Address)?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(OutboundError::Address) }
}

async fn exchange(request: reqwest::RequestBuilder, max_bytes: usize) -> Result<Answer, OutboundError> {
    let mut response = request.send().await.map_err(classify)?;
    let too_large = OutboundError::TooLarge(max_bytes);
    if response.content_length().is_some_and(|length| length > max_bytes as u64) {
        return Err(too_large);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(classify)? {
        if body.len().saturating_add(chunk.len()) > max_bytes {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: response.status().as_u16(), body: body.freeze() })
}

fn classify(error: reqwest::Error) -> OutboundError {
    // The address may hold credentials or a query; the caller knows which one it asked.
    let error = error.without_url();
    if let Some(tls) = tls_error(&error) {
        return OutboundError::Tls(tls);
    }
    let text = chain(&error);
    if error.is_dns() {
        OutboundError::Dns(text)
    } else if error.is_connect() {
        OutboundError::Connect(text)
    } else {
        OutboundError::Broken(text)
    }
}

/// The TLS error in the chain.
fn tls_error(error: &reqwest::Error) -> Option<String> {
    causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()).map(ToString::to_string)
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        // An I/O error passes its cause over in `source`.
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

fn chain(error: &reqwest::Error) -> String {
    let mut texts: Vec<_> = causes(error).map(ToString::to_string).collect();
    // An I/O error repeats its cause's text as its own.
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A server on a free loopback port that hands every connection to `serve` and counts them.
    pub(crate) struct TestServer {
        pub(crate) address: SocketAddr,
        pub(crate) served: Arc<AtomicUsize>,
    }

    impl TestServer {
        pub(crate) fn start(serve: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let served = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&served);
            let serve = Arc::new(serve);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (serve, counter) = (Arc::clone(&serve), Arc::clone(&counter));
                    std::thread::spawn(move || {
                        let mut stream = stream.unwrap();
                        let mut head = Vec::new();
                        let mut byte = [0];
                        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                            head.push(byte[0]);
                        }
                        counter.fetch_add(1, Ordering::SeqCst);
                        serve(&mut stream, &String::from_utf8_lossy(&head));
                    });
                }
            });
            Self { address, served }
        }

        pub(crate) fn answering(status: u16, body: &str) -> Self {
            let answer = http_answer(status, body);
            Self::start(move |stream, _| stream.write_all(answer.as_bytes()).unwrap())
        }

        pub(crate) fn url(&self, path: &str) -> String {
            format!("http://{}{path}", self.address)
        }

        pub(crate) fn count(&self) -> usize {
            self.served.load(Ordering::SeqCst)
        }
    }

    pub(crate) fn http_answer(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    pub(crate) fn client() -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Client::new().unwrap()
    }

    const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), max_bytes: 1000 };

    async fn get(url: &str) -> Result<Bytes, OutboundError> {
        client().get(url, LIMITS).await?.ok()
    }

    #[tokio::test]
    async fn a_good_answer_comes_whole() {
        let server = TestServer::answering(200, "hello");
        assert_eq!(get(&server.url("/")).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let target = TestServer::answering(200, "secret");
        let location =
            format!("HTTP/1.1 302 x\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", target.url("/"));
        let server = TestServer::start(move |stream, _| stream.write_all(location.as_bytes()).unwrap());
        assert!(matches!(get(&server.url("/")).await, Err(OutboundError::Status(302))));
        assert_eq!(target.count(), 0);
    }

    #[tokio::test]
    async fn a_body_over_the_cap_is_refused_with_and_without_a_length() {
        let long = "x".repeat(1001);
        let server = TestServer::answering(200, &long);
        assert!(matches!(get(&server.url("/")).await, Err(OutboundError::TooLarge(1000))));
        let endless = TestServer::start(|stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 500]).is_ok() {}
        });
        assert!(matches!(get(&endless.url("/")).await, Err(OutboundError::TooLarge(1000))));
        let fitting = TestServer::answering(200, &"x".repeat(1000));
        assert_eq!(get(&fitting.url("/")).await.unwrap().len(), 1000);
    }

    #[tokio::test]
    async fn the_deadline_holds_for_a_dripping_body_too() {
        let server = TestServer::start(|stream, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let limits = Limits { timeout: Duration::from_millis(200), max_bytes: 1000 };
        assert!(matches!(
            client().get(&server.url("/"), limits).await,
            Err(OutboundError::Timeout(limit)) if limit == limits.timeout
        ));
    }

    #[tokio::test]
    async fn errors_say_what_failed() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain_address = plain.local_addr().unwrap();
        std::thread::spawn(move || plain.accept().unwrap().0.write_all(b"no TLS here"));
        let cut = TestServer::start(|_, _| ());
        let cases = [
            (format!("http://{closed}/"), "connect"),
            ("http://nowhere.invalid/".to_owned(), "dns"),
            (format!("https://{plain_address}/"), "tls"),
            (cut.url("/"), "broken"),
        ];
        for (url, kind) in cases {
            let error = get(&url).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{url}: {error}");
        }
        for bad in ["ftp://x/", "file:///etc/passwd", "x", "", "/path", "javascript:1"] {
            assert_eq!(get(bad).await.unwrap_err().kind(), "address", "{bad}");
        }
    }

    #[tokio::test]
    async fn an_error_never_repeats_the_address() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = get(&format!("http://user:hunter2@{closed}/?key=hunter2")).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_post_carries_its_json_and_keeps_the_status() {
        let server = TestServer::start(|stream, head| {
            let mut body = [0; 2];
            stream.read_exact(&mut body).unwrap();
            let fits = head.starts_with("POST /login ")
                && head.to_lowercase().contains("content-type: application/json")
                && &body == b"{}";
            stream.write_all(http_answer(if fits { 401 } else { 500 }, "no").as_bytes()).unwrap();
        });
        let answer = client().post_json(&server.url("/login"), b"{}".to_vec(), LIMITS).await.unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (401, b"no".as_slice()));
    }
}
