//! What clients say: always JSON text, one object a message, read strictly. Whatever is not
//! understood in full is refused with the member, the fault and the way out, so that a typo never
//! passes silently.
//!
//! Choices where the protocol leaves room:
//! - A member that is `null` is a fault, like any other wrong type.
//! - `symbols` names at least one; one that is named twice counts once.
//! - `status` has no options beside `"mode":"every"`: it has no snapshot, is not numbered and
//!   cannot be resumed.
//! - A `resume` whose every value has its own epoch needs none of its own; it may list nothing.
//! - Where `id` occurs twice, the first is echoed.

use secrecy::SecretString;

use super::ErrorCode;
use crate::model::Channel;

mod object;
mod subscribe;

use object::{Object, quoted, string, strings, wrong};
pub use subscribe::{Mode, Resume, ResumeEntry, Subscribe};

/// Longest text that may stand as the `id` of a command, in bytes.
pub const COMMAND_ID_BYTES_MAX: usize = 64;
/// Members of a command that are looked at: no command has as many.
const MEMBERS_MAX: usize = 16;

/// What a client calls its command; echoed in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CommandId {
    /// An integer.
    Number(i64),
    /// A string of at most [`COMMAND_ID_BYTES_MAX`] bytes.
    Text(Box<str>),
}

/// How much one command may hold. Its length as a message is bounded by whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Symbols in one command.
    pub symbols_max: usize,
    /// Instruments in one resume. One pattern stands for many of them, and they cannot be split
    /// over several commands, so it is larger.
    pub resume_max: usize,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self { symbols_max: 1_000, resume_max: 4_096 }
    }
}

/// A command, understood.
#[derive(Debug)]
pub enum Command {
    /// First authentication, or renewal.
    Auth {
        /// The token as it was sent, not empty.
        token: SecretString,
    },
    /// Begin to receive.
    Subscribe(Subscribe),
    /// Receive no longer.
    Unsubscribe(Unsubscribe),
    /// Say something.
    Ping,
}

/// An `unsubscribe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The channel.
    pub channel: Channel,
    /// The entries as they were written, each once; not yet judged.
    pub symbols: Vec<String>,
}

/// A command and what the client calls it.
#[derive(Debug)]
pub struct Request {
    /// To be echoed in the answer.
    pub id: Option<CommandId>,
    /// What to do.
    pub command: Command,
}

/// Why a text is not a command. `message` shows the client's own text only cut and escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// To be echoed in the answer, where the text was good enough to find it.
    pub id: Option<CommandId>,
    /// `bad_message`, `unknown_op` or `unknown_channel`.
    pub code: ErrorCode,
    /// The member, the fault and the way out.
    pub message: String,
}

/// A refusal before the id is put to it.
type Fault = (ErrorCode, String);

fn bad(message: impl Into<String>) -> Fault {
    (ErrorCode::BadMessage, message.into())
}

/// Reads one command.
///
/// # Errors
/// A [`Refusal`], to be answered as `error`.
pub fn parse(text: &[u8], limits: &CommandLimits) -> Result<Request, Refusal> {
    let Ok(text) = std::str::from_utf8(text) else {
        let message = "not UTF-8: commands are JSON text".to_owned();
        return Err(Refusal { id: None, code: ErrorCode::BadMessage, message });
    };
    let (mut object, syntax) = Object::read(text, MEMBERS_MAX);
    let duplicate = object.duplicate().map(|name| format!("member {} occurs twice: send it once", quoted(name)));
    let (id, id_fault) = match object.take("id").map(command_id).transpose() {
        Ok(id) => (id, None),
        Err(fault) => (None, Some(fault)),
    };
    let result = match (syntax, duplicate, id_fault) {
        (Err(fault), _, _) | (_, Some(fault), _) | (_, _, Some(fault)) => Err(bad(fault)),
        _ => command(object, limits),
    };
    match result {
        Ok(command) => Ok(Request { id, command }),
        Err((code, message)) => Err(Refusal { id, code, message }),
    }
}

fn command_id(raw: &serde_json::value::RawValue) -> Result<CommandId, String> {
    if let Ok(number) = serde_json::from_str(raw.get()) {
        return Ok(CommandId::Number(number));
    }
    match string(raw) {
        Some(text) if text.len() <= COMMAND_ID_BYTES_MAX => Ok(CommandId::Text(text.into())),
        _ => Err(wrong("id", "an integer of 64 bits or a string of at most 64 bytes", raw)),
    }
}

fn command(mut object: Object<'_>, limits: &CommandLimits) -> Result<Command, Fault> {
    const OPS: &str = "\"auth\", \"subscribe\", \"unsubscribe\" or \"ping\"";
    let raw = object.take("op").ok_or_else(|| bad(format!("\"op\" is missing: it must be {OPS}")))?;
    let op = string(raw).ok_or_else(|| bad(wrong("op", OPS, raw)))?;
    match op.as_str() {
        "auth" => auth(object),
        "subscribe" => subscribe::read(object, limits).map(Command::Subscribe),
        "unsubscribe" => {
            let symbols = symbols(&mut object, limits);
            let channel = object.take("channel");
            finish(&object, "unsubscribe", "\"id\", \"channel\" and \"symbols\"")?;
            Ok(Command::Unsubscribe(Unsubscribe { channel: subscribe::channel(channel)?, symbols: symbols? }))
        }
        "ping" => {
            finish(&object, "ping", "\"id\" only")?;
            Ok(Command::Ping)
        }
        _ => Err((ErrorCode::UnknownOp, format!("\"op\" must be {OPS}, not {}", quoted(&op)))),
    }
}

/// Nothing of a token is shown, whatever it is.
fn auth(mut object: Object<'_>) -> Result<Command, Fault> {
    let token = object.take("token");
    finish(&object, "auth", "\"id\" and \"token\"")?;
    let raw = token.ok_or_else(|| bad("\"token\" is missing: it must be a JWT"))?;
    match string(raw) {
        Some(token) if !token.is_empty() => Ok(Command::Auth { token: token.into() }),
        _ => Err(bad("\"token\" must be a string that holds a JWT")),
    }
}

/// Refuses what nobody took.
fn finish(object: &Object<'_>, op: &str, takes: &str) -> Result<(), Fault> {
    if let Some(name) = object.left_over() {
        return Err(bad(format!("unknown member {}: {op} takes {takes}", quoted(name))));
    }
    if object.excess() {
        return Err(bad(format!("more than {MEMBERS_MAX} members: {op} takes {takes}")));
    }
    Ok(())
}

fn symbols(object: &mut Object<'_>, limits: &CommandLimits) -> Result<Vec<String>, Fault> {
    let max = limits.symbols_max;
    let must = format!("an array of 1 to {max} strings, each VENUE:SYMBOL or a pattern");
    let raw = object.take("symbols").ok_or_else(|| bad(format!("\"symbols\" is missing: it must be {must}")))?;
    let mut symbols = strings(raw, max).ok_or_else(|| match raw.get().starts_with('[') {
        true => bad(format!("\"symbols\" must be {must}: this array is longer, or holds something else")),
        false => bad(wrong("symbols", &must, raw)),
    })?;
    if symbols.is_empty() {
        return Err(bad("\"symbols\" is empty: name at least one, or \"*\" for all"));
    }
    let mut seen = std::collections::HashSet::with_capacity(symbols.len());
    let first: Vec<bool> = symbols.iter().map(|symbol| seen.insert(symbol.as_str())).collect();
    let mut first = first.into_iter();
    symbols.retain(|_| first.next().unwrap_or(true));
    Ok(symbols)
}

#[cfg(test)]
mod tests;
