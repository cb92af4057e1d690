//! Every bound of the process that is not a setting, named, with its reason.

/// Instruments that one hub can hold: a hundred thousand simulated ones beside real venues.
/// Memory is taken in chunks as they appear.
pub const INSTRUMENTS_MAX: usize = 1 << 18;

/// Feeds (venues) of one hub: a session's concern for feeds is one word of bits.
pub const FEEDS_MAX: usize = 64;

/// Fan-out workers: a stream's interest is one word of bits.
pub const WORKERS_MAX: usize = 64;

/// Wire formats: a stream's interest is one word of bits for each.
pub const FORMATS_MAX: usize = 2;

/// Delays of roles that differ: each takes a store, a delay line for each feed thread, and threads
/// of its own.
pub const DELAYS_MAX: usize = 4;

/// Least bytes of one delay line: the largest book that is held, whole, and room beside it.
pub const DELAY_LINE_BYTES_MIN: usize = 16 * 1024 * 1024;

/// Bytes of a typical record of a delay line: a quote has 80, a trade 64 to 128, a change of two
/// levels of a book 120.
pub const DELAY_RECORD_BYTES: usize = 100;

/// Events that wait for one worker from one feed thread. At 200,000 events a second this is
/// 80 ms of a worker that does nothing else; beyond that its subscribers are told of a gap.
pub const LANE_EVENTS_MAX: usize = 16_384;

/// Requests of workers that wait for one feed thread; a request that finds it full is tried
/// again in the next turn.
pub const FEED_REQUESTS_MAX: usize = 65_536;

/// Largest ring of recent events of one stream, in bytes.
pub const RING_BYTES_MAX: usize = 64 * 1024;

/// Smallest ring worth having, in bytes: about a dozen quotes.
pub const RING_BYTES_MIN: usize = 1024;

/// Share of the remaining ring budget that one more ring may take: the first streams get full
/// rings, and a hundred thousand instruments still get one each.
pub const RING_BUDGET_SHARE: usize = 1024;

/// Patterns that one session may hold on all channels: each costs a look for every instrument
/// that overlaps it. Exact ids are bounded by the grant only.
pub const SESSION_PATTERNS_MAX: usize = 100;

/// Looks at instruments that one command may take before its next pattern is refused, some
/// milliseconds of a worker: ten patterns over 100,000 instruments, a hundred over 10,000. One
/// pattern alone always may.
pub const COMMAND_LOOKS_MAX: u64 = 1 << 20;

/// Looks at instruments that count as one more command in the rate of a session: some ten times what
/// else a command costs.
pub const LOOKS_PER_COMMAND: u64 = 4096;

/// Bytes of answers, announcements and states behind one full socket, beyond which the session is
/// closed as slow: the answer to a wildcard over every instrument that a hub can hold fits.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Parts of the budget for what waits (`limits.outboxes_bytes`) of which one is freed when it is
/// exceeded: the search for the worst, which looks at every session, is then rare. By as much it
/// may be exceeded before a worker ends its worst session without regard to the other workers'.
pub const OUTBOXES_MARGIN_PARTS: u64 = 8;

/// Addresses without a connection that are remembered for what they did in the last seconds: some
/// 5 MB. With the default limits a hundred are, since handshakes in all are bounded too.
pub const ADDRESSES_IDLE_MAX: usize = 65_536;

/// Connections without a credential up to which an address counts as one that has few, as a
/// browser's at the begin of a page.
pub const ADDRESS_FEW: u32 = 8;

/// Parts of the places for connections without a credential of which one is kept for addresses that
/// have few.
pub const RESERVED_PARTS: usize = 4;

/// Text of an upstream that a log line may carry, in bytes.
pub const LOG_TEXT_BYTES_MAX: usize = 200;

/// Text of a feed's cause that subscribers are told, in bytes.
pub const CAUSE_BYTES_MAX: usize = 120;

const _: () = assert!(RING_BYTES_MIN.is_power_of_two() && RING_BYTES_MAX.is_power_of_two());
const _: () = assert!(LANE_EVENTS_MAX.is_power_of_two());
const _: () = assert!(INSTRUMENTS_MAX <= u32::MAX as usize);
