//! The converter of public datasets, in the Python that users run it with.

use integration_tests::engine_fixture::skip;
use integration_tests::installed::python_parquet;
use std::path::Path;
use std::process::Command;

#[tokio::test]
async fn datasets_are_converted_from_parquet_and_jsonl() {
    let python = match python_parquet().await {
        Ok(python) => python,
        Err(missing) => return skip(&missing),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/eval");
    let mut tests = Command::new(python);
    // Nothing is written beside the sources.
    tests.args(["-B", "-m", "unittest", "-v", "convert_test"]).current_dir(folder);
    let output = tests.output().expect("it was installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Ran 5 tests") && !said.contains("skipped"), "{said}");
}
