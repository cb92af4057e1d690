//! Finds out over REST which instruments there are, and picks some for each client.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    options::Plan,
    random::Random,
    scenario::{PerClient, Subscription, matches},
};

/// A page of instruments larger than this is refused.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// More pages than this mean that the cursor goes in circles.
const PAGES_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    instruments: Vec<Listed>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

/// By group and subscription: the instruments that its clients choose from, by place in the list of all.
pub type Candidates = Vec<Vec<Vec<u32>>>;

/// The instruments that clients may choose from, sorted, and which of them each subscription means. Asks the hub only
/// where a pattern has to be resolved.
///
/// # Errors
/// The hub cannot be asked, or lists too few for what every client is to hold.
pub async fn instruments(plan: &Plan) -> anyhow::Result<(Vec<String>, Candidates)> {
    let scenario = &plan.scenario;
    let counted = |subscription: &&Subscription| subscription.per_client != PerClient::All;
    let mut named: Vec<&String> =
        scenario.subscriptions().filter(counted).flat_map(|subscription| &subscription.symbols).collect();
    let listed = if named.iter().any(|symbol| symbol.contains('*')) {
        list(plan).await.context("the list of instruments")?
    } else {
        Vec::new()
    };
    named.retain(|symbol| !symbol.contains('*'));
    let is_wanted = |id: &String| {
        scenario.subscriptions().filter(counted).any(|held| held.symbols.iter().any(|pattern| matches(pattern, id)))
    };
    let mut found: Vec<String> = listed.into_iter().filter(is_wanted).chain(named.into_iter().cloned()).collect();
    found.sort_unstable();
    found.dedup();
    let mut candidates = Candidates::new();
    for group in &scenario.groups {
        let mut of_group = Vec::new();
        for subscription in &group.subscriptions {
            of_group.push(candidates_of(subscription, &found)?);
        }
        candidates.push(of_group);
    }
    Ok((found, candidates))
}

fn candidates_of(subscription: &Subscription, found: &[String]) -> anyhow::Result<Vec<u32>> {
    let PerClient::Count(count) = subscription.per_client else { return Ok(Vec::new()) };
    let matched = |id: &String| subscription.symbols.iter().any(|pattern| matches(pattern, id));
    let of: Vec<u32> = (0..found.len()).filter(|at| matched(&found[*at])).map(|at| at as u32).collect();
    ensure!(!of.is_empty(), "no instrument matches {}", subscription.symbols.join(","));
    ensure!(
        count <= of.len(),
        "every client is to hold {count} instruments of {}, but there are only {} instruments: lower \
         `symbols_per_client`, or widen `symbols`",
        subscription.channel,
        of.len()
    );
    Ok(of)
}

async fn list(plan: &Plan) -> anyhow::Result<Vec<String>> {
    let stream = TcpStream::connect(plan.target.http_address).await?;
    let Some(tls) = &plan.tls else { return list_over(plan, stream).await };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    list_over(plan, connector.connect(tls.name.clone(), stream).await?).await
}

async fn list_over(
    plan: &Plan,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<Vec<String>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut path = "/api/v1/instruments?limit=1000".to_owned();
        if let Some(cursor) = &cursor {
            path.push_str("&cursor=");
            path.push_str(&percent_encoded(cursor));
        }
        let request = Request::get(path)
            .header("host", &plan.target.http_host)
            .header("authorization", format!("Bearer {}", plan.token))
            .body(Empty::<Bytes>::new())?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer: {error}"))?.to_bytes();
        if status != StatusCode::OK {
            bail!("HTTP {status}: {}", crate::measure::shown(&body));
        }
        let page: Page = serde_json::from_slice(&body)?;
        found.extend(page.instruments.into_iter().map(|listed| listed.id));
        match page.next_cursor {
            Some(next) if !next.is_empty() => cursor = Some(next),
            _ => {
                driver.abort();
                return Ok(found);
            }
        }
    }
    bail!("more than {PAGES_MAX} pages")
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `count` different numbers below `of`, in no order; the same for the same seed and client.
pub fn pick(seed: u64, client: usize, count: usize, of: usize) -> Vec<u32> {
    let mut random = Random::new(seed ^ (client as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    // Robert Floyd's sampling: as many steps as numbers wanted, whatever there is to choose from.
    let mut picked: Vec<u32> = Vec::with_capacity(count);
    for upper in of - count..of {
        let candidate = random.below(upper as u64 + 1) as u32;
        let taken = picked.contains(&candidate);
        picked.push(if taken { upper as u32 } else { candidate });
    }
    picked
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_pick_has_no_doubles_repeats_by_seed_and_reaches_everything() {
        let mut seen = BTreeSet::new();
        for client in 0..500 {
            let picked = pick(7, client, 20, 50);
            assert_eq!(picked, pick(7, client, 20, 50));
            let distinct: BTreeSet<u32> = picked.iter().copied().collect();
            assert_eq!(distinct.len(), 20);
            assert!(distinct.iter().all(|number| *number < 50));
            seen.extend(distinct);
        }
        assert_eq!(seen.len(), 50);
        assert_ne!(pick(7, 1, 20, 50), pick(8, 1, 20, 50));
        assert_eq!(pick(1, 0, 3, 3).into_iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn a_cursor_survives_the_query() {
        assert_eq!(percent_encoded("SIM:A/B+c"), "SIM%3AA%2FB%2Bc");
    }
}
