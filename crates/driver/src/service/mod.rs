//! gRPC handlers: decode, send an event, await the answer, encode. No decisions here.

mod attach;
mod broadcasts;
mod control;
mod pieces;

pub(crate) use attach::AttachService;
pub(crate) use control::ControlHandler;
