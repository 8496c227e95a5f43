//! The values of each key in several streams.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::array_agg;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, col, ident, lit};

use super::{Faults, StepBuilder, as_one, same_type, values};

/// The hidden column that says which stream a record is of.
const STREAM: &str = "__stream";

impl StepBuilder<'_> {
    /// `streams` are this one and the others by name; the others scan theirs.
    pub(in crate::compile) fn cogroup(
        &self,
        streams: Vec<(String, LogicalPlan)>,
        keys: &[String],
    ) -> Result<LogicalPlan, Faults> {
        let lists = self.lists(&streams, keys)?;
        let fields: Vec<DataType> = match streams.first() {
            Some((_, first)) => keys
                .iter()
                .filter_map(|key| first.schema().field_with_unqualified_name(key).ok())
                .map(|field| field.data_type().clone())
                .collect(),
            None => Vec::new(),
        };
        // Records of all streams in one form: each has a value in the column of its stream and null in the others'.
        let mut united: Option<LogicalPlanBuilder> = None;
        for (place, (_, plan)) in streams.iter().enumerate() {
            let own_keys = keys.iter().zip(&fields).map(|(key, data_type)| {
                let is_own = plan
                    .schema()
                    .field_with_unqualified_name(key)
                    .map(|field| field.data_type() == data_type);
                match is_own {
                    Ok(false) => cast(ident(key), data_type.clone()).alias(key),
                    _ => ident(key),
                }
            });
            let own_values = lists.iter().enumerate().map(|(i, list)| {
                let value = match i == place {
                    true => Ok(list.value.clone()),
                    false => ScalarValue::try_from(&list.item).map(lit),
                };
                value.map(|value| value.alias(&list.name))
            });
            let own_values = own_values
                .collect::<Result<Vec<_>>>()
                .map_err(|e| vec![self.place.explain(&e, self.state)])?;
            let tag = lit(place as u32).alias(STREAM);
            let records =
                self.finish(LogicalPlanBuilder::from(plan.clone()).project(own_keys.chain(own_values).chain([tag])))?;
            united = Some(match united {
                None => LogicalPlanBuilder::from(records),
                Some(united) => united
                    .union(records)
                    .map_err(|e| vec![self.place.explain(&e, self.state)])?,
            });
        }
        let Some(united) = united else {
            return Err(vec![self.place.diagnostic("no streams to group")]);
        };
        let united = self.finish(Ok(united))?;
        let collected = lists.iter().enumerate().map(|(i, list)| {
            let own = col(STREAM).eq(lit(i as u32));
            Ok(array_agg(ident(&list.name)).filter(own).build()?.alias(&list.name))
        });
        let collected: Result<Vec<Expr>> = collected.collect();
        let names: Vec<Expr> = keys.iter().map(ident).collect();
        let columns = lists.iter().map(|list| {
            let empty = ScalarValue::List(ScalarValue::new_list(&[], &list.item, true));
            coalesce(vec![ident(&list.name), lit(empty)]).alias(&list.name)
        });
        let columns: Vec<Expr> = names.iter().cloned().chain(columns).collect();
        self.finish(collected.and_then(|collected| {
            LogicalPlanBuilder::from(united)
                .aggregate(names, collected)?
                .project(columns)
        }))
    }

    /// The list of each stream, after checking that the streams go together.
    fn lists(&self, streams: &[(String, LogicalPlan)], keys: &[String]) -> Result<Vec<List>, Faults> {
        let mut faults = Vec::new();
        let Some(((_, first), others)) = streams.split_first() else {
            return Ok(Vec::new());
        };
        if keys.is_empty() {
            faults.push(self.place.diagnostic("has no key").hint("such as `key: user`"));
        }
        faults.extend(self.kept(first, keys).err().unwrap_or_default());
        for (name, other) in others {
            for key in keys {
                let theirs = match self.type_in(name, other, key) {
                    Ok(theirs) => theirs,
                    Err(fault) => {
                        faults.push(fault);
                        continue;
                    }
                };
                if let Ok(ours) = first.schema().field_with_unqualified_name(key)
                    && !same_type(ours.data_type(), &theirs)
                {
                    faults.push(self.other_type(key, ours.data_type(), name, key, &theirs));
                }
            }
        }
        let mut seen: HashSet<&String> = keys.iter().collect();
        let mut lists = Vec::new();
        for (name, plan) in streams {
            if !seen.insert(name) {
                let fault = self.place.diagnostic(format!("two columns would be called `{name}`"));
                faults.push(
                    fault
                        .subject(name.clone())
                        .hint("a list is called as its stream is; rename the key or the stream"),
                );
            }
            let columns = values(plan, keys);
            let Some(value) = as_one(&columns) else {
                let fault = self
                    .place
                    .diagnostic(format!("every column of stream `{name}` is a key, so it has no values"));
                faults.push(fault.subject(name.clone()));
                continue;
            };
            let typed = LogicalPlanBuilder::from(plan.clone())
                .project([value.clone()])
                .and_then(LogicalPlanBuilder::build);
            match typed {
                Ok(typed) => lists.push(List {
                    name: name.clone(),
                    value,
                    item: typed.schema().field(0).data_type().clone(),
                }),
                Err(error) => faults.push(self.place.explain(&error, self.state)),
            }
        }
        if faults.is_empty() { Ok(lists) } else { Err(faults) }
    }
}

/// The values of one stream.
struct List {
    name: String,
    value: Expr,
    item: DataType,
}
