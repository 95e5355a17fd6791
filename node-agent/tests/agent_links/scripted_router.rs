//! A router that does what the test says: real certificates, gRPC and QUIC on one port, and a will of its own
//! nowhere. It lives in a runtime of its own, so that it can die at once with all its connections.

use crate::soon;
use mesh_core::id::MachineId;
use mesh_core::machine::Report;
use mesh_link::{Connection, h2_link};
use mesh_proto::fleet_wire::report_from_wire;
use mesh_proto::frame::alpn;
use mesh_proto::identity::tls::{self, ClientCertificate, ServerCertificate};
use mesh_proto::identity::{Authority, LocalKey, Role};
use mesh_proto::v1::fleet_server::{Fleet, FleetServer};
use mesh_proto::v1::{
    AgentMessage, Certified, JoinRequest, RenewRequest, RouterMessage, Welcome, agent_message, router_message,
};
use quinn::crypto::rustls::QuicServerConfig;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A mesh's authority and the folder of one joined machine.
pub(crate) struct Mesh {
    folder: TempDir,
    pub(crate) authority: Arc<Authority>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::create(&folder.path().join("router")).expect("an authority");
        Self { folder, authority: Arc::new(authority) }
    }

    /// Where the machine `node-1` keeps its credentials.
    pub(crate) fn agent_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("agent")
    }

    /// Gives `node-1` a certificate for `life` from now.
    pub(crate) fn certify(&self, life: Duration) {
        let folder = self.agent_folder();
        let key = LocalKey::create_or_load(&folder.join("key.pem")).expect("a key");
        let csr = key.csr_der().expect("a request");
        let chain = self.authority.issue(&csr, Role::Node, &name("node-1"), life).expect("a certificate");
        key.with_chain(chain).expect("credentials").save(&folder).expect("saved");
    }
}

pub(crate) fn name(text: &str) -> MachineId {
    MachineId::new(text).expect("a name")
}

/// One agent's session as the router sees it.
pub(crate) struct Attached {
    inbound: Streaming<AgentMessage>,
    outbound: mpsc::Sender<Result<RouterMessage, Status>>,
    pub(crate) boot_id: String,
}

impl Attached {
    pub(crate) async fn say(&self, kind: router_message::Kind) {
        self.outbound.send(Ok(RouterMessage { kind: Some(kind) })).await.expect("the agent listens");
    }

    /// The next message; `None` when the agent has left or the connection broke.
    pub(crate) async fn message(&mut self) -> Option<agent_message::Kind> {
        soon("a message", self.inbound.message()).await.ok().flatten()?.kind
    }

    /// The next report, past any heartbeats.
    pub(crate) async fn report(&mut self) -> Report {
        loop {
            if let agent_message::Kind::Report(report) = self.message().await.expect("the agent is there") {
                return report_from_wire(report).expect("a valid report");
            }
        }
    }

    /// The next heartbeat; a report before it is a failure.
    pub(crate) async fn heartbeat(&mut self) -> u64 {
        let message = self.message().await.expect("the agent is there");
        let agent_message::Kind::Heartbeat(heartbeat) = message else { panic!("no heartbeat: {message:?}") };
        heartbeat.sequence
    }
}

struct Service {
    authority: Arc<Authority>,
    sessions: mpsc::Sender<Attached>,
    renewals: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl Fleet for Service {
    type AttachStream = ReceiverStream<Result<RouterMessage, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certified>, Status> {
        let JoinRequest { csr_der, proposed_name, secret, .. } = request.into_inner();
        if secret.starts_with("AAAA") {
            return Err(Status::permission_denied("this token was used by `node-9`"));
        }
        Ok(Response::new(certified(&self.authority, &csr_der, &proposed_name)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certified>, Status> {
        self.renewals.send(()).await.expect("the test listens");
        Ok(Response::new(certified(&self.authority, &request.into_inner().csr_der, "node-1")))
    }

    async fn attach(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let (outbound, stream) = mpsc::channel(16);
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            let hello = match inbound.message().await {
                Ok(Some(AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) })) => hello,
                other => panic!("no hello: {other:?}"),
            };
            let welcome = Welcome {
                protocol: mesh_proto::PROTOCOL,
                router_version: "test".into(),
                name: "node-1".into(),
            };
            let attached = Attached { inbound, outbound, boot_id: hello.boot_id };
            attached.say(router_message::Kind::Welcome(welcome)).await;
            drop(sessions.send(attached).await);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn certified(authority: &Authority, csr: &[u8], for_name: &str) -> Certified {
    let life = Duration::from_secs(24 * 3600);
    let chain = authority.issue(csr, Role::Node, &name(for_name), life).expect("a good request");
    Certified {
        name: for_name.into(),
        role: "node".into(),
        chain_der: chain.iter().map(|der| der.to_vec().into()).collect(),
        valid_for_s: life.as_secs(),
    }
}

pub(crate) struct ScriptedRouter {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<Attached>,
    renewals: mpsc::Receiver<()>,
    connections: mpsc::Receiver<Connection>,
    runtime: Option<Runtime>,
}

impl ScriptedRouter {
    /// Starts on `address`, port 0 for any.
    pub(crate) fn start(mesh: &Mesh, address: SocketAddr) -> Self {
        let (tcp, udp) = bind(address);
        Self::start_on(mesh, tcp, Some(udp)).0
    }

    /// The same on any port, with a UDP socket that answers nothing until it is opened by the function.
    pub(crate) fn start_deaf(mesh: &Mesh) -> (Self, impl FnOnce()) {
        let (tcp, udp) = bind(any());
        let (router, open) = Self::start_on(mesh, tcp, None);
        (router, move || open(udp))
    }

    fn start_on(mesh: &Mesh, tcp: TcpListener, udp: Option<UdpSocket>) -> (Self, impl FnOnce(UdpSocket)) {
        let address = tcp.local_addr().expect("just bound");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let key = LocalKey::create().expect("a key");
        let csr = key.csr_der().expect("a request");
        let life = Duration::from_secs(3600);
        let chain = mesh.authority.issue(&csr, Role::Router, &name("router"), life).expect("a certificate");
        let shown =
            ServerCertificate::new(&key.with_chain(chain).expect("credentials")).expect("a certificate");
        let config = |protocol, clients| {
            tls::server(shown.clone(), mesh.authority.certificate(), protocol, clients)
                .expect("a configuration")
        };
        let (session_sender, sessions) = mpsc::channel(16);
        let (renewal_sender, renewals) = mpsc::channel(16);
        let (connection_sender, connections) = mpsc::channel(16);
        let service =
            Service { authority: mesh.authority.clone(), sessions: session_sender, renewals: renewal_sender };
        let mut over_tcp = config(alpn::H2, ClientCertificate::Optional);
        over_tcp.alpn_protocols.push(alpn::DATA_H2.to_vec());
        runtime.spawn(serve_tcp(tcp, over_tcp, service, connection_sender.clone()));
        let (quic, handle) = (config(alpn::DATA, ClientCertificate::Required), runtime.handle().clone());
        let open = move |udp| drop(handle.spawn(serve_quic(udp, quic, connection_sender)));
        let router = Self { address, sessions, renewals, connections, runtime: Some(runtime) };
        let open = match udp {
            Some(udp) => {
                open(udp);
                None
            }
            None => Some(open),
        };
        let later = move |udp| {
            if let Some(open) = open {
                open(udp);
            }
        };
        (router, later)
    }

    pub(crate) async fn attached(&mut self) -> Attached {
        soon("an agent attaches", self.sessions.recv()).await.expect("the router runs")
    }

    pub(crate) fn attached_meanwhile(&mut self) -> bool {
        self.sessions.try_recv().is_ok()
    }

    pub(crate) async fn renewed(&mut self) {
        soon("a renewal", self.renewals.recv()).await.expect("the router runs");
    }

    pub(crate) fn renewed_meanwhile(&mut self) -> bool {
        self.renewals.try_recv().is_ok()
    }

    pub(crate) async fn connection(&mut self) -> Connection {
        soon("an agent's data connection", self.connections.recv()).await.expect("the router runs")
    }

    /// Dies at once with all its connections.
    pub(crate) fn die(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own, because a runtime may not wait inside another one.
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10)));
            ending.join().expect("no panic");
        }
    }
}

impl Drop for ScriptedRouter {
    fn drop(&mut self) {
        self.end();
    }
}

/// The same port for TCP and UDP. One that is free for the first may be taken for the second.
fn bind(address: SocketAddr) -> (TcpListener, UdpSocket) {
    for _ in 0..1000 {
        let Ok(tcp) = TcpListener::bind(address) else { continue };
        let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("just bound")) else { continue };
        tcp.set_nonblocking(true).expect("a socket");
        return (tcp, udp);
    }
    panic!("{address} is not free for TCP and UDP");
}

async fn serve_tcp(
    tcp: TcpListener,
    config: rustls::ServerConfig,
    service: Service,
    connections: mpsc::Sender<Connection>,
) {
    let tcp = tokio::net::TcpListener::from_std(tcp).expect("a runtime");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (sender, streams) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            if stream.get_ref().1.alpn_protocol() == Some(alpn::DATA_H2) {
                if let Ok(connection) = h2_link::opening(stream).await {
                    drop(connections.send(Connection::H2(connection)).await);
                }
            } else {
                drop(sender.send(Ok::<_, std::io::Error>(stream)).await);
            }
        }
    });
    let server = tonic::transport::Server::builder().add_service(FleetServer::new(service));
    server.serve_with_incoming(ReceiverStream::new(streams)).await.expect("the server runs");
}

async fn serve_quic(udp: UdpSocket, config: rustls::ServerConfig, connections: mpsc::Sender<Connection>) {
    let crypto = QuicServerConfig::try_from(config).expect("TLS 1.3");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let runtime = quinn::default_runtime().expect("a runtime");
    let endpoint =
        quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), udp, runtime).expect("a socket");
    while let Some(incoming) = endpoint.accept().await {
        if let Ok(connection) = incoming.await {
            drop(connections.send(Connection::Quic(connection)).await);
        }
    }
}

/// Any free port of this machine.
pub(crate) fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Whether a file of the agent's folder is for its owner only.
pub(crate) fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|data| data.permissions().mode() & 0o077 == 0)
}
