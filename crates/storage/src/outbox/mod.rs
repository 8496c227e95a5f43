//! What a sender may send to one peer, and what it may have to send again.

mod credit_window;
mod in_flight;

pub use credit_window::{Closed, CreditWindow, Permit};
pub use in_flight::InFlight;
