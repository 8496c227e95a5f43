//! Expressions of a job: parsed and type-checked where they stand.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::find_aggregate_exprs;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use tidemill_dstream::{Diagnostic, Function};

use super::diagnose::Place;
use super::native;
use crate::error;

/// Bytes of one expression or query.
const MAX_LENGTH: usize = 64 * 1024;

/// Operators and brackets of one expression or query, which bounds how deep it can be: expression trees are walked
/// recursively in many places, also where they are encoded, decoded and dropped.
const MAX_OPERATORS: usize = 400;

/// The columns that an expression can name, and the session that knows the functions.
pub(super) struct Scope<'a> {
    pub(super) state: &'a SessionState,
    pub(super) columns: DFSchemaRef,
}

/// An expression with its type.
pub(super) struct Typed {
    pub(super) expr: Expr,
    pub(super) data_type: DataType,
}

impl<'a> Scope<'a> {
    /// The scope of the step after `input`.
    pub(super) fn after(input: &LogicalPlan, state: &'a SessionState) -> Self {
        Self {
            state,
            columns: Arc::clone(input.schema()),
        }
    }

    /// A function of one record.
    pub(super) fn scalar(&self, function: &Function, place: &Place) -> Result<Typed, Diagnostic> {
        let expr = self.parse(function, place)?;
        if let Some(aggregate) = find_aggregate_exprs([&expr]).first() {
            return Err(place
                .diagnostic(format!(
                    "`{}` is an aggregate, and this step sees one record at a time",
                    aggregate.human_display()
                ))
                .hint("use reduce_by_key, reduce or transform"));
        }
        let plan = self
            .over(|input| input.project([expr.clone()]))
            .map_err(|e| place.explain(&e, self.state))?;
        let data_type = plan.schema().field(0).data_type().clone();
        Ok(Typed { expr, data_type })
    }

    /// A function of many records: aggregates, possibly inside of other functions.
    pub(super) fn aggregate(&self, function: &Function, place: &Place) -> Result<Expr, Diagnostic> {
        let expr = self.parse(function, place)?;
        let aggregates = find_aggregate_exprs([&expr]);
        if aggregates.is_empty() {
            return Err(place
                .diagnostic(format!("`{}` is not an aggregate", expr.human_display()))
                .hint("for example count(*), sum(x), max(x), sum(x) / count(*)"));
        }
        self.over(|input| input.aggregate(Vec::<Expr>::new(), told_apart(&aggregates)))
            .map_err(|e| place.explain(&e, self.state))?;
        Ok(expr)
    }

    fn parse(&self, function: &Function, place: &Place) -> Result<Expr, Diagnostic> {
        let sql = match function {
            Function::Expr(sql) => sql,
            Function::Native(call) => return native::call(call, self, place),
        };
        check_size(sql, place)?;
        let parsed = self.state.create_logical_expr(sql, &self.columns);
        if let Err(error) = &parsed
            && error::message(error).starts_with("table ")
        {
            return Err(place
                .diagnostic("a subquery cannot stand in an expression")
                .hint("use transform"));
        }
        let expr = parsed.map_err(|e| place.explain(&e, self.state))?;
        let expr = expr.unalias();
        match misplaced(&expr) {
            Some((what, hint)) => Err(place
                .diagnostic(format!("{what} cannot stand in an expression"))
                .hint(hint)),
            None => Ok(expr),
        }
    }

    /// Type-checks a plan over a relation with the columns of this scope.
    fn over(&self, build: impl FnOnce(LogicalPlanBuilder) -> Result<LogicalPlanBuilder>) -> Result<LogicalPlan> {
        let input = stand_in(&self.columns);
        analyze(build(LogicalPlanBuilder::from(input))?.build()?, self.state)
    }
}

/// The aggregates under distinct names: casts are not part of the names that expressions have, so `max(x)` and
/// `max(CAST(x AS VARCHAR))` are called alike.
pub(super) fn told_apart(aggregates: &[Expr]) -> Vec<Expr> {
    let mut names = HashSet::new();
    let named = aggregates.iter().enumerate().map(|(place, aggregate)| {
        let name = aggregate.schema_name().to_string();
        let other = format!("{name} {place}");
        match names.insert(name) {
            true => aggregate.clone(),
            false => aggregate.clone().alias(other),
        }
    });
    named.collect()
}

/// A relation with these columns, in place of another plan.
pub(super) fn stand_in(columns: &DFSchemaRef) -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::clone(columns),
    })
}

/// The plan with its types resolved.
pub(super) fn analyze(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})
}

/// An expression over columns as it is evaluated. Some functions exist only until simplification.
pub(super) fn physical(expr: Expr, columns: &DFSchemaRef, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(columns))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.simplify(simplifier.coerce(expr, columns)?)?;
    state.create_physical_expr(expr, columns)
}

fn misplaced(expr: &Expr) -> Option<(&'static str, &'static str)> {
    let mut found = None;
    let walked = expr.apply(|node| {
        found = match node {
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some(("a subquery", "use transform"))
            }
            Expr::WindowFunction(_) => Some(("a window function", "use transform")),
            Expr::Unnest(_) => Some(("unnest", "use flat_map, which spreads lists by itself")),
            Expr::Placeholder(_) => Some(("a placeholder", "write the value")),
            #[expect(deprecated)]
            Expr::Wildcard { .. } => Some(("`*`", "name the columns")),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    });
    walked.ok().and(found)
}

/// Refuses text that would make a tree too deep to be walked, before anything recursive sees it.
pub(super) fn check_size(sql: &str, place: &Place) -> Result<(), Diagnostic> {
    check_size_within(sql, MAX_OPERATORS, place)
}

/// The same for planning on a thread whose stack does not allow for that many operators.
pub(crate) fn check_size_within(sql: &str, max_operators: usize, place: &Place) -> Result<(), Diagnostic> {
    if sql.trim().is_empty() {
        return Err(place.diagnostic("is empty").hint("write an SQL expression"));
    }
    if sql.len() > MAX_LENGTH {
        return Err(place.diagnostic(format!("is {} bytes long, the limit is {MAX_LENGTH}", sql.len())));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize()
        .map_err(|e| place.diagnostic(format!("not valid SQL: {}", e.message)))?;
    let operators = tokens.iter().filter(|token| is_operator(token)).count();
    if operators > max_operators {
        return Err(place
            .diagnostic(format!("has {operators} operators, the limit is {max_operators}"))
            .hint("split it into several steps, or join with a table"));
    }
    Ok(())
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) if word.quote_style.is_none() => [
            "and", "or", "not", "case", "between", "is", "like", "ilike", "in", "select", "union", "join",
        ]
        .iter()
        .any(|operator| word.value.eq_ignore_ascii_case(operator)),
        Token::Word(_)
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::RParen
        | Token::RBracket
        | Token::RBrace
        | Token::SemiColon
        | Token::EOF => false,
        _ => true,
    }
}
