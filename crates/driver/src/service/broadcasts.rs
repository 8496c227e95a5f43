//! What the control service is asked about broadcast variables.

use std::io::Write;

use tidemill_dstream::{BroadcastDef, BroadcastFormat, BroadcastSource};
use tidemill_rpc::control::broadcast_update::Value;
use tidemill_rpc::control::update_broadcast_request::Message;
use tidemill_rpc::control::{self, UpdateBroadcastRequest};
use tidemill_rpc::convert;
use tonic::{Status, Streaming};

use super::control::ControlHandler;
use crate::broadcasts::{UpdateTarget, load, no_room};
use crate::event::Control;

impl ControlHandler {
    /// Makes a new version of what the stream says.
    pub(super) async fn update(&self, mut requests: Streaming<UpdateBroadcastRequest>) -> Result<u32, Status> {
        let Some(Message::Update(update)) = requests.message().await?.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message says what is updated"));
        };
        let control::BroadcastUpdate { job, name, value } = update;
        let refresh = match value {
            Some(Value::Refresh(_)) => None,
            Some(Value::Source(source)) => Some(convert::broadcast_source(source)?),
            None => return Err(Status::invalid_argument("the update has no value")),
        };
        let asked = refresh.is_none();
        let target = self
            .ask(|reply| Control::UpdateTarget {
                job,
                name,
                refresh: asked,
                reply,
            })
            .await??;
        let UpdateTarget {
            job,
            broadcast,
            def,
            tables,
            room,
            ..
        } = target;
        // The content of a file lives as long as it is read.
        let (def, _content) = match refresh {
            None => (def, None),
            Some(BroadcastSource::File { path, format }) => {
                let format = format.unwrap_or_else(|| BroadcastFormat::of(&path));
                let file = content(requests, room).await?;
                let path = file.path().to_string_lossy().into_owned();
                let source = BroadcastSource::File {
                    path,
                    format: Some(format),
                };
                (with(def, source), Some(file))
            }
            Some(source) => (with(def, source), None),
        };
        let loaded = load(&def, &tables, room)
            .await
            .map_err(|fault| Status::invalid_argument(fault.to_string()))?;
        self.ask(|reply| Control::OfferBroadcast {
            job,
            broadcast,
            loaded: Box::new(loaded),
            reply,
        })
        .await?
    }
}

/// The variable with another value in its shape. Where that is does not stand in the job file.
fn with(def: BroadcastDef, source: BroadcastSource) -> BroadcastDef {
    BroadcastDef {
        shape: Some(def.known_shape()),
        source,
        line: tidemill_dstream::Line(None),
        ..def
    }
}

/// The content that follows, in a file.
async fn content(
    mut requests: Streaming<UpdateBroadcastRequest>,
    room: u64,
) -> Result<tempfile::NamedTempFile, Status> {
    let failed = |error: std::io::Error| Status::internal(format!("the value cannot be written to a file: {error}"));
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    let mut bytes = 0;
    while let Some(request) = requests.message().await? {
        let Some(Message::Content(part)) = request.message else {
            return Err(Status::invalid_argument("after the first message comes content"));
        };
        bytes += part.len() as u64;
        if bytes > room {
            return Err(Status::resource_exhausted(no_room(bytes, room)));
        }
        file.write_all(&part).map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    Ok(file)
}
