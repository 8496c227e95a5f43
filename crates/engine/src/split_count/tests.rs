use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::context::SessionContext;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use proptest::prelude::*;

use super::apply;
use super::tokens::{Splitting, TokenCounts};
use crate::registry::Registry;
use crate::rules::{physical_rules, prepare};
use crate::session::planning_state;
use crate::tests::format_rows;

/// The plan of `sql` over a table `t` with the texts in batches of a few rows each.
async fn planned(
    texts: &[Option<String>],
    data_type: &DataType,
    sql: &str,
) -> (SessionContext, Arc<dyn ExecutionPlan>) {
    let array: ArrayRef = match data_type {
        DataType::Utf8 => Arc::new(StringArray::from(texts.to_vec())),
        DataType::LargeUtf8 => Arc::new(LargeStringArray::from(texts.to_vec())),
        _ => Arc::new(texts.iter().map(Option::as_deref).collect::<StringViewArray>()),
    };
    let schema = Arc::new(Schema::new(vec![Field::new("value", data_type.clone(), true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
    let batches: Vec<RecordBatch> = (0..texts.len())
        .step_by(3)
        .map(|at| batch.slice(at, 3.min(texts.len() - at)))
        .collect();
    let context = SessionContext::new_with_state(
        planning_state(2, physical_rules(), &Registry::default(), Arc::default()).unwrap(),
    );
    let halves = batches.len() / 2;
    let parts = vec![batches[..halves].to_vec(), batches[halves..].to_vec()];
    let table = datafusion::catalog::MemTable::try_new(schema, parts).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    (context, prepare(plan).unwrap())
}

async fn rows(context: &SessionContext, plan: Arc<dyn ExecutionPlan>) -> Vec<String> {
    let batches = collect(plan, context.task_ctx()).await.unwrap();
    let mut rows: Vec<String> = batches.iter().flat_map(format_rows).collect();
    rows.sort();
    rows
}

/// Checks that the operator is used, and that it gives what DataFusion's give.
async fn compare(texts: &[Option<String>], data_type: &DataType, sql: &str) {
    let (context, general) = planned(texts, data_type, sql).await;
    let special = apply(Arc::clone(&general)).unwrap();
    let shown = displayable(special.as_ref()).indent(false).to_string();
    assert!(shown.contains("SplitCountExec"), "{shown}");
    assert_eq!(special.schema(), general.schema());
    assert_eq!(
        rows(&context, special).await,
        rows(&context, general).await,
        "{sql} over {texts:?}"
    );
}

fn query(list: &str, rest: &str) -> String {
    format!("SELECT token, count(*) AS n FROM (SELECT unnest({list}) AS token FROM t) {rest} GROUP BY token")
}

fn owned(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

const AWKWARD: &[&str] = &[
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "a  b",
    "the quick brown fox",
    "abcdefghijkl",
    "abcdefghijklm",
    "abcdefghijklmn",
    "abcdefghijklmno",
    "abcdefghijklmnop",
    "abcdefghijklmnopq abcdefghijklmnopq",
    "Abcdefghijklmnopq ABCDEFGHIJKLMNOPQ",
    "ΑΣ ΒΣ ΑΣΒ",
    "ΑΣ.Β ΑΣ'Β",
    "STRASSE straße",
    "İstanbul ıI",
    "\u{212A}elvin kelvin",
    "#Rust #rust #RUST rust",
    "a\0b \0 \0\0",
    "日本語 日本語 日本",
    "x\ty\tz",
    "#%_\\ #%",
    "𝒳𝒴 𝒳𝒴",
];

#[tokio::test]
async fn awkward_texts_are_counted_as_datafusion_does() {
    let mut texts = owned(AWKWARD);
    texts.insert(3, None);
    for data_type in [DataType::Utf8View, DataType::Utf8, DataType::LargeUtf8] {
        if data_type != DataType::LargeUtf8 {
            compare(&texts, &data_type, &query("string_to_array(value, ' ')", "")).await;
            compare(&texts, &data_type, &query("string_to_array(lower(value), ' ')", "")).await;
            compare(&texts, &data_type, &query("string_to_array(lower(value), '.')", "")).await;
            compare(
                &texts,
                &data_type,
                &query("string_to_array(value, 'a')", "WHERE length(token) > 1"),
            )
            .await;
            compare(
                &texts,
                &data_type,
                &query("string_to_array(lower(value), ' ')", "WHERE token LIKE '#%'"),
            )
            .await;
            compare(
                &texts,
                &data_type,
                &query(
                    "string_to_array(lower(trim(value)), ' ')",
                    "WHERE token <> '' AND token LIKE '#r_s%'",
                ),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn distinct_tokens_and_several_counts_fit_too() {
    let texts = owned(AWKWARD);
    let split = "(SELECT unnest(string_to_array(value, ' ')) AS token FROM t)";
    compare(
        &texts,
        &DataType::Utf8View,
        &format!("SELECT DISTINCT token FROM {split}"),
    )
    .await;
    compare(
        &texts,
        &DataType::Utf8View,
        &format!("SELECT token, count(token) AS a, count(1) AS b FROM {split} GROUP BY token"),
    )
    .await;
}

#[tokio::test]
async fn what_it_cannot_do_is_left_alone() {
    let texts = owned(AWKWARD);
    for sql in [
        query("string_to_array(lower(value), 'a')", "").replace("lower(value)", "upper(value)").replace("'a'", "'ab'"),
        query("string_to_array(value, ' ', 'a')", ""),
        query("string_to_array(value, NULL)", ""),
        query("string_to_array(value, ' ')", "WHERE length(token) > random()"),
        "SELECT token, max(token) AS m FROM (SELECT unnest(string_to_array(value, ' ')) AS token FROM t) GROUP BY token".to_owned(),
        "SELECT token, count(*) FILTER (WHERE token > 'b') AS m FROM (SELECT unnest(string_to_array(value, ' ')) AS token FROM t) GROUP BY token".to_owned(),
    ] {
        let (_, general) = planned(&texts, &DataType::Utf8View, &sql).await;
        let shown = displayable(apply(general).unwrap().as_ref()).indent(false).to_string();
        assert!(!shown.contains("SplitCountExec"), "{sql}\n{shown}");
    }
}

#[tokio::test]
async fn a_separator_that_is_a_letter_splits_the_lowered_text() {
    // Then lower() stays below the operator, as a part of its text.
    compare(
        &owned(AWKWARD),
        &DataType::Utf8View,
        &query("string_to_array(lower(value), 'a')", ""),
    )
    .await;
}

fn counted(splitting: Splitting, texts: &[String]) -> HashMap<String, i64> {
    let mut counts = TokenCounts::new(splitting);
    texts.iter().for_each(|text| counts.add(text));
    let mut all = HashMap::new();
    for (tokens, counts) in counts.finish(5).unwrap() {
        for (token, count) in tokens.iter().zip(counts) {
            assert!(
                all.insert(token.unwrap().to_owned(), count).is_none(),
                "a token comes once"
            );
        }
    }
    all
}

proptest! {
    #[test]
    fn any_text_is_split_as_by_the_standard_library(
        texts in prop::collection::vec("[ aAbÀßΣς#%é日-]{0,40}", 0..40),
        lower: bool,
        separator in prop::sample::select(vec![b' ', b'-', b'#']),
    ) {
        let splitting = Splitting { separator, lower, prefix: Vec::new() };
        let mut expected: HashMap<String, i64> = HashMap::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let text = if lower { text.to_lowercase() } else { text.clone() };
            for token in text.split(char::from(separator)) {
                *expected.entry(token.to_owned()).or_default() += 1;
            }
        }
        prop_assert_eq!(counted(splitting, &texts), expected);
    }

    #[test]
    fn many_distinct_tokens_of_all_lengths_are_kept_apart(
        words in prop::collection::vec("[a-c]{0,30}", 1..600),
        prefix in "[a-c]{0,2}",
    ) {
        let texts: Vec<String> = words.chunks(9).map(|words| words.join(" ")).collect();
        let mut expected: HashMap<String, i64> = HashMap::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            for token in text.split(' ').filter(|token| token.starts_with(&prefix)) {
                *expected.entry(token.to_owned()).or_default() += 1;
            }
        }
        let splitting = Splitting { separator: b' ', lower: false, prefix: prefix.into_bytes() };
        prop_assert_eq!(counted(splitting, &texts), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_gives_exactly_what_datafusion_gives(
        texts in prop::collection::vec(prop::option::weighted(0.9, "[ aAbÉß#%_日.]{0,60}"), 1..30),
        sql in prop::sample::select(vec![
            query("string_to_array(value, ' ')", ""),
            query("string_to_array(lower(value), ' ')", ""),
            query("string_to_array(lower(value), ' ')", "WHERE token LIKE '#a%'"),
            query("string_to_array(lower(value), '#')", "WHERE token >= 'b' OR length(token) % 2 = 0"),
        ]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(&texts, &DataType::Utf8View, &sql));
    }
}
