//! Files of other machines, asked of the router on streams that the agent opens.

use super::dial;
use crate::model_store::{PeerAnswer, PeerLink};
use crate::router_link::Identity;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use mesh_link::{Connection, Receiving, Sending};
use mesh_proto::frame::{self, alpn, code};
use mesh_proto::v1::{AgentRequest, BlobRequest, agent_request};

/// The most bytes of a file taken from its stream at once.
const FILE_CHUNK: usize = 64 * 1024;

/// How the router is asked.
pub(super) enum FilesByRouter {
    /// On the connection that carries requests too, after all of them.
    Shared(Connection),
    /// On a TCP connection for each file, so that its bytes hold up no tokens.
    OwnTcp {
        /// The router, `host:port`.
        router: String,
        /// Who asks.
        identity: Identity,
    },
}

impl PeerLink for FilesByRouter {
    fn fetch(&self, request: BlobRequest) -> BoxFuture<'static, Result<PeerAnswer, String>> {
        match self {
            Self::Shared(connection) => fetch(connection.clone(), request).boxed(),
            Self::OwnTcp { router, identity } => {
                let (router, identity) = (router.clone(), identity.clone());
                let fetching = async move {
                    let stream = dial::tls(&router, &identity.current(), alpn::FILES_H2).await?;
                    let connection =
                        mesh_link::h2_link::opening(stream).await.map_err(|error| error.to_string())?;
                    fetch(Connection::H2(connection), request).await
                };
                fetching.boxed()
            }
        }
    }
}

async fn fetch(connection: Connection, request: BlobRequest) -> Result<PeerAnswer, String> {
    let (send, recv) = connection.open().await.map_err(|error| error.to_string())?;
    let mut stream = FileStream { send, recv, complete: false, _connection: connection };
    let request = AgentRequest { kind: Some(agent_request::Kind::Blob(request)) };
    let asked = stream.send.write(frame::encode_head(&request, b"")).await;
    asked.map_err(|error| error.to_string())?;
    stream.send.finish();
    let head = frame::read_response_head(&mut stream.recv).await.map_err(|error| error.to_string())?;
    let body = futures_util::stream::unfold(Some(stream), |stream| async move {
        let mut stream = stream?;
        match stream.recv.chunk(FILE_CHUNK).await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(stream))),
            Ok(None) => {
                stream.complete = true;
                None
            }
            Err(error) => Some((Err(format!("the other machine broke off: {error}")), None)),
        }
    });
    Ok(PeerAnswer { head, body: body.boxed() })
}

/// Resets both directions when dropped before the file is complete, so that the machine that sends it stops.
struct FileStream {
    send: Sending,
    recv: Receiving,
    complete: bool,
    /// Over HTTP/2 it is the file's own and ends with it.
    _connection: Connection,
}

impl Drop for FileStream {
    fn drop(&mut self) {
        if !self.complete {
            self.send.reset(code::CANCELLED);
            self.recv.stop(code::CANCELLED);
        }
    }
}
