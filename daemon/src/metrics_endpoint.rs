//! `GET /metrics` on an address of its own, for a process that has no other HTTP server.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The media type of the text that [`render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A scraper opens one connection; more than these are somebody else's.
const CONNECTIONS: usize = 16;

/// All metrics of `registry` as OpenMetrics text.
#[must_use]
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("writing to a String cannot fail");
    text
}

/// Serves `registry` on `listener` until `stop`.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = permits.clone().acquire_owned() => permit,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a metrics connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (registry, stop) = (registry.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, registry.clone()));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            tokio::select! {
                () = stop.cancelled() => {}
                // A scraper that hangs up early is its own business.
                _ = http.serve_connection(TokioIo::new(stream), service) => {}
            }
            drop(permit);
        });
    }
}

#[expect(clippy::unused_async, reason = "hyper's service wants a future")]
async fn answer(
    request: Request<Incoming>,
    registry: Arc<Registry>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" || request.method() != Method::GET {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Full::from("only GET /metrics is served here\n");
        return Ok(response);
    }
    let kind = hyper::header::HeaderValue::from_static(CONTENT_TYPE);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    *response.body_mut() = Full::from(render(&registry));
    Ok(response)
}
