//! What a session may do in a second and hold at a time, by itself and with the others of its subject.

use super::admission::Admission;
use super::commands::Limited;
use super::limits::RATE_LIMITED_MAX;
use super::machine::{Now, Session, State};
use crate::fanout::Fanout;
use crate::limits::LOOKS_PER_COMMAND;
use crate::rate::Rate;
use crate::wire::CloseCode;

impl Session {
    /// One command out of the session's rate and its subject's; else which of them has none left.
    pub(super) fn take_command(&mut self, now: u64) -> Result<(), Limited> {
        let rate = Rate::per_second(self.commands_per_second.into());
        self.commands.take(rate, 1, now).map_err(|_| Limited::SessionCommands)?;
        let shared = self.admission().is_none_or(|admission| admission.takes_command(&self.config.principal, now));
        if shared { Ok(()) } else { Err(Limited::PrincipalCommands) }
    }

    /// A ping out of the session's rate of commands; one beyond it is not answered.
    pub(super) fn take_ping(&mut self, fanout: &mut Fanout, now: Now) -> bool {
        let taken = self.commands.take(Rate::per_second(self.commands_per_second.into()), 1, now.mono).is_ok();
        if !taken {
            self.meters.limited(Limited::SessionPings);
            self.count_limited(fanout, now);
        }
        taken
    }

    /// Counts a message beyond the rate; too many end the session.
    pub(super) fn count_limited(&mut self, fanout: &mut Fanout, now: Now) {
        if self.limited.add(now.mono) >= RATE_LIMITED_MAX {
            self.end_flushed(fanout, CloseCode::RateLimited, "too many commands", now);
        }
    }

    /// Counts what a command cost beyond one: over many instruments it is the work of many.
    pub(super) fn charge(&mut self, looks: u64, now: u64) {
        let more = looks / LOOKS_PER_COMMAND;
        if more > 0 {
            self.commands.charge(Rate::per_second(self.commands_per_second.into()), more, now);
            if let Some(admission) = self.admission() {
                admission.charge(&self.config.principal, more, now);
            }
        }
    }

    const fn admission(&self) -> Option<&Admission> {
        match &self.state {
            State::In { admission: Some(admission), .. } => Some(admission),
            _ => None,
        }
    }

    /// Entries that its subject still has room for, up to `wanted`. [`Self::settle`] gives back what
    /// is not used.
    pub(super) fn reserve(&mut self, wanted: usize) -> usize {
        match &mut self.state {
            State::In { admission: Some(admission), .. } => {
                let room = admission.reserve(&self.config.principal, wanted as u64);
                usize::try_from(room).unwrap_or(wanted)
            }
            _ => wanted,
        }
    }

    /// Counts the entries that it holds among its subject's.
    pub(super) fn settle(&mut self, fanout: &Fanout) {
        if let State::In { admission: Some(admission), .. } = &mut self.state {
            admission.settle(fanout.entries(self.id) as u64);
        }
    }

    /// Counts bytes that came; `by_address` = its address may send them. `false` = they are too many,
    /// and the session ends.
    pub fn on_bytes(&mut self, fanout: &mut Fanout, bytes: usize, by_address: bool, now: Now) -> bool {
        let principal = &self.config.principal;
        let by_principal =
            self.admission().is_none_or(|admission| admission.takes_bytes(principal, bytes as u64, now.mono));
        if by_address && by_principal {
            return true;
        }
        self.meters.limited(if by_address { Limited::PrincipalBytes } else { Limited::AddressBytes });
        self.end_flushed(fanout, CloseCode::RateLimited, "too many bytes", now);
        false
    }
}
