//! Keeps the control channel to the driver open.
//!
//! Connects, registers, hands commands to the event loop; when the stream ends, connects again with the same
//! incarnation and the number that the driver gave. Nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_rpc::channel::{self, BUILD, PROTOCOL_VERSION};
use tidemill_rpc::driver::attach_request::Event as Report;
use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::driver_service_client::DriverServiceClient;
use tidemill_rpc::driver::{AttachRequest, Register};
use tidemill_types::{ExecutorId, Generation, Incarnation};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::event::Event;

const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Under which number the driver knows this incarnation.
pub(crate) type Identity = Arc<Mutex<Option<(ExecutorId, Generation)>>>;

pub(crate) struct Attach {
    pub(crate) driver: String,
    pub(crate) driver_timeout: Duration,
    pub(crate) incarnation: Incarnation,
    pub(crate) data_address: String,
    pub(crate) slots: u32,
    pub(crate) broadcast_memory: u64,
    pub(crate) host: String,
    pub(crate) identity: Identity,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

impl Attach {
    /// Runs until the driver refuses this executor, or is away for longer than the limit.
    pub(crate) async fn run(self) -> Error {
        let mut connection = 0;
        let mut wait = RETRY;
        let mut away_since = Instant::now();
        loop {
            connection += 1;
            match self.connect(connection).await {
                Ok(Ended::Refused(reason)) => {
                    return Error::Refused {
                        driver: self.driver,
                        reason,
                    };
                }
                Ok(Ended::Closed) => {
                    info!(driver = self.driver, "the control channel ended, attaching again");
                    wait = RETRY;
                    away_since = Instant::now();
                }
                Err(reason) => {
                    debug!(driver = self.driver, reason, "no driver");
                    if !self.driver_timeout.is_zero() && away_since.elapsed() >= self.driver_timeout {
                        return Error::Unreachable {
                            driver: self.driver,
                            reason,
                        };
                    }
                    if wait == RETRY_MAX {
                        warn!(driver = self.driver, reason, "waiting for the driver");
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    async fn connect(&self, connection: u64) -> Result<Ended, String> {
        let channel = channel::connect(&self.driver)
            .await
            .map_err(|error| root_cause(&error))?;
        let mut client = DriverServiceClient::new(channel)
            .max_decoding_message_size(channel::MAX_CONTROL_MESSAGE)
            .max_encoding_message_size(channel::MAX_CONTROL_MESSAGE);
        let (reports, outgoing) = mpsc::unbounded_channel();
        let identity = *self.identity.lock();
        let register = Register {
            protocol_version: PROTOCOL_VERSION,
            build: BUILD.to_owned(),
            incarnation: self.incarnation.0,
            data_address: self.data_address.clone(),
            slots: self.slots,
            host: self.host.clone(),
            executor: identity.map(|(executor, _)| executor.0),
            generation: identity.map_or(0, |(_, generation)| generation.0),
            broadcast_memory_bytes: self.broadcast_memory,
        };
        let first = AttachRequest {
            sequence: 0,
            acknowledged: 0,
            event: Some(Report::Register(register)),
        };
        reports.send(first).map_err(|error| error.to_string())?;
        let said = |status: tonic::Status| status.message().to_owned();
        let mut commands = client
            .attach(UnboundedReceiverStream::new(outgoing))
            .await
            .map_err(said)?
            .into_inner();
        let answer = commands
            .message()
            .await
            .map_err(said)?
            .ok_or("the driver closed the channel")?;
        let generation = Generation(answer.generation);
        let registered = match answer.command {
            Some(Command::Registered(registered)) => registered,
            Some(Command::Refused(refused)) => return Ok(Ended::Refused(refused.reason)),
            _ => return Err("the driver did not answer the registration".to_owned()),
        };
        *self.identity.lock() = Some((ExecutorId(registered.executor), generation));
        let connected = Event::Connected {
            connection,
            registered,
            generation,
            reports,
        };
        if self.events.send(connected).is_err() {
            return Ok(Ended::Closed);
        }
        while let Ok(Some(message)) = commands.message().await {
            let command = Event::Command {
                connection,
                message: Box::new(message),
            };
            if self.events.send(command).is_err() {
                break;
            }
        }
        let _ = self.events.send(Event::Disconnected { connection });
        Ok(Ended::Closed)
    }
}

enum Ended {
    Refused(String),
    Closed,
}

/// The innermost message: "transport error" alone helps nobody.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
