//! The other two ends: an upstream that answers a kilobyte of JSON, and clients that ask again and again.

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
                let (port, first, status) = (self.port, self.first, self.status);
                tokio::spawn(async move {
                    let mut server = connect(port).await;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            return;
                        }
                        let head = &heads[(first + number) % heads.len()];
                        assert_eq!(ask(&mut server, head).await, status);
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
