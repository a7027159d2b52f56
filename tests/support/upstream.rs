//! A fake backend: it records the raw bytes of what reached it and answers what it is told to.

use super::http_server::{HttpServer, Received, Reply};

/// The backend. By default it answers 200 with its name as the body.
pub(crate) struct Upstream {
    server: HttpServer,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        Self::named("upstream")
    }

    /// On this port.
    pub(crate) fn at(port: u16) -> Self {
        Self { server: HttpServer::start_at(port, |_| Reply::ok("upstream")) }
    }

    pub(crate) fn named(name: &str) -> Self {
        let body = name.to_owned();
        Self::answering(move |_| Reply::ok(body.clone()))
    }

    pub(crate) fn answering(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self { server: HttpServer::start(handler) }
    }

    /// Answers with the body it was sent.
    pub(crate) fn echo() -> Self {
        Self::answering(|received| Reply::ok(received.body.clone()))
    }

    /// Replaces what is answered from now on.
    pub(crate) fn answer(&self, handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        self.server.handle(handler);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        self.server.address().to_string()
    }

    /// Every request that arrived so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.server.received()
    }

    /// How many requests arrived so far.
    pub(crate) fn hits(&self) -> usize {
        self.server.received().len()
    }

    /// The latest request that arrived.
    pub(crate) fn last(&self) -> Received {
        self.server.received().pop().expect("a request reached the upstream")
    }

    /// How many connections were opened to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.server.connections()
    }

    /// From now on its address refuses connections.
    pub(crate) fn stop(&self) {
        self.server.stop();
    }
}
