//! What a client's connection is doing, as the phases of a request tell its guard.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What the connection is doing, as far as its deadlines are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Accepted, nothing received: the header deadline runs from the accept.
    New = 0,
    /// Between requests: the idle limit runs.
    Idle = 1,
    /// A header block is arriving: its total deadline runs.
    Header = 2,
    /// A request is being served, or the protocol is HTTP/2: no deadline for reading here.
    Off = 3,
}

/// The switch of a connection's deadlines; the request's phases flip it.
#[derive(Debug)]
pub(super) struct DeadlineSwitch {
    phase: AtomicU8,
    /// Whether the request became a WebSocket.
    tunnel: AtomicBool,
    /// Whether the request has to end although neither side wants it to.
    ended: AtomicBool,
}

impl DeadlineSwitch {
    pub(super) fn new(phase: Phase) -> Self {
        let no = || AtomicBool::new(false);
        Self { phase: AtomicU8::new(phase as u8), tunnel: no(), ended: no() }
    }

    /// The header block is complete.
    pub(super) fn disarm(&self) {
        self.set(Phase::Off);
    }

    /// The request is answered; the connection may idle.
    pub(super) fn idle(&self) {
        self.set(Phase::Idle);
    }

    /// What is written from now on is a 101, and WebSocket frames after it.
    pub(super) fn tunnel(&self) {
        self.tunnel.store(true, Ordering::Release);
    }

    /// Whether what is written is of a WebSocket.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Acquire)
    }

    /// Ends the request: nothing more is read for it. A WebSocket is closed in good order.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether the request has to end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn get(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::New,
            1 => Phase::Idle,
            2 => Phase::Header,
            _ => Phase::Off,
        }
    }
}
