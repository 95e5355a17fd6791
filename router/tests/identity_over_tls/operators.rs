//! The operators' plane: every call of it, known or not, needs an operator's certificate.

use crate::plane::{
    Plane, another_authority, channel, credentials_of, is_refusal_of_tls, server_config, within,
};
use mesh_proto::frame::alpn;
use mesh_proto::identity::tls::{self, ClientCertificate};
use mesh_proto::identity::{Credentials, Peer, Role};
use mesh_proto::v1::operator_client::OperatorClient;
use mesh_proto::v1::operator_server::Operator;
use mesh_proto::v1::{
    CreateKeyReply, CreateKeyRequest, CreateTokenReply, CreateTokenRequest, DirectReply, DirectRequest,
    ExplainReply, ExplainRequest, ListKeysReply, ListKeysRequest, ListTokensReply, ListTokensRequest,
    MachinesReply, MachinesRequest, ModelShapeReply, ModelShapeRequest, PinModelReply, PinModelRequest,
    PlanReply, PlanRequest, RevokeReply, RevokeRequest, RouterStatus, SetModeReply, SetModeRequest,
    SetNodeReply, SetNodeRequest, StatusReply, StatusRequest, TrialEvent, TrialRequest, WishesReply,
    WishesRequest,
};
use router::grpc::serve_operators;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// Answers everything with nothing, and Status with the caller's name.
struct Anything;

macro_rules! answers {
    ($($call:ident($request:ty) -> $reply:ty),*) => {
        #[tonic::async_trait]
        impl Operator for Anything {
            async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
                let caller = request.extensions().get::<Peer>().map(|peer| peer.name.to_string());
                let router = RouterStatus { name: caller.unwrap_or_default(), ..RouterStatus::default() };
                Ok(Response::new(StatusReply { router: Some(router), ..StatusReply::default() }))
            }
            type TrialStream = futures_util::stream::Empty<Result<TrialEvent, Status>>;

            async fn trial(&self, _: Request<TrialRequest>) -> Result<Response<Self::TrialStream>, Status> {
                Ok(Response::new(futures_util::stream::empty()))
            }

            $(async fn $call(&self, _: Request<$request>) -> Result<Response<$reply>, Status> {
                Ok(Response::new(<$reply>::default()))
            })*
        }

        /// The codes of all calls but Status, by name.
        async fn codes(client: &mut OperatorClient<Channel>) -> Vec<(&'static str, Code)> {
            let mut codes = Vec::new();
            let tried = within(client.trial(TrialRequest::default())).await;
            codes.push(("trial", tried.map_or_else(|status| status.code(), |_| Code::Ok)));
            $({
                let called = within(client.$call(<$request>::default())).await;
                codes.push((stringify!($call), called.map_or_else(|status| status.code(), |_| Code::Ok)));
            })*
            codes
        }
    };
}

answers!(
    explain(ExplainRequest) -> ExplainReply,
    create_token(CreateTokenRequest) -> CreateTokenReply,
    list_tokens(ListTokensRequest) -> ListTokensReply,
    revoke_token(RevokeRequest) -> RevokeReply,
    create_key(CreateKeyRequest) -> CreateKeyReply,
    list_keys(ListKeysRequest) -> ListKeysReply,
    revoke_key(RevokeRequest) -> RevokeReply,
    direct(DirectRequest) -> DirectReply,
    machines(MachinesRequest) -> MachinesReply,
    model_shape(ModelShapeRequest) -> ModelShapeReply,
    plan(PlanRequest) -> PlanReply,
    apply_plan(PlanRequest) -> PlanReply,
    set_node(SetNodeRequest) -> SetNodeReply,
    pin_model(PinModelRequest) -> PinModelReply,
    set_mode(SetModeRequest) -> SetModeReply,
    wishes(WishesRequest) -> WishesReply
);

async fn start(plane: &Plane) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let config = server_config(&plane.authority, ClientCertificate::Required);
    tokio::spawn(serve_operators(listener, config, Anything, plane.stop.clone()));
    address
}

async fn client(address: &str, credentials: &Credentials) -> Result<OperatorClient<Channel>, String> {
    let config = tls::client(credentials, alpn::H2).expect("a configuration");
    channel(address, config).await.map(OperatorClient::new)
}

#[tokio::test]
async fn an_operator_may_call_and_is_known_by_name() {
    let plane = Plane::start().await;
    let address = start(&plane).await;
    let token = plane.token(Role::Operator, None).await;
    let ada = plane.join(&token, "ada").await.expect("a good join").credentials();
    let mut client = client(&address, &ada).await.expect("TLS");
    let status = within(client.status(StatusRequest {})).await.expect("an operator").into_inner();
    assert_eq!(status.router.map(|router| router.name).as_deref(), Some("ada"));
    for (call, code) in codes(&mut client).await {
        assert_eq!(code, Code::Ok, "{call}");
    }
}

#[tokio::test]
async fn a_nodes_certificate_opens_no_operators_call() {
    let plane = Plane::start().await;
    let address = start(&plane).await;
    let node = plane.node("strix").await.credentials();
    let mut client = client(&address, &node).await.expect("TLS: it is of this mesh");
    let status = within(client.status(StatusRequest {})).await.expect_err("a node");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("this one is of node `strix`"), "{status}");
    for (call, code) in codes(&mut client).await {
        assert_eq!(code, Code::PermissionDenied, "{call}");
    }
}

#[tokio::test]
async fn without_a_certificate_of_this_mesh_there_is_no_call_at_all() {
    let plane = Plane::start().await;
    let address = start(&plane).await;
    let pin = plane.token(Role::Operator, None).await.pin_bytes().expect("a good pin");
    let nameless = channel(&address, tls::pinned_client(pin, alpn::H2).expect("a configuration")).await;
    let (_folder, other) = another_authority();
    let stranger = credentials_of(&other, Role::Operator, "ada");
    let key = rcgen::KeyPair::try_from(stranger.key.secret_der()).expect("the same key");
    let config = crate::plane::client_showing(&plane.authority, stranger.chain.clone(), &key);
    let foreign = channel(&address, config).await;
    for opened in [nameless, foreign] {
        // With TLS 1.3 a client learns of the refusal when it first reads.
        let Ok(channel) = opened else { continue };
        let status =
            within(OperatorClient::new(channel).status(StatusRequest {})).await.expect_err("no operator");
        assert!(is_refusal_of_tls(status.code()), "{status:?}");
    }
}

#[tokio::test]
async fn the_plane_ends_when_it_is_told_to() {
    let plane = Plane::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let config = server_config(&plane.authority, ClientCertificate::Required);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_operators(listener, config, Anything, stop.clone()));
    stop.cancel();
    within(serving).await.expect("no panic").expect("a clean end");
}
