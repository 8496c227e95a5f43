use std::io::Read;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use tempfile::{TempDir, tempdir};
use tidemill_dstream::{Compression, FileFormat};
use tidemill_types::FailureKind;

use super::*;
use crate::testing::text;

pub(super) const PLACE: CommitPlace = CommitPlace {
    job: JobId(3),
    output: OutputId(1),
    batch: BatchTime(5000),
    generation: Generation(7),
};

pub(super) fn save_to(dir: &TempDir, format: FileFormat) -> SaveOutput {
    SaveOutput {
        path: text(&dir.path().join("out")),
        format,
        files: None,
        compression: Compression::None,
        overwrite: false,
        empty: false,
    }
}

pub(super) fn at(partition: u32, attempt: u32) -> StagePlace {
    StagePlace {
        commit: PLACE,
        partition,
        attempt: Attempt(attempt),
    }
}

/// Stages rows of text as one attempt does.
pub(super) fn stage(save: &SaveOutput, at: &StagePlace, lines: &[&str]) -> Option<StagedFile> {
    let batch = batch(vec![("value", Arc::new(StringViewArray::from_iter_values(lines)))]);
    let mut writer = StagedWriter::create(save, at, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn counts() -> RecordBatch {
    batch(vec![
        (
            "tag",
            Arc::new(StringArray::from(vec![Some("#a"), Some("say \"b, c\""), None])),
        ),
        ("count", Arc::new(Int64Array::from(vec![Some(2), None, Some(1)]))),
    ])
}

fn written(format: FileFormat, batches: &[RecordBatch]) -> String {
    let dir = tempdir().unwrap();
    let save = save_to(&dir, format);
    let mut writer = StagedWriter::create(&save, &at(0, 0), &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    let staged = writer.finish().unwrap().unwrap();
    let content = fs::read_to_string(&staged.staged).unwrap();
    assert_eq!(staged.bytes, content.len() as u64);
    assert_eq!(
        staged.rows,
        batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>()
    );
    content
}

#[test]
fn text_is_the_only_column_or_all_columns_with_tabs() {
    let lines = batch(vec![(
        "value",
        Arc::new(StringViewArray::from(vec![Some("one"), None, Some("three")])),
    )]);
    assert_eq!(written(FileFormat::Text, &[lines]), "one\n\nthree\n");
    assert_eq!(written(FileFormat::Text, &[counts()]), "#a\t2\nsay \"b, c\"\t\n\t1\n");
}

#[test]
fn csv_has_one_header_however_many_batches_there_are() {
    let empty = counts().slice(0, 0);
    assert_eq!(
        written(FileFormat::Csv, &[empty, counts(), counts().slice(0, 1)]),
        "tag,count\n#a,2\n\"say \"\"b, c\"\"\",\n,1\n#a,2\n"
    );
}

#[test]
fn json_is_one_object_a_line() {
    assert_eq!(
        written(FileFormat::Json, &[counts(), counts().slice(0, 1)]),
        "{\"tag\":\"#a\",\"count\":2}\n{\"tag\":\"say \\\"b, c\\\"\"}\n{\"count\":1}\n{\"tag\":\"#a\",\"count\":2}\n"
    );
}

#[test]
fn large_batches_are_written_whole() {
    let numbers = batch(vec![("n", Arc::new(Int64Array::from_iter_values(0..40_000)))]);
    let content = written(FileFormat::Csv, &[numbers]);
    assert_eq!(content.lines().count(), 40_001);
    assert_eq!(content.lines().last(), Some("39999"));
}

#[test]
fn names_say_partition_format_and_compression_and_staged_ones_also_whose_they_are() {
    let dir = tempdir().unwrap();
    let mut save = save_to(&dir, FileFormat::Csv);
    for (compression, name) in [
        (Compression::None, "part-00012.csv"),
        (Compression::Gzip, "part-00012.csv.gz"),
        (Compression::Zstd, "part-00012.csv.zst"),
    ] {
        save.compression = compression;
        let staged = stage(&save, &at(12, 3), &["x"]).unwrap();
        assert_eq!(staged.name, name);
        let staged = text(staged.staged.strip_prefix(&save.path).unwrap());
        let expected = name.replace("part-00012", "part-00012-a3");
        assert_eq!(staged, format!(".staging-j3-g7/batch_time=5000-o1/{expected}"));
    }
}

#[test]
fn compressed_files_hold_what_was_written() {
    let dir = tempdir().unwrap();
    let mut save = save_to(&dir, FileFormat::Text);
    save.compression = Compression::Gzip;
    let staged = stage(&save, &at(0, 0), &["one", "two"]).unwrap();
    let mut content = String::new();
    flate2::read::GzDecoder::new(File::open(&staged.staged).unwrap())
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(content, "one\ntwo\n");
    save.compression = Compression::Zstd;
    let staged = stage(&save, &at(0, 0), &["one", "two"]).unwrap();
    let content = zstd::stream::decode_all(File::open(&staged.staged).unwrap()).unwrap();
    assert_eq!(content, b"one\ntwo\n");
}

#[test]
fn without_rows_there_is_no_file_and_no_directory() {
    let dir = tempdir().unwrap();
    let save = save_to(&dir, FileFormat::Csv);
    assert_eq!(stage(&save, &at(0, 0), &[]), None);
    assert!(!Path::new(&save.path).exists());
}

#[test]
fn a_writer_that_is_dropped_unfinished_leaves_no_file() {
    let dir = tempdir().unwrap();
    let save = save_to(&dir, FileFormat::Text);
    let mut writer = StagedWriter::create(&save, &at(0, 0), &counts().schema()).unwrap();
    writer.write(&counts()).unwrap();
    drop(writer);
    let staging = PLACE.staging(&save);
    assert!(staging.is_dir());
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
}

fn list_schema() -> SchemaRef {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    SchemaRef::new(Schema::new(vec![
        Field::new("name", DataType::Utf8View, false),
        Field::new("numbers", arrow::array::Array::data_type(&list).clone(), false),
    ]))
}

#[test]
fn a_column_that_the_format_cannot_express_is_refused_by_name() {
    let dir = tempdir().unwrap();
    let csv = save_to(&dir, FileFormat::Csv);
    let error = check_save_schema(&csv, &list_schema()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::User);
    let message = error.to_string();
    assert!(message.starts_with("column numbers of type List("), "{message}");
    assert!(
        message.ends_with("cannot be saved as csv; convert it to a string first, or save as json"),
        "{message}"
    );
    assert!(StagedWriter::create(&csv, &at(0, 0), &list_schema()).is_err());
    check_save_schema(&save_to(&dir, FileFormat::Json), &list_schema()).unwrap();
    check_save_schema(&save_to(&dir, FileFormat::Text), &list_schema()).unwrap();
}

#[test]
fn an_output_directory_is_made_and_tried_at_submission() {
    let dir = tempdir().unwrap();
    let mut save = save_to(&dir, FileFormat::Csv);
    save.path = text(&dir.path().join("a/b/out"));
    check_save(&save).unwrap();
    check_save(&save).unwrap();
    assert_eq!(fs::read_dir(&save.path).unwrap().count(), 0, "the probe is gone");
}

#[test]
fn an_output_path_that_cannot_be_written_is_refused_with_its_name() {
    let dir = tempdir().unwrap();
    let mut save = save_to(&dir, FileFormat::Csv);
    fs::write(&save.path, "a file").unwrap();
    let error = check_save(&save).unwrap_err();
    assert!(matches!(error, Error::OutputNotADirectory { .. }), "{error}");
    assert!(error.to_string().contains(&save.path), "{error}");
    save.path += "/below";
    let error = check_save(&save).unwrap_err();
    assert!(matches!(error, Error::CreateDirectory { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::External);
}

/// Nobody can create files in this directory, not even root.
#[cfg(target_os = "linux")]
#[test]
fn an_output_directory_without_write_permission_is_refused_with_its_name() {
    let dir = tempdir().unwrap();
    let mut save = save_to(&dir, FileFormat::Csv);
    save.path = "/proc/self/fdinfo".into();
    let error = check_save(&save).unwrap_err();
    assert!(matches!(error, Error::NotWritable { .. }), "{error}");
    assert!(error.to_string().contains(&save.path), "{error}");
}

#[test]
fn a_staged_file_that_cannot_be_created_is_an_error_of_its_task() {
    let dir = tempdir().unwrap();
    let save = save_to(&dir, FileFormat::Csv);
    fs::write(&save.path, "a file in the way").unwrap();
    let mut writer = StagedWriter::create(&save, &at(0, 0), &counts().schema()).unwrap();
    let error = writer.write(&counts()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::External);
    assert!(error.to_string().contains(&save.path), "{error}");
}
