//! A closure over arrays as a scalar function.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::{BoxError, Determinism, volatility};
use crate::accumulate::{Accumulators, Bound};
use crate::error::function_failure;
use crate::functions::TaskScope;

type Call = dyn Fn(&Accumulators, &[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync;

/// A registered function of one record.
#[derive(Clone)]
pub(crate) struct NativeScalar {
    name: String,
    /// Volatile also if it adds to accumulators: planning must neither repeat a call nor move it.
    signature: Signature,
    determinism: Determinism,
    returns: DataType,
    call: Arc<Call>,
    /// What its handles stand for in this call.
    accumulators: Arc<[Bound]>,
}

impl NativeScalar {
    pub(super) fn new(
        name: &str,
        determinism: Determinism,
        takes: Vec<DataType>,
        returns: DataType,
        call: impl Fn(&Accumulators, &[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let volatility = volatility(determinism);
        Self {
            name: name.to_owned(),
            signature: if takes.is_empty() {
                Signature::nullary(volatility)
            } else {
                Signature::exact(takes, volatility)
            },
            determinism,
            returns,
            call: Arc::new(call),
            accumulators: Arc::default(),
        }
    }

    pub(crate) fn is_deterministic(&self) -> bool {
        self.determinism == Determinism::Deterministic
    }

    /// The function behind a call, if it is a registered one.
    pub(crate) fn of(function: &ScalarUDF) -> Option<&Self> {
        let inner: &dyn Any = function.inner().as_ref();
        inner.downcast_ref()
    }

    /// Makes a function one that adds to accumulators; whether it is registered at all.
    pub(super) fn with_handles(function: &mut Arc<ScalarUDF>) -> bool {
        let Some(native) = Self::of(function) else {
            return false;
        };
        let mut native = native.clone();
        native.signature.volatility = Volatility::Volatile;
        *function = Arc::new(ScalarUDF::from(native));
        true
    }

    /// The function in a call that binds its handles.
    pub(crate) fn bound(&self, accumulators: Arc<[Bound]>) -> Self {
        Self {
            accumulators,
            ..self.clone()
        }
    }

    pub(crate) fn accumulators(&self) -> &Arc<[Bound]> {
        &self.accumulators
    }
}

impl fmt::Debug for NativeScalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NativeScalar({})", self.name)
    }
}

impl PartialEq for NativeScalar {
    fn eq(&self, other: &Self) -> bool {
        let bound = |native: &Self| -> Vec<_> {
            let bound = native.accumulators.iter();
            bound.map(|bound| (bound.handle.clone(), bound.target.id)).collect()
        };
        self.name == other.name && Arc::ptr_eq(&self.call, &other.call) && bound(self) == bound(other)
    }
}
impl Eq for NativeScalar {}

impl Hash for NativeScalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for NativeScalar {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let columns = args.args.iter().map(|arg| arg.to_array(rows));
        let accumulators = match self.accumulators.is_empty() {
            true => Accumulators::default(),
            false => Accumulators::new(&self.accumulators, TaskScope::current(&self.name, TaskScope::deltas)?),
        };
        let result = (self.call)(&accumulators, &columns.collect::<Result<Vec<_>>>()?);
        let column = result.map_err(|error| function_failure(&self.name, error))?;
        if column.len() != rows {
            let error = format!("gave {} values for {rows} rows", column.len());
            return Err(function_failure(&self.name, error.into()));
        }
        if !column.data_type().equals_datatype(&self.returns) {
            let error = format!(
                "gave {}, and is registered to give {}",
                column.data_type(),
                self.returns
            );
            return Err(function_failure(&self.name, error.into()));
        }
        Ok(ColumnarValue::Array(column))
    }
}
