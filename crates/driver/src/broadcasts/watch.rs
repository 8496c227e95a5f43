//! Looks at the files of reloadable broadcast variables again, until the job is gone.

use std::time::{Duration, SystemTime};

use tidemill_dstream::{BroadcastDef, BroadcastSource, JobGraph};
use tidemill_types::{BroadcastId, JobId};
use tokio::sync::mpsc::UnboundedSender;

use super::load::load;
use crate::event::Event;

pub(crate) async fn watch(job: JobId, graph: JobGraph, events: UnboundedSender<Event>) {
    let reloadable = (0..).map(BroadcastId).zip(graph.broadcasts);
    let watches = reloadable.filter_map(|(broadcast, def)| {
        let every = def.reload?;
        let BroadcastSource::File { path, .. } = &def.source else {
            return None;
        };
        let path = path.clone();
        Some(watch_file(job, broadcast, def, path, every, events.clone()))
    });
    futures::future::join_all(watches).await;
}

async fn watch_file(
    job: JobId,
    broadcast: BroadcastId,
    def: BroadcastDef,
    path: String,
    every: Duration,
    events: UnboundedSender<Event>,
) {
    let mut seen = stamp(&path);
    let mut timer = tokio::time::interval(every);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer.tick().await;
    loop {
        timer.tick().await;
        let now = stamp(&path);
        if now == seen {
            continue;
        }
        let loaded = match now {
            // The limit is the loop's, which knows what is held.
            Some(_) => load(&def, &[], u64::MAX).await.map_err(|fault| fault.message),
            None => Err(format!("{path} is gone; the last version stays")),
        };
        // What cannot be read is said once, and looked at again when it changes.
        seen = now;
        if events.send(Event::BroadcastRead { job, broadcast, loaded }).is_err() {
            return;
        }
    }
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
