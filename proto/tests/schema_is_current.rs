//! Regenerates the wire code from `mesh/v1/*.proto` and compares it with what is checked in, so that
//! building the project needs neither `protoc` nor a build script.
//!
//! After a change of the schema: `UPDATE_SCHEMA=1 cargo test -p mesh-proto --test schema_is_current`.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_what_the_schema_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["mesh/v1/fleet.proto", "mesh/v1/forward.proto", "mesh/v1/operator.proto"];
    let descriptors = protox::compile(files, [root]).expect("the schema compiles");

    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".")
        .message_attribute(".", "#[derive(serde::Serialize)]")
        .enum_attribute(".", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)
        .expect("code generation");
    let fresh = fs::read_to_string(out.path().join("mesh.v1.rs")).expect("the generated file");

    let checked_in = root.join("src/gen/mesh.v1.rs");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::create_dir_all(root.join("src/gen")).expect("the folder of generated code");
        fs::write(&checked_in, &fresh).expect("writing the generated code");
    }
    let kept = fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(
        kept == fresh,
        "proto/src/gen/mesh.v1.rs differs from the schema; run\n  \
         UPDATE_SCHEMA=1 cargo test -p mesh-proto --test schema_is_current\nand commit the result"
    );
}
