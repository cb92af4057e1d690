//! One WebSocket session's task: reads its socket, and writes it again where it was full.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use super::frame::{FrameReader, Incoming, Violation};
use super::moving::{belongs_elsewhere, hand_on};
use crate::audit::Origin;
use crate::auth::{AuthError, Principal};
use crate::fanout::SessionId;
use crate::session::{Admission, Session, Verdict, Verify};
use crate::transport::handover::{Entry, Handover, Place, Places};
use crate::transport::socket::{self, Socket};
use crate::transport::worker::{State, Worker, now};
use crate::transport::{Pending, Presence, Remote};
use crate::wire::command::Subscribe;
use crate::wire::{CloseCode, Format};

/// What a session is opened with.
pub(in crate::transport) struct Opening {
    pub(in crate::transport) name: String,
    pub(in crate::transport) origin: Origin,
    pub(in crate::transport) remote: Remote,
    pub(in crate::transport) presence: Arc<Presence>,
    pub(in crate::transport) format: Format,
    pub(in crate::transport) credential: Option<(Arc<Principal>, Admission)>,
    pub(in crate::transport) refused: Option<(CloseCode, String)>,
    pub(in crate::transport) judged: u64,
    /// Given back once a credential is good.
    pub(in crate::transport) stranger: Option<(Place, Pending)>,
    pub(in crate::transport) url: Vec<Subscribe>,
    /// A session that another worker began, and its credential's judgement.
    pub(in crate::transport) moved: Option<(Session, Verdict)>,
    pub(in crate::transport) places: Places,
}

/// Why reading stopped.
enum Read {
    /// The socket is empty for now.
    Empty,
    /// A credential must be judged before the rest is looked at.
    Verify(Verify),
    /// Nothing more is to be read: the peer is gone, or the session ends.
    Over,
}

/// Opens a session for a finished handshake. The future serves it to its end: it is what an idle
/// session costs most of, so nothing of the handshake stays in it.
pub(in crate::transport) fn open(worker: &Rc<Worker>, handover: Handover) -> Option<impl Future<Output = ()> + use<>> {
    let Handover { connection, name, origin, remote, presence, format, entry, judged, url, places } = handover;
    let (socket, held) = Socket::new(connection).ok()?;
    let socket = Rc::new(socket);
    let (mut credential, mut refused, mut stranger, mut moved) = (None, None, None, None);
    match entry {
        // Revoked since it was judged: from here on the worker's own look would find it.
        Entry::Good(principal, _) if worker.revocations.refuses(&principal) => {
            refused = Some((CloseCode::Revoked, CloseCode::Revoked.as_str().to_owned()));
        }
        Entry::Good(principal, admission) => credential = Some((principal, admission)),
        Entry::Open(place, pending) => stranger = Some((place, pending)),
        Entry::Refused(code, reason) => refused = Some((code, reason)),
        Entry::Moved(from) => moved = Some((from.session, from.verdict)),
    }
    let config = Arc::clone(&worker.terms.load().session);
    let reader = FrameReader::new(config.message_bytes_max);
    let opening =
        Opening { name, origin, remote, presence, format, credential, refused, judged, stranger, url, moved, places };
    let id = worker.open(Rc::clone(&socket), config, opening);
    let peer = Peer { reader, held, id, gone: false, elsewhere: None };
    Some(serve(Rc::clone(worker), socket, peer))
}

async fn serve(worker: Rc<Worker>, mut socket: Rc<Socket>, mut peer: Peer) {
    peer.live(&worker, &socket).await;
    if let Some(judged) = peer.elsewhere.take() {
        // Boxed: few sessions do it, and once.
        match Box::pin(hand_on(&worker, socket, &mut peer, *judged)).await {
            Some(back) => socket = back,
            None => return,
        }
    }
    let reason = peer.finish(&worker, &socket).await;
    worker.close(peer.id, reason);
}

/// The client's side of a session.
pub(super) struct Peer {
    reader: FrameReader,
    /// Bytes that were read and may not be looked at yet.
    pub(super) held: Vec<u8>,
    pub(super) id: SessionId,
    gone: bool,
    /// The good credential of a session that belongs to the workers of another world.
    elsewhere: Option<Box<(Verdict, u64)>>,
}

impl Peer {
    /// Until the session ends or the peer is gone.
    async fn live(&mut self, worker: &Worker, socket: &Socket) {
        loop {
            let (takes, blocked) = {
                let state = worker.state.borrow();
                if socket.failed.get() || state.session_ended(self.id) {
                    return;
                }
                (state.fanout.takes_commands(self.id), state.fanout.is_blocked(self.id) || socket.pending() > 0)
            };
            if takes && !self.held.is_empty() {
                let held = std::mem::take(&mut self.held);
                let read = self.take(worker, held);
                if !self.proceed(worker, read).await {
                    return;
                }
                continue;
            }
            tokio::select! {
                ready = socket.readable(), if takes => {
                    if ready.is_err() {
                        self.gone = true;
                        return;
                    }
                    let read = self.read(worker, socket);
                    if !self.proceed(worker, read).await {
                        return;
                    }
                }
                _ = socket.writable(), if blocked => {
                    let state = &mut *worker.state.borrow_mut();
                    if !state.fanout.is_blocked(self.id) {
                        // Nothing waits behind it that would send it along.
                        socket.flush();
                    }
                    state.write(self.id, now().mono);
                }
                () = socket.nudge.notified() => {}
            }
        }
    }

    /// Whether to go on.
    async fn proceed(&mut self, worker: &Worker, read: Read) -> bool {
        match read {
            Read::Empty => true,
            Read::Over => false,
            Read::Verify(verify) => {
                let first = verify.first;
                let judged = worker.orders.last();
                // A judge that is gone judges nothing good.
                let verdict = worker.verifier.verify(verify).await;
                let verdict = match verdict.unwrap_or(Verdict::Bad(AuthError::Malformed)) {
                    // Revoked since it was judged: from here on the worker's own look would find it.
                    Verdict::Good(principal, _) if worker.revocations.refuses(&principal) => {
                        Verdict::Bad(AuthError::Revoked)
                    }
                    verdict => verdict,
                };
                if belongs_elsewhere(worker, first, &verdict) {
                    self.elsewhere = Some(Box::new((verdict, judged)));
                    return false;
                }
                let state = &mut *worker.state.borrow_mut();
                let now = now();
                if let Some(Some(live)) = state.sockets.live.get_mut(self.id as usize) {
                    let held = live.session.principal().map(Arc::as_ptr);
                    let outcome = live.session.on_verdict(&mut state.fanout, verdict, now);
                    if let Some(trace) = &mut live.trace {
                        trace.judged(&live.session, outcome);
                    }
                    let holds = live.session.principal().map(Arc::as_ptr);
                    if holds.is_some() {
                        live.stranger = None;
                    }
                    // What was refused leaves the one that is held, which was judged when it was.
                    if holds != held {
                        state.arrived(self.id, judged, now);
                    }
                }
                state.write(self.id, now.mono);
                true
            }
        }
    }

    fn read(&mut self, worker: &Worker, socket: &Socket) -> Read {
        let state = &mut *worker.state.borrow_mut();
        let mut buffer = std::mem::take(&mut state.read_buffer);
        let mut opened = std::mem::take(&mut state.opened);
        let read = match socket.read(&mut buffer, &mut opened) {
            socket::Read::Bytes(bytes) if !state.takes_bytes(self.id, bytes.len()) => {
                state.write(self.id, now().mono);
                Read::Over
            }
            socket::Read::Bytes(bytes) => self.process(state, bytes),
            socket::Read::Nothing => Read::Empty,
            socket::Read::End => {
                self.gone = true;
                Read::Over
            }
            socket::Read::Broken(reason) => {
                state.meters.broken(reason);
                self.gone = true;
                Read::Over
            }
        };
        (state.read_buffer, state.opened) = (buffer, opened);
        read
    }

    fn take(&mut self, worker: &Worker, mut bytes: Vec<u8>) -> Read {
        self.process(&mut worker.state.borrow_mut(), &mut bytes)
    }

    /// Gives what was read to the session; what it may not look at yet is held.
    fn process(&mut self, state: &mut State, input: &mut [u8]) -> Read {
        let now = now();
        let mut verify = None;
        let mut closing = false;
        let State { fanout, sockets, .. } = state;
        let Some(Some(live)) = sockets.live.get_mut(self.id as usize) else { return Read::Over };
        let session = &mut live.session;
        let result = self.reader.read(input, &mut |incoming| {
            match incoming {
                Incoming::Text(text) => verify = session.on_text(fanout, text, now),
                Incoming::Ping(payload) => session.on_ping(fanout, payload, now),
                // Commands are text: the reader has refused what is binary.
                Incoming::Pong(_) | Incoming::Binary(_) => session.on_sign_of_life(now),
                Incoming::Close { .. } => {
                    session.end_flushed(fanout, CloseCode::Normal, "", now);
                    closing = true;
                }
            }
            let wait = verify.is_some() || closing || !fanout.takes_commands(session.id());
            if wait { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match result {
            Ok(taken) if taken < input.len() && !closing => self.held.extend_from_slice(&input[taken..]),
            Ok(_) => {}
            Err(Violation { close, reason }) => {
                let code = CloseCode::from_number(close).unwrap_or(CloseCode::ProtocolError);
                session.end_flushed(fanout, code, reason, now);
                closing = true;
            }
        }
        state.write(self.id, now.mono);
        match verify {
            Some(verify) => Read::Verify(verify),
            None if closing => Read::Over,
            None => Read::Empty,
        }
    }

    /// Sees the close frame out, and the peer's answer in, within the close timeout; then the
    /// socket is closed, or reset where the frame did not get through. Why the session ended.
    async fn finish(&mut self, worker: &Worker, socket: &Socket) -> &'static str {
        let reason = worker.state.borrow_mut().close_reason(self.id);
        if self.gone || socket.failed.get() {
            return reason.unwrap_or("lost");
        }
        let code = reason.unwrap_or("lost");
        let sent = self.drain_out(worker, socket).await;
        if sent {
            let away = async {
                socket.finish().await;
                read_away(worker, socket).await;
            };
            let close_timeout = worker.terms.load().session.close_timeout;
            let _ = tokio::time::timeout(close_timeout, away).await;
        } else {
            socket.reset();
        }
        code
    }

    /// Whether the close frame was written in time.
    async fn drain_out(&self, worker: &Worker, socket: &Socket) -> bool {
        loop {
            {
                let state = worker.state.borrow();
                if state.fanout.is_ended(self.id) {
                    return true;
                }
                if socket.failed.get() || state.session_expired(self.id) {
                    return false;
                }
            }
            tokio::select! {
                _ = socket.writable() => worker.state.borrow_mut().write(self.id, now().mono),
                // The close timeout has passed, or the socket failed.
                () = socket.nudge.notified() => {}
            }
        }
    }
}

/// Reads away what is still on its way: closing over unread bytes would reset the connection and
/// could take the close frame with it.
async fn read_away(worker: &Worker, socket: &Socket) {
    while socket.readable().await.is_ok() && socket.discard(&mut worker.state.borrow_mut().read_buffer) {}
}

impl State {
    /// Whether the session is being closed.
    pub(super) fn session_ended(&self, id: SessionId) -> bool {
        match self.sockets.live.get(id as usize) {
            Some(Some(live)) => live.session.closed().is_some() || live.expired || self.fanout.is_closing(id),
            _ => true,
        }
    }

    fn session_expired(&self, id: SessionId) -> bool {
        matches!(self.sockets.live.get(id as usize), Some(Some(live)) if live.expired)
    }

    fn close_reason(&mut self, id: SessionId) -> Option<&'static str> {
        let Some(Some(live)) = self.sockets.live.get_mut(id as usize) else { return None };
        // A session that its full outbox ended learns of it here, and its close timeout begins.
        live.session.on_time(&mut self.fanout, now());
        live.session.closed().map(CloseCode::as_str)
    }
}
