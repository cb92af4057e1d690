//! The instruments that a caller may see.

mod catalog;
mod etag;
mod query;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::credentials::Caller;
use super::world::World;
use super::{Api, Problem};
use crate::auth::{Grant, Principal};
use crate::model::{Channel, InstrumentId, InstrumentKey, StreamId, StreamKind};
use crate::store::Feed;
use crate::time::rfc3339;
use crate::transport::websocket::{excerpt, read_query};
use crate::wire::{ErrorCode, Format, Head, Payload, Scratch};

pub(super) use catalog::Catalog;

use query::{ListQuery, cursor_behind};

/// One instrument; what is not known of it is absent.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    iid: u32,
    venue: &'a str,
    symbol: &'a str,
    raw_symbol: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<&'a str>,
    state: &'static str,
}

#[derive(Serialize)]
struct List<'a> {
    instruments: Vec<Entry<'a>>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    entry: Entry<'a>,
    cause: String,
    since: String,
    epoch: &'a str,
    seq: BTreeMap<&'static str, Sequences>,
}

/// The number last published, of `book` by depth.
#[derive(Serialize)]
#[serde(untagged)]
enum Sequences {
    One(u64),
    ByDepth(BTreeMap<u32, u64>),
}

fn entry(world: &World, key: InstrumentKey) -> Option<Entry<'_>> {
    let definition = world.store.definition(key)?;
    Some(Entry {
        id: definition.id.as_str(),
        iid: key.0,
        venue: definition.id.venue(),
        symbol: definition.id.symbol(),
        raw_symbol: &definition.raw_symbol,
        base: definition.base.as_deref(),
        quote: definition.quote.as_deref(),
        state: feed(world, key)?.status().state.as_str(),
    })
}

fn feed(world: &World, key: InstrumentKey) -> Option<&Feed> {
    world.store.feed(world.store.feed_index(key)?)
}

/// `GET /instruments`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = ListQuery::parse(query.as_deref().unwrap_or_default())?;
    let after = query.after.as_ref().map(InstrumentId::as_str);
    let world = api.world(&principal.grant)?;
    let page = world.catalog.page(&world.store, &principal.grant, &query.pattern, after, query.limit);
    let instruments: Vec<_> = page.keys.iter().filter_map(|key| entry(world, *key)).collect();
    let next_cursor = instruments.last().filter(|_| page.more).map(|last| cursor_behind(last.id));
    Ok(Json(List { instruments, next_cursor }).into_response())
}

/// `GET /instruments/{id}`.
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let [] = read_query(query.as_deref().unwrap_or_default(), [])?;
    let world = api.world(&principal.grant)?;
    let (id, key) = find(world, &principal, path)?;
    let (Some(entry), Some(feed)) = (entry(world, key), feed(world, key)) else { return Err(unknown_symbol(&id)) };
    let status = feed.status();
    let seq = sequences(world, &principal.grant, key);
    let (cause, since) = (status.cause.to_string(), rfc3339(status.since));
    let entry = Entry { state: status.state.as_str(), ..entry };
    Ok(Json(Detail { entry, cause, since, epoch: &feed.epoch, seq }).into_response())
}

/// The numbers of the streams that the grant allows: a number is data too.
fn sequences(world: &World, grant: &Grant, key: InstrumentKey) -> BTreeMap<&'static str, Sequences> {
    let mut sequences = BTreeMap::new();
    let mut depths = BTreeMap::new();
    for kind in StreamKind::ALL.into_iter().filter(|kind| grant.allows_channel(kind.channel())) {
        let seq = world.store.sequence(StreamId { key, kind });
        if let StreamKind::Book(depth) = kind {
            if depth <= grant.depth() {
                depths.insert(depth.wire(), seq);
            }
        } else {
            sequences.insert(kind.channel().as_str(), Sequences::One(seq));
        }
    }
    if !depths.is_empty() {
        sequences.insert(Channel::Book.as_str(), Sequences::ByDepth(depths));
    }
    sequences
}

/// `GET /instruments/{id}/ticker`: what a `ticker` snapshot says on the wire.
pub(super) async fn ticker(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let [] = read_query(query.as_deref().unwrap_or_default(), [])?;
    let world = api.world(&principal.grant)?;
    let (id, key) = find(world, &principal, path)?;
    if !principal.grant.allows_channel(Channel::Ticker) {
        return Err(not_entitled("the channel ticker is outside your grant"));
    }
    let Some((stamp, ticker)) = world.store.ticker(key) else {
        let message = format!("{id} has no ticker yet");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_value", message).detail("symbol", id.as_str()));
    };
    let epoch = feed(world, key).map_or("", |feed| &*feed.epoch);
    let tag = etag::of(epoch, stamp.seq);
    // Any store must ask again before each use, and one that is shared must not keep it at all.
    let cache = HeaderValue::from_static("private, no-cache");
    if headers.get_all(IF_NONE_MATCH).iter().any(|list| etag::lists(list.as_bytes(), tag.as_bytes())) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag), (CACHE_CONTROL, cache)]).into_response());
    }
    let head = Head { id: &id, key, seq: stamp.seq, ts: ticker.ts_event, rx: stamp.received, snapshot: true };
    let frame = Format::Json.encode(&mut Scratch::new(), &head, &Payload::Ticker(&ticker));
    let json = HeaderValue::from_static("application/json");
    let headers = [(CONTENT_TYPE, json), (ETAG, tag), (CACHE_CONTROL, cache)];
    Ok((headers, frame.payload().to_vec()).into_response())
}

/// The instrument of a path. Entitlement is judged first: who may not see it does not learn
/// whether it exists.
fn find(
    world: &World,
    principal: &Principal,
    path: Result<Path<String>, PathRejection>,
) -> Result<(InstrumentId, InstrumentKey), Problem> {
    let bad = |reason: &dyn std::fmt::Display| {
        let message = format!("the path's id is not an instrument: {reason}");
        Problem::new(StatusCode::BAD_REQUEST, ErrorCode::BadSymbol.as_str(), message)
    };
    let Path(text) = path.map_err(|_| bad(&"not UTF-8"))?;
    let id = InstrumentId::parse(&text).map_err(|error| bad(&error).detail("symbol", excerpt(&text)))?;
    if !principal.grant.allows(&id) {
        return Err(not_entitled("the instrument is outside your grant").detail("symbol", id.as_str()));
    }
    let key = world.store.key(&id).ok_or_else(|| unknown_symbol(&id))?;
    Ok((id, key))
}

fn not_entitled(message: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, ErrorCode::NotEntitled.as_str(), message)
}

fn unknown_symbol(id: &InstrumentId) -> Problem {
    let message = format!("there is no instrument {id}");
    Problem::new(StatusCode::NOT_FOUND, ErrorCode::UnknownSymbol.as_str(), message).detail("symbol", id.as_str())
}
