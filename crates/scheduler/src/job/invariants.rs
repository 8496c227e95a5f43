//! What is true of a job after every event.

use super::batch::BatchState;
use super::{Job, JobState};

impl Job {
    /// What the job waits for, for messages of tests.
    pub(crate) fn waiting(&self) -> String {
        let runs = self.launched().chain(self.restores.values());
        let tasks = runs.flat_map(|run| {
            let waiting = run.tasks.iter().filter(|(_, task)| !task.is_done());
            waiting.map(|(key, task)| format!("batch {} {key:?} {task:?}", run.index))
        });
        let mut lines: Vec<String> = tasks.collect();
        lines.push(format!("restores {:?}", self.restores.keys()));
        lines.push(format!("parts {:?}", self.parts));
        lines.push(format!(
            "executors {:?} owners {:?} {}",
            self.installed, self.owners, self.routing
        ));
        lines.join("\n")
    }

    pub(crate) fn check(&self) {
        if self.state.is_ended() {
            assert!(self.batches.is_empty() && self.restores.is_empty() && self.history.is_empty());
            return;
        }
        // Batches are allocated and launched in order.
        let states: Vec<BatchState> = self.batches.values().map(|batch| batch.state).collect();
        let launched = states.iter().take_while(|state| state.is_launched()).count();
        assert!(
            states[launched..].iter().all(|state| !state.is_launched()),
            "{states:?}"
        );
        assert!(launched <= self.spec.concurrent_batches.max(1) as usize);
        let allocating = states.iter().filter(|state| **state == BatchState::Allocating).count();
        assert!(allocating <= 1, "{states:?}");
        for batch in self.batches.values() {
            assert_eq!(batch.index < self.next_allocation, batch.state >= BatchState::Ready);
        }
        // What runs is where it can run.
        if matches!(self.state, JobState::Running | JobState::Stopping) {
            for run in self.launched().chain(self.restores.values()) {
                for (key, task) in run.tasks.iter().filter(|(_, task)| !task.is_done()) {
                    assert!(self.is_here(task.executor), "task {key:?} runs on {}", task.executor);
                }
            }
        }
        for (part, holder) in self.parts.held() {
            assert!(self.is_here(holder), "{part:?} is held by {holder}");
        }
        for (part, copy) in self.parts.copies() {
            assert!(self.is_here(copy), "{part:?} is copied to {copy}");
            assert!(self.parts.holder(part).is_some_and(|holder| holder != copy));
        }
        assert_eq!(self.restores.is_empty(), self.restoring_from == i64::MAX);
        self.check_broadcasts();
        // What is kept is bounded by what can be asked for.
        let from = self.inputs_from().min(self.absent_from());
        assert!(self.history.keys().all(|index| *index >= from));
        let from = self.remembered_from().min(self.restoring_from);
        assert!(self.parts.held().all(|(part, _)| part.index >= from));
        assert!(self.parts.lost().all(|part| part.index >= from));
    }
}
