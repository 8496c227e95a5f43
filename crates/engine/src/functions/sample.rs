//! What `sample` draws for each record: a number in `[0, 1)` of the task, the step, and the record's place among those
//! that the step sees in the task. How records are cut into batches does not show.

use std::sync::Arc;

use arrow::array::Float64Array;
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::TaskScope;
use super::random::unit;
use super::scope::mix;

/// A drawn number for each record; steps with another seed or at another place draw others.
pub(crate) fn draw(seed: u64, step: &str) -> Expr {
    let salt = step.bytes().fold(seed, |salt, byte| mix(salt ^ u64::from(byte)));
    ScalarUDF::from(DrawFunction::new()).call(vec![lit(salt)])
}

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(DrawFunction::new()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DrawFunction {
    signature: Signature,
}

impl DrawFunction {
    fn new() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::UInt64], Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for DrawFunction {
    fn name(&self) -> &str {
        "__draw"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        match args.args.as_slice() {
            [ColumnarValue::Scalar(ScalarValue::UInt64(Some(salt)))] => TaskScope::current("sample", |scope| {
                let values = scope.draw(*salt, rows).map(unit);
                ColumnarValue::Array(Arc::new(Float64Array::from_iter_values(values)))
            }),
            _ => internal_err!("a sample has one seed"),
        }
    }
}
