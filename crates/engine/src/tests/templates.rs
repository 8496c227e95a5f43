//! What travels to executors, and what people see of it.

use std::collections::HashMap;

use futures::StreamExt;
use tidemill_types::{BatchTime, FailureKind, JobId, SlotId, StageId, TaskFailure, TaskKey};

use super::support::*;
use crate::Registry;
use crate::{Error, SlotInput, TaskBinding, Template, explain};

fn hashtags() -> tidemill_dstream::JobGraph {
    job(
        vec![
            source("lines", vec![]),
            from(
                "hashtags",
                "lines",
                vec![
                    window(20, Some(2)),
                    flat_map(&[("tag", "string_to_array(lower(value), ' ')")]),
                    filter("tag LIKE '#%'"),
                    reduce_by_key(&[("tag", "tag")], &[("count", "count(*)")]),
                ],
            ),
        ],
        vec![
            query(
                "hashtags",
                "tweets",
                "SELECT tag, count FROM hashtags ORDER BY count DESC LIMIT 10",
            ),
            table("hashtags"),
        ],
    )
}

fn key(partition: u32) -> TaskKey {
    TaskKey {
        job: JobId(1),
        batch: BatchTime(1000),
        stage: StageId(0),
        partition,
    }
}

#[test]
fn explain_shows_streams_stages_cuts_and_what_is_remembered() {
    let graph = hashtags();
    let text = explain(&graph, &try_compile(&graph, &[], 4).unwrap());
    for part in [
        "lines (value Utf8View)",
        "hashtags (tag Utf8View, count Int64)",
        "lines → window → flat_map → filter → reduce_by_key",
        "reads slot 0: source lines",
        "to stage 1, cut here: exchange by hash of tag, 4 partitions (rows of a key meet in one partition)",
        "reads slot 0: the exchange of stage 0",
        "SplitCountExec: text=value@0, separator=' ', lower=true, predicate=tag@0 LIKE #%",
        "AggregateExec: mode=PartialReduce",
        "every 2 batches",
        "the last 20 batches",
        "cut here: exchange to one partition, 1 partitions (the result is one)",
        "hashtags panes, from stage 1, remembered for 20 batches",
        "tweets of hashtags, from stage 4",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn a_template_survives_its_bytes() {
    let graph = hashtags();
    let compiled = try_compile(&graph, &[], 4).unwrap();
    for (stage, bytes) in compiled.plan.stages.iter().zip(&compiled.templates) {
        let template = Template::decode(bytes, &Registry::default()).unwrap();
        for slot in &stage.slots {
            assert!(template.slot_schema(slot.id).is_some());
        }
        assert!(template.slot_schema(SlotId(99)).is_none());
        let exchanges = matches!(stage.output, tidemill_dstream::plan::StageOutput::Exchange { .. });
        assert_eq!(template.partitioner(key(0)).is_some(), exchanges);
    }
}

#[test]
fn damaged_templates_are_errors() {
    let compiled = try_compile(&hashtags(), &[], 2).unwrap();
    let bytes = compiled.templates[0].to_vec();
    assert!(matches!(
        Template::decode(b"nonsense", &Registry::default()),
        Err(Error::Template(_))
    ));
    assert!(matches!(
        Template::decode(b"", &Registry::default()),
        Err(Error::TemplateVersion { found: 0, .. })
    ));
    for length in (0..bytes.len()).step_by(7) {
        assert!(Template::decode(&bytes[..length], &Registry::default()).is_err());
    }
    for at in (0..bytes.len()).step_by(19) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        // An error or another plan, but never a panic.
        let _ = Template::decode(&damaged, &Registry::default());
    }
}

async fn rows(
    template: &Template,
    partition: u32,
    inputs: HashMap<(SlotId, u32), SlotInput>,
) -> Result<usize, TaskFailure> {
    let binding = TaskBinding {
        key: key(partition),
        inputs,
        index: 1,
        previous: None,
        memory: None,
        broadcasts: std::sync::Arc::default(),
    };
    let mut stream = template.run(binding)?;
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch?.num_rows();
    }
    Ok(rows)
}

#[tokio::test]
async fn inputs_that_fail_or_are_missing_fail_the_task_by_their_own_kind() {
    let compiled = crate::compile(&hashtags(), &[], &options(2)).await.unwrap();
    let template = Template::decode(&compiled.templates[0], &Registry::default()).unwrap();
    let lost = TaskFailure::new(FailureKind::InputLost, "block 7 is gone");
    let input = [Ok(text(&["#a"])), Err(lost.clone())];
    let inputs = HashMap::from([((SlotId(0), 1), SlotInput::Reader(Box::new(input.into_iter())))]);
    assert_eq!(rows(&template, 1, inputs).await.unwrap_err(), lost);

    let failure = rows(&template, 1, HashMap::new()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal);

    let wrong = arrow::array::RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty()));
    let inputs = HashMap::from([((SlotId(0), 1), SlotInput::Batches(vec![wrong]))]);
    assert_eq!(
        rows(&template, 1, inputs).await.unwrap_err().kind,
        FailureKind::Internal
    );
}

#[tokio::test]
async fn instances_of_a_template_do_not_share_state() {
    let compiled = crate::compile(&hashtags(), &[], &options(1)).await.unwrap();
    let template = Template::decode(&compiled.templates[0], &Registry::default()).unwrap();
    let bind = |lines: &[&str]| HashMap::from([((SlotId(0), 0), SlotInput::Batches(vec![text(lines)]))]);
    let (many, few) = tokio::join!(
        rows(&template, 0, bind(&["#a #b", "#c"])),
        rows(&template, 0, bind(&["#a"]))
    );
    assert_eq!((many.unwrap(), few.unwrap()), (3, 1));
    assert_eq!(rows(&template.clone(), 0, bind(&[])).await.unwrap(), 0);
}

#[test]
fn a_round_robin_exchange_goes_by_position() {
    use tidemill_dstream::{Compression, FileFormat, OutputKind, SaveOutput};
    let save = SaveOutput {
        path: "out".to_owned(),
        format: FileFormat::Text,
        files: Some(3),
        compression: Compression::None,
        overwrite: false,
        empty: false,
    };
    let graph = job(
        vec![source("lines", vec![])],
        vec![output("lines", OutputKind::Save(save))],
    );
    let compiled = try_compile(&graph, &[], 2).unwrap();
    let template = Template::decode(&compiled.templates[0], &Registry::default()).unwrap();
    let mut partitioner = template.partitioner(key(1)).unwrap();
    let mut sent = Vec::new();
    for lines in [&["a", "b"][..], &[], &["c", "d", "e"]] {
        for (to, rows) in partitioner.partition(&text(lines)).unwrap() {
            sent.extend(format_rows(&rows).into_iter().map(|row| (row, to)));
        }
    }
    sent.sort();
    let sent: Vec<(&str, u32)> = sent.iter().map(|(row, to)| (row.as_str(), *to)).collect();
    assert_eq!(sent, [("a", 1), ("b", 2), ("c", 0), ("d", 1), ("e", 2)]);
}
