//! Trading a token for a certificate: what is granted, and everything that is refused.

use crate::plane::{CERTIFICATE_TTL, Machine, Plane, join_request, wall_clock, within};
use mesh_core::id::MachineId;
use mesh_proto::identity::join::JoinError;
use mesh_proto::identity::{JoinToken, Peer, Role};
use mesh_proto::v1::JoinRequest;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Code;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Joins and returns the router's refusal.
async fn refused(plane: &Plane, token: &JoinToken, name: &str) -> String {
    match plane.join(token, name).await {
        Ok(_) => panic!("`{name}` got in"),
        Err(JoinError::Refused(why)) => why,
        Err(other) => panic!("it never came to the token: {other}"),
    }
}

#[tokio::test]
async fn a_machine_with_a_token_gets_a_certificate_for_its_name_and_role() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let machine = plane.join(&token, "MSI_Raider.local").await.expect("a good join");
    let credentials = machine.credentials();
    assert_eq!((credentials.peer().role, credentials.peer().name.as_str()), (Role::Node, "msi-raider"));
    let life = credentials.expires_at().duration_since(credentials.issued_at()).expect("in this order");
    assert!(life >= CERTIFICATE_TTL && life <= CERTIFICATE_TTL + Duration::from_secs(120), "{life:?}");

    let token = plane.token(Role::Operator, Some("ada")).await;
    let operator = plane.join(&token, "somebody").await.expect("a good join");
    let peer = operator.credentials().peer().clone();
    assert_eq!((peer.role, peer.name.as_str()), (Role::Operator, "ada"), "the token's record decides");
}

#[tokio::test]
async fn a_request_that_asks_for_more_gets_what_its_token_says() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, Some("strix")).await;
    let key = KeyPair::generate().expect("a key");
    let mut greedy = CertificateParams::new(vec!["router.modemesh.internal".into()]).expect("names");
    let uri = "spiffe://modemesh/operator/root".try_into().expect("a URI");
    greedy.subject_alt_names.push(SanType::URI(uri));
    greedy.distinguished_name.push(DnType::CommonName, "router-1");
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let csr_der = greedy.serialize_request(&key).expect("a request").der().to_vec().into();

    let request = JoinRequest {
        token_id: token.id.clone(),
        secret: token.secret.clone(),
        csr_der,
        proposed_name: "router".into(),
    };
    let certified = plane.raw_join(request).await.expect("a certificate, but not that one");
    assert_eq!((certified.role.as_str(), certified.name.as_str()), ("node", "strix"));
    assert_eq!(certified.valid_for_s, CERTIFICATE_TTL.as_secs());
    assert_eq!(certified.chain_der.len(), 2);
    let leaf = &certified.chain_der[0];
    let peer = Peer::from_der(leaf).expect("a mesh certificate");
    assert_eq!((peer.role, peer.name.as_str()), (Role::Node, "strix"));

    let (_, parsed) = X509Certificate::from_der(leaf).expect("a certificate");
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().to_string(), "CN=strix");
    let names =
        parsed.subject_alternative_name().expect("readable").expect("there").value.general_names.clone();
    assert!(
        matches!(names.as_slice(), [GeneralName::URI("spiffe://modemesh/node/strix")]),
        "no other name: {names:?}"
    );
    let usage = parsed.extended_key_usage().expect("readable").expect("there").value;
    assert!(usage.client_auth && !usage.server_auth, "a node's certificate serves nobody");
    let key_usage = parsed.key_usage().expect("readable").expect("there").value;
    assert!(key_usage.digital_signature() && !key_usage.key_cert_sign());
}

#[tokio::test]
async fn a_token_nobody_made_is_refused() {
    let plane = Plane::start().await;
    let token = JoinToken { id: "nosuchid".into(), ..plane.token(Role::Node, None).await };
    assert!(refused(&plane, &token, "strix").await.contains("knows no such token"));
}

#[tokio::test]
async fn a_token_is_good_for_one_machine_only() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    plane.join(&token, "strix").await.expect("the first");
    let why = refused(&plane, &token, "spark").await;
    assert!(why.contains("was used by `strix`"), "{why}");
}

#[tokio::test]
async fn an_expired_token_is_refused_and_told_since_when() {
    let plane = Plane::with_clock(|| wall_clock() + 3 * 3_600_000 + 60_000).await;
    let token = plane.token(Role::Node, None).await;
    let why = refused(&plane, &token, "strix").await;
    assert!(why.contains("expired 2 h ago"), "{why}");
}

#[tokio::test]
async fn a_revoked_token_is_refused() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    plane.ledger.revoke_token(&token.id, wall_clock()).await.expect("an open token");
    assert!(refused(&plane, &token, "strix").await.contains("was revoked"));
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_does_not_spend_the_token() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let other = plane.token(Role::Node, None).await;
    let mixed = JoinToken { secret: other.secret.clone(), ..token.clone() };
    assert!(refused(&plane, &mixed, "strix").await.contains("secret is wrong"));
    for secret in [String::new(), token.secret[..42].to_owned(), format!("{}A", token.secret)] {
        let request = JoinRequest { secret, ..join_request(&token, "strix") };
        let status = plane.raw_join(request).await.expect_err("not the secret");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    plane.join(&token, "strix").await.expect("still open");
}

#[tokio::test]
async fn a_name_that_is_no_machine_name_is_refused() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    for name in ["", "two words", "../ca", "node/strix", "-rf", "strïx", &"a".repeat(255)] {
        let why = refused(&plane, &token, name).await;
        assert!(why.contains("name is not allowed"), "{name:?}: {why}");
    }
    let status = plane.raw_join(join_request(&token, "a\nb")).await.expect_err("two lines");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    plane.join(&token, "strix").await.expect("bad names do not spend a token");
}

#[tokio::test]
async fn a_name_that_another_machine_has_is_refused_unless_the_token_is_for_it() {
    let plane = Plane::start().await;
    plane.node("strix").await;
    let token = plane.token(Role::Node, None).await;
    let why = refused(&plane, &token, "strix").await;
    assert!(why.contains("`strix` belongs to another machine"), "{why}");
    let status = plane.raw_join(join_request(&token, "Strix")).await.expect_err("the same name once cleaned");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    let bound = plane.token(Role::Node, Some("strix")).await;
    plane.join(&bound, "anything").await.expect("an operator said so");
}

#[tokio::test]
async fn a_token_cut_or_changed_in_copying_never_leaves_the_machine() {
    let plane = Plane::start().await;
    let text = plane.token(Role::Node, None).await.to_string();
    let parts: Vec<&str> = text.split('.').collect();
    for broken in [
        String::new(),
        "mesh1".into(),
        text[..text.len() - 1].into(),
        text[1..].into(),
        text.replace("mesh1", "mesh2"),
        format!("{text}.more"),
        [parts[0], parts[2], parts[3]].join("."),
        [parts[0], "AAAA", parts[2], parts[3]].join("."),
        [parts[0], parts[1], "a/b", parts[3]].join("."),
        text.replace('.', " "),
    ] {
        assert!(broken.parse::<JoinToken>().is_err(), "{broken:?}");
    }
}

#[tokio::test]
async fn oversized_and_malformed_requests_are_refused_before_the_token_is_touched() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let good = || join_request(&token, "strix");
    let mut forged = good().csr_der.to_vec();
    *forged.last_mut().expect("not empty") ^= 1;
    let long = "x".repeat(257);
    let cases = [
        ("no request", JoinRequest { csr_der: Vec::new().into(), ..good() }),
        ("no DER", JoinRequest { csr_der: b"hello".to_vec().into(), ..good() }),
        ("17 KiB", JoinRequest { csr_der: vec![0x30; 17 * 1024].into(), ..good() }),
        ("cut", JoinRequest { csr_der: good().csr_der.slice(..100), ..good() }),
        ("signature of nobody", JoinRequest { csr_der: forged.into(), ..good() }),
        ("long id", JoinRequest { token_id: long.clone(), ..good() }),
        ("long secret", JoinRequest { secret: long.clone(), ..good() }),
        ("long name", JoinRequest { proposed_name: long, ..good() }),
    ];
    for (case, request) in cases {
        let status = plane.raw_join(request).await.expect_err(case);
        assert_eq!(status.code(), Code::InvalidArgument, "{case}: {status}");
    }
    let huge = JoinRequest { csr_der: vec![0; 5 * 1024 * 1024].into(), ..good() };
    let status = plane.raw_join(huge).await.expect_err("over the message limit");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    plane.join(&token, "strix").await.expect("still open");
}

#[tokio::test]
async fn two_machines_that_race_with_one_token_make_one_node() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let (one, two) = tokio::join!(plane.join(&token, "one"), plane.join(&token, "two"));
    let (winner, loser): (Machine, JoinError) = match (one, two) {
        (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
        (Ok(_), Ok(_)) => panic!("both got in"),
        (Err(one), Err(two)) => panic!("nobody got in: {one}; {two}"),
    };
    let name = winner.credentials().peer().name.clone();
    assert!(loser.to_string().contains(&format!("was used by `{name}`")), "{loser}");
    let losing = MachineId::new(if name.as_str() == "one" { "two" } else { "one" }).expect("a valid name");
    assert!(!plane.ledger.node_key_matches(&losing, [0; 32]).await);
}

#[tokio::test]
async fn after_five_wrong_secrets_even_the_right_one_waits_out_the_minute() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    NOW.store(wall_clock(), Ordering::SeqCst);
    let plane = Plane::with_clock(|| NOW.load(Ordering::SeqCst)).await;
    let token = plane.token(Role::Node, None).await;
    let mut stranger = plane.stranger().await;
    for _ in 0..5 {
        let guess = JoinRequest { secret: "guess".into(), ..join_request(&token, "strix") };
        let status = within(stranger.join(guess)).await.expect_err("a guess");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    let why = refused(&plane, &token, "strix").await;
    assert!(why.contains("wait a minute"), "{why}");
    NOW.fetch_add(60_001, Ordering::SeqCst);
    plane.join(&token, "strix").await.expect("the minute is over");
}

#[tokio::test]
async fn a_flood_of_guesses_at_once_gets_five_tries_and_no_more() {
    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let stranger = plane.stranger().await;
    let guesses = (0..14).map(|_| {
        let mut stranger = stranger.clone();
        let guess = JoinRequest { secret: "guess".into(), ..join_request(&token, "strix") };
        tokio::spawn(async move { within(stranger.join(guess)).await.expect_err("a guess").code() })
    });
    let mut tried = 0;
    for guess in guesses.collect::<Vec<_>>() {
        tried += usize::from(guess.await.expect("no panic") == Code::PermissionDenied);
    }
    assert_eq!(tried, 5);
}
