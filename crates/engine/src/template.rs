//! Stage templates: the part of a job's plan that one stage runs, made once and instantiated for each task.
//!
//! A template is a serialised physical plan whose leaves are slots. [`Template::run`] makes a fresh instance (operators
//! keep state, such as a join's hash table, that must not pass from one batch to the next) and binds the task's inputs
//! to it. Its bytes are read only by the build that wrote them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionConfig;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use futures::{Stream, StreamExt};
use prost::Message;
use tidemill_dstream::accumulator::AccumulatorState;
use tidemill_dstream::plan::ExchangeKind;
use tidemill_types::{AccumulatorId, SlotId, TaskFailure, TaskKey};

use crate::batches::compact;
use crate::binding::{Inputs, TaskBinding};
use crate::codec::NodeCodec;
use crate::error::{Error, task_failure};
use crate::functions::TaskScope;
use crate::ipc::contain;
use crate::partitioner::Partitioner;
use crate::registry::Registry;
use crate::session;
use crate::slot_scan::SlotScanExec;
use crate::state::{StateExec, StateSpec};
use crate::workspace::Workspace;

/// Raised with every change of the bytes, our own nodes' included.
const VERSION: u32 = 2;

/// Plans and expressions are decoded recursively, in a debug build with 10 KiB for each level.
const DECODING_STACK: usize = 16 << 20;

#[derive(Clone, PartialEq, Message)]
struct TemplateProto {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// A hash exchange is the root of the plan, a `RepartitionExec`; other exchanges are in `exchange`.
    #[prost(bytes = "bytes", tag = "2")]
    plan: Bytes,
    #[prost(enumeration = "ExchangeProto", tag = "3")]
    exchange: i32,
    #[prost(uint32, tag = "4")]
    exchange_partitions: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ExchangeProto {
    None = 0,
    Hash = 1,
    RoundRobin = 2,
    Single = 3,
    Broadcast = 4,
}

/// What a stage does with its rows.
#[derive(Clone, Debug)]
pub(crate) enum Spread {
    /// They stay: a dataset, outputs.
    Keep,
    Hash {
        keys: Vec<Arc<dyn PhysicalExpr>>,
        partitions: u32,
    },
    RoundRobin {
        partitions: u32,
    },
    Single,
    Broadcast,
}

impl Spread {
    pub(crate) fn exchange(&self) -> Option<ExchangeKind> {
        match self {
            Self::Keep => None,
            Self::Hash { partitions, .. } => Some(ExchangeKind::Hash {
                partitions: *partitions,
            }),
            Self::RoundRobin { partitions } => Some(ExchangeKind::RoundRobin {
                partitions: *partitions,
            }),
            Self::Single => Some(ExchangeKind::Single),
            Self::Broadcast => Some(ExchangeKind::Broadcast),
        }
    }
}

/// The bytes of a stage's template.
pub(crate) fn encode(plan: &Arc<dyn ExecutionPlan>, spread: &Spread) -> Result<Bytes, DataFusionError> {
    let (plan, exchange, exchange_partitions) = match spread {
        Spread::Keep => (plan.clone(), ExchangeProto::None, 0),
        Spread::Hash { keys, partitions } => {
            let partitioning = Partitioning::Hash(keys.clone(), *partitions as usize);
            let root: Arc<dyn ExecutionPlan> = Arc::new(RepartitionExec::try_new(plan.clone(), partitioning)?);
            (root, ExchangeProto::Hash, *partitions)
        }
        Spread::RoundRobin { partitions } => (plan.clone(), ExchangeProto::RoundRobin, *partitions),
        Spread::Single => (plan.clone(), ExchangeProto::Single, 1),
        Spread::Broadcast => (plan.clone(), ExchangeProto::Broadcast, 1),
    };
    let proto = TemplateProto {
        version: VERSION,
        plan: physical_plan_to_bytes_with_extension_codec(plan, &NodeCodec::default())?,
        exchange: exchange.into(),
        exchange_partitions,
    };
    Ok(proto.encode_to_vec().into())
}

/// A stage's plan, decoded once for each job and executor and shared by all its tasks.
#[derive(Clone)]
pub struct Template {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Arc<dyn ExecutionPlan>,
    spread: Spread,
    slots: HashMap<SlotId, SchemaRef>,
    config: SessionConfig,
}

impl Template {
    /// Decodes what the compiler of the same build wrote, with the functions that it has registered. Bytes may come from a
    /// peer: damaged ones are an error.
    pub fn decode(bytes: &[u8], registry: &Registry) -> Result<Template, Error> {
        let proto = TemplateProto::decode(bytes).map_err(|e| Error::Template(e.to_string()))?;
        if proto.version != VERSION {
            return Err(Error::TemplateVersion {
                found: proto.version,
                expected: VERSION,
            });
        }
        let (context, codec) = (registry.context(), NodeCodec::new(registry));
        let decode = || {
            Ok(physical_plan_from_bytes_with_extension_codec(
                &proto.plan,
                &context,
                &codec,
            )?)
        };
        let root = stacker::grow(DECODING_STACK, || contain(decode))?;
        let partitions = proto.exchange_partitions;
        let (plan, spread) = match proto.exchange() {
            ExchangeProto::None => (root, Spread::Keep),
            ExchangeProto::RoundRobin => (root, Spread::RoundRobin { partitions }),
            ExchangeProto::Single => (root, Spread::Single),
            ExchangeProto::Broadcast => (root, Spread::Broadcast),
            ExchangeProto::Hash => match root.downcast_ref::<RepartitionExec>() {
                Some(exchange) if let Partitioning::Hash(keys, _) = exchange.partitioning() => {
                    let keys = keys.clone();
                    (Arc::clone(exchange.input()), Spread::Hash { keys, partitions })
                }
                _ => return Err(Error::Template("its root is not a hash exchange".to_owned())),
            },
        };
        let mut slots = HashMap::new();
        plan.apply(|node| {
            if let Some(scan) = node.downcast_ref::<SlotScanExec>() {
                slots.insert(scan.slot(), scan.slot_schema().clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let inner = Inner {
            plan,
            spread,
            slots,
            config: session::config(1)?,
        };
        Ok(Template { inner: Arc::new(inner) })
    }

    /// The schema of the stage's output rows.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.inner.plan.schema()
    }

    /// The schema of the batches that a slot takes.
    #[must_use]
    pub fn slot_schema(&self, slot: SlotId) -> Option<SchemaRef> {
        self.inner.slots.get(&slot).cloned()
    }

    /// Starts a task. Nothing happens before the stream is polled, and dropping it ends the task.
    pub fn run(&self, binding: TaskBinding) -> Result<TaskStream, Error> {
        self.run_in(binding, &Workspace::default())
    }

    /// The same with the memory and the disk of `workspace`.
    pub fn run_in(&self, binding: TaskBinding, workspace: &Workspace) -> Result<TaskStream, Error> {
        let key = binding.key;
        let broadcasts = Arc::clone(&binding.broadcasts);
        let plan = reset_plan_states(Arc::clone(&self.inner.plan))?;
        let config = self.inner.config.clone().with_extension(Arc::new(Inputs::new(binding)));
        let context = TaskContext::new(
            Some(key.to_string()),
            String::new(),
            config,
            // Expressions hold their functions; the names are needed for decoding only.
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            workspace.runtime(),
        );
        let scope = Arc::new(TaskScope::new(key, broadcasts));
        let rows = scope.enter(|| plan.execute(key.partition as usize, Arc::new(context)))?;
        Ok(TaskStream {
            rows,
            ended: false,
            scope,
            // Rows that stay may be remembered for long: they must not keep their inputs in memory.
            compact: matches!(self.inner.spread, Spread::Keep),
        })
    }

    /// What spreads the rows of a task whose stage ends in an exchange.
    #[must_use]
    pub fn partitioner(&self, key: TaskKey) -> Option<Partitioner> {
        Partitioner::new(&self.inner.spread, key)
    }

    /// What its state operator was told, if it has one.
    pub(crate) fn state(&self) -> Option<Arc<StateSpec>> {
        let mut spec = None;
        // The closure never fails.
        let _ = self.inner.plan.apply(|node| {
            let Some(state) = node.downcast_ref::<StateExec>() else {
                return Ok(TreeNodeRecursion::Continue);
            };
            spec = Some(Arc::clone(state.spec()));
            Ok(TreeNodeRecursion::Stop)
        });
        spec
    }

    /// The plan, one operator a line.
    pub(crate) fn display(&self) -> String {
        displayable(self.inner.plan.as_ref()).indent(false).to_string()
    }

    pub(crate) fn spread(&self) -> &Spread {
        &self.inner.spread
    }
}

/// The rows of a task. Polling it does the task's work, on the caller's thread.
pub struct TaskStream {
    rows: SendableRecordBatchStream,
    /// There are no more rows; inputs that have to be seen to their end may have some.
    ended: bool,
    scope: Arc<TaskScope>,
    compact: bool,
}

impl TaskStream {
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// What the task has added to accumulators, once it has come to its end.
    #[must_use]
    pub fn deltas(&self) -> Vec<(AccumulatorId, AccumulatorState)> {
        self.scope.deltas().take()
    }
}

impl Stream for TaskStream {
    type Item = Result<RecordBatch, TaskFailure>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = this.scope.enter(|| {
            if !this.ended {
                match this.rows.poll_next_unpin(cx) {
                    Poll::Ready(None) => this.ended = true,
                    other => return other,
                }
            }
            let drained = this.scope.watched().poll_drain(cx);
            drained.map(|drained| drained.err().map(Err))
        });
        polled.map(|next| {
            next.map(|batch| {
                let batch = batch.map_err(|error| task_failure(&error))?;
                if this.compact {
                    compact(&batch).map_err(|error| task_failure(&error.into()))
                } else {
                    Ok(batch)
                }
            })
        })
    }
}
