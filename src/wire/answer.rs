//! What the hub says back: the answers to commands, and what it announces of its own accord.
//! Always JSON text, once for each command, so it is built plainly.

use super::command::{CommandId, Mode, Refusal};
use super::frame::{Frame, Scratch};
use super::json::{push_integer, push_member, push_string, push_time};
use crate::model::{Channel, Depth, InstrumentKey, Overflow, UnixNanos};

use super::ErrorCode;

/// Entries in one answer; longer ones are split. Some 100 bytes each: below a 64 KiB message.
pub const ANSWER_ENTRIES_MAX: usize = 250;
/// The hub's name and version, as `welcome` says them.
pub const SERVER: &str = concat!("tickhub/", env!("CARGO_PKG_VERSION"));

/// Longest symbol that is shown back, in bytes: longer than any that is valid.
const SYMBOL_SHOWN_BYTES_MAX: usize = 64;

/// `auth` succeeded. Without an expiry the member is left out.
#[must_use]
pub fn ok(id: Option<&CommandId>, token_expires: Option<UnixNanos>) -> Frame {
    message("ok", id, |out| push_expiry(out, token_expires))
}

/// A command was refused as a whole.
#[must_use]
pub fn error(id: Option<&CommandId>, code: ErrorCode, text: &str) -> Frame {
    message("error", id, |out| {
        push_member(out, b",\"code\":", code.as_str());
        push_member(out, b",\"message\":", text);
    })
}

/// A text that was not a command.
#[must_use]
pub fn refused(refusal: &Refusal) -> Frame {
    error(refusal.id.as_ref(), refusal.code, &refusal.message)
}

/// The answer to a `ping`; `ts` is the hub's wall clock.
#[must_use]
pub fn pong(id: Option<&CommandId>, ts: UnixNanos) -> Frame {
    message("pong", id, |out| push_time(out, b",\"ts\":\"", ts))
}

/// The first authentication succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    /// The session's name.
    pub session: &'a str,
    /// When the credential ends, where it does.
    pub token_expires: Option<UnixNanos>,
    /// What the session may do.
    pub limits: WelcomeLimits,
}

/// What a session may do, as `welcome` says it.
#[derive(Clone, Copy, Debug)]
pub struct WelcomeLimits {
    /// Longest message that the hub takes.
    pub message_bytes: usize,
    /// Commands a second.
    pub commands_per_second: u32,
    /// Entries held at the same time.
    pub subscriptions: usize,
    /// Updates a second for one instrument; left out where nothing limits them.
    pub max_rate: Option<u32>,
    /// Deepest book.
    pub depth: Depth,
    /// Events that may wait for the session before an overflow policy applies.
    pub backlog: u32,
    /// How much later than live the session sees everything; left out where it does not.
    pub delay_ms: u64,
}

impl Welcome<'_> {
    /// The message.
    #[must_use]
    pub fn frame(&self) -> Frame {
        message("welcome", None, |out| {
            push_member(out, b",\"session\":", self.session);
            push_member(out, b",\"server\":", SERVER);
            push_expiry(out, self.token_expires);
            let limits = &self.limits;
            push_integer(out, b",\"limits\":{\"message_bytes\":", limits.message_bytes);
            push_integer(out, b",\"commands_per_second\":", limits.commands_per_second);
            push_integer(out, b",\"subscriptions\":", limits.subscriptions);
            push_rate(out, limits.max_rate);
            push_integer(out, b",\"depth\":", limits.depth.wire());
            push_integer(out, b",\"backlog\":", limits.backlog);
            if limits.delay_ms > 0 {
                push_integer(out, b",\"delay_ms\":", limits.delay_ms);
            }
            out.push(b'}');
        })
    }
}

/// What a subscription came to: the answer to a `subscribe`, or an announcement without `id`.
#[derive(Clone, Copy, Debug)]
pub struct Subscribed<'a> {
    /// The command's; `None` for an announcement.
    pub id: Option<&'a CommandId>,
    /// The channel.
    pub channel: Channel,
    /// The mode in effect.
    pub mode: Mode,
    /// The rate in effect, where there is one.
    pub max_rate: Option<u32>,
    /// The depth in effect; looked at for `book` only.
    pub depth: Depth,
    /// The policy in effect, where it was asked for or is another than the default.
    pub overflow: Option<Overflow>,
    /// The backlog in effect, where one was asked for.
    pub backlog: Option<u32>,
    /// The epoch of every entry that has none of its own; left out where there is none.
    pub epoch: Option<&'a str>,
}

/// One instrument that now reaches the session.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Its id.
    pub symbol: &'a str,
    /// Its number.
    pub iid: InstrumentKey,
    /// The number last published, 0 for none yet; `None` on `status`, which is not numbered.
    pub seq: Option<u64>,
    /// Its epoch where that differs from the answer's.
    pub epoch: Option<&'a str>,
    /// The pattern that it was matched by.
    pub pattern: Option<&'a str>,
}

/// One symbol of a command that is at fault. What is too long to be a symbol is shown cut.
#[derive(Clone, Copy, Debug)]
pub struct Rejected<'a> {
    /// The symbol as the client wrote it.
    pub symbol: &'a str,
    /// The fault.
    pub code: ErrorCode,
    /// The fault in words, and the way out.
    pub message: &'a str,
}

impl Subscribed<'_> {
    /// One message; `more` says that it is not the last of its answer.
    #[must_use]
    pub fn write<'e>(
        &self,
        accepted: impl IntoIterator<Item = Accepted<'e>>,
        rejected: impl IntoIterator<Item = Rejected<'e>>,
        more: bool,
    ) -> Frame {
        message("subscribed", self.id, |out| {
            push_member(out, b",\"channel\":", self.channel.as_str());
            push_member(out, b",\"mode\":", self.mode.as_str());
            push_rate(out, self.max_rate);
            if self.channel == Channel::Book {
                push_integer(out, b",\"depth\":", self.depth.wire());
            }
            if let Some(overflow) = self.overflow {
                push_member(out, b",\"overflow\":", overflow.as_str());
            }
            if let Some(backlog) = self.backlog {
                push_integer(out, b",\"backlog\":", backlog);
            }
            if let Some(epoch) = self.epoch {
                push_member(out, b",\"epoch\":", epoch);
            }
            push_list(out, b",\"accepted\":[", accepted, push_accepted);
            push_list(out, b",\"rejected\":[", rejected, push_rejected);
            push_more(out, more);
        })
    }

    /// The whole answer, split into messages of [`ANSWER_ENTRIES_MAX`]; at least one, all but the
    /// last with `more`.
    pub fn split<'e>(
        &self,
        accepted: impl IntoIterator<Item = Accepted<'e>>,
        rejected: impl IntoIterator<Item = Rejected<'e>>,
        mut emit: impl FnMut(Frame),
    ) {
        split(accepted, rejected, |accepted, rejected, more| emit(self.write(accepted, rejected, more)));
    }
}

/// The answer to an `unsubscribe`.
#[derive(Clone, Copy, Debug)]
pub struct Unsubscribed<'a> {
    /// The command's.
    pub id: Option<&'a CommandId>,
    /// The channel.
    pub channel: Channel,
}

impl Unsubscribed<'_> {
    /// One message; `symbols` are the entries that are gone, `more` says that it is not the last
    /// of its answer.
    #[must_use]
    pub fn write<'e>(
        &self,
        symbols: impl IntoIterator<Item = &'e str>,
        rejected: impl IntoIterator<Item = Rejected<'e>>,
        more: bool,
    ) -> Frame {
        message("unsubscribed", self.id, |out| {
            push_member(out, b",\"channel\":", self.channel.as_str());
            push_list(out, b",\"symbols\":[", symbols, push_symbol);
            push_list(out, b",\"rejected\":[", rejected, push_rejected);
            push_more(out, more);
        })
    }

    /// The whole answer, split into messages of [`ANSWER_ENTRIES_MAX`]; at least one, all but the
    /// last with `more`.
    pub fn split<'e>(
        &self,
        symbols: impl IntoIterator<Item = &'e str>,
        rejected: impl IntoIterator<Item = Rejected<'e>>,
        mut emit: impl FnMut(Frame),
    ) {
        split(symbols, rejected, |symbols, rejected, more| emit(self.write(symbols, rejected, more)));
    }
}

/// What a smaller grant takes away, told without being asked. Each message stands for itself: for
/// more than [`ANSWER_ENTRIES_MAX`] instruments make several.
#[must_use]
pub fn withdrawn<'e>(channel: Channel, symbols: impl IntoIterator<Item = &'e str>, code: ErrorCode) -> Frame {
    message("unsubscribed", None, |out| {
        push_member(out, b",\"channel\":", channel.as_str());
        push_list(out, b",\"symbols\":[", symbols, push_symbol);
        push_member(out, b",\"code\":", code.as_str());
    })
}

fn split<A, B>(
    first: impl IntoIterator<Item = A>,
    second: impl IntoIterator<Item = B>,
    mut emit: impl FnMut(Vec<A>, Vec<B>, bool),
) {
    let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
    loop {
        let a: Vec<A> = first.by_ref().take(ANSWER_ENTRIES_MAX).collect();
        let b: Vec<B> = second.by_ref().take(ANSWER_ENTRIES_MAX - a.len()).collect();
        let more = first.peek().is_some() || second.peek().is_some();
        emit(a, b, more);
        if !more {
            return;
        }
    }
}

fn message(op: &str, id: Option<&CommandId>, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    Scratch::new().text(|out| {
        push_member(out, b"{\"op\":", op);
        match id {
            Some(CommandId::Number(number)) => push_integer(out, b",\"id\":", *number),
            Some(CommandId::Text(text)) => push_member(out, b",\"id\":", text),
            None => {}
        }
        write(out);
        out.push(b'}');
    })
}

fn push_accepted(out: &mut Vec<u8>, entry: Accepted<'_>) {
    push_member(out, b"{\"symbol\":", entry.symbol);
    push_integer(out, b",\"iid\":", entry.iid.0);
    if let Some(seq) = entry.seq {
        push_integer(out, b",\"seq\":", seq);
    }
    if let Some(epoch) = entry.epoch {
        push_member(out, b",\"epoch\":", epoch);
    }
    if let Some(pattern) = entry.pattern {
        push_member(out, b",\"pattern\":", pattern);
    }
    out.push(b'}');
}

fn push_rejected(out: &mut Vec<u8>, entry: Rejected<'_>) {
    out.extend_from_slice(b"{\"symbol\":");
    push_symbol(out, entry.symbol);
    push_member(out, b",\"code\":", entry.code.as_str());
    push_member(out, b",\"message\":", entry.message);
    out.push(b'}');
}

fn push_symbol(out: &mut Vec<u8>, symbol: &str) {
    push_string(out, &symbol[..symbol.floor_char_boundary(SYMBOL_SHOWN_BYTES_MAX)]);
}

fn push_list<T>(out: &mut Vec<u8>, start: &[u8], entries: impl IntoIterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    out.extend_from_slice(start);
    for (index, entry) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push(out, entry);
    }
    out.push(b']');
}

fn push_expiry(out: &mut Vec<u8>, at: Option<UnixNanos>) {
    if let Some(at) = at {
        push_time(out, b",\"token_expires\":\"", at);
    }
}

fn push_rate(out: &mut Vec<u8>, rate: Option<u32>) {
    if let Some(rate) = rate {
        push_integer(out, b",\"max_rate\":", rate);
    }
}

fn push_more(out: &mut Vec<u8>, more: bool) {
    if more {
        out.extend_from_slice(b",\"more\":true");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn text(frame: &Frame) -> &str {
        std::str::from_utf8(frame.payload()).expect("JSON is UTF-8")
    }

    const AT: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

    fn accepted(symbol: &str, iid: u32) -> Accepted<'_> {
        Accepted { symbol, iid: InstrumentKey(iid), seq: Some(41), epoch: None, pattern: None }
    }

    fn rejected(symbol: &str) -> Rejected<'_> {
        Rejected { symbol, code: ErrorCode::NotEntitled, message: "no \"X\"" }
    }

    #[test]
    fn short_answers_are_exact() {
        let (number, name) = (CommandId::Number(-1), CommandId::Text("a\"b".into()));
        assert_eq!(text(&ok(Some(&number), Some(AT))), r#"{"op":"ok","id":-1,"token_expires":"1700000000000000000"}"#);
        assert_eq!(text(&ok(None, None)), r#"{"op":"ok"}"#);
        assert_eq!(text(&pong(Some(&name), UnixNanos(5))), r#"{"op":"pong","id":"a\"b","ts":"5"}"#);
        assert_eq!(
            text(&error(Some(&number), ErrorCode::RateLimited, "10 a second\n")),
            r#"{"op":"error","id":-1,"code":"rate_limited","message":"10 a second\u000a"}"#
        );
    }

    #[test]
    fn welcome_says_what_the_session_may() {
        let limits = WelcomeLimits {
            message_bytes: 65_536,
            commands_per_second: 20,
            subscriptions: 100,
            max_rate: Some(10),
            depth: Depth::All,
            backlog: 4096,
            delay_ms: 0,
        };
        let mut welcome = Welcome { session: "s1", token_expires: Some(AT), limits };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text(&welcome.frame()),
            format!(
                r#"{{"op":"welcome","session":"s1","server":"tickhub/{version}","token_expires":"1700000000000000000","limits":{{"message_bytes":65536,"commands_per_second":20,"subscriptions":100,"max_rate":10,"depth":0,"backlog":4096}}}}"#
            )
        );
        welcome.token_expires = None;
        welcome.limits.max_rate = None;
        let value: Value = serde_json::from_str(text(&welcome.frame())).expect("JSON");
        assert!(value.get("token_expires").is_none() && value["limits"].get("max_rate").is_none());
        welcome.limits.delay_ms = 900_000;
        assert!(text(&welcome.frame()).ends_with(r#""backlog":4096,"delay_ms":900000}}"#));
    }

    #[test]
    fn subscribed_lists_what_came_in_and_what_did_not() {
        let id = CommandId::Number(2);
        let mut answer = Subscribed {
            id: Some(&id),
            channel: Channel::Quote,
            mode: Mode::Latest,
            max_rate: Some(10),
            depth: Depth::Ten,
            overflow: None,
            backlog: None,
            epoch: Some("e1"),
        };
        let matched = Accepted { pattern: Some("SIM:*"), ..accepted("SIM:AAA-USD", 7) };
        assert_eq!(
            text(&answer.write([matched], [rejected("X:Y")], false)),
            r#"{"op":"subscribed","id":2,"channel":"quote","mode":"latest","max_rate":10,"epoch":"e1","accepted":[{"symbol":"SIM:AAA-USD","iid":7,"seq":41,"pattern":"SIM:*"}],"rejected":[{"symbol":"X:Y","code":"not_entitled","message":"no \"X\""}]}"#
        );
        (answer.id, answer.channel, answer.mode, answer.max_rate) = (None, Channel::Book, Mode::Every, None);
        (answer.overflow, answer.backlog) = (Some(Overflow::Disconnect), Some(100));
        let other = Accepted { epoch: Some("e2"), ..accepted("B:C", 8) };
        assert_eq!(
            text(&answer.write([accepted("A:B", 7), other], [], true)),
            r#"{"op":"subscribed","channel":"book","mode":"every","depth":10,"overflow":"disconnect","backlog":100,"epoch":"e1","accepted":[{"symbol":"A:B","iid":7,"seq":41},{"symbol":"B:C","iid":8,"seq":41,"epoch":"e2"}],"rejected":[],"more":true}"#
        );
        (answer.channel, answer.epoch, answer.overflow, answer.backlog) = (Channel::Status, None, None, None);
        assert_eq!(
            text(&answer.write([Accepted { seq: None, ..accepted("A:B", 7) }], [], false)),
            r#"{"op":"subscribed","channel":"status","mode":"every","accepted":[{"symbol":"A:B","iid":7}],"rejected":[]}"#
        );
    }

    #[test]
    fn unsubscribed_comes_as_an_answer_or_as_a_withdrawal() {
        let id = CommandId::Number(3);
        let answer = Unsubscribed { id: Some(&id), channel: Channel::Quote };
        assert_eq!(
            text(&answer.write(["SIM:*", "A:B"], [rejected("X:Y")], false)),
            r#"{"op":"unsubscribed","id":3,"channel":"quote","symbols":["SIM:*","A:B"],"rejected":[{"symbol":"X:Y","code":"not_entitled","message":"no \"X\""}]}"#
        );
        assert_eq!(
            text(&withdrawn(Channel::Trade, ["A:B"], ErrorCode::NotEntitled)),
            r#"{"op":"unsubscribed","channel":"trade","symbols":["A:B"],"code":"not_entitled"}"#
        );
    }

    #[test]
    fn a_long_answer_is_split_and_loses_nothing() {
        let answer = Subscribed {
            id: None,
            channel: Channel::Trade,
            mode: Mode::Every,
            max_rate: None,
            depth: Depth::Ten,
            overflow: None,
            backlog: None,
            epoch: None,
        };
        for (good, faulty, messages) in [(0, 0, 1), (250, 0, 1), (251, 0, 2), (0, 251, 2), (249, 1, 1), (600, 300, 4)] {
            let mut frames = Vec::new();
            let entries = (0..good).map(|iid| accepted("A:B", iid));
            answer.split(entries, (0..faulty).map(|_| rejected("X:Y")), |frame| frames.push(frame));
            let values: Vec<Value> = frames.iter().map(|f| serde_json::from_str(text(f)).expect("JSON")).collect();
            let list = |name: &str| -> Vec<Value> {
                values.iter().flat_map(|v| v[name].as_array().expect("array").clone()).collect()
            };
            let more: Vec<bool> = values.iter().map(|v| v.get("more").is_some()).collect();
            assert_eq!(values.len(), messages, "{good} {faulty}");
            assert_eq!(more, (1..=messages).map(|n| n < messages).collect::<Vec<_>>());
            let iids: Vec<_> = list("accepted").iter().filter_map(|entry| entry["iid"].as_u64()).collect();
            assert_eq!(iids, (0..u64::from(good)).collect::<Vec<_>>());
            assert_eq!(list("rejected").len(), faulty);
        }
    }

    #[test]
    fn a_symbol_of_a_client_is_cut_and_escaped() {
        let long = format!("\"\n{}", "é".repeat(1_000));
        let frame = Unsubscribed { id: None, channel: Channel::Quote }.write([], [rejected(&long)], false);
        let value: Value = serde_json::from_str(text(&frame)).expect("JSON");
        assert_eq!(value["rejected"][0]["symbol"], format!("\"\n{}", "é".repeat(31)));
        assert!(!text(&frame).contains('\n'));
    }
}
