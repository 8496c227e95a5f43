//! `broadcast_value`, `broadcast_contains` and `broadcast_get`.
//!
//! The name is a literal, so that the shape and the types are known when a job is checked. DataFusion takes the functions
//! to be immutable, which within one batch they are; they fail outside of a task, so planning folds none of them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use tidemill_dstream::{Shape, nearest};
use tidemill_types::{FailureKind, TaskFailure};

use super::TaskScope;
use crate::broadcast::{BroadcastValue, Declaration, Declared, fits};

/// The functions, for a job with these variables.
pub(crate) fn functions(declared: &Arc<Declared>) -> Vec<Arc<ScalarUDF>> {
    [Kind::Value, Kind::Contains, Kind::Get]
        .map(|kind| {
            Arc::new(ScalarUDF::from(BroadcastFunction {
                kind,
                declared: Arc::clone(declared),
                signature: Signature::user_defined(Volatility::Immutable),
            }))
        })
        .to_vec()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Value,
    Contains,
    Get,
}

#[derive(Debug)]
pub(crate) struct BroadcastFunction {
    kind: Kind,
    declared: Arc<Declared>,
    signature: Signature,
}

impl PartialEq for BroadcastFunction {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}
impl Eq for BroadcastFunction {}

impl Hash for BroadcastFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl BroadcastFunction {
    /// Whether a call with these arguments can give something else in a later batch.
    pub(crate) fn changes(&self, args: &[Arc<dyn PhysicalExpr>]) -> bool {
        let name = args.first().and_then(|name| name.downcast_ref::<Literal>());
        let name = name.and_then(|literal| text(literal.value()));
        let declaration = name.and_then(|name| self.declared.get(name));
        declaration.is_none_or(|declaration| declaration.changes)
    }

    fn usage(&self) -> &'static str {
        match self.kind {
            Kind::Value => "broadcast_value('name')",
            Kind::Contains => "broadcast_contains('name', value)",
            Kind::Get => "broadcast_get('name', key) or broadcast_get('name', key, default)",
        }
    }

    fn declaration(&self, name: &str) -> Result<&Declaration> {
        if let Some(declaration) = self.declared.get(name) {
            return Ok(declaration);
        }
        let names = self.declared.names();
        let hint = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "the job has none; add it under broadcasts".to_owned(),
            None => format!("known: {}", names.join(", ")),
        };
        plan_err!("unknown broadcast `{name}` ({hint})")
    }

    /// The type that a call gives, or what is wrong with it.
    fn check(&self, name: &str, args: &[FieldRef]) -> Result<DataType> {
        let Declaration { shape, schema, .. } = self.declaration(name)?;
        let first = schema.field(0).data_type();
        let unfit = |needed: &str| {
            let use_it = match shape {
                Shape::Scalar => "use broadcast_value",
                Shape::List => "use broadcast_contains",
                Shape::Map => "use broadcast_get or broadcast_contains",
                Shape::Table => "name it in SQL, or join with it",
            };
            plan_err!(
                "broadcast `{name}` is a {}, and {} needs {needed} ({use_it})",
                shape.name(),
                self.name()
            )
        };
        match (self.kind, shape) {
            (Kind::Value, Shape::Scalar) => return Ok(first.clone()),
            (Kind::Contains, Shape::List | Shape::Map) | (Kind::Get, Shape::Map) => {}
            (Kind::Value, _) => return unfit("a scalar"),
            (Kind::Contains, _) => return unfit("a list or a map"),
            (Kind::Get, _) => return unfit("a map"),
        }
        let holds = if *shape == Shape::Map { "keys" } else { "values" };
        let asked = args[1].data_type();
        if !fits(asked, first) {
            return plan_err!("broadcast `{name}` has {holds} of type {first}, and this is {asked} (cast it)");
        }
        if self.kind == Kind::Contains {
            return Ok(DataType::Boolean);
        }
        let value = schema.field(1).data_type();
        if let Some(default) = args.get(2).map(|default| default.data_type())
            && !fits(default, value)
        {
            return plan_err!("broadcast `{name}` has values of type {value}, and the default is {default} (cast it)");
        }
        Ok(value.clone())
    }
}

impl ScalarUDFImpl for BroadcastFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Value => "broadcast_value",
            Kind::Contains => "broadcast_contains",
            Kind::Get => "broadcast_get",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Arguments stay as they are: they are converted with the value at hand.
    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of {} depends on the variable", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let fields = args.arg_fields;
        let fit = match self.kind {
            Kind::Value => fields.len() == 1,
            Kind::Contains => fields.len() == 2,
            Kind::Get => matches!(fields.len(), 2 | 3),
        };
        if !fit {
            return plan_err!(
                "{} is called with {} arguments (write {})",
                self.name(),
                fields.len(),
                self.usage()
            );
        }
        let name = args.scalar_arguments[0].and_then(text);
        let Some(name) = name else {
            return plan_err!(
                "the name of a broadcast has to stand in the call, in quotes (write {})",
                self.usage()
            );
        };
        let data_type = self.check(name, fields)?;
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(ColumnarValue::Scalar(name)) = args.args.first() else {
            return internal_err!("{} without a name", self.name());
        };
        let name = text(name).unwrap_or_default();
        let value = TaskScope::current(self.name(), |scope| scope.broadcasts().get(name).map(Arc::clone))?;
        let value = value.map_err(|message| failed(TaskFailure::new(FailureKind::User, message)))?;
        if self.kind == Kind::Value {
            return Ok(ColumnarValue::Scalar(value.scalar().map_err(failed)?));
        }
        let Some(asked) = args.args.get(1) else {
            return internal_err!("{} without a key", self.name());
        };
        let (keys, is_scalar) = match asked {
            ColumnarValue::Array(keys) => (Arc::clone(keys), false),
            ColumnarValue::Scalar(key) => (key.to_array_of_size(1)?, true),
        };
        let default = args.args.get(2);
        let column: ArrayRef = match (self.kind, default) {
            (Kind::Contains, _) => Arc::new(value.contains(&keys).map_err(failed)?),
            (_, None) => value.get(&keys).map_err(failed)?,
            // A column of defaults goes with the rows.
            (_, Some(ColumnarValue::Array(defaults))) => {
                let keys = asked.to_array(args.number_rows)?;
                return Ok(ColumnarValue::Array(get_or(&value, &keys, defaults)?));
            }
            (_, Some(ColumnarValue::Scalar(default))) => get_or(&value, &keys, &default.to_array_of_size(keys.len())?)?,
        };
        Ok(if is_scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&column, 0)?)
        } else {
            ColumnarValue::Array(column)
        })
    }
}

/// The values of keys, and the defaults of those that are not there. A null that is there stays null.
fn get_or(value: &BroadcastValue, keys: &ArrayRef, defaults: &ArrayRef) -> Result<ArrayRef> {
    let values = value.get(keys).map_err(failed)?;
    let absent = is_null(&value.rows_of(keys).map_err(failed)?)?;
    if absent.true_count() == 0 {
        return Ok(values);
    }
    let defaults = cast(defaults, values.data_type())?;
    Ok(zip(&absent, &defaults, &values)?)
}

fn failed(failure: TaskFailure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text.as_deref(),
        _ => None,
    }
}
