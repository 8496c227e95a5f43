//! A job as it is installed here: its plan, its decoded templates, its tables.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use tidemill_dstream::Source;
use tidemill_dstream::plan::{JobPlan, OutputPlan, StagePlan};
use tidemill_engine::{RecordBatch, Registry, Template, decode_ipc};
use tidemill_rpc::driver as wire;
use tidemill_types::{DatasetId, Generation, JobId, Medium, OutputId, StageId, StreamId, TaskFailure};

use crate::saved::Checkpoint;

/// Tables by name and version.
type Tables = HashMap<(String, u32), Arc<[RecordBatch]>>;

/// Immutable but for its tables; shared by the loop, tasks and the data service.
pub(crate) struct InstalledJob {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) generation: Generation,
    pub(crate) plan: JobPlan,
    /// Where its state is saved; `None`: it is not.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The functions that it may call.
    pub(crate) registry: Registry,
    templates: HashMap<StageId, Template>,
    tables: RwLock<Tables>,
    unpersisted: RwLock<HashSet<DatasetId>>,
}

impl InstalledJob {
    /// Decodes what the driver sent. Takes milliseconds for each stage: not for the event loop.
    pub(crate) fn decode(install: wire::InstallJob, registry: Registry) -> Result<Self, String> {
        let plan = install.plan.ok_or("the installation has no plan")?;
        let plan = JobPlan::try_from(plan).map_err(|error| error.to_string())?;
        if plan.stages.len() != install.templates.len() {
            return Err(format!(
                "{} stages but {} templates",
                plan.stages.len(),
                install.templates.len()
            ));
        }
        let checkpoint = match install.checkpoint.as_str() {
            "" => None,
            place => Some(Checkpoint::parse(place)?),
        };
        let mut templates = HashMap::new();
        for (stage, bytes) in plan.stages.iter().zip(&install.templates) {
            let template = Template::decode(bytes, &registry)
                .map_err(|error| format!("stage {}: {}", stage.id, TaskFailure::from(error).message))?;
            templates.insert(stage.id, template);
        }
        Ok(Self {
            id: JobId(install.job),
            name: install.name,
            weight: install.weight,
            generation: Generation(install.generation),
            plan,
            checkpoint,
            registry,
            templates,
            tables: RwLock::default(),
            unpersisted: RwLock::default(),
        })
    }

    pub(crate) fn stage(&self, id: StageId) -> Option<&StagePlan> {
        self.plan.stage(id)
    }

    pub(crate) fn template(&self, id: StageId) -> Option<&Template> {
        self.templates.get(&id)
    }

    pub(crate) fn source(&self, id: StreamId) -> Option<&Source> {
        self.plan
            .streams
            .iter()
            .find(|stream| stream.id == id)
            .map(|stream| &stream.source)
    }

    pub(crate) fn output(&self, id: OutputId) -> Option<&OutputPlan> {
        self.plan.outputs.iter().find(|output| output.id == id)
    }

    /// Where the batches of a dataset are kept.
    pub(crate) fn medium(&self, id: DatasetId) -> Medium {
        let persisted = !self.unpersisted.read().contains(&id);
        let dataset = self.plan.dataset(id).filter(|_| persisted);
        dataset.map_or_else(Medium::default, |dataset| dataset.level.medium)
    }

    /// Has a dataset kept as any other from now on.
    pub(crate) fn unpersist(&self, id: DatasetId) {
        self.unpersisted.write().insert(id);
    }

    /// Keeps a version of a table, and the one before it for batches on their way.
    pub(crate) fn install_table(&self, name: &str, version: u32, ipc: &[u8]) -> Result<(), String> {
        let (_, batches) = decode_ipc(ipc).map_err(|error| format!("table {name}: {error}"))?;
        let mut tables = self.tables.write();
        tables.retain(|(known, at), _| known != name || *at + KEPT_TABLE_VERSIONS > version);
        tables.insert((name.to_owned(), version), batches.into());
        Ok(())
    }

    pub(crate) fn table(&self, name: &str, version: u32) -> Option<Arc<[RecordBatch]>> {
        self.tables.read().get(&(name.to_owned(), version)).cloned()
    }
}

/// Versions of a table that batches on their way may still name.
const KEPT_TABLE_VERSIONS: u32 = 4;
