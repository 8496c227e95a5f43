//! A compiled job for people: streams and their columns, stages and where they are cut.

use std::fmt::Write;

use tidemill_dstream::plan::{ExchangeKind, JobPlan, Keeps, SlotKind, SlotPlan, StageOutput, StagePlan};
use tidemill_dstream::{JobGraph, StreamInput};
use tidemill_types::StorageLevel;

use super::CompiledJob;
use crate::cut::describe;
use crate::template::Template;

/// The streams with their columns, then the stages: what each reads, its operators, and where its rows go and why; then
/// what is remembered.
#[must_use]
pub fn explain(graph: &JobGraph, compiled: &CompiledJob) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, graph, compiled);
    out
}

fn write(out: &mut String, graph: &JobGraph, compiled: &CompiledJob) -> std::fmt::Result {
    let plan = &compiled.plan;
    writeln!(out, "job {}, a batch every {:?}", graph.name, graph.batch_interval)?;
    writeln!(out, "\nstreams")?;
    for (name, schema) in &compiled.stream_schemas {
        let columns: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        writeln!(out, "  {name} ({})", columns.join(", "))?;
        if let Some(stream) = graph.stream(name) {
            let from = match &stream.input {
                StreamInput::Source(_) => "source".to_owned(),
                StreamInput::From(parent) => parent.clone(),
            };
            let steps = stream.steps.iter().map(|step| step.operator.name());
            let steps: Vec<&str> = std::iter::once(from.as_str()).chain(steps).collect();
            writeln!(out, "    {}", steps.join(" → "))?;
        }
    }
    for (stage, template) in plan.stages.iter().zip(&compiled.templates) {
        let tasks = if stage.partitions == 1 {
            "1 task".to_owned()
        } else {
            format!("{} tasks", stage.partitions)
        };
        let every = if stage.every == 1 {
            String::new()
        } else {
            format!(", every {} batches", stage.every)
        };
        writeln!(out, "\nstage {}, {tasks}{every}: {}", stage.id, stage.description)?;
        for slot in &stage.slots {
            writeln!(out, "  reads slot {}: {}", slot.id, input(plan, slot))?;
        }
        match &stage.keeps {
            Keeps::Nothing => {}
            Keeps::Derived => writeln!(out, "  keeps an index of its window, by key")?,
            Keeps::State { name } => writeln!(out, "  keeps the state {name}, by key")?,
        }
        match Template::decode(template, &compiled.registry) {
            Ok(template) => {
                for line in template.display().lines() {
                    writeln!(out, "    {line}")?;
                }
                writeln!(out, "  writes {}", output(plan, stage, &describe(template.spread())))?;
            }
            Err(error) => writeln!(out, "  {error}")?,
        }
    }
    if !plan.datasets.is_empty() {
        writeln!(out, "\ndatasets")?;
    }
    for dataset in &plan.datasets {
        let kept = match dataset.remember {
            1 => "within the batch".to_owned(),
            n => format!("remembered for {n} batches"),
        };
        let level = match dataset.level {
            level if level == StorageLevel::default() => String::new(),
            level => format!(", kept at {level}"),
        };
        writeln!(
            out,
            "  dataset {}: {}, from stage {}, {kept}{level}",
            dataset.id, dataset.name, dataset.stage
        )?;
    }
    if !plan.accumulators.is_empty() {
        writeln!(out, "\naccumulators")?;
    }
    for accumulator in &plan.accumulators {
        let of = match accumulator.value_type {
            Some(value_type) => format!(" of {value_type}"),
            None => String::new(),
        };
        writeln!(out, "  {}: {}{of}", accumulator.name, accumulator.kind.name())?;
    }
    if !plan.outputs.is_empty() {
        writeln!(out, "\noutputs")?;
    }
    for output in &plan.outputs {
        writeln!(
            out,
            "  {} of {}, from stage {}",
            output.name, output.stream, output.stage
        )?;
    }
    for warning in &compiled.warnings {
        writeln!(out, "\nwarning: {warning}")?;
    }
    Ok(())
}

fn input(plan: &JobPlan, slot: &SlotPlan) -> String {
    match &slot.kind {
        SlotKind::Source { stream } => {
            let name = plan
                .streams
                .iter()
                .find(|s| s.id == *stream)
                .map_or("?", |s| s.name.as_str());
            format!("source {name}")
        }
        SlotKind::Shuffle { from } => format!("the exchange of stage {from}"),
        SlotKind::Dataset { dataset, batches: 1 } => format!("dataset {dataset}, this batch"),
        SlotKind::Dataset { dataset, batches } => format!("dataset {dataset}, the last {batches} batches"),
        SlotKind::Table { name } => format!("table {name}"),
    }
}

fn output(plan: &JobPlan, stage: &StagePlan, exchange: &str) -> String {
    match &stage.output {
        StageOutput::Exchange { to, kind } => {
            let why = match kind {
                ExchangeKind::Hash { .. } => "rows of a key meet in one partition",
                ExchangeKind::RoundRobin { .. } => "rows are spread evenly",
                ExchangeKind::Single => "the result is one",
                ExchangeKind::Broadcast => "every task needs all rows",
            };
            format!(
                "to stage {to}, cut here: {exchange}, {} partitions ({why})",
                kind.partitions()
            )
        }
        StageOutput::Result { dataset, outputs } => {
            let names = outputs
                .iter()
                .filter_map(|id| plan.outputs.iter().find(|output| output.id == *id));
            let mut parts: Vec<String> = names.map(|output| format!("output {}", output.name)).collect();
            parts.extend(dataset.map(|dataset| format!("dataset {dataset}")));
            if parts.is_empty() {
                "nothing".to_owned()
            } else {
                parts.join(", ")
            }
        }
    }
}
