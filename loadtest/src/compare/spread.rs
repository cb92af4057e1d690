//! Figures of repeated measurements.

use serde::Serialize;

/// Several measurements of one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Smallest.
    pub min: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub q3: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; `None` where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        // Between two values where the quantile falls between them.
        let quantile = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, part) = (place.floor() as usize, place.fract());
            let high = (low + 1).min(sorted.len() - 1);
            sorted[low] + (sorted[high] - sorted[low]) * part
        };
        Some(Self { count: sorted.len(), min, q1: quantile(0.25), median: quantile(0.5), q3: quantile(0.75), max })
    }
}

/// The spread of the ratios within pairs: what both sides of a pair have in common falls out before the median is
/// taken.
pub fn ratios(pairs: &[(f64, f64)]) -> Option<Spread> {
    Spread::of(pairs.iter().filter(|(_, under)| *under > 0.0).map(|(over, under)| over / under))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_are_those_of_the_textbook() {
        let spread = Spread::of([5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { count: 5, min: 1.0, q1: 2.0, median: 3.0, q3: 4.0, max: 5.0 });
        let even = Spread::of([1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((even.q1, even.median, even.q3), (1.75, 2.5, 3.25));
        assert_eq!(Spread::of([7.0]).unwrap().q3, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_machine_that_slows_down_between_pairs_changes_no_ratio() {
        let pairs = [(11.0, 10.0), (22.0, 20.0), (110.0, 100.0)];
        let spread = ratios(&pairs).unwrap();
        assert!((spread.min - 1.1).abs() < 1e-9 && (spread.max - 1.1).abs() < 1e-9);
        assert_eq!(ratios(&[(1.0, 0.0)]), None, "nothing was measured");
    }
}
