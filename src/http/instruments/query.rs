//! What a list of instruments is asked for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::http::Problem;
use crate::model::{InstrumentId, Pattern, check_venue};
use crate::transport::websocket::{excerpt, read_query};

/// Instruments of a page that asks for no number.
const LIMIT_DEFAULT: usize = 100;
/// Most instruments of a page: some 200 kB.
const LIMIT_MAX: usize = 1000;

/// `?venue=&prefix=&limit=&cursor=`, all of them optional.
#[derive(Debug)]
pub(super) struct ListQuery {
    /// The venue, and the head of the symbol.
    pub(super) pattern: Pattern,
    /// Instruments of a page, 1 to 1000.
    pub(super) limit: usize,
    /// The last id of the page before.
    pub(super) after: Option<InstrumentId>,
}

impl ListQuery {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(super) fn parse(query: &str) -> Result<Self, Problem> {
        let [venue, prefix, limit, cursor] = read_query(query, ["venue", "prefix", "limit", "cursor"])?;
        if let Some(venue) = &venue {
            check_venue(venue).map_err(|error| bad("venue", venue, &error.to_string()))?;
        }
        let prefix = prefix.unwrap_or_default();
        let pattern = Pattern::parse(&format!("{}:{prefix}*", venue.as_deref().unwrap_or("*")));
        let pattern = pattern.map_err(|_| bad("prefix", &prefix, "must be the head of a symbol, without its venue"))?;
        let limit = match limit {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit) && text.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| bad("limit", &text, "must be a number from 1 to 1000"))?,
        };
        let after = match cursor {
            None => None,
            Some(text) => Some(
                id_before(&text).ok_or_else(|| bad("cursor", &text, "must be the next_cursor of an earlier answer"))?,
            ),
        };
        Ok(Self { pattern, limit, after })
    }
}

/// The cursor of what lies behind `id`.
pub(super) fn cursor_behind(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

fn id_before(cursor: &str) -> Option<InstrumentId> {
    let id = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    InstrumentId::parse(std::str::from_utf8(&id).ok()?).ok()
}

fn bad(name: &'static str, value: &str, reason: &str) -> Problem {
    Problem::bad_request(format!("{name} in the query: {reason}"))
        .detail("parameter", name)
        .detail("value", excerpt(value))
}
