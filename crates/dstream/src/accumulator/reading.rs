//! What a state says to people and programs.

use super::{AccumulatorKind, AccumulatorState, Held, NativeMerge, Scalar};

/// The value of an accumulator, with all that one has to know of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// `None`: nothing was added to a kind that has no value then, or there is a problem. Of a histogram the number of
    /// values.
    pub value: Option<Scalar>,
    /// Values that were added: neither null nor NaN.
    pub count: u64,
    /// NaN that were given and left out.
    pub nan: u64,
    /// Of a histogram.
    pub buckets: Vec<Bucket>,
    /// Of a set of at most [`Reading::MAX_VALUES`] values, ascending.
    pub values: Vec<Scalar>,
    /// Why there is no value although some were added.
    pub problem: Option<String>,
}

/// How many values a bucket of a histogram has: those above the bound before it, up to its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// `None`: the last bucket has no bound.
    pub bound: Option<f64>,
    pub count: u64,
}

impl Reading {
    /// Values of a set that a reading shows.
    pub const MAX_VALUES: usize = 1000;
}

impl AccumulatorState {
    #[must_use]
    pub fn read(&self, kind: &AccumulatorKind, native: &dyn NativeMerge) -> Reading {
        let mut reading = Reading {
            count: self.count,
            nan: self.nan,
            ..Reading::default()
        };
        let average = matches!(kind, AccumulatorKind::Average);
        match &self.held {
            Held::Count => reading.value = Some(whole(self.count)),
            Held::Integers(_) | Held::Floats(_) if average && self.count == 0 => {}
            Held::Integers(sum) if average => reading.value = Some(Scalar::float(*sum as f64 / self.count as f64)),
            Held::Integers(sum) => match i64::try_from(*sum) {
                Ok(sum) => reading.value = Some(Scalar::Integer(sum)),
                Err(_) => reading.problem = Some(format!("the sum {sum} is beyond whole numbers of 64 bits")),
            },
            Held::Floats(sum) if sum.has_infinities() => {
                reading.problem = Some("infinite numbers were added".to_owned());
            }
            Held::Floats(sum) => match sum.value() {
                sum if sum.is_infinite() => {
                    reading.problem = Some("the sum is beyond floating-point numbers of 64 bits".to_owned());
                }
                sum if average => reading.value = Some(Scalar::float(sum / self.count as f64)),
                sum => reading.value = Some(Scalar::float(sum)),
            },
            Held::Least(value) | Held::Greatest(value) => reading.value.clone_from(value),
            Held::Distinct(set) => match set.values() {
                Some(values) => {
                    reading.value = Some(whole(values.len() as u64));
                    if values.len() <= Reading::MAX_VALUES {
                        reading.values = values.iter().cloned().collect();
                    }
                }
                None => {
                    let limit = match kind {
                        AccumulatorKind::Distinct { limit } => *limit,
                        _ => 0,
                    };
                    reading.problem = Some(format!(
                        "more than {limit} different values, or too long ones; approx_distinct has no limit"
                    ));
                }
            },
            Held::Approximate(sketch) => reading.value = Some(whole(sketch.estimate())),
            Held::Buckets(counts) => {
                let bounds = match kind {
                    AccumulatorKind::Histogram { bounds } => bounds.as_slice(),
                    _ => &[],
                };
                let bucket = |(i, count): (usize, &u64)| Bucket {
                    bound: bounds.get(i).copied(),
                    count: *count,
                };
                reading.buckets = counts.iter().enumerate().map(bucket).collect();
                reading.value = Some(whole(self.count));
            }
            Held::Native(state) => {
                let AccumulatorKind::Native { name } = kind else {
                    return reading;
                };
                match native.value(name, state.as_deref()) {
                    Ok(value) => reading.value = Some(value),
                    Err(problem) => reading.problem = Some(problem),
                }
            }
        }
        reading
    }
}

fn whole(count: u64) -> Scalar {
    Scalar::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}
