//! Our own plan nodes as bytes, beside those that datafusion-proto knows.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;
use tidemill_types::SlotId;

use crate::ipc::{decode_ipc, encode_ipc};
use crate::slot_scan::SlotScanExec;
use crate::zip_union::ZipUnionExec;

#[derive(Debug)]
pub(crate) struct NodeCodec;

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(oneof = "Node", tags = "1, 2")]
    node: Option<Node>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Node {
    #[prost(message, tag = "1")]
    SlotScan(SlotScanProto),
    #[prost(message, tag = "2")]
    ZipUnion(ZipUnionProto),
}

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

impl PhysicalExtensionCodec for NodeCodec {
    fn try_encode(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
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
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
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
                    decode_ipc(&scan.schema).map_err(external)?.0,
                    projection.transpose()?,
                    size(scan.partitions)?,
                    None,
                )?))
            }
            Some(Node::ZipUnion(union)) => {
                let schema = decode_ipc(&union.schema).map_err(external)?.0;
                Ok(Arc::new(ZipUnionExec::new(inputs.to_vec(), schema)))
            }
            None => internal_err!("a plan node of an unknown kind: driver and executors must be of one build"),
        }
    }
}

fn encode_schema(schema: &arrow::datatypes::SchemaRef) -> Result<Bytes> {
    encode_ipc(schema, &[]).map_err(external)
}

fn size(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|e| internal_datafusion_err!("decoding a plan node: {e}"))
}

fn external(error: crate::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
