//! Compiles `proto/` with protox, so that no system protoc is needed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files([
        "tidemill/plan/v1/graph.proto",
        "tidemill/plan/v1/plan.proto",
        "tidemill/driver/v1/driver_service.proto",
        "tidemill/shuffle/v1/shuffle_service.proto",
        "tidemill/control/v1/control_service.proto",
        "tidemill/journal/v1/journal.proto",
    ])?;
    tonic_prost_build::configure()
        .bytes(".tidemill")
        .build_transport(true)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
