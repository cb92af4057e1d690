//! A latency histogram for the hot path: fixed buckets, no lock, no allocation, no clock.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two buckets an octave from 512 ns up: boundaries 2^k and 1.5 × 2^k.
const BUCKETS: usize = 52;
const FIRST_OCTAVE: u32 = 9;

/// Counts of durations. One thread writes it (a relaxed load and store, no locked instruction),
/// anyone reads it.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration in ns. Only the thread that owns the histogram may call it.
    #[inline]
    pub fn record(&self, ns: u64) {
        self.record_many(ns, 1);
    }

    /// Counts `times` equal durations in ns.
    #[inline]
    pub fn record_many(&self, ns: u64, times: u64) {
        add(&self.buckets[bucket(ns)], times);
        add(&self.sum_ns, ns.saturating_mul(times));
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }
}

#[inline]
fn add(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// The bucket whose upper bound is the smallest that is not below `ns`.
#[inline]
fn bucket(ns: u64) -> usize {
    let value = ns.saturating_sub(1) | 1;
    let octave = value.ilog2();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let half = (value >> (octave - 1) & 1) as usize;
    (((octave - FIRST_OCTAVE) as usize) * 2 + half + 1).min(BUCKETS - 1)
}

/// Upper bound of a bucket in ns; the last has none.
fn upper_ns(index: usize) -> u64 {
    let base = 1_u64 << (FIRST_OCTAVE as usize + index / 2);
    if index.is_multiple_of(2) { base } else { base + base / 2 }
}

/// Appends one histogram in the Prometheus text format, the sum of `parts`, in seconds.
pub(super) fn render(name: &str, labels: &str, parts: &[&Histogram], out: &mut String) {
    let mut total = 0;
    let comma = if labels.is_empty() { "" } else { "," };
    for index in 0..BUCKETS {
        total += parts.iter().map(|h| h.buckets[index].load(Ordering::Relaxed)).sum::<u64>();
        if index + 1 < BUCKETS {
            let seconds = upper_ns(index) as f64 / 1e9;
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{seconds}\"}} {total}");
        }
    }
    let sum_seconds = parts.iter().map(|h| h.sum_ns.load(Ordering::Relaxed)).sum::<u64>() as f64 / 1e9;
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum_seconds}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_below_its_bound_and_above_the_one_before() {
        for ns in [0, 1, 511, 512, 513, 768, 769, 1024, 1025, 1_000_000, 1_500_000_000, 30_000_000_000] {
            let index = bucket(ns);
            if index + 1 < BUCKETS {
                assert!(ns <= upper_ns(index), "{ns} in {index}");
            }
            if index > 0 {
                assert!(ns > upper_ns(index - 1), "{ns} in {index}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn renders_the_sum_of_its_parts() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(400);
        b.record_many(2_000_000, 3);
        let mut out = String::new();
        render("x_seconds", "stage=\"s\"", &[&a, &b], &mut out);
        assert!(out.contains("x_seconds_bucket{stage=\"s\",le=\"0.000000512\"} 1\n"), "{out}");
        assert!(out.ends_with("x_seconds_sum{stage=\"s\"} 0.0060004\nx_seconds_count{stage=\"s\"} 4\n"), "{out}");
    }
}
