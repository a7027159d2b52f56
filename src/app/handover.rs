//! Two processes on one host: the new one takes over the listening sockets of the old one, which come over a Unix
//! socket, so that nobody who connects meets a closed door.
//!
//! The old one serves on until the new one says that it accepts connections. If that never comes, nothing has
//! changed.

use crate::gateway::listener::{Inherited, Listener};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// What comes with the sockets. Another version of the protocol begins with other bytes.
const OFFER: &[u8] = b"portcullis takes over 1\n";
/// What the new process says once it accepts connections.
const TAKEN: &[u8] = b"taken\n";
/// How long the new one may take; it reads everything and waits for key sets meanwhile. Another may ask only then.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many sockets as one message carries on Linux.
const MOST_SOCKETS: usize = 253;

/// Why sockets cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The Unix socket cannot be made, or not be connected to.
    #[error("server.upgrade_socket {}: {source}", path.display())]
    Socket {
        /// Where it lies.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Whoever listens there is no gateway of ours.
    #[error("server.upgrade_socket {}: {what}", path.display())]
    Stranger {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// The old process's side: gives its sockets to a new one that asks.
pub(super) struct Giver {
    socket: UnixListener,
    listening: Vec<OwnedFd>,
}

impl Giver {
    /// Listens at `path`, in place of whoever did before.
    ///
    /// # Errors
    /// [`HandoverError`] names the path.
    pub(super) fn listen<'a>(
        path: &Path,
        listeners: impl Iterator<Item = &'a Listener>,
    ) -> Result<Self, HandoverError> {
        let failed = |source| HandoverError::Socket { path: path.to_owned(), source };
        let listening = listeners.map(Listener::share).collect::<io::Result<_>>().map_err(failed)?;
        if std::fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
            return Err(HandoverError::Stranger { path: path.to_owned(), what: "something else lies there" });
        }
        // A socket cannot be bound where a file is, be it the one of a process long gone.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let _ = std::fs::remove_file(&beside);
        let socket = UnixListener::bind(&beside).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)?;
        Ok(Self { socket, listening })
    }

    /// Waits until a new process has taken over.
    pub(super) async fn give(&mut self) {
        loop {
            let given = match self.socket.accept().await {
                Ok((stream, _)) => self.offer(stream).await,
                Err(error) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Err(error)
                }
            };
            match given {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "no process has taken over; this one serves on"),
            }
        }
    }

    async fn offer(&self, mut stream: UnixStream) -> io::Result<()> {
        if !is_ours(&stream)? {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "another user asked for the sockets"));
        }
        tracing::info!("a new process asks for the listening sockets");
        let sockets: Vec<_> = self.listening.iter().map(OwnedFd::as_fd).collect();
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(sockets.len()))];
                let mut beside = SendAncillaryBuffer::new(&mut space);
                if !beside.push(SendAncillaryMessage::ScmRights(&sockets)) {
                    return Err(io::Error::other("too many sockets"));
                }
                Ok(sendmsg(&stream, &[IoSlice::new(OFFER)], &mut beside, SendFlags::NOSIGNAL)?)
            })
            .await?;
        let mut said = [0; TAKEN.len()];
        let word = timeout(PATIENCE, stream.read_exact(&mut said)).await;
        word.map_err(|_| io::Error::new(ErrorKind::TimedOut, "the new process has said nothing"))??;
        if said == TAKEN { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidData, "no word of ours")) }
    }
}

/// The new process's side: the old process, which still serves.
pub(super) struct Predecessor {
    stream: UnixStream,
    path: PathBuf,
}

impl Predecessor {
    /// The process that listens at `path`; `None` if nobody does.
    ///
    /// # Errors
    /// [`HandoverError`] if it cannot be asked.
    pub(super) async fn find(path: &Path) -> Result<Option<Self>, HandoverError> {
        let failed = |source| HandoverError::Socket { path: path.to_owned(), source };
        match UnixStream::connect(path).await {
            Ok(stream) if is_ours(&stream).map_err(failed)? => {
                Ok(Some(Self { stream, path: path.to_owned() }))
            }
            Ok(_) => {
                Err(HandoverError::Stranger { path: path.to_owned(), what: "another user listens there" })
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Its listening sockets. It goes on to accept connections.
    ///
    /// # Errors
    /// [`HandoverError`] if it does not give them.
    pub(super) async fn sockets(&self) -> Result<Inherited, HandoverError> {
        let failed = |source| HandoverError::Socket { path: self.path.clone(), source };
        let mut offer = [0; OFFER.len() + 1];
        let mut sockets = Vec::new();
        let received = self.stream.async_io(Interest::READABLE, || {
            let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut offer)];
            let received = recvmsg(&self.stream, into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(given) = message {
                    sockets.extend(given.map(TcpListener::from));
                }
            }
            Ok(received.bytes)
        });
        let length = received.await.map_err(failed)?;
        if offer.get(..length) != Some(OFFER) {
            let what = "whoever listens there is no gateway of this version";
            return Err(HandoverError::Stranger { path: self.path.clone(), what });
        }
        Ok(Inherited::new(sockets))
    }

    /// Tells it that this process accepts connections: it may stop.
    pub(super) async fn relieve(mut self) {
        match self.stream.write_all(TAKEN).await {
            Ok(()) => tracing::info!("took over from the process that ran"),
            Err(error) => tracing::warn!(%error, "the process to take over from is gone already"),
        }
    }
}

/// Whether the other side runs as the same user, or as root.
fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    let user = stream.peer_cred()?.uid();
    Ok(user == geteuid().as_raw() || user == 0)
}
