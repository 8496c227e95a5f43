//! Jobs on a cluster in this process, over real gRPC and real sockets.

mod bad_input;
mod files;
mod jobs;
mod sockets;
mod windows;
mod words;
