//! One connection of the hub: a REST request, or a WebSocket whose streams are asked for in its address and by
//! command.

use std::{
    convert::Infallible,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use rustix::{io::Errno, net::SendFlags};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Shared, definitions, stream_of};
use crate::frame;

/// How long a line is silent before it is pinged: hubs take a silent one for dead.
const PING_AFTER: Duration = Duration::from_secs(5);
/// Longest head of a request: an address with 4 KiB of streams, and more.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Longest command: some hundred streams.
const COMMAND_BYTES_MAX: usize = 1 << 20;
/// What was sent is dropped from the buffer once it is this much.
const SENT_BYTES_KEPT: usize = 64 << 10;

/// The sending half of a WebSocket to the hub.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    out: Vec<u8>,
    sent: usize,
}

impl Line {
    /// Bytes that the socket has not taken yet.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Puts a text message behind what is to be sent.
    pub(super) fn push_text(&mut self, text: &[u8]) {
        self.push(frame::TEXT, text);
    }

    fn push(&mut self, opcode: u8, payload: &[u8]) {
        frame::append_server(&mut self.out, opcode, payload);
    }

    /// Sends as much as the socket takes, without waiting; whether that was all.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.unsent() > 0 {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &self.out[self.sent..], flags) {
                Ok(bytes) => self.sent += bytes,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let all = self.unsent() == 0;
        if all || self.sent > SENT_BYTES_KEPT {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(all)
    }

    pub(super) fn close(&self) {
        // It may be closed from the other side already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Serves one connection to its end, which for a WebSocket is always an error.
pub(super) fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let head = head(&mut reader)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    match key {
        None => rest(stream, path, shared),
        Some(key) => websocket(stream, reader, path, key, shared),
    }
}

fn head(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    while !head.ends_with("\r\n\r\n") {
        if limited.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn rest(mut stream: TcpStream, path: &str, shared: &Shared) -> io::Result<()> {
    let (status, body) = match definitions(path, shared.symbols) {
        Some(body) => ("200 OK", body),
        None => ("400 Bad Request", "{\"code\":-1121,\"msg\":\"Invalid symbol.\"}".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}

fn websocket(
    mut stream: TcpStream,
    mut reader: BufReader<TcpStream>,
    path: &str,
    key: &str,
    shared: &Shared,
) -> io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    stream.write_all(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    stream.set_read_timeout(Some(PING_AFTER))?;
    let line = {
        let state = &mut *shared.state();
        state.fault = None;
        state.lines.push(Some(Line { stream, out: Vec::new(), sent: 0 }));
        state.lines.len() - 1
    };
    let streams = path.split_once("?streams=").map_or("", |(_, streams)| streams);
    let ended = route(shared, line, streams.split('/').filter(|stream| !stream.is_empty()))
        .and_then(|()| converse(&mut reader, line, shared));
    ended.inspect_err(|error| shared.state().remove(line, error)).map(drop)
}

/// Takes commands and pings until the line ends.
fn converse(reader: &mut BufReader<TcpStream>, line: usize, shared: &Shared) -> io::Result<Infallible> {
    let send = |opcode: u8, payload: &[u8]| match &mut shared.state().lines[line] {
        None => Err(io::Error::from(io::ErrorKind::NotConnected)),
        Some(line) => {
            line.push(opcode, payload);
            line.flush()
        }
    };
    let mut payload = Vec::new();
    loop {
        match wait(reader) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                send(frame::PING, b"")?;
                continue;
            }
            Err(error) => return Err(error),
        }
        match read_frame(reader, &mut payload)? {
            frame::TEXT => {
                let command: Command = serde_json::from_slice(&payload)?;
                route(shared, line, command.params.iter().map(String::as_str))?;
                send(frame::TEXT, format!("{{\"result\":null,\"id\":{}}}", command.id).as_bytes())?;
            }
            frame::PING => {
                send(frame::PONG, &payload)?;
            }
            frame::CLOSE => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {}
        }
    }
}

/// Waits until there is something to read.
fn wait(reader: &mut BufReader<TcpStream>) -> io::Result<()> {
    if reader.fill_buf()?.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

#[derive(Deserialize)]
struct Command {
    params: Vec<String>,
    id: u64,
}

/// The streams come by this line from now on.
fn route<'a>(shared: &Shared, line: usize, streams: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let mut state = shared.state();
    for stream in streams {
        if let Some((symbol, kind)) = stream_of(stream, shared.symbols)? {
            state.routes[symbol][kind as usize] = Some(line);
        }
    }
    shared.changed.notify_all();
    Ok(())
}

/// Reads a client's frame into `payload`, unmasked; its opcode.
fn read_frame(reader: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<u8> {
    let mut head = [0; 2];
    reader.read_exact(&mut head)?;
    let mut length = [0; 8];
    let bytes = match head[1] & 0x7F {
        126 => {
            reader.read_exact(&mut length[6..])?;
            u64::from_be_bytes(length)
        }
        127 => {
            reader.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    if head[1] & 0x80 == 0 || bytes > COMMAND_BYTES_MAX as u64 {
        return Err(io::Error::other("the hub sent a frame without mask, or too long a one"));
    }
    let mut mask = [0; 4];
    reader.read_exact(&mut mask)?;
    payload.resize(bytes as usize, 0);
    reader.read_exact(payload)?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(head[0] & 0x0F)
}
