//! What the clients do: commands, sockets, comings and goings.

use std::rc::Rc;

use tickhub::auth::AuthError;
use tickhub::session::Verdict;
use tickhub::wire::Format;

use crate::action::{INSTRUMENTS, ResumeFrom, Subscribe, Take, VENUES};
use crate::client::{BOOK_CHANNEL, Client, Context, ResumePoint, Sent, What, channel_index, venue_of};
use crate::grants::{GRANTS, principal};
use crate::ladder::Rungs;
use crate::stream::Check;
use crate::truth::{BOOK, DEPTHS};
use crate::world::{Slot, World};

impl World {
    pub(crate) fn connect(&mut self, index: usize, worker: usize, grant: usize) -> Check {
        if self.slots[index].is_some() {
            return Ok(());
        }
        // Both forms are always there together, on one worker and on two.
        let form = Format::ALL[index % Format::COUNT];
        let session = self.hub.open(worker, &format!("session-{index}"), form);
        let rungs = Rungs::new(self.sizes.outbox, self.sizes.budget.is_some(), self.hub.now);
        let client = Client::new(worker, grant, form, rungs);
        self.slots[index] = Some(Slot { session, client, stalled: false });
        self.authenticate(
            index,
            What::Auth { grant },
            Verdict::Good(principal(grant, &format!("client-{index}")), None),
        )
    }

    pub(crate) fn renew(&mut self, index: usize, with: Result<usize, bool>) -> Check {
        let subject = format!("client-{index}");
        let (what, verdict) = match with {
            Ok(grant) => (What::Auth { grant }, Verdict::Good(principal(grant, &subject), None)),
            Err(true) => (What::BadAuth, Verdict::Good(principal(0, "somebody else"), None)),
            Err(false) => (What::BadAuth, Verdict::Bad(AuthError::Malformed)),
        };
        self.authenticate(index, what, verdict)
    }

    pub(crate) fn authenticate(&mut self, index: usize, what: What, verdict: Verdict) -> Check {
        let text = format!("{{\"op\":\"auth\",\"id\":{},\"token\":\"t\"}}", self.next_id);
        if !self.command(index, what, &text) {
            return Ok(());
        }
        let now = self.hub.clocks();
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        if let Verdict::Good(principal, _) = &verdict {
            let grant: usize = principal.role.parse().map_err(|_| "a role of the model's")?;
            slot.client.rungs.granted(&GRANTS[grant]);
        }
        let worker = &mut self.hub.workers[slot.client.worker];
        slot.session.on_verdict(&mut worker.fanout, verdict, now);
        worker.write(slot.session.id(), now.mono);
        Ok(())
    }

    /// Gives a command to a client's session, if that takes one now; whether it asks for a verdict.
    pub(crate) fn command(&mut self, index: usize, what: What, text: &str) -> bool {
        let (last, known, now) = (self.market.last(), self.market.keys.len(), self.hub.clocks());
        let Some(slot) = self.slots[index].as_mut() else { return false };
        let worker = &mut self.hub.workers[slot.client.worker];
        let id = slot.session.id();
        if slot.session.closed().is_some() || !worker.fanout.takes_commands(id) {
            return false;
        }
        let changes = std::array::from_fn(|feed| {
            let last = self.market.changes[feed].len().checked_sub(1)?;
            Some((worker.changes[feed].min(last), last))
        });
        let context = Context { known: (worker.known, known), last: (Rc::clone(&worker.seen), last), changes };
        slot.client.sent.push_back(Sent { id: self.next_id, what, context });
        self.next_id += 1;
        let verify = slot.session.on_text(&mut worker.fanout, text, now);
        worker.write(id, now.mono);
        verify.is_some()
    }

    pub(crate) fn subscribe(&mut self, index: usize, command: &Subscribe) {
        let Some(slot) = &mut self.slots[index] else { return };
        let grant = &GRANTS[slot.client.grant];
        slot.client.rungs.asked(command);
        let mut text = format!("{{\"op\":\"subscribe\",\"id\":{},\"channel\":\"{}\"", self.next_id, command.channel);
        let symbols = command.symbols.iter().map(|symbol| format!("\"{symbol}\"")).collect::<Vec<_>>().join(",");
        text += &format!(",\"symbols\":[{symbols}]");
        if let Some(mode) = command.mode {
            text += &format!(",\"mode\":\"{mode}\"");
        }
        if let Some(rate) = command.max_rate {
            text += &format!(",\"max_rate\":{rate}");
        }
        if let Some(depth) = command.depth {
            text += &format!(",\"depth\":{depth}");
        }
        if let Some(snapshot) = command.snapshot {
            text += &format!(",\"snapshot\":{snapshot}");
        }
        if let Some(overflow) = command.overflow {
            text += &format!(",\"overflow\":\"{overflow}\"");
        }
        if let Some(backlog) = command.backlog {
            text += &format!(",\"backlog\":{backlog}");
        }
        let depth = DEPTHS.iter().position(|depth| *depth == command.depth.unwrap_or(10)).unwrap_or(1).min(grant.depth);
        let resume = command.resume.as_ref().map(|from| self.resume(index, command, depth, from));
        if let Some(points) = &resume {
            let point = |p: &ResumePoint| {
                let (id, seq) = (INSTRUMENTS[p.instrument].0, p.seq);
                match (p.right_epoch, venue_of(id)) {
                    (true, 0) => format!("\"{id}\":{seq}"),
                    (true, venue) => format!("\"{id}\":{{\"epoch\":\"{}\",\"seq\":{seq}}}", VENUES[venue].1),
                    (false, _) => format!("\"{id}\":{{\"epoch\":\"another\",\"seq\":{seq}}}"),
                }
            };
            let list = points.iter().map(point).collect::<Vec<_>>().join(",");
            text += &format!(",\"resume\":{{\"epoch\":\"{}\",\"seq\":{{{list}}}}}", VENUES[0].1);
        }
        text.push('}');
        self.command(index, What::Subscribe(command.clone(), resume.unwrap_or_default()), &text);
    }

    pub(crate) fn resume(
        &self,
        index: usize,
        command: &Subscribe,
        depth: usize,
        from: &ResumeFrom,
    ) -> Vec<ResumePoint> {
        let Ok(channel) = channel_index(command.channel) else { return Vec::new() };
        let kind = if channel == BOOK_CHANNEL { BOOK + depth } else { channel };
        if let ResumeFrom::Behind { instrument, by } = from {
            let Some(truth) = self.market.instruments[*instrument].streams.get(kind) else { return Vec::new() };
            let seq = truth.last().saturating_add_signed(-by);
            let window = truth.number(seq).and_then(|number| number.window.clone());
            return vec![ResumePoint { instrument: *instrument, seq, right_epoch: true, window }];
        }
        let right_epoch = *from == ResumeFrom::Have;
        let of_channel = self.had[index].iter().filter(|((of, _), (k, ..))| *of == channel && *k == kind);
        of_channel
            .map(|((_, instrument), (_, seq, window))| ResumePoint {
                instrument: *instrument,
                seq: *seq,
                right_epoch,
                window: window.clone(),
            })
            .collect()
    }

    pub(crate) fn disconnect(&mut self, index: usize) {
        if let Some(slot) = self.slots[index].take() {
            self.remember(index, &slot.client);
            self.hub.close(slot.client.worker, slot.session.id());
        }
    }

    pub(crate) fn remember(&mut self, index: usize, client: &Client) {
        let streams = client.streams.iter();
        let had = streams.filter_map(|(at, stream)| {
            let (seq, window) = stream.resume_from()?;
            Some((*at, (stream.kind, seq, window)))
        });
        self.had[index] = had.collect();
    }

    pub(crate) fn set_socket(&mut self, index: usize, take: Take) {
        let now = self.hub.now;
        let Some(slot) = &self.slots[index] else { return };
        let (worker, id) = (&mut self.hub.workers[slot.client.worker], slot.session.id());
        let Some(socket) = &mut worker.sockets.0[id as usize] else { return };
        socket.room = match take {
            Take::Stall => Some(0),
            Take::Bytes(bytes) => Some(socket.room.unwrap_or(0) + bytes),
            Take::Open => None,
        };
        if take != Take::Stall && worker.fanout.is_blocked(id) {
            worker.write(id, now);
        }
    }
}
