//! An echo server made of the hub's own parts: its judge of handshakes, its frame reader and its
//! frames. What a conformance suite says of it, it says of them.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming as Body};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tickhub::transport::websocket::{FrameReader, Incoming, Profile, Violation, judge_handshake};
use tickhub::wire::{CloseCode, Frame, close_frame, pong_frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The largest message of the suite has 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const READ_BYTES: usize = 64 << 10;
/// For the client's end of a closed connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// All that RFC 6455 allows.
struct Everything;

impl Profile for Everything {
    const BINARY: bool = true;
    const FRAGMENTS_MAX: u32 = u32::MAX;
}

/// Serves every connection of `listener`, until it is dropped.
pub(crate) async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            // A client that breaks off is no matter of the server's.
            let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades().await;
        });
    }
}

async fn answer(mut request: Request<Body>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    match judge_handshake(&request) {
        Ok(offer) => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            offer.write_headers(response.headers_mut());
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgraded.await {
                    let _ = echo(upgraded).await;
                }
            });
        }
        Err(refusal) => {
            *response.status_mut() = refusal.status();
            refusal.write_headers(response.headers_mut());
        }
    }
    Ok(response)
}

async fn echo(upgraded: Upgraded) -> std::io::Result<()> {
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return Ok(()) };
    let mut stream = parts.io.into_inner();
    let mut reader = FrameReader::<Everything>::with_profile(MESSAGE_BYTES_MAX);
    let mut input = parts.read_buf.to_vec();
    let (mut output, mut closed) = (Vec::new(), false);
    loop {
        let taken = reader.read(&mut input, &mut |incoming| {
            closed |= matches!(incoming, Incoming::Close { .. });
            if let Some(frame) = reply(incoming) {
                output.extend_from_slice(&frame);
            }
            ControlFlow::Continue(())
        });
        if let Err(Violation { close, reason }) = taken {
            let code = CloseCode::from_number(close).expect("a code of the protocol");
            output.extend_from_slice(close_frame(code, reason).bytes());
            closed = true;
        }
        stream.write_all(&output).await?;
        output.clear();
        if closed {
            break;
        }
        input.resize(READ_BYTES, 0);
        let bytes = stream.read(&mut input).await?;
        if bytes == 0 {
            return Ok(());
        }
        input.truncate(bytes);
    }
    stream.shutdown().await?;
    // Closing over unread bytes would reset the connection, and could take the close frame with it.
    let read_away = async { while stream.read(&mut input).await.is_ok_and(|bytes| bytes > 0) {} };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, read_away).await;
    Ok(())
}

fn reply(incoming: Incoming<'_>) -> Option<Vec<u8>> {
    let frame = match incoming {
        Incoming::Text(text) => Frame::text(text.as_bytes()),
        Incoming::Binary(bytes) => {
            // The hub has no binary message that is not an event; the header differs in the opcode.
            let mut frame = Frame::text(bytes).bytes().to_vec();
            frame[0] = 0x82;
            return Some(frame);
        }
        Incoming::Ping(payload) => pong_frame(payload),
        Incoming::Pong(_) => return None,
        Incoming::Close { .. } => close_frame(CloseCode::Normal, ""),
    };
    Some(frame.bytes().to_vec())
}
