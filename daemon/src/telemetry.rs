//! Logs on stderr, and traces by OTLP when the configuration names a collector.
//!
//! Prompt and answer texts never reach a span or an event: the code that holds them has no reason to log.

use crate::complaint::Complaint;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The `[telemetry]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// Which events are logged, in the syntax of `RUST_LOG`, which wins when it is set.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Where traces go by OTLP/gRPC: `http://127.0.0.1:4317`. Empty = nowhere.
    pub otlp_endpoint: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: "info".into(), log_format: LogFormat::Text, otlp_endpoint: String::new() }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For log collectors.
    Json,
}

/// Whether traces are exported: asking a span for its context costs every request something.
static EXPORTS: AtomicBool = AtomicBool::new(false);

/// Keeps the exporter alive; dropping it sends what is left.
#[must_use = "dropping the guard stops the export of traces"]
#[derive(Debug)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // The process is ending: nobody is left who could act on a failed export.
            drop(provider.shutdown());
        }
    }
}

/// Starts logging, and tracing when asked for. Call once, inside the runtime.
///
/// # Errors
/// A complaint when the filter or the collector's address is not understood.
pub fn init(telemetry: &Telemetry, service: &'static str) -> Result<Guard, Complaint> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| telemetry.log.clone());
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        Complaint::new(format!("the log filter `{directives}` is not understood"))
            .cause(error)
            .hint("try telemetry.log = \"info\" or \"info,router=debug\"")
            .exit(crate::complaint::exit::CONFIG)
    })?;
    // Colours are for a terminal; in a file or the journal they are noise.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (text, json) = match telemetry.log_format {
        LogFormat::Text => {
            (Some(tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr)), None)
        }
        LogFormat::Json => (None, Some(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr))),
    };
    let provider =
        if telemetry.otlp_endpoint.is_empty() { None } else { Some(exporter(telemetry, service)?) };
    EXPORTS.store(provider.is_some(), Ordering::Relaxed);
    let traces = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(service)));
    tracing_subscriber::registry()
        .with(filter)
        .with(text)
        .with(json)
        .with(traces)
        .try_init()
        .map_err(|error| Complaint::new("logging could not start").cause(error))?;
    Ok(Guard { provider })
}

fn exporter(telemetry: &Telemetry, service: &'static str) -> Result<SdkTracerProvider, Complaint> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&telemetry.otlp_endpoint)
        .build()
        .map_err(|error| {
            Complaint::new(format!("telemetry.otlp_endpoint `{}` is not usable", telemetry.otlp_endpoint))
                .cause(error)
                .hint("write it as \"http://host:4317\"")
                .exit(crate::complaint::exit::CONFIG)
        })?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

/// The W3C `traceparent` of the current span; empty when traces are off.
#[must_use]
pub fn traceparent() -> String {
    struct Carrier(String);
    impl Injector for Carrier {
        fn set(&mut self, key: &str, value: String) {
            if key == "traceparent" {
                self.0 = value;
            }
        }
    }
    let mut carrier = Carrier(String::new());
    if !EXPORTS.load(Ordering::Relaxed) {
        return carrier.0;
    }
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut carrier);
    carrier.0
}

/// Makes `span` a child of the remote span that `traceparent` names. Nonsense is ignored.
pub fn adopt(span: &tracing::Span, traceparent: &str) {
    struct Carrier<'a>(&'a str);
    impl Extractor for Carrier<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            (key == "traceparent").then_some(self.0)
        }
        fn keys(&self) -> Vec<&str> {
            vec!["traceparent"]
        }
    }
    if !traceparent.is_empty() {
        // Fails only when no trace layer is installed, and then there is nothing to link.
        drop(span.set_parent(TraceContextPropagator::new().extract(&Carrier(traceparent))));
    }
}
