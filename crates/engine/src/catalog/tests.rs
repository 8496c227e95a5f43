use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::*;
use crate::tests::format_rows;

fn counts(rows: &[(&str, i64)]) -> (SchemaRef, Vec<RecordBatch>) {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("tag", DataType::Utf8View, true),
        Field::new("count", DataType::Int64, false),
    ]));
    let tags = StringViewArray::from_iter_values(rows.iter().map(|row| row.0));
    let numbers = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(tags), Arc::new(numbers)]).unwrap();
    (schema, vec![batch])
}

fn publish(catalog: &Catalog, job: &str, table: &str, rows: &[(&str, i64)]) {
    let (schema, batches) = counts(rows);
    catalog.publish(job, vec![(table.to_owned(), schema, batches)]);
}

async fn rows(catalog: &Catalog, sql: &str) -> Vec<String> {
    let (_, batches) = catalog.query(sql).await.unwrap();
    batches.iter().flat_map(format_rows).collect()
}

async fn refused(catalog: &Catalog, sql: &str) -> QueryError {
    catalog.query(sql).await.unwrap_err()
}

#[tokio::test]
async fn an_unqualified_name_means_the_only_table_of_that_name() {
    let catalog = Catalog::new();
    publish(&catalog, "trending-hashtags", "tweets", &[("#a", 3), ("#b", 1)]);
    for name in [
        "tweets",
        "TWEETS",
        "\"trending-hashtags\".tweets",
        "trending-hashtags.tweets",
        "trending-hashtags . tweets",
    ] {
        assert_eq!(
            rows(&catalog, &format!("SELECT tag FROM {name} WHERE count > 2")).await,
            ["#a"],
            "{name}"
        );
    }
    assert_eq!(
        rows(&catalog, "SELECT count - count, 'it''s' FROM tweets LIMIT 1").await,
        ["0|it's"]
    );
    publish(&catalog, "other", "tweets", &[("#c", 1)]);
    assert_eq!(rows(&catalog, "SELECT tag FROM other.tweets").await, ["#c"]);
    let error = refused(&catalog, "SELECT * FROM tweets").await;
    assert_eq!(error.message, "table `tweets` is put out by 2 jobs");
    assert_eq!(
        error.hint.unwrap(),
        "write one of other.tweets, trending-hashtags.tweets"
    );
    let joined = "SELECT a.tag, b.tag FROM other.tweets a JOIN trending-hashtags.tweets b ON a.count = b.count";
    assert_eq!(rows(&catalog, joined).await, ["#c|#b"]);
}

#[tokio::test]
async fn publishing_replaces_only_the_given_tables() {
    let catalog = Catalog::new();
    publish(&catalog, "job", "a", &[("x", 1)]);
    publish(&catalog, "job", "b", &[("y", 1)]);
    publish(&catalog.clone(), "job", "a", &[("z", 2)]);
    assert_eq!(catalog.tables("job"), ["a", "b"]);
    assert_eq!(
        rows(&catalog, "SELECT * FROM a UNION ALL SELECT * FROM b").await,
        ["z|2", "y|1"]
    );
    catalog.remove_job("job");
    assert!(catalog.tables("job").is_empty());
    assert_eq!(
        refused(&catalog, "SELECT * FROM a").await.hint.unwrap(),
        "no job has put out a table yet"
    );
}

#[tokio::test]
async fn unknown_names_come_with_the_nearest_one() {
    let catalog = Catalog::new();
    publish(&catalog, "job", "tweets", &[("x", 1)]);
    let error = refused(&catalog, "SELECT * FROM tweet").await;
    assert_eq!(
        (error.message.as_str(), error.hint.as_deref()),
        ("unknown table `tweet`", Some("did you mean `tweets`?"))
    );
    let error = refused(&catalog, "SELECT * FROM jub.tweets").await;
    assert_eq!(
        (error.message.as_str(), error.hint.as_deref()),
        ("unknown job `jub`", Some("did you mean `job`?"))
    );
    let error = refused(&catalog, "SELECT cuont FROM tweets").await;
    assert_eq!(
        (error.message.as_str(), error.hint.as_deref()),
        ("unknown column `cuont`", Some("did you mean `count`?"))
    );
}

#[tokio::test]
async fn nothing_but_queries_is_answered() {
    let catalog = Catalog::new();
    publish(&catalog, "job", "tweets", &[("x", 1)]);
    for sql in [
        "DROP TABLE tweets",
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO tweets VALUES ('a', 1)",
        "CREATE EXTERNAL TABLE f STORED AS CSV LOCATION '/etc/passwd'",
        "COPY tweets TO '/tmp/out.csv'",
        "SET datafusion.execution.batch_size = 1",
        "SELECT 1; SELECT 2",
        "EXPLAIN SELECT 1",
        "",
    ] {
        refused(&catalog, sql).await;
    }
    let error = refused(&catalog, "SELECT * FROM '/etc/passwd'").await;
    assert_eq!(error.message, "unknown table `/etc/passwd`");
    let recursive = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r";
    refused(&catalog, recursive).await;
}

#[tokio::test]
async fn a_result_has_a_bound() {
    let catalog = Catalog::new();
    let error = refused(&catalog, "SELECT * FROM range(0, 1000000)").await;
    assert_eq!(error.hint.unwrap(), "add a LIMIT");
    let error = refused(
        &catalog,
        "SELECT array_agg(a.value) FROM range(0, 100000) a, range(0, 100000) b",
    )
    .await;
    assert!(
        error.message.to_lowercase().contains("memory") || error.message.contains("took"),
        "{}",
        error.message
    );
}

fn kept(schema: &str, name: &str, rows: &[(&str, i64)]) -> KeptTable {
    let (columns, rows) = counts(rows);
    KeptTable {
        schema: schema.to_owned(),
        name: name.to_owned(),
        columns,
        rows,
    }
}

#[tokio::test]
async fn what_is_kept_is_found_by_its_full_name_only() {
    let catalog = Catalog::new();
    publish(&catalog, "word-count", "words", &[("put out", 1)]);
    let available = [
        kept("word-count_state", "words", &[("state", 2)]),
        kept("word-count_streams", "words", &[("stream", 3)]),
        kept("word-count_state", "lines", &[("other", 4)]),
    ];
    for (sql, named, row) in [
        ("SELECT tag FROM words", vec![], "put out"),
        ("SELECT tag FROM word-count.words", vec![], "put out"),
        ("SELECT tag FROM word-count_state.words", vec![0], "state"),
        ("SELECT tag FROM \"word-count_state\".\"words\"", vec![0], "state"),
        ("SELECT tag FROM word-count_streams.WORDS", vec![1], "stream"),
        (
            "SELECT max(a.tag) FROM word-count_state.lines a, word-count_state.words",
            vec![0, 2],
            "other",
        ),
    ] {
        assert_eq!(catalog.named(sql, &available).unwrap(), named, "{sql}");
        let (_, batches) = catalog.query_with(sql, &available).await.unwrap();
        assert_eq!(batches.iter().flat_map(format_rows).collect::<Vec<_>>(), [row], "{sql}");
    }
}

#[test]
fn unknown_names_of_what_is_kept_come_with_the_known_ones() {
    let catalog = Catalog::new();
    let available = [
        kept("job_state", "sessions", &[]),
        kept("job_state", "words", &[]),
        kept("job_streams", "lines", &[]),
    ];
    let error = |sql: &str, kept: &[KeptTable]| {
        let error = catalog.named(sql, kept).unwrap_err();
        (error.message, error.hint.unwrap_or_default())
    };
    let (message, hint) = error("SELECT * FROM job_state.sesions", &available);
    assert_eq!(message, "unknown table `job_state.sesions`");
    assert_eq!(hint, "did you mean `sessions`?");
    let (_, hint) = error("SELECT * FROM job_state.x", &available);
    assert_eq!(hint, "known: sessions, words");
    let (message, hint) = error("SELECT * FROM jab_state.words", &available);
    assert_eq!(message, "no job keeps `jab_state`");
    assert!(hint.ends_with("while it runs; did you mean `job_state`?"), "{hint}");
    let (_, hint) = error("SELECT * FROM gone_state.words", &[]);
    assert!(hint.ends_with("while it runs; none does"), "{hint}");
}
