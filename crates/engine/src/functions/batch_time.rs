//! `batch_time()`, and `now()` and its kin, which mean the batch time too.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::TaskScope;

pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Form::BatchTime, Form::Now, Form::Date, Form::Time]
        .map(|form| Arc::new(ScalarUDF::from(BatchTimeFunction::new(form))))
        .to_vec()
}

/// In which type the batch time is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// Timestamp in milliseconds, UTC.
    BatchTime,
    /// Timestamp in nanoseconds without a zone, the type of DataFusion's `now()`.
    Now,
    Date,
    Time,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BatchTimeFunction {
    form: Form,
    aliases: Vec<String>,
    signature: Signature,
}

impl BatchTimeFunction {
    fn new(form: Form) -> Self {
        let aliases: &[&str] = match form {
            Form::Now => &["current_timestamp"],
            Form::Date => &["today"],
            Form::BatchTime | Form::Time => &[],
        };
        Self {
            form,
            aliases: aliases.iter().map(ToString::to_string).collect(),
            signature: Signature::nullary(Volatility::Volatile),
        }
    }
}

const MILLIS_A_DAY: i64 = 86_400_000;
const NANOS_A_MILLI: i64 = 1_000_000;

impl ScalarUDFImpl for BatchTimeFunction {
    fn name(&self) -> &str {
        match self.form {
            Form::BatchTime => "batch_time",
            Form::Now => "now",
            Form::Date => "current_date",
            Form::Time => "current_time",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.form {
            Form::BatchTime => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Form::Now => DataType::Timestamp(TimeUnit::Nanosecond, None),
            Form::Date => DataType::Date32,
            Form::Time => DataType::Time64(TimeUnit::Nanosecond),
        })
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ms = TaskScope::current(self.name(), TaskScope::batch_time_ms)?;
        Ok(ColumnarValue::Scalar(match self.form {
            Form::BatchTime => ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())),
            Form::Now => ScalarValue::TimestampNanosecond(Some(ms.saturating_mul(NANOS_A_MILLI)), None),
            Form::Date => ScalarValue::Date32(i32::try_from(ms.div_euclid(MILLIS_A_DAY)).ok()),
            Form::Time => ScalarValue::Time64Nanosecond(Some(ms.rem_euclid(MILLIS_A_DAY) * NANOS_A_MILLI)),
        }))
    }
}
