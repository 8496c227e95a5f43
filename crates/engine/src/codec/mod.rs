//! Our own plan nodes as bytes, beside those that datafusion-proto knows.

mod accumulator_proto;
mod fold_proto;

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::PhysicalExprNode;
use prost::Message;
use tidemill_types::SlotId;

use crate::accumulate::{AccumulateExec, Added};
use crate::fold::FoldFunction;
use crate::glom::GlomExec;
use crate::ipc::{decode_ipc, encode_ipc};
use crate::placement::Placement;
use crate::registry::{Function, NativeBatchesExec, NativeScalar, Registry};
use crate::slot_scan::SlotScanExec;
use crate::split_count::{SplitCount, SplitCountExec};
use crate::state::{StateExec, StateKind, StateSpec, Update, Value};
use crate::windowed::{Window, WindowMergeExec};
use crate::zip_union::ZipUnionExec;

use accumulator_proto::{BoundProto, TargetProto};

/// Encodes and, with the functions of the build, decodes.
#[derive(Debug, Default)]
pub(crate) struct NodeCodec {
    registry: Registry,
}

impl NodeCodec {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(oneof = "Node", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    node: Option<Node>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Node {
    #[prost(message, tag = "1")]
    SlotScan(SlotScanProto),
    #[prost(message, tag = "2")]
    ZipUnion(ZipUnionProto),
    #[prost(message, tag = "3")]
    SplitCount(SplitCountProto),
    #[prost(message, tag = "4")]
    WindowMerge(WindowMergeProto),
    #[prost(message, tag = "5")]
    State(StateProto),
    #[prost(message, tag = "6")]
    Glom(GlomProto),
    #[prost(message, tag = "7")]
    NativeBatches(NativeBatchesProto),
    #[prost(message, tag = "8")]
    Accumulate(AccumulateProto),
}

#[derive(Clone, PartialEq, Message)]
struct AccumulateProto {
    #[prost(uint32, tag = "1")]
    operator: u32,
    #[prost(message, repeated, tag = "2")]
    added: Vec<AddedProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AddedProto {
    #[prost(message, optional, tag = "1")]
    target: Option<TargetProto>,
    /// An expression in datafusion-proto's form.
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct NativeBatchesProto {
    /// The name under which the function is registered.
    #[prost(string, tag = "1")]
    function: String,
    #[prost(message, optional, tag = "2")]
    accumulators: Option<BoundProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GlomProto {}

#[derive(Clone, PartialEq, Message)]
struct SlotScanProto {
    #[prost(uint32, tag = "1")]
    slot: u32,
    #[prost(string, tag = "2")]
    label: String,
    /// An Arrow IPC stream without batches.
    #[prost(bytes = "bytes", tag = "3")]
    schema: Bytes,
    #[prost(message, optional, tag = "4")]
    projection: Option<ProjectionProto>,
    #[prost(uint64, tag = "5")]
    partitions: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ProjectionProto {
    #[prost(uint64, repeated, tag = "1")]
    columns: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct ZipUnionProto {
    #[prost(bytes = "bytes", tag = "1")]
    schema: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct SplitCountProto {
    /// Expressions are in datafusion-proto's form.
    #[prost(bytes = "bytes", tag = "1")]
    text: Bytes,
    #[prost(uint32, tag = "2")]
    separator: u32,
    #[prost(bool, tag = "3")]
    lower: bool,
    #[prost(bytes = "bytes", optional, tag = "4")]
    predicate: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "5")]
    token_schema: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    schema: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WindowMergeProto {
    #[prost(uint32, tag = "1")]
    batches: u32,
    #[prost(uint32, tag = "2")]
    every: u32,
}

/// Columns are the fields of schemas.
#[derive(Clone, PartialEq, Message)]
struct StateProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    keys: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    values: Bytes,
    /// Of each value column, whether it is a count.
    #[prost(bool, repeated, tag = "4")]
    counts: Vec<bool>,
    #[prost(bytes = "bytes", tag = "5")]
    columns: Bytes,
    /// Expressions are in datafusion-proto's form.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    update: Vec<Bytes>,
    #[prost(message, optional, tag = "7")]
    touched: Option<TouchedProto>,
    /// A registered function in place of `update`.
    #[prost(string, optional, tag = "8")]
    native: Option<String>,
}

/// Of an operator that looks at the keys of the batch.
#[derive(Clone, PartialEq, Message)]
struct TouchedProto {
    #[prost(int64, optional, tag = "1")]
    timeout_ms: Option<i64>,
    #[prost(bytes = "bytes", tag = "2")]
    emit_fields: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    emit: Vec<Bytes>,
    #[prost(bool, tag = "4")]
    snapshots: bool,
}

impl NodeCodec {
    fn encode_expr(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Bytes> {
        Ok(converter.physical_expr_to_proto(expr, self)?.encode_to_vec().into())
    }

    fn decode_expr(
        &self,
        bytes: &Bytes,
        schema: &SchemaRef,
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let node = PhysicalExprNode::decode(bytes.clone());
        let node = node.map_err(|e| internal_datafusion_err!("decoding an expression: {e}"))?;
        converter.proto_to_physical_expr(&node, schema, &PhysicalPlanDecodeContext::new(context, self))
    }

    fn encode_state(&self, spec: &StateSpec, converter: &dyn PhysicalProtoConverterExtension) -> Result<StateProto> {
        let touched = match &spec.kind {
            StateKind::All => None,
            StateKind::Touched {
                timeout_ms,
                emit,
                snapshots,
            } => Some(TouchedProto {
                timeout_ms: *timeout_ms,
                emit_fields: encode_fields(emit.iter().map(|(field, _)| field))?,
                emit: emit
                    .iter()
                    .map(|(_, expr)| self.encode_expr(expr, converter))
                    .collect::<Result<_>>()?,
                snapshots: *snapshots,
            }),
        };
        let (update, native) = match &spec.update {
            Update::Columns(exprs) => (exprs.as_slice(), None),
            Update::Native { name, .. } => (&[][..], Some(name.clone())),
        };
        let update = update.iter().map(|expr| self.encode_expr(expr, converter));
        Ok(StateProto {
            name: spec.name.clone(),
            keys: encode_fields(&spec.keys)?,
            values: encode_fields(spec.values.iter().map(|value| &value.field))?,
            counts: spec.values.iter().map(|value| value.is_count).collect(),
            columns: encode_fields(&spec.columns)?,
            update: update.collect::<Result<_>>()?,
            touched,
            native,
        })
    }

    fn decode_state(
        &self,
        proto: &StateProto,
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<StateSpec> {
        let values = decode_fields(&proto.values)?.into_iter().zip(&proto.counts);
        let mut spec = StateSpec {
            name: proto.name.clone(),
            kind: StateKind::All,
            keys: decode_fields(&proto.keys)?,
            values: values
                .map(|(field, is_count)| Value {
                    field,
                    is_count: *is_count,
                })
                .collect(),
            columns: decode_fields(&proto.columns)?,
            update: Update::Columns(Vec::new()),
        };
        let exprs = |bytes: &[Bytes], schema: SchemaRef| {
            let exprs = bytes
                .iter()
                .map(|bytes| self.decode_expr(bytes, &schema, context, converter));
            exprs.collect::<Result<Vec<_>>>()
        };
        spec.update = match &proto.native {
            None => Update::Columns(exprs(&proto.update, spec.scope())?),
            Some(name) => match self.registry.state_update(name) {
                Some(function) => Update::Native {
                    name: name.clone(),
                    function,
                },
                None => return internal_err!("no state function `{name}` is registered here"),
            },
        };
        if let Some(touched) = &proto.touched {
            let emit = exprs(&touched.emit, spec.emit_scope())?;
            spec.kind = StateKind::Touched {
                timeout_ms: touched.timeout_ms,
                emit: decode_fields(&touched.emit_fields)?.into_iter().zip(emit).collect(),
                snapshots: touched.snapshots,
            };
        }
        Ok(spec)
    }
}

impl PhysicalExtensionCodec for NodeCodec {
    fn try_encode(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let node = if let Some(scan) = plan.downcast_ref::<SlotScanExec>() {
            Node::SlotScan(SlotScanProto {
                slot: scan.slot().0,
                label: scan.label().to_owned(),
                schema: encode_schema(scan.slot_schema())?,
                projection: scan.projection().map(|columns| ProjectionProto {
                    columns: columns.iter().map(|column| *column as u64).collect(),
                }),
                partitions: scan.partitions() as u64,
            })
        } else if plan.is::<ZipUnionExec>() {
            Node::ZipUnion(ZipUnionProto {
                schema: encode_schema(&plan.schema())?,
            })
        } else if let Some(counting) = plan.downcast_ref::<SplitCountExec>() {
            let parts = counting.parts();
            let encode = |expr| self.encode_expr(expr, converter);
            Node::SplitCount(SplitCountProto {
                text: encode(&parts.text)?,
                separator: u32::from(parts.separator),
                lower: parts.lower,
                predicate: parts.predicate.as_ref().map(encode).transpose()?,
                token_schema: encode_schema(&parts.token_schema)?,
                schema: encode_schema(&parts.schema)?,
            })
        } else if plan.is::<GlomExec>() {
            Node::Glom(GlomProto {})
        } else if let Some(native) = plan.downcast_ref::<NativeBatchesExec>() {
            Node::NativeBatches(NativeBatchesProto {
                function: native.function().name().to_owned(),
                accumulators: BoundProto::of(native.function().accumulators()),
            })
        } else if let Some(accumulate) = plan.downcast_ref::<AccumulateExec>() {
            let added = accumulate.added().iter().map(|added| {
                Ok(AddedProto {
                    target: Some(TargetProto::of(&added.target)),
                    value: self.encode_expr(&added.value, converter)?,
                })
            });
            Node::Accumulate(AccumulateProto {
                operator: accumulate.operator(),
                added: added.collect::<Result<_>>()?,
            })
        } else if let Some(state) = plan.downcast_ref::<StateExec>() {
            Node::State(self.encode_state(state.spec(), converter)?)
        } else if let Some(merge) = plan.downcast_ref::<WindowMergeExec>() {
            let Window { batches, every } = merge.window();
            Node::WindowMerge(WindowMergeProto { batches, every })
        } else {
            return internal_err!("{} cannot be sent to executors", plan.name());
        };
        NodeProto { node: Some(node) }
            .encode(buf)
            .map_err(|e| internal_datafusion_err!("encoding a plan node: {e}"))
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = NodeProto::decode(buf)
            .map_err(|e| internal_datafusion_err!("decoding a plan node: {e}"))?
            .node;
        match node {
            Some(Node::SlotScan(scan)) => {
                let projection = scan
                    .projection
                    .map(|p| p.columns.iter().map(|c| size(*c)).collect::<Result<_>>());
                Ok(Arc::new(SlotScanExec::try_new(
                    SlotId(scan.slot),
                    scan.label,
                    decode_schema(&scan.schema)?,
                    projection.transpose()?,
                    // How rows are distributed matters to planning alone.
                    &Placement::of(size(scan.partitions)?),
                    None,
                )?))
            }
            Some(Node::ZipUnion(union)) => {
                let schema = decode_schema(&union.schema)?;
                Ok(Arc::new(ZipUnionExec::new(inputs.to_vec(), schema)))
            }
            Some(Node::SplitCount(counting)) => {
                let [input] = inputs else {
                    return internal_err!("a SplitCountExec has one input");
                };
                let decode = |bytes: &Bytes, schema: &SchemaRef| self.decode_expr(bytes, schema, context, converter);
                let token_schema = decode_schema(&counting.token_schema)?;
                let parts = SplitCount {
                    text: decode(&counting.text, &input.schema())?,
                    separator: u8::try_from(counting.separator)
                        .map_err(|e| internal_datafusion_err!("decoding a plan node: {e}"))?,
                    lower: counting.lower,
                    predicate: counting
                        .predicate
                        .as_ref()
                        .map(|expr| decode(expr, &token_schema))
                        .transpose()?,
                    token_schema,
                    schema: decode_schema(&counting.schema)?,
                };
                Ok(Arc::new(SplitCountExec::new(Arc::clone(input), parts)))
            }
            Some(Node::Accumulate(accumulate)) => {
                let [input] = inputs else {
                    return internal_err!("an AccumulateExec has one input");
                };
                let added = accumulate.added.into_iter().map(|added| {
                    Ok(Added {
                        target: Arc::new(TargetProto::decoded(added.target, &self.registry)?),
                        value: self.decode_expr(&added.value, &input.schema(), context, converter)?,
                    })
                });
                Ok(Arc::new(AccumulateExec::new(
                    accumulate.operator,
                    added.collect::<Result<_>>()?,
                    Arc::clone(input),
                )))
            }
            Some(Node::NativeBatches(NativeBatchesProto { function, accumulators })) => {
                let [input] = inputs else {
                    return internal_err!("a NativeBatchesExec has one input");
                };
                let Some(Function::Batches(function)) = self.registry.get(&function) else {
                    return Err(unregistered(&function));
                };
                Ok(Arc::new(NativeBatchesExec::try_new(
                    function.bound(BoundProto::decoded(accumulators, &self.registry)?),
                    Arc::clone(input),
                )?))
            }
            Some(Node::Glom(GlomProto {})) => {
                let [input] = inputs else {
                    return internal_err!("a GlomExec has one input");
                };
                Ok(Arc::new(GlomExec::new(Arc::clone(input))))
            }
            Some(Node::WindowMerge(WindowMergeProto { batches, every })) => {
                let [merge] = inputs else {
                    return internal_err!("a WindowMergeExec has one input");
                };
                Ok(Arc::new(WindowMergeExec::new(
                    Arc::clone(merge),
                    Window { batches, every },
                )))
            }
            Some(Node::State(state)) => {
                let [input, initial @ ..] = inputs else {
                    return internal_err!("a StateExec without an input");
                };
                let spec = self.decode_state(&state, context, converter)?;
                Ok(Arc::new(StateExec::new(
                    Arc::new(spec),
                    Arc::clone(input),
                    initial.first().cloned(),
                )))
            }
            None => internal_err!("a plan node of an unknown kind: driver and executors must be of one build"),
        }
    }

    fn try_encode_udf(&self, function: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        // Functions without bytes are found by name.
        if let Some(native) = NativeScalar::of(function)
            && let Some(bound) = BoundProto::of(native.accumulators())
        {
            buf.extend(bound.encode_to_vec());
        }
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        let native = match self.registry.get(name) {
            Some(Function::Scalar(function)) if !buf.is_empty() => NativeScalar::of(function),
            _ => None,
        };
        let Some(native) = native else {
            return Err(unregistered(name));
        };
        let bound = BoundProto::decode(buf);
        let bound = bound.map_err(|e| internal_datafusion_err!("decoding the handles of `{name}`: {e}"))?;
        let bound = BoundProto::decoded(Some(bound), &self.registry)?;
        Ok(Arc::new(ScalarUDF::from(native.bound(bound))))
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        // Functions without bytes are found by name.
        let inner: &dyn Any = function.inner().as_ref();
        match inner.downcast_ref::<FoldFunction>() {
            Some(fold) => fold_proto::encode(fold, buf, self),
            None => Ok(()),
        }
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        if buf.is_empty() {
            return Err(unregistered(name));
        }
        let fold = fold_proto::decode(name, buf, &self.registry.context(), self)?;
        Ok(Arc::new(AggregateUDF::from(fold)))
    }
}

/// A function that the driver knows by its name and this process does not.
fn unregistered(name: &str) -> DataFusionError {
    internal_datafusion_err!("function `{name}` is not registered here: driver and executors must be of one build")
}

fn encode_fields<'f>(fields: impl IntoIterator<Item = &'f FieldRef>) -> Result<Bytes> {
    let fields: Vec<FieldRef> = fields.into_iter().cloned().collect();
    encode_schema(&Arc::new(Schema::new(fields)))
}

fn decode_fields(bytes: &[u8]) -> Result<Vec<FieldRef>> {
    Ok(decode_schema(bytes)?.fields().iter().cloned().collect())
}

fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    Ok(decode_ipc(bytes).map_err(external)?.0)
}

fn encode_schema(schema: &SchemaRef) -> Result<Bytes> {
    encode_ipc(schema, &[]).map_err(external)
}

fn size(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|e| internal_datafusion_err!("decoding a plan node: {e}"))
}

fn external(error: crate::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
