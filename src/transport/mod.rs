//! How subscribers reach the hub: one folder for each transport.

pub mod websocket;
