//! The ledger on its own: tokens and keys through their lives, and the file under bad conditions.

use mesh_core::id::MachineId;
use mesh_proto::identity::Role;
use router::ledger::{DEFAULT_TTL, LONGEST_TTL, Ledger, LedgerError, LedgerHandle, TokenRefusal, TokenState};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

const NOW: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

struct Scratch {
    folder: tempfile::TempDir,
    ledger: LedgerHandle,
}

fn open() -> Scratch {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ledger = Ledger::open(&folder.path().join("ledger.redb")).expect("a new ledger");
    Scratch { folder, ledger }
}

impl Scratch {
    fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.redb")
    }

    async fn reopen(self) -> Self {
        self.ledger.close().await;
        let ledger = Ledger::open(&self.folder.path().join("ledger.redb")).expect("the same ledger");
        Self { folder: self.folder, ledger }
    }
}

fn name(text: &str) -> MachineId {
    MachineId::new(text).expect("a valid name")
}

async fn token(ledger: &LedgerHandle) -> (String, String) {
    ledger.create_token(Role::Node, None, Duration::ZERO, NOW).await.expect("a token")
}

#[tokio::test]
async fn a_token_lives_an_hour_unless_told_otherwise_and_a_day_at_most() {
    let Scratch { ledger, .. } = open();
    token(&ledger).await;
    let rows = ledger.list_tokens(NOW).await.expect("a list");
    assert_eq!(rows[0].expires_unix_ms, NOW + HOUR_MS);
    assert_eq!(DEFAULT_TTL, Duration::from_secs(3_600));

    ledger.create_token(Role::Node, None, LONGEST_TTL, NOW).await.expect("exactly the limit");
    let error = ledger
        .create_token(Role::Node, None, LONGEST_TTL + Duration::from_millis(1), NOW)
        .await
        .expect_err("over the limit");
    assert!(error.to_string().contains("24 h at most"), "{error}");
}

#[tokio::test]
async fn no_token_makes_a_router() {
    let Scratch { ledger, .. } = open();
    let error =
        ledger.create_token(Role::Router, None, Duration::ZERO, NOW).await.expect_err("a router's token");
    assert!(matches!(error, LedgerError::RoleNotGranted { .. }), "{error}");
}

#[tokio::test]
async fn a_token_that_expires_now_is_expired() {
    let Scratch { ledger, .. } = open();
    let (id, secret) = token(&ledger).await;
    let refusal = ledger.redeem(&id, &secret, "a", [1; 32], NOW + HOUR_MS).await.expect_err("just over");
    assert!(matches!(refusal, TokenRefusal::Expired { ago: Duration::ZERO }), "{refusal}");
    ledger.redeem(&id, &secret, "a", [1; 32], NOW + HOUR_MS - 1).await.expect("just in time");
}

#[tokio::test]
async fn without_the_secret_nobody_learns_what_became_of_a_token() {
    let Scratch { ledger, .. } = open();
    let (id, secret) = token(&ledger).await;
    ledger.redeem(&id, &secret, "a", [1; 32], NOW).await.expect("a good join");
    let refusal = ledger.redeem(&id, "wrong", "a", [1; 32], NOW).await.expect_err("a wrong secret");
    assert!(matches!(refusal, TokenRefusal::WrongSecret), "{refusal}");
}

#[tokio::test]
async fn a_refused_token_can_still_be_used() {
    let Scratch { ledger, .. } = open();
    let (first_id, first_secret) = token(&ledger).await;
    ledger.redeem(&first_id, &first_secret, "strix", [1; 32], NOW).await.expect("the first machine");

    let (id, secret) = token(&ledger).await;
    for (bad, wrong_secret) in [("strix", false), ("not a name", false), ("spark", true)] {
        let presented = if wrong_secret { "guess" } else { secret.as_str() };
        ledger.redeem(&id, presented, bad, [2; 32], NOW).await.expect_err(bad);
    }
    let redeemed = ledger.redeem(&id, &secret, "spark", [2; 32], NOW).await.expect("nothing was spent");
    assert_eq!(redeemed.name, name("spark"));
}

#[tokio::test]
async fn a_token_for_a_name_replaces_its_key_and_an_unnamed_one_does_not() {
    let Scratch { ledger, .. } = open();
    let (id, secret) = token(&ledger).await;
    ledger.redeem(&id, &secret, "strix", [1; 32], NOW).await.expect("the first key");
    assert!(ledger.node_key_matches(&name("strix"), [1; 32]).await);

    let (id, secret) = token(&ledger).await;
    let refusal = ledger.redeem(&id, &secret, "strix", [2; 32], NOW).await.expect_err("another key");
    assert!(matches!(&refusal, TokenRefusal::NameTaken { name } if name == "strix"), "{refusal}");
    ledger.redeem(&id, &secret, "strix", [1; 32], NOW).await.expect("the same key may join again");

    let bound = ledger
        .create_token(Role::Node, Some(name("strix")), Duration::ZERO, NOW)
        .await
        .expect("a token for the name");
    let redeemed = ledger.redeem(&bound.0, &bound.1, "ignored", [2; 32], NOW).await.expect("the replacement");
    assert_eq!(redeemed.name, name("strix"));
    assert!(!ledger.node_key_matches(&name("strix"), [1; 32]).await, "the old key is out");
    assert!(ledger.node_key_matches(&name("strix"), [2; 32]).await);
}

#[tokio::test]
async fn an_operator_and_a_node_of_one_name_do_not_share_a_key() {
    let Scratch { ledger, .. } = open();
    let (id, secret) =
        ledger.create_token(Role::Operator, None, Duration::ZERO, NOW).await.expect("an operator's token");
    let redeemed = ledger.redeem(&id, &secret, "ada", [1; 32], NOW).await.expect("a good join");
    assert_eq!(redeemed.role, Role::Operator);
    assert!(!ledger.node_key_matches(&name("ada"), [1; 32]).await);
}

#[tokio::test]
async fn tokens_are_listed_with_their_state_and_forgotten_after_seven_days() {
    let Scratch { ledger, .. } = open();
    let used = token(&ledger).await;
    let expired = token(&ledger).await;
    let revoked = token(&ledger).await;
    ledger.redeem(&used.0, &used.1, "strix", [1; 32], NOW).await.expect("a good join");
    ledger.revoke_token(&revoked.0, NOW).await.expect("an open token");

    let later = NOW + 2 * HOUR_MS;
    let rows = ledger.list_tokens(later).await.expect("a list");
    let state = |id: &str| rows.iter().find(|row| row.id == id).map(|row| row.state);
    assert_eq!(state(&used.0), Some(TokenState::Used));
    assert_eq!(state(&expired.0), Some(TokenState::Expired));
    assert_eq!(state(&revoked.0), Some(TokenState::Revoked));
    let by = rows.iter().find(|row| row.id == used.0).and_then(|row| row.used_by.clone());
    assert_eq!(by.as_deref(), Some("strix"));

    let much_later = NOW + 8 * DAY_MS;
    ledger.create_token(Role::Node, None, Duration::ZERO, much_later).await.expect("a fresh token");
    assert_eq!(ledger.list_tokens(much_later).await.expect("a list").len(), 1);
    let refusal = ledger.redeem(&used.0, &used.1, "x", [1; 32], NOW).await.expect_err("forgotten");
    assert!(matches!(refusal, TokenRefusal::Unknown), "not only hidden but gone: {refusal}");
    assert!(ledger.node_key_matches(&name("strix"), [1; 32]).await, "the machine it let in stays");
}

#[tokio::test]
async fn only_an_open_token_can_be_revoked() {
    let Scratch { ledger, .. } = open();
    let (id, secret) = token(&ledger).await;
    ledger.redeem(&id, &secret, "strix", [1; 32], NOW).await.expect("a good join");
    let error = ledger.revoke_token(&id, NOW).await.expect_err("used");
    assert_eq!(error.to_string(), format!("token {id} is used already"));
    let error = ledger.revoke_token("?", NOW).await.expect_err("no such id");
    assert_eq!(error.to_string(), format!("no token has an id that starts with `?`; there are {id}"));
}

#[tokio::test]
async fn many_machines_racing_with_one_token_make_one_winner() {
    let Scratch { ledger, .. } = open();
    let (id, secret) = token(&ledger).await;
    let racers = (0..16_u8).map(|n| {
        let (ledger, id, secret) = (ledger.clone(), id.clone(), secret.clone());
        tokio::spawn(async move { ledger.redeem(&id, &secret, &format!("m{n}"), [n; 32], NOW).await.is_ok() })
    });
    let mut winners = 0;
    for racer in racers.collect::<Vec<_>>() {
        winners += usize::from(racer.await.expect("no panic"));
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_key_works_from_its_making_to_its_revocation() {
    let Scratch { ledger, .. } = open();
    let keys = ledger.keys();
    let (id, key) = ledger.create_key("laptop", NOW).await.expect("a key");
    assert!(key.starts_with(&format!("mk_{id}_")));
    assert_eq!(keys.borrow().check(&key).map(|found| found.name.clone()), Some("laptop".into()));

    assert_eq!(ledger.revoke_key(&id[..3]).await.expect("a prefix is enough"), id);
    assert!(keys.borrow().check(&key).is_none(), "refused as soon as the call returns");
    assert!(ledger.revoke_key(&id).await.is_err());
    assert!(ledger.create_key("two\nlines", NOW).await.is_err());
}

#[tokio::test]
async fn a_keys_last_use_is_known_at_once_and_written_by_the_minute() {
    let scratch = open();
    let (id, _) = scratch.ledger.create_key("laptop", NOW).await.expect("a key");
    scratch.ledger.key_used("nosuchid", NOW);
    for after in [1, 2, 50_000, 50_999] {
        scratch.ledger.key_used(&id, NOW + after);
    }
    let row = scratch.ledger.list_keys().await.expect("a list").remove(0);
    assert_eq!(row.last_used_unix_ms, Some(NOW + 50_000));

    let scratch = scratch.reopen().await;
    let row = scratch.ledger.list_keys().await.expect("a list").remove(0);
    assert_eq!(row.last_used_unix_ms, Some(NOW + 50_000), "closing writes what the minute held back");
}

#[tokio::test]
async fn everything_survives_a_reopen_and_only_hashes_are_on_disk() {
    let scratch = open();
    let (open_id, open_secret) = token(&scratch.ledger).await;
    let (used_id, used_secret) = token(&scratch.ledger).await;
    scratch.ledger.redeem(&used_id, &used_secret, "strix", [1; 32], NOW).await.expect("a good join");
    let (_, key) = scratch.ledger.create_key("laptop", NOW).await.expect("a key");

    let scratch = scratch.reopen().await;
    let ledger = &scratch.ledger;
    assert!(ledger.keys().borrow().check(&key).is_some());
    assert!(ledger.node_key_matches(&name("strix"), [1; 32]).await);
    let refusal = ledger.redeem(&used_id, &used_secret, "x", [1; 32], NOW).await.expect_err("used");
    assert!(matches!(&refusal, TokenRefusal::Used { by } if by == "strix"), "{refusal}");
    ledger.redeem(&open_id, &open_secret, "spark", [2; 32], NOW).await.expect("still open");

    let path = scratch.path();
    scratch.ledger.close().await;
    let raw = std::fs::read(&path).expect("the file");
    let holds = |text: &str| raw.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("laptop") && holds("strix"), "the search finds what is there");
    let key_secret = key.splitn(3, '_').nth(2).expect("three parts");
    for secret in [open_secret.as_str(), used_secret.as_str(), key_secret] {
        assert!(!holds(secret) && !holds(&secret[..16]), "a secret is on disk");
    }
}

#[tokio::test]
async fn the_file_is_for_its_owner_only_even_if_it_was_not() {
    let scratch = open();
    let path = scratch.path();
    let mode = |path: &PathBuf| std::fs::metadata(path).expect("the file").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let scratch = scratch.reopen().await;
    assert_eq!(mode(&scratch.path()), 0o600);
}

#[tokio::test]
async fn a_second_router_on_the_same_folder_is_told_so() {
    let scratch = open();
    let error = Ledger::open(&scratch.path()).err().expect("the file is locked");
    assert!(matches!(error, LedgerError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another router"), "{error}");
}

#[test]
fn a_folder_that_is_not_there_and_a_file_that_is_a_folder_are_told_by_path() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for path in [folder.path().join("missing/ledger.redb"), folder.path().to_owned()] {
        let error = Ledger::open(&path).err().expect("unusable");
        assert!(matches!(error, LedgerError::Unwritable { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_told_so_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ledger.redb");
    let text = b"dear diary, today I was mistaken for a database\n".repeat(200);
    std::fs::write(&path, &text).expect("a write");
    let error = Ledger::open(&path).err().expect("no ledger");
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).expect("the file"), text);
}

#[tokio::test]
async fn a_ledger_cut_short_or_overwritten_gives_an_error_and_no_panic() {
    let scratch = open();
    token(&scratch.ledger).await;
    let path = scratch.path();
    scratch.ledger.close().await;
    let whole = std::fs::read(&path).expect("the file");
    let mut headless = whole.clone();
    headless[..64].fill(0xff);
    for (case, bytes) in [
        ("half", whole[..whole.len() / 2].to_vec()),
        ("one page", whole[..4096].to_vec()),
        ("ten bytes", whole[..10].to_vec()),
        ("no header", headless),
    ] {
        std::fs::write(&path, bytes).expect("a write");
        let error = Ledger::open(&path).err().unwrap_or_else(|| panic!("{case} was opened"));
        assert!(matches!(error, LedgerError::Corrupt { .. }), "{case}: {error:?}");
    }
}

#[tokio::test]
async fn a_closed_ledger_says_so() {
    let scratch = open();
    let other = scratch.ledger.clone();
    scratch.ledger.close().await;
    let error = other.create_key("late", NOW).await.expect_err("closed");
    assert!(matches!(error, LedgerError::Closed), "{error}");
    other.key_used("whatever", NOW);
}

#[tokio::test]
async fn a_damaged_page_is_found_on_opening_and_never_in_the_middle_of_a_join() {
    let scratch = open();
    for _ in 0..30 {
        token(&scratch.ledger).await;
        scratch.ledger.create_key("laptop", NOW).await.expect("a key");
    }
    let path = scratch.path();
    scratch.ledger.close().await;
    let whole = std::fs::read(&path).expect("the file");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(1024) {
        let mut damaged = whole.clone();
        damaged[at..(at + 512).min(whole.len())].fill(0xa5);
        std::fs::write(&path, &damaged).expect("a write");
        match Ledger::open(&path) {
            Err(error) => {
                assert!(matches!(error, LedgerError::Corrupt { .. }), "at {at}: {error:?}");
                refused += 1;
            }
            // The page was free, or an older copy of it was whole.
            Ok(ledger) => {
                assert_eq!(ledger.list_tokens(NOW).await.expect("whole").len(), 30, "at {at}");
                assert_eq!(ledger.list_keys().await.expect("whole").len(), 30, "at {at}");
                token(&ledger).await;
                ledger.close().await;
            }
        }
    }
    assert!(refused > 5, "only {refused} pages mattered: the test damages nothing");
}
