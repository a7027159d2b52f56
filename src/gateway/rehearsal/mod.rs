//! One request at a time through the whole gateway without a network: the client and the upstream are memory, all
//! between them is what serves real requests.

mod wire;

use super::Gateway;
use super::context::RequestContext;
use super::decision::Verdict;
use super::denial;
use super::engine;
use super::guard::{Bounds, Guarded};
use super::proxy::Progress;
use super::respond;
use super::route::Route;
use super::settings::ServerSettings;
use crate::policy::forward::Unforwardable;
use crate::policy::requirement::Mode;
use crate::reason::Reason;
use crate::reply::Reply;
use crate::token::claims::VerifiedClaims;
use async_trait::async_trait;
use pingora_core::apps::ServerApp as _;
use pingora_core::upstreams::peer::{HttpPeer, Scheme};
use pingora_core::{Error, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio::time::Instant;
use wire::{ClientEnd, Recorder};

/// How much of an answer, or of a request on its way, lies in memory.
const BUFFER: usize = 64 * 1024;

/// Longer than any wait for an issuer's keys.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request to be tried.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The request's head, byte for byte.
    pub head: Vec<u8>,
    /// Where it seems to come from.
    pub from: IpAddr,
    /// Whether it seems to come over TLS.
    pub tls: bool,
    /// Who calls, taken on trust; `None` finds out by the request's token.
    pub caller: Option<Arc<VerifiedClaims>>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Account {
    /// What was decided.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// Which claim fits no header, where that is the reason.
    pub unforwardable: Option<Unforwardable>,
    /// The status of an answer of our own.
    pub status: Option<u16>,
    /// The client's address, after trusted proxies.
    pub client: Option<IpAddr>,
    /// The path that was judged, in canonical form; empty if there was none.
    pub path: String,
    /// The route that was found.
    pub route: Option<Arc<Route>>,
    /// The claims of a caller whose token was verified, whatever the policy made of it.
    pub claims: Option<Arc<VerifiedClaims>>,
    /// The issuer of the token, where one is known.
    pub issuer: String,
}

impl Account {
    /// The sentence that explains the reason to the client; `None` where nothing is refused, or would be.
    pub fn detail(&self) -> Option<&'static str> {
        let fine = matches!(self.reason, Reason::Ok | Reason::Anonymous | Reason::Preflight);
        (!fine).then(|| denial::detail(self.reason))
    }
}

/// What the gateway does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is forwarded: this head goes to this upstream. The route only observes where there is a reason why
    /// enforcing would refuse it.
    Forwarded {
        /// Whether a route that enforced its policy would have refused.
        would_deny: bool,
        /// The upstream's name.
        upstream: String,
        /// The head, byte for byte.
        head: Vec<u8>,
    },
    /// It is refused.
    Refused,
    /// A preflight, answered by the gateway.
    Preflight,
    /// It is for this endpoint of our own.
    Endpoint(&'static str),
}

/// The request came to nothing that could be told.
#[derive(Debug, thiserror::Error)]
#[error("the request came to nothing that can be told; please report it as a bug")]
pub struct Lost;

/// A gateway that is tried.
pub struct Rehearsal {
    engine: Arc<HttpProxy<Rehearsing>>,
    state: Arc<State>,
    bounds: Arc<Bounds>,
    shutdown: watch::Receiver<bool>,
    _shutdown: watch::Sender<bool>,
}

/// What is known of the trial that runs.
#[derive(Default)]
struct State(Mutex<Known>);

#[derive(Default)]
struct Known {
    caller: Option<Arc<VerifiedClaims>>,
    account: Option<Account>,
    head: Vec<u8>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rehearsal {
    /// Tries this gateway.
    pub fn new(gateway: Gateway, server: &ServerSettings) -> Self {
        let state = Arc::<State>::default();
        let rehearsing = Rehearsing { gateway, state: Arc::clone(&state) };
        let (sender, shutdown) = watch::channel(false);
        Self {
            engine: Arc::new(engine::around(rehearsing, server, true)),
            state,
            bounds: Arc::new(Bounds::new(&server.limits, None)),
            shutdown,
            _shutdown: sender,
        }
    }

    /// Sends one request through. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Lost`] if that ends without a decision, which only a bug explains.
    pub async fn run(&mut self, trial: Trial) -> std::result::Result<Account, Lost> {
        *self.state.lock() = Known { caller: trial.caller, ..Known::default() };
        let (client, server) = tokio::io::duplex(BUFFER);
        let end = ClientEnd::new(server, SocketAddr::new(trial.from, 0), trial.tls);
        let deadline = Instant::now() + self.bounds.header;
        let guarded = Guarded::new(Box::new(end), false, deadline, Arc::clone(&self.bounds));
        let serving = async {
            // A connection that could be used again ends here with the value.
            drop(self.engine.process_new(Box::new(guarded), &self.shutdown).await);
        };
        let both = async { tokio::join!(serving, converse(client, &trial.head)).1 };
        let answer = tokio::time::timeout(PATIENCE, both).await.map_err(|_| Lost)?;
        let mut known = self.state.lock();
        let head = std::mem::take(&mut known.head);
        let Some(mut account) = known.account.take() else { return refused_unparsed(&answer).ok_or(Lost) };
        if let Outcome::Forwarded { head: forwarded, .. } = &mut account.outcome {
            *forwarded = head;
        }
        Ok(account)
    }
}

/// Sends the head and reads the answer. The sending side stays open until then: a client that closes early may be
/// taken for one that has gone away.
async fn converse(mut client: DuplexStream, head: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    // What cannot be sent was refused before its end.
    let _ = client.write_all(head).await;
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            return answer;
        }
    }
    let _ = client.shutdown().await;
    let _ = client.read_to_end(&mut answer).await;
    answer
}

/// What is known of a request that the engine cannot parse: no phase has seen it, only the answer tells.
fn refused_unparsed(answer: &[u8]) -> Option<Account> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let problem: serde_json::Value = serde_json::from_str(body).ok()?;
    let word = problem.get("reason")?.as_str()?;
    Some(Account {
        outcome: Outcome::Refused,
        reason: Reason::ALL.iter().copied().find(|reason| reason.as_str() == word)?,
        unforwardable: None,
        status: Some(status),
        client: None,
        path: String::new(),
        route: None,
        claims: None,
        issuer: String::new(),
    })
}

/// The gateway with another end to its upstreams, which tells what came of each request.
struct Rehearsing {
    gateway: Gateway,
    state: Arc<State>,
}

impl Rehearsing {
    fn tell(&self, ctx: &RequestContext, outcome: Outcome) {
        let route = ctx.route.as_ref().map(|served| Arc::clone(&served.route));
        // What a public route was not asked about, it does not know.
        let looked = route.as_ref().is_some_and(|route| route.requirement.mode != Mode::Public);
        let account = Account {
            outcome,
            reason: ctx.reason,
            unforwardable: ctx.unforwardable.clone(),
            status: ctx.status,
            client: Some(ctx.client),
            path: ctx.path.clone(),
            route,
            claims: ctx.claims.clone().filter(|_| looked),
            issuer: ctx.issuer().to_owned(),
        };
        self.state.lock().account.get_or_insert(account);
    }
}

#[async_trait]
impl ProxyHttp for Rehearsing {
    type CTX = Box<RequestContext>;

    fn new_ctx(&self) -> Self::CTX {
        let mut ctx = Box::new(self.gateway.context(Arc::default()));
        ctx.claims.clone_from(&self.state.lock().caller);
        ctx
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        self.gateway.begin(session, ctx);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        match self.gateway.decide(session, ctx).await {
            Verdict::Endpoint(endpoint) => {
                ctx.endpoint = Some(endpoint.as_str());
                ctx.reason = Reason::Ok;
                respond::send(session, &Reply::empty(204), &ctx.request_id)
                    .await
                    .map_err(Error::into_down)?;
                Ok(true)
            }
            verdict => match self.gateway.carry_out(verdict, session, ctx).await? {
                Progress::Answered => Ok(true),
                Progress::Permitted => Ok(false),
                Progress::Answer(reply) => {
                    respond::send(session, &reply, &ctx.request_id).await.map_err(Error::into_down)?;
                    Ok(true)
                }
            },
        }
    }

    /// The peer that was chosen, at the other end of a line that leads to no network.
    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let mut peer = Box::new(ctx.next_peer()?);
        let state = Arc::clone(&self.state);
        peer.scheme = Scheme::HTTP;
        peer.client_cert_key = None;
        peer.options.set_http_version(1, 1);
        peer.options.custom_l4 = Some(Arc::new(Recorder::new(move |head| state.lock().head = head)));
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        self.gateway.prepare_request(session, upstream_request, ctx)?;
        let outcome = Outcome::Forwarded {
            would_deny: ctx.permit.as_ref().is_some_and(|permit| permit.would_deny().is_some()),
            upstream: ctx.route.as_ref().map(|served| served.route.upstream.clone()).unwrap_or_default(),
            head: Vec::new(),
        };
        self.tell(ctx, outcome);
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        self.gateway.fail(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        let outcome = match ctx.endpoint {
            Some(endpoint) => Outcome::Endpoint(endpoint),
            None if ctx.reason == Reason::Preflight => Outcome::Preflight,
            None => Outcome::Refused,
        };
        self.tell(ctx, outcome);
        self.gateway.conclude(session, error, ctx).await;
    }
}
