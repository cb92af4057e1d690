//! The sockets of one thread: what becomes readable, writable, or ends.

use std::io::ErrorKind;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{READ_BYTES, Worker};
use crate::{
    client::{End, Stage},
    clock,
    measure::{Close, Count, Step},
};

impl Worker {
    pub(super) fn on_event(&mut self, place: usize, flags: EventFlags) {
        let Some(socket) = &self.sockets[place] else { return };
        if self.clients[place].stage == Stage::Connecting {
            match socket.take_error() {
                Ok(None) => {
                    self.clients[place].stage = Stage::Upgrading;
                    self.clients[place].out.extend_from_slice(&self.request);
                    self.watch(place, EventFlags::IN);
                    self.flush(place);
                }
                Ok(Some(error)) | Err(error) => {
                    self.end(place, End::Failed(format!("connect: {}", error.kind())));
                }
            }
            return;
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(place);
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) && self.is_crawling(place) {
            // The hub has given up on it: what the kernel still holds, a close frame perhaps, is read at once.
            while self.sockets[place].is_some() {
                self.read(place, READ_BYTES);
            }
        } else if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(place, READ_BYTES);
        }
    }

    /// One read of at most `limit` bytes, judged.
    pub(super) fn read(&mut self, place: usize, limit: usize) {
        let (client, Some(socket)) = (&mut self.clients[place], self.sockets[place].as_mut()) else { return };
        let held = client.pending.len();
        if self.buffer.len() < held + READ_BYTES {
            self.buffer.resize(held + READ_BYTES, 0);
        }
        self.buffer[..held].copy_from_slice(&client.pending);
        let read = socket.read(&mut self.buffer[held..held + limit]);
        let end = match read {
            Ok(0) => Some(End::Lost("end of stream".to_owned())),
            Ok(bytes) => {
                let now = clock::wall_ns();
                let (counted, slow) = (bytes as u64, client.slow);
                self.tally.add(if slow { Count::SlowBytes } else { Count::Bytes }, counted);
                self.tally.add(Count::Reads, u64::from(!slow));
                client.take(&self.buffer[..held + bytes], now, &self.plan, &mut self.tally).err()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Err(error) => Some(End::Lost(error.kind().to_string())),
        };
        if !self.clients[place].out.is_empty() {
            self.flush(place);
        }
        if let Some(end) = end {
            self.end(place, end);
        } else if self.clients[place].is_live() && self.clients[place].started.take().is_some() {
            self.arrivals.connecting -= 1;
        }
    }

    /// Writes what is to be written; what the socket does not take waits for it.
    pub(super) fn flush(&mut self, place: usize) {
        let (client, Some(socket)) = (&mut self.clients[place], self.sockets[place].as_mut()) else { return };
        // Reading will say what happened, if it failed.
        let mut blocked = !socket.flush().unwrap_or(true);
        while !client.out.is_empty() && !blocked {
            match socket.write(&client.out) {
                Ok(written) => drop(client.out.drain(..written)),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => blocked = true,
                    // Reading will say what happened.
                    _ => client.out.clear(),
                },
            }
        }
        blocked |= !socket.flush().unwrap_or(true);
        if client.out.is_empty() {
            client.out = Vec::new();
        }
        if std::mem::replace(&mut client.blocked, blocked) != blocked {
            let reading = if self.is_crawling(place) { EventFlags::empty() } else { EventFlags::IN };
            self.watch(place, if blocked { reading | EventFlags::OUT } else { reading });
        }
    }

    pub(super) fn watch(&mut self, place: usize, flags: EventFlags) {
        let Some(socket) = &self.sockets[place] else { return };
        if let Err(error) = epoll::modify(&self.epoll, socket, EventData::new_u64(place as u64), flags) {
            self.end(place, End::Lost(error.to_string()));
        }
    }

    pub(super) fn is_crawling(&self, place: usize) -> bool {
        let client = &self.clients[place];
        client.slow && client.is_live() && matches!(self.step, Step::Run(_))
    }

    /// A connection is over, for good or bad.
    pub(super) fn end(&mut self, place: usize, end: End) {
        let client = &mut self.clients[place];
        let stage = std::mem::replace(&mut client.stage, Stage::Gone);
        // Closing the socket takes it off epoll.
        self.sockets[place] = None;
        (client.pending, client.out) = (Vec::new(), Vec::new());
        if client.started.take().is_some() {
            self.arrivals.connecting -= 1;
        }
        match stage {
            Stage::Closing | Stage::Gone | Stage::Waiting => {}
            Stage::Live => {
                let code = if let End::Closed(code) = end { Some(code) } else { None };
                self.tally.add(Count::Closed, 1);
                *self.tally.outcome.closes.entry(Close { slow: client.slow, code }).or_default() += 1;
            }
            Stage::Connecting | Stage::Upgrading | Stage::Welcoming | Stage::Subscribing => {
                self.tally.add(if client.cut { Count::NotBack } else { Count::Failed }, 1);
                let reason = match end {
                    End::Failed(reason) => reason,
                    End::Closed(code) => format!("closed with {code} while subscribing"),
                    End::Lost(reason) => format!("lost while subscribing: {reason}"),
                };
                self.tally.outcome.failures.count(&reason);
            }
        }
    }
}
