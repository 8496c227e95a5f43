//! The wire: code generated from `proto/`, its conversions to domain types, and channels.
//!
//! Generated types stop at the crates' service and client modules; [`convert`] turns them into domain types and back.

mod pb {
    #![allow(clippy::all, unreachable_pub, missing_docs)]
    pub mod tidemill {
        pub mod plan {
            pub mod v1 {
                tonic::include_proto!("tidemill.plan.v1");
            }
        }
        pub mod driver {
            pub mod v1 {
                tonic::include_proto!("tidemill.driver.v1");
            }
        }
        pub mod shuffle {
            pub mod v1 {
                tonic::include_proto!("tidemill.shuffle.v1");
            }
        }
        pub mod journal {
            pub mod v1 {
                tonic::include_proto!("tidemill.journal.v1");
            }
        }
        pub mod control {
            pub mod v1 {
                tonic::include_proto!("tidemill.control.v1");
            }
        }
    }
}

pub mod channel;
pub mod convert;
pub mod session;

pub use pb::tidemill::control::v1 as control;
pub use pb::tidemill::driver::v1 as driver;
pub use pb::tidemill::journal::v1 as journal;
pub use pb::tidemill::plan::v1 as plan;
pub use pb::tidemill::shuffle::v1 as shuffle;
