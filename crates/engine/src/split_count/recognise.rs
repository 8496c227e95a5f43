//! Finds plans that the operator can stand for.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{NullHandling, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, LikeExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::unnest::UnnestExec;

use super::exec::{SplitCount, SplitCountExec};

/// The plan with [`SplitCountExec`] wherever it fits.
pub(crate) fn apply(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        Ok(match recognise(&node) {
            Some(counting) => Transformed::yes(Arc::new(counting) as _),
            None => Transformed::no(node),
        })
    })
    .data()
}

fn recognise(plan: &Arc<dyn ExecutionPlan>) -> Option<SplitCountExec> {
    let aggregate = plan.downcast_ref::<AggregateExec>()?;
    if !counts_tokens(aggregate) {
        return None;
    }
    let (predicate, token_schema, unnest) = filtered(aggregate.input())?;
    let unnest = unnest.downcast_ref::<UnnestExec>()?;
    let [list] = unnest.list_column_indices() else {
        return None;
    };
    let drops_nulls = unnest.options().null_handling == NullHandling::Drop;
    if list.depth != 1 || list.index_in_input_schema != 0 || !drops_nulls || !unnest.struct_column_indices().is_empty()
    {
        return None;
    }
    let projection = unnest.input().downcast_ref::<ProjectionExec>()?;
    let [lists] = projection.expr() else {
        return None;
    };
    let (text, separator, lower) = split(&lists.expr)?;
    let text_type = text.data_type(&projection.input().schema()).ok()?;
    let token_type = token_schema.field(0).data_type();
    let is_text = matches!(text_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    if !is_text || !matches!(token_type, DataType::Utf8 | DataType::Utf8View) {
        return None;
    }
    let parts = SplitCount {
        text,
        separator,
        lower,
        predicate,
        token_schema,
        schema: aggregate.schema(),
    };
    Some(SplitCountExec::new(Arc::clone(projection.input()), parts))
}

/// Whether the aggregate has one group for each value of its only column, and counts rows.
fn counts_tokens(aggregate: &AggregateExec) -> bool {
    let groups = aggregate.group_expr();
    let [(key, _)] = groups.expr() else {
        return false;
    };
    let is_count = |expr: &Arc<datafusion::physical_expr::aggregate::AggregateFunctionExpr>| {
        let arguments = expr.expressions();
        let [argument] = arguments.as_slice() else {
            return false;
        };
        // A token is never null, so the count of tokens is that of rows.
        let counted = match argument.downcast_ref::<Literal>() {
            Some(literal) => !literal.value().is_null(),
            None => argument.is::<Column>(),
        };
        counted && expr.fun().name() == "count" && !expr.is_distinct() && expr.order_bys().is_empty()
    };
    matches!(aggregate.mode(), AggregateMode::Partial | AggregateMode::Single)
        && groups.is_single()
        && key.is::<Column>()
        && aggregate.input().schema().fields().len() == 1
        && aggregate.limit_options().is_none()
        && aggregate.filter_expr().iter().all(Option::is_none)
        && aggregate.aggr_expr().iter().all(is_count)
}

type Filtered = (
    Option<Arc<dyn PhysicalExpr>>,
    arrow::datatypes::SchemaRef,
    Arc<dyn ExecutionPlan>,
);

/// The predicate over a relation of one column, that relation, and the plan that it comes from.
fn filtered(plan: &Arc<dyn ExecutionPlan>) -> Option<Filtered> {
    let plan = renamed(plan);
    let Some(filter) = plan.downcast_ref::<FilterExec>() else {
        return Some((None, plan.schema(), Arc::clone(plan)));
    };
    let schema = filter.input().schema();
    let predicate = Arc::clone(filter.predicate());
    let whole = filter.projection().is_none() && filter.fetch().is_none();
    (whole && schema.fields().len() == 1 && !is_volatile(&predicate))
        .then(|| (Some(predicate), schema, Arc::clone(renamed(filter.input()))))
}

/// The plan below projections that only give its single column another name.
fn renamed(mut plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    while let Some(projection) = plan.downcast_ref::<ProjectionExec>()
        && let [only] = projection.expr()
        && only.expr.is::<Column>()
        && projection.input().schema().fields().len() == 1
    {
        plan = projection.input();
    }
    plan
}

/// The text, the separator, and whether the text is lowered, of `string_to_array(lower(text), ' ')`.
fn split(lists: &Arc<dyn PhysicalExpr>) -> Option<(Arc<dyn PhysicalExpr>, u8, bool)> {
    let [text, separator] = arguments(lists, "string_to_array")? else {
        return None;
    };
    let separator = text_of(separator)?;
    let &[separator] = separator.as_bytes() else {
        return None;
    };
    match arguments(text, "lower") {
        // Lowering must not make a separator, nor take one away.
        Some([text]) if !separator.is_ascii_alphabetic() => Some((Arc::clone(text), separator, true)),
        _ => Some((Arc::clone(text), separator, false)),
    }
}

fn arguments<'a>(expr: &'a Arc<dyn PhysicalExpr>, function: &str) -> Option<&'a [Arc<dyn PhysicalExpr>]> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
    (call.fun().name() == function).then(|| call.args())
}

fn text_of(expr: &Arc<dyn PhysicalExpr>) -> Option<&str> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => text.as_deref(),
        _ => None,
    }
}

/// What every token starts with for which the predicate is true; nothing if that is not known.
pub(super) fn required_prefix(predicate: &Arc<dyn PhysicalExpr>) -> Vec<u8> {
    if let Some(both) = predicate.downcast_ref::<BinaryExpr>() {
        if *both.op() != Operator::And {
            return Vec::new();
        }
        let left = required_prefix(both.left());
        return if left.is_empty() {
            required_prefix(both.right())
        } else {
            left
        };
    }
    let Some(like) = predicate.downcast_ref::<LikeExpr>() else {
        return Vec::new();
    };
    match text_of(like.pattern()) {
        Some(pattern) if !like.negated() && !like.case_insensitive() && like.expr().is::<Column>() => pattern
            .bytes()
            .take_while(|byte| !matches!(byte, b'%' | b'_' | b'\\'))
            .collect(),
        _ => Vec::new(),
    }
}
