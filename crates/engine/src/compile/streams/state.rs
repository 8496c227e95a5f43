//! Keyed state: from what a job says of it to a plan node.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, cast, col, ident, lit};
use datafusion::physical_expr::PhysicalExpr;
use tidemill_dstream::{
    Function, Line, MapWithState, NamedFunction, NativeCall, Operator, StateFunction, Step, StreamDef, StreamInput,
    UpdateStateByKey,
};

use super::{Elaborator, Faults, Site};
use crate::compile::diagnose::Place;
use crate::compile::expressions::{self, Scope};
use crate::compile::leaf::LeafTable;
use crate::compile::native;
use crate::compile::sql::{self, Relations};
use crate::compile::steps::StepBuilder;
use crate::registry::StateUpdate;
use crate::state::{
    Emitted, SNAPSHOT, StateKind, StateNode, StateSpec, TIMING_OUT, Update, Value, old_name, snapshot_name,
};

/// What the two operators have in common.
struct Stateful<'o> {
    keys: &'o [NamedFunction],
    values: &'o [NamedFunction],
    state: &'o StateFunction,
    initial: Option<&'o str>,
}

/// Rounds in which the types of a state are found: each column's depends on the others' at most so often.
const TYPE_ROUNDS: usize = 8;

impl Elaborator<'_> {
    /// A step with state.
    pub(super) async fn keyed_state(
        &mut self,
        site: Site<'_>,
        operator: &Operator,
        input: LogicalPlan,
    ) -> Result<LogicalPlan, Faults> {
        match operator {
            Operator::UpdateStateByKey(update) => self.update_state(site, input, update).await,
            Operator::MapWithState(map) => self.map_with_state(site, input, map).await,
            _ => self.state_snapshots(site),
        }
    }

    /// `update_state_by_key`.
    async fn update_state(
        &mut self,
        site: Site<'_>,
        input: LogicalPlan,
        update: &UpdateStateByKey,
    ) -> Result<LogicalPlan, Faults> {
        let stateful = Stateful {
            keys: &update.keys,
            values: &update.values,
            state: &update.state,
            initial: update.initial.as_deref(),
        };
        let (spec, input, initial) = self.stateful(site, input, &stateful, update.partitions).await?;
        self.state_node(site, spec, input, initial, update.partitions)
    }

    /// `map_with_state`.
    async fn map_with_state(
        &mut self,
        site: Site<'_>,
        input: LogicalPlan,
        map: &MapWithState,
    ) -> Result<LogicalPlan, Faults> {
        let Site { stream, step, place } = site;
        let stateful = Stateful {
            keys: &map.keys,
            values: &map.values,
            state: &map.state,
            initial: map.initial.as_deref(),
        };
        let (mut spec, input, initial) = self.stateful(site, input, &stateful, map.partitions).await?;
        let emit = self.emitted(&spec, map, place)?;
        let snapshots = step + 1 == stream.steps.len() && self.is_snapshotted(stream);
        spec.kind = StateKind::Touched {
            timeout_ms: map
                .timeout
                .map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)),
            emit,
            snapshots,
        };
        let emitted: Vec<String> = match &spec.kind {
            StateKind::Touched { emit, .. } => emit.iter().map(|(field, _)| field.name().clone()).collect(),
            StateKind::All => Vec::new(),
        };
        let plan = self.state_node(site, spec, input, initial, map.partitions)?;
        if !snapshots {
            return Ok(plan);
        }
        // The rows of calls; `state_snapshots` takes the others.
        if let Some(leaf) = LeafTable::bare(&plan) {
            self.snapshots.insert(stream.name.clone(), leaf);
        }
        StepBuilder {
            state: self.state,
            place,
        }
        .finish(
            LogicalPlanBuilder::from(plan)
                .filter(!col(SNAPSHOT))
                .and_then(|calls| calls.project(emitted.iter().map(ident))),
        )
    }

    /// `state_snapshots`: the states of all keys after each batch.
    fn state_snapshots(&self, site: Site<'_>) -> Result<LogicalPlan, Faults> {
        let Site { stream, step, place } = site;
        let parent = match &stream.input {
            StreamInput::From(parent) if step == 0 => self.snapshots.get(parent),
            _ => None,
        };
        let Some(leaf) = parent.cloned() else {
            return Err(vec![
                place
                    .diagnostic("is not the first step of a stream from one that ends with map_with_state")
                    .hint("begin a stream with `from: <that stream>` and this step"),
            ]);
        };
        let columns: Vec<Expr> = leaf
            .schema
            .fields()
            .iter()
            .filter_map(|field| {
                let name = field.name().strip_prefix(snapshot_name("").as_str())?;
                (field.name() != SNAPSHOT).then(|| ident(field.name()).alias(name))
            })
            .collect();
        let scan = leaf
            .scan(&stream.name)
            .map_err(|e| vec![place.explain(&e, self.state)])?;
        StepBuilder {
            state: self.state,
            place,
        }
        .finish(
            LogicalPlanBuilder::from(scan)
                .filter(col(SNAPSHOT))
                .and_then(|kept| kept.project(columns)),
        )
    }

    /// Whether a stream begins with the snapshots of this one.
    fn is_snapshotted(&self, stream: &StreamDef) -> bool {
        self.graph.streams.iter().any(|other| {
            let first = other.steps.first();
            matches!(&other.input, StreamInput::From(parent) if *parent == stream.name)
                && matches!(
                    first,
                    Some(Step {
                        operator: Operator::StateSnapshots,
                        ..
                    })
                )
        })
    }

    /// The keys and values of a batch as a plan, the type-checked update, and the state before the first batch.
    async fn stateful(
        &mut self,
        site: Site<'_>,
        input: LogicalPlan,
        stateful: &Stateful<'_>,
        partitions: Option<u32>,
    ) -> Result<(StateSpec, LogicalPlan, Option<LogicalPlan>), Faults> {
        let Site { stream, step, place } = site;
        let state = self.state;
        let builder = StepBuilder { state, place };
        let native = match stateful.state {
            StateFunction::Columns(_) => None,
            StateFunction::Native(call) => {
                let place = place.child("state", Line(None));
                let function = native::state_update(call, state, &place).map_err(|fault| vec![fault])?;
                Some((call, function))
            }
        };
        let before = Scope::after(&input, state);
        let listed: Vec<NamedFunction>;
        let aggregates = match &native {
            None => stateful.values,
            Some(_) => {
                listed = lists(stateful, &input);
                &listed
            }
        };
        let counts: Vec<bool> = aggregates
            .iter()
            .map(|value| {
                let aggregate = before.aggregate(&value.function, place);
                matches!(aggregate, Ok(Expr::AggregateFunction(f)) if f.func.name() == "count")
            })
            .collect();
        let input = self.sized(site, input, partitions, stateful.keys.len(), |_, input| {
            if aggregates.is_empty() {
                // The keys alone.
                let keys = builder.map(input, stateful.keys)?;
                builder.finish(LogicalPlanBuilder::from(keys).distinct())
            } else {
                builder.reduce_by_key(input, stateful.keys, aggregates)
            }
        })?;
        let fields = input.schema().as_arrow().fields().clone();
        let (keys, values) = fields.split_at(stateful.keys.len());
        let values = values.iter().zip(counts).map(|(field, is_count)| Value {
            field: Arc::clone(field),
            is_count,
        });
        let mut spec = StateSpec {
            name: match step + 1 == stream.steps.len() {
                true => stream.name.clone(),
                false => format!("{}_{step}", stream.name),
            },
            kind: StateKind::All,
            keys: keys.to_vec(),
            values: values.collect(),
            columns: Vec::new(),
            update: Update::Columns(Vec::new()),
        };
        let initial = match stateful.initial {
            Some(initial) => Some(self.initial(initial, place).await?),
            None => None,
        };
        match (stateful.state, native) {
            (StateFunction::Columns(columns), _) => {
                spec.columns = self.state_types(&spec, columns, initial.as_ref(), place)?;
                spec.update = self.updates(&spec, columns, place)?;
            }
            (StateFunction::Native(_), Some((call, function))) => {
                spec.columns = native_columns(&spec, call, function.as_ref(), place)?;
                spec.update = Update::Native {
                    name: call.name.clone(),
                    function,
                };
            }
            (StateFunction::Native(_), None) => {}
        }
        let initial = initial
            .map(|initial| self.initial_columns(&spec, initial, place))
            .transpose()?;
        Ok((spec, input, initial))
    }

    /// The types of the state's columns: what the expressions give for a state that has them. The first are what they give
    /// for a state of nulls, or what the initial state has.
    fn state_types(
        &self,
        spec: &StateSpec,
        functions: &[NamedFunction],
        initial: Option<&LogicalPlan>,
        place: &Place,
    ) -> Result<Vec<FieldRef>, Faults> {
        let from_initial = |name: &str| {
            let field = initial?.schema().field_with_unqualified_name(name).ok()?;
            Some(field.data_type().clone())
        };
        let field = |name: &str, data_type: DataType| Arc::new(Field::new(name, data_type, true));
        let mut columns: Vec<FieldRef> = functions
            .iter()
            .map(|f| field(&f.name, from_initial(&f.name).unwrap_or(DataType::Null)))
            .collect();
        for _ in 0..TYPE_ROUNDS {
            let known = StateSpec {
                columns: columns.clone(),
                ..spec.clone()
            };
            let typed = self.typed(&known.scope(), functions, &place.child("state", Line(None)))?;
            let found: Vec<FieldRef> = typed
                .iter()
                .zip(functions)
                .map(|((_, data_type), f)| field(&f.name, stored(data_type)))
                .collect();
            if found == columns {
                return match columns.iter().find(|column| *column.data_type() == DataType::Null) {
                    Some(column) => Err(vec![
                        place
                            .child("state", Line(None))
                            .diagnostic(format!("the type of `{}` cannot be told", column.name()))
                            .subject(column.name().clone())
                            .hint("cast it, such as `CAST(... AS BIGINT)`"),
                    ]),
                    None => Ok(columns),
                };
            }
            columns = found;
        }
        let names: Vec<&str> = functions.iter().map(|f| f.name.as_str()).collect();
        Err(vec![
            place
                .child("state", Line(None))
                .diagnostic(format!("the types of {} change with every batch", names.join(", ")))
                .hint("cast the results to one type"),
        ])
    }

    fn typed(
        &self,
        scope: &Schema,
        functions: &[NamedFunction],
        place: &Place,
    ) -> Result<Vec<(Expr, DataType)>, Faults> {
        let columns = DFSchema::try_from(scope.clone()).map_err(|e| vec![place.explain(&e, self.state)])?;
        let scope = Scope {
            state: self.state,
            columns: Arc::new(columns),
        };
        let (mut typed, mut faults) = (Vec::new(), Vec::new());
        for function in functions {
            match scope.scalar(&function.function, &place.child(&function.name, function.line)) {
                Ok(found) => typed.push((found.expr, found.data_type)),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(typed) } else { Err(faults) }
    }

    fn updates(&self, spec: &StateSpec, functions: &[NamedFunction], place: &Place) -> Result<Update, Faults> {
        let place = place.child("state", Line(None));
        let typed = self.typed(&spec.scope(), functions, &place)?;
        let exprs = typed.into_iter().zip(&spec.columns);
        let exprs = exprs.map(|((expr, _), field)| cast(expr, field.data_type().clone()));
        let exprs = physical(exprs, &spec.scope(), self.state);
        exprs
            .map(Update::Columns)
            .map_err(|e| vec![place.explain(&e, self.state)])
    }

    fn emitted(&self, spec: &StateSpec, map: &MapWithState, place: &Place) -> Result<Vec<Emitted>, Faults> {
        let scope = spec.emit_scope();
        let (place, functions) = if map.emit.is_empty() {
            let kept = spec.keys.iter().chain(&spec.columns);
            let functions = kept.map(|field| NamedFunction {
                name: field.name().clone(),
                function: quoted(field.name()).into(),
                line: Line(place.line),
            });
            (place.clone(), functions.collect())
        } else {
            (place.child("emit", Line(None)), map.emit.clone())
        };
        let names = spec.columns.iter().map(|column| old_name(column.name()));
        let hidden: Vec<String> = names.chain([TIMING_OUT.to_owned()]).collect();
        let own = spec
            .keys
            .iter()
            .chain(&spec.columns)
            .chain(spec.values.iter().map(|v| &v.field));
        if let Some(clash) = own.map(|field| field.name()).find(|name| hidden.contains(name)) {
            return Err(vec![
                place
                    .diagnostic(format!(
                        "a column cannot be called `{clash}`, which has another meaning here"
                    ))
                    .subject(clash.clone()),
            ]);
        }
        let typed = self.typed(&scope, &functions, &place)?;
        let fields: Vec<FieldRef> = typed
            .iter()
            .zip(&functions)
            .map(|((_, data_type), f)| Arc::new(Field::new(&f.name, stored(data_type), true)) as FieldRef)
            .collect();
        let exprs = physical(typed.into_iter().map(|(expr, _)| expr), &scope, self.state)
            .map_err(|e| vec![place.explain(&e, self.state)])?;
        Ok(fields.into_iter().zip(exprs).collect())
    }

    // === the state before the first batch ===

    /// A query over tables, or the name of one.
    async fn initial(&self, initial: &str, place: &Place) -> Result<LogicalPlan, Faults> {
        let place = place.child("initial", Line(None));
        let mut relations = Relations::default();
        for table in self.tables {
            relations.add(&table.name, LeafTable::table(table));
        }
        let name = initial.trim();
        let is_name = self.tables.iter().any(|table| table.name == name);
        if !is_name && !name.contains(char::is_whitespace) {
            let known = self.tables.iter().map(|table| table.name.as_str());
            return Err(vec![
                place.diagnostic(format!("unknown table `{name}`")).suggest(name, known),
            ]);
        }
        let query = if is_name {
            format!("SELECT * FROM {}", quoted(name))
        } else {
            name.to_owned()
        };
        sql::plan(&query, &relations, self.state, &place).await
    }

    /// The initial state's rows with the columns of the keys and the state, in their types.
    fn initial_columns(&self, spec: &StateSpec, initial: LogicalPlan, place: &Place) -> Result<LogicalPlan, Faults> {
        let place = place.child("initial", Line(None));
        let wanted = spec.state_schema();
        let schema = Arc::clone(initial.schema());
        let (mut columns, mut faults) = (Vec::new(), Vec::new());
        for field in wanted.fields() {
            match schema.qualified_field_with_unqualified_name(field.name()) {
                Ok(found) => {
                    let column = Expr::Column(Column::from(found));
                    columns.push(cast(column, field.data_type().clone()).alias(field.name()));
                }
                Err(_) => {
                    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                    faults.push(
                        place
                            .diagnostic(format!("has no column `{}`", field.name()))
                            .suggest(field.name(), known),
                    );
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        // A key of nulls alone is possible, a state of nulls is none.
        let has_state = spec
            .columns
            .iter()
            .fold(lit(false), |some, column| some.or(ident(column.name()).is_not_null()));
        StepBuilder {
            state: self.state,
            place: &place,
        }
        .finish(
            LogicalPlanBuilder::from(initial)
                .project(columns)
                .and_then(|initial| initial.filter(has_state)),
        )
    }

    /// The operator as a node of its own, whose batches are all computed, each once.
    fn state_node(
        &mut self,
        site: Site<'_>,
        spec: StateSpec,
        input: LogicalPlan,
        initial: Option<LogicalPlan>,
        partitions: Option<u32>,
    ) -> Result<LogicalPlan, Faults> {
        let Site { stream, step, place } = site;
        let name = spec.name.clone();
        let node = StateNode::try_new(spec, input, initial).map_err(|e| vec![place.explain(&e, self.state)])?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        let label = if step + 1 == stream.steps.len() {
            format!("{name} state")
        } else {
            format!("{}.steps[..={step}]", stream.name)
        };
        let node = self.push(&label, place.clone(), plan);
        self.nodes[node.0].stateful = true;
        self.nodes[node.0].layout.partitions = partitions;
        self.leaf(node)
            .scan(&stream.name)
            .map_err(|e| vec![place.explain(&e, self.state)])
    }
}

/// What a native function is given: for each value of a record the list of them, by key. Values that are not named are
/// all columns but the keys'.
fn lists(stateful: &Stateful<'_>, input: &LogicalPlan) -> Vec<NamedFunction> {
    let list = |name: &str, value: &str, line: Line| NamedFunction {
        name: name.to_owned(),
        function: format!("array_agg({value})").into(),
        line,
    };
    if stateful.values.is_empty() {
        let columns = input.schema().fields().iter().map(|field| field.name());
        let values = columns.filter(|name| stateful.keys.iter().all(|key| key.name != **name));
        return values.map(|name| list(name, &quoted(name), Line(None))).collect();
    }
    let values = stateful.values.iter().map(|value| match &value.function {
        Function::Expr(sql) => list(&value.name, sql, value.line),
        Function::Native(_) => value.clone(),
    });
    values.collect()
}

/// The columns that a native function says its state has.
fn native_columns(
    spec: &StateSpec,
    call: &NativeCall,
    function: &dyn StateUpdate,
    place: &Place,
) -> Result<Vec<FieldRef>, Faults> {
    let items = spec.values.iter().map(|value| match value.field.data_type() {
        DataType::List(item) => Field::new(value.field.name(), item.data_type().clone(), true),
        other => Field::new(value.field.name(), other.clone(), true),
    });
    let values = Arc::new(Schema::new(items.collect::<Vec<_>>()));
    let fault = |message: String| {
        let place = place.child("state", Line(None));
        vec![place.diagnostic(message).subject(call.name.clone())]
    };
    let schema = function
        .schema(&values)
        .map_err(|error| fault(format!("`{}` is not for these values: {error}", call.name)))?;
    if schema.fields().is_empty() {
        return Err(fault(format!("`{}` has no state", call.name)));
    }
    let columns = schema.fields().iter().map(|field| {
        let data_type = stored(field.data_type());
        Arc::new(Field::new(field.name(), data_type, true)) as FieldRef
    });
    Ok(columns.collect())
}

/// Text is kept as it is read, and a type that is only found in expressions as one that can be stored.
fn stored(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Dictionary(_, values) => stored(values),
        other => other.clone(),
    }
}

fn physical(
    exprs: impl Iterator<Item = Expr>,
    scope: &Schema,
    state: &SessionState,
) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    let columns = Arc::new(DFSchema::try_from(scope.clone())?);
    exprs.map(|expr| expressions::physical(expr, &columns, state)).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
