//! What the driver is told of tasks.

use std::time::Duration;

use tidemill_rpc::driver as wire;
use tidemill_types::{TaskAttempt, TaskFailure};

use crate::task::Finished;

pub(crate) fn task_report(
    task: TaskAttempt,
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
            ..report
        },
        Err(failure) => wire::TaskReport {
            failure: Some(wire::Failure::from(&failure)),
            ..report
        },
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
