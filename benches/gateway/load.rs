//! The other two ends: an upstream that answers a kilobyte of JSON, and clients that ask again and again.

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Starts the upstream in the runtime that this is called in.
pub async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let body = format!("{{\"note\":\"{}\"}}", "x".repeat(1012));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: bench";
    let answer: Arc<str> = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, Arc::clone(&answer)));
        }
    });
    address
}

async fn serve(mut client: TcpStream, answer: Arc<str>) {
    client.set_nodelay(true).unwrap();
    let mut request = Vec::new();
    while client.read_buf(&mut request).await.is_ok_and(|length| length > 0) {
        let Some((head, length)) = head_and_length(&request) else { continue };
        if request.len() >= head.len() + length {
            request.clear();
            if client.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The header block of a message once it is complete, and the length of its body.
fn head_and_length(message: &[u8]) -> Option<(String, usize)> {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&message[..end]).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.map_or(0, |length| length.trim().parse().unwrap());
    Some((head, length))
}

/// What clients do in one run.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub port: u16,
    /// Taken in turn, from this one on; an empty one is none at all.
    pub tokens: &'a [String],
    pub first: usize,
    pub connections: usize,
    pub requests: usize,
    /// The length of each request's body, which is sent together with the header; none if zero.
    pub body: usize,
    /// Over HTTP/2, one stream at a time on each connection.
    pub http2: bool,
    /// The status every answer must have.
    pub status: u16,
}

impl Run<'_> {
    /// Sends the requests over kept-alive connections, each at once when its last answer is there.
    pub async fn drive(self) {
        let next = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..self.connections)
            .map(|_| {
                let (next, requests) = (Arc::clone(&next), self.requests);
                let heads: Vec<String> = self.heads();
                let (port, first, status, http2) = (self.port, self.first, self.status, self.http2);
                tokio::spawn(async move {
                    let mut server = Server::connect(port, http2).await;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            return;
                        }
                        let head = &heads[(first + number) % heads.len()];
                        assert_eq!(server.ask(head).await, status);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    }

    fn heads(&self) -> Vec<String> {
        let head = "/orders/1 HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n";
        let (method, body) = match self.body {
            0 => ("GET", "\r\n".to_owned()),
            length => ("POST", format!("Content-Length: {length}\r\n\r\n{}", "x".repeat(length))),
        };
        let with = |token: &String| match token.as_str() {
            "" => format!("{method} {head}{body}"),
            token => format!("{method} {head}Authorization: Bearer {token}\r\n{body}"),
        };
        self.tokens.iter().map(with).collect()
    }
}

/// A connection to who is measured.
enum Server {
    Http1(TcpStream),
    Http2(h2::client::SendRequest<Bytes>),
}

impl Server {
    async fn connect(port: u16, http2: bool) -> Self {
        let server = connect(port).await;
        if !http2 {
            return Self::Http1(server);
        }
        let (client, connection) = h2::client::handshake(server).await.unwrap();
        tokio::spawn(connection);
        Self::Http2(client)
    }

    async fn ask(&mut self, head: &str) -> u16 {
        match self {
            Self::Http1(server) => ask(server, head).await,
            Self::Http2(server) => ask_http2(server, head).await,
        }
    }
}

/// The same over HTTP/2: a request without a body.
async fn ask_http2(server: &mut h2::client::SendRequest<Bytes>, head: &str) -> u16 {
    let mut lines = head.trim_end().lines();
    let mut line = lines.next().unwrap().split(' ');
    let (method, path) = (line.next().unwrap(), line.next().unwrap());
    let mut request = http::Request::builder().method(method).uri(format!("http://bench{path}"));
    for (name, value) in lines.filter_map(|field| field.split_once(": ")).filter(|(name, _)| *name != "Host")
    {
        request = request.header(name, value);
    }
    std::future::poll_fn(|context| server.poll_ready(context)).await.unwrap();
    let (answer, _) = server.send_request(request.body(()).unwrap(), true).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    while let Some(piece) = body.data().await {
        let length = piece.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    head.status.as_u16()
}

async fn connect(port: u16) -> TcpStream {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    server.set_nodelay(true).unwrap();
    server
}

/// Sends one request and reads its whole answer; connections must stay open.
async fn ask(server: &mut TcpStream, head: &str) -> u16 {
    server.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::with_capacity(4096);
    loop {
        assert!(server.read_buf(&mut answer).await.unwrap() > 0, "the connection was closed");
        let Some((head, length)) = head_and_length(&answer) else { continue };
        assert!(length > 0, "an answer without a body");
        if answer.len() >= head.len() + length {
            return head[9..12].parse().unwrap();
        }
    }
}
