//! What a person is told when there is no way to the router.

use super::*;
use mesh_proto::frame::alpn;
use mesh_proto::identity::{Authority, LocalKey, Role, tls};
use mesh_proto::v1::StatusRequest;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn issued(authority: &Authority, role: Role, ttl: Duration) -> Credentials {
    let key = LocalKey::create().expect("randomness");
    let csr = key.csr_der().expect("a request");
    let name = mesh_core::id::MachineId::new("me").expect("a name");
    let chain = authority.issue(&csr, role, &name, ttl).expect("a certificate");
    key.with_chain(chain).expect("leaf and CA")
}

/// A data folder with an authority in `router` and an operator's credentials that end after `ttl`.
fn logged_in(ttl: Duration) -> tempfile::TempDir {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::create(&data.path().join("router")).expect("a new authority");
    let operator = issued(&authority, Role::Operator, ttl);
    operator.save(&data.path().join("operator")).expect("writable");
    data
}

/// A router that shows a certificate of `own` and lets in only clients of `trusted`. It ends every
/// connection after the handshake.
async fn tls_only(own: &Authority, trusted: &Authority) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let shown = tls::ServerCertificate::new(&issued(own, Role::Router, HOUR)).expect("a pair");
    let config = tls::server(shown, trusted.certificate(), alpn::H2, tls::ClientCertificate::Required);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a configuration")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    (address, serving)
}

/// Dials and makes one call; either may fail.
async fn first_call(way: &Way) -> Failure {
    match way.dial().await {
        Ok(mut operators) => operators
            .call(|mut client| async move { client.status(StatusRequest {}).await })
            .await
            .expect_err("nobody serves gRPC there"),
        Err(failure) => failure,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn way(data: &tempfile::TempDir, router: Option<SocketAddr>) -> Way {
    Way {
        data: data.path().into(),
        router: router.map(|address| address.to_string()),
        timeout: Some(Duration::from_secs(10)),
    }
}

#[tokio::test]
async fn a_closed_port_is_an_unreachable_router_with_its_address() {
    let data = logged_in(HOUR);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let failure = way(&data, Some(address)).dial().await.expect_err("nobody listens");
    assert_eq!(failure.kind, Kind::Unreachable);
    assert_eq!(failure.what, format!("cannot reach the router at {address}"));
    assert_eq!(failure.cause.as_deref(), Some("connection refused"));
    assert!(!failure.hints.is_empty());
}

#[tokio::test]
async fn something_that_hangs_up_at_once_is_an_unreachable_router() {
    let data = logged_in(HOUR);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let hangs_up = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let failure = way(&data, Some(address)).dial().await.expect_err("it hangs up");
    assert_eq!(failure.kind, Kind::Unreachable, "{failure:?}");
    let cause = failure.cause.expect("a cause");
    assert!(cause.contains("connection closed") || cause.contains("connection reset"), "{cause}");
    hangs_up.abort();
}

#[tokio::test]
async fn a_router_of_another_mesh_is_refused_by_us() {
    let data = logged_in(HOUR);
    let other = Authority::create(&data.path().join("other")).expect("a new authority");
    let (address, serving) = tls_only(&other, &other).await;
    let failure = way(&data, Some(address)).dial().await.expect_err("another CA");
    assert_eq!(failure.kind, Kind::Refused, "{failure:?}");
    assert!(failure.hints.iter().any(|hint| hint.contains("meshctl login")));
    serving.abort();
}

#[tokio::test]
async fn a_router_that_refuses_our_certificate_is_no_unreachable_router() {
    let data = logged_in(HOUR);
    let own = Authority::open(&data.path().join("router")).expect("made before");
    let other = Authority::create(&data.path().join("other")).expect("a new authority");
    let (address, serving) = tls_only(&own, &other).await;
    let failure = first_call(&way(&data, Some(address))).await;
    assert_eq!(failure.kind, Kind::Refused, "{failure:?}");
    assert!(failure.hints.iter().any(|hint| hint.contains("meshctl login")));
    serving.abort();
}

#[tokio::test]
async fn without_credentials_the_path_and_both_ways_are_named() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let failure = way(&data, None).dial().await.expect_err("an empty folder");
    assert_eq!(failure.kind, Kind::Refused);
    assert!(failure.what.contains(&data.path().join("operator").display().to_string()));
    assert!(failure.hints.iter().any(|hint| hint.contains("modemesh up")));
    assert!(failure.hints.iter().any(|hint| hint.contains("meshctl login")));
}

#[test]
fn an_expired_certificate_is_told_before_anything_is_dialled() {
    let data = logged_in(HOUR);
    let later = SystemTime::now() + 5 * HOUR;
    let failure = credentials(&data.path().join("operator"), later).expect_err("expired");
    assert_eq!(failure.kind, Kind::Refused);
    assert!(failure.what.contains("expired"), "{}", failure.what);
}

#[test]
fn a_damaged_certificate_is_refused_here() {
    let data = logged_in(HOUR);
    std::fs::write(data.path().join("operator/chain.pem"), "nonsense").expect("writable");
    let failure = credentials(&data.path().join("operator"), SystemTime::now()).expect_err("damaged");
    assert_eq!(failure.kind, Kind::Refused);
}

#[test]
fn the_address_is_the_flag_then_the_file_then_this_machine() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let way = Way { data: data.path().into(), router: None, timeout: None };
    assert_eq!(way.operators_address().as_deref(), Ok("127.0.0.1:7402"));
    std::fs::create_dir(way.operator_folder()).expect("writable");
    std::fs::write(way.operator_folder().join("address"), "strix-1:9402\n").expect("writable");
    assert_eq!(way.operators_address().as_deref(), Ok("strix-1:9402"));
    let flag = Way { router: Some("10.0.0.2".into()), ..way.clone() };
    assert_eq!(flag.operators_address().as_deref(), Ok("10.0.0.2:7402"));
    std::fs::write(way.operator_folder().join("address"), "no address\n").expect("writable");
    let bad = way.operators_address().expect_err("a space");
    assert!(bad.hints.iter().any(|hint| hint.contains("operator/address")), "{:?}", bad.hints);
}

#[tokio::test]
async fn each_status_of_a_call_has_its_kind() {
    let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let mut operators = Operators {
        client: OperatorClient::new(channel),
        address: "r:7402".into(),
        limit: Duration::from_secs(1),
        proven: false,
    };
    for (code, kind) in [
        (Code::NotFound, Kind::NotFound),
        (Code::Unauthenticated, Kind::Refused),
        (Code::PermissionDenied, Kind::Refused),
        (Code::InvalidArgument, Kind::Usage),
        (Code::ResourceExhausted, Kind::DoesNotFit),
        (Code::DeadlineExceeded, Kind::TimedOut),
        (Code::Unavailable, Kind::Unreachable),
        (Code::FailedPrecondition, Kind::Failed),
        (Code::Unknown, Kind::Failed),
    ] {
        assert_eq!(operators.meaning(&Status::new(code, "said")).kind, kind, "{code:?}");
    }
    // TLS 1.3: the server's refusal of our certificate shows as a broken first call.
    let broken = || Status::from_error(Box::new(io::Error::new(io::ErrorKind::BrokenPipe, "stream closed")));
    assert_eq!(operators.meaning(&broken()).kind, Kind::Refused);
    operators.proven = true;
    assert_eq!(operators.meaning(&broken()).kind, Kind::Unreachable);
}

/// What a person is told who names this port: all of it, as it is printed.
fn told(failure: &Failure) -> String {
    failure.text(false).expect("it is told")
}

#[tokio::test]
async fn a_port_without_tls_is_told_as_such_and_which_port_is_the_right_one() {
    let data = logged_in(HOUR);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let http = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await);
            // The client has read it when it leaves.
            drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
        }
    });
    let failure = way(&data, Some(address)).dial().await.expect_err("no TLS");
    assert_eq!(failure.kind, Kind::Unreachable, "{failure:?}");
    let told = told(&failure);
    assert!(
        told.starts_with(&format!("error: what answers at {address} is no router's port for operators\n")),
        "{told}"
    );
    assert!(
        told.contains("cause: what answers there does not speak TLS\n") && told.contains("7402"),
        "{told}"
    );
    assert!(!told.contains("InvalidContentType") && !told.contains("corrupt"), "{told}");
    http.abort();
}

#[tokio::test]
async fn the_port_for_agents_is_told_as_such() {
    let data = logged_in(HOUR);
    let authority = Authority::open(&data.path().join("router")).expect("made before");
    let shown = tls::ServerCertificate::new(&issued(&authority, Role::Router, HOUR)).expect("a pair");
    let optional = tls::ClientCertificate::Optional;
    let config = tls::server(shown, authority.certificate(), alpn::H2, optional).expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let incoming = futures_util::stream::unfold((listener, acceptor), |(listener, acceptor)| async {
        let (tcp, _) = listener.accept().await.ok()?;
        Some((acceptor.accept(tcp).await, (listener, acceptor)))
    });
    let agents = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
    let serving = tokio::spawn(agents.serve_with_incoming(incoming));
    let failure = first_call(&way(&data, Some(address))).await;
    assert_eq!(failure.kind, Kind::Unreachable, "{failure:?}");
    let told = told(&failure);
    assert!(told.contains("so does the port for agents") && told.contains("--router HOST:7402"), "{told}");
    serving.abort();
}

#[tokio::test]
async fn certificates_of_another_mesh_are_told_without_the_words_of_a_library() {
    let data = logged_in(HOUR);
    let own = Authority::open(&data.path().join("router")).expect("made before");
    let other = Authority::create(&data.path().join("other")).expect("a new authority");
    for (shown, trusted, cause) in [
        (&other, &other, "its certificate is not that of a router of this mesh"),
        (&own, &other, "it does not take the certificate that was shown"),
    ] {
        let (address, serving) = tls_only(shown, trusted).await;
        let failure = first_call(&way(&data, Some(address))).await;
        assert_eq!((failure.kind, failure.cause.as_deref()), (Kind::Refused, Some(cause)), "{failure:?}");
        serving.abort();
    }
}
