//! Compiles `roost/v1/roost.proto` with protox, so that no `protoc` is needed to build.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=roost/v1/roost.proto");
    let files = protox::compile(["roost/v1/roost.proto"], ["."])?;
    prost_build::Config::new().bytes(["."]).enable_type_names().compile_fds(files)?;
    Ok(())
}
