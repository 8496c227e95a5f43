//! Jobs on a cluster in this process, over real gRPC and real sockets.

mod accumulators;
mod bad_input;
mod broadcasts;
mod chains;
mod docs;
mod durable;
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
mod pressure;
mod resume;
mod sockets;
mod state;
mod storage;
mod support;
mod windows;
mod words;
