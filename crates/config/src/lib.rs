//! Typed settings of a Tidemill process.
//!
//! Layers, each over the one before: built-in defaults (`default.toml`, every key commented) < a file <
//! `TIDEMILL__SECTION__KEY` in the environment < flags. An unknown key is an error that names the nearest known one.
//! All faults are reported at once. Components receive their own section, never the whole.

mod error;
mod load;
mod settings;

pub use bytesize::ByteSize;
pub use error::Error;
pub use load::{Loader, defaults_text};
pub use settings::{Broadcast, Config, Driver, Executor, Log, LogFormat, Receiver, Shuffle, Storage};
