//! Newtypes for everything that is counted, so that one id cannot stand where another is meant.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The value after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

id!(
    /// A submitted streaming program.
    JobId(u32)
);
id!(
    /// A process that runs tasks and holds blocks, numbered by the driver at registration.
    ExecutorId(u32)
);
id!(
    /// One life of an executor process: a new number at each start, chosen by the executor.
    Incarnation(u64)
);
id!(
    /// The fencing number of one life of the driver.
    Generation(u64)
);
id!(
    /// A stage of a job's plan: a maximal set of narrow steps between exchanges.
    StageId(u32)
);
id!(
    /// An input stream of a job.
    StreamId(u32)
);
id!(
    /// A stream whose batches are materialised, inside one job.
    DatasetId(u32)
);
id!(
    /// A broadcast variable of a job, by its place among them.
    BroadcastId(u32)
);
id!(
    /// An output operation of a job.
    OutputId(u32)
);
id!(
    /// An accumulator of a job.
    AccumulatorId(u32)
);
id!(
    /// A place in a stage's plan at which a batch's input is bound.
    SlotId(u32)
);
id!(
    /// The number of a job's compiled plan.
    PlanVersion(u32)
);
id!(
    /// The number of a job's routing table.
    RoutingVersion(u64)
);
id!(
    /// The number of a try of a task, from 0.
    Attempt(u32)
);
id!(
    /// A receiver of a job, one for each input stream that needs one.
    ReceiverId(u32)
);
