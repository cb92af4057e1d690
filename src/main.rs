//! tickhub
fn main() {}
