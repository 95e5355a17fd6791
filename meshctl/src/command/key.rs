//! `meshctl key`: the keys with which clients reach the mesh.

use crate::cli::KeyCommand;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_proto::v1::{CreateKeyRequest, ListKeysRequest, RevokeReply, RevokeRequest};

/// A key's name is a label for people.
const LONGEST_NAME: usize = 64;

/// # Errors
/// `Usage` for a name that is none, else as the router answers.
pub(super) async fn run(command: KeyCommand, way: &Way, screen: &Screen) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { name } => {
            check(&name)?;
            let mut operators = way.dial().await?;
            let request = CreateKeyRequest { name };
            let reply = operators.call(|mut client| async move { client.create_key(request).await }).await?;
            if screen.is_json() {
                return screen.result(&render::json("mesh.key/v1", &reply, false));
            }
            screen.note("this key is shown once; a client sends it as `Authorization: Bearer KEY`\n");
            screen.result(&format!("{}\n", reply.key))
        }
        KeyCommand::List => {
            let mut operators = way.dial().await?;
            let reply = operators
                .call(|mut client| async move { client.list_keys(ListKeysRequest {}).await })
                .await?;
            if screen.is_json() {
                screen.result(&render::json("mesh.keys/v1", &reply, false))
            } else {
                screen.result(&render::access::keys(&reply, screen.look))
            }
        }
        KeyCommand::Revoke { id } => {
            let mut operators = way.dial().await?;
            let request = RevokeRequest { id: id.clone() };
            let RevokeReply {} =
                operators.call(|mut client| async move { client.revoke_key(request).await }).await?;
            if screen.is_json() {
                return screen.result(&render::json(
                    "mesh.revoked/v1",
                    &serde_json::json!({ "id": id }),
                    false,
                ));
            }
            screen.note(&format!("key {} is revoked\n", render::paint::printable(&id)));
            Ok(())
        }
    }
}

fn check(name: &str) -> Result<(), Failure> {
    let length = name.chars().count();
    if (1..=LONGEST_NAME).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    let why = match length {
        0 => "it is empty".to_owned(),
        1..=LONGEST_NAME => "it holds a character that cannot be printed".into(),
        _ => format!("it has {length} characters"),
    };
    Err(Failure::new(Kind::Usage, format!("`{shown}` is no name for a key: {why}"))
        .hint(format!("take 1 to {LONGEST_NAME} printable characters, as in `zed-laptop`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_are_short_labels() {
        assert_eq!(check("Zed on the laptop"), Ok(()));
        for name in ["", "a\nb", &"x".repeat(65)] {
            let failure = check(name).expect_err("no name");
            assert_eq!(failure.kind, Kind::Usage);
            assert!(failure.hints[0].contains("1 to 64 printable characters"), "{failure:?}");
        }
    }
}
