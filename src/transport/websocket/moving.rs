//! A session that showed its credential in band, and belongs to the workers of another world: it
//! goes there before it is told anything of the market.

use std::rc::Rc;

use super::serve::Peer;
use crate::session::Verdict;
use crate::transport::handover::{Entry, Handover, Moved, Place};
use crate::transport::socket::Socket;
use crate::transport::worker::{From, Worker, now};
use crate::wire::CloseCode;

/// Whether a first credential belongs to another world than `worker`'s.
pub(super) fn belongs_elsewhere(worker: &Worker, first: bool, verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Good(principal, _) if first && principal.grant.delay() != worker.delay)
}

/// Hands a session to a worker of the world that `verdict` belongs to, once what it was answered so
/// far is written. Gives the socket back where it ends here, as a session does.
pub(super) async fn hand_on(
    worker: &Rc<Worker>,
    socket: Rc<Socket>,
    peer: &mut Peer,
    (verdict, judged): (Verdict, u64),
) -> Option<Rc<Socket>> {
    let Verdict::Good(principal, _) = &verdict else { return Some(socket) };
    let delay = principal.grant.delay();
    if !answered(worker, &socket, peer).await {
        return Some(socket);
    }
    let target = worker.worlds.least(delay);
    let Some((target, at_target)) = target.and_then(|to| Some((to, Place::take(&to.sessions, usize::MAX)?))) else {
        let state = &mut *worker.state.borrow_mut();
        state.end(peer.id, CloseCode::Forbidden, "the hub has no world of the token's delay", now());
        state.write(peer.id, now().mono);
        return Some(socket);
    };
    let (session, format, From { origin, remote, presence }, (place, _)) = worker.give_up(peer.id)?;
    // The worker has forgotten it: nothing else holds it.
    // The reader holds nothing: a credential is a whole message, and nothing behind it was read.
    let early = std::mem::take(&mut peer.held).into();
    let connection = Rc::into_inner(socket).and_then(|socket| socket.leave(early).ok())?;
    let handover = Handover {
        connection,
        name: session.name().to_owned(),
        origin,
        remote,
        presence,
        format,
        entry: Entry::Moved(Box::new(Moved { session, verdict })),
        judged,
        url: Vec::new(),
        places: (place, at_target),
    };
    // A worker that is gone drops the socket: the hub is stopping.
    let _ = target.handovers.send(handover).await;
    None
}

/// Waits until nothing is left to be written; `false` where the session ends before.
async fn answered(worker: &Worker, socket: &Socket, peer: &Peer) -> bool {
    loop {
        {
            let state = worker.state.borrow();
            if socket.failed.get() || state.session_ended(peer.id) {
                return false;
            }
            if state.fanout.is_idle(peer.id) && socket.pending() == 0 {
                return true;
            }
        }
        tokio::select! {
            _ = socket.writable() => worker.state.borrow_mut().write(peer.id, now().mono),
            () = socket.nudge.notified() => {}
        }
    }
}
