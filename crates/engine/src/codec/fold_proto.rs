//! Folds as bytes: an aggregate function that carries the job's functions with it.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion_proto::physical_plan::from_proto::parse_physical_expr;
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr;
use datafusion_proto::protobuf::PhysicalExprNode;
use prost::Message;

use super::{NodeCodec, decode_schema, encode_schema};
use crate::fold::{Fold, FoldFunction, Records, pair};

#[derive(Clone, PartialEq, Message)]
struct FoldProto {
    #[prost(bytes = "bytes", tag = "1")]
    columns: Bytes,
    /// Expressions are in datafusion-proto's form.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    merge: Vec<Bytes>,
    #[prost(message, optional, tag = "3")]
    records: Option<RecordsProto>,
}

#[derive(Clone, PartialEq, Message)]
struct RecordsProto {
    #[prost(bytes = "bytes", tag = "1")]
    columns: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    create: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "3")]
    scope: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    merge: Vec<Bytes>,
}

pub(super) fn encode(function: &FoldFunction, buf: &mut Vec<u8>, codec: &NodeCodec) -> Result<()> {
    let exprs = |exprs: &[Arc<dyn PhysicalExpr>]| -> Result<Vec<Bytes>> {
        let encode = |expr| Ok(serialize_physical_expr(expr, codec)?.encode_to_vec().into());
        exprs.iter().map(encode).collect()
    };
    let fold = function.fold();
    let records = |records: &Records| -> Result<RecordsProto> {
        Ok(RecordsProto {
            columns: encode_schema(&records.columns)?,
            create: exprs(&records.create)?,
            scope: encode_schema(&records.scope)?,
            merge: exprs(&records.merge)?,
        })
    };
    let proto = FoldProto {
        columns: encode_schema(&fold.columns)?,
        merge: exprs(&fold.merge)?,
        records: fold.records.as_ref().map(records).transpose()?,
    };
    proto
        .encode(buf)
        .map_err(|e| internal_datafusion_err!("encoding a fold: {e}"))
}

pub(super) fn decode(name: &str, buf: &[u8], context: &TaskContext, codec: &NodeCodec) -> Result<FoldFunction> {
    let damaged = |e| internal_datafusion_err!("decoding a fold: {e}");
    let expr = |bytes: &Bytes, scope: &Schema| -> Result<Arc<dyn PhysicalExpr>> {
        let node = PhysicalExprNode::decode(bytes.clone()).map_err(damaged)?;
        parse_physical_expr(&node, context, scope, codec)
    };
    let exprs =
        |all: &[Bytes], scope: &SchemaRef| all.iter().map(|bytes| expr(bytes, scope)).collect::<Result<Vec<_>>>();
    let proto = FoldProto::decode(buf).map_err(damaged)?;
    let columns = decode_schema(&proto.columns)?;
    let merge = proto.merge.iter().zip(columns.fields());
    let merge = merge
        .map(|(bytes, field)| expr(bytes, &pair(field.data_type())))
        .collect::<Result<_>>()?;
    let records = |proto: &RecordsProto| -> Result<Records> {
        let (columns, scope) = (decode_schema(&proto.columns)?, decode_schema(&proto.scope)?);
        Ok(Records {
            create: exprs(&proto.create, &columns)?,
            merge: exprs(&proto.merge, &scope)?,
            columns,
            scope,
        })
    };
    let fold = Fold {
        records: proto.records.as_ref().map(records).transpose()?,
        columns,
        merge,
    };
    Ok(FoldFunction::new(name, fold))
}
