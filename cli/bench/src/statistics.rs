//! Medians, and intervals that hold them, without assumptions on the distribution.

use serde::{Deserialize, Serialize};

/// How sure the interval of a median is meant to be.
pub const CONFIDENCE: f64 = 0.95;

/// Where the values of a sample lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// The true median lies from `low` to `high` with a confidence of 95 %.
    pub low: f64,
    pub high: f64,
    pub min: f64,
    pub max: f64,
    /// Whether there are values enough for that confidence; without it `low` and `high` are the
    /// smallest and the largest.
    pub sure: bool,
}

impl Summary {
    /// Summarizes `values`; `None` when there are none, or one that is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut ordered = values.to_vec();
        ordered.sort_by(f64::total_cmp);
        let (&min, &max) = (ordered.first()?, ordered.last()?);
        if ordered.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let cut = cut(ordered.len());
        let (low, high) = match cut {
            0 => (min, max),
            cut => (ordered[cut - 1], ordered[ordered.len() - cut]),
        };
        Some(Self {
            median: middle(&ordered),
            low,
            high,
            min,
            max,
            sure: cut > 0,
        })
    }
}

/// The median of `values`, 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut ordered = values.to_vec();
    ordered.sort_by(f64::total_cmp);
    middle(&ordered)
}

fn middle(ordered: &[f64]) -> f64 {
    let half = ordered.len() / 2;
    match ordered.len() {
        0 => 0.0,
        n if n % 2 == 1 => ordered[half],
        _ => f64::midpoint(ordered[half - 1], ordered[half]),
    }
}

/// From which value on, counted from 1 and from either end, the interval of the median reaches;
/// 0 when `count` values are too few for [`CONFIDENCE`].
///
/// Of `count` values the number below the true median is binomial with a half, whatever the
/// distribution; so the chance that fewer than `k` lie below it is a sum of binomials.
fn cut(count: usize) -> usize {
    let mut term = 0.5f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut below = 0.0;
    let mut cut = 0;
    while cut < count / 2 {
        below += term;
        if 1.0 - 2.0 * below < CONFIDENCE {
            break;
        }
        term *= (count - cut) as f64 / (cut + 1) as f64;
        cut += 1;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // From tables of the sign test at 95 %: the n-th value from either end.
        for (count, wanted) in [
            (1, 0),
            (5, 0),
            (6, 1),
            (8, 1),
            (9, 2),
            (12, 3),
            (15, 4),
            (20, 6),
            (30, 10),
            (100, 40),
        ] {
            assert_eq!(cut(count), wanted, "{count} values");
        }
        assert!(cut(5000) > 2400, "no overflow");
    }

    #[test]
    fn a_summary_covers_the_sample() {
        let values: Vec<f64> = (1..=15).rev().map(f64::from).collect();
        let summary = Summary::of(&values).expect("values");
        assert_eq!(
            summary,
            Summary {
                median: 8.0,
                low: 4.0,
                high: 12.0,
                min: 1.0,
                max: 15.0,
                sure: true
            }
        );
    }

    #[test]
    fn few_values_are_not_sure() {
        let summary = Summary::of(&[2.0, 1.0, 3.0]).expect("values");
        assert!(!summary.sure);
        assert_eq!((summary.low, summary.high), (1.0, 3.0));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }
}
