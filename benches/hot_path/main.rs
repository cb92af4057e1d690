//! The way of an event, piece by piece: `cargo bench --bench hot_path`, or a part of it by name:
//! `cargo bench --bench hot_path -- resume`.
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod encode;
mod fan_out;
mod ingest;
mod parse;
mod resume;
mod store;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, parse::parse, encode::encode, store::store, ingest::ingest, fan_out::fan_out, resume::resume);
criterion_main!(benches);
