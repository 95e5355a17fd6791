//! Traces reach a collector by OTLP/gRPC, and a span on another machine becomes a child of ours.

use mesh_daemon::telemetry::{self, Telemetry};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

/// A collector that hands on what it gets.
struct Collector {
    got: mpsc::UnboundedSender<ExportTraceServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.got.send(request.into_inner()).map_err(|_| Status::internal("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_s_spans_on_two_machines_are_one_trace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let otlp_endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    #[expect(clippy::disallowed_methods, reason = "a handful of spans in a test")]
    let (got, mut exported) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector { got }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let guard = telemetry::init(&Telemetry { otlp_endpoint, ..Telemetry::default() }, "mesh-test")
        .expect("it starts");
    let router_side = tracing::info_span!("request", request_id = "req-1");
    let traceparent = async { telemetry::traceparent() }.instrument(router_side.clone()).await;
    assert!(traceparent.starts_with("00-"), "{traceparent:?}");
    let agent_side = tracing::info_span!("answer", request_id = "req-1");
    telemetry::adopt(&agent_side, &traceparent);
    drop((agent_side, router_side));
    // Dropping the guard sends what is left, and blocks while it does.
    tokio::task::spawn_blocking(move || drop(guard)).await.expect("no panic");

    let (mut spans, mut service) = (Vec::<Span>::new(), None);
    while spans.len() < 2 {
        let export = tokio::time::timeout(Duration::from_secs(30), exported.recv());
        let export = export.await.expect("an export in time").expect("the collector lives");
        for resource in export.resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            service = name.and_then(|attribute| attribute.value?.value).or(service);
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let find = |name: &str| spans.iter().find(|span| span.name == name).expect("exported");
    let (request, answer) = (find("request"), find("answer"));
    assert_eq!(request.trace_id, answer.trace_id);
    assert_eq!(answer.parent_span_id, request.span_id);
    assert_eq!(service, Some(Value::StringValue("mesh-test".into())));
}
