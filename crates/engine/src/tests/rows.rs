//! Rows as bytes, and rows from files.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StringViewArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_dstream::TableFormat;

use super::support::format_rows;
use crate::{Error, decode_ipc, encode_ipc, load_table};

/// Long texts, so that no view holds its own.
fn texts(rows: usize) -> StringViewArray {
    StringViewArray::from_iter_values((0..rows).map(|i| format!("a text of more than twelve bytes {i}")))
}

fn batch() -> RecordBatch {
    let views = texts(1000);
    let item = Arc::new(Field::new_list_field(DataType::Utf8View, true));
    let lists = ListArray::new(
        item.clone(),
        OffsetBuffer::from_lengths([1; 1000]),
        Arc::new(views.clone()),
        None,
    );
    let schema = Schema::new(vec![
        Field::new("text", DataType::Utf8View, false),
        Field::new("n", DataType::Int64, false),
        Field::new("list", DataType::List(item), false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(views),
        Arc::new(Int64Array::from_iter_values(0..1000)),
        Arc::new(lists),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

#[test]
fn batches_survive_their_bytes() {
    let batch = batch();
    let bytes = encode_ipc(&batch.schema(), &[batch.clone(), batch.slice(10, 5)]).unwrap();
    let (schema, batches) = decode_ipc(&bytes).unwrap();
    assert_eq!(schema, batch.schema());
    assert_eq!(batches, [batch.clone(), batch.slice(10, 5)]);
    let (schema, batches) = decode_ipc(&encode_ipc(&batch.schema(), &[]).unwrap()).unwrap();
    assert_eq!((schema, batches.len()), (batch.schema(), 0));
}

#[test]
fn a_slice_takes_no_more_bytes_than_its_rows() {
    let batch = batch();
    let slice = batch.slice(500, 2);
    let whole = encode_ipc(&batch.schema(), std::slice::from_ref(&batch)).unwrap().len();
    let bytes = encode_ipc(&batch.schema(), std::slice::from_ref(&slice)).unwrap();
    assert!(bytes.len() < 2000 && whole > 50_000, "{} of {whole}", bytes.len());
    assert_eq!(decode_ipc(&bytes).unwrap().1, std::slice::from_ref(&slice));
    let compacted = crate::batches::compact(&slice).unwrap();
    let held = |batch: &RecordBatch| -> usize {
        batch
            .column(0)
            .as_string_view()
            .data_buffers()
            .iter()
            .map(|b| b.len())
            .sum()
    };
    assert!(held(&compacted) < 100 && held(&slice) > 10_000);
}

#[test]
fn damaged_bytes_are_an_error() {
    let batch = batch().slice(0, 3);
    let bytes = encode_ipc(&batch.schema(), &[batch]).unwrap();
    for at in (0..bytes.len()).step_by(41) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0xAA;
        // Other rows or an error, but never a panic.
        let _ = decode_ipc(&damaged);
    }
    assert!(decode_ipc(b"").is_err());
    assert!(decode_ipc(b"not a stream").is_err());
}

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(content).unwrap();
    (dir, path)
}

fn types(schema: &SchemaRef) -> Vec<(String, DataType)> {
    schema
        .fields()
        .iter()
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect()
}

#[tokio::test]
async fn tables_are_read_in_every_format() {
    let expected = vec![
        ("word".to_owned(), DataType::Utf8View),
        ("n".to_owned(), DataType::Int64),
    ];
    let rows = |batches: &[RecordBatch]| batches.iter().flat_map(format_rows).collect::<Vec<_>>();

    let (_dir, path) = file("t.csv", b"word,n\nthe,1\n\"a,b\",2\n");
    let (schema, batches) = load_table(&path, TableFormat::Csv).await.unwrap();
    assert_eq!(
        (types(&schema), rows(&batches)),
        (expected.clone(), vec!["the|1".to_owned(), "a,b|2".to_owned()])
    );

    // JSON has no order of columns, so theirs is that of their names.
    let (_dir, path) = file("t.json", b"{\"word\":\"the\",\"n\":1}\n{\"word\":\"of\"}\n");
    let (schema, batches) = load_table(&path, TableFormat::Json).await.unwrap();
    let expected = vec![expected[1].clone(), expected[0].clone()];
    let texts = vec!["1|the".to_owned(), "null|of".to_owned()];
    assert_eq!((types(&schema), rows(&batches)), (expected.clone(), texts.clone()));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let mut writer =
        datafusion::parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), schema, None).unwrap();
    writer.write(&batches[0]).unwrap();
    writer.close().unwrap();
    let (schema, batches) = load_table(&path, TableFormat::Parquet).await.unwrap();
    assert_eq!((types(&schema), rows(&batches)), (expected, texts));
}

#[tokio::test]
async fn tables_that_cannot_be_read_say_why() {
    let missing = load_table(std::path::Path::new("/nowhere/t.csv"), TableFormat::Csv)
        .await
        .unwrap_err();
    assert!(matches!(missing, Error::TableFile { .. }));
    let (_dir, path) = file("t.csv", b"a,b\n1,2\n3\n");
    let error = load_table(&path, TableFormat::Csv).await.unwrap_err();
    assert!(error.to_string().contains("is not valid CSV"), "{error}");
    let (_dir, path) = file("t.json", b"{\"a\": ");
    assert!(matches!(
        load_table(&path, TableFormat::Json).await.unwrap_err(),
        Error::TableFormat { .. }
    ));
    let (_dir, path) = file("t.parquet", b"PAR1 not really");
    assert!(matches!(
        load_table(&path, TableFormat::Parquet).await.unwrap_err(),
        Error::TableFormat { .. }
    ));
    for format in [TableFormat::Csv, TableFormat::Json] {
        let (_dir, path) = file("t", b"");
        let error = load_table(&path, format).await.unwrap_err();
        assert!(error.to_string().contains("no columns"), "{error}");
    }
}
