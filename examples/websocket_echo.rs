//! An echo server of the hub's own WebSocket code, for conformance suites: see `scripts/autobahn`.
//!
//! `cargo run --example websocket_echo -- 127.0.0.1:9001` prints its URL once it listens.
#![allow(clippy::print_stdout)] // It is a program for a terminal.

#[path = "../tests/support/echo.rs"]
mod echo;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("ws://{}", listener.local_addr()?);
    echo::serve(listener).await;
    Ok(())
}
