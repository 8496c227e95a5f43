//! Checks that the buffers of an encoded record batch are what its schema asks for, before they are read.
//!
//! The arrow reader takes offsets, lengths and counts at their word and panics where they point outside of the body.
//! The walk here visits nodes and buffers in the reader's order. Values (offsets within strings, UTF-8) are not looked
//! at: the reader validates those itself.

use arrow::datatypes::{DataType, Schema, UnionMode};
use arrow::ipc;

use crate::{Error, Result};

/// Arrow asks for padding of buffers to multiples of 8 bytes.
const ALIGNMENT: u64 = 8;

/// Refuses `batch` if its parts do not fit `schema` or a body of `body_bytes`.
pub(super) fn check(schema: &Schema, batch: &ipc::RecordBatch<'_>, body_bytes: usize) -> Result<()> {
    if batch.compression().is_some() {
        return Err(Error::malformed("compressed rows"));
    }
    let (Some(nodes), Some(buffers)) = (batch.nodes(), batch.buffers()) else {
        return Err(Error::malformed("a record batch without nodes or buffers"));
    };
    let mut walk = Walk {
        nodes: nodes.iter().map(|node| (node.length(), node.null_count())),
        buffers: buffers.iter().map(|buffer| (buffer.offset(), buffer.length())),
        variadic: batch.variadicBufferCounts().into_iter().flatten(),
        body_bytes: body_bytes as u64,
    };
    for field in schema.fields() {
        walk.array(field.data_type())?;
    }
    if walk.nodes.next().is_some() || walk.buffers.next().is_some() || walk.variadic.next().is_some() {
        return Err(Error::malformed("more arrays than the schema has"));
    }
    Ok(())
}

struct Walk<N, B, V> {
    nodes: N,
    buffers: B,
    variadic: V,
    body_bytes: u64,
}

struct Node {
    rows: u64,
    nulls: u64,
}

impl<N, B, V> Walk<N, B, V>
where
    N: Iterator<Item = (i64, i64)>,
    B: Iterator<Item = (i64, i64)>,
    V: Iterator<Item = i64>,
{
    fn array(&mut self, data_type: &DataType) -> Result<()> {
        let node = self.node()?;
        match data_type {
            DataType::Null => {}
            DataType::Boolean => {
                self.validity(&node)?;
                self.buffer(node.rows.div_ceil(8), 1)?;
            }
            DataType::Utf8 | DataType::Binary => {
                self.validity(&node)?;
                self.offsets(&node, 4)?;
                self.buffer(0, 1)?;
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                self.validity(&node)?;
                self.offsets(&node, 8)?;
                self.buffer(0, 1)?;
            }
            DataType::Utf8View | DataType::BinaryView => {
                self.validity(&node)?;
                self.buffer(node.rows, 16)?;
                let count = self.variadic.next().filter(|count| *count >= 0);
                for _ in 0..count.ok_or_else(|| Error::malformed("no number of buffers for a view"))? {
                    self.buffer(0, 1)?;
                }
            }
            DataType::List(field) | DataType::Map(field, _) => {
                self.validity(&node)?;
                self.offsets(&node, 4)?;
                self.array(field.data_type())?;
            }
            DataType::LargeList(field) => {
                self.validity(&node)?;
                self.offsets(&node, 8)?;
                self.array(field.data_type())?;
            }
            DataType::ListView(field) => self.list_view(&node, 4, field.data_type())?,
            DataType::LargeListView(field) => self.list_view(&node, 8, field.data_type())?,
            DataType::FixedSizeList(field, _) => {
                self.validity(&node)?;
                self.array(field.data_type())?;
            }
            DataType::Struct(fields) => {
                self.validity(&node)?;
                for field in fields {
                    self.array(field.data_type())?;
                }
            }
            DataType::Union(fields, mode) => {
                self.buffer(node.rows, 1)?;
                if *mode == UnionMode::Dense {
                    self.buffer(node.rows, 4)?;
                }
                for (_, field) in fields.iter() {
                    self.array(field.data_type())?;
                }
            }
            DataType::RunEndEncoded(ends, values) => {
                self.array(ends.data_type())?;
                self.array(values.data_type())?;
            }
            DataType::FixedSizeBinary(width) => {
                self.validity(&node)?;
                self.buffer(node.rows, u64::try_from(*width).unwrap_or(0))?;
            }
            other => {
                let Some(width) = other.primitive_width() else {
                    return Err(Error::malformed(format!("{other} does not travel in frames")));
                };
                self.validity(&node)?;
                self.buffer(node.rows, width as u64)?;
            }
        }
        Ok(())
    }

    fn list_view(&mut self, node: &Node, width: u64, values: &DataType) -> Result<()> {
        self.validity(node)?;
        self.buffer(node.rows, width)?;
        self.buffer(node.rows, width)?;
        self.array(values)
    }

    fn node(&mut self) -> Result<Node> {
        let (rows, nulls) = self
            .nodes
            .next()
            .ok_or_else(|| Error::malformed("fewer arrays than the schema has"))?;
        // Rows are counted in 32 bits, so that no product with a width overflows.
        let (rows, nulls) = (u32::try_from(rows), u32::try_from(nulls));
        match (rows, nulls) {
            (Ok(rows), Ok(nulls)) if nulls <= rows => Ok(Node {
                rows: rows.into(),
                nulls: nulls.into(),
            }),
            _ => Err(Error::malformed("an impossible number of rows or nulls")),
        }
    }

    fn validity(&mut self, node: &Node) -> Result<()> {
        self.buffer(if node.nulls > 0 { node.rows.div_ceil(8) } else { 0 }, 1)
    }

    /// An array without rows may have no offsets, any other has one more than rows.
    fn offsets(&mut self, node: &Node, width: u64) -> Result<()> {
        self.buffer(if node.rows > 0 { node.rows + 1 } else { 0 }, width)
    }

    /// A buffer of whole values of `width` bytes, `count` of them at least.
    fn buffer(&mut self, count: u64, width: u64) -> Result<()> {
        let (offset, length) = self
            .buffers
            .next()
            .ok_or_else(|| Error::malformed("fewer buffers than the schema has"))?;
        let fits = |offset: u64, length: u64| {
            offset.checked_add(length).is_some_and(|end| end <= self.body_bytes)
                && offset.is_multiple_of(ALIGNMENT)
                && length.is_multiple_of(width.max(1))
                && length >= count * width
        };
        match (u64::try_from(offset), u64::try_from(length)) {
            (Ok(offset), Ok(length)) if fits(offset, length) => Ok(()),
            _ => Err(Error::malformed(format!(
                "a buffer of {length} bytes at {offset} in a body of {}, for {count} values of {width}",
                self.body_bytes
            ))),
        }
    }
}
