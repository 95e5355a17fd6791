//! A client's TLS connection that says goodbye when it is dropped, however that comes about.
//!
//! The kernel of a process that dies closes its connections without TLS's goodbye (`close_notify`), and so does a library
//! that gives a connection up. Only when a living process never does can its router tell the two apart.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The connection.
pub(super) struct Farewell(pub(super) TlsStream<TcpStream>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let (tcp, tls) = self.0.get_mut();
        tls.send_close_notify();
        // What does not fit into the kernel's buffer now is lost, and this end looks like that of a dead process.
        while tls.wants_write() && tls.write_tls(&mut NotWaiting(tcp)).is_ok_and(|bytes| bytes > 0) {}
    }
}

struct NotWaiting<'a>(&'a TcpStream);

impl io::Write for NotWaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Farewell {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Farewell {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tls::{self, ClientCertificate, ServerCertificate};
    use crate::identity::{Authority, Credentials, LocalKey, Role};
    use mesh_core::id::MachineId;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    fn credentials(authority: &Authority, role: Role) -> Credentials {
        let key = LocalKey::create().expect("a key");
        let (csr, name) = (key.csr_der().expect("a request"), MachineId::new("one").expect("a good name"));
        let chain = authority.issue(&csr, role, &name, Duration::from_secs(60)).expect("a certificate");
        key.with_chain(chain).expect("credentials")
    }

    #[tokio::test]
    async fn a_dropped_connection_ends_with_a_goodbye_and_a_dead_ones_without() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::create(folder.path()).expect("an authority");
        let shown = ServerCertificate::new(&credentials(&authority, Role::Router)).expect("a certificate");
        let server = tls::server(shown, authority.certificate(), b"x", ClientCertificate::Required);
        let acceptor = TlsAcceptor::from(Arc::new(server.expect("a configuration")));
        let client = tls::client(&credentials(&authority, Role::Node), b"x").expect("a configuration");
        let connector = TlsConnector::from(Arc::new(client));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        for dies in [false, true] {
            let (mut theirs, ours) = tokio::join!(
                async { acceptor.accept(listener.accept().await.expect("it comes").0).await.expect("TLS") },
                async {
                    let name = tls::ROUTER_NAME.try_into().expect("a DNS name");
                    let tcp = TcpStream::connect(address).await.expect("loopback");
                    connector.connect(name, tcp).await.expect("TLS")
                }
            );
            // Without its wrapper it ends as the kernel ends it.
            if dies {
                drop(ours)
            } else {
                drop(Farewell(ours))
            }
            let end = theirs.read(&mut [0; 16]).await;
            assert_eq!(
                end.map_err(|error| error.kind()),
                match dies {
                    false => Ok(0),
                    true => Err(io::ErrorKind::UnexpectedEof),
                }
            );
        }
    }
}
