//! Builds the router's tasks in dependency order, says where they listen, and ends them in reverse.

use crate::config::Settings;
use crate::fleet_keeper::FleetHandle;
use crate::forward::agent_links::AgentLinks;
use crate::forward::blobs::Blobs;
use crate::forward::data_links::Gate;
use crate::forward::in_flight::InFlight;
use crate::forward::{Forward, ForwardParts, h2_links, quic_links};
use crate::grpc::fleet_service::FleetServiceParts;
use crate::grpc::operator_service::{OperatorParts, OperatorService};
use crate::grpc::{serve_agents, serve_operators};
use crate::http::Front;
use crate::journal::Journal;
use crate::ledger::{Ledger, LedgerError, LedgerHandle};
use crate::metrics::Metrics;
use crate::steward::wished::Wished;
use crate::steward::{self, StewardParts};
use mesh_core::id::MachineId;
use mesh_daemon::clock::{Clock, minute_of_day, unix_ms};
use mesh_daemon::complaint::{Complaint, exit};
use mesh_daemon::data_folder;
use mesh_daemon::port_holder::{Protocol, cannot_listen};
use mesh_proto::frame::alpn;
use mesh_proto::identity::tls::{self, ClientCertificate, ServerCertificate};
use mesh_proto::identity::{Authority, Credentials, IdentityError, LocalKey, Role};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the router keeps its own state below the data folder.
#[must_use]
pub fn router_folder(data: &Path) -> PathBuf {
    data.join("router")
}

/// Where the credentials of the operator on this machine are.
#[must_use]
pub fn operator_folder(data: &Path) -> PathBuf {
    data.join("operator")
}

/// A running router.
pub struct Router {
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where agents connect, TCP and UDP.
    pub agents: SocketAddr,
    /// Where operators connect.
    pub operators: SocketAddr,
    /// All machines and modes.
    pub fleet: FleetHandle,
    /// The ways to the agents; `modemesh up` adds its own.
    pub links: AgentLinks,
    /// Tokens and keys.
    pub ledger: LedgerHandle,
    /// What join tokens pin.
    pub pin: String,
    /// The data folder held no mesh: one was made.
    pub is_new: bool,
    /// Requests in flight.
    pub in_flight: InFlight,
    /// The model files that the machines have.
    pub blobs: Blobs,
    drained: CancellationToken,
    tasks: TaskTracker,
}

/// The mesh of a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// What join tokens pin.
    pub pin: String,
    /// It was not there before.
    pub is_new: bool,
}

/// Makes the data folder and the mesh's CA in it, or opens what is there.
///
/// # Errors
/// A complaint that names the folder or file.
pub fn init(data: &Path) -> Result<Founded, Complaint> {
    data_folder::create_private(data)?;
    let folder = router_folder(data);
    // Half a CA is an error of the next line.
    let is_new = !folder.join("ca.pem").exists();
    let authority = Authority::open_or_create(&folder).map_err(|error| identity(&error))?;
    Ok(Founded { pin: authority.pin().map_err(|error| identity(&error))?, is_new })
}

fn identity(error: &IdentityError) -> Complaint {
    Complaint::new("the router's identity is not usable")
        .cause(error)
        .hint("restore the router/ folder from a backup, or choose a new folder with --data (every machine must then join again)")
        .exit(exit::IDENTITY)
}

fn ledger_complaint(error: &LedgerError) -> Complaint {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    Complaint::new("the router's ledger cannot be opened").cause(text)
}

/// The sockets, bound before anything else so that a busy port ends the start at once.
struct Sockets {
    clients: TcpListener,
    agents: TcpListener,
    agents_udp: UdpSocket,
    operators: TcpListener,
}

impl Sockets {
    async fn bind(settings: &Settings) -> Result<Self, Complaint> {
        let clients = listen("clients", settings.clients, "--clients").await?;
        let operators = listen("operators", settings.operators, "--operators").await?;
        let (agents, agents_udp) = Self::pair(settings.agents).await?;
        Ok(Self { clients, agents, agents_udp, operators })
    }

    /// TCP and UDP on the same port; where the system chooses the port, one that is free for both.
    async fn pair(address: SocketAddr) -> Result<(TcpListener, UdpSocket), Complaint> {
        let mut tries = if address.port() == 0 { 16 } else { 1 };
        loop {
            let tcp = listen("agents", address, "--agents").await?;
            let same = tcp.local_addr().unwrap_or(address);
            match UdpSocket::bind(same) {
                Ok(udp) => return Ok((tcp, udp)),
                Err(error) if tries == 1 => {
                    return Err(cannot_listen("agents", same, Protocol::Udp, "--agents", &error));
                }
                Err(_) => tries -= 1,
            }
        }
    }
}

async fn listen(purpose: &str, address: SocketAddr, flag: &str) -> Result<TcpListener, Complaint> {
    TcpListener::bind(address)
        .await
        .map_err(|error| cannot_listen(purpose, address, Protocol::Tcp, flag, &error))
}

impl Router {
    /// Starts all tasks. They end when `stop` is cancelled; [`Router::stopped`] waits for that.
    ///
    /// # Errors
    /// A complaint about the data folder, the CA, the ledger or a busy port.
    pub async fn start(data: &Path, settings: Settings, stop: CancellationToken) -> Result<Self, Complaint> {
        let Founded { pin, is_new } = init(data)?;
        let authority = Arc::new(Authority::open(&router_folder(data)).map_err(|error| identity(&error))?);
        let sockets = Sockets::bind(&settings).await?;
        let ledger =
            Ledger::open(&router_folder(data).join("ledger.redb")).map_err(|e| ledger_complaint(&e))?;
        let address = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
        let clients = address(&sockets.clients, settings.clients);
        let agents = address(&sockets.agents, settings.agents);
        let operators = address(&sockets.operators, settings.operators);

        let papers = Papers {
            authority: authority.clone(),
            name: settings.name.clone(),
            life: settings.certificate_life,
            data: data.to_owned(),
            operators: local(operators),
        };
        let own = papers.issue().map_err(|error| identity(&error))?;
        let certificate = ServerCertificate::new(&own).map_err(|error| identity(&error))?;
        let server = |alpn: &[u8], clients| {
            tls::server(certificate.clone(), authority.certificate(), alpn, clients).map_err(|e| identity(&e))
        };
        let mut agents_tls = server(alpn::H2, ClientCertificate::Optional)?;
        // The data plane comes to this port too where UDP does not pass.
        agents_tls.alpn_protocols.extend([alpn::DATA_H2.to_vec(), alpn::FILES_H2.to_vec()]);
        let operators_tls = Arc::new(server(alpn::H2, ClientCertificate::Required)?);
        let data_tls = server(alpn::DATA, ClientCertificate::Required)?;

        let (clock, tasks) = (Clock::start(), TaskTracker::new());
        // Clients first: what their requests need goes on until the last of them has ended.
        let (front_stop, stop) = (stop, CancellationToken::new());
        let strategies = router_folder(data).join("strategies");
        let operator = ledger.wishes();
        let said = operator.borrow().clone();
        let wished = Wished::at_start(settings.modes.as_ref(), &settings.placement, &said, &strategies)?;
        let fleet =
            FleetHandle::start(wished.modes.clone(), settings.model_aliases.clone(), clock, stop.clone());
        let (links, in_flight, journal) = (AgentLinks::default(), InFlight::default(), Journal::start());
        let (settings, metrics) = (Arc::new(settings), Metrics::new());

        tasks.spawn(papers.keep(certificate, own, stop.clone()));
        let endpoint = quic_links::endpoint(sockets.agents_udp, data_tls)
            .map_err(|error| Complaint::new(format!("QUIC cannot start on {agents}")).cause(error))?;
        let blobs = Blobs::new(links.clone(), fleet.clone());
        let gate =
            Gate { links: links.clone(), fleet: fleet.clone(), ledger: ledger.clone(), blobs: blobs.clone() };
        tasks.spawn(quic_links::serve(endpoint, gate.clone(), stop.clone()));
        let (data, over_tcp) = h2_links::door();
        tasks.spawn(h2_links::serve(over_tcp, gate, stop.clone()));
        let parts = FleetServiceParts {
            fleet: fleet.clone(),
            links: links.clone(),
            ledger: ledger.clone(),
            authority,
            certificate_ttl: settings.certificate_life,
            unix_ms,
        };
        let agents_plane =
            serve_agents(sockets.agents, Arc::new(agents_tls), parts, Some(data), stop.clone());
        tasks.spawn(run_grpc("agents", agents_plane, front_stop.clone()));
        let forward = Forward::new(ForwardParts {
            fleet: fleet.clone(),
            links: links.clone(),
            in_flight: in_flight.clone(),
            journal: journal.clone(),
            metrics: metrics.clone(),
            settings: settings.clone(),
            clock,
        });
        let steward_parts = StewardParts {
            fleet: fleet.clone(),
            in_flight: in_flight.clone(),
            blobs: Some(blobs.clone()),
            operator,
            expected: ledger.node_names().await.map_err(|error| ledger_complaint(&error))?,
            wished,
            modes: settings.modes.clone(),
            placement: settings.placement.clone(),
            strategies: strategies.clone(),
            metrics,
            clock,
            minute_of_day,
        };
        let steward = steward::start(steward_parts, stop.clone());
        forward.loads.ask(steward.clone());
        let operator = OperatorService::new(OperatorParts {
            fleet: fleet.clone(),
            in_flight: in_flight.clone(),
            room: forward.room.clone(),
            journal,
            blobs: blobs.clone(),
            links: links.clone(),
            loads_on_demand: settings.load_on_demand,
            steward,
            strategies,
            ledger: ledger.clone(),
            pin: pin.clone(),
            name: settings.name.to_string(),
            client_url: format!("http://{}", local(clients)),
            agents_address: advertised(agents),
            config_source: settings.source.clone(),
            clock,
        });
        let operators_plane = serve_operators(sockets.operators, operators_tls, operator, stop.clone());
        tasks.spawn(run_grpc("operators", operators_plane, front_stop.clone()));
        tasks.spawn(forward.clone().keep(stop.clone()));
        let front = Front::new(forward, ledger.clone());
        let drained = stop.clone();
        tasks.spawn(async move {
            // Also if it panics: what waits for it would never end.
            let _drained = stop.drop_guard();
            front.serve(sockets.clients, front_stop).await;
        });
        tasks.close();
        Ok(Self {
            clients,
            agents,
            operators,
            fleet,
            links,
            ledger,
            pin,
            is_new,
            in_flight,
            blobs,
            drained,
            tasks,
        })
    }

    /// The base URL for clients on this machine.
    #[must_use]
    pub fn client_url(&self) -> String {
        format!("http://{}", local(self.clients))
    }

    /// Cancelled when no client is served any more: after the stop, and what still ran then has ended or was told.
    #[must_use]
    pub fn drained(&self) -> CancellationToken {
        self.drained.clone()
    }

    /// Waits until every task has ended, and closes the ledger.
    pub async fn stopped(self) {
        self.tasks.wait().await;
        self.ledger.close().await;
    }
}

/// A server that ends by itself takes the router down with it: half a router is worse than a restart.
async fn run_grpc(
    plane: &'static str,
    server: impl Future<Output = Result<(), crate::grpc::ServeError>>,
    stop: CancellationToken,
) {
    if let Err(error) = server.await {
        tracing::error!(plane, %error, "the gRPC server ended; stopping");
        stop.cancel();
    }
}

/// The address under which a program on this machine reaches a listener.
fn local(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let loopback = if address.is_ipv4() {
        std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST)
    } else {
        std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
    };
    SocketAddr::new(loopback, address.port())
}

/// The address for other machines, in a join command: the host's name where every address is listened on.
fn advertised(address: SocketAddr) -> String {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match hostname.trim() {
        name if address.ip().is_unspecified() && !name.is_empty() => format!("{name}:{}", address.port()),
        _ => address.to_string(),
    }
}

/// The router's own certificate and that of the operator on this machine: made at the start, and again at two
/// thirds of their life.
struct Papers {
    authority: Arc<Authority>,
    name: MachineId,
    life: Duration,
    data: PathBuf,
    operators: SocketAddr,
}

impl Papers {
    fn issue(&self) -> Result<Credentials, IdentityError> {
        let folder = operator_folder(&self.data);
        let key = LocalKey::create_or_load(&folder.join("key.pem"))?;
        let name = MachineId::new("local").expect("a constant that fits the grammar");
        let chain = self.authority.issue(&key.csr_der()?, Role::Operator, &name, self.life)?;
        key.with_chain(chain)?.save(&folder)?;
        let file = folder.join("address");
        data_folder::write_private(&file, self.operators.to_string().as_bytes())
            .map_err(|source| IdentityError::File { action: "writing", path: file, source })?;
        // The router's key lives in memory only: a restart makes a new one, and clients trust the CA.
        let key = LocalKey::create()?;
        key.with_chain(self.authority.issue(&key.csr_der()?, Role::Router, &self.name, self.life)?)
    }

    async fn keep(self, shown: Arc<ServerCertificate>, mut own: Credentials, stop: CancellationToken) {
        loop {
            let wait = own.renew_at().duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => return,
                // Not under a second, or a wrong clock would make a busy loop.
                () = tokio::time::sleep(wait.max(Duration::from_secs(1))) => {}
            }
            let renewed = self.issue().and_then(|fresh| shown.replace(&fresh).map(|()| fresh));
            match renewed {
                Ok(fresh) => {
                    tracing::info!("the router's certificate is renewed");
                    own = fresh;
                }
                Err(error) => {
                    tracing::error!(%error, "the router's certificate could not be renewed; trying again in a minute");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(60)) => {}
                    }
                }
            }
        }
    }
}
