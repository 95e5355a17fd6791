//! The audit log: every join and every refusal is in it, and no secret ever is, at any level of any crate.

#[expect(dead_code, reason = "this test needs few of the plane's tools")]
#[path = "identity_over_tls/plane.rs"]
mod plane;

use mesh_proto::identity::{JoinToken, Role};
use mesh_proto::v1::JoinRequest;
use plane::{Attached, Plane, join_request};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic while logging")).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while logging").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn joins_and_refusals_are_logged_and_secrets_are_not() {
    let log = Log::default();
    let everything = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(everything).expect("the only subscriber of this process");

    let plane = Plane::start().await;
    let token = plane.token(Role::Node, None).await;
    let guessed = JoinToken { secret: token.secret.chars().rev().collect(), ..token.clone() };
    assert!(plane.join(&guessed, "strix").await.is_err());
    let machine = plane.join(&token, "strix").await.expect("a good join");
    assert!(plane.join(&token, "spark").await.is_err());
    let forged_id = JoinRequest { token_id: "x\u{1b}[2J".into(), ..join_request(&token, "strix") };
    plane.raw_join(forged_id).await.expect_err("control characters");
    let mut client = plane.known(&machine.credentials()).await.expect("TLS");
    let _attached = Attached::greet(&mut client, "boot").await.expect("a welcome");
    assert!(Attached::open(&mut plane.stranger().await).await.is_err());
    let (_, key) = plane.ledger.create_key("laptop", 1).await.expect("a key");

    let log = log.text();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains(" audit: ")).collect();
    for wanted in [
        "the token's secret is wrong",
        "joined call=\"join\"",
        "was used by `strix`",
        "control characters",
        "refused call=\"attach\"",
    ] {
        assert!(audit.iter().any(|line| line.contains(wanted)), "{wanted} is missing in {audit:#?}");
    }
    assert!(audit.iter().all(|line| line.contains(" INFO ") && line.contains("127.0.0.1")), "{audit:#?}");
    assert!(!log.contains('\u{1b}'), "a peer cannot write control characters into the log");
    let key_secret = key.splitn(3, '_').nth(2).expect("three parts");
    for secret in [token.secret.as_str(), guessed.secret.as_str(), key_secret] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
