//! One WebSocket connection of the fake venue, framed by hand so that it can be framed badly.

use std::collections::HashSet;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Item, Order, Row, Shared};

/// Frames of the client that wait to be dealt with.
const CLIENT_FRAMES_MAX: usize = 64;

/// What the orders have left to do on this connection.
#[derive(Default)]
struct Mood {
    skip: Option<(&'static str, usize)>,
    corrupt: Option<(&'static str, &'static str)>,
    reorder: Option<(&'static str, Option<Row>)>,
    trickle: usize,
    stalled: bool,
}

pub(super) async fn serve(mut stream: TcpStream, key: &str, path: String, shared: &Shared) -> std::io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let mut items = shared.items.subscribe();
    {
        let mut state = shared.state();
        state.seen.connections.push(path.clone());
        state.seen.open += 1;
    }
    let streams = path.split_once("?streams=").map(|(_, streams)| streams).unwrap_or_default();
    let subscribed: HashSet<String> = streams.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    stream.write_all(format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes()).await?;
    let ended = converse(stream, subscribed, &mut items, shared).await;
    shared.state().seen.open -= 1;
    ended
}

async fn converse(
    stream: TcpStream,
    mut subscribed: HashSet<String>,
    items: &mut broadcast::Receiver<Item>,
    shared: &Shared,
) -> std::io::Result<()> {
    let socket = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned()?;
    let (reader, mut writer) = tokio::io::split(stream);
    let (sender, mut client) = mpsc::channel(CLIENT_FRAMES_MAX);
    let reading = tokio::spawn(async move {
        // It ends with the connection.
        let _ = read_frames(reader, sender).await;
    });
    let mut ping = tokio::time::interval(shared.ping_every);
    let mut mood = Mood::default();
    let ended = loop {
        tokio::select! {
            item = items.recv() => match item {
                Ok(Item::Row(_)) if mood.stalled => {}
                Ok(Item::Row(row)) => {
                    let muted = shared.state().mute.contains(&row.stream);
                    if subscribed.contains(&row.stream) && !muted {
                        mood.send(&mut writer, &row).await?;
                    }
                }
                Ok(Item::Order(Order::Reset)) => {
                    // Lingering for no time is what makes the system send a reset.
                    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
                    break Ok(());
                }
                Ok(Item::Order(Order::Close(code))) => {
                    write_frame(&mut writer, 8, &code.to_be_bytes()).await?;
                    break writer.shutdown().await;
                }
                Ok(Item::Order(Order::BadFrame)) => writer.write_all(&[0xff, 0x01, b'x']).await?,
                Ok(Item::Order(order)) => mood.take(order),
                Err(_) => break Ok(()),
            },
            frame = client.recv() => match frame {
                Some((1, text)) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    let command: serde_json::Value = serde_json::from_str(&text)?;
                    let streams = command["params"].as_array().into_iter().flatten();
                    subscribed.extend(streams.filter_map(|s| s.as_str()).map(str::to_owned));
                    let id = command["id"].clone();
                    shared.state().seen.commands.push(text);
                    if !mood.stalled {
                        let answer = serde_json::json!({"result": null, "id": id}).to_string();
                        write_frame(&mut writer, 1, answer.as_bytes()).await?;
                    }
                }
                Some((10, payload)) => shared.state().seen.pongs.push(String::from_utf8_lossy(&payload).into_owned()),
                Some((8, _)) | None => break Ok(()),
                Some(_) => {}
            },
            _ = ping.tick(), if !mood.stalled => {
                // The venue's is its clock; what matters is that no two are the same.
                let payload = {
                    let pings = &mut shared.state().seen.pings;
                    pings.push((1_700_000_000_000_u64 + pings.len() as u64).to_string());
                    pings[pings.len() - 1].clone()
                };
                write_frame(&mut writer, 9, payload.as_bytes()).await?;
            }
        }
    };
    reading.abort();
    // Both halves have to go before the socket does.
    let _ = reading.await;
    drop(writer);
    ended
}

impl Mood {
    fn take(&mut self, order: Order) {
        match order {
            Order::Skip(streams, rows) => self.skip = Some((streams, rows)),
            Order::Corrupt(streams, text) => self.corrupt = Some((streams, text)),
            Order::Reorder(streams) => self.reorder = Some((streams, None)),
            Order::Trickle(rows) => self.trickle = rows,
            Order::Stall => self.stalled = true,
            Order::Close(_) | Order::Reset | Order::BadFrame => {}
        }
    }

    async fn send(&mut self, writer: &mut WriteHalf<TcpStream>, row: &Row) -> std::io::Result<()> {
        if let Some((streams, left)) = &mut self.skip
            && row.stream.ends_with(*streams)
        {
            *left -= 1;
            if *left == 0 {
                self.skip = None;
            }
            return Ok(());
        }
        if let Some((streams, text)) = self.corrupt
            && row.stream.ends_with(streams)
        {
            self.corrupt = None;
            return write_frame(writer, 1, text.as_bytes()).await;
        }
        match self.reorder.take() {
            Some((streams, None)) if row.stream.ends_with(streams) => {
                self.reorder = Some((streams, Some(row.clone())));
                return Ok(());
            }
            // The next of the same stream comes first.
            Some((_, Some(held))) if row.stream == held.stream => {
                write_frame(writer, 1, row.text.as_bytes()).await?;
                return write_frame(writer, 1, held.text.as_bytes()).await;
            }
            other => self.reorder = other,
        }
        if self.trickle > 0 {
            self.trickle -= 1;
            for byte in frame(1, row.text.as_bytes()) {
                writer.write_all(&[byte]).await?;
                tokio::task::yield_now().await;
            }
            return Ok(());
        }
        write_frame(writer, 1, row.text.as_bytes()).await
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(short as u8),
        medium @ 126..=65_535 => {
            frame.push(126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

async fn write_frame(writer: &mut WriteHalf<TcpStream>, opcode: u8, payload: &[u8]) -> std::io::Result<()> {
    writer.write_all(&frame(opcode, payload)).await
}

/// Hands on the client's frames, unmasked: opcode and payload.
async fn read_frames(mut reader: ReadHalf<TcpStream>, frames: mpsc::Sender<(u8, Vec<u8>)>) -> std::io::Result<()> {
    loop {
        let opcode = reader.read_u8().await? & 0x0f;
        let length = match reader.read_u8().await? & 0x7f {
            126 => usize::from(reader.read_u16().await?),
            127 => usize::try_from(reader.read_u64().await?).expect("a command"),
            short => usize::from(short),
        };
        let mut mask = [0; 4];
        reader.read_exact(&mut mask).await?;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        if frames.send((opcode, payload)).await.is_err() {
            return Ok(());
        }
    }
}
