//! gRPC handlers: decode, send an event, await the answer, encode. No decisions here.

mod attach;
mod control;

pub(crate) use attach::AttachService;
pub(crate) use control::ControlHandler;
