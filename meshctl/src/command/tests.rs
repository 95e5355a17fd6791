//! The verbs against a scripted router: a real operator plane (gRPC over the mesh's TLS) on loopback.

mod bench;
mod bench_form;
mod climbs;
mod clock_jumps;
mod desk;
mod evals;
mod fit;
mod haste;
mod replies;
mod reports;
mod steering;
mod stresses;
mod validations;

use super::*;
use crate::cli::Format;
use desk::Desk;
use futures_util::{StreamExt as _, stream};
use mesh_core::id::MachineId;
use mesh_proto::frame::alpn;
use mesh_proto::identity::{Authority, Credentials, LocalKey, Role, tls};
use mesh_proto::v1::operator_server::{Operator, OperatorServer};
use mesh_proto::v1::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

/// Answers with what the test has put into `mesh`.
#[derive(Clone)]
struct Scripted {
    mesh: watch::Sender<StatusReply>,
    /// What a directive makes of the model.
    becomes: &'static str,
    /// The machines, and the shape of their one model.
    machines: Vec<MachineReport>,
    /// What the machine says of the model in place of following a directive.
    refuses: Option<&'static str>,
    directed: Arc<AtomicBool>,
    shape: Option<String>,
    asked: Arc<Notify>,
    /// What it plans and wishes.
    desk: watch::Sender<Desk>,
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Operator for Scripted {
    async fn status(&self, _: Request<StatusRequest>) -> Reply<StatusReply> {
        self.asked.notify_one();
        if let Some(bench) = &self.desk.borrow().bench {
            return Ok(Response::new(bench.status()));
        }
        Ok(Response::new(self.mesh.borrow().clone()))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Reply<ExplainReply> {
        let request_id = request.into_inner().request_id;
        Err(Status::not_found(format!("no request `{request_id}` in the journal")))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Reply<CreateTokenReply> {
        let request = request.into_inner();
        let token = format!("mesh1.{}.{}.{}", request.role, request.ttl_s, request.name);
        Ok(Response::new(CreateTokenReply { token, ..CreateTokenReply::default() }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Reply<ListTokensReply> {
        Err(Status::permission_denied("this certificate is a node's"))
    }

    async fn revoke_token(&self, _: Request<RevokeRequest>) -> Reply<RevokeReply> {
        Ok(Response::new(RevokeReply {}))
    }

    async fn create_key(&self, _: Request<CreateKeyRequest>) -> Reply<CreateKeyReply> {
        Ok(Response::new(CreateKeyReply::default()))
    }

    async fn list_keys(&self, _: Request<ListKeysRequest>) -> Reply<ListKeysReply> {
        Ok(Response::new(ListKeysReply::default()))
    }

    async fn revoke_key(&self, _: Request<RevokeRequest>) -> Reply<RevokeReply> {
        Err(Status::invalid_argument("`a` begins more than one id"))
    }

    async fn direct(&self, request: Request<DirectRequest>) -> Reply<DirectReply> {
        // Nothing may be borrowed while it is changed.
        let keeps = self.desk.borrow().bench.as_ref().map(|bench| bench.keeps);
        if let Some(keeps) = keeps {
            if request.get_ref().action == "delete" && keeps == Some(request.get_ref().model.as_str()) {
                return Err(Status::failed_precondition("node `msi`: the file is in use"));
            }
            self.desk.send_modify(|desk| desk.direct(request.get_ref()));
            return Ok(Response::new(DirectReply {}));
        }
        self.directed.store(true, Ordering::Relaxed);
        self.mesh.send_modify(|mesh| mesh.nodes[0].engines[0].replicas[0].state = self.becomes.into());
        Ok(Response::new(DirectReply {}))
    }

    async fn machines(&self, _: Request<MachinesRequest>) -> Reply<MachinesReply> {
        if let Some(bench) = &self.desk.borrow().bench {
            return Ok(Response::new(MachinesReply { machines: vec![bench.machine()] }));
        }
        let mut machines = self.machines.clone();
        if let Some(reason) = self.refuses.filter(|_| self.directed.load(Ordering::Relaxed)) {
            let refusal = StoreRefusal { model: "qwen3:4b".into(), reason: reason.into(), at_ms: 7 };
            let report = machines[0].report.get_or_insert_default();
            report.store.get_or_insert_default().refusals.push(refusal);
        }
        Ok(Response::new(MachinesReply { machines }))
    }

    async fn model_shape(&self, _: Request<ModelShapeRequest>) -> Reply<ModelShapeReply> {
        let shape_json = self.shape.clone().ok_or_else(|| Status::not_found("no machine has it"))?;
        Ok(Response::new(ModelShapeReply { shape_json }))
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Reply<PlanReply> {
        self.desk.borrow().plan(request.get_ref()).map(Response::new)
    }

    async fn apply_plan(&self, request: Request<PlanRequest>) -> Reply<PlanReply> {
        self.desk.send_modify(|desk| desk.apply(request.get_ref()));
        // What holds now, whatever was asked for.
        self.desk.borrow().plan(&PlanRequest::default()).map(Response::new)
    }

    async fn set_node(&self, request: Request<SetNodeRequest>) -> Reply<SetNodeReply> {
        let mut before = "";
        self.desk.send_modify(|desk| before = desk.set_node(request.get_ref()));
        Ok(Response::new(SetNodeReply { before: before.into() }))
    }

    async fn pin_model(&self, request: Request<PinModelRequest>) -> Reply<PinModelReply> {
        let mut was_so = false;
        self.desk.send_modify(|desk| was_so = desk.pin(request.get_ref()));
        Ok(Response::new(PinModelReply { was_so }))
    }

    async fn set_mode(&self, request: Request<SetModeRequest>) -> Reply<SetModeReply> {
        let mut reply = Err(Status::unknown("not asked"));
        self.desk.send_modify(|desk| reply = desk.set_mode(request.into_inner()));
        reply.map(Response::new)
    }

    type TrialStream = futures_util::stream::BoxStream<'static, Result<TrialEvent, Status>>;

    async fn trial(&self, request: Request<TrialRequest>) -> Reply<Self::TrialStream> {
        let mut reply = Err(Status::unknown("not asked"));
        self.desk.send_modify(|desk| reply = desk.trial(request.get_ref()));
        let (lines, ends) = reply?;
        let lines = stream::iter(lines.into_iter().map(Ok));
        Ok(Response::new(if ends { lines.boxed() } else { lines.chain(stream::pending()).boxed() }))
    }

    async fn wishes(&self, _: Request<WishesRequest>) -> Reply<WishesReply> {
        Ok(Response::new(self.desk.borrow().wishes()))
    }
}

struct Router {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    time: JoinHandle<()>,
}

impl Router {
    async fn start(data: &tempfile::TempDir, at: &str, service: Scripted) -> Self {
        let authority = Authority::open_or_create(&data.path().join("router")).expect("an authority");
        let folder = data.path().join("operator");
        // A router that starts again renews nothing that is still good.
        if !folder.join("key.pem").exists() {
            issued(&authority, Role::Operator).save(&folder).expect("writable");
        }
        let shown = tls::ServerCertificate::new(&issued(&authority, Role::Router)).expect("a pair");
        let required = tls::ClientCertificate::Required;
        let config =
            tls::server(shown, authority.certificate(), alpn::H2, required).expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(at).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let incoming = stream::unfold((listener, acceptor), |(listener, acceptor)| async {
            let (tcp, _) = listener.accept().await.ok()?;
            // As the router's own, or each answer waits 40 ms for an acknowledgement.
            tcp.set_nodelay(true).ok()?;
            Some((acceptor.accept(tcp).await, (listener, acceptor)))
        });
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(OperatorServer::new(service));
            server
                .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) })
                .await
                .expect("serves");
        });
        Self { address, stop, serving, time: haste::hurry() }
    }

    async fn stop(self) {
        self.stop.send(()).expect("still serving");
        self.serving.await.expect("no panic");
        self.time.abort();
    }
}

fn issued(authority: &Authority, role: Role) -> Credentials {
    let key = LocalKey::create().expect("randomness");
    let name = MachineId::new("me").expect("a name");
    let csr = key.csr_der().expect("a request");
    let chain = authority.issue(&csr, role, &name, Duration::from_secs(600)).expect("a certificate");
    key.with_chain(chain).expect("leaf and CA")
}

fn scripted(state: &str, becomes: &'static str) -> Scripted {
    let replica = ReplicaStatus {
        model: "qwen3:4b".into(),
        state: state.into(),
        failure: "not enough memory".into(),
        ..ReplicaStatus::default()
    };
    let engine = EngineStatus { replicas: vec![replica], ..EngineStatus::default() };
    let node = NodeStatus {
        name: "msi".into(),
        state: "ready".into(),
        engines: vec![engine],
        ..NodeStatus::default()
    };
    let (mesh, _) = watch::channel(StatusReply { nodes: vec![node], ..StatusReply::default() });
    Scripted {
        mesh,
        becomes,
        machines: vec![],
        refuses: None,
        directed: Arc::default(),
        shape: None,
        asked: Arc::new(Notify::new()),
        desk: watch::channel(Desk::default()).0,
    }
}

/// Runs one command line against a fresh router.
async fn typed(line: &str, service: Scripted) -> Result<(), Failure> {
    let data = prepared();
    let router = Router::start(&data, "127.0.0.1:0", service).await;
    let ended = perform_line(line, &way(&data, router.address)).await;
    router.stop().await;
    ended
}

fn prepared() -> tempfile::TempDir {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tempfile::tempdir().expect("a temporary folder")
}

fn way(data: &tempfile::TempDir, router: SocketAddr) -> Way {
    Way { data: data.path().into(), router: Some(router.to_string()), timeout: Some(Duration::from_secs(10)) }
}

/// Types a line where no router listens, and prints as it says.
async fn typed_at_home(data: &tempfile::TempDir, line: &str) -> Result<(), Failure> {
    let cli = Cli::typed(line.split(' ').map(std::ffi::OsString::from)).expect("a valid line");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    perform(cli.command, &way(data, nowhere), &Screen::plain(cli.globals.format())).await
}

async fn perform_line(line: &str, way: &Way) -> Result<(), Failure> {
    let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
    let way = Way { timeout: cli.globals.timeout.or(way.timeout), ..way.clone() };
    perform(cli.command, &way, &Screen::plain(Format::Json)).await
}

#[tokio::test(start_paused = true)]
async fn load_and_unload_wait_for_the_report() {
    for (line, before, after) in [
        ("meshctl model load qwen3:4b --node msi", "available", "loaded"),
        ("meshctl model unload qwen3:4b --node msi", "loaded", "available"),
        ("meshctl model load qwen3:4b --node msi", "loaded", "failed: nobody is asked, it is there already"),
        ("meshctl model load qwen3:4b --node msi --no-wait", "available", "available"),
    ] {
        assert_eq!(typed(line, scripted(before, after)).await, Ok(()), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_names_a_cache_is_over_as_soon_as_the_model_is_there() {
    let line = "meshctl model load qwen3:4b --node msi --cache-type q8_0 --timeout 1m";
    let begun = Instant::now();
    assert_eq!(typed(line, scripted("available", "loaded")).await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // No report tells the cache of what was there: only time can.
    let begun = Instant::now();
    assert_eq!(typed(line, scripted("loaded", "loaded")).await, Ok(()));
    assert!(begun.elapsed() > model::STALE_FAILURE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_loaded_tells_why() {
    let failure = typed("meshctl model load qwen3:4b --node msi", scripted("available", "failed")).await;
    let failure = failure.expect_err("it failed");
    assert_eq!((failure.kind, failure.cause.as_deref()), (Kind::Failed, Some("not enough memory")));
}

/// A machine that has the model on its disk and follows no wish about it.
fn refusing(state: &str, reason: &'static str) -> Scripted {
    let served_as = Some("qwen".into());
    let stored = StoredModel { model: "qwen3:4b".into(), served_as, ..StoredModel::default() };
    let store = Store { models: vec![stored], ..Store::default() };
    let report = Report { store: Some(store), ..Report::default() };
    let machine = MachineReport { node: "msi".into(), report: Some(report), ..MachineReport::default() };
    let becomes = if state == "loaded" { "loaded" } else { "available" };
    Scripted { machines: vec![machine], refuses: Some(reason), ..scripted(state, becomes) }
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_the_machine_refuses_ends_with_its_reason_and_not_by_waiting() {
    for (line, state, reason, kind) in [
        (
            "meshctl model rm qwen3:4b --node msi",
            "available",
            "not deleted: an engine needs it",
            Kind::Failed,
        ),
        (
            // As clients call it.
            "meshctl model rm qwen --node msi",
            "available",
            "not deleted: an engine needs it",
            Kind::Failed,
        ),
        (
            "meshctl model pull qwen3:4b --node msi --url http://127.0.0.1/x --sha256 0000000000000000000000000000000000000000000000000000000000000000",
            "available",
            "not fetched: too many",
            Kind::Failed,
        ),
        (
            "meshctl model load qwen3:4b --node msi --cache-type q8_0",
            "loaded",
            "stays as it is loaded: does not fit: needs 1 GiB",
            Kind::DoesNotFit,
        ),
        (
            "meshctl model load qwen3:4b --node msi",
            "available",
            "not loaded: it cannot be told to",
            Kind::Failed,
        ),
    ] {
        let failure = typed(line, refusing(state, reason)).await.expect_err(line);
        assert_eq!((failure.kind, failure.cause.as_deref()), (kind, Some(reason)), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_quotes_the_sizes_that_were_asked_for() {
    let line = "meshctl model load qwen3:4b --node msi --context 4294967295 --slots 2";
    let failure = typed(line, scripted("available", "failed")).await.expect_err("it failed");
    assert_eq!(failure.what, "msi did not load qwen3:4b with a context of 4294967295 tokens and 2 slots");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_time_limit() {
    let line = "meshctl model load qwen3:4b --node msi --timeout 1s";
    let failure = typed(line, scripted("available", "loading")).await.expect_err("it never loads");
    assert_eq!(failure.kind, Kind::TimedOut);
    assert_eq!(failure.cause.as_deref(), Some("it is loading there; the machine is ready"));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_not_over_in_time_tells_how_far_it_is_or_why_it_failed() {
    for (state, failure, cause) in [
        ("running", "", "running from http://127.0.0.1/x: 1 GiB of 4 GiB, 25 %"),
        ("failed", "connection refused", "connection refused"),
    ] {
        let transfer = Transfer {
            model: "qwen3:8b".into(),
            kind: "download".into(),
            source: "http://127.0.0.1/x".into(),
            state: state.into(),
            failure: failure.into(),
            done: 1 << 30,
            total: Some(4 << 30),
            rate: None,
        };
        let store = Store { transfers: vec![transfer], ..Store::default() };
        let report = Report { store: Some(store), ..Report::default() };
        let machine = MachineReport { node: "msi".into(), report: Some(report), ..MachineReport::default() };
        let service = Scripted { machines: vec![machine], ..scripted("available", "available") };
        let line = "meshctl model pull qwen3:8b --node msi --url http://127.0.0.1/x --timeout 1s";
        let told = typed(line, service).await.expect_err("it is not there");
        assert_eq!((told.kind, told.cause.as_deref()), (Kind::TimedOut, Some(cause)));
    }
}

#[tokio::test(start_paused = true)]
async fn each_refusal_of_the_router_has_its_kind() {
    for (line, kind) in [
        ("meshctl model load qwen3:4b --node msj", Kind::NotFound),
        ("meshctl explain r1", Kind::NotFound),
        ("meshctl token list", Kind::Refused),
        ("meshctl key revoke a", Kind::Usage),
    ] {
        let failure = typed(line, scripted("loaded", "loaded")).await.expect_err(line);
        assert_eq!(failure.kind, kind, "{line}: {failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_verbs_succeed() {
    for line in [
        "meshctl status --check",
        "meshctl token create --role node --ttl 1h --name msi",
        "meshctl token revoke a",
        "meshctl key create zed",
        "meshctl key list",
    ] {
        assert_eq!(typed(line, scripted("loaded", "loaded")).await, Ok(()), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_a_restart_of_the_router() {
    let data = prepared();
    let service = scripted("loaded", "loaded");
    let asked = service.asked.clone();
    let router = Router::start(&data, "127.0.0.1:0", service.clone()).await;
    let address = router.address;
    let script = async {
        asked.notified().await;
        router.stop().await;
        let again = Router::start(&data, &address.to_string(), service).await;
        asked.notified().await;
        asked.notified().await;
        again
    };
    let way = way(&data, address);
    let again = tokio::select! {
        ended = perform_line("meshctl status --watch=1", &way) => panic!("a watch has no end: {ended:?}"),
        again = script => again,
    };
    again.stop().await;
}
