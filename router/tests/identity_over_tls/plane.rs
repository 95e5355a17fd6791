//! A whole agents' plane on loopback port 0, and clients that may do what ours never would.

use mesh_core::id::MachineId;
use mesh_daemon::clock::Clock;
use mesh_proto::frame::alpn;
use mesh_proto::identity::join::{JoinError, join};
use mesh_proto::identity::tls::{self, ClientCertificate, ROUTER_NAME, ServerCertificate};
use mesh_proto::identity::{Authority, Credentials, JoinToken, LocalKey, Role};
use mesh_proto::v1::agent_message::Kind;
use mesh_proto::v1::fleet_client::FleetClient;
use mesh_proto::v1::{AgentMessage, Certified, Hello, JoinRequest, RouterMessage};
use router::fleet_keeper::FleetHandle;
use router::forward::agent_links::AgentLinks;
use router::grpc::fleet_service::FleetServiceParts;
use router::grpc::{ServeError, serve_agents};
use router::ledger::{Ledger, LedgerHandle};
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

/// Certificates of the tests live this long.
pub(crate) const CERTIFICATE_TTL: Duration = Duration::from_secs(600);

/// Nothing on loopback takes this long; what does is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500 million")
}

/// A router's agents' plane with its own CA and ledger.
pub(crate) struct Plane {
    pub(crate) folder: TempDir,
    pub(crate) authority: Arc<Authority>,
    pub(crate) ledger: LedgerHandle,
    pub(crate) fleet: FleetHandle,
    pub(crate) address: String,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<Result<(), ServeError>>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::with_clock(wall_clock).await
    }

    /// A plane whose wall clock is `unix_ms`.
    pub(crate) async fn with_clock(unix_ms: fn() -> u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Arc::new(Authority::create(folder.path()).expect("a new CA"));
        let ledger = Ledger::open(&folder.path().join("ledger.redb")).expect("a new ledger");
        let stop = CancellationToken::new();
        let fleet = FleetHandle::start(None, BTreeMap::new(), Clock::start(), stop.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let config = server_config(&authority, ClientCertificate::Optional);
        let parts = FleetServiceParts {
            fleet: fleet.clone(),
            links: AgentLinks::default(),
            ledger: ledger.clone(),
            authority: authority.clone(),
            certificate_ttl: CERTIFICATE_TTL,
            unix_ms,
        };
        let serving = tokio::spawn(serve_agents(listener, config, parts, None, stop.clone()));
        Self { folder, authority, ledger, fleet, address, stop, serving }
    }

    /// A join token made at the real wall clock, for an hour.
    pub(crate) async fn token(&self, role: Role, name: Option<&str>) -> JoinToken {
        let name = name.map(|name| MachineId::new(name).expect("a valid name"));
        let made = self.ledger.create_token(role, name, Duration::ZERO, wall_clock()).await;
        let (id, secret) = made.expect("a token");
        JoinToken { pin: self.authority.pin().expect("a CA"), id, secret }
    }

    /// Joins as the agent does, with a key of its own in a folder of its own.
    pub(crate) async fn join(&self, token: &JoinToken, name: &str) -> Result<Machine, JoinError> {
        let machine = Machine { folder: tempfile::tempdir().expect("a temporary folder") };
        join(&self.address, token, name, machine.path()).await.map(|_| machine)
    }

    /// A machine that joined as a node.
    pub(crate) async fn node(&self, name: &str) -> Machine {
        let token = self.token(Role::Node, None).await;
        self.join(&token, name).await.expect("a good join")
    }

    /// A client without a certificate.
    pub(crate) async fn stranger(&self) -> FleetClient<Channel> {
        let pin = self.token(Role::Node, None).await.pin_bytes().expect("a good pin");
        self.client(tls::pinned_client(pin, alpn::H2).expect("a configuration"))
            .await
            .expect("TLS without names")
    }

    /// A client with these credentials.
    pub(crate) async fn known(&self, credentials: &Credentials) -> Result<FleetClient<Channel>, String> {
        self.client(tls::client(credentials, alpn::H2).expect("a configuration")).await
    }

    async fn client(&self, config: rustls::ClientConfig) -> Result<FleetClient<Channel>, String> {
        channel(&self.address, config).await.map(FleetClient::new)
    }

    /// Sends a Join as it is, without the checks that our own client makes first.
    pub(crate) async fn raw_join(&self, request: JoinRequest) -> Result<Certified, Status> {
        within(self.stranger().await.join(request)).await.map(tonic::Response::into_inner)
    }

    /// Credentials signed by this mesh's CA behind the ledger's back.
    pub(crate) fn forge(&self, role: Role, name: &str) -> Credentials {
        credentials_of(&self.authority, role, name)
    }
}

/// A machine's folder with its key and certificate.
pub(crate) struct Machine {
    folder: TempDir,
}

impl Machine {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::load(self.path()).expect("it joined")
    }
}

/// The TLS configuration of a router of `authority`.
pub(crate) fn server_config(authority: &Authority, clients: ClientCertificate) -> Arc<rustls::ServerConfig> {
    let credentials = credentials_of(authority, Role::Router, "router-1");
    let certificate = ServerCertificate::new(&credentials).expect("a certificate for its key");
    Arc::new(tls::server(certificate, authority.certificate(), alpn::H2, clients).expect("a configuration"))
}

/// A new key with a certificate of `authority`.
pub(crate) fn credentials_of(authority: &Authority, role: Role, name: &str) -> Credentials {
    let key = LocalKey::create().expect("a key");
    let name = MachineId::new(name).expect("a valid name");
    let csr = key.csr_der().expect("a request");
    let chain = authority.issue(&csr, role, &name, CERTIFICATE_TTL).expect("a certificate");
    key.with_chain(chain).expect("a chain of two")
}

/// A CA of another mesh, with the folder that holds it.
pub(crate) fn another_authority() -> (TempDir, Authority) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::create(folder.path()).expect("a new CA");
    (folder, authority)
}

/// A gRPC channel over exactly this TLS configuration.
pub(crate) async fn channel(address: &str, config: rustls::ClientConfig) -> Result<Channel, String> {
    let (address, config) = (address.to_owned(), Arc::new(config));
    let connector = tower::service_fn(move |_: Uri| {
        let (address, config) = (address.clone(), config.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from(ROUTER_NAME).expect("a constant DNS name");
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    within(Endpoint::from_static("http://router.modemesh.internal").connect_with_connector(connector))
        .await
        .map_err(|error| format!("{error:?}"))
}

/// A request to join with this token and a new key.
pub(crate) fn join_request(token: &JoinToken, name: &str) -> JoinRequest {
    let key = LocalKey::create().expect("a key");
    JoinRequest {
        token_id: token.id.clone(),
        secret: token.secret.clone(),
        csr_der: key.csr_der().expect("a request").into(),
        proposed_name: name.into(),
    }
}

/// Both directions of an Attach.
pub(crate) struct Attached {
    pub(crate) up: mpsc::Sender<AgentMessage>,
    pub(crate) down: Streaming<RouterMessage>,
}

impl Attached {
    pub(crate) async fn open(client: &mut FleetClient<Channel>) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(16);
        let down = within(client.attach(ReceiverStream::new(messages))).await?.into_inner();
        Ok(Self { up, down })
    }

    /// Opens and says hello with our protocol.
    pub(crate) async fn greet(client: &mut FleetClient<Channel>, boot_id: &str) -> Result<Self, Status> {
        let mut attached = Self::open(client).await?;
        attached.say(hello(mesh_proto::PROTOCOL, boot_id)).await;
        match attached.next().await? {
            Some(mesh_proto::v1::router_message::Kind::Welcome(_)) => Ok(attached),
            other => panic!("a welcome was due, not {other:?}"),
        }
    }

    pub(crate) async fn say(&self, kind: Kind) {
        let said = self.up.send(AgentMessage { kind: Some(kind) });
        within(said).await.expect("the stream is open");
    }

    pub(crate) async fn next(&mut self) -> Result<Option<mesh_proto::v1::router_message::Kind>, Status> {
        Ok(within(self.down.message()).await?.and_then(|message| message.kind))
    }
}

pub(crate) fn hello(protocol: u32, boot_id: &str) -> Kind {
    Kind::Hello(Hello { protocol, agent_version: "0.0.0-test".into(), boot_id: boot_id.into() })
}

/// The value, or a failed test instead of a stuck one.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("nothing on loopback takes 20 s")
}

/// Whether a call failed because TLS refused the client. With TLS 1.3 the client believes that it is connected
/// and learns better at its first call, as whatever the broken connection looks like at that moment.
pub(crate) fn is_refusal_of_tls(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::Unavailable | Code::Cancelled)
}

/// Reads the CA's key so that a test can sign what no router would.
pub(crate) fn stolen_ca(folder: &Path) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let file: PathBuf = folder.join("ca.key");
    let key = std::fs::read_to_string(file).expect("the CA's key");
    let key = rcgen::KeyPair::from_pem(&key).expect("a PEM key");
    let pem = std::fs::read_to_string(folder.join("ca.pem")).expect("the CA's certificate");
    rcgen::Issuer::from_ca_cert_pem(&pem, key).expect("a CA certificate")
}

/// A client configuration that shows `chain` and `key`, whatever they are, to a router of `authority`.
pub(crate) fn client_showing(
    authority: &Authority,
    chain: Vec<CertificateDer<'static>>,
    key: &rcgen::KeyPair,
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).expect("a CA certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key.into())
        .expect("a key for the certificate");
    config.alpn_protocols = vec![alpn::H2.to_vec()];
    config
}
