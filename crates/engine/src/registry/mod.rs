//! Rust functions that a build registers, so that jobs can name them.
//!
//! ```no_run
//! use std::sync::Arc;
//! use tidemill_engine::arrow::array::{ArrayRef, AsArray, Int64Array};
//! use tidemill_engine::arrow::datatypes::DataType;
//! use tidemill_engine::{Determinism, Registry};
//!
//! let registry = Registry::builder()
//!     .scalar("vowels", Determinism::Deterministic, [DataType::Utf8View], DataType::Int64, |columns| {
//!         let vowels = |text: &str| text.chars().filter(|c| "aeiou".contains(*c)).count() as i64;
//!         let texts = columns[0].as_string_view();
//!         let counts: Int64Array = texts.iter().map(|text| text.map(vowels)).collect();
//!         Ok(Arc::new(counts) as ArrayRef)
//!     })
//!     .build()?;
//! # Ok::<(), tidemill_engine::Error>(())
//! ```
//! - Functions go over whole Arrow arrays or record batches, never over single values.
//! - Each is declared deterministic or not. What is not is computed where the job says, never below a window, and is
//!   not run twice for the same rows unless it has to be.
//! - The driver and all executors of a cluster are started from one build, so they have the same functions. A job that
//!   names a function which the driver does not have is refused.
//! - Scalar, flat-map, filter and aggregate functions can also be called by name in any SQL of a job.
//! - Functions of a record and of record batches can have handles to accumulators, which the job binds where it calls them.

mod accumulator;
mod batches;
mod foreach;
mod scalar;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, Field};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, Volatility};

pub use accumulator::Accumulator;
pub use batches::{BatchContext, BatchStream, MapPartitions, Transform};
pub(crate) use batches::{BatchesFunction, NativeBatchesExec};
pub(crate) use foreach::ForeachFunction;
pub use foreach::{Foreach, ForeachBatch};
pub(crate) use scalar::NativeScalar;
pub use state::{StateBatch, StateUpdate};

use crate::accumulate::{Accumulators, value_type};
use crate::error::Error;
use crate::session;

/// What a function fails with. It becomes the failure of its task, which is the user's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whether a function gives the same for the same arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Determinism {
    Deterministic,
    /// It may give something else each time: it reads a clock, a random number or another system.
    Nondeterministic,
}

/// The registered functions of a build: a handle that is cheap to clone. The default one is empty.
#[derive(Clone)]
pub struct Registry {
    functions: Arc<Functions>,
}

impl Default for Registry {
    fn default() -> Self {
        static EMPTY: LazyLock<Arc<Functions>> = LazyLock::new(Arc::default);
        Self {
            functions: Arc::clone(&EMPTY),
        }
    }
}

#[derive(Default)]
struct Functions {
    by_name: BTreeMap<String, Function>,
    /// The handles to accumulators that functions have, with the types that they add.
    handles: BTreeMap<String, Vec<(String, DataType)>>,
    /// In which templates of jobs with these functions are decoded.
    context: OnceLock<Arc<TaskContext>>,
}

/// A registered function, by what it is.
#[derive(Clone)]
pub(crate) enum Function {
    /// Of one record: a scalar function, a filter, or a function that gives a list.
    Scalar(Arc<ScalarUDF>),
    Aggregate(Arc<AggregateUDF>),
    Batches(BatchesFunction),
    State(Arc<dyn StateUpdate>),
    Foreach(ForeachFunction),
    Accumulator(Arc<dyn Accumulator>),
}

impl Function {
    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(_) => "a function of a record",
            Self::Aggregate(_) => "an aggregate",
            Self::Batches(function) => function.kind(),
            Self::State(_) => "a state update",
            Self::Foreach(_) => "a foreach output",
            Self::Accumulator(_) => "an accumulator",
        }
    }
}

impl Registry {
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }

    /// The names of all functions, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.by_name.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Function> {
        self.functions.by_name.get(name)
    }

    /// The state update of that name.
    #[must_use]
    pub fn state_update(&self, name: &str) -> Option<Arc<dyn StateUpdate>> {
        match self.get(name) {
            Some(Function::State(function)) => Some(Arc::clone(function)),
            _ => None,
        }
    }

    /// The handles to accumulators that a function has, with the types of what it adds.
    pub(crate) fn handles(&self, function: &str) -> &[(String, DataType)] {
        self.functions.handles.get(function).map_or(&[], Vec::as_slice)
    }

    /// Those that can be called by name. One with handles cannot: there is no place to bind them.
    pub(crate) fn scalars(&self) -> impl Iterator<Item = &Arc<ScalarUDF>> {
        let functions = self.functions.by_name.iter();
        functions.filter_map(|(name, function)| match function {
            Function::Scalar(function) if self.handles(name).is_empty() => Some(function),
            _ => None,
        })
    }

    pub(crate) fn aggregates(&self) -> impl Iterator<Item = &Arc<AggregateUDF>> {
        self.functions.by_name.values().filter_map(|function| match function {
            Function::Aggregate(function) => Some(function),
            _ => None,
        })
    }

    pub(crate) fn context(&self) -> Arc<TaskContext> {
        let context = self.functions.context.get_or_init(|| session::decoding_context(self));
        Arc::clone(context)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Functions on their way into a [`Registry`].
#[derive(Default)]
#[must_use]
pub struct RegistryBuilder {
    functions: Vec<(String, Function)>,
    /// A function, its handle, and the type of what it adds.
    handles: Vec<(String, String, DataType)>,
}

impl RegistryBuilder {
    fn add(mut self, name: impl Into<String>, function: Function) -> Self {
        self.functions.push((name.into(), function));
        self
    }

    /// A function of one record: a value for each row, of the type `returns`, from columns of the types `takes`.
    pub fn scalar(
        self,
        name: &str,
        determinism: Determinism,
        takes: impl Into<Vec<DataType>>,
        returns: DataType,
        call: impl Fn(&[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let call = move |_: &Accumulators, columns: &[ArrayRef]| call(columns);
        self.scalar_with(name, determinism, takes, returns, call)
    }

    /// The same of a function that adds to [`Accumulators`]. It is called where the job says, once for each row whose
    /// result is needed; [`accumulates`](Self::accumulates) says what its handles are.
    pub fn scalar_with(
        self,
        name: &str,
        determinism: Determinism,
        takes: impl Into<Vec<DataType>>,
        returns: DataType,
        call: impl Fn(&Accumulators, &[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let function = NativeScalar::new(name, determinism, takes.into(), returns, call);
        self.add(name, Function::Scalar(Arc::new(ScalarUDF::from(function))))
    }

    /// A function of a record or of record batches has a handle to an accumulator, to which it adds values of this type.
    /// A job that calls the function binds the handle to one of its accumulators, by default to that of the same name.
    pub fn accumulates(mut self, function: &str, handle: &str, takes: DataType) -> Self {
        self.handles.push((function.to_owned(), handle.to_owned(), takes));
        self
    }

    /// A kind of accumulator.
    pub fn accumulator(self, name: &str, accumulator: impl Accumulator) -> Self {
        self.add(name, Function::Accumulator(Arc::new(accumulator)))
    }

    /// A function of one record that gives any number: a list array of values of the type `item`, for `flat_map`.
    pub fn flat_map(
        self,
        name: &str,
        determinism: Determinism,
        takes: impl Into<Vec<DataType>>,
        item: DataType,
        call: impl Fn(&[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let list = DataType::List(Arc::new(Field::new_list_field(item, true)));
        self.scalar(name, determinism, takes, list, call)
    }

    /// A function that tells which records to keep.
    pub fn filter(
        self,
        name: &str,
        determinism: Determinism,
        takes: impl Into<Vec<DataType>>,
        call: impl Fn(&[ArrayRef]) -> Result<BooleanArray, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let call = move |columns: &[ArrayRef]| Ok(Arc::new(call(columns)?) as ArrayRef);
        self.scalar(name, determinism, takes, DataType::Boolean, call)
    }

    /// An aggregate function of DataFusion, under its own name. It is deterministic if its signature's volatility says
    /// so.
    pub fn aggregate(self, function: impl Into<AggregateUDF>) -> Self {
        let function = function.into();
        self.add(function.name().to_owned(), Function::Aggregate(Arc::new(function)))
    }

    /// A function from the record batches of a partition to others.
    pub fn map_partitions(self, name: &str, determinism: Determinism, function: impl MapPartitions) -> Self {
        let function = BatchesFunction::partitions(name, determinism, Arc::new(function));
        self.add(name, Function::Batches(function))
    }

    /// A function from the record batches of a whole batch to others, for `transform`.
    pub fn transform(self, name: &str, determinism: Determinism, function: impl Transform) -> Self {
        let function = BatchesFunction::transform(name, determinism, Arc::new(function));
        self.add(name, Function::Batches(function))
    }

    /// A function from the states of keys to the next ones. It has to be deterministic, for a batch can run again.
    pub fn state(self, name: &str, function: impl StateUpdate) -> Self {
        self.add(name, Function::State(Arc::new(function)))
    }

    /// What a foreach output does with rows, in an asynchronous function.
    pub fn foreach(self, name: &str, function: impl Foreach) -> Self {
        self.add(name, Function::Foreach(ForeachFunction::Async(Arc::new(function))))
    }

    /// What a foreach output does with rows, in a function that may block its thread.
    pub fn foreach_blocking(
        self,
        name: &str,
        call: impl Fn(ForeachBatch) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.add(name, Function::Foreach(ForeachFunction::Blocking(Arc::new(call))))
    }

    /// # Errors
    /// A name is no identifier, is there twice, or means something in SQL already.
    pub fn build(self) -> Result<Registry, Error> {
        let mut by_name = BTreeMap::new();
        for (name, function) in self.functions {
            if !is_identifier(&name) {
                let reason = "its name has to be of lowercase letters, digits and underscores, a letter first";
                return Err(Error::Function { name, reason });
            }
            if session::is_function(&name) {
                let reason = "a function of that name is part of SQL here";
                return Err(Error::Function { name, reason });
            }
            if by_name.insert(name.clone(), function).is_some() {
                let reason = "another one has its name";
                return Err(Error::Function { name, reason });
            }
        }
        let mut handles: BTreeMap<String, Vec<(String, DataType)>> = BTreeMap::new();
        for (name, handle, takes) in self.handles {
            let known = match by_name.get_mut(&name) {
                Some(Function::Scalar(function)) => NativeScalar::with_handles(function),
                Some(Function::Batches(_)) => true,
                _ => false,
            };
            if !known {
                let reason = "it has no handles: only functions of a record and of record batches do";
                return Err(Error::Function { name, reason });
            }
            if value_type(&takes).is_none() {
                let reason = "no accumulator takes what its handle says that it adds";
                return Err(Error::Function { name, reason });
            }
            let handles = handles.entry(name.clone()).or_default();
            if handles.iter().any(|(known, _)| *known == handle) {
                let reason = "two of its handles have one name";
                return Err(Error::Function { name, reason });
            }
            handles.push((handle, takes));
        }
        Ok(Registry {
            functions: Arc::new(Functions {
                by_name,
                handles,
                context: OnceLock::new(),
            }),
        })
    }
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn volatility(determinism: Determinism) -> Volatility {
    match determinism {
        Determinism::Deterministic => Volatility::Immutable,
        Determinism::Nondeterministic => Volatility::Volatile,
    }
}
