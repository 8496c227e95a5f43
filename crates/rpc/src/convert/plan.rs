//! The compiled plan, which the driver installs on executors.

use std::time::Duration;

use tidemill_dstream::plan::{
    DatasetPlan, ExchangeKind, JobPlan, Keeps, OutputPlan, SlotKind, SlotPartition, SlotPlan, StageOutput, StagePlan,
    StreamPlan,
};
use tidemill_types::{DatasetId, OutputId, PlanVersion, SlotId, StageId, StreamId};

use super::{Error, each, every, required, storage_level, to_millis};
use crate::plan;

impl From<&JobPlan> for plan::JobPlan {
    fn from(job: &JobPlan) -> Self {
        Self {
            version: job.version.0,
            batch_interval_ms: to_millis(job.batch_interval),
            stages: every(&job.stages),
            streams: every(&job.streams),
            datasets: every(&job.datasets),
            outputs: every(&job.outputs),
            tables: job.tables.clone(),
            accumulators: every(&job.accumulators),
            broadcasts: job.broadcasts.clone(),
        }
    }
}

impl TryFrom<plan::JobPlan> for JobPlan {
    type Error = Error;

    fn try_from(job: plan::JobPlan) -> Result<Self, Error> {
        Ok(Self {
            version: PlanVersion(job.version),
            batch_interval: Duration::from_millis(job.batch_interval_ms),
            stages: each("stages", job.stages)?,
            streams: each("streams", job.streams)?,
            datasets: each("datasets", job.datasets)?,
            outputs: each("outputs", job.outputs)?,
            tables: job.tables,
            accumulators: each("accumulators", job.accumulators)?,
            broadcasts: job.broadcasts,
        })
    }
}

impl From<&StreamPlan> for plan::StreamPlan {
    fn from(stream: &StreamPlan) -> Self {
        Self {
            id: stream.id.0,
            name: stream.name.clone(),
            source: Some((&stream.source).into()),
            partitions: stream.partitions,
        }
    }
}

impl TryFrom<plan::StreamPlan> for StreamPlan {
    type Error = Error;

    fn try_from(stream: plan::StreamPlan) -> Result<Self, Error> {
        Ok(Self {
            id: StreamId(stream.id),
            name: stream.name,
            source: required("source", stream.source)?,
            partitions: stream.partitions,
        })
    }
}

// === Stages ===

impl From<&StagePlan> for plan::StagePlan {
    fn from(stage: &StagePlan) -> Self {
        let reads = |slots: &Vec<SlotPartition>| plan::PartitionReads {
            slots: slots
                .iter()
                .map(|read| plan::SlotPartition {
                    slot: read.slot.0,
                    partition: read.partition,
                })
                .collect(),
        };
        Self {
            id: stage.id.0,
            partitions: stage.partitions,
            slots: every(&stage.slots),
            reads: stage.reads.iter().map(reads).collect(),
            output: Some((&stage.output).into()),
            every: stage.every,
            skip_empty: stage.skip_empty,
            deterministic: stage.deterministic,
            description: stage.description.clone(),
            derives: stage.keeps == Keeps::Derived,
            state: match &stage.keeps {
                Keeps::State { name } => Some(name.clone()),
                Keeps::Nothing | Keeps::Derived => None,
            },
        }
    }
}

impl TryFrom<plan::StagePlan> for StagePlan {
    type Error = Error;

    fn try_from(stage: plan::StagePlan) -> Result<Self, Error> {
        let reads = |reads: plan::PartitionReads| {
            let slots = reads.slots.into_iter().map(|read| SlotPartition {
                slot: SlotId(read.slot),
                partition: read.partition,
            });
            slots.collect()
        };
        Ok(Self {
            id: StageId(stage.id),
            partitions: stage.partitions,
            slots: each("slots", stage.slots)?,
            reads: stage.reads.into_iter().map(reads).collect(),
            output: required("output", stage.output)?,
            every: stage.every,
            skip_empty: stage.skip_empty,
            deterministic: stage.deterministic,
            keeps: match stage.state {
                Some(name) => Keeps::State { name },
                None if stage.derives => Keeps::Derived,
                None => Keeps::Nothing,
            },
            description: stage.description,
        })
    }
}

impl From<&SlotPlan> for plan::SlotPlan {
    fn from(slot: &SlotPlan) -> Self {
        use plan::slot_plan::Kind;
        let kind = match &slot.kind {
            SlotKind::Source { stream } => Kind::Source(plan::SourceSlot { stream: stream.0 }),
            SlotKind::Shuffle { from } => Kind::Shuffle(plan::ShuffleSlot { from: from.0 }),
            SlotKind::Dataset { dataset, batches } => Kind::Dataset(plan::DatasetSlot {
                dataset: dataset.0,
                batches: *batches,
            }),
            SlotKind::Table { name } => Kind::Table(plan::TableSlot { name: name.clone() }),
        };
        Self {
            id: slot.id.0,
            partitions: slot.partitions,
            kind: Some(kind),
        }
    }
}

impl TryFrom<plan::SlotPlan> for SlotPlan {
    type Error = Error;

    fn try_from(slot: plan::SlotPlan) -> Result<Self, Error> {
        use plan::slot_plan::Kind;
        let kind = match slot.kind.ok_or_else(|| Error::missing("kind"))? {
            Kind::Source(source) => SlotKind::Source {
                stream: StreamId(source.stream),
            },
            Kind::Shuffle(shuffle) => SlotKind::Shuffle {
                from: StageId(shuffle.from),
            },
            Kind::Dataset(dataset) => SlotKind::Dataset {
                dataset: DatasetId(dataset.dataset),
                batches: dataset.batches,
            },
            Kind::Table(table) => SlotKind::Table { name: table.name },
        };
        Ok(Self {
            id: SlotId(slot.id),
            kind,
            partitions: slot.partitions,
        })
    }
}

impl From<&StageOutput> for plan::StageOutput {
    fn from(output: &StageOutput) -> Self {
        use plan::stage_output::Output;
        let output = match output {
            StageOutput::Exchange { to, kind } => Output::Exchange(plan::Exchange {
                to: to.0,
                partitions: kind.partitions(),
                kind: plan::ExchangeKind::from(*kind).into(),
            }),
            StageOutput::Result { dataset, outputs } => Output::Result(plan::Result {
                dataset: dataset.map(|dataset| dataset.0),
                outputs: outputs.iter().map(|output| output.0).collect(),
            }),
        };
        Self { output: Some(output) }
    }
}

impl TryFrom<plan::StageOutput> for StageOutput {
    type Error = Error;

    fn try_from(output: plan::StageOutput) -> Result<Self, Error> {
        use plan::stage_output::Output;
        Ok(match output.output.ok_or_else(|| Error::missing("output"))? {
            Output::Exchange(exchange) => Self::Exchange {
                to: StageId(exchange.to),
                kind: exchange_kind(&exchange).map_err(|error| error.inside("exchange"))?,
            },
            Output::Result(result) => Self::Result {
                dataset: result.dataset.map(DatasetId),
                outputs: result.outputs.into_iter().map(OutputId).collect(),
            },
        })
    }
}

impl From<ExchangeKind> for plan::ExchangeKind {
    fn from(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Hash { .. } => Self::Hash,
            ExchangeKind::RoundRobin { .. } => Self::RoundRobin,
            ExchangeKind::Single => Self::Single,
            ExchangeKind::Broadcast => Self::Broadcast,
        }
    }
}

fn exchange_kind(exchange: &plan::Exchange) -> Result<ExchangeKind, Error> {
    let partitions = exchange.partitions;
    Ok(match exchange.kind() {
        plan::ExchangeKind::Hash => ExchangeKind::Hash { partitions },
        plan::ExchangeKind::RoundRobin => ExchangeKind::RoundRobin { partitions },
        plan::ExchangeKind::Single => ExchangeKind::Single,
        plan::ExchangeKind::Broadcast => ExchangeKind::Broadcast,
        plan::ExchangeKind::Unspecified => return Err(Error::unknown("kind", exchange.kind)),
    })
}

// === Datasets and outputs ===

impl From<&DatasetPlan> for plan::DatasetPlan {
    fn from(dataset: &DatasetPlan) -> Self {
        Self {
            id: dataset.id.0,
            name: dataset.name.clone(),
            stage: dataset.stage.0,
            partitions: dataset.partitions,
            remember: dataset.remember,
            needed: dataset.needed,
            level: dataset.level.name().to_owned(),
        }
    }
}

impl TryFrom<plan::DatasetPlan> for DatasetPlan {
    type Error = Error;

    fn try_from(dataset: plan::DatasetPlan) -> Result<Self, Error> {
        Ok(Self {
            id: DatasetId(dataset.id),
            name: dataset.name,
            stage: StageId(dataset.stage),
            partitions: dataset.partitions,
            remember: dataset.remember,
            needed: dataset.needed,
            level: storage_level("level", &dataset.level)?,
        })
    }
}

impl From<&OutputPlan> for plan::OutputPlan {
    fn from(output: &OutputPlan) -> Self {
        Self {
            id: output.id.0,
            name: output.name.clone(),
            stream: output.stream.clone(),
            kind: Some((&output.kind).into()),
            stage: output.stage.0,
            partitions: output.partitions,
        }
    }
}

impl TryFrom<plan::OutputPlan> for OutputPlan {
    type Error = Error;

    fn try_from(output: plan::OutputPlan) -> Result<Self, Error> {
        Ok(Self {
            id: OutputId(output.id),
            name: output.name,
            stream: output.stream,
            kind: required("kind", output.kind)?,
            stage: StageId(output.stage),
            partitions: output.partitions,
        })
    }
}
