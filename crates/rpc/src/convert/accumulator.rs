//! Accumulators: their definitions, what they have taken in, and what is read of them.
//!
//! States are kept beyond the life of a build. What is decoded here may come from an older one, or be damaged.

use bytes::Bytes;
use tidemill_dstream::accumulator::{
    AccumulatorState, Bucket, DistinctSet, ExactSum, Held, HyperLogLog, LIMBS, Reading, Scalar,
};
use tidemill_dstream::plan::AccumulatorPlan;
use tidemill_dstream::{AccumulatorDef, AccumulatorKind, Addition, Line, ValueType};
use tidemill_types::AccumulatorId;

use super::{Error, required};
use crate::{control, plan};

/// Of states, and raised when what is in an old one means something else.
const STATE_VERSION: u32 = 1;

// === Definitions ===

impl From<&AccumulatorDef> for plan::Accumulator {
    fn from(accumulator: &AccumulatorDef) -> Self {
        Self {
            name: accumulator.name.clone(),
            kind: Some((&accumulator.kind).into()),
            r#type: value_type(accumulator.value_type).into(),
            unlisted: !accumulator.listed,
            line: accumulator.line.0,
        }
    }
}

impl TryFrom<plan::Accumulator> for AccumulatorDef {
    type Error = Error;

    fn try_from(accumulator: plan::Accumulator) -> Result<Self, Error> {
        Ok(Self {
            name: accumulator.name,
            kind: required("kind", accumulator.kind)?,
            value_type: from_value_type(accumulator.r#type)?,
            listed: !accumulator.unlisted,
            line: Line(accumulator.line),
        })
    }
}

impl From<&AccumulatorKind> for plan::AccumulatorKind {
    fn from(kind: &AccumulatorKind) -> Self {
        use plan::accumulator_kind::Kind;
        let kind = match kind {
            AccumulatorKind::Sum => Kind::Sum(plan::SumAccumulator {}),
            AccumulatorKind::Count => Kind::Count(plan::CountAccumulator {}),
            AccumulatorKind::Min => Kind::Min(plan::MinAccumulator {}),
            AccumulatorKind::Max => Kind::Max(plan::MaxAccumulator {}),
            AccumulatorKind::Average => Kind::Average(plan::AverageAccumulator {}),
            AccumulatorKind::Distinct { limit } => Kind::Distinct(plan::DistinctAccumulator { limit: *limit }),
            AccumulatorKind::ApproxDistinct => Kind::ApproxDistinct(plan::ApproxDistinctAccumulator {}),
            AccumulatorKind::Histogram { bounds } => {
                let bounds = bounds.clone();
                Kind::Histogram(plan::HistogramAccumulator { bounds })
            }
            AccumulatorKind::Native { name } => Kind::Native(plan::NativeAccumulator { name: name.clone() }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<plan::AccumulatorKind> for AccumulatorKind {
    type Error = Error;

    fn try_from(kind: plan::AccumulatorKind) -> Result<Self, Error> {
        use plan::accumulator_kind::Kind;
        Ok(match kind.kind.ok_or_else(|| Error::missing("kind"))? {
            Kind::Sum(plan::SumAccumulator {}) => Self::Sum,
            Kind::Count(plan::CountAccumulator {}) => Self::Count,
            Kind::Min(plan::MinAccumulator {}) => Self::Min,
            Kind::Max(plan::MaxAccumulator {}) => Self::Max,
            Kind::Average(plan::AverageAccumulator {}) => Self::Average,
            Kind::Distinct(plan::DistinctAccumulator { limit }) => Self::Distinct { limit },
            Kind::ApproxDistinct(plan::ApproxDistinctAccumulator {}) => Self::ApproxDistinct,
            Kind::Histogram(plan::HistogramAccumulator { bounds }) => Self::Histogram { bounds },
            Kind::Native(plan::NativeAccumulator { name }) => Self::Native { name },
        })
    }
}

fn value_type(value_type: Option<ValueType>) -> plan::AccumulatorType {
    match value_type {
        // Here unspecified has a meaning: that of what is added.
        None => plan::AccumulatorType::Unspecified,
        Some(ValueType::Boolean) => plan::AccumulatorType::Boolean,
        Some(ValueType::Integer) => plan::AccumulatorType::Integer,
        Some(ValueType::Float) => plan::AccumulatorType::Float,
        Some(ValueType::Text) => plan::AccumulatorType::Text,
        Some(ValueType::Date) => plan::AccumulatorType::Date,
        Some(ValueType::Timestamp) => plan::AccumulatorType::Timestamp,
    }
}

fn from_value_type(value: i32) -> Result<Option<ValueType>, Error> {
    let known = plan::AccumulatorType::try_from(value).map_err(|_| Error::unknown("type", value))?;
    Ok(match known {
        plan::AccumulatorType::Unspecified => None,
        plan::AccumulatorType::Boolean => Some(ValueType::Boolean),
        plan::AccumulatorType::Integer => Some(ValueType::Integer),
        plan::AccumulatorType::Float => Some(ValueType::Float),
        plan::AccumulatorType::Text => Some(ValueType::Text),
        plan::AccumulatorType::Date => Some(ValueType::Date),
        plan::AccumulatorType::Timestamp => Some(ValueType::Timestamp),
    })
}

impl From<&Addition> for plan::Addition {
    fn from(addition: &Addition) -> Self {
        Self {
            into: addition.into.clone(),
            add: Some((&addition.add).into()),
            when: addition.when.as_ref().map(Into::into),
            line: addition.line.0,
        }
    }
}

impl TryFrom<plan::Addition> for Addition {
    type Error = Error;

    fn try_from(addition: plan::Addition) -> Result<Self, Error> {
        let when = addition.when.map(TryInto::try_into).transpose();
        Ok(Self {
            into: addition.into,
            add: required("add", addition.add)?,
            when: when.map_err(|error: Error| error.inside("when"))?,
            line: Line(addition.line),
        })
    }
}

impl From<&AccumulatorPlan> for plan::AccumulatorPlan {
    fn from(accumulator: &AccumulatorPlan) -> Self {
        Self {
            id: accumulator.id.0,
            name: accumulator.name.clone(),
            kind: Some((&accumulator.kind).into()),
            r#type: value_type(accumulator.value_type).into(),
            listed: accumulator.listed,
        }
    }
}

impl TryFrom<plan::AccumulatorPlan> for AccumulatorPlan {
    type Error = Error;

    fn try_from(accumulator: plan::AccumulatorPlan) -> Result<Self, Error> {
        Ok(Self {
            id: AccumulatorId(accumulator.id),
            name: accumulator.name,
            kind: required("kind", accumulator.kind)?,
            value_type: from_value_type(accumulator.r#type)?,
            listed: accumulator.listed,
        })
    }
}

// === States ===

impl From<&AccumulatorState> for plan::AccumulatorState {
    fn from(state: &AccumulatorState) -> Self {
        use plan::accumulator_state::Held as Wire;
        let extreme = |value: &Option<Scalar>| plan::ExtremeHeld {
            value: value.as_ref().map(Into::into),
        };
        let held = match &state.held {
            Held::Count => Wire::Counted(plan::CountHeld {}),
            Held::Integers(sum) => Wire::Integers(plan::IntegersHeld {
                high: (sum >> 64) as i64,
                low: *sum as u64,
            }),
            Held::Floats(sum) => Wire::Floats(floats(sum)),
            Held::Least(value) => Wire::Least(extreme(value)),
            Held::Greatest(value) => Wire::Greatest(extreme(value)),
            Held::Distinct(set) => Wire::Distinct(plan::DistinctHeld {
                values: set.values().into_iter().flatten().map(Into::into).collect(),
                over: set.values().is_none(),
            }),
            Held::Approximate(sketch) => Wire::Approximate(approximate(sketch)),
            Held::Buckets(counts) => Wire::Buckets(plan::BucketsHeld { counts: counts.clone() }),
            Held::Native(state) => Wire::Native(plan::NativeHeld {
                state: state.as_ref().map(|state| Bytes::copy_from_slice(state)),
            }),
        };
        Self {
            version: STATE_VERSION,
            count: state.count,
            nan: state.nan,
            held: Some(held),
        }
    }
}

impl TryFrom<plan::AccumulatorState> for AccumulatorState {
    type Error = Error;

    fn try_from(state: plan::AccumulatorState) -> Result<Self, Error> {
        use plan::accumulator_state::Held as Wire;
        if state.version != STATE_VERSION {
            let message = format!("{}, and this build reads {STATE_VERSION}", state.version);
            return Err(Error::new("version", message));
        }
        let extreme = |held: plan::ExtremeHeld| held.value.map(TryInto::try_into).transpose();
        let held = match state.held.ok_or_else(|| Error::missing("held"))? {
            Wire::Counted(plan::CountHeld {}) => Held::Count,
            Wire::Integers(sum) => Held::Integers(i128::from(sum.high) << 64 | i128::from(sum.low)),
            Wire::Floats(sum) => Held::Floats(Box::new(from_floats(&sum)?)),
            Wire::Least(value) => Held::Least(extreme(value)?),
            Wire::Greatest(value) => Held::Greatest(extreme(value)?),
            Wire::Distinct(set) if set.over => Held::Distinct(DistinctSet::of(None::<Vec<Scalar>>)),
            Wire::Distinct(set) => {
                let values = set.values.into_iter().map(Scalar::try_from);
                Held::Distinct(DistinctSet::of(Some(values.collect::<Result<Vec<_>, _>>()?)))
            }
            Wire::Approximate(sketch) => Held::Approximate(from_approximate(&sketch)?),
            Wire::Buckets(buckets) => Held::Buckets(buckets.counts),
            Wire::Native(native) => Held::Native(native.state.map(|state| state.to_vec())),
        };
        Ok(Self {
            count: state.count,
            nan: state.nan,
            held,
        })
    }
}

fn floats(sum: &ExactSum) -> plan::FloatsHeld {
    let (limbs, positive_infinities, negative_infinities) = sum.parts();
    let first = limbs.iter().position(|limb| *limb != 0);
    let last = limbs.iter().rposition(|limb| *limb != 0);
    let limbs = match (first, last) {
        (Some(first), Some(last)) => &limbs[first..=last],
        _ => &[],
    };
    plan::FloatsHeld {
        first: first.unwrap_or(0) as u32,
        limbs: limbs.to_vec(),
        positive_infinities,
        negative_infinities,
    }
}

fn from_floats(sum: &plan::FloatsHeld) -> Result<ExactSum, Error> {
    let mut limbs = [0; LIMBS];
    let first = sum.first as usize;
    let place = limbs.get_mut(first..first + sum.limbs.len());
    let place = place.ok_or_else(|| Error::new("floats.limbs", "more than a sum has"))?;
    place.copy_from_slice(&sum.limbs);
    Ok(ExactSum::from_parts(
        &limbs,
        sum.positive_infinities,
        sum.negative_infinities,
    ))
}

fn approximate(sketch: &HyperLogLog) -> plan::ApproximateHeld {
    let (mut registers, mut ranks) = (Vec::new(), Vec::new());
    let mut before = 0;
    for (number, rank) in sketch.set_registers() {
        registers.push(number - before);
        ranks.push(rank);
        before = number;
    }
    plan::ApproximateHeld {
        registers,
        ranks: ranks.into(),
    }
}

fn from_approximate(held: &plan::ApproximateHeld) -> Result<HyperLogLog, Error> {
    let mut sketch = HyperLogLog::default();
    let mut number = 0_u32;
    if held.registers.len() != held.ranks.len() {
        return Err(Error::new("approximate.ranks", "not one for each register"));
    }
    for (step, rank) in held.registers.iter().zip(held.ranks.iter()) {
        number = number.saturating_add(*step);
        if !sketch.set(number, *rank) {
            return Err(Error::new("approximate.registers", "not a register of a sketch"));
        }
    }
    Ok(sketch)
}

impl From<&Scalar> for plan::AccumulatorScalar {
    fn from(scalar: &Scalar) -> Self {
        use plan::accumulator_scalar::Value;
        let value = match scalar {
            Scalar::Boolean(value) => Value::Boolean(*value),
            Scalar::Integer(value) => Value::Integer(*value),
            Scalar::Float(value) => Value::Float(*value),
            Scalar::Text(text) => Value::Text(text.clone()),
            Scalar::Date(days) => Value::Date(*days),
            Scalar::Timestamp(nanos) => Value::Timestamp(*nanos),
        };
        Self { value: Some(value) }
    }
}

impl TryFrom<plan::AccumulatorScalar> for Scalar {
    type Error = Error;

    fn try_from(scalar: plan::AccumulatorScalar) -> Result<Self, Error> {
        use plan::accumulator_scalar::Value;
        Ok(match scalar.value.ok_or_else(|| Error::missing("value"))? {
            Value::Boolean(value) => Self::Boolean(value),
            Value::Integer(value) => Self::Integer(value),
            Value::Float(value) => Self::Float(value),
            Value::Text(text) => Self::Text(text),
            Value::Date(days) => Self::Date(days),
            Value::Timestamp(nanos) => Self::Timestamp(nanos),
        })
    }
}

// === Readings ===

impl From<&Reading> for control::AccumulatorReading {
    fn from(reading: &Reading) -> Self {
        let bucket = |bucket: &Bucket| control::AccumulatorBucket {
            bound: bucket.bound,
            count: bucket.count,
        };
        Self {
            value: reading.value.as_ref().map(Into::into),
            count: reading.count,
            nan: reading.nan,
            buckets: reading.buckets.iter().map(bucket).collect(),
            values: reading.values.iter().map(Into::into).collect(),
            problem: reading.problem.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<control::AccumulatorReading> for Reading {
    type Error = Error;

    fn try_from(reading: control::AccumulatorReading) -> Result<Self, Error> {
        let bucket = |bucket: control::AccumulatorBucket| Bucket {
            bound: bucket.bound,
            count: bucket.count,
        };
        Ok(Self {
            value: reading.value.map(TryInto::try_into).transpose()?,
            count: reading.count,
            nan: reading.nan,
            buckets: reading.buckets.into_iter().map(bucket).collect(),
            values: super::each("values", reading.values)?,
            problem: Some(reading.problem).filter(|problem| !problem.is_empty()),
        })
    }
}
