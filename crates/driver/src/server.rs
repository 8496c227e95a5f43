//! Starting and stopping a driver.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use tidemill_engine::Catalog;
use tidemill_rpc::channel;
use tidemill_rpc::control::control_service_server::ControlServiceServer;
use tidemill_rpc::driver::driver_service_server::DriverServiceServer;
use tidemill_scheduler::Scheduler;
use tidemill_types::{Generation, JobId};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::info;

use crate::broadcasts::Shelf;
use crate::clock::Clock;
use crate::error::Error;
use crate::event_loop::EventLoop;
use crate::liveness::Liveness;
use crate::options::Options;
use crate::reads::Reads;
use crate::service::{AttachService, ControlHandler};
use crate::session::Sessions;
use crate::timer::Timer;

/// A running driver. Dropping it stops it.
#[derive(Debug)]
pub struct Driver {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    event_loop: JoinHandle<()>,
}

/// Starts a driver: binds its address, then serves until it is stopped.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(options: Options) -> Result<Driver, Error> {
    let bind = |source| Error::Bind {
        address: options.bind.clone(),
        source,
    };
    let listener = TcpListener::bind(&options.bind).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let clock = Clock::start();
    let generation = Generation(u64::try_from(clock.now_ms()).unwrap_or(0));
    let (events, queue) = mpsc::unbounded_channel();
    let catalog = Catalog::new();
    let timer = Timer::start(clock, events.clone()).map_err(bind)?;
    let registry = options.registry.clone();
    let shelf = Shelf::default();
    let state = EventLoop {
        shelf: shelf.clone(),
        clock,
        generation,
        scheduler: Scheduler::new(options.scheduler.clone()),
        sessions: Sessions::new(generation),
        liveness: Liveness::new(options.heartbeat_timeout, options.reattach_grace),
        jobs: BTreeMap::new(),
        next_job: JobId(1),
        catalog: catalog.clone(),
        events: events.clone(),
        waiting_for_slots: Vec::new(),
        reads: Reads::default(),
        timer,
        options,
    };
    let event_loop = tokio::spawn(state.run(queue));
    let attach = AttachService {
        generation,
        shelf,
        events: events.clone(),
    };
    let control = ControlHandler {
        events,
        catalog,
        generation,
        registry,
        submissions: AtomicU64::new(0),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let attach = DriverServiceServer::new(attach)
        .max_decoding_message_size(channel::MAX_CONTROL_MESSAGE)
        .max_encoding_message_size(channel::MAX_CONTROL_MESSAGE);
    let control = ControlServiceServer::new(control)
        .max_decoding_message_size(channel::MAX_SUBMISSION)
        .max_encoding_message_size(channel::MAX_SUBMISSION);
    let server = channel::server().add_service(attach).add_service(control);
    let incoming = channel::incoming(listener);
    let server = tokio::spawn(async move {
        tokio::select! {
            result = server.serve_with_incoming(incoming) => result,
            // Open streams do not hold the process: executors attach again to whoever comes.
            _ = stopped => Ok(()),
        }
    });
    info!(%address, %generation, "driver listening");
    Ok(Driver {
        address,
        stop: Some(stop),
        server,
        event_loop,
    })
}

impl Driver {
    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.server).await;
        self.event_loop.abort();
    }

    /// Waits until the driver cannot go on: its server failed or, by a defect, its loop ended.
    ///
    /// # Errors
    /// Always, unless it was stopped.
    pub async fn wait(&mut self) -> Result<(), Error> {
        tokio::select! {
            result = &mut self.server => match result {
                Ok(Err(source)) => Err(Error::Serve { address: self.address, source }),
                _ => Ok(()),
            },
            result = &mut self.event_loop => Err(Error::EventLoop(match result {
                Ok(()) => "nobody sends it events".to_owned(),
                Err(error) => error.to_string(),
            })),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.server.abort();
        self.event_loop.abort();
    }
}
