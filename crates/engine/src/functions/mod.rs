//! Functions whose result depends on the task: the batch time, seeded random numbers, what samples draw, and the values
//! of broadcast variables.
//!
//! They replace DataFusion's own `now`, `current_date`, `current_time`, `random` and `uuid`, and are volatile, so that
//! planning never folds them and the optimizer never moves them across a window; those of broadcast variables have rules
//! of their own. The task that is being polled is
//! found through a task-local that [`TaskStream`](crate::TaskStream) sets around every poll.

mod batch_time;
mod broadcast;
mod random;
mod sample;
mod scope;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

pub(crate) use broadcast::{BroadcastFunction, functions as broadcast_functions};
pub(crate) use sample::draw;
pub(crate) use scope::TaskScope;

/// The functions, to be registered over DataFusion's of the same names.
pub(crate) fn task_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = batch_time::functions();
    functions.extend(random::functions());
    functions.push(sample::function());
    // Those of no job: a job's own take their place where it is planned.
    functions.extend(broadcast::functions(&Arc::default()));
    functions
}
