//! Statistics of what was measured. Nothing measured gives NaN, which a [`Figure`](crate::Figure) shows as null.

/// The middle value, the mean of the two middle ones of an even number.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// The smallest value that at least `percent` of all values do not exceed.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted
        .get(rank - 1)
        .or_else(|| sorted.last())
        .copied()
        .unwrap_or(f64::NAN)
}

/// The same of values that count as often as their weights say.
#[must_use]
pub fn weighted_percentile(values: &[(f64, f64)], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let limit = sorted.iter().map(|(_, weight)| weight).sum::<f64>() * percent / 100.0;
    let mut passed = 0.0;
    for (value, weight) in &sorted {
        passed += weight;
        if passed >= limit {
            return *value;
        }
    }
    sorted.last().map_or(f64::NAN, |(value, _)| *value)
}

/// By how much a straight line fitted to the values rises from the first to the last.
#[must_use]
pub fn rise(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let steps = (values.len() - 1) as f64;
    let middle = steps / 2.0;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let distance = index as f64 - middle;
        covariance += distance * (value - mean);
        variance += distance * distance;
    }
    covariance / variance * steps
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), 50.0);
        assert_eq!(percentile(&values, 99.0), 99.0);
        assert_eq!(percentile(&values, 100.0), 100.0);
        assert_eq!(percentile(&[5.0], 99.0), 5.0);
    }

    #[test]
    fn weights_count_as_repetitions() {
        let values = [(1.0, 98.0), (2.0, 1.0), (3.0, 1.0)];
        assert_eq!(weighted_percentile(&values, 50.0), 1.0);
        assert_eq!(weighted_percentile(&values, 99.0), 2.0);
        assert_eq!(weighted_percentile(&values, 100.0), 3.0);
    }

    #[test]
    fn the_rise_of_a_straight_line_is_its_own() {
        assert_eq!(rise(&[1.0, 3.0, 5.0, 7.0]), 6.0);
        assert_eq!(rise(&[2.0, 2.0, 2.0]), 0.0);
        assert!(rise(&[0.0, 1.0, -1.0, 0.0]).abs() < 1.0);
    }
}
