//! Projections that are done as often as they are written.
//!
//! DataFusion 55.2 takes a projection with the same expressions as the one below it for the same one and leaves it out:
//! of `SELECT n + 1 AS n` over `SELECT n + 1 AS n`, or of two such maps, one would be done. While its rule runs, every
//! projection therefore has expressions of its own: their results are named twice, first by a name that no other
//! projection has. Later versions do not leave anything out (apache/datafusion#24686).

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Alias;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::null_keys::OwnKeys;

/// DataFusion's rules for logical plans, with [`Distinguished`] in place of the rule that leaves projections out and
/// [`OwnKeys`] in place of the one that makes keys of equalities.
pub(crate) fn logical_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let rules = Optimizer::new().rules.into_iter();
    let mended = |rule: Arc<dyn OptimizerRule + Send + Sync>| match rule.name() {
        "optimize_projections" => Arc::new(Distinguished(rule)) as _,
        "extract_equijoin_predicate" => Arc::new(OwnKeys(rule)) as _,
        _ => rule,
    };
    rules.map(mended).collect()
}

/// A rule that sees no two projections of the same expressions.
#[derive(Debug)]
struct Distinguished(Arc<dyn OptimizerRule + Send + Sync>);

/// With the projection's number behind it, the name that nothing else has.
const MARK: &str = "__projection ";

impl OptimizerRule for Distinguished {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if !has_several_projections(&plan)? {
            return self.0.rewrite(plan, config);
        }
        let rewritten = self.0.rewrite(mark(plan.clone())?, config)?;
        if !rewritten.transformed {
            return Ok(Transformed::no(plan));
        }
        unmark(rewritten.data).map(Transformed::yes)
    }
}

fn has_several_projections(plan: &LogicalPlan) -> Result<bool> {
    let mut projections = 0;
    plan.apply_with_subqueries(|node| {
        projections += usize::from(matches!(node, LogicalPlan::Projection(_)));
        Ok(match projections {
            0 | 1 => TreeNodeRecursion::Continue,
            _ => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(projections > 1)
}

fn mark(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut number = 0;
    each_projection(
        plan,
        |expr, name| match expr {
            // As often as it may be done, it changes nothing.
            Expr::Column(_) => expr,
            Expr::Alias(alias) => Expr::Alias(Alias {
                expr: Box::new(alias.expr.alias(name)),
                ..alias
            }),
            expr => {
                let shown = expr.schema_name().to_string();
                expr.alias(name).alias(shown)
            }
        },
        || {
            number += 1;
            format!("{MARK}{number}")
        },
    )
}

fn unmark(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plain = |expr, _: &str| {
        let Expr::Alias(mut alias) = expr else { return expr };
        match *alias.expr {
            Expr::Alias(marked) if marked.name.starts_with(MARK) => {
                let is_bare = alias.relation.is_none()
                    && alias.metadata.is_none()
                    && marked.expr.schema_name().to_string() == alias.name;
                if is_bare {
                    return *marked.expr;
                }
                alias.expr = marked.expr;
            }
            other => alias.expr = Box::new(other),
        }
        Expr::Alias(alias)
    };
    each_projection(plan, plain, String::new)
}

/// The plan with the expressions of its projections changed, which are still of the same names and types. Each
/// projection has a name for that.
fn each_projection(
    plan: LogicalPlan,
    change: impl Fn(Expr, &str) -> Expr,
    mut name: impl FnMut() -> String,
) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Projection(projection) = node else {
            return Ok(Transformed::no(node));
        };
        let name = name();
        let exprs = projection.expr.into_iter().map(|expr| change(expr, &name)).collect();
        let changed = Projection::try_new_with_schema(exprs, projection.input, projection.schema)?;
        Ok(Transformed::yes(LogicalPlan::Projection(changed)))
    })
    .data()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use datafusion::prelude::SessionContext;

    use crate::registry::Registry;
    use crate::rules::physical_rules;
    use crate::session::planning_state;
    use crate::tests::format_rows;

    /// What a query gives of a table with one record.
    async fn answer(sql: &str) -> String {
        let state = planning_state(2, physical_rules(), &Registry::default(), std::sync::Arc::default()).unwrap();
        let context = SessionContext::new_with_state(state);
        let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let columns = [
            ("n", Arc::new(Int64Array::from(vec![0])) as ArrayRef),
            ("a", text("x")),
            ("b", text("y")),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        context.register_batch("t", batch).unwrap();
        let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
        rows.iter().flat_map(format_rows).collect::<Vec<_>>().join(" ")
    }

    /// A projection over itself, and so on.
    async fn repeated(columns: &str, times: usize) -> String {
        let query = (0..times).fold("t".to_owned(), |query, _| format!("(SELECT {columns} FROM {query})"));
        answer(&format!("SELECT * FROM {query}")).await
    }

    #[tokio::test]
    async fn a_projection_over_the_same_projection_is_done_again() {
        assert_eq!(repeated("n + 1 AS n", 6).await, "6");
        assert_eq!(repeated("a || b AS a, b", 5).await, "xyyyyy|y");
        assert_eq!(repeated("b AS a, a AS b", 3).await, "y|x");
        assert_eq!(repeated("n + 1 AS n, n % 3 + n % 2 AS a", 4).await, "4|1");
    }

    #[tokio::test]
    async fn what_becomes_the_same_projection_is_done_again() {
        let once = "(SELECT n + 1 AS n FROM (SELECT n * 2 AS n FROM t))";
        assert_eq!(
            answer(&format!("SELECT m AS n FROM (SELECT n + 1 AS m FROM {once})")).await,
            "2"
        );
        assert_eq!(
            answer(&format!("SELECT n + 1 AS n FROM (SELECT n FROM {once} WHERE n > 0)")).await,
            "2"
        );
    }
}
