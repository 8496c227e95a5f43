//! Jobs on a cluster in this process, over real gRPC and real sockets.

mod bad_input;
mod chains;
mod docs;
mod examples;
mod failures;
mod files;
mod inputs;
mod jobs;
mod large;
mod lifecycle;
mod listeners;
mod native;
mod operators;
mod outputs;
mod sockets;
mod state;
mod support;
mod windows;
mod words;
