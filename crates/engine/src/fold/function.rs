//! A fold as an aggregate function.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};

use super::{Fold, FoldGroups};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FoldFunction {
    /// For people, and so that two folds of one column differ: with the functions in it.
    name: String,
    fold: Arc<Fold>,
    signature: Signature,
}

impl FoldFunction {
    /// The fold's functions are deterministic.
    pub(crate) fn new(name: impl Into<String>, fold: Fold) -> Self {
        Self {
            name: name.into(),
            signature: Signature::any(fold.inputs().fields().len(), Volatility::Immutable),
            fold: Arc::new(fold),
        }
    }

    pub(crate) fn fold(&self) -> &Fold {
        &self.fold
    }

    /// The type of the combined columns as one.
    fn data_type(&self) -> DataType {
        match self.fold.columns.fields().as_ref() {
            [only] => only.data_type().clone(),
            fields => DataType::Struct(fields.iter().cloned().collect()),
        }
    }
}

impl AggregateUDFImpl for FoldFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type())
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup(FoldGroups::new(Arc::clone(&self.fold)))))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |name: &str, data_type: &DataType, nullable| {
            Arc::new(Field::new(
                format_state_name(args.name, name),
                data_type.clone(),
                nullable,
            ))
        };
        let columns = self.fold.columns.fields().iter();
        let columns = columns.map(|column| field(column.name(), column.data_type(), true));
        Ok(columns.chain([field("present", &DataType::Boolean, false)]).collect())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(FoldGroups::new(Arc::clone(&self.fold))))
    }

    /// Records are folded as they come.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The fold of everything.
struct OneGroup(FoldGroups);

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneGroup")
    }
}

impl OneGroup {
    /// All values are of group 0.
    fn groups(values: &[ArrayRef]) -> Vec<usize> {
        vec![0; values.first().map_or(0, |column| column.len())]
    }

    fn only(column: Option<&ArrayRef>) -> Result<ScalarValue> {
        match column {
            Some(column) if column.len() == 1 => ScalarValue::try_from_array(column, 0),
            _ => internal_err!("a fold of everything without a value"),
        }
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(values, &Self::groups(values), None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states, &Self::groups(states), 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        // Without any record the group was never named.
        self.0.update_batch(&[], &[], None, 1)?;
        Self::only(Some(&self.0.evaluate(EmitTo::All)?))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.update_batch(&[], &[], None, 1)?;
        let state = self.0.state(EmitTo::All)?;
        state.iter().map(|column| Self::only(Some(column))).collect()
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
