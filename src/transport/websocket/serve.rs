//! One WebSocket session's task: reads its socket, and writes it again where it was full.

use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::frame::{FrameReader, Incoming, Violation};
use crate::auth::Principal;
use crate::fanout::SessionId;
use crate::session::{Admission, Verdict, Verify};
use crate::transport::handover::{Entry, Handover, Place, Places};
use crate::transport::worker::{Socket, State, Worker, now};
use crate::transport::{Pending, Presence, Remote};
use crate::wire::command::Subscribe;
use crate::wire::{CloseCode, Format};

/// Bytes that the kernel may hold unsent for one socket. What waits longer waits in the outbox,
/// where it can still be conflated.
const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;

/// What a session is opened with.
pub(in crate::transport) struct Opening {
    pub(in crate::transport) name: String,
    pub(in crate::transport) remote: Remote,
    pub(in crate::transport) presence: Arc<Presence>,
    pub(in crate::transport) format: Format,
    pub(in crate::transport) credential: Option<(Arc<Principal>, Admission)>,
    pub(in crate::transport) refused: Option<(CloseCode, String)>,
    /// Given back once a credential is good.
    pub(in crate::transport) stranger: Option<(Place, Pending)>,
    pub(in crate::transport) url: Vec<Subscribe>,
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
    let Handover { stream, early, name, remote, presence, format, entry, url, places } = handover;
    let stream = TcpStream::from_std(stream).ok()?;
    prepare(&stream);
    let socket = Rc::new(Socket { stream, nudge: tokio::sync::Notify::new(), failed: std::cell::Cell::new(false) });
    let (credential, refused, stranger) = match entry {
        Entry::Good(principal, admission) => (Some((principal, admission)), None, None),
        Entry::Open(place, pending) => (None, None, Some((place, pending))),
        Entry::Refused(code, reason) => (None, Some((code, reason)), None),
    };
    let opening = Opening { name, remote, presence, format, credential, refused, stranger, url, places };
    let id = worker.open(Rc::clone(&socket), opening);
    let peer = Peer {
        reader: FrameReader::new(worker.config.message_bytes_max),
        // A copy: what came early is a part of the handshake's whole buffer.
        held: early.to_vec(),
        id,
        gone: false,
    };
    Some(serve(Rc::clone(worker), socket, peer))
}

async fn serve(worker: Rc<Worker>, socket: Rc<Socket>, mut peer: Peer) {
    peer.live(&worker, &socket).await;
    let reason = peer.finish(&worker, &socket).await;
    worker.close(peer.id, reason);
}

/// Socket options. A socket that refuses one works without it.
fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES);
}

/// The client's side of a session.
struct Peer {
    reader: FrameReader,
    /// Bytes that were read and may not be looked at yet.
    held: Vec<u8>,
    id: SessionId,
    gone: bool,
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
                (state.fanout.takes_commands(self.id), state.fanout.is_blocked(self.id))
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
                ready = socket.stream.readable(), if takes => {
                    if ready.is_err() {
                        self.gone = true;
                        return;
                    }
                    let read = self.read(worker, socket);
                    if !self.proceed(worker, read).await {
                        return;
                    }
                }
                _ = socket.stream.writable(), if blocked => {
                    worker.state.borrow_mut().write(self.id, now().mono);
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
                // A judge that is gone judges nothing good.
                let verdict = worker.verifier.verify(verify).await;
                let verdict = verdict.unwrap_or(Verdict::Bad(crate::auth::AuthError::Malformed));
                let state = &mut *worker.state.borrow_mut();
                let now = now();
                if let Some(Some(live)) = state.sockets.live.get_mut(self.id as usize) {
                    live.session.on_verdict(&mut state.fanout, verdict, now);
                    if live.session.principal().is_some() {
                        live.stranger = None;
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
        let read = match socket.stream.try_read(&mut buffer) {
            Ok(0) => {
                self.gone = true;
                Read::Over
            }
            Ok(bytes) if !state.takes_bytes(self.id, bytes) => {
                state.write(self.id, now().mono);
                Read::Over
            }
            Ok(bytes) => self.process(state, &mut buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Empty,
            Err(_) => {
                self.gone = true;
                Read::Over
            }
        };
        state.read_buffer = buffer;
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
            let _ = socket2::SockRef::from(&socket.stream).shutdown(std::net::Shutdown::Write);
            // Read away what is still on its way: closing over unread bytes would reset the
            // connection and could take the close frame with it.
            let _ = tokio::time::timeout(worker.config.close_timeout, read_away(worker, socket)).await;
        } else {
            let _ = socket2::SockRef::from(&socket.stream).set_linger(Some(Duration::ZERO));
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
                _ = socket.stream.writable() => worker.state.borrow_mut().write(self.id, now().mono),
                // The close timeout has passed, or the socket failed.
                () = socket.nudge.notified() => {}
            }
        }
    }
}

async fn read_away(worker: &Worker, socket: &Socket) {
    while socket.stream.readable().await.is_ok() {
        let state = &mut *worker.state.borrow_mut();
        match socket.stream.try_read(&mut state.read_buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

impl State {
    /// Whether the session is being closed.
    fn session_ended(&self, id: SessionId) -> bool {
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
