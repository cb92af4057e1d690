//! `subscribe` and `unsubscribe`: what a grant leaves of them, and their answers.

use crate::auth::{AuthError, Grant};
use crate::fanout::{Fanout, Match, Options, SymbolFault};
use crate::metrics::{self, Counter, Registry};
use crate::model::{Channel, Overflow};
use crate::wire::ErrorCode;
use crate::wire::answer::{Accepted, Rejected, Subscribed, Unsubscribed};
use crate::wire::command::{Command, CommandId, Mode, Subscribe, Unsubscribe};

use super::machine::{Now, Session};

/// What a session met, and by whom it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limited {
    SessionCommands,
    SessionPings,
    PrincipalCommands,
    PrincipalSubscriptions,
    PrincipalBytes,
    AddressBytes,
}

impl Limited {
    /// By the variants' order: what is limited, and by whom.
    const LABELS: [(&str, &str); 6] = [
        ("commands", "session"),
        ("pings", "session"),
        ("commands", "principal"),
        ("subscriptions", "principal"),
        ("bytes", "principal"),
        ("bytes", "address"),
    ];
}

/// What sessions count.
#[derive(Debug)]
pub struct Meters {
    limited: [Counter; Limited::LABELS.len()],
    commands: [Counter; 4],
    stalls: Counter,
    errors: [Counter; ErrorCode::ALL.len()],
    registry: std::sync::Arc<Registry>,
}

impl Meters {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &std::sync::Arc<Registry>) -> Self {
        let limited = |(limit, by)| registry.counter(metrics::RATE_LIMITED, &[("limit", limit), ("by", by)]);
        Self {
            limited: Limited::LABELS.map(limited),
            commands: ["auth", "subscribe", "unsubscribe", "ping"]
                .map(|op| registry.counter(metrics::COMMANDS, &[("op", op)])),
            stalls: registry.counter(metrics::SLOW_CLOSES, &[("cause", "stall")]),
            errors: ErrorCode::ALL.map(|code| registry.counter(metrics::COMMAND_ERRORS, &[("code", code.as_str())])),
            registry: std::sync::Arc::clone(registry),
        }
    }

    pub(super) fn command(&self, command: &Command) {
        let index = match command {
            Command::Auth { .. } => 0,
            Command::Subscribe(_) => 1,
            Command::Unsubscribe(_) => 2,
            Command::Ping => 3,
        };
        self.commands[index].increment(1);
    }

    pub(super) fn limited(&self, limited: Limited) {
        self.limited[limited as usize].increment(1);
    }

    pub(super) fn stalled(&self) {
        self.stalls.increment(1);
    }

    pub(super) fn error(&self, code: ErrorCode) {
        if let Some(counter) = ErrorCode::ALL.iter().position(|c| *c == code).and_then(|at| self.errors.get(at)) {
            counter.increment(1);
        }
    }

    /// Counts a refused credential.
    pub fn refused(&self, error: AuthError) {
        self.registry.counter(metrics::AUTH_REFUSED, &[("reason", error.as_str())]).increment(1);
    }
}

/// What a grant leaves of the options asked for; `None` where it refuses the channel or mode.
pub(super) fn clamp(grant: &Grant, backlog_max: u32, channel: Channel, asked: Options) -> Option<Options> {
    if !grant.allows_channel(channel) || (asked.mode == Mode::Every && !grant.allows_every(channel)) {
        return None;
    }
    let max_rate = match asked.mode {
        Mode::Latest => grant.effective_rate(asked.max_rate),
        Mode::Every => None,
    };
    let judged = asked.mode == Mode::Every && channel != Channel::Status;
    // The default is not worth a word, unless it was asked for.
    let overflow = judged.then(|| grant.patience().overflow.effective(asked.overflow));
    let overflow = overflow.filter(|policy| asked.overflow.is_some() || *policy != Overflow::Gap);
    let backlog = asked.backlog.map(|backlog| backlog.min(backlog_max));
    Some(Options { max_rate, depth: grant.effective_depth(asked.depth), overflow, backlog, ..asked })
}

impl Session {
    pub(super) fn subscribe(
        &mut self,
        fanout: &mut Fanout,
        grant: &Grant,
        id: Option<&CommandId>,
        subscribe: &Subscribe,
        now: Now,
    ) {
        let channel = subscribe.channel;
        let asked = Options {
            mode: subscribe.mode,
            max_rate: subscribe.max_rate,
            depth: subscribe.depth,
            snapshot: subscribe.snapshot,
            overflow: subscribe.overflow,
            backlog: subscribe.backlog,
        };
        let Some(options) = clamp(grant, self.backlog_max(grant), channel, asked) else {
            let message = if grant.allows_channel(channel) {
                "the grant limits the rate, so this channel may only be had in mode \"latest\""
            } else {
                "the grant does not cover this channel"
            };
            self.error(fanout, id, ErrorCode::NotEntitled, message);
            return;
        };
        let resume = subscribe.resume.as_ref().map_or(&[][..], |resume| &resume.entries);
        let held = fanout.entries(self.id);
        let more = self.reserve(subscribe.symbols.len());
        let own_max = grant.subscriptions().min(self.config.subscriptions_max) as usize;
        let entries_max = own_max.min(held + more);
        let outcome = fanout.subscribe(self.id, channel, (asked, options), &subscribe.symbols, resume, entries_max);
        self.settle(fanout);
        match outcome {
            Ok(outcome) => {
                let full = outcome.rejected.iter().any(|(_, fault)| *fault == SymbolFault::Limit);
                if full && more < subscribe.symbols.len() {
                    self.meters.limited(Limited::PrincipalSubscriptions);
                }
                self.answer_subscribed(
                    fanout,
                    id,
                    channel,
                    options,
                    &subscribe.symbols,
                    outcome.accepted,
                    &outcome.rejected,
                );
                fanout.tell_states(self.id, outcome.feeds);
            }
            Err(already) => {
                self.error(fanout, id, ErrorCode::BadMessage, &format!("\"resume\": {already}"));
                self.count_bad(fanout, now);
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // They are the answer's members.
    fn answer_subscribed(
        &self,
        fanout: &mut Fanout,
        id: Option<&CommandId>,
        channel: Channel,
        options: Options,
        symbols: &[String],
        mut accepted: Vec<Match>,
        rejected: &[(usize, SymbolFault)],
    ) {
        let store = std::sync::Arc::clone(fanout.store());
        accepted.sort_unstable_by_key(|entry| entry.key);
        let epoch_of = |key| store.feed_index(key).and_then(|feed| store.feed(feed)).map(|feed| &*feed.epoch);
        let epoch = if channel == Channel::Status {
            None
        } else {
            let first = accepted.first().and_then(|entry| epoch_of(entry.key));
            first.or_else(|| store.feeds().next().map(|(_, feed)| &*feed.epoch))
        };
        let accepted = accepted.iter().filter_map(|entry| {
            let own = epoch_of(entry.key).filter(|own| epoch.is_some_and(|epoch| epoch != *own));
            Some(Accepted {
                symbol: store.definition(entry.key)?.id.as_str(),
                iid: entry.key,
                seq: entry.seq,
                epoch: own,
                pattern: entry.pattern.map(|index| symbols[index].as_str()),
            })
        });
        let messages: Vec<String> = rejected.iter().map(|(_, fault)| fault.message()).collect();
        let rejected = rejected.iter().zip(&messages).map(|((index, fault), message)| Rejected {
            symbol: &symbols[*index],
            code: fault.code(),
            message,
        });
        let Options { mode, max_rate, depth, overflow, backlog, .. } = options;
        let answer = Subscribed { id, channel, mode, max_rate, depth, overflow, backlog, epoch };
        let mut frames = Vec::new();
        answer.split(accepted, rejected, |frame| frames.push(frame));
        for frame in frames {
            fanout.answer(self.id, frame);
        }
    }

    pub(super) fn unsubscribe(&mut self, fanout: &mut Fanout, id: Option<&CommandId>, command: &Unsubscribe) {
        let (removed, rejected, changed) = fanout.unsubscribe(self.id, command.channel, &command.symbols);
        self.settle(fanout);
        let messages: Vec<String> = rejected.iter().map(|(_, fault)| fault.message()).collect();
        let removed = removed.iter().map(|index| command.symbols[*index].as_str());
        let rejected = rejected.iter().zip(&messages).map(|((index, fault), message)| Rejected {
            symbol: &command.symbols[*index],
            code: fault.code(),
            message,
        });
        let mut frames = Vec::new();
        Unsubscribed { id, channel: command.channel }.split(removed, rejected, |frame| frames.push(frame));
        for frame in frames.into_iter().chain(changed) {
            fanout.answer(self.id, frame);
        }
    }
}
