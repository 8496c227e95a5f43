//! What the driver is told of tasks.

use std::time::Duration;

use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_rpc::driver as wire;
use tidemill_types::{AccumulatorId, TaskAttempt, TaskFailure};

use crate::task::Finished;

/// `restore`: the task has run for its rows alone; what it adds to accumulators was counted when its batch was committed.
pub(crate) fn task_report(
    task: TaskAttempt,
    restore: bool,
    wait: Duration,
    result: Result<Box<Finished>, TaskFailure>,
) -> wire::TaskReport {
    let report = wire::TaskReport {
        stage: task.key.stage.0,
        partition: task.key.partition,
        attempt: task.attempt.0,
        wait_micros: micros(wait),
        ..wire::TaskReport::default()
    };
    match result {
        Ok(finished) => wire::TaskReport {
            input_rows: finished.input_rows,
            output_rows: finished.output_rows,
            output_bytes: finished.output_bytes,
            sent_bytes: finished.sent_bytes,
            local_bytes: finished.local_bytes,
            run_micros: micros(finished.run),
            outputs: finished.outputs,
            deltas: match restore {
                true => Vec::new(),
                false => finished.deltas.iter().map(delta).collect(),
            },
            ..report
        },
        Err(failure) => wire::TaskReport {
            failure: Some(wire::Failure::from(&failure)),
            ..report
        },
    }
}

fn delta((accumulator, state): &(AccumulatorId, AccumulatorState)) -> wire::AccumulatorDelta {
    wire::AccumulatorDelta {
        accumulator: accumulator.0,
        state: Some(state.into()),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
