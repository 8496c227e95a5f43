//! Results as text: tables, charts, JSON with stable fields.

pub(crate) mod chart;
pub(crate) mod json;
pub(crate) mod rows;
pub(crate) mod tables;
