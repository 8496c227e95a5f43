//! Starting and stopping a driver.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidemill_engine::Catalog;
use tidemill_journal::{Backend, Recovered};
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
use crate::journal::{Recorder, Registry};
use crate::liveness::Liveness;
use crate::options::Options;
use crate::reads::Reads;
use crate::service::{AttachService, ControlHandler};
use crate::session::Sessions;
use crate::timer::Timer;

/// How long a driver that stops waits for its journal.
const FLUSH: Duration = Duration::from_secs(5);

/// A running driver. Dropping it stops it.
#[derive(Debug)]
pub struct Driver {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    event_loop: JoinHandle<Option<Generation>>,
    recorder: Option<Recorder>,
}

/// A journal that was opened, and what was in it.
pub type OpenJournal = (Box<dyn Backend>, Recovered);

/// Starts a driver: binds its address, opens its journal and goes on with the jobs that are in it, then serves until it is
/// stopped.
///
/// # Errors
/// The address cannot be bound, or the journal cannot be opened or read.
pub async fn start(options: Options) -> Result<Driver, Error> {
    // First, since opening the journal takes it from another driver: not by one that cannot serve.
    let listener = bind(&options).await?;
    let journal = match options.journal.as_str() {
        "" => None,
        url => Some(tidemill_journal::open(url).await.map_err(|source| Error::Journal {
            url: url.to_owned(),
            source: Box::new(source),
        })?),
    };
    serve(options, listener, journal).await
}

/// Starts a driver on a journal that is open.
///
/// # Errors
/// The address cannot be bound, or the journal cannot be read.
pub async fn start_on(options: Options, journal: OpenJournal) -> Result<Driver, Error> {
    let listener = bind(&options).await?;
    serve(options, listener, Some(journal)).await
}

async fn bind(options: &Options) -> Result<TcpListener, Error> {
    TcpListener::bind(&options.bind).await.map_err(|source| Error::Bind {
        address: options.bind.clone(),
        source,
    })
}

async fn serve(options: Options, listener: TcpListener, journal: Option<OpenJournal>) -> Result<Driver, Error> {
    let bind = |source| Error::Bind {
        address: options.bind.clone(),
        source,
    };
    let address = listener.local_addr().map_err(bind)?;
    let clock = Clock::start();
    let (events, queue) = mpsc::unbounded_channel();
    let recorder = match journal {
        None => None,
        Some((backend, recovered)) => {
            let registry = Registry::replay(&recovered)?;
            let recorder = Recorder::start(backend, &recovered, registry, events.clone());
            Some((recorder, recovered.generation))
        }
    };
    let by_clock = || Generation(u64::try_from(clock.now_ms()).unwrap_or(0));
    let generation = recorder.as_ref().map_or_else(by_clock, |(_, generation)| *generation);
    let recorder = recorder.map(|(recorder, _)| recorder);
    let catalog = Catalog::new();
    let timer = Timer::start(clock, events.clone()).map_err(bind)?;
    let registry = options.registry.clone();
    let shelf = Shelf::default();
    let mut state = EventLoop {
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
        recorder: recorder.clone(),
        stalled: None,
        fenced: None,
        options,
    };
    state.resume().await;
    let event_loop = tokio::spawn(state.run(queue));
    let attach = AttachService {
        generation,
        shelf,
        events: events.clone(),
    };
    let control = ControlHandler {
        has_journal: recorder.is_some(),
        events: events.clone(),
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
            // Without its loop there is nothing to serve.
            () = events.closed() => Ok(()),
        }
    });
    info!(%address, %generation, "driver listening");
    Ok(Driver {
        address,
        stop: Some(stop),
        server,
        event_loop,
        recorder,
    })
}

impl Driver {
    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving. Jobs with a checkpoint go on in the next driver.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.server).await;
        self.event_loop.abort();
        if let Some(recorder) = &self.recorder {
            recorder.flush(FLUSH).await;
        }
    }

    /// Waits until the driver cannot go on: its server failed or, by a defect, its loop ended.
    ///
    /// # Errors
    /// Always, unless it was stopped.
    pub async fn wait(&mut self) -> Result<(), Error> {
        let ended = tokio::select! {
            result = &mut self.server => match result {
                Ok(Err(source)) => return Err(Error::Serve { address: self.address, source }),
                // It ends after the loop, unless it was stopped.
                _ if self.stop.is_none() => return Ok(()),
                _ => (&mut self.event_loop).await,
            },
            result = &mut self.event_loop => result,
        };
        Err(match ended {
            Ok(Some(by)) => Error::Fenced { by },
            Ok(None) => Error::EventLoop("nobody sends it events".to_owned()),
            Err(error) => Error::EventLoop(error.to_string()),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.server.abort();
        self.event_loop.abort();
    }
}
