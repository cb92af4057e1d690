//! A WebSocket client of raw bytes: it can do what a library would not let it.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the hub sent.
#[derive(Debug, PartialEq)]
pub enum Got {
    Json(Value),
    /// Records of the binary form.
    Binary(Vec<u8>),
    Ping,
    Close(u16, String),
    /// The connection ended without a close frame.
    Lost,
}

/// A client over any kind of connection.
pub struct Client<S = TcpStream> {
    pub stream: S,
    pub buffer: Vec<u8>,
}

/// Sends an upgrade request with these extra header lines; the answer's status, headers and body
/// so far, and the connection.
pub async fn upgrade(address: &str, path: &str, headers: &[&str]) -> (u16, String, TcpStream, Vec<u8>) {
    upgrade_on(TcpStream::connect(address).await.expect("the hub listens"), path, headers).await
}

/// The same on a connection that is there already.
pub async fn upgrade_on(stream: TcpStream, path: &str, headers: &[&str]) -> (u16, String, TcpStream, Vec<u8>) {
    let address = stream.peer_addr().expect("connected").to_string();
    upgrade_over(stream, &address, path, headers).await
}

/// The same over a connection that is there.
pub async fn upgrade_over<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    address: &str,
    path: &str,
    headers: &[&str],
) -> (u16, String, S, Vec<u8>) {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.expect("the hub reads");
    let mut answer = Vec::new();
    let end = loop {
        if let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("an answer in time");
        assert!(read.expect("readable") > 0, "closed before the answer: {}", String::from_utf8_lossy(&answer));
    };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, head, stream, answer[end..].to_vec())
}

/// A plain request, such as `GET /api/v1/health`, with a token; its status and body.
pub async fn request(address: &str, line: &str, token: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.expect("the hub listens");
    let head =
        format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("the hub reads");
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer in time");
    read.expect("readable");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

impl Client {
    pub async fn open(address: &str, path: &str, headers: &[&str]) -> Self {
        let (status, head, stream, buffer) = upgrade(address, path, headers).await;
        assert_eq!(status, 101, "{head}");
        Self { stream, buffer }
    }

    /// The client of an upgrade that was answered with 101, and what came behind that.
    pub fn of(stream: TcpStream, buffer: Vec<u8>) -> Self {
        Self { stream, buffer }
    }

    /// Opens with a token in the header, past the welcome.
    pub async fn welcomed(address: &str, token: &str) -> Self {
        let mut client = Self::open(address, "/api/v1/ws/prices", &[&format!("Authorization: Bearer {token}")]).await;
        let welcome = client.json().await;
        assert_eq!(welcome["op"], "welcome", "{welcome}");
        client
    }

    /// Drops the connection without a goodbye, over whatever waits in it.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Opens over a connection that is there.
    pub async fn over(stream: S, address: &str, path: &str, headers: &[&str]) -> Self {
        let (status, head, stream, buffer) = upgrade_over(stream, address, path, headers).await;
        assert_eq!(status, 101, "{head}");
        Self { stream, buffer }
    }

    /// What it speaks over.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends a frame as it is: first byte, mask bit, payload.
    pub async fn frame(&mut self, first: u8, masked: bool, payload: &[u8]) {
        let mut bytes = vec![first];
        let mask_bit = if masked { 0x80 } else { 0 };
        match payload.len() {
            n if n < 126 => bytes.push(mask_bit | n as u8),
            n if n < 65_536 => {
                bytes.push(mask_bit | 126);
                bytes.extend((n as u16).to_be_bytes());
            }
            n => {
                bytes.push(mask_bit | 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        if masked {
            let key = [1, 2, 3, 4];
            bytes.extend(key);
            bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
        } else {
            bytes.extend(payload);
        }
        // A hub that has closed already is what some tests wait for.
        let _ = self.stream.write_all(&bytes).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.frame(0x81, true, text.as_bytes()).await;
    }

    /// Takes up to so many bytes off the socket, without looking at them; how many.
    pub async fn sip(&mut self, bytes: usize) -> usize {
        let mut sip = vec![0; bytes];
        let read = self.stream.read(&mut sip).await.unwrap_or(0);
        self.buffer.extend_from_slice(&sip[..read]);
        read
    }

    /// Says that nothing more will be sent.
    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next frame that is not a ping (which is answered).
    pub async fn next(&mut self) -> Got {
        loop {
            match self.next_frame().await {
                Got::Ping => self.frame(0x8a, true, b"").await,
                other => return other,
            }
        }
    }

    /// The next frame, pings unanswered.
    pub async fn next_frame(&mut self) -> Got {
        loop {
            if let Some((opcode, payload)) = self.take_frame() {
                return match opcode {
                    1 => Got::Json(serde_json::from_slice(&payload).expect("JSON from the hub")),
                    2 => Got::Binary(payload),
                    8 => Got::Close(
                        u16::from_be_bytes([payload[0], payload[1]]),
                        String::from_utf8_lossy(&payload[2..]).into_owned(),
                    ),
                    9 => Got::Ping,
                    10 => continue,
                    other => panic!("opcode {other} from the hub"),
                };
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            match read.expect("something from the hub in time") {
                Ok(0) | Err(_) => return Got::Lost,
                Ok(_) => {}
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &second) = (self.buffer.first()?, self.buffer.get(1)?);
        assert_eq!(second & 0x80, 0, "server frames are not masked");
        assert_eq!(first & 0x70, 0, "no extension was agreed on");
        let (head, len) = match second {
            126 => (4, usize::from(u16::from_be_bytes([*self.buffer.get(2)?, *self.buffer.get(3)?]))),
            127 => (10, u64::from_be_bytes(self.buffer.get(2..10)?.try_into().ok()?) as usize),
            n => (2, usize::from(n)),
        };
        if self.buffer.len() < head + len {
            return None;
        }
        let payload = self.buffer[head..head + len].to_vec();
        self.buffer.drain(..head + len);
        Some((first & 0x0f, payload))
    }

    /// The next message, which must be JSON.
    pub async fn json(&mut self) -> Value {
        match self.next().await {
            Got::Json(value) => value,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Messages until one with this member; it.
    pub async fn until(&mut self, member: &str, value: &str) -> Value {
        loop {
            let message = self.json().await;
            if message[member] == value {
                return message;
            }
        }
    }

    /// Messages until the answer to the command with this id; it.
    pub async fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.json().await;
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Whatever comes until the close frame; its code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Got::Close(code, reason) => return (code, reason),
                Got::Lost => panic!("lost without a close frame"),
                Got::Json(_) | Got::Binary(_) | Got::Ping => {}
            }
        }
    }
}
