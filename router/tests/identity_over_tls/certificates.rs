//! Certificates in use: who may attach and renew, and with what.

use crate::plane::{
    Attached, Plane, another_authority, channel, client_showing, credentials_of, hello, is_refusal_of_tls,
    stolen_ca, within,
};
use mesh_proto::identity::connect;
use mesh_proto::identity::join::renew;
use mesh_proto::identity::{LocalKey, Role};
use mesh_proto::v1::RenewRequest;
use mesh_proto::v1::fleet_client::FleetClient;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use tonic::Code;
use tonic::transport::Channel;

/// What a call says that needs a node's certificate, by any client. A client that TLS refuses gets no code of
/// ours: with TLS 1.3 it learns of the refusal at its first call.
async fn attach_refusal(client: Result<FleetClient<Channel>, String>) -> Code {
    let Ok(mut client) = client else { return Code::Unknown };
    let mut attached = match Attached::open(&mut client).await {
        Err(status) => return status.code(),
        Ok(attached) => attached,
    };
    // Whether the stream still takes it is not the question.
    let _sent = attached.up.try_send(mesh_proto::v1::AgentMessage { kind: Some(hello(1, "boot")) });
    match attached.next().await {
        Err(status) => status.code(),
        Ok(message) => panic!("it was let in: {message:?}"),
    }
}

fn assert_refused_by_tls(code: Code) {
    assert!(is_refusal_of_tls(code), "{code:?} is no refusal of TLS");
}

#[tokio::test]
async fn a_joined_node_attaches_and_is_seen_under_its_certificates_name() {
    let plane = Plane::start().await;
    let node = plane.node("strix").await;
    let mut client = plane.known(&node.credentials()).await.expect("TLS");
    let _attached = Attached::greet(&mut client, "boot").await.expect("a welcome");
    let mut snapshots = plane.fleet.snapshots();
    let there =
        within(snapshots.wait_for(|seen| seen.view.machine(&"strix".parse().expect("a name")).is_some()))
            .await;
    assert!(there.is_ok(), "the keeper lives");
}

#[tokio::test]
async fn without_a_certificate_nobody_attaches_or_renews() {
    let plane = Plane::start().await;
    assert_eq!(attach_refusal(Ok(plane.stranger().await)).await, Code::Unauthenticated);
    let request =
        RenewRequest { csr_der: LocalKey::create().and_then(|key| key.csr_der()).expect("a request").into() };
    let status = within(plane.stranger().await.renew(request)).await.expect_err("no certificate");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn an_operators_certificate_is_no_nodes() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Operator, None).await;
    let operator = plane.join(&token, "ada").await.expect("a good join").credentials();
    assert_eq!(attach_refusal(plane.known(&operator).await).await, Code::PermissionDenied);
    let request =
        RenewRequest { csr_der: LocalKey::create().and_then(|key| key.csr_der()).expect("a request").into() };
    let mut client = plane.known(&operator).await.expect("TLS");
    let status = within(client.renew(request)).await.expect_err("an operator");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("operator `ada`"), "{status}");
}

#[tokio::test]
async fn a_certificate_of_our_ca_for_a_node_that_never_joined_is_refused() {
    let plane = Plane::start().await;
    let forged = plane.forge(Role::Node, "ghost");
    assert_eq!(attach_refusal(plane.known(&forged).await).await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_of_another_mesh_is_refused() {
    let plane = Plane::start().await;
    plane.node("strix").await;
    let (_folder, other) = another_authority();
    let theirs = credentials_of(&other, Role::Node, "strix");
    let key = KeyPair::try_from(theirs.key.secret_der()).expect("the same key");
    let config = client_showing(&plane.authority, theirs.chain.clone(), &key);
    let client = channel(&plane.address, config).await.map(FleetClient::new);
    assert_refused_by_tls(attach_refusal(client).await);
}

#[tokio::test]
async fn a_self_signed_certificate_with_the_right_names_is_refused() {
    let plane = Plane::start().await;
    plane.node("strix").await;
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI("spiffe://modemesh/node/strix".try_into().expect("a URI")));
    let own = params.self_signed(&key).expect("a certificate").der().clone();
    let client = channel(&plane.address, client_showing(&plane.authority, vec![own], &key)).await;
    assert_refused_by_tls(attach_refusal(client.map(FleetClient::new)).await);
}

/// A client certificate for `key` with these URI names, valid for an hour around `middle`, signed with the
/// mesh's own CA key, which no router would use like this.
fn odd_leaf(plane: &Plane, key: &KeyPair, uris: &[&str], middle: SystemTime) -> CertificateDer<'static> {
    const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);
    let mut params = CertificateParams::default();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("a URI")));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (middle - HALF_AN_HOUR).into();
    params.not_after = (middle + HALF_AN_HOUR).into();
    params.signed_by(key, &stolen_ca(plane.folder.path())).expect("a certificate").der().clone()
}

#[tokio::test]
async fn a_certificate_before_or_after_its_time_or_with_odd_names_is_refused() {
    let plane = Plane::start().await;
    let node = plane.node("strix").await;
    let key = std::fs::read_to_string(node.path().join("key.pem")).expect("the node's key");
    let key = KeyPair::from_pem(&key).expect("a PEM key");
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let strix = "spiffe://modemesh/node/strix";
    let client = async |uris: &[&str], middle| {
        let leaf = odd_leaf(&plane, &key, uris, middle);
        let chain = vec![leaf, plane.authority.certificate().clone()];
        channel(&plane.address, client_showing(&plane.authority, chain, &key)).await.map(FleetClient::new)
    };

    let mut good = client(&[strix], now).await.expect("TLS");
    Attached::greet(&mut good, "boot").await.expect("this way of making certificates works");

    let cases: [(&str, &[&str], SystemTime); 8] = [
        ("expired", &[strix], now - day),
        ("not yet valid", &[strix], now + day),
        ("no name", &[], now),
        ("two names", &[strix, "spiffe://modemesh/operator/ada"], now),
        ("another trust domain", &["spiffe://elsewhere/node/strix"], now),
        ("unknown role", &["spiffe://modemesh/admin/strix"], now),
        ("a path for a name", &["spiffe://modemesh/node/strix/x"], now),
        ("a router's role", &["spiffe://modemesh/router/strix"], now),
    ];
    for (case, uris, middle) in cases {
        let code = attach_refusal(client(uris, middle).await).await;
        assert!(
            is_refusal_of_tls(code) || matches!(code, Code::Unauthenticated | Code::PermissionDenied),
            "{case}: {code:?}"
        );
    }
}

#[tokio::test]
async fn a_renewed_certificate_keeps_name_role_and_key_and_works() {
    let plane = Plane::start().await;
    let node = plane.node("strix").await;
    let before = node.credentials();
    let dialled = connect::channel(&plane.address, &before).await.expect("TLS");
    let after = renew(dialled, node.path()).await.expect("a renewal");
    assert_eq!(before.peer(), after.peer());
    assert_ne!(before.chain[0], after.chain[0], "it is a new certificate");
    assert!(after.expires_at() >= before.expires_at());
    for credentials in [node.credentials(), before] {
        let mut client = plane.known(&credentials).await.expect("TLS");
        Attached::greet(&mut client, "boot").await.expect("both work until they end");
    }
}

#[tokio::test]
async fn a_renewal_for_another_key_is_refused() {
    let plane = Plane::start().await;
    let node = plane.node("strix").await.credentials();
    let mut client = plane.known(&node).await.expect("TLS");
    let csr_der = LocalKey::create().and_then(|key| key.csr_der()).expect("a request");
    let status =
        within(client.renew(RenewRequest { csr_der: csr_der.into() })).await.expect_err("another key");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("a renewal keeps its key"), "{status}");
    for bad in [vec![], vec![0; 17 * 1024]] {
        let status =
            within(client.renew(RenewRequest { csr_der: bad.into() })).await.expect_err("no request");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn a_replaced_key_is_refused_everywhere_and_the_new_one_works() {
    let plane = Plane::start().await;
    let stolen = plane.node("strix").await;
    let token = plane.token(Role::Node, Some("strix")).await;
    let fresh = plane.join(&token, "strix").await.expect("a replacement");

    assert_eq!(attach_refusal(plane.known(&stolen.credentials()).await).await, Code::PermissionDenied);
    let dialled = connect::channel(&plane.address, &stolen.credentials()).await.expect("TLS");
    let refusal = renew(dialled, stolen.path()).await.expect_err("replaced");
    assert!(refusal.to_string().contains("not joined with this key"), "{refusal}");

    let mut client = plane.known(&fresh.credentials()).await.expect("TLS");
    Attached::greet(&mut client, "boot").await.expect("the new key");
}

#[tokio::test]
async fn a_router_certificate_cannot_even_be_shown_by_a_client() {
    let plane = Plane::start().await;
    let router = plane.forge(Role::Router, "router-2");
    // It is for servers only, so TLS itself refuses it before any role is looked at.
    assert_refused_by_tls(attach_refusal(plane.known(&router).await).await);
}
