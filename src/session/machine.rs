//! One subscriber's session: commands in, answers and subscriptions out. Pure: bytes and `now`
//! are arguments, the outbox is the worker's.

use std::sync::Arc;

use secrecy::SecretString;

use super::admission::Admission;
use super::commands::Meters;
use super::limits::{BAD_MESSAGES_MAX, Faults, SessionConfig};
use crate::auth::{AuthError, Grant, Principal};
use crate::fanout::{Bounds, Fanout, SessionId};
use crate::model::UnixNanos;
use crate::rate::Bucket;
use crate::time::duration_ns;
use crate::wire::answer::{self, Welcome, WelcomeLimits};
use crate::wire::command::{self, Command, CommandId, CommandLimits, Request};
use crate::wire::{CloseCode, ErrorCode, Format, Frame, ping_frame, pong_frame};

/// Both clocks, as the edge read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, ns.
    pub mono: u64,
    /// Wall.
    pub wall: UnixNanos,
}

/// A credential that the control side is to judge. Until it has, no further command is taken.
#[derive(Debug)]
pub struct Verify {
    /// What the client sent.
    pub token: SecretString,
    /// Whether it is the session's first: then a place among the subject's sessions is taken.
    pub first: bool,
}

/// What became of it.
#[derive(Debug)]
pub enum Verdict {
    /// It is good; with a place for the session where it is the first.
    Good(Arc<Principal>, Option<Admission>),
    /// It is good, but the subject has as many sessions as it may.
    Full,
    /// It is bad.
    Bad(AuthError),
}

/// What a verdict made of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it had ended already.
    Moot,
    /// It is in.
    Entered,
    /// It ends, for a reason in one word.
    Refused(&'static str),
    /// It goes on with another principal, which took so many streams away.
    Renewed {
        /// Instruments, counted once for each channel.
        withdrawn: usize,
    },
    /// It goes on as it was, for a reason in one word.
    NotRenewed(&'static str),
}

/// Where a session is on its way in.
#[derive(Debug)]
pub(super) enum State {
    /// No credential yet.
    Waiting,
    /// One is being judged.
    Checking { id: Option<CommandId> },
    /// In. `checking` while a renewal is being judged.
    In { principal: Arc<Principal>, admission: Option<Admission>, checking: Option<Option<CommandId>> },
}

/// One subscriber's session.
#[derive(Debug)]
pub struct Session {
    name: Box<str>,
    pub(super) id: SessionId,
    pub(super) config: Arc<SessionConfig>,
    pub(super) meters: Arc<Meters>,
    pub(super) state: State,
    /// Subscriptions of the URL, kept until a credential is good.
    url: Vec<command::Subscribe>,
    pub(super) commands: Bucket,
    pub(super) commands_per_second: u32,
    bad: Faults,
    pub(super) limited: Faults,
    /// How long its socket may take nothing, in ns.
    write_stall: u64,
    seen: u64,
    ping_due: u64,
    auth_due: u64,
    expiry_due: u64,
    close_due: u64,
    closed: Option<CloseCode>,
}

impl Session {
    /// Opens a session called `name` on a worker, for events in `format`. With a good handshake credential it is in at
    /// once and is welcomed; else it has the authentication timeout.
    pub fn open(
        fanout: &mut Fanout,
        (name, format): (&str, Format),
        config: Arc<SessionConfig>,
        meters: Arc<Meters>,
        credential: Option<(Arc<Principal>, Admission)>,
        url: Vec<command::Subscribe>,
        now: Now,
    ) -> Self {
        let id = fanout.open(Arc::from([]), format);
        let mut session = Self {
            name: name.into(),
            id,
            commands: Bucket::default(),
            commands_per_second: config.commands_per_second,
            meters,
            state: State::Waiting,
            url,
            bad: Faults::default(),
            limited: Faults::default(),
            write_stall: duration_ns(config.write_stall_timeout),
            seen: now.mono,
            ping_due: now.mono + duration_ns(config.ping_interval),
            auth_due: now.mono + duration_ns(config.authentication_timeout),
            expiry_due: u64::MAX,
            close_due: u64::MAX,
            closed: None,
            config,
        };
        if let Some((principal, admission)) = credential {
            session.enter(fanout, principal, Some(admission), None, now);
        }
        session
    }

    /// Goes on with a session on another worker, which its credential belongs to: there was none
    /// before, and nothing of the session's is left on the first.
    #[must_use]
    pub fn go_on(mut self, fanout: &mut Fanout, format: Format, verdict: Verdict, now: Now) -> Self {
        self.id = fanout.open(Arc::from([]), format);
        self.on_verdict(fanout, verdict, now);
        self
    }

    /// Its index on the worker.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Its name on the wire and in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who it belongs to, once that is known.
    #[must_use]
    pub const fn principal(&self) -> Option<&Arc<Principal>> {
        match &self.state {
            State::In { principal, .. } => Some(principal),
            _ => None,
        }
    }

    /// The code that it was ended with, if it was.
    #[must_use]
    pub const fn closed(&self) -> Option<CloseCode> {
        self.closed
    }

    /// Takes one message of the client's. `Some` = a credential to be judged; no further message
    /// may be given before [`Self::on_verdict`].
    pub fn on_text(&mut self, fanout: &mut Fanout, text: &str, now: Now) -> Option<Verify> {
        self.seen = now.mono;
        if self.closed.is_some() {
            return None;
        }
        if let Err(by) = self.take_command(now.mono) {
            self.meters.limited(by);
            self.meters.error(ErrorCode::RateLimited);
            // A message is answered without being read: its id is not known.
            let message = "more commands than this session may send; slow down";
            fanout.answer(self.id, answer::error(None, ErrorCode::RateLimited, message));
            self.count_limited(fanout, now);
            return None;
        }
        match command::parse(text.as_bytes(), &CommandLimits::default()) {
            Ok(request) => self.on_request(fanout, request, now),
            Err(refusal) => {
                let counted = matches!(refusal.code, ErrorCode::BadMessage | ErrorCode::UnknownOp);
                self.meters.error(refusal.code);
                let waiting = !matches!(self.state, State::In { .. });
                if waiting && !counted {
                    let text = "authenticate first";
                    fanout.answer(self.id, answer::error(refusal.id.as_ref(), ErrorCode::Unauthenticated, text));
                } else {
                    fanout.answer(self.id, answer::refused(&refusal));
                }
                if counted {
                    self.count_bad(fanout, now);
                }
                None
            }
        }
    }

    pub(super) fn count_bad(&mut self, fanout: &mut Fanout, now: Now) {
        if self.bad.add(now.mono) >= BAD_MESSAGES_MAX {
            self.end_flushed(fanout, CloseCode::BadMessage, "too many faulty commands", now);
        }
    }

    fn on_request(&mut self, fanout: &mut Fanout, request: Request, now: Now) -> Option<Verify> {
        let Request { id, command } = request;
        self.meters.command(&command);
        if let Command::Auth { token } = command {
            return self.on_auth(id, token);
        }
        let State::In { principal, .. } = &self.state else {
            self.error(fanout, id.as_ref(), ErrorCode::Unauthenticated, "authenticate first");
            return None;
        };
        let principal = Arc::clone(principal);
        match command {
            Command::Ping => fanout.answer(self.id, answer::pong(id.as_ref(), now.wall)),
            Command::Subscribe(subscribe) => self.subscribe(fanout, &principal.grant, id.as_ref(), &subscribe, now),
            Command::Unsubscribe(unsubscribe) => self.unsubscribe(fanout, id.as_ref(), &unsubscribe),
            Command::Auth { .. } => {}
        }
        self.charge(fanout.take_looks(), now.mono);
        None
    }

    pub(super) fn error(&self, fanout: &mut Fanout, id: Option<&CommandId>, code: ErrorCode, message: &str) {
        self.meters.error(code);
        fanout.answer(self.id, answer::error(id, code, message));
    }

    fn on_auth(&mut self, id: Option<CommandId>, token: SecretString) -> Option<Verify> {
        let first = match &mut self.state {
            State::Waiting => {
                self.state = State::Checking { id };
                true
            }
            State::In { checking, .. } => {
                *checking = Some(id);
                false
            }
            State::Checking { .. } => return None,
        };
        Some(Verify { token, first })
    }

    /// The judgement of the credential that [`Self::on_text`] gave out; what it made of the session.
    pub fn on_verdict(&mut self, fanout: &mut Fanout, verdict: Verdict, now: Now) -> Outcome {
        if self.closed.is_some() {
            return Outcome::Moot;
        }
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Waiting => Outcome::Moot,
            State::Checking { id } => match verdict {
                Verdict::Good(principal, admission) => self.enter(fanout, principal, admission, Some(id.as_ref()), now),
                Verdict::Full => {
                    self.end(fanout, CloseCode::ConnectionLimit, "the subject has as many sessions as it may", now);
                    Outcome::Refused(CloseCode::ConnectionLimit.as_str())
                }
                Verdict::Bad(error) => {
                    self.meters.refused(error);
                    self.error(fanout, id.as_ref(), ErrorCode::InvalidToken, &error.to_string());
                    self.end_flushed(fanout, CloseCode::Unauthenticated, &error.to_string(), now);
                    Outcome::Refused(error.as_str())
                }
            },
            State::In { principal, admission, checking } => {
                let id = checking.flatten();
                let (principal, outcome) = match self.renew(fanout, &principal, verdict, id.as_ref(), now) {
                    Ok((renewed, withdrawn)) => (renewed, Outcome::Renewed { withdrawn }),
                    Err(reason) => (principal, Outcome::NotRenewed(reason)),
                };
                self.state = State::In { principal, admission, checking: None };
                self.settle(fanout);
                self.charge(fanout.take_looks(), now.mono);
                outcome
            }
        }
    }

    /// The first good credential. `answer` = the `auth` command to be answered.
    fn enter(
        &mut self,
        fanout: &mut Fanout,
        principal: Arc<Principal>,
        admission: Option<Admission>,
        answered: Option<Option<&CommandId>>,
        now: Now,
    ) -> Outcome {
        let grant = &principal.grant;
        if grant.symbols().is_empty() || grant.channels().iter().next().is_none() {
            self.end(fanout, CloseCode::Forbidden, "the credential grants nothing", now);
            return Outcome::Refused(CloseCode::Forbidden.as_str());
        }
        fanout.regrant(self.id, grant.symbols_shared(), &|_, options| Some(options));
        self.set_expiry(principal.expires, now);
        self.set_patience(fanout, grant);
        let commands_per_second = grant.commands_per_second().min(self.config.commands_per_second);
        self.commands_per_second = commands_per_second;
        if let Some(id) = answered {
            fanout.answer(self.id, answer::ok(id, principal.expires));
        }
        let welcome = Welcome {
            session: &self.name,
            token_expires: principal.expires,
            limits: WelcomeLimits {
                message_bytes: self.config.message_bytes_max,
                commands_per_second,
                subscriptions: grant.subscriptions().min(self.config.subscriptions_max) as usize,
                max_rate: grant.max_rate(),
                depth: grant.depth(),
                backlog: self.backlog_max(grant),
                delay_ms: u64::try_from(grant.delay().as_millis()).unwrap_or(u64::MAX),
            },
        };
        fanout.answer(self.id, welcome.frame());
        let grant = Arc::clone(&principal.grant);
        self.state = State::In { principal, admission, checking: None };
        for subscribe in std::mem::take(&mut self.url) {
            self.subscribe(fanout, &grant, None, &subscribe, now);
        }
        self.charge(fanout.take_looks(), now.mono);
        Outcome::Entered
    }

    /// A renewal of a live session; its new principal where it is good, and how many streams it took
    /// away, else why not.
    fn renew(
        &mut self,
        fanout: &mut Fanout,
        held: &Arc<Principal>,
        verdict: Verdict,
        id: Option<&CommandId>,
        now: Now,
    ) -> Result<(Arc<Principal>, usize), &'static str> {
        match verdict {
            // Another delay is another world, whose numbers are behind or ahead of what was told.
            Verdict::Good(principal, _)
                if principal.account() == held.account() && principal.grant.delay() == held.grant.delay() =>
            {
                let answer = answer::ok(id, principal.expires);
                let withdrawn = self.succeed(fanout, &held.grant, &principal, Some(answer), now);
                Ok((principal, withdrawn))
            }
            Verdict::Good(principal, _) => {
                let (message, reason) = if principal.account() == held.account() {
                    ("the token has another delay; connect anew with it", "another_delay")
                } else {
                    ("the token is another subject's", "another_subject")
                };
                self.error(fanout, id, ErrorCode::InvalidToken, message);
                Err(reason)
            }
            Verdict::Full => Err(CloseCode::ConnectionLimit.as_str()),
            Verdict::Bad(error) => {
                self.meters.refused(error);
                self.error(fanout, id, ErrorCode::InvalidToken, &error.to_string());
                Err(error.as_str())
            }
        }
    }

    /// Puts another principal in the place of the one that is held, as a renewal does, without an
    /// answer: its role has changed. What a smaller grant takes away is told; how many streams.
    pub fn regrant(&mut self, fanout: &mut Fanout, next: Arc<Principal>, now: Now) -> usize {
        if self.closed.is_some() {
            return 0;
        }
        let State::In { principal, .. } = &mut self.state else { return 0 };
        let held = std::mem::replace(principal, Arc::clone(&next));
        let withdrawn = self.succeed(fanout, &held.grant, &next, None, now);
        self.settle(fanout);
        // It did not ask for this.
        fanout.take_looks();
        withdrawn
    }

    /// What another principal brings with it; how many streams it takes away.
    fn succeed(
        &mut self,
        fanout: &mut Fanout,
        held: &Grant,
        next: &Principal,
        answer: Option<Frame>,
        now: Now,
    ) -> usize {
        self.set_expiry(next.expires, now);
        self.commands_per_second = next.grant.commands_per_second().min(self.config.commands_per_second);
        // Under the old grant, whose it is: behind the answer nothing of it may come.
        fanout.learn_new_feeds();
        if let Some(answer) = answer {
            fanout.answer(self.id, answer);
        }
        if *next.grant == *held {
            return 0;
        }
        self.set_patience(fanout, &next.grant);
        let (grant, backlog_max) = (Arc::clone(&next.grant), self.backlog_max(&next.grant));
        let clamp = move |channel, options| super::commands::clamp(&grant, backlog_max, channel, options);
        fanout.regrant(self.id, next.grant.symbols_shared(), &clamp)
    }

    /// How slow the session may be from now on: what the grant allows, within the hub's own bounds.
    fn set_patience(&mut self, fanout: &mut Fanout, grant: &Grant) {
        let (patience, config) = (grant.patience(), &self.config);
        self.write_stall = duration_ns(patience.write_stall.min(config.write_stall_timeout));
        let bounds = Bounds {
            events_max: patience.backlog_events.min(config.outbox_events_max),
            bytes_max: patience.backlog_bytes.min(config.outbox_bytes_max),
            catch_up_ns: duration_ns(patience.catch_up.min(config.catch_up_timeout)),
        };
        fanout.set_bounds(self.id, bounds);
    }

    /// Events that may wait for the session at most.
    pub(super) fn backlog_max(&self, grant: &Grant) -> u32 {
        let most = grant.patience().backlog_events.min(self.config.outbox_events_max);
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    /// How long its socket may take nothing while something waits, in ns.
    #[must_use]
    pub const fn write_stall_ns(&self) -> u64 {
        self.write_stall
    }

    fn set_expiry(&mut self, expires: Option<UnixNanos>, now: Now) {
        self.expiry_due = expires.map_or(u64::MAX, |at| {
            let left = at.0.saturating_sub(now.wall.0);
            now.mono.saturating_add(u64::try_from(left).unwrap_or(0))
        });
    }

    /// A ping of the client's: answered before anything that waits.
    pub fn on_ping(&mut self, fanout: &mut Fanout, payload: &[u8], now: Now) {
        self.seen = now.mono;
        if self.closed.is_some() || !self.take_ping(fanout, now) {
            return;
        }
        // Only the newest needs an answer (RFC 6455, 5.5.3): a flood does not pile up.
        if fanout.takes_commands(self.id) {
            fanout.control(self.id, pong_frame(payload));
        }
    }

    /// Any other sign of life.
    pub const fn on_sign_of_life(&mut self, now: Now) {
        self.seen = now.mono;
    }

    /// Ends the session: what waits is dropped, the close frame is tried for the close timeout.
    pub fn end(&mut self, fanout: &mut Fanout, code: CloseCode, reason: &str, now: Now) {
        self.close_with(fanout, code, reason, false, now);
    }

    /// Ends the session behind what is queued already.
    pub fn end_flushed(&mut self, fanout: &mut Fanout, code: CloseCode, reason: &str, now: Now) {
        self.close_with(fanout, code, reason, true, now);
    }

    fn close_with(&mut self, fanout: &mut Fanout, code: CloseCode, reason: &str, flush: bool, now: Now) {
        if self.closed.is_none() {
            fanout.end(self.id, code, reason, flush);
            self.closed = Some(code);
            self.close_due = now.mono.saturating_add(duration_ns(self.config.close_timeout));
        }
    }

    /// Does what is due at `now`: pings, and the ends that no answer waits for. `false` = the
    /// close timeout has passed: the socket is to be reset.
    pub fn on_time(&mut self, fanout: &mut Fanout, now: Now) -> bool {
        if now.mono >= self.close_due {
            return false;
        }
        if self.closed.is_some() {
            return true;
        }
        if let Some(code) = fanout.close_code(self.id) {
            self.closed = Some(code);
            self.close_due = now.mono.saturating_add(duration_ns(self.config.close_timeout));
            return true;
        }
        let stall = self.write_stall;
        if fanout.blocked_since(self.id).is_some_and(|since| now.mono.saturating_sub(since) >= stall) {
            self.meters.stalled();
            self.end(fanout, CloseCode::SlowConsumer, "nothing was read in time", now);
        } else if now.mono.saturating_sub(self.seen) >= duration_ns(self.config.idle_timeout) {
            self.end(fanout, CloseCode::HeartbeatTimeout, "no sign of life", now);
        } else if now.mono >= self.expiry_due {
            self.end_flushed(fanout, CloseCode::TokenExpired, "the token has expired", now);
        } else if !matches!(self.state, State::In { .. }) && now.mono >= self.auth_due {
            self.end_flushed(fanout, CloseCode::AuthTimeout, "no credential came in time", now);
        } else if now.mono >= self.ping_due {
            self.ping_due = now.mono + duration_ns(self.config.ping_interval);
            // One that still waits says as much as another behind it.
            if !fanout.is_blocked(self.id) {
                fanout.control(self.id, ping_frame(b""));
            }
        }
        true
    }

    /// When [`Self::on_time`] is next needed at the latest; monotonic ns. A socket that blocks
    /// makes it earlier.
    #[must_use]
    pub fn due(&self, fanout: &Fanout) -> u64 {
        if self.closed.is_some() {
            return self.close_due;
        }
        let idle = self.seen + duration_ns(self.config.idle_timeout);
        let stall = fanout.blocked_since(self.id).map_or(u64::MAX, |since| since.saturating_add(self.write_stall));
        let auth = if matches!(self.state, State::In { .. }) { u64::MAX } else { self.auth_due };
        idle.min(stall).min(auth).min(self.expiry_due).min(self.ping_due)
    }
}
