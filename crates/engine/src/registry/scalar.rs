//! A closure over arrays as a scalar function.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::{BoxError, Determinism, volatility};
use crate::error::function_failure;

type Call = dyn Fn(&[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync;

/// A registered function of one record.
pub(crate) struct NativeScalar {
    name: String,
    signature: Signature,
    returns: DataType,
    call: Arc<Call>,
}

impl NativeScalar {
    pub(super) fn new(
        name: &str,
        determinism: Determinism,
        takes: Vec<DataType>,
        returns: DataType,
        call: impl Fn(&[ArrayRef]) -> Result<ArrayRef, BoxError> + Send + Sync + 'static,
    ) -> Self {
        let volatility = volatility(determinism);
        Self {
            name: name.to_owned(),
            signature: if takes.is_empty() {
                Signature::nullary(volatility)
            } else {
                Signature::exact(takes, volatility)
            },
            returns,
            call: Arc::new(call),
        }
    }

    pub(crate) fn is_deterministic(&self) -> bool {
        self.signature.volatility == Volatility::Immutable
    }
}

impl fmt::Debug for NativeScalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NativeScalar({})", self.name)
    }
}

impl PartialEq for NativeScalar {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.call, &other.call)
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
        let result = (self.call)(&columns.collect::<Result<Vec<_>>>()?);
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
