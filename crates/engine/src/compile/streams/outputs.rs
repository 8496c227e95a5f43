//! Outputs: those that take a stream's rows as they are, and those that make something of them.

use tidemill_dstream::{Diagnostic, OutputDef, OutputKind};
use tidemill_types::OutputId;

use super::{Elaborator, Finish};
use crate::compile::diagnose::Place;
use crate::compile::sql;
use crate::compile::steps::StepBuilder;

impl Elaborator<'_> {
    pub(super) async fn output(&mut self, id: OutputId, output: &OutputDef) -> Result<(), Vec<Diagnostic>> {
        let place = Place::new(format!("outputs[{}].{}", id.0, output.kind.name()), output.line);
        if self.broken.contains(output.from.as_str()) {
            return Ok(());
        }
        let Some(node) = self.streams.get(output.from.as_str()).copied() else {
            let known: Vec<&str> = self.graph.streams.iter().map(|stream| stream.name.as_str()).collect();
            let fault = place
                .diagnostic(format!("unknown stream `{}`", output.from))
                .suggest(&output.from, known);
            return Err(vec![fault]);
        };
        match &output.kind {
            OutputKind::Table {
                name,
                query: Some(query),
            } => {
                let relations = self.relations(&output.from, self.leaf(node));
                let place = place.child("query", output.line);
                let plan = sql::plan(query, &relations, self.state, &place).await?;
                let node = self.push(&format!("table {name}"), place, plan);
                self.nodes[node.0].outputs.push(id);
            }
            OutputKind::Save(save) if save.files.is_some() => {
                if save.files == Some(0) {
                    return Err(vec![
                        place
                            .child("files", output.line)
                            .diagnostic("is 0, it has to be at least 1"),
                    ]);
                }
                let plan = self.scan(&output.from, &place)?;
                let node = self.push(&format!("save {}", output.from), place, plan);
                self.nodes[node.0].outputs.push(id);
                self.nodes[node.0].layout.finish.extend(save.files.map(Finish::Files));
            }
            OutputKind::Foreach { function, .. } if !function.args.is_empty() => {
                let builder = StepBuilder {
                    state: self.state,
                    place: &place,
                };
                builder.check_foreach(function)?;
                let plan = builder.arguments(self.scan(&output.from, &place)?, function)?;
                let node = self.push(&format!("foreach {}", output.from), place, plan);
                self.nodes[node.0].outputs.push(id);
            }
            other => {
                if let OutputKind::Foreach { function, .. } = other {
                    let (state, place) = (self.state, &place);
                    StepBuilder { state, place }.check_foreach(function)?;
                }
                let node = self.keeper(node);
                self.nodes[node.0].outputs.push(id);
            }
        }
        Ok(())
    }
}
