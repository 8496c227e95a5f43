//! Each operator of the algebra behind the rows before it.

use datafusion::logical_expr::LogicalPlan;
use tidemill_dstream::{Function, Operator, Reduction};

use super::layout::{Finish, Layout, check_partitions};
use super::{Elaborator, Faults, Site};
use crate::compile::steps::{Combine, StepBuilder};
use crate::compile::{accumulators, sql};

impl Elaborator<'_> {
    pub(super) async fn step(
        &mut self,
        site: Site<'_>,
        operator: &Operator,
        input: LogicalPlan,
    ) -> Result<LogicalPlan, Faults> {
        let state = self.state;
        let place = site.place;
        let builder = StepBuilder { state, place };
        match operator {
            Operator::Map { columns } => builder.map(input, columns),
            Operator::FlatMap { columns } => builder.flat_map(input, columns),
            Operator::Filter { predicate } => builder.filter(input, predicate),
            Operator::MapValues { keys, columns } => builder.map_values(input, keys, columns),
            Operator::FlatMapValues { keys, columns } => builder.flat_map_values(input, keys, columns),
            Operator::Sample { fraction, seed } => builder.sample(input, *fraction, *seed),
            Operator::Accumulate { additions } => {
                let added = accumulators::additions(additions, &input, state, place)?;
                let operator = self.nodes.len() as u32;
                let finish = Finish::Accumulate {
                    operator,
                    added: added.into(),
                };
                self.laid_out(site, input, finished(finish))
            }
            Operator::Glom => self.laid_out(site, input, finished(Finish::Glom)),
            Operator::Union { with } => {
                let others = with.iter().map(|name| Ok((name.clone(), self.scan(name, place)?)));
                let others = others.collect::<Result<_, Faults>>()?;
                builder.union(input, others)
            }
            Operator::Repartition { partitions } => {
                check_partitions(site, *partitions)?;
                self.laid_out(site, input, finished(Finish::Evenly(*partitions)))
            }
            Operator::PartitionBy { keys, partitions } => {
                let columns = builder.places(&input, keys)?;
                let partitions = *partitions;
                check_partitions(site, partitions.unwrap_or(1))?;
                self.laid_out(site, input, finished(Finish::ByHash { columns, partitions }))
            }
            Operator::Count => builder.count(input),
            Operator::CountByValue { partitions } => {
                let keys = input.schema().fields().len();
                self.sized(site, input, *partitions, keys, |_, input| builder.count_by_value(input))
            }
            Operator::Distinct { partitions } => {
                let keys = input.schema().fields().len();
                self.sized(site, input, *partitions, keys, |_, input| builder.distinct(input))
            }
            Operator::Reduce { reduction } => match reduction {
                Reduction::Aggregates(aggregates) => builder.reduce(input, aggregates),
                Reduction::Binary { columns, inverse } => builder.fold(input, columns, inverse),
            },
            Operator::ReduceByKey {
                keys,
                reduction,
                partitions,
            } => self.sized(site, input, *partitions, keys.len(), |_, input| match reduction {
                Reduction::Aggregates(aggregates) => builder.reduce_by_key(input, keys, aggregates),
                Reduction::Binary { columns, inverse } => builder.fold_by_key(input, keys, columns, inverse),
            }),
            Operator::Aggregate {
                keys,
                aggregates,
                partitions,
            } => self.sized(site, input, *partitions, keys.len(), |_, input| {
                builder.aggregate(input, keys, aggregates)
            }),
            Operator::GroupByKey { keys, partitions } => {
                self.sized(site, input, *partitions, keys.len(), |_, input| {
                    builder.group_by_key(input, keys)
                })
            }
            Operator::CombineByKey {
                keys,
                create,
                merge_value,
                merge_combiners,
                partitions,
            } => {
                let combine = Combine {
                    create,
                    merge_value,
                    merge_combiners,
                };
                self.sized(site, input, *partitions, keys.len(), |_, input| {
                    builder.combine_by_key(input, keys, combine)
                })
            }
            Operator::SortBy { keys, limit } => builder.sort_by(input, keys, *limit),
            Operator::Transform {
                function: Function::Expr(sql),
            } => self.transform(site, input, &[], sql).await,
            Operator::TransformWith { with, sql } => self.transform(site, input, with, sql).await,
            Operator::Join {
                kind,
                with,
                on,
                partitions,
            } => self.sized(site, input, *partitions, on.len(), |this, input| {
                let other = this.scan(with, place)?;
                // What every task has anyway has no number of partitions.
                let other = match this.is_broadcast(with) {
                    true => other,
                    false => this.sided(site, other, *partitions)?,
                };
                builder.join(input, with, other, *kind, on)
            }),
            Operator::Cogroup { with, keys, partitions } => {
                self.sized(site, input, *partitions, keys.len(), |this, input| {
                    let mut streams = vec![(site.stream.name.clone(), input)];
                    for name in with {
                        let other = this.scan(name, place)?;
                        streams.push((name.clone(), this.sided(site, other, *partitions)?));
                    }
                    builder.cogroup(streams, keys)
                })
            }
            Operator::Window { length, slide } => {
                let (node, _) = self.split(site, input);
                self.window(node, *length, *slide, &site.stream.name, place)
                    .map_err(|fault| vec![fault])
            }
            Operator::MapPartitions { function } => {
                let input = builder.arguments(input, function)?;
                let function = builder.batches(&input, function, false)?;
                self.laid_out(site, input, finished(Finish::Batches(function)))
            }
            Operator::Transform {
                function: Function::Native(function),
            } => {
                let input = builder.arguments(input, function)?;
                let function = builder.batches(&input, function, true)?;
                let finish = vec![Finish::Gather, Finish::Batches(function)];
                let layout = Layout {
                    finish,
                    ..Layout::default()
                };
                self.laid_out(site, input, layout)
            }
            Operator::UpdateStateByKey(_) | Operator::MapWithState(_) | Operator::StateSnapshots => {
                self.keyed_state(site, operator, input).await
            }
            // These are short for others.
            Operator::CountByWindow { .. }
            | Operator::CountByValueAndWindow { .. }
            | Operator::ReduceByWindow { .. }
            | Operator::ReduceByKeyAndWindow { .. }
            | Operator::GroupByKeyAndWindow { .. } => {
                Err(vec![place.diagnostic("internal error: the step was not expanded")])
            }
        }
    }

    /// Another stream that a step with its own number of partitions reads.
    fn sided(&mut self, site: Site<'_>, other: LogicalPlan, partitions: Option<u32>) -> Result<LogicalPlan, Faults> {
        match partitions {
            None => Ok(other),
            Some(_) => self.settled(site, other),
        }
    }

    /// SQL over the batch; it has to read all streams of `with`.
    async fn transform(
        &mut self,
        site: Site<'_>,
        input: LogicalPlan,
        with: &[String],
        sql: &str,
    ) -> Result<LogicalPlan, Faults> {
        for name in with {
            self.scan(name, site.place)?;
        }
        let (_, leaf) = self.split(site, input);
        let relations = self.relations(&site.stream.name, leaf);
        let plan = sql::plan(sql, &relations, self.state, site.place).await?;
        let read = sql::relations(sql, self.state);
        let unread: Faults = with
            .iter()
            .filter(|name| !read.contains(name))
            .map(|name| {
                site.place
                    .diagnostic(format!("the query does not read the stream `{name}`"))
                    .subject(name.clone())
                    .hint("read it, or leave it out of `with`")
            })
            .collect();
        if unread.is_empty() { Ok(plan) } else { Err(unread) }
    }
}

fn finished(finish: Finish) -> Layout {
    Layout {
        finish: vec![finish],
        ..Layout::default()
    }
}
