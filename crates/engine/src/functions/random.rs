//! `random()` and `uuid()`, seeded by the task: another attempt of a task draws the same values.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Float64Array, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::TaskScope;

pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Kind::Random, Kind::Uuid]
        .map(|kind| Arc::new(ScalarUDF::from(RandomFunction::new(kind))))
        .to_vec()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Random,
    Uuid,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RandomFunction {
    kind: Kind,
    aliases: Vec<String>,
    signature: Signature,
}

impl RandomFunction {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            aliases: match kind {
                Kind::Random => vec!["rand".to_owned()],
                Kind::Uuid => Vec::new(),
            },
            signature: Signature::nullary(Volatility::Volatile),
        }
    }
}

/// 2^-53: a random integer of 53 bits times this is in `[0, 1)` and exact.
const UNIT: f64 = 1.0 / (1u64 << 53) as f64;

/// A number in `[0, 1)` of random bits.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * UNIT
}

impl ScalarUDFImpl for RandomFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Random => "random",
            Kind::Uuid => "uuid",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Random => DataType::Float64,
            Kind::Uuid => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        TaskScope::current(self.name(), |scope| match self.kind {
            Kind::Random => {
                let values = (0..rows).map(|_| unit(scope.next_random()));
                ColumnarValue::Array(Arc::new(Float64Array::from_iter_values(values)))
            }
            Kind::Uuid => {
                let mut values = StringBuilder::with_capacity(rows, rows * 36);
                for _ in 0..rows {
                    append_uuid(&mut values, scope.next_random(), scope.next_random());
                    values.append_value("");
                }
                ColumnarValue::Array(Arc::new(values.finish()))
            }
        })
    }
}

/// Writes a version 4, variant 1 UUID (RFC 9562) of the given random bits.
fn append_uuid(out: &mut StringBuilder, high: u64, low: u64) {
    let high = (high & 0xFFFF_FFFF_FFFF_0FFF) | 0x4000;
    let low = (low & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000;
    // Writing to a string builder cannot fail.
    let _ = write!(
        out,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    );
}
