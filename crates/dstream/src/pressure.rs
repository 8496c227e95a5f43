//! Back-pressure: how fast sources may be read.

/// Weights of the PID controller that sets the rate of each stream from what its batches cost, as Spark's
/// `PIDRateEstimator` does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackPressure {
    /// Of the difference between the present rate and that at which rows are processed.
    pub proportional: f64,
    /// Of the rows that wait in queued batches.
    pub integral: f64,
    /// Of the change of that difference. Makes rates nervous; rarely of use.
    pub derived: f64,
    /// Rows a second that are let through whatever the controller says.
    pub min_rate: f64,
}

impl Default for BackPressure {
    fn default() -> Self {
        Self {
            proportional: 1.0,
            integral: 0.2,
            derived: 0.0,
            min_rate: 100.0,
        }
    }
}
