//! What users feel when something goes wrong or too much is asked: clients that leave, an agent that dies, four
//! times the load that fits, and what it is worth to send a conversation back to where it was.
//!
//! ```text
//! cargo bench -p integration-tests --bench mesh_under_load -- cancel failover overload affinity [--trials 500 …]
//! ```
//! Router, clients and most agents are threads of one process and share its processors with real engines.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

#[path = "mesh_under_load/affinity.rs"]
mod affinity;
#[path = "mesh_under_load/asking.rs"]
mod asking;
#[path = "mesh_under_load/cancel.rs"]
mod cancel;
#[path = "mesh_under_load/failover.rs"]
mod failover;
#[path = "mesh_under_load/figures.rs"]
mod figures;
#[path = "mesh_under_load/overload.rs"]
mod overload;

use figures::Arguments;
use integration_tests::test_node::be_an_agent_if_asked;

fn main() {
    be_an_agent_if_asked();
    let arguments = Arguments::of_this_process();
    // `cargo test --benches` only wants to know whether it starts.
    if !arguments.is_bench() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        if arguments.wants("cancel") {
            cancel::measure(&arguments).await;
        }
        if arguments.wants("failover") {
            failover::measure(&arguments).await;
        }
        if arguments.wants("overload") {
            overload::measure(&arguments).await;
        }
        if arguments.wants("affinity") {
            affinity::measure(&arguments).await;
        }
    });
}
