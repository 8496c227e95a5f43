//! The executors' side of the driver.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tidemill_rpc::channel::{BUILD, PROTOCOL_VERSION};
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::driver_service_server::DriverService;
use tidemill_rpc::driver::{AttachRequest, AttachResponse, CollectPiecesRequest, Refused, Register};
use tidemill_types::Generation;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::pieces::{self, Answers};
use crate::broadcasts::Shelf;
use crate::event::Event;

#[derive(Debug)]
pub(crate) struct AttachService {
    pub(crate) generation: Generation,
    pub(crate) shelf: Shelf,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

type Commands = Pin<Box<dyn Stream<Item = Result<AttachResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DriverService for AttachService {
    type AttachStream = Commands;

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Commands>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|message| message.event);
        let Some(Report::Register(register)) = first else {
            return Err(Status::invalid_argument(
                "the first message of an executor is its registration",
            ));
        };
        if let Some(reason) = mismatch(&register) {
            warn!(address = register.data_address, reason, "executor refused");
            let refused = AttachResponse {
                sequence: 0,
                acknowledged: 0,
                generation: self.generation.0,
                command: Some(Command::Refused(Refused { reason })),
            };
            return Ok(Response::new(Box::pin(futures::stream::iter([Ok(refused)]))));
        }
        let (commands, receiver) = mpsc::unbounded_channel();
        let (reply, registered) = oneshot::channel();
        let event = Event::Attach {
            register,
            commands,
            reply,
        };
        self.events.send(event).map_err(|_| stopping())?;
        let (executor, connection) = registered.await.ok().flatten().ok_or_else(stopping)?;
        let events = self.events.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = reports.next().await {
                let event = Event::Message {
                    executor,
                    connection,
                    message: Box::new(message),
                };
                if events.send(event).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Detached { executor, connection });
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    type CollectPiecesStream = Answers;

    async fn collect_pieces(
        &self,
        request: Request<Streaming<CollectPiecesRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let answers = pieces::collect(&self.shelf, self.generation, request.into_inner()).await?;
        Ok(Response::new(answers))
    }
}

fn stopping() -> Status {
    Status::unavailable("the driver is stopping")
}

/// Why an executor cannot work with this driver.
fn mismatch(register: &Register) -> Option<String> {
    if register.protocol_version != PROTOCOL_VERSION {
        return Some(format!(
            "the executor speaks protocol version {}, the driver {PROTOCOL_VERSION}: run the same release of tidemill on both",
            register.protocol_version
        ));
    }
    (register.build != BUILD).then(|| {
        format!(
            "the executor is build {}, the driver {BUILD}: run the same release of tidemill on both",
            register.build
        )
    })
}
