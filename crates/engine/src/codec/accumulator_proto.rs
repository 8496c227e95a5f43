//! Accumulators that values are added to, as bytes.

use std::sync::Arc;

use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use prost::Message;
use tidemill_dstream::{AccumulatorKind, ValueType};
use tidemill_types::AccumulatorId;

use crate::accumulate::{Bound, Target};
use crate::registry::Registry;

#[derive(Clone, PartialEq, Message)]
pub(super) struct TargetProto {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(oneof = "Kind", tags = "3, 4, 5, 6, 7, 8, 9, 10, 11")]
    kind: Option<Kind>,
    /// The name of the type; none: it makes no difference, or nothing says it.
    #[prost(string, optional, tag = "12")]
    value_type: Option<String>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(bool, tag = "3")]
    Sum(bool),
    #[prost(bool, tag = "4")]
    Count(bool),
    #[prost(bool, tag = "5")]
    Min(bool),
    #[prost(bool, tag = "6")]
    Max(bool),
    #[prost(bool, tag = "7")]
    Average(bool),
    #[prost(uint32, tag = "8")]
    Distinct(u32),
    #[prost(bool, tag = "9")]
    ApproxDistinct(bool),
    #[prost(message, tag = "10")]
    Histogram(BoundsProto),
    #[prost(string, tag = "11")]
    Native(String),
}

#[derive(Clone, PartialEq, Message)]
struct BoundsProto {
    #[prost(double, repeated, tag = "1")]
    bounds: Vec<f64>,
}

impl TargetProto {
    pub(super) fn of(target: &Target) -> Self {
        let kind = match &target.kind {
            AccumulatorKind::Sum => Kind::Sum(true),
            AccumulatorKind::Count => Kind::Count(true),
            AccumulatorKind::Min => Kind::Min(true),
            AccumulatorKind::Max => Kind::Max(true),
            AccumulatorKind::Average => Kind::Average(true),
            AccumulatorKind::Distinct { limit } => Kind::Distinct(*limit),
            AccumulatorKind::ApproxDistinct => Kind::ApproxDistinct(true),
            AccumulatorKind::Histogram { bounds } => Kind::Histogram(BoundsProto { bounds: bounds.clone() }),
            AccumulatorKind::Native { name } => Kind::Native(name.clone()),
        };
        Self {
            id: target.id.0,
            name: target.name.clone(),
            kind: Some(kind),
            value_type: target.value_type.map(|value_type| value_type.name().to_owned()),
        }
    }

    pub(super) fn decoded(proto: Option<Self>, registry: &Registry) -> Result<Target> {
        let Some(Self {
            id,
            name,
            kind: Some(kind),
            value_type,
        }) = proto
        else {
            return internal_err!("an accumulator of an unknown kind: driver and executors must be of one build");
        };
        let mut native = None;
        let kind = match kind {
            Kind::Sum(_) => AccumulatorKind::Sum,
            Kind::Count(_) => AccumulatorKind::Count,
            Kind::Min(_) => AccumulatorKind::Min,
            Kind::Max(_) => AccumulatorKind::Max,
            Kind::Average(_) => AccumulatorKind::Average,
            Kind::Distinct(limit) => AccumulatorKind::Distinct { limit },
            Kind::ApproxDistinct(_) => AccumulatorKind::ApproxDistinct,
            Kind::Histogram(BoundsProto { bounds }) => AccumulatorKind::Histogram { bounds },
            Kind::Native(registered) => {
                let Some(accumulator) = registry.accumulator(&registered) else {
                    return Err(super::unregistered(&registered));
                };
                native = Some(Arc::clone(accumulator));
                AccumulatorKind::Native { name: registered }
            }
        };
        let known = |name: String| {
            let known = ValueType::ALL.iter().find(|(known, _)| *known == name);
            known.map(|(_, value_type)| *value_type)
        };
        let value_type = match value_type {
            None => None,
            Some(name) => Some(
                known(name).ok_or_else(|| internal_datafusion_err!("decoding an accumulator: its type is unknown"))?,
            ),
        };
        Ok(Target {
            id: AccumulatorId(id),
            name,
            kind,
            value_type,
            native,
        })
    }
}

/// What the handles of a function stand for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BoundProto {
    #[prost(message, repeated, tag = "1")]
    bound: Vec<HandleProto>,
}

#[derive(Clone, PartialEq, Message)]
struct HandleProto {
    #[prost(string, tag = "1")]
    handle: String,
    #[prost(message, optional, tag = "2")]
    target: Option<TargetProto>,
}

impl BoundProto {
    /// `None` of a function without handles.
    pub(super) fn of(bound: &[Bound]) -> Option<Self> {
        let handle = |bound: &Bound| HandleProto {
            handle: bound.handle.clone(),
            target: Some(TargetProto::of(&bound.target)),
        };
        (!bound.is_empty()).then(|| Self {
            bound: bound.iter().map(handle).collect(),
        })
    }

    pub(super) fn decoded(proto: Option<Self>, registry: &Registry) -> Result<Arc<[Bound]>> {
        let handles = proto.map(|proto| proto.bound).unwrap_or_default();
        let bound = handles.into_iter().map(|handle| {
            Ok(Bound {
                handle: handle.handle,
                target: Arc::new(TargetProto::decoded(handle.target, registry)?),
            })
        });
        bound.collect()
    }
}
