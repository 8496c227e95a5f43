//! What the benches measure with: a workload that is the same in every run, statistics, and figures as JSON lines.
//!
//! - [`text`]: lines of ten words, Zipf over a vocabulary.
//! - [`median`], [`percentile`], [`rise`]: of what was measured.
//! - [`Figure`]: one measured figure, printed as one line.
//!
//! Everything here is a plain function; the benches themselves are in `benches/`. Run them with
//! `cargo bench -p tidemill-bench`, one of them with `cargo bench -p tidemill-bench -- overhead`.

mod figure;
mod random;
mod statistics;
mod text;

pub use figure::Figure;
pub use random::Random;
pub use statistics::{median, percentile, rise, weighted_percentile};
pub use text::{WORDS_PER_LINE, text};
