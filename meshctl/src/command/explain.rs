//! `meshctl explain`: why a request went where it went.

use crate::cli::ExplainArgs;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::id::RequestId;
use mesh_proto::v1::ExplainRequest;

/// The JSON that `explain --json` prints.
const SCHEMA: &str = "mesh.explain/v1";

/// # Errors
/// `Usage` for an id that can be none, `NotFound` for one that the router does not know (any more).
pub(super) async fn run(args: ExplainArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    // Without an id the router tells of its latest request.
    let request_id = args.request_id.unwrap_or_default();
    if !request_id.is_empty() {
        RequestId::new(request_id.as_str()).map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    }
    let mut operators = way.dial().await?;
    let request = ExplainRequest { request_id };
    let reply = operators.call(|mut client| async move { client.explain(request).await }).await?;
    if screen.is_json() {
        screen.result(&render::json(SCHEMA, &reply, false))
    } else {
        screen.result(&screen.commands(&render::explain::story(&reply, screen.look)))
    }
}
