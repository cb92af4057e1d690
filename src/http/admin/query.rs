//! What a list of sessions is asked for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::auth::SUBJECT_BYTES_MAX;
use crate::http::Problem;
use crate::transport::websocket::{excerpt, read_query};
use crate::transport::{ConnectionPlace, ConnectionState, ConnectionsOrder, ConnectionsQuery};

/// Sessions of a page that asks for no number.
const LIMIT_DEFAULT: usize = 100;
/// Most sessions of a page: some 400 kB, and as many rows of each worker are held to make it.
const LIMIT_MAX: usize = 1000;
/// Longest name of a session.
const SESSION_BYTES_MAX: usize = 64;

/// Whether a session may have this name.
pub(super) fn is_session(text: &str) -> bool {
    (1..=SESSION_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Reads `?subject=&role=&state=&sort=&limit=&cursor=`, all of them optional.
///
/// # Errors
/// 400 that names the parameter.
pub(super) fn list_query(query: &str) -> Result<ConnectionsQuery, Problem> {
    let [subject, role, state, sort, limit, cursor] =
        read_query(query, ["subject", "role", "state", "sort", "limit", "cursor"])?;
    for (name, text) in [("subject", &subject), ("role", &role)] {
        if let Some(text) = text.as_ref().filter(|text| !(1..=SUBJECT_BYTES_MAX).contains(&text.len())) {
            return Err(bad(name, text, "must have 1 to 256 bytes"));
        }
    }
    let state = match state {
        None => None,
        Some(text) => {
            let known = ConnectionState::ALL.into_iter().find(|state| state.as_str() == text);
            Some(known.ok_or_else(|| bad("state", &text, "must be waiting, live, slow or closing"))?)
        }
    };
    let order = match sort.as_deref() {
        None | Some("lag") => ConnectionsOrder::Lag,
        Some("session") => ConnectionsOrder::Session,
        Some(other) => return Err(bad("sort", other, "must be lag or session")),
    };
    let limit = match limit {
        None => LIMIT_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit) && text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| bad("limit", &text, "must be a number from 1 to 1000"))?,
    };
    let behind = "must be the next_cursor of an earlier answer, with its sort";
    let after = match cursor {
        None => None,
        Some(text) => Some(place_of(order, &text).ok_or_else(|| bad("cursor", &text, behind))?),
    };
    Ok(ConnectionsQuery { subject, role, state, order, after, limit })
}

/// What a cursor begins with, so that one order's is not taken for the other's.
const fn head(order: ConnectionsOrder) -> char {
    match order {
        ConnectionsOrder::Lag => 'l',
        ConnectionsOrder::Session => 's',
    }
}

/// The cursor of what lies behind a place.
pub(super) fn cursor_behind(order: ConnectionsOrder, (rank, session): &ConnectionPlace) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}{rank}.{session}", head(order)))
}

fn place_of(order: ConnectionsOrder, cursor: &str) -> Option<ConnectionPlace> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (rank, session) = text.strip_prefix(head(order))?.split_once('.')?;
    is_session(session).then_some((rank.parse().ok()?, session.into()))
}

fn bad(name: &'static str, value: &str, reason: &str) -> Problem {
    Problem::bad_request(format!("{name} in the query: {reason}"))
        .detail("parameter", name)
        .detail("value", excerpt(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_in_its_own_order_only() {
        let place: ConnectionPlace = (u64::MAX - 7, "0af".into());
        for (order, other) in
            [(ConnectionsOrder::Lag, ConnectionsOrder::Session), (ConnectionsOrder::Session, ConnectionsOrder::Lag)]
        {
            let cursor = cursor_behind(order, &place);
            assert_eq!(place_of(order, &cursor), Some(place.clone()));
            assert_eq!(place_of(other, &cursor), None);
        }
        for bad in ["", "x", "bDEu", "bC4wYWY"] {
            assert_eq!(place_of(ConnectionsOrder::Lag, bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_read_or_refused_by_name() {
        let query = list_query("subject=a%20b&role=desk&state=slow&sort=session&limit=7").expect("well formed");
        assert_eq!((query.subject.as_deref(), query.role.as_deref()), (Some("a b"), Some("desk")));
        assert_eq!((query.state, query.order), (Some(ConnectionState::Slow), ConnectionsOrder::Session));
        assert_eq!(query.limit, 7);
        let plain = list_query("").expect("nothing is asked for");
        assert_eq!((plain.order, plain.limit), (ConnectionsOrder::Lag, 100));
        for wrong in ["subject=", "state=gone", "sort=age", "limit=0", "limit=1001", "limit=+1", "cursor=x", "x=1"] {
            let name = wrong.split('=').next().unwrap_or_default();
            let problem = list_query(wrong).expect_err(wrong);
            assert!(problem.envelope("", crate::model::UnixNanos(0)).contains(name), "{wrong}");
        }
    }
}
