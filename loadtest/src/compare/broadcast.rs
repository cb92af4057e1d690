//! What a program built from tokio's own parts does, as axum's chat example shows it: a task for each client,
//! tokio-tungstenite, and one broadcast channel, all with their defaults. A client that falls behind the channel loses
//! what it missed.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::broadcast::{self, Receiver, Sender, error::RecvError},
};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    handshake::server::{ErrorResponse, Request, Response},
};

use super::feed::{self, Incoming};

/// Updates that a client may be behind: the example's own number.
const CHANNEL: usize = 100;

/// Symbol and text.
type Update = (usize, Utf8Bytes);

/// Serves until the feed ends.
///
/// # Errors
/// As the system says.
pub fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> io::Result<()> {
    let listener = super::server::listen()?;
    let feed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    super::server::announce("broadcast", &listener, &feed)?;
    let (feed, _) = feed.accept()?;
    feed.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (sender, _) = broadcast::channel(CHANNEL);
    let accepting = sender.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(client(stream, accepting.clone()));
        }
    });
    publish(TcpStream::from_std(feed)?, &sender).await
}

async fn publish(mut feed: TcpStream, sender: &Sender<Update>) -> io::Result<()> {
    let mut incoming = Incoming::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let bytes = feed.read(&mut buffer).await?;
        if bytes == 0 {
            return Ok(());
        }
        for (symbol, text) in incoming.take(&buffer[..bytes])? {
            let text = String::from_utf8(text).map_err(io::Error::other)?;
            // Nobody listening is no fault.
            let _ = sender.send((symbol, text.into()));
        }
    }
}

/// Serves one client until it leaves, which is nobody's fault.
async fn client(stream: TcpStream, sender: Sender<Update>) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut symbols = Vec::new();
    #[allow(clippy::result_large_err)] // The library's own signature.
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        symbols = feed::symbols_of_path(&request.uri().to_string());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await?;
    let mut updates: Receiver<Update> = sender.subscribe();
    socket.send(Message::text(String::from_utf8_lossy(feed::READY).into_owned())).await?;
    let (mut write, mut read) = socket.split();
    let writing = async {
        loop {
            match updates.recv().await {
                Ok((symbol, text)) if symbols.contains(&symbol) => write.send(Message::Text(text)).await?,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    };
    let reading = async {
        while let Some(message) = read.next().await {
            message?;
        }
        Ok(())
    };
    tokio::select! {
        ended = writing => ended,
        ended = reading => ended,
    }
}
