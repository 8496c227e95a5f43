//! What the benches measure with: a workload that is the same in every run, statistics, and figures as JSON lines.
//!
//! - [`text`]: lines of ten words, Zipf over a vocabulary.
//! - [`median`], [`percentile`], [`rise`]: of what was measured.
//! - [`Figure`]: one measured figure, printed as one line.
//!
//! Everything here is a plain function; the benches themselves are in `benches/`:
//!
//! ```text
//! cargo build --release
//! cargo bench --bench tidemill-bench                  all of them, or with `-- overhead latency` some
//! ```
//! With `-p tidemill-bench` instead cargo would choose other features for shared dependencies than `cargo build` does,
//! and build DataFusion once more.

mod figure;
mod random;
mod statistics;
mod text;

pub use figure::Figure;
pub use random::Random;
pub use statistics::{median, percentile, rise, weighted_percentile};
pub use text::{VOCABULARY, WORDS_PER_LINE, text, text_of};
