//! The driver's side of the control channels: one session for each executor incarnation.

use std::collections::BTreeMap;

use tidemill_rpc::driver::attach_response::Command;
use tidemill_rpc::driver::{AttachRequest, AttachResponse, Heartbeat, Register};
use tidemill_rpc::session::{Inbox, Outbox};
use tidemill_types::{ExecutorId, Generation, Incarnation};
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;

type Commands = UnboundedSender<Result<AttachResponse, Status>>;

/// What the driver knows of an executor's process.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) incarnation: Incarnation,
    pub(crate) data_address: String,
    pub(crate) host: String,
    pub(crate) slots: u32,
    /// Milliseconds since the epoch.
    pub(crate) registered: i64,
    pub(crate) heartbeat: Heartbeat,
    /// How much of broadcast values it can hold.
    pub(crate) broadcast_memory: u64,
    outbox: Outbox<AttachResponse>,
    inbox: Inbox,
    connection: Option<(u64, Commands)>,
}

#[derive(Debug)]
pub(crate) struct Sessions {
    generation: Generation,
    next_executor: ExecutorId,
    next_connection: u64,
    by_id: BTreeMap<ExecutorId, Session>,
}

/// What a registration amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    /// A new incarnation.
    New { executor: ExecutorId, connection: u64 },
    /// The same incarnation on a new connection.
    Resumed { executor: ExecutorId, connection: u64 },
}

impl Sessions {
    pub(crate) fn new(generation: Generation) -> Self {
        Self {
            generation,
            next_executor: ExecutorId(1),
            next_connection: 1,
            by_id: BTreeMap::new(),
        }
    }

    /// Takes a new connection. An incarnation that is still known resumes: what it has not acknowledged follows the
    /// answer.
    pub(crate) fn register(&mut self, register: &Register, commands: Commands, now_ms: i64) -> Registration {
        let connection = self.next_connection;
        self.next_connection += 1;
        let known = register.executor.map(ExecutorId).filter(|id| {
            register.generation == self.generation.0
                && self
                    .by_id
                    .get(id)
                    .is_some_and(|session| session.incarnation.0 == register.incarnation)
        });
        if let Some(executor) = known {
            if let Some(session) = self.by_id.get_mut(&executor) {
                session.connection = Some((connection, commands));
            }
            return Registration::Resumed { executor, connection };
        }
        let executor = self.next_executor;
        self.next_executor = executor.next();
        let session = Session {
            incarnation: Incarnation(register.incarnation),
            data_address: register.data_address.clone(),
            host: register.host.clone(),
            slots: register.slots.max(1),
            registered: now_ms,
            heartbeat: Heartbeat::default(),
            broadcast_memory: register.broadcast_memory_bytes,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            connection: Some((connection, commands)),
        };
        self.by_id.insert(executor, session);
        Registration::New { executor, connection }
    }

    /// Sends again what the executor has not acknowledged.
    pub(crate) fn repeat(&self, executor: ExecutorId) {
        let Some(session) = self.by_id.get(&executor) else {
            return;
        };
        let Some((_, commands)) = &session.connection else {
            return;
        };
        for message in session.outbox.unacknowledged() {
            // A closed channel shows as a detachment.
            let _ = commands.send(Ok(message.clone()));
        }
    }

    /// Sends a command that is repeated until it is acknowledged.
    pub(crate) fn send(&mut self, executor: ExecutorId, command: Command) {
        let generation = self.generation.0;
        let Some(session) = self.by_id.get_mut(&executor) else {
            return;
        };
        let acknowledged = session.inbox.processed();
        let message = session.outbox.push(|sequence| AttachResponse {
            sequence,
            acknowledged,
            generation,
            command: Some(command),
        });
        if let Some((_, commands)) = &session.connection {
            let _ = commands.send(Ok(message.clone()));
        }
    }

    /// Sends a command that is not repeated.
    pub(crate) fn send_once(&self, executor: ExecutorId, command: Command) {
        let Some(session) = self.by_id.get(&executor) else {
            return;
        };
        if let Some((_, commands)) = &session.connection {
            let _ = commands.send(Ok(AttachResponse {
                sequence: 0,
                acknowledged: session.inbox.processed(),
                generation: self.generation.0,
                command: Some(command),
            }));
        }
    }

    /// Whether a message is to be handled: it came over the present connection and is new.
    pub(crate) fn accept(&mut self, executor: ExecutorId, connection: u64, message: &AttachRequest) -> bool {
        let Some(session) = self.by_id.get_mut(&executor) else {
            return false;
        };
        if session.connection.as_ref().map(|(number, _)| *number) != Some(connection) {
            return false;
        }
        session.outbox.acknowledge(message.acknowledged);
        session.inbox.accept(message.sequence)
    }

    /// Whether the connection that ended was the present one.
    pub(crate) fn detach(&mut self, executor: ExecutorId, connection: u64) -> bool {
        let Some(session) = self.by_id.get_mut(&executor) else {
            return false;
        };
        let present = session.connection.as_ref().map(|(number, _)| *number) == Some(connection);
        if present {
            session.connection = None;
        }
        present
    }

    /// Closes the connection too: an executor that still lives sees it and registers anew.
    pub(crate) fn remove(&mut self, executor: ExecutorId) -> Option<Session> {
        self.by_id.remove(&executor)
    }

    pub(crate) fn get_mut(&mut self, executor: ExecutorId) -> Option<&mut Session> {
        self.by_id.get_mut(&executor)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExecutorId, &Session)> {
        self.by_id.iter().map(|(id, session)| (*id, session))
    }

    /// Earlier incarnations of the process at an address: they cannot be alive.
    pub(crate) fn superseded_by(&self, executor: ExecutorId) -> Vec<ExecutorId> {
        let Some(new) = self.by_id.get(&executor) else {
            return Vec::new();
        };
        let same = |session: &Session| session.data_address == new.data_address;
        self.by_id
            .iter()
            .filter(|(id, session)| **id != executor && same(session))
            .map(|(id, _)| *id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use tidemill_rpc::driver::HeartbeatReply;
    use tokio::sync::mpsc;

    use super::*;

    fn register(executor: Option<u32>, generation: u64, incarnation: u64) -> Register {
        Register {
            incarnation,
            data_address: "127.0.0.1:1".to_owned(),
            slots: 2,
            executor,
            generation,
            ..Register::default()
        }
    }

    fn command() -> Command {
        Command::Heartbeat(HeartbeatReply {})
    }

    #[test]
    fn a_resumed_session_repeats_what_was_not_acknowledged_and_keeps_its_number() {
        let mut sessions = Sessions::new(Generation(7));
        let (tx, _rx) = mpsc::unbounded_channel();
        let Registration::New { executor, connection } = sessions.register(&register(None, 0, 5), tx, 0) else {
            panic!("a new session");
        };
        sessions.send(executor, command());
        sessions.send(executor, command());
        let acknowledged = AttachRequest {
            acknowledged: 1,
            ..AttachRequest::default()
        };
        assert!(sessions.accept(executor, connection, &acknowledged));
        assert!(sessions.detach(executor, connection));
        sessions.send(executor, command());

        let (tx, mut rx) = mpsc::unbounded_channel();
        let again = sessions.register(&register(Some(executor.0), 7, 5), tx, 0);
        assert!(matches!(again, Registration::Resumed { executor: same, .. } if same == executor));
        sessions.repeat(executor);
        let sequences: Vec<u64> = std::iter::from_fn(|| rx.try_recv().ok())
            .filter_map(|message| message.ok())
            .map(|m| m.sequence)
            .collect();
        assert_eq!(sequences, [2, 3]);
    }

    #[test]
    fn another_incarnation_or_generation_is_a_new_executor() {
        let mut sessions = Sessions::new(Generation(7));
        let (tx, _rx) = mpsc::unbounded_channel();
        sessions.register(&register(None, 0, 5), tx.clone(), 0);
        assert!(matches!(
            sessions.register(&register(Some(1), 7, 6), tx.clone(), 0),
            Registration::New { .. }
        ));
        assert!(matches!(
            sessions.register(&register(Some(1), 6, 5), tx, 0),
            Registration::New { .. }
        ));
        assert_eq!(sessions.superseded_by(ExecutorId(3)), [ExecutorId(1), ExecutorId(2)]);
    }

    #[test]
    fn messages_of_an_old_connection_are_dropped() {
        let mut sessions = Sessions::new(Generation(7));
        let (tx, _rx) = mpsc::unbounded_channel();
        sessions.register(&register(None, 0, 5), tx.clone(), 0);
        sessions.register(&register(Some(1), 7, 5), tx, 0);
        let message = AttachRequest {
            sequence: 1,
            ..AttachRequest::default()
        };
        assert!(!sessions.accept(ExecutorId(1), 1, &message));
        assert!(sessions.accept(ExecutorId(1), 2, &message));
        assert!(!sessions.accept(ExecutorId(1), 2, &message));
    }
}
