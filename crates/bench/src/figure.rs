//! One measured figure as a line of JSON.

use std::fmt;

use serde_json::Value;

use crate::median;

/// A figure: the median of its runs with their spread, and what it is compared with.
///
/// ```
/// use tidemill_bench::Figure;
///
/// let figure = Figure::new("wordcount", "lines", "lines/s", &[3.0, 1.0, 2.0]).baseline(&[4.0, 4.0]);
/// assert_eq!(
///     figure.to_string(),
///     r#"{"bench":"wordcount","metric":"lines","value":2.0,"unit":"lines/s","min":1.0,"max":3.0,"runs":3,"baseline":4.0,"ratio":0.5}"#
/// );
/// ```
#[derive(Clone, Debug)]
pub struct Figure {
    /// In the order of the line.
    fields: Vec<(&'static str, Value)>,
    value: f64,
}

impl Figure {
    /// `runs` has one value for each run.
    #[must_use]
    pub fn new(bench: &str, metric: &str, unit: &str, runs: &[f64]) -> Self {
        let value = median(runs);
        Self {
            fields: vec![
                ("bench", bench.into()),
                ("metric", metric.into()),
                ("value", number(value)),
                ("unit", unit.into()),
                ("min", number(runs.iter().copied().fold(f64::NAN, f64::min))),
                ("max", number(runs.iter().copied().fold(f64::NAN, f64::max))),
                ("runs", runs.len().into()),
            ],
            value,
        }
    }

    /// What a baseline came to in the same runs; the ratio is that of the medians.
    #[must_use]
    pub fn baseline(mut self, runs: &[f64]) -> Self {
        let baseline = median(runs);
        self.fields.push(("baseline", number(baseline)));
        self.fields.push(("ratio", number(self.value / baseline)));
        self
    }

    /// What the figure, or its ratio if it has one, has to be.
    #[must_use]
    pub fn target(mut self, target: f64) -> Self {
        self.fields.push(("target", number(target)));
        self
    }

    /// What one has to know to read it.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.fields.push(("note", Value::String(note.into())));
        self
    }

    /// Writes the line to standard output.
    pub fn print(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.fields.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write!(f, "{before}{}:{value}", Value::from(*name))?;
        }
        f.write_str("}")
    }
}

/// Six digits at most: what is behind them is noise. What is not a number is null.
fn number(value: f64) -> Value {
    const DIGITS: i32 = 6;
    if !value.is_finite() {
        return Value::Null;
    }
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().ceil() };
    let scale = 10_f64.powi(DIGITS - magnitude as i32);
    Value::from((value * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_median_the_spread_and_the_number_of_runs() {
        let figure = Figure::new("overhead", "p50", "ms", &[2.0, 9.0, 4.0]).target(3.0);
        let expected = serde_json::json!({
            "bench": "overhead", "metric": "p50", "value": 4.0, "unit": "ms", "min": 2.0, "max": 9.0, "runs": 3,
            "target": 3.0
        });
        let line: Value = serde_json::from_str(&figure.to_string()).unwrap();
        assert_eq!(line, expected);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let line: Value = serde_json::from_str(&Figure::new("b", "m", "ms", &[]).to_string()).unwrap();
        assert_eq!(line["value"], Value::Null);
    }

    #[test]
    fn digits_that_are_noise_are_left_out() {
        assert_eq!(number(1_234_567.891), Value::from(1_234_570.0));
        assert_eq!(number(0.012_345_678_9), Value::from(0.012_345_7));
    }
}
