//! Starting and stopping an executor.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tidemill_rpc::channel;
use tidemill_rpc::shuffle::shuffle_service_server::ShuffleServiceServer;
use tidemill_types::Incarnation;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::info;

use crate::attach::Attach;
use crate::data_service::DataService;
use crate::error::Error;
use crate::event_loop::{EventLoop, Link};
use crate::options::Options;
use crate::queue::ReadyQueue;
use crate::receiver::Receivers;

/// A running executor. Dropping it stops it at once, as the death of its process would.
pub struct Executor {
    address: SocketAddr,
    attach: JoinHandle<Error>,
    event_loop: JoinHandle<()>,
    tasks: Vec<tokio::task::AbortHandle>,
    cpu: Option<Runtime>,
}

/// Starts an executor: binds its data address, then attaches to the driver and works until it is dropped.
///
/// # Errors
/// The address cannot be bound, or the task threads cannot be started.
pub async fn start(options: Options) -> Result<Executor, Error> {
    let bind = |source| Error::Bind {
        address: options.bind.clone(),
        source,
    };
    let listener = TcpListener::bind(&options.bind).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let cpu = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.slots.max(1) as usize)
        .thread_name("tidemill-task")
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    let incarnation = Incarnation(new_incarnation());
    let (events, queue) = mpsc::unbounded_channel();
    let served = Arc::new(RwLock::new(None));

    let service = ShuffleServiceServer::new(DataService {
        node: Arc::clone(&served),
    })
    .max_decoding_message_size(channel::MAX_DATA_MESSAGE)
    .max_encoding_message_size(channel::MAX_DATA_MESSAGE);
    let server = channel::server().add_service(service);
    let server = tokio::spawn(async move {
        // The listener is bound; what remains are single connections, which fail alone.
        let _ = server.serve_with_incoming(channel::incoming(listener)).await;
    });

    let attach = Attach {
        driver: options.driver.clone(),
        driver_timeout: options.driver_timeout,
        incarnation,
        data_address: options.advertise.clone().unwrap_or_else(|| advertised(address)),
        slots: options.slots.max(1),
        broadcast_memory: options.broadcast_memory,
        host: host_name(),
        identity: Arc::new(Mutex::new(None)),
        events: events.clone(),
    };
    info!(%address, advertised = attach.data_address, slots = attach.slots, "executor listening");
    let event_loop = EventLoop {
        queue: ReadyQueue::new(options.slots),
        options,
        incarnation,
        events,
        cpu: cpu.handle().clone(),
        served,
        link: Link::default(),
        epoch: 0,
        node: None,
        jobs: HashMap::new(),
        batches: BTreeMap::new(),
        waiting: HashMap::new(),
        complete: HashSet::new(),
        refused: BTreeMap::new(),
        receivers: Receivers::default(),
        collecting: HashMap::new(),
        loading: HashSet::new(),
    };
    let event_loop = tokio::spawn(event_loop.run(queue));
    let attach = tokio::spawn(attach.run());
    Ok(Executor {
        address,
        tasks: vec![server.abort_handle(), event_loop.abort_handle(), attach.abort_handle()],
        attach,
        event_loop,
        cpu: Some(cpu),
    })
}

impl Executor {
    /// The address of the data service.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the executor cannot go on, and says why.
    pub async fn wait(&mut self) -> Error {
        tokio::select! {
            result = &mut self.attach => result.unwrap_or_else(|error| Error::EventLoop(error.to_string())),
            result = &mut self.event_loop => Error::EventLoop(match result {
                Ok(()) => "nobody sends it events".to_owned(),
                Err(error) => error.to_string(),
            }),
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Some(cpu) = self.cpu.take() {
            cpu.shutdown_background();
        }
    }
}

/// Where peers find an executor that listens on all addresses: by the host's name.
fn advertised(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("{}:{}", host_name(), address.port())
    } else {
        address.to_string()
    }
}

fn host_name() -> String {
    let from_file = || {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .map(|name| name.trim().to_owned())
    };
    std::env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty())
        .or_else(from_file)
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Differs between processes and between starts.
fn new_incarnation() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    hasher.write_u128(now.as_nanos());
    hasher.finish()
}
