//! An HTTP/2 client over cleartext with several streams on one connection, for tests that wait in between.

use bytes::Bytes;
use h2::SendStream;
use http::request::Builder;
use http::{HeaderMap, Request};
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// How long any single step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection; it ends with the value.
pub(crate) struct Http2Client {
    runtime: Arc<Runtime>,
    client: h2::client::SendRequest<Bytes>,
    authority: String,
}

/// One request and what comes back.
pub(crate) struct Exchange {
    runtime: Arc<Runtime>,
    response: Option<h2::client::ResponseFuture>,
    head: Option<http::Response<()>>,
    stream: Option<h2::RecvStream>,
}

impl Http2Client {
    pub(crate) fn connect(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = runtime.block_on(async {
            let tcp = StdStream::connect(address).expect("a connection");
            tcp.set_nonblocking(true).expect("a socket");
            let tcp = TcpStream::from_std(tcp).expect("a socket of the runtime");
            let (client, connection) = h2::client::handshake(tcp).await.expect("a handshake");
            tokio::spawn(connection);
            client
        });
        Self { runtime: Arc::new(runtime), client, authority: address.to_owned() }
    }

    /// Asks for `path`, without a body.
    #[track_caller]
    pub(crate) fn begin(&mut self, path: &str, token: Option<&str>) -> Exchange {
        let request = Request::get(format!("http://{}{path}", self.authority));
        let request = token.iter().fold(request, |r, t| r.header("authorization", format!("Bearer {t}")));
        self.send(request, true).0
    }

    /// Sends a request of these fields and with this body, which has the end of the stream in a frame of its own.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Exchange {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.authority));
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (exchange, mut stream) = self.send(request, body.is_empty());
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), false).expect("a body to be sent");
            stream.send_data(Bytes::new(), true).expect("an end to be sent");
        }
        exchange
    }

    /// Begins a `POST` of these fields to `path`, whose body comes in pieces.
    #[track_caller]
    pub(crate) fn upload(&mut self, path: &str, fields: &[(&str, &str)]) -> (Exchange, Upload) {
        let request = Request::post(format!("http://{}{path}", self.authority));
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (exchange, body) = self.send(request, false);
        (exchange, Upload(body))
    }

    #[track_caller]
    fn send(&self, request: Builder, whole: bool) -> (Exchange, SendStream<Bytes>) {
        let request = request.body(()).expect("a request");
        let ready = self.runtime.block_on(self.client.clone().ready());
        let (response, body) = ready.and_then(|mut c| c.send_request(request, whole)).expect("a stream");
        let runtime = Arc::clone(&self.runtime);
        (Exchange { runtime, response: Some(response), head: None, stream: None }, body)
    }
}

/// The body of a request, which is not all sent yet; it is broken off with the value.
pub(crate) struct Upload(SendStream<Bytes>);

impl Upload {
    /// Sends some words more, and with the last of them the end.
    #[track_caller]
    pub(crate) fn send(&mut self, words: &'static str, last: bool) {
        self.0.send_data(Bytes::from_static(words.as_bytes()), last).expect("a piece to be sent");
    }
}

impl Exchange {
    fn head(&mut self) -> Result<&http::Response<()>, String> {
        if let Some(response) = self.response.take() {
            let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, response).await });
            let (head, stream) = waited.expect("an answer in time").map_err(|why| told(&why))?.into_parts();
            self.head = Some(http::Response::from_parts(head, ()));
            self.stream = Some(stream);
        }
        self.head.as_ref().ok_or_else(|| "no answer".to_owned())
    }

    #[track_caller]
    pub(crate) fn status(&mut self) -> u16 {
        self.head().expect("an answer").status().as_u16()
    }

    /// All of the answer, but for the time: its status and fields, its body, its trailers; or how it was broken off, and
    /// after what of it.
    pub(crate) fn all(&mut self) -> (String, Vec<u8>, Result<HeaderMap, String>) {
        let head = match self.head() {
            Ok(head) => head,
            Err(why) => return (String::new(), Vec::new(), Err(why)),
        };
        let mut fields = head.headers().clone();
        fields.remove("date");
        let head = format!("{} {fields:?}", head.status());
        let mut body = Vec::new();
        loop {
            match self.data() {
                Err(why) => return (head, body, Err(why)),
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => body.extend(piece),
            }
        }
        let stream = self.stream.as_mut().expect("a stream");
        let trailers =
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, stream.trailers()).await });
        let trailers = trailers.expect("an end in time").map_err(|why| told(&why));
        (head, body, trailers.map(Option::unwrap_or_default))
    }

    /// The next piece of the answer's body, empty at its end; or how the stream was broken off.
    pub(crate) fn data(&mut self) -> Result<Vec<u8>, String> {
        self.head()?;
        let stream = self.stream.as_mut().expect("a stream");
        let next = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, stream.data()).await });
        match next.expect("data in time") {
            None => Ok(Vec::new()),
            Some(Ok(piece)) => {
                let _ = stream.flow_control().release_capacity(piece.len());
                Ok(piece.to_vec())
            }
            Some(Err(why)) => Err(told(&why)),
        }
    }

    /// Whether nothing comes, no end either, for this long.
    pub(crate) fn is_quiet_for(&mut self, patience: Duration) -> bool {
        let stream = self.stream.as_mut().expect("a stream");
        self.runtime.block_on(async { tokio::time::timeout(patience, stream.data()).await }).is_err()
    }
}

/// The reason by its name.
fn told(why: &h2::Error) -> String {
    why.reason().map_or_else(|| why.to_string(), |reason| format!("{reason:?}"))
}
